"""What raters said of two images at a time, whatever they were asked: as arrays, to count and to fit."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

Item = tuple[str, str]
"""(prompt id, image id): what is better or worse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """One row for each pair of images that one rater put in an order or put equal. Arrays are of length (votes,)."""

    items: Sequence[Item]
    """Sorted, so that those of one prompt lie together."""
    raters: Sequence[str]
    """Their ids, sorted."""
    first: np.ndarray
    """Index of an item; of a pair that was shown side by side, the image on the left."""
    second: np.ndarray
    outcome: np.ndarray
    """1: the first is better, -1: the second, 0: they are equal, or both bad."""
    rater: np.ndarray
    """Index of a rater."""
    is_side_by_side: np.ndarray
    """Whether the two alone were on the screen, the first on the left."""
    weight: np.ndarray
    """How many comparisons it counts as. A pair is one; of k images that were ranked or graded each pair is 2 / k, so
    that all of them together are k - 1."""
    both_bad: int
    """How many of the equal ones were called both bad."""

    def __len__(self) -> int:
        return len(self.outcome)

    @property
    def prompt(self) -> np.ndarray:
        """The prompt of each vote, as a number."""
        numbers = np.unique([prompt_id for prompt_id, _ in self.items], return_inverse=True)[1]
        return numbers[self.first]


@dataclass(frozen=True, slots=True)
class Vote:
    """One row of `Votes`."""

    prompt_id: str
    first: str
    """Id of an image."""
    second: str
    outcome: int
    rater_id: str
    is_side_by_side: bool = False
    weight: float = 1.0


def implied(prompt_id: str, rater_id: str, places: Mapping[str, int | None]) -> Iterable[Vote]:
    """The votes in the places of some images, of which lower is better, and None worse than all that have one.

    Of images without a place nothing is said about each other.
    """
    weight = 2 / max(len(places), 2)
    for (one, place), (other, other_place) in combinations(places.items(), 2):
        if place is None and other_place is None:
            continue
        mine, theirs = (np.inf if each is None else each for each in (place, other_place))
        outcome = int(mine < theirs) - int(mine > theirs)
        yield Vote(prompt_id, one, other, outcome, rater_id, weight=weight)


def as_votes(found: Sequence[Vote], *, both_bad: int = 0) -> Votes:
    """Single votes as arrays."""
    items = sorted({(each.prompt_id, image_id) for each in found for image_id in (each.first, each.second)})
    raters = sorted({each.rater_id for each in found})
    item, rater = ({name: number for number, name in enumerate(names)} for names in (items, raters))
    return Votes(
        items=items,
        raters=raters,
        first=np.array([item[each.prompt_id, each.first] for each in found], dtype=int),
        second=np.array([item[each.prompt_id, each.second] for each in found], dtype=int),
        outcome=np.array([each.outcome for each in found], dtype=int),
        rater=np.array([rater[each.rater_id] for each in found], dtype=int),
        is_side_by_side=np.array([each.is_side_by_side for each in found], dtype=bool),
        weight=np.array([each.weight for each in found], dtype=float),
        both_bad=both_bad,
    )
