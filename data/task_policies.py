"""Which task next: what a round asks about, chosen at random or where the last fit is least sure, with known chances.

A policy gives every candidate its propensity, the probability that it is among the chosen, and `choose` keeps exactly
to it. So whatever is measured on the chosen ones holds for all of them: divided by its propensity, an answer stands for
those that were not asked for (Horvitz and Thompson 1952). That needs a share of plain chance in every choice.
"""

import itertools
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

TASK_POLICIES = ("random", "uncertain")
LEAST_EXPLORE = 0.3
"""With less plain chance, few answers stand for very many, and an estimate over all is no longer of use."""
MOST_SETS = 2000
"""Of one prompt's images. All pairs of 63 images are fewer; of 32 images there are 28 million sets of nine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Images of one prompt that people could be asked about."""

    prompt_id: str
    image_ids: tuple[str, ...]
    uncertainty: float = 0.0
    """How unsure the last fit is of the answer; it counts beside that of others. 0: there is nothing to learn."""
    share: float = 1.0
    """With what probability it is a candidate: where there are too many, a random sample of them is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A candidate that was chosen; `policy` says by which part of the choice."""

    candidate: Candidate
    policy: str
    propensity: float
    """With what probability it is among the chosen, by whatever part."""


def sets_of(
    image_ids: Sequence[str], size: int, chance: random.Random, *, most: int = MOST_SETS
) -> tuple[list[tuple[str, ...]], float]:
    """The sets of so many of the images, sorted in themselves, and the share of all that these are.

    All of them, or where they are more than `most` a random sample. Of a set that is chosen in two stages the
    propensity is the product of theirs, and an estimate that divides by it has no bias (Särndal, Swensson and Wretman
    1992, section 4.3).
    """
    ids = sorted(set(image_ids))
    count = math.comb(len(ids), size)
    if count <= most:
        return [*itertools.combinations(ids, size)], 1.0
    found: dict[tuple[str, ...], None] = {}
    while len(found) < most:
        found[tuple(sorted(chance.sample(ids, size)))] = None
    return [*found], most / count


class TaskPolicy(Protocol):
    def shares(self, candidates: Sequence[Candidate], count: int) -> Mapping[str, np.ndarray]:
        """Each candidate's propensity in parts that have names. Each is float (candidates,); all sum to `count`."""
        ...


@dataclass(frozen=True, slots=True)
class RandomTasks:
    """Every prompt has the same share of the tasks, and every candidate of a prompt the same chance."""

    def shares(self, candidates: Sequence[Candidate], count: int) -> Mapping[str, np.ndarray]:
        of_prompt = Counter(each.prompt_id for each in candidates)
        return {"random": _propensities(np.array([1 / of_prompt[each.prompt_id] for each in candidates]), count)}


@dataclass(frozen=True, slots=True)
class UncertainTasks:
    """`explore` of the tasks as `RandomTasks` has them, the others in proportion to their uncertainty.

    Those whose policy is `random` are by themselves a random sample of all candidates.
    """

    explore: float = LEAST_EXPLORE

    def shares(self, candidates: Sequence[Candidate], count: int) -> Mapping[str, np.ndarray]:
        plain = RandomTasks().shares(candidates, count)["random"]
        unsure = _propensities(np.array([each.uncertainty for each in candidates]), count)
        return {"random": self.explore * plain, "uncertain": (1 - self.explore) * unsure}


def choose(policy: TaskPolicy, candidates: Sequence[Candidate], count: int, chance: random.Random) -> list[Chosen]:
    """`count` of the candidates, or all of them where there are fewer, in no order that means anything.

    Spread over the prompts as evenly as the propensities allow: few tasks do not all go to one prompt.
    """
    count = min(count, len(candidates))
    if not count:
        return []
    shares = policy.shares(candidates, count)
    propensity = np.sum([*shares.values()], axis=0)
    order = _by_prompt(candidates, chance)
    chosen = []
    for row in (order[place] for place in _systematic(propensity[order], count, chance)):
        (name,) = chance.choices([*shares], [share[row] for share in shares.values()])
        among_these = min(float(propensity[row]), 1.0)
        found = candidates[row]
        chosen.append(Chosen(candidate=found, policy=name, propensity=among_these * found.share))
    chance.shuffle(chosen)
    return chosen


def _propensities(weights: np.ndarray, count: int) -> np.ndarray:
    """Proportional to the weights where that is no more than 1, and summing to `count`.

    Where fewer than `count` have a weight, the others share what is left.
    """
    found = np.zeros(len(weights))
    left, free = float(count), weights > 0
    while free.any():
        found[free] = weights[free] * (left / weights[free].sum())
        certain = free & (found >= 1)
        if not certain.any():
            return found
        found[certain] = 1
        left -= certain.sum()
        free &= ~certain
    if left > 0:
        found[weights == 0] = left / (weights == 0).sum()
    return found


def _systematic(propensity: np.ndarray, count: int, chance: random.Random) -> list[int]:
    """Which candidates are drawn, by a comb with teeth 1 apart that falls on their propensities laid end to end.

    Systematic sampling (Madow 1949): no propensity is more than 1, so a candidate is hit once at most, and with exactly
    its propensity.
    """
    ends = propensity.cumsum()
    ends[-1] = count  # but for rounding
    return np.searchsorted(ends, chance.random() + np.arange(count), side="right").tolist()


def _by_prompt(candidates: Sequence[Candidate], chance: random.Random) -> list[int]:
    """The candidates' numbers, prompt by prompt: prompts in random order, and so the candidates of each."""
    piles: dict[str, list[int]] = {}
    for number, candidate in enumerate(candidates):
        piles.setdefault(candidate.prompt_id, []).append(number)
    for pile in piles.values():
        chance.shuffle(pile)
    shuffled = [*piles.values()]
    chance.shuffle(shuffled)
    return [*itertools.chain.from_iterable(shuffled)]
