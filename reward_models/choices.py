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
    writer.pairs([number for number, answer in enumerate(answers) if answer.is_pair])
    for number, answer in enumerate(answers):
        if answer.levels:
            writer.grades(number, answer)
        elif len(answer.images) > 2:
            writer.ranking(number, answer)
    return writer.choices(things)


_Terms = list[tuple[int, float]]
"""Columns and their coefficients."""
_Alternative = tuple[_Terms, _Terms]
"""Its scores and its extras."""


@dataclass(frozen=True, slots=True)
class _Entries:
    """Entries of a sparse matrix whose rows are alternatives, by choice (int) and place in it."""

    choice: np.ndarray
    place: np.ndarray
    column: np.ndarray
    value: np.ndarray

    def matrix(self, first_row: np.ndarray, shape: tuple[int, int]) -> csr_array:
        return csr_array((self.value, (first_row[self.choice] + self.place, self.column)), shape)


class _Writer:
    """Collects alternatives as coordinates: of pairs, of which there can be hundreds of thousands, all at once; of the
    rest choice by choice.
    """

    def __init__(self, answers: Sequence[Answer], index: Mapping[Thing, int]) -> None:
        pairs = [answer for answer in answers if answer.is_pair]
        self._answers = answers
        self._index = index
        self._prompt = np.unique([answer.prompt for answer in answers], return_inverse=True)[1]
        self._raters = len({answer.rater for answer in answers})
        self._ties = any(_is_tie(answer) and not answer.both_bad for answer in pairs)
        self._bad = any(answer.both_bad for answer in pairs)
        self._deepest = max((_deepest_tie(answer) for answer in answers if not answer.levels), default=1)
        self._names: dict[str, int] = {}
        self._penalties: list[float] = []
        self._last: set[int] = set()  # extras of prompts: of those there can be thousands
        self._number: list[int] = []
        self._chosen: list[int] = []
        self._sizes: list[int] = []
        self._scores: list[_Entries] = []
        self._extras: list[_Entries] = []

    def pairs(self, numbers: Sequence[int]) -> None:
        answers = [self._answers[number] for number in numbers]
        one, other = (
            np.array([self._index[answer.images[side], answer.prompt] for answer in answers], dtype=int)
            for side in (0, 1)
        )
        every = np.arange(len(answers))
        self._put(self._scores, every, 0, one, 1.0)
        self._put(self._scores, every, 1, other, 1.0)
        self._put_sides(answers)
        size = 2
        if self._ties:
            self._put(self._scores, every, size, one, 0.5)
            self._put(self._scores, every, size, other, 0.5)
            self._put(self._extras, every, size, self._extra("tie"), 1.0)
            size += 1
        if self._bad:
            self._put_thresholds(answers, size)
            size += 1
        self._number += numbers
        self._chosen += [_chosen_of_pair(answer, size) for answer in answers]
        self._sizes += [size] * len(answers)

    def _put_sides(self, answers: Sequence[Answer]) -> None:
        left = np.array(
            [(answer.left == answer.images[0]) - (answer.left == answer.images[1]) for answer in answers], dtype=float
        )
        known = np.flatnonzero(left)
        if not known.size:
            return
        names = [np.full(len(known), self._extra("side"))]
        if self._raters > 1:
            names.append(
                np.array([self._extra(f"side, rater {answers[each].rater}", RATER_PENALTY) for each in known.tolist()])
            )
        for name in names:
            self._put(self._extras, known, 0, name, left[known] / 2)
            self._put(self._extras, known, 1, name, -left[known] / 2)

    def _put_thresholds(self, answers: Sequence[Answer], place: int) -> None:
        every = np.arange(len(answers))
        names = [
            np.full(len(answers), self._extra("both bad")),
            np.array([self._of_prompt("both bad", answer.prompt) for answer in answers]),
        ]
        if self._raters > 1:
            names.append(np.array([self._extra(f"both bad, rater {each.rater}", RATER_PENALTY) for each in answers]))
        for name in names:
            self._put(self._extras, every, place, name, 1.0)

    def _put(
        self,
        entries: list[_Entries],
        choice: np.ndarray,
        place: int,
        column: np.ndarray | int,
        value: np.ndarray | float,
    ) -> None:
        columns, values = np.broadcast_to(column, choice.shape), np.broadcast_to(value, choice.shape)
        entries.append(_Entries(choice, np.full(len(choice), place), columns, values))

    def _add(self, number: int, chosen: int, alternatives: Sequence[_Alternative]) -> None:
        choice = len(self._number)
        for entries, kind in ((self._scores, 0), (self._extras, 1)):
            found = [(place, *term) for place, each in enumerate(alternatives) for term in each[kind]]
            place, column, value = zip(*found, strict=True) if found else ((), (), ())
            entries.append(
                _Entries(
                    np.full(len(found), choice), np.array(place, int), np.array(column, int), np.array(value, float)
                )
            )
        self._number.append(number)
        self._chosen.append(chosen)
        self._sizes.append(len(alternatives))

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
                self._add(number, subsets.index(tuple(sorted(best))), [self._set(each) for each in subsets])
            elif rest:
                for thing in best:
                    self._add(number, 0, [self._set([each]) for each in (thing, *rest)])
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
            self._add(number, value - 1, alternatives)

    def _set(self, things: Sequence[int]) -> _Alternative:
        extras = [] if len(things) == 1 else [(self._extra(f"tie of {len(things)} in a ranking"), 1.0)]
        return [(thing, 1 / len(things)) for thing in things], extras

    def _extra(self, name: str, penalty: float = ANCHOR_PENALTY) -> int:
        if name not in self._names:
            self._names[name] = len(self._names)
            self._penalties.append(penalty)
        return self._names[name]

    def _of_prompt(self, scale: str, prompt: str) -> int:
        self._last.add(number := self._extra(f"{scale}, prompt {prompt}", PROMPT_PENALTY))
        return number

    def choices(self, things: Sequence[Thing]) -> Choices:
        number, sizes = np.array(self._number, dtype=int), np.array(self._sizes, dtype=int)
        order = np.lexsort((number, sizes))  # stable: a ranking's places stay in their order
        starts = np.concatenate([[0], np.cumsum(sizes[order])])
        first_row = np.empty(len(number), int)
        first_row[order] = starts[:-1]
        by_age = sorted(range(len(self._penalties)), key=lambda each: (each in self._last, each))
        column = np.empty(len(by_age), int)
        column[by_age] = np.arange(len(by_age))
        names = list(self._names)
        scores, extras = _joined(self._scores), _joined(self._extras)
        extras = replace(extras, column=column[extras.column])
        answer = number[order]
        return Choices(
            things=things,
            scores=scores.matrix(first_row, (int(starts[-1]), len(things))),
            extras=extras.matrix(first_row, (int(starts[-1]), len(names))),
            extra_names=tuple(names[each] for each in by_age),
            extra_penalty=np.array(self._penalties, dtype=float)[by_age],
            starts=starts,
            chosen=starts[:-1] + np.array(self._chosen, dtype=int)[order],
            answer=answer,
            prompt=self._prompt[answer],
            slope=np.ones(len(answer)),
        )


def _joined(entries: Sequence[_Entries]) -> _Entries:
    choice, place, column = (
        np.concatenate([np.zeros(0, int), *(getattr(each, name) for each in entries)])
        for name in ("choice", "place", "column")
    )
    return _Entries(choice, place, column, np.concatenate([np.zeros(0), *(each.value for each in entries)]))


def _chosen_of_pair(answer: Answer, size: int) -> int:
    one, other = answer.values
    if answer.both_bad:
        return size - 1
    if _is_tie(answer):
        return 2
    return 1 if one is None or (other is not None and other < one) else 0


def _is_tie(answer: Answer) -> bool:
    return answer.values[0] == answer.values[1]


def _deepest_tie(answer: Answer) -> int:
    ranks = [rank for rank in answer.values if rank is not None]
    return max((ranks.count(rank) for rank in ranks), default=1) if len(answer.images) > 2 else 1
