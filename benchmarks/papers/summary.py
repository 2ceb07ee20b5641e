"""From the scores of single images to what an experiment says: paired gains, with intervals over prompts and seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.papers.guarded import verdicts
from benchmarks.papers.judging import judged_rows
from benchmarks.papers.plan import ASKED, Training
from data.bootstrap import cluster_interval, interval
from data.world.captions import TASKS

SPLITS = ("train", "held_out")
MEASURES = ("reward", "exact", "correctness", "taste", "clip")
IN_DEVIATIONS = ("reward", "taste")
GROUPS: Mapping[str, Sequence[str]] = {"asked": ASKED, **{task: (task,) for task in TASKS}}
"""Which tasks' prompts a number is of: DPOK's four together, and each task alone."""


def summarise(
    arms: Mapping[str, Sequence[Training]],
    results: Mapping[str, Mapping[str, Any]],
    references: Mapping[str, Mapping[str, Sequence[float]]],
) -> dict[str, Any]:
    """Of each arm, whose trainings differ by their seed alone: what it gained on the reference.

    `results` and `references` (scores of the reference's judged images) are by the trainings' keys. A gain is an
    image's score less that of the reference's image from the same prompt and seed; reward and taste in standard
    deviations of the reference's judged images. `over_seeds` is Student's t interval of the seeds' means, `by_seed`
    each seed's interval over prompts, both 95 %. Where the guard looked, `guard` says of each seed when it would have
    been stopped, and `guarded` has the gains of the policies that are kept then. A training that failed has no gains
    and is listed.
    """
    return {name: _arm(runs, results, references[runs[0].key]) for name, runs in arms.items()}


def reference_summary(run: Training, scores: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The reference itself: by split and group of tasks, each measure's interval over prompts; taste as it is."""
    found: dict[str, Any] = {}
    for split in SPLITS:
        for group, tasks in GROUPS.items():
            rows, clusters = _rows(run, split, tasks)
            found.setdefault(split, {})[group] = {
                measure: _plain(cluster_interval(np.array(scores[measure])[rows], clusters)) for measure in MEASURES
            }
    return found


def best_of_summary(run: Training, scores: Mapping[str, Sequence[float]], most: int) -> dict[str, Any]:
    """What the reference's best of 2, 4, ... `most` images by the run's reward has more than a usual one of its prompt:
    by number and split, of DPOK's four tasks, each measure's interval over prompts. Scores are of `most` images of each
    prompt.
    """
    found: dict[str, Any] = {}
    numbers = [2**i for i in range(1, most.bit_length()) if 2**i <= most]
    for n in numbers:
        for split in SPLITS:
            rows, clusters = _rows(run, split, ASKED)
            by_prompt = rows.reshape(-1, most)
            best = by_prompt[np.arange(len(by_prompt)), np.array(scores["reward"])[by_prompt[:, :n]].argmax(axis=1)]
            for measure in MEASURES:
                values = np.array(scores[measure])
                scale = float(values.std()) if measure in IN_DEVIATIONS else 1.0
                gain = (values[best] - values[by_prompt].mean(axis=1)) / scale
                known = _plain(cluster_interval(gain, clusters[::most]))
                found.setdefault(str(n), {}).setdefault(split, {})[measure] = known
    return found


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Mean and Student's t interval of one number from each seed."""
    return _plain(interval(np.array(values, float), np.arange(len(values)), seed=0))


def _arm(
    runs: Sequence[Training], results: Mapping[str, Mapping[str, Any]], reference: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    whole = [results[run.key] for run in runs]
    done = [found for found in whole if "failed" not in found]
    found: dict[str, Any] = {
        "training": {name: value for name, value in asdict(runs[0]).items() if name != "seed"},
        "queries": runs[0].queries,
        "failed": [each["failed"] for each in whole if "failed" in each],
        "looks": [],
        "gains": {},
    }
    if not done:
        return found
    found["seconds"] = round(float(np.mean([each["epochs"][-1]["seconds"] for each in done])), 1)
    for looks in zip(*(each["looks"] for each in done), strict=True):
        found["looks"].append(
            {
                **{name: looks[0][name] for name in ("epoch", "queries")},
                "seconds": round(float(np.mean([look["seconds"] for look in looks])), 1),
                "nats": over_seeds([look["nats"] for look in looks]),
                "gains": {split: _gains(runs[0], looks, reference, split, ASKED) for split in SPLITS},
            }
        )
    last = [each["looks"][-1] for each in done]
    for split in SPLITS:
        found["gains"][split] = {
            group: _gains(runs[0], last, reference, split, tasks) for group, tasks in GROUPS.items()
        }
    if runs[0].guard_looks:
        found |= _guarded(runs[0], done, reference)
    return found


def _guarded(
    run: Training, done: Sequence[Mapping[str, Any]], reference: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """As `_arm` tells of the last policies, of those that the guard keeps; and after each look, of those it would have
    then: a training that was stopped stays where it is."""
    said = [verdicts([each["guard_start"], *(look["guard"] for look in each["looks"])]) for each in done]
    untrained = {"scores": reference}
    after = []
    for number, look in enumerate(done[0]["looks"]):
        kept = []
        for each, verdict in zip(done, said, strict=True):
            is_over = 0 < verdict["stopped"] <= look["epoch"] or number == len(each["looks"]) - 1
            epoch = verdict["kept"] if is_over else look["epoch"]
            kept.append(next((one for one in each["looks"] if one["epoch"] == epoch), untrained))
        gains = {split: _gains(run, kept, reference, split, ASKED) for split in SPLITS}
        after.append({"epoch": look["epoch"], "queries": look["queries"], "gains": gains})
    return {"guard": said, "guarded": after}


def _gains(
    run: Training,
    looks: Sequence[Mapping[str, Any]],
    reference: Mapping[str, Sequence[float]],
    split: str,
    tasks: Sequence[str],
) -> dict[str, Any]:
    rows, clusters = _rows(run, split, tasks)
    found = {}
    for measure in MEASURES:
        before = np.array(reference[measure])
        scale = float(before.std()) if measure in IN_DEVIATIONS else 1.0
        each = [
            cluster_interval((np.array(look["scores"][measure]) - before)[rows] / scale, clusters) for look in looks
        ]
        found[measure] = {
            "over_seeds": over_seeds([seed.mean for seed in each]),
            "by_seed": [_plain(seed) for seed in each],
        }
    return found


def _rows(run: Training, split: str, tasks: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Which judged images are of these, and their prompts."""
    judged = judged_rows(run.judged)
    rows = [i for i, (prompt, _) in enumerate(judged) if prompt.split == split and prompt.task in tasks]
    return np.array(rows, int), [judged[i][0].text for i in rows]


def _plain(found: Any) -> dict[str, Any]:
    """An interval for JSON, which knows no nan."""
    return {
        key: value if isinstance(value, int) else None if math.isnan(value) else round(value, 4)
        for key, value in found.to_dict().items()
    }
