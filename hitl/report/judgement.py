"""What a round achieved, judge by judge: levels, paired gains, and the comparison with best-of-N and the last round."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from data.bootstrap import LEAST_CLUSTERS, Interval
from data.evaluation import DIVERSITY, KL, POLICY, PREVIOUS, REFERENCE, REWARD, ImageScore, over_prompts
from hitl.report.files import RoundFiles

Change = Literal["up", "down", "unclear", "unknown"]
Kind = Literal["learned", "gold", "other", "model"]
"""What training climbs; what no training step ever saw; a reward that this training did not use; and what is said of a
model, not of a picture, and is neither good nor bad by itself.
"""

FEW_PROMPTS = 10
"""Below so many prompts an interval is wide, and the report says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One way of judging a picture, and how to speak of it."""

    key: str
    name: str
    noun: str
    """In the middle of a sentence."""
    judge: str
    """Who says so, and what it looks at."""
    kind: Kind
    better: str
    worse: str
    """What is said of the pictures when it went up or down."""
    is_share: bool = False
    """Whether it lies in [0, 1] and is read as per cent."""
    unit: str = ""
    has_direction: bool = True
    """Whether more of it is better."""

    @property
    def is_gold(self) -> bool:
        return self.kind == "gold"


_KNOWN = (
    Measure(
        key="reward",
        name="Learned reward",
        noun="learned reward",
        judge="fitted on the ratings; what training climbs",
        kind="learned",
        better="liked better by the learned reward",
        worse="liked less by the learned reward",
    ),
    Measure(
        key="correctness",
        name="Correctness",
        noun="correctness",
        judge="by a program: how much is as asked",
        kind="gold",
        better="closer to their prompts",
        worse="further from their prompts",
        is_share=True,
    ),
    Measure(
        key="exact",
        name="Exactly right",
        noun="exact verdicts",
        judge="by a program: nothing wrong at all",
        kind="gold",
        better="exactly right more often",
        worse="exactly right less often",
        is_share=True,
    ),
    Measure(
        key="taste",
        name="Taste",
        noun="taste",
        judge="by rule: large shapes, light ground",
        kind="gold",
        better="closer to the stated taste (large shapes, light ground)",
        worse="further from the stated taste (large shapes, light ground)",
    ),
)
_OTHERS = (
    Measure(
        key="clip_score",
        name="CLIP score",
        noun="CLIP score",
        judge="zero-shot CLIP: how well picture and prompt go together",
        kind="other",
        better="closer to their prompts by CLIP",
        worse="further from their prompts by CLIP",
    ),
    Measure(
        key="jpeg_size",
        name="JPEG size",
        noun="JPEG size",
        judge="kB of the file: detail, or noise; neither is better",
        kind="other",
        better="larger as JPEG files",
        worse="smaller as JPEG files",
        has_direction=False,
    ),
)
_OF_A_MODEL = (
    Measure(
        key=DIVERSITY,
        name="Diversity",
        noun="diversity",
        judge="distance within a prompt, 1 − cosine",
        kind="model",
        better="more varied",
        worse="less varied",
        has_direction=False,
    ),
    Measure(
        key=KL,
        name="KL to the reference",
        noun="KL",
        judge="of a whole trajectory: all its steps with noise, as training draws",
        kind="model",
        better="further from the reference’s",
        worse="closer to the reference’s",
        unit="nats",
        has_direction=False,
    ),
)
BY_KEY = {measure.key: measure for measure in (*_KNOWN, *_OTHERS, *_OF_A_MODEL)}


def measures_of(files: RoundFiles) -> list[Measure]:
    """All that a round was judged by: the learned reward, gold, other rewards, and what is said of the model."""
    others = [_reward_of(name, told) for name, told in files.judges.items()]
    return [*_KNOWN, *others, *_OF_A_MODEL]


def _reward_of(name: str, told: Mapping[str, Any]) -> Measure:
    """A reward beside the learned one; where the policy was trained on it, its rise proves nothing either."""
    plain = name.replace("_", " ")
    measure = BY_KEY.get(name) or Measure(
        key=name,
        name=plain.capitalize(),
        noun=plain,
        judge=f"the reward {name}",
        kind="other",
        better=f"scored higher by {name}",
        worse=f"scored lower by {name}",
    )
    if told.get("is_trained_on"):
        return replace(measure, kind="learned", judge=f"{measure.judge}; trained on")
    return measure


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One measure on one split (or one task of it)."""

    measure: Measure
    split: str
    reference: Interval | None
    policy: Interval | None
    best: Interval | None
    """Best-of-N of the reference."""
    previous: Interval | None = None
    """The policy of the round before."""
    gain: Interval
    """Policy minus reference, paired by prompt and seed."""
    best_gain: Interval | None = None
    """Best-of-N minus the reference, paired by prompt."""
    over_best: Interval | None = None
    """Policy minus best-of-N, paired by prompt."""
    since_last: Interval | None = None
    """Policy minus the policy of the round before, paired by prompt and seed, by this round's reward model."""
    spread: float | None = None
    """Standard deviation of the reference's pictures; None when unknown or 0."""

    @property
    def change(self) -> Change:
        return change(self.gain)


