"""Answers as choices: one alternative taken among several, with utilities that are affine in the images' scores.

That is one likelihood for all that people are asked, and a concave one:

- a pair is a choice between a, b and, where raters used them, tie and both bad. Utilities are s_a, s_b, the mean of the
  two plus log nu (Davidson 1970, doi:10.1080/01621459.1970.10481082), and a threshold that scores must pass;
- a ranking is a row of choices, the best of what is left each time (Plackett 1975); images tied at a place are one
  alternative, with the mean of their scores plus a log tie rate for so many (Davidson-Luce: Firth, Kosmidis and Turner
  2019, arXiv:1902.07026). Of two images it is Davidson's model again;
- a grade from 1 to K is a choice among K levels with utilities (k - (K + 1) / 2)(s + o) + tau_k: adjacent categories
  (Agresti, Categorical Data Analysis, section 8.3), logistic regression when K is 2. The offsets o, of the rater and of
  the prompt, centre the grades: a strict rater or an easy prompt says nothing about a picture.

What is not a score is an `extra`: sides, tie rates, thresholds, offsets, each with a penalty of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise

import numpy as np
from scipy.sparse import csr_array

from reward_models.answers import Answer, Thing

ANCHOR_PENALTY = 0.1
"""Penalty on what all answers share: small beside any number of ratings."""
RATER_PENALTY = 4.0
"""On how a rater's side or threshold differs from all raters': a standard deviation of one half, in log-odds."""
PROMPT_PENALTY = 1.0
"""On a prompt's offset of grades or threshold of both bad. A rater's offset of grades is as free as what all share."""

_MOST_ALTERNATIVES = 64
"""A place in a ranking with more than so many alternatives counts its tied images one by one, as each better than all
that come after (Breslow's way with ties), and says nothing of the tie itself."""


@dataclass(frozen=True, slots=True)
class Choices:
    """Choices of one alternative each. Those with as many alternatives lie together; a choice's alternatives always do.

    utilities = slope * (scores @ s) + extras @ e, with the slope of the alternative's choice.
    """

    things: Sequence[Thing]
    scores: csr_array
    """(alternatives, things)"""
    extras: csr_array
    """(alternatives, extras)"""
    extra_names: tuple[str, ...]
    extra_penalty: np.ndarray
    """Per squared value, in the likelihood's own scale."""
    starts: np.ndarray
    """Row of each choice's first alternative, and at the end their number; int (choices + 1,)."""
    chosen: np.ndarray
    """Row of the alternative that was taken; int (choices,)."""
    answer: np.ndarray
    """Index of the answer that a choice belongs to; int (choices,)."""
    prompt: np.ndarray
    """Index of the answer's prompt; int (choices,)."""
    slope: np.ndarray
    """How strongly scores move each choice: the rater's reliability. float (choices,)"""

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def sizes(self) -> np.ndarray:
        """Number of alternatives of each choice."""
        return np.diff(self.starts)

    def blocks(self) -> list[tuple[slice, slice, int]]:
        """Runs of choices with equally many alternatives: (choices, alternatives, number of alternatives of each)."""
        edges = [0, *(np.flatnonzero(np.diff(self.sizes)) + 1).tolist(), len(self)]
        return [
            (slice(a, b), slice(int(self.starts[a]), int(self.starts[b])), int(self.sizes[a]))
            for a, b in pairwise(edges)
            if b > a
        ]

    def take(self, kept: np.ndarray) -> "Choices":
        """The choices of a mask (choices,), or of sorted indices."""
        rows = np.flatnonzero(kept) if kept.dtype == bool else kept
        starts = np.concatenate([[0], np.cumsum(self.sizes[rows])])
        alternatives = self.alternatives(rows)
        return replace(
            self,
            scores=self.scores[alternatives],
            extras=self.extras[alternatives],
            starts=starts,
            chosen=self.chosen[rows] - self.starts[rows] + starts[:-1],
            answer=self.answer[rows],
            prompt=self.prompt[rows],
            slope=self.slope[rows],
        )

    def alternatives(self, rows: np.ndarray) -> np.ndarray:
        """Rows of the alternatives of these choices, in their order."""
        sizes = self.sizes[rows]
        ends = np.cumsum(sizes)
        return np.repeat(self.starts[rows] - (ends - sizes), sizes) + np.arange(sizes.sum())

    def with_slopes(self, slope: np.ndarray) -> "Choices":
        return replace(self, slope=slope)


def as_choices(answers: Sequence[Answer], things: Sequence[Thing]) -> Choices:
    """All answers as choices among alternatives."""
    writer = _Writer(answers, {thing: number for number, thing in enumerate(things)})
    for number, answer in enumerate(answers):
        if answer.levels:
            writer.grades(number, answer)
        elif len(answer.images) == 2:
            writer.pair(number, answer)
        else:
            writer.ranking(number, answer)
    return writer.choices(things)


_Terms = list[tuple[int, float]]
"""Columns and their coefficients."""
_Alternative = tuple[_Terms, _Terms]
"""Its scores and its extras. Tuples: there can be hundreds of thousands."""


class _Writer:
    """Collects alternatives as coordinates, choice by choice."""

    def __init__(self, answers: Sequence[Answer], index: Mapping[Thing, int]) -> None:
        pairs = [answer for answer in answers if answer.is_pair]
        self._index = index
        self._prompt = np.unique([answer.prompt for answer in answers], return_inverse=True)[1]
        self._raters = len({answer.rater for answer in answers})
        self._ties = any(_is_tie(answer) and not answer.both_bad for answer in pairs)
        self._bad = any(answer.both_bad for answer in pairs)
        self._deepest = max((_deepest_tie(answer) for answer in answers if not answer.levels), default=1)
        self._names: dict[str, int] = {}
        self._penalties: list[float] = []
        self._last: set[int] = set()  # extras of prompts: of those there can be thousands
        self._choices: list[tuple[int, int, list[_Alternative]]] = []
        self._side_terms: dict[tuple[str, bool], tuple[_Terms, _Terms]] = {}

    def pair(self, number: int, answer: Answer) -> None:
        one, other = (self._index[image, answer.prompt] for image in answer.images)
        left, right = self._sides(answer)
        alternatives: list[_Alternative] = [([(one, 1.0)], left), ([(other, 1.0)], right)]
        if self._ties:
            alternatives.append(([(one, 0.5), (other, 0.5)], [(self._extra("tie"), 1.0)]))
        if self._bad:
            alternatives.append(([], self._bad_threshold(answer)))
        ranks = answer.values
        if answer.both_bad:
            chosen = len(alternatives) - 1
        elif _is_tie(answer):
            chosen = 2
        else:
            chosen = 1 if ranks[0] is None or (ranks[1] is not None and ranks[1] < ranks[0]) else 0
        self._choices.append((number, chosen, alternatives))

    def ranking(self, number: int, answer: Answer) -> None:
        index = [self._index[image, answer.prompt] for image in answer.images]
        places: dict[int, list[int]] = {}
        for thing, rank in zip(index, answer.values, strict=True):
            if rank is not None:
                places.setdefault(rank, []).append(thing)
        left = index
        for rank in sorted(places):
            best, rest = places[rank], [thing for thing in left if thing not in places[rank]]
            if len(left) < 2:
                return
            subsets = [
                subset
                for size in range(1, min(self._deepest, len(left)) + 1)
                for subset in combinations(sorted(left), size)
            ]
            if len(subsets) <= _MOST_ALTERNATIVES:
                self._choices.append(
                    (number, subsets.index(tuple(sorted(best))), [self._set(each) for each in subsets])
                )
            elif rest:
                for thing in best:
                    self._choices.append((number, 0, [self._set([each]) for each in (thing, *rest)]))
            left = rest

    def grades(self, number: int, answer: Answer) -> None:
        middle, scale = (answer.levels + 1) / 2, f"grade of {answer.levels}"
        offsets = [self._of_prompt(scale, answer.prompt)]
        if self._raters > 1:
            offsets.append(self._extra(f"{scale}, rater {answer.rater}"))
        for image, value in zip(answer.images, answer.values, strict=True):
            thing = self._index[image, answer.prompt]
            assert value is not None
            alternatives: list[_Alternative] = [
                (
                    [(thing, level - middle)],
                    [(self._extra(f"{scale}, level {level}"), 1.0), *((each, level - middle) for each in offsets)],
                )
                for level in range(1, answer.levels + 1)
            ]
            self._choices.append((number, value - 1, alternatives))

    def _set(self, things: Sequence[int]) -> _Alternative:
        extras = [] if len(things) == 1 else [(self._extra(f"tie of {len(things)} in a ranking"), 1.0)]
        return [(thing, 1 / len(things)) for thing in things], extras

    def _sides(self, answer: Answer) -> tuple[_Terms, _Terms]:
        if not answer.left:
            return [], []
        key = answer.rater, answer.left == answer.images[0]
        if key not in self._side_terms:
            self._side_terms[key] = self._new_sides(*key)
        return self._side_terms[key]

    def _new_sides(self, rater: str, is_first_left: bool) -> tuple[_Terms, _Terms]:
        names = [self._extra("side")]
        if self._raters > 1:
            names.append(self._extra(f"side, rater {rater}", RATER_PENALTY))
        sign = 0.5 if is_first_left else -0.5
        return [(name, sign) for name in names], [(name, -sign) for name in names]

    def _bad_threshold(self, answer: Answer) -> _Terms:
        names = [self._extra("both bad"), self._of_prompt("both bad", answer.prompt)]
        if self._raters > 1:
            names.append(self._extra(f"both bad, rater {answer.rater}", RATER_PENALTY))
        return [(name, 1.0) for name in names]

    def _extra(self, name: str, penalty: float = ANCHOR_PENALTY) -> int:
        if name not in self._names:
            self._names[name] = len(self._names)
            self._penalties.append(penalty)
        return self._names[name]

    def _of_prompt(self, scale: str, prompt: str) -> int:
        self._last.add(number := self._extra(f"{scale}, prompt {prompt}", PROMPT_PENALTY))
        return number

    def choices(self, things: Sequence[Thing]) -> Choices:
        self._choices.sort(key=lambda each: len(each[2]))  # stable: those with as many alternatives keep their order
        alternatives = [each for _, _, several in self._choices for each in several]
        starts = np.concatenate([[0], np.cumsum([len(several) for _, _, several in self._choices], dtype=int)])
        offsets = np.array([chosen for _, chosen, _ in self._choices], dtype=int)
        order = sorted(range(len(self._penalties)), key=lambda number: (number in self._last, number))
        names = sorted(self._names, key=self._names.__getitem__)
        answer = np.array([number for number, _, _ in self._choices], dtype=int)
        return Choices(
            things=things,
            scores=_sparse([scores for scores, _ in alternatives], len(things)),
            extras=csr_array(_sparse([extras for _, extras in alternatives], len(names))[:, order]),
            extra_names=tuple(names[number] for number in order),
            extra_penalty=np.array(self._penalties, dtype=float)[order],
            starts=starts,
            chosen=starts[:-1] + offsets,
            answer=answer,
            prompt=self._prompt[answer],
            slope=np.ones(len(self._choices)),
        )


def _sparse(rows: Sequence[_Terms], columns: int) -> csr_array:
    pointer = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=int)])
    flat = np.array([entry for row in rows for entry in row], dtype=float).reshape(-1, 2)
    return csr_array((flat[:, 1].copy(), flat[:, 0].astype(np.int32), pointer), (len(rows), columns))


def _is_tie(answer: Answer) -> bool:
    return answer.values[0] == answer.values[1]


def _deepest_tie(answer: Answer) -> int:
    ranks = [rank for rank in answer.values if rank is not None]
    return max((ranks.count(rank) for rank in ranks), default=1) if len(answer.images) > 2 else 1
