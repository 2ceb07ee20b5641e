"""From scores of single images to what a round achieved: means and paired gains, with intervals over prompts."""

import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from data.bootstrap import Interval, interval
from data.workspace import write_atomically

REWARD = "reward"
"""The measure that is the learned reward; every other is a judge that was not fitted on the ratings."""
GOLD = ("correctness", "exact", "taste")
"""Measures that exist for prompts of the starter world alone, and that no training step ever sees."""
DIVERSITY, KL = "diversity", "kl"
_OF_A_MODEL = (DIVERSITY, KL)
"""What is said of a model and not of a picture: the best picture of four has neither."""

REFERENCE, PREVIOUS, POLICY = "reference", "previous", "policy"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageScore:
    """What one image of one subject was given."""

    subject: str
    """`reference`, `previous` (the policy that the round started from), `policy`, or `best_of_N` of the reference."""
    prompt_id: str
    prompt: str
    task: str
    split: str
    index: int
    """Which image of the prompt; the same index is the same seed for every subject."""
    values: Mapping[str, float] = field(default_factory=dict)
    """By measure; one that has nothing to say of this image is not there."""


_IDENTITY = ("subject", "prompt_id", "prompt", "task", "split", "index")


def write_scores(path: Path, scores: Sequence[ImageScore]) -> None:
    """A Parquet table with a column for each measure, null where it has nothing to say.

    Raises:
        WorkspaceError: the disk is full, or the folder cannot be written.
    """
    columns: dict[str, list[Any]] = {name: [getattr(score, name) for score in scores] for name in _IDENTITY}
    columns |= {name: [score.values.get(name) for score in scores] for name in measures_of(scores)}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    write_atomically(path, buffer.getvalue())


def read_scores(path: Path) -> list[ImageScore]:
    """What `write_scores` wrote, in this version or an earlier one.

    Raises:
        OSError, KeyError, ArrowException: it is no such file.
    """
    return [
        ImageScore(
            **{name: row[name] for name in _IDENTITY},
            values={name: float(each) for name, each in row.items() if name not in _IDENTITY and each is not None},
        )
        for row in pq.read_table(path).to_pylist()
    ]


def best_of(scores: Sequence[ImageScore], n: int) -> list[ImageScore]:
    """For each prompt the image with the highest learned reward among its first `n`: best-of-N without training."""
    by_prompt: dict[str, list[ImageScore]] = defaultdict(list)
    for score in scores:
        if score.index < n:
            by_prompt[score.prompt_id].append(score)
    found = []
    for group in by_prompt.values():
        best = max(group, key=lambda score: score.values[REWARD])
        values = {name: each for name, each in best.values.items() if name not in _OF_A_MODEL}
        found.append(replace(best, subject=f"best_of_{n}", index=0, values=values))
    return found


def distances_within(features: Float[np.ndarray, "batch width"], prompts: Sequence[str]) -> Float[np.ndarray, " batch"]:
    """Of each picture the mean distance, 1 - cosine, to the others of its prompt; nan where it is the only one.

    Their mean over a prompt's pictures is the mean over its pairs, whatever their number: 0 is a prompt whose pictures
    are all alike to these features.
    """
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    _, prompt = np.unique(np.array(prompts), return_inverse=True)
    found = np.full(len(features), np.nan)
    for each in range(int(prompt.max(initial=-1)) + 1):
        rows = np.flatnonzero(prompt == each)
        if len(rows) > 1:
            cosines = unit[rows] @ unit[rows].T
            found[rows] = 1 - (cosines.sum(axis=1) - cosines.diagonal()) / (len(rows) - 1)
    return found


def over_prompts(values: Sequence[tuple[float, str]]) -> Interval:
    """The mean of values, each with its prompt, and its 95 % interval over prompts: `data.bootstrap.interval`."""
    return interval(np.array([value for value, _ in values]), np.array([prompt for _, prompt in values]), seed=0)


def measures_of(scores: Iterable[ImageScore]) -> list[str]:
    """All that were measured, in order of arrival."""
    return list(dict.fromkeys(name for score in scores for name in score.values))


def summarise(scores: Sequence[ImageScore]) -> dict[str, Any]:
    """Means by subject, split and task; the policy's paired gains over the reference, and over the previous policy.

    Every number is an interval (`data.bootstrap.Interval` as a dict): 95 %, over prompts.
    """
    subjects = list(dict.fromkeys(score.subject for score in scores))
    splits = list(dict.fromkeys(score.split for score in scores))
    reference_taste = [s.values["taste"] for s in scores if s.subject == REFERENCE and "taste" in s.values]
    return {
        "subjects": {
            subject: {
                split: _by_task([s for s in scores if (s.subject, s.split) == (subject, split)], _means)
                for split in splits
            }
            for subject in subjects
        },
        "gains": {split: _by_task([s for s in scores if s.split == split], _gains) for split in splits},
        "since_previous": {
            split: _by_task([s for s in scores if s.split == split], lambda part: _gains(part, PREVIOUS))
            for split in splits
            if PREVIOUS in subjects
        },
        "reference_taste_sd": float(np.std(reference_taste)) if reference_taste else None,
    }


def _by_task(scores: Sequence[ImageScore], found: Any) -> dict[str, Any]:
    tasks = dict.fromkeys(score.task for score in scores)
    return {
        "all": found(scores),
        "tasks": {task: found([score for score in scores if score.task == task]) for task in tasks},
    }


def _means(scores: Sequence[ImageScore]) -> dict[str, Any]:
    result = {}
    for measure in measures_of(scores):
        known = [(score.values[measure], score.prompt_id) for score in scores if measure in score.values]
        result[measure] = over_prompts(known).to_dict()
    return result


def _gains(scores: Sequence[ImageScore], over: str = REFERENCE) -> dict[str, Any]:
    """Policy minus another subject on the same prompt and seed."""
    before = {(s.prompt_id, s.index): s.values for s in scores if s.subject == over}
    pairs = [
        (before[s.prompt_id, s.index], s) for s in scores if s.subject == POLICY and (s.prompt_id, s.index) in before
    ]
    result = {}
    for measure in measures_of(score for _, score in pairs):
        known = [
            (new.values[measure] - old[measure], new.prompt_id)
            for old, new in pairs
            if measure in new.values and measure in old
        ]
        if known:
            result[measure] = over_prompts(known).to_dict()
    return result