def change(gain: Interval | None) -> Change:
    """What an interval of a difference says. One that touches 0 says nothing about the direction."""
    if gain is None or not (math.isfinite(gain.low) and math.isfinite(gain.high)):
        return "unknown"
    if gain.low > 0:
        return "up"
    return "down" if gain.high < 0 else "unclear"


def independent(found: Sequence[Judged]) -> list[Judged]:
    """Those whose rise means something: gold, or where there is none the rewards that training did not use."""
    gold = [each for each in found if each.measure.is_gold]
    return gold or [each for each in found if each.measure.kind == "other" and each.measure.has_direction]


def learned(found: Sequence[Judged]) -> Judged | None:
    """The reward that was fitted on the ratings."""
    return next((each for each in found if each.measure.key == REWARD), None)


def judge_round(files: RoundFiles) -> dict[str, list[Judged]]:
    """Every measure that the round was judged by, split by split, the held-out one first."""
    judged = {}
    for split in files.splits:
        found = [_judge(files, split, measure) for measure in measures_of(files)]
        judged[split] = [each for each in found if each is not None]
    return judged


def judge_tasks(files: RoundFiles, split: str, key: str, measure: Measure | None = None) -> dict[str, Judged]:
    """One measure on each task of a split that has it; `measure` where it is none of `BY_KEY`."""
    judged = {}
    for task in files.tasks(split):
        gain = files.gain(split, key, task)
        if gain is not None:
            judged[task] = Judged(
                measure=measure or BY_KEY[key],
                split=split,
                reference=files.subject(REFERENCE, split, key, task),
                policy=files.subject(POLICY, split, key, task),
                best=files.subject(_best(files), split, key, task),
                gain=gain,
                spread=spread(files, split, key),
            )
    return judged


def falls(files: RoundFiles) -> tuple[list[tuple[str, Judged]], int]:
    """What clearly fell by gold, or without gold by rewards that training did not use, on a split or on one task of it
    (else the task is empty), the largest in standard deviations first; and among how many that was looked for.
    """
    looked: list[tuple[str, Judged]] = []
    for split, found in judge_round(files).items():
        for each in independent(found):
            looked.append(("", each))
            looked += judge_tasks(files, split, each.measure.key, each.measure).items()
    known = [(task, each) for task, each in looked if each.gain.clusters >= LEAST_CLUSTERS and each.spread]
    fell = [(task, each) for task, each in known if each.change == "down"]
    return sorted(fell, key=lambda one: one[1].gain.mean / (one[1].spread or 1.0)), len(known)


def spread(files: RoundFiles, split: str, key: str) -> float | None:
    """Standard deviation of the reference's pictures on that split, of those that the gain is of; of all its pictures
    where scores are not there.
    """
    if key in (DIVERSITY, KL):
        return None
    values = [value for score in files.pictures(REFERENCE, split) if (value := _value(score, key)) is not None]
    found = float(np.std(values)) if values else None
    if found is None and key == "taste":
        found = files.summary.get("reference_taste_sd")
    return found if found and math.isfinite(found) and found > 1e-9 else None


def _judge(files: RoundFiles, split: str, measure: Measure) -> Judged | None:
    key = measure.key
    gain = files.gain(split, key)
    if gain is None:
        return None
    reference, policy, best = (files.pictures(name, split) for name in (REFERENCE, POLICY, _best(files)))
    shortfall = _over_best(reference, best, key)
    return Judged(
        measure=measure,
        split=split,
        reference=files.subject(REFERENCE, split, key),
        policy=files.subject(POLICY, split, key),
        best=files.subject(_best(files), split, key),
        previous=files.subject(PREVIOUS, split, key),
        gain=gain,
        best_gain=None if shortfall is None else _negative(shortfall),
        over_best=_over_best(policy, best, key),
        since_last=files.since_previous(split, key),
        spread=spread(files, split, key),
    )


def _over_best(scores: Sequence[ImageScore], best: Sequence[ImageScore], key: str) -> Interval | None:
    """Mean of scores less their prompt's best, with an interval over prompts; None where there is no best."""
    of_prompt = {score.prompt_id: value for score in best if (value := _value(score, key)) is not None}
    pairs = [
        (value - of_prompt[score.prompt_id], score.prompt_id)
        for score in scores
        if (value := _value(score, key)) is not None and score.prompt_id in of_prompt
    ]
    return over_prompts(pairs) if pairs else None


def _value(score: ImageScore, key: str) -> float | None:
    value = score.values.get(key)
    return value if value is not None and math.isfinite(value) else None


def _best(files: RoundFiles) -> str:
    return f"best_of_{files.best_of}"


def _negative(found: Interval) -> Interval:
    return Interval(-found.mean, -found.high, -found.low, found.n, found.clusters)
