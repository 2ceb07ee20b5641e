"""What people said, as rows of a snapshot give it: pairs, rankings, grades and labels, each rater's by itself."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hitl.core.errors import NotEnoughRatings, StoreError

COLUMNS = ("round", "prompt", "rater_id", "image_a", "image_b", "outcome", "left")
"""What every snapshot has of a comparison."""
MORE_COLUMNS = ("task", "both_bad", "images", "values", "levels", "propensity")
"""What a snapshot may have beside them; `images` is null in the row of a pair."""

Thing = tuple[str, str]
"""(image id, prompt): what gets a score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one rater said about images of one prompt on one screen.

    Without `levels`, `values` are ranks: 1 is best, equal ranks are a tie, and None is worse than every ranked image
    and not compared with the others of its kind (best of four: 1, None, None, None). A pair is a ranking of two. With
    `levels`, they are grades from 1 to `levels`, each on its own; good or bad has two levels and good is 2.
    """

    prompt: str
    rater: str
    images: tuple[str, ...]
    values: tuple[int | None, ...]
    levels: int = 0
    both_bad: bool = False
    """Of a tie between two: neither was good enough."""
    left: str = ""
    """Of a pair: the image on the left; empty when it is not known."""
    round: int = 0
    task: str = ""
    propensity: float = 1.0
    """With what probability these images were chosen to be asked about, of all that could have been in that round."""

    @property
    def is_pair(self) -> bool:
        return self.levels == 0 and len(self.images) == 2

    @property
    def form(self) -> str:
        """`pair`, `ranking`, `label` (two levels) or `grade`."""
        if self.levels:
            return "label" if self.levels == 2 else "grade"
        return "pair" if len(self.images) == 2 else "ranking"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Every pair of images of one prompt that one rater put in an order, directly or by ranks or grades.

    It is what a score is judged by, whatever people were asked. Arrays are int (pairs,).
    """

    first: np.ndarray
    """Index of a thing."""
    second: np.ndarray
    outcome: np.ndarray
    """1: the first is better, -1: the second, 0: a tie or both bad."""
    answer: np.ndarray
    """Index of the answer it is taken from."""

    def __len__(self) -> int:
        return len(self.first)


def read_snapshot(path: Path) -> list[dict[str, Any]]:
    """The rows of a snapshot that a store wrote.

    Raises:
        StoreError: the file is missing, damaged or has other columns.
    """
    try:
        known = set(pq.read_schema(path).names)
        columns = [*COLUMNS, *(name for name in MORE_COLUMNS if name in known)]
        return pq.read_table(path, columns=columns).to_pylist()
    except (OSError, pa.ArrowException, KeyError) as error:
        raise StoreError(
            f"The snapshot {path} cannot be read: {error}",
            hint="A round's own is written anew when it is deleted; the columns are in data/snapshot.py.",
        ) from error


def answers_from_rows(rows: Iterable[Mapping[str, Any]]) -> list[Answer]:
    """Rows of a snapshot as answers. An image compared with itself says nothing and is left out.

    Raises:
        StoreError: the ranks or grades of a row are not what they must be.
    """
    return [answer for answer in map(_answer, rows) if answer is not None]


def _answer(row: Mapping[str, Any]) -> Answer | None:
    images, left = row.get("images"), ""
    if images is None:
        images = (row["image_a"], row["image_b"])
        values = {"a": (1, 2), "b": (2, 1), "tie": (1, 1)}[row["outcome"]]
        left = {"a": images[0], "b": images[1]}.get(row["left"] or "", "")
    else:
        values = tuple(row["values"])
        _check(tuple(images), values, row.get("levels") or 0)
    levels = row.get("levels") or 0
    if len(set(images)) < len(images) or (len(images) < 2 and not levels) or not any(values):
        return None
    return Answer(
        prompt=row["prompt"],
        rater=row["rater_id"],
        images=tuple(images),
        values=values,
        levels=levels,
        both_bad=bool(row.get("both_bad")),
        left=left,
        round=row["round"],
        task=row.get("task") or "",
        propensity=row.get("propensity") or 1.0,
    )


