"""Comparisons as arrays: what a head is fitted on, and how a snapshot's rows become it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hitl.core.errors import NotEnoughRatings, StoreError

COLUMNS = ("round", "prompt", "rater_id", "image_a", "image_b", "outcome", "left")
"""What is read of a snapshot; it holds more."""

OUTCOMES = {"a": 1, "b": -1, "tie": 0}


@dataclass(frozen=True, slots=True)
class Comparisons:
    """Comparisons of scored things. A thing is an image together with the prompt it was made for."""

    things: list[tuple[str, str]]
    """(image id, prompt), all different, sorted."""
    first: np.ndarray
    """Index of the thing called `a`; int (comparisons,)."""
    second: np.ndarray
    outcome: np.ndarray
    """1: a is better, -1: b is better, 0: a tie."""
    side: np.ndarray
    """1: a stood on the left, -1: on the right."""
    prompts: list[str]

    def __len__(self) -> int:
        return len(self.first)

    def take(self, rows: np.ndarray) -> "Comparisons":
        prompts = [self.prompts[row] for row in rows]
        return Comparisons(
            self.things, self.first[rows], self.second[rows], self.outcome[rows], self.side[rows], prompts
        )


def read_snapshot(path: Path) -> list[dict[str, Any]]:
    """The rows of a snapshot that a store wrote.

    Raises:
        StoreError: the file is missing, damaged or has other columns.
    """
    try:
        return pq.read_table(path, columns=list(COLUMNS)).to_pylist()
    except (OSError, pa.ArrowException, KeyError) as error:
        raise StoreError(
            f"The snapshot {path} cannot be read: {error}", hint="Delete it and run the fit again: it is written anew."
        ) from error


def from_rows(rows: Sequence[Mapping[str, Any]]) -> Comparisons:
    """Rows of a snapshot as arrays. An image compared with itself says nothing and is left out.

    Raises:
        NotEnoughRatings: nothing is left, or every comparison is a tie.
    """
    rows = [row for row in rows if row["image_a"] != row["image_b"]]
    decided = sum(row["outcome"] != "tie" for row in rows)
    if not decided:
        raise NotEnoughRatings(
            f"There are {len(rows)} comparisons and none of them prefers an image.",
            hint="Collect ratings that prefer a side: a reward cannot be fitted on ties alone.",
        )
    things = sorted({(row[key], row["prompt"]) for row in rows for key in ("image_a", "image_b")})
    index = {thing: number for number, thing in enumerate(things)}
    return Comparisons(
        things=things,
        first=np.array([index[row["image_a"], row["prompt"]] for row in rows]),
        second=np.array([index[row["image_b"], row["prompt"]] for row in rows]),
        outcome=np.array([OUTCOMES[row["outcome"]] for row in rows]),
        side=np.array([1 if row["left"] == "a" else -1 for row in rows]),
        prompts=[row["prompt"] for row in rows],
    )


def groups(comparisons: Comparisons) -> tuple[np.ndarray, str]:
    """Which comparisons must stay on one side of a split, and by what: the prompt, or with one prompt its images.

    Raises:
        NotEnoughRatings: everything hangs together, so nothing can be held out.
    """
    _, by_prompt = np.unique(comparisons.prompts, return_inverse=True)
    if by_prompt.max() > 0:
        return by_prompt, "prompt"
    shape = (len(comparisons.things),) * 2
    links = coo_array((np.ones(len(comparisons)), (comparisons.first, comparisons.second)), shape)
    _, component = connected_components(links, directed=False)
    by_images = component[comparisons.first]
    if len(set(by_images.tolist())) < 2:
        raise NotEnoughRatings(
            f"All {len(comparisons)} comparisons are of one prompt and hang together by their images, so none can be "
            "held out to judge the fit.",
            hint="Rate images of a second prompt, or pairs that share no image with the others.",
        )
    return by_images, "images"
