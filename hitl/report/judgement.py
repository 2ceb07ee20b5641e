"""What a round achieved, judge by judge: levels, paired gains, and the comparison with best-of-N and the last round."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from data.bootstrap import Interval, cluster_interval
from data.evaluation import MEASURES, ImageScore
from hitl.report.files import RoundFiles

Change = Literal["up", "down", "unclear", "unknown"]

FEW_PROMPTS = 10
"""Below so many prompts a percentile bootstrap is too narrow, and the report says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One way of judging a picture, and how to speak of it."""

    key: str
    name: str
    noun: str
    """In the middle of a sentence."""
    judge: str
    """Who says so, and what it looks at."""
    is_gold: bool
    """Whether no training step ever saw it. The learned reward is what training climbs: its rise proves nothing."""
    better: str
    worse: str
    """What is said of the pictures when it went up or down."""
    is_share: bool = False
    """Whether it lies in [0, 1] and is read as per cent."""


_KNOWN = (
    Measure(
        key="reward",
        name="Learned reward",
        noun="learned reward",
        judge="fitted on the ratings; what training climbs",
        is_gold=False,
        better="liked better by the learned reward",
        worse="liked less by the learned reward",
    ),
    Measure(
        key="correctness",
        name="Correctness",
        noun="correctness",
        judge="verifier, graded: how much is as asked",
        is_gold=True,
        better="closer to their prompts",
        worse="further from their prompts",
        is_share=True,
    ),
    Measure(
        key="exact",
        name="Exactly right",
        noun="exact verdicts",
        judge="verifier, strict: nothing wrong at all",
        is_gold=True,
        better="exactly right more often",
        worse="exactly right less often",
        is_share=True,
    ),
    Measure(
        key="taste",
        name="Taste",
        noun="taste",
        judge="fixed rule: large shapes, light ground",
        is_gold=True,
        better="closer to the stated taste",
        worse="further from the stated taste",
    ),
)
BY_KEY = {measure.key: measure for measure in _KNOWN if measure.key in MEASURES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One measure on one split (or one task of it)."""

    measure: Measure
    split: str
    reference: Interval | None
    policy: Interval | None
    best: Interval | None
    """Best-of-N of the reference."""
    gain: Interval
    """Policy minus reference, paired by prompt and seed."""
    best_gain: Interval | None = None
    """Best-of-N minus the reference, paired by prompt."""
    over_best: Interval | None = None
    """Policy minus best-of-N, paired by prompt."""
    since_last: Interval | None = None
    """Policy minus the policy of the round before, paired by prompt and seed. Gold only: each round's reward model is
    another ruler.
    """
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


def judge_round(files: RoundFiles, previous: RoundFiles | None = None) -> dict[str, list[Judged]]:
    """Every measure that the round was judged by, split by split, the held-out one first."""
    judged = {}
    for split in files.splits:
        found = [_judge(files, previous, split, measure) for measure in BY_KEY.values()]
        judged[split] = [each for each in found if each is not None]
    return judged


def judge_tasks(files: RoundFiles, split: str, key: str) -> dict[str, Judged]:
    """One measure on each task of a split that has it."""
    judged = {}
    for task in files.tasks(split):
        gain = files.gain(split, key, task)
        if gain is not None:
            judged[task] = Judged(
                measure=BY_KEY[key],
                split=split,
                reference=files.subject("reference", split, key, task),
                policy=files.subject("policy", split, key, task),
                best=files.subject(_best(files), split, key, task),
                gain=gain,
                spread=spread(files, split, key),
            )
    return judged


def spread(files: RoundFiles, split: str, key: str) -> float | None:
    """Standard deviation of the reference's pictures on that split; of all its pictures where scores are not there."""
    values = [
        value
        for score in files.scores
        if (score.subject, score.split) == ("reference", split) and (value := _value(score, key)) is not None
    ]
    found = float(np.std(values)) if values else None
    if found is None and key == "taste":
        found = files.summary.get("reference_taste_sd")
    return found if found and math.isfinite(found) and found > 1e-9 else None


def _judge(files: RoundFiles, previous: RoundFiles | None, split: str, measure: Measure) -> Judged | None:
    key = measure.key
    gain = files.gain(split, key)
    if gain is None:
        return None
    scores = [score for score in files.scores if score.split == split]
    by_subject = {name: [score for score in scores if score.subject == name] for name in ("policy", "reference")}
    best = [score for score in scores if score.subject == _best(files)]
    last: list[ImageScore] = []
    if previous is not None and measure.is_gold:
        last = [score for score in previous.scores if (score.split, score.subject) == (split, "policy")]
    shortfall = difference(by_subject["reference"], best, key, pair=_prompt)
    return Judged(
        measure=measure,
        split=split,
        reference=files.subject("reference", split, key),
        policy=files.subject("policy", split, key),
        best=files.subject(_best(files), split, key),
        gain=gain,
        best_gain=None if shortfall is None else _negative(shortfall),
        over_best=difference(by_subject["policy"], best, key, pair=_prompt),
        since_last=difference(by_subject["policy"], last, key, pair=_prompt_and_seed),
        spread=spread(files, split, key),
    )


def difference(
    new: Sequence[ImageScore], old: Sequence[ImageScore], key: str, *, pair: Callable[[ImageScore], Hashable]
) -> Interval | None:
    """Mean of new minus old over the pairs, with an interval over prompts; None when nothing pairs up."""
    before = {pair(score): value for score in old if (value := _value(score, key)) is not None}
    pairs = [
        (value - before[pair(score)], score.prompt_id)
        for score in new
        if (value := _value(score, key)) is not None and pair(score) in before
    ]
    if not pairs:
        return None
    return cluster_interval([each for each, _ in pairs], [prompt for _, prompt in pairs])


def _prompt(score: ImageScore) -> Hashable:
    return score.prompt_id


def _prompt_and_seed(score: ImageScore) -> Hashable:
    return score.prompt_id, score.index


def _value(score: ImageScore, key: str) -> float | None:
    value = getattr(score, key)
    return value if value is not None and math.isfinite(value) else None


def _best(files: RoundFiles) -> str:
    return f"best_of_{files.best_of}"


def _negative(found: Interval) -> Interval:
    return Interval(-found.mean, -found.high, -found.low, found.n, found.clusters)