def _check(images: tuple[str, ...], values: tuple[int | None, ...], levels: int) -> None:
    hint = "Mend the file that the answers come from; docs/reward-model.md says what a row may hold."
    if len(images) != len(values):
        raise StoreError(f"An answer has {len(images)} images and {len(values)} values.", hint=hint)
    if levels == 1 or levels < 0:
        raise StoreError(f"An answer has {levels} levels, but a grade needs 2 or more.", hint=hint)
    allowed = f"a grade from 1 to {levels}" if levels else "a rank from 1 on, or nothing"
    for value in values:
        if (value is None and levels) or (value is not None and not 1 <= value <= (levels or value)):
            raise StoreError(f"An answer has the value {value}, but {allowed} was expected.", hint=hint)


def things_of(answers: Iterable[Answer]) -> list[Thing]:
    """All scored things, sorted."""
    return sorted({(image, answer.prompt) for answer in answers for image in answer.images})


def compared(answers: Sequence[Answer], things: Sequence[Thing]) -> Compared:
    """The pairs that answers imply: all of a ranking but those between unranked images, and of grades those between
    two images that one rater graded for one prompt on the same scale.
    """
    index = {thing: number for number, thing in enumerate(things)}
    found: list[tuple[int, int, int, int]] = []
    graded: dict[tuple[str, str, int], dict[str, tuple[int, int]]] = defaultdict(dict)
    for number, answer in enumerate(answers):
        prompt = answer.prompt
        if answer.levels:
            scale = graded[answer.rater, prompt, answer.levels]
            for image, value in zip(answer.images, answer.values, strict=True):
                assert value is not None
                scale[image] = (-value, number)  # a rater's last grade of an image stands
            continue
        for (one, rank), (other, other_rank) in combinations(zip(answer.images, answer.values, strict=True), 2):
            if rank is not None or other_rank is not None:
                found.append((index[one, prompt], index[other, prompt], _order(rank, other_rank), number))
    for (_, prompt, _), scale in graded.items():
        for (one, (rank, number)), (other, (other_rank, _)) in combinations(scale.items(), 2):
            found.append((index[one, prompt], index[other, prompt], _order(rank, other_rank), number))
    columns = np.array(found, dtype=int).reshape(-1, 4).T
    return Compared(first=columns[0], second=columns[1], outcome=columns[2], answer=columns[3])


def _order(rank: int | None, other: int | None) -> int:
    """1 when the first rank is the better (lower) one."""
    mine, theirs = (10**9 if each is None else each for each in (rank, other))
    return (mine < theirs) - (mine > theirs)


def require_preferences(answers: Sequence[Answer], pairs: Compared) -> None:
    """Raise NotEnoughRatings when nobody preferred an image."""
    if (pairs.outcome != 0).any():
        return
    if any(answer.levels for answer in answers):
        seen = "none of the grades differ within a prompt"
    else:
        seen = "none of them prefers an image"
    raise NotEnoughRatings(
        f"There are {len(answers)} answers and {seen}.",
        hint="Collect ratings that prefer an image: a reward cannot be fitted on ties alone.",
    )


def groups(answers: Sequence[Answer], things: Sequence[Thing]) -> tuple[np.ndarray, str]:
    """For each thing, which things must stay on its side of a split; and by what: the prompt, or with one prompt the
    images that answers compare with each other.

    Raises:
        NotEnoughRatings: everything hangs together, so nothing can be held out.
    """
    _, by_prompt = np.unique([prompt for _, prompt in things], return_inverse=True)
    if by_prompt.size and by_prompt.max() > 0:
        return by_prompt, "prompt"
    index = {thing: number for number, thing in enumerate(things)}
    members = [[index[image, answer.prompt] for image in answer.images] for answer in answers]
    links = [(each[0], other) for each in members for other in each]
    one, other = np.array(links, dtype=int).reshape(-1, 2).T
    count, component = connected_components(
        coo_array((np.ones(len(one)), (one, other)), (len(things),) * 2), directed=False
    )
    if count < 2:
        raise NotEnoughRatings(
            f"All {len(answers)} answers are about one prompt and hang together by their images, so none can be "
            "held out to judge the fit.",
            hint="Rate images of a second prompt, or pairs that share no image with the others.",
        )
    return component, "images"
