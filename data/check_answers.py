"""What answers to checks say: how far two answers to one task agree, and whether a gold task was answered right.

Answers of every kind are read in one form, a number for each image on each axis that was asked: ranks (1 is best, None
is worse than all that are ranked) or grades. A choice between two images is the ranks 1 and 2, a tie 1 and 1.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from data.records import ALIGNMENT, OVERALL

Values = Sequence[int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SaidTwice:
    """The same images of one task on the same axis, answered before and again."""

    before: Values
    again: Values
    levels: int | None
    """Of grades; None for ranks."""

    @property
    def is_best(self) -> bool:
        """Whether one image alone was named."""
        return self.levels is None and None in self.before


def agreement(said: Sequence[SaidTwice]) -> float:
    """The share of the answer that is the same: of the grades; of the pairs of ranked images, a tie being an answer
    too; of the best image, 0 or 1. Of several axes the mean.
    """
    return fmean(map(_same, said))


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldSaid:
    """What was answered to a gold task on one axis."""

    axis: str
    image_ids: Sequence[str]
    values: Values
    levels: int | None


def correctness(said: Sequence[GoldSaid], *, worse: str | None, better: str | None) -> float:
    """How right an answer to a gold task is, of which it is known which image is the worse (or the better) one.

    Of an order: the share of the other images that stand on the right side of it; a tie is wrong. Of grades, 0 or 1:
    the worse image, which was drawn for another text, has a grade in the lower half of the scale, and no image has a
    lower one. Grades are those of `alignment` where that is asked: how far a picture fits its text. Else `overall`.
    """
    axis = ALIGNMENT if any(each.axis == ALIGNMENT for each in said) else OVERALL
    return fmean(_right(each, worse, better) for each in said if each.axis == axis)


def _right(said: GoldSaid, worse: str | None, better: str | None) -> float:
    scores = dict(zip(said.image_ids, _scores(said.values, said.levels), strict=True))
    if better is not None:
        top = scores.pop(better)
        return fmean(top > score for score in scores.values())
    assert worse is not None
    last = scores.pop(worse)
    if said.levels is not None:
        return float(2 * last < said.levels + 1 and all(score >= last for score in scores.values()))
    return fmean(score > last for score in scores.values())


def _same(said: SaidTwice) -> float:
    if said.is_best:
        return float(list(said.before) == list(said.again))
    if said.levels is not None:
        return fmean(x == y for x, y in zip(said.before, said.again, strict=True))
    return fmean(x == y for x, y in _orders(said))


def _orders(said: SaidTwice) -> list[tuple[int, int]]:
    """For each pair of images: 1, -1 or 0 as the first, the second or neither was preferred, before and again."""
    before, again = (_scores(values, said.levels) for values in (said.before, said.again))
    return [
        (_sign(before[i] - before[j]), _sign(again[i] - again[j]))
        for i, j in itertools.combinations(range(len(before)), 2)
    ]


def _scores(values: Values, levels: int | None) -> list[float]:
    """Numbers of which more is better; who has no rank stands behind all who could have one."""
    if levels is not None:
        return [_number(value) for value in values]
    return [-(len(values) + 1 if value is None else value) for value in values]


def _number(grade: int | None) -> int:
    assert grade is not None, "A grade is never missing."
    return grade


def _sign(difference: float) -> int:
    return (difference > 0) - (difference < 0)
