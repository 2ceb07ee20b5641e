"""From scores of single images to what a round achieved: means and paired gains, with intervals over prompts."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from data.bootstrap import cluster_interval

MEASURES = ("reward", "correctness", "exact", "taste")
"""`reward` is the learned one; the others are gold: they exist for prompts of the starter world alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageScore:
    """What one image of one subject was given."""

    subject: str
    """`reference`, `policy`, or `best_of_N` of the reference."""
    prompt_id: str
    prompt: str
    task: str
    split: str
    index: int
    """Which image of the prompt; the same index is the same seed for every subject."""
    reward: float
    correctness: float | None = None
    exact: float | None = None
    taste: float | None = None


def best_of(scores: Sequence[ImageScore], n: int) -> list[ImageScore]:
    """For each prompt the image with the highest learned reward among its first `n`: best-of-N without training."""
    by_prompt: dict[str, list[ImageScore]] = defaultdict(list)
    for score in scores:
        if score.index < n:
            by_prompt[score.prompt_id].append(score)
    return [
        ImageScore(**asdict(max(group, key=lambda score: score.reward)) | {"subject": f"best_of_{n}", "index": 0})
        for group in by_prompt.values()
    ]


def summarise(scores: Sequence[ImageScore]) -> dict[str, Any]:
    """Means by subject, split and task, and the policy's paired gains over the reference.

    Every number is an interval (`data.bootstrap.Interval` as a dict): 95 %, resampled over prompts.
    """
    subjects = list(dict.fromkeys(score.subject for score in scores))
    splits = list(dict.fromkeys(score.split for score in scores))
    tasks = list(dict.fromkeys(score.task for score in scores))
    reference_taste = [s.taste for s in scores if s.subject == "reference" and s.taste is not None]
    return {
        "subjects": {
            subject: {
                split: {
                    "all": _means(s for s in scores if (s.subject, s.split) == (subject, split)),
                    "tasks": {
                        task: _means(s for s in scores if (s.subject, s.split, s.task) == (subject, split, task))
                        for task in tasks
                    },
                }
                for split in splits
            }
            for subject in subjects
        },
        "gains": {
            split: {
                "all": _gains([s for s in scores if s.split == split]),
                "tasks": {task: _gains([s for s in scores if (s.split, s.task) == (split, task)]) for task in tasks},
            }
            for split in splits
        },
        "reference_taste_sd": float(np.std(reference_taste)) if reference_taste else None,
    }


def _means(scores: Iterable[ImageScore]) -> dict[str, Any]:
    chosen = list(scores)
    result = {}
    for measure in MEASURES:
        known = [(getattr(score, measure), score.prompt_id) for score in chosen if getattr(score, measure) is not None]
        if known:
            result[measure] = cluster_interval([value for value, _ in known], [prompt for _, prompt in known]).to_dict()
    return result


def _gains(scores: Sequence[ImageScore]) -> dict[str, Any]:
    """Policy minus reference on the same prompt and seed."""
    before = {(s.prompt_id, s.index): s for s in scores if s.subject == "reference"}
    pairs = [
        (before[s.prompt_id, s.index], s) for s in scores if s.subject == "policy" and (s.prompt_id, s.index) in before
    ]
    result = {}
    for measure in MEASURES:
        known = [
            (getattr(new, measure) - getattr(old, measure), new.prompt_id)
            for old, new in pairs
            if getattr(new, measure) is not None and getattr(old, measure) is not None
        ]
        if known:
            result[measure] = cluster_interval([gain for gain, _ in known], [prompt for _, prompt in known]).to_dict()
    return result
