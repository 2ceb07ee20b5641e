"""The reward model of one round of a training in rounds: drawn by the policy, rated, fitted on all answers so far."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.papers.judging import kept
from benchmarks.papers.plan import RatedTraining
from benchmarks.papers.rewards import BATCH, GUIDANCE, STEPS, answers, image_id, looked_at, random_pairs
from data.task_policies import Candidate, UncertainTasks, choose
from data.workspace import write_atomically
from reward_models.config import RewardFitConfig
from reward_models.fit import fit_reward
from reward_models.rewards.clip_head import ClipHead
from rl.families.family import Family
from rl.rollout import draw


def reward_of_round(run: RatedTraining, number: int, texts: Sequence[str], family: Family, folder: Path) -> ClipHead:
    """Fit it, or load what was fitted before a kill. The family is the policy of the round before; without one, the
    reference. `texts` are the prompts that images are drawn of."""
    here = folder / f"round-{number}"
    if not (here / "reward" / "fit.json").exists():
        _rate(run, number, texts, family, folder)
        rows = [row for each in range(1, number + 1) for row in _rows(folder, each)]
        pictures = {each: kept(folder / f"round-{each}" / "rated.npz", _nothing) for each in range(1, number + 1)}
        drawn = [text for text in texts for _ in range(run.ratings.images_per_prompt)]
        fit_reward(
            rows,
            lambda name: _picture(pictures, name),
            RewardFitConfig(weigh_raters=run.ratings.weigh_raters),
            folder / "features",
            here / "reward",
            reference_images=[(image_id(i, number), text) for i, text in enumerate(drawn)],
            device=str(family.device),
        )
    return ClipHead.load(here / "reward", device=family.device, pessimism=run.pessimism)


def _rate(run: RatedTraining, number: int, texts: Sequence[str], family: Family, folder: Path) -> None:
    here, members = folder / f"round-{number}", run.ratings.images_per_prompt
    drawn = [text for text in texts for _ in range(members)]

    def images() -> np.ndarray:
        seeds = [("papers", run.seed, "rated", number, i) for i in range(len(drawn))]
        found = draw(family, drawn, steps=STEPS, guidance=GUIDANCE, seeds=seeds, batch_size=BATCH)
        return found.permute(0, 2, 3, 1).numpy()

    pictures = kept(here / "rated.npz", images)
    count = run.ratings.count * number // run.rounds - run.ratings.count * (number - 1) // run.rounds
    if run.uncertain and number > 1:
        pairs = _unsure_pairs(run, number, pictures, drawn, count, folder)
    else:
        pairs = random_pairs(count, len(texts), members, _seed_of(run.seed, number))
    rows = answers(replace(run.ratings, seed=run.seed), drawn, looked_at(pictures, drawn), pairs, number)
    write_atomically(here / "answers.json", json.dumps(rows).encode())


def _unsure_pairs(
    run: RatedTraining, number: int, pictures: np.ndarray, drawn: Sequence[str], count: int, folder: Path
) -> list[tuple[int, int]]:
    """By how unsure the last reward model is of each difference, its images' errors taken as independent."""
    import torch

    last = ClipHead.load(folder / f"round-{number - 1}" / "reward")
    with torch.no_grad():
        _, deviation = last.with_deviation(torch.from_numpy(pictures).permute(0, 3, 1, 2), drawn)
    variance, members = deviation.square().tolist(), run.ratings.images_per_prompt
    candidates = [
        Candidate(prompt_id=drawn[a], image_ids=(str(a), str(b)), uncertainty=variance[a] + variance[b])
        for start in range(0, len(drawn), members)
        for a, b in combinations(range(start, start + members), 2)
    ]
    chance = random.Random(_seed_of(run.seed, number))
    chosen: list[tuple[int, int]] = []
    while len(chosen) < count:  # a pair may be asked about again, of another rater
        found = choose(UncertainTasks(), candidates, count - len(chosen), chance)
        chosen += [(int(a), int(b)) for a, b in (each.candidate.image_ids for each in found)]
    return chosen


def _rows(folder: Path, number: int) -> list[dict[str, Any]]:
    return json.loads((folder / f"round-{number}" / "answers.json").read_text())


def _picture(pictures: Mapping[int, np.ndarray], name: str) -> np.ndarray:
    number, _, index = name.partition("-")
    return pictures[int(number)][int(index)]


def _seed_of(seed: int, number: int) -> int:
    return 1000 * seed + number


def _nothing() -> np.ndarray:
    raise AssertionError("images are kept before they are rated")
