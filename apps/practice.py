"""Practice tasks: obvious contrasts that the project draws itself, asked about as the real ones are.

Each tells the page which of its pictures show the text, so that the page can say at once whether an answer was good.
Nothing of it is a rating: the store hears only that a rater is through.
"""

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from apps.session import describe_kind
from data.world.scenes import Scene, place, render
from hitl.config import RateConfig

Item = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Contrast:
    """What a practice task asks for, and what its pictures show."""

    name: str
    """Of its text in the language files: `practice.prompt.<name>`."""
    wanted: tuple[Item, ...]
    others: tuple[tuple[Item, ...], ...]
    """Pictures that show something else, from which as many are taken as are needed."""
    fits: tuple[bool, bool]
    """Whether the left and the right picture of a pair show the text."""
    background: str


_OTHERS: tuple[tuple[str, str, int], ...] = (
    ("cyan", "square", 1), ("green", "cross", 2), ("purple", "heart", 3), ("orange", "triangle", 2),
    ("yellow", "star", 1), ("pink", "circle", 2), ("blue", "cross", 3), ("red", "heart", 1),
    ("cyan", "triangle", 3), ("purple", "square", 2), ("orange", "circle", 3), ("green", "star", 3),
)  # fmt: skip


def _contrast(name: str, wanted: Item, count: int, fits: tuple[bool, bool], background: str) -> Contrast:
    """With whatever of the list has neither the colour nor the shape that is asked for."""
    others = tuple(
        ((colour, shape),) * many for colour, shape, many in _OTHERS if colour != wanted[0] and shape != wanted[1]
    )
    return Contrast(name, (wanted,) * count, others, fits, background)


CONTRASTS = (
    _contrast("red_circle", ("red", "circle"), 1, (True, False), "white"),
    _contrast("three_stars", ("yellow", "star"), 3, (False, True), "slate"),
    _contrast("green_heart", ("green", "heart"), 1, (False, True), "silver"),
    _contrast("blue_square", ("blue", "square"), 1, (True, True), "white"),
    _contrast("two_crosses", ("pink", "cross"), 2, (False, False), "black"),
    _contrast("orange_triangle", ("orange", "triangle"), 1, (True, False), "silver"),
)
"""In this order, so that all four answers about a pair come."""


def practice_tasks(asked: RateConfig) -> list[dict[str, Any]]:
    """As tasks travel, with the name of a contrast in place of a prompt and which pictures fit."""
    count = asked.images_per_task
    tasks = []
    for number in range(asked.practice):
        fits = fits_of(number, count)
        tasks.append(
            {
                "task_id": f"practice {number}",
                "round": 0,
                **describe_kind(asked.kind, asked),
                "contrast": CONTRASTS[number % len(CONTRASTS)].name,
                "fits": fits,
                "image_ids": [f"{number}-{place}" for place in range(count)],
                "images": [f"practice/{number}/{place}.png" for place in range(count)],
            }
        )
    return tasks


def fits_of(number: int, images: int) -> list[bool]:
    """Which pictures of a practice task show its text. Of a pair: one, both or none; of more: one, at any place."""
    contrast = CONTRASTS[number % len(CONTRASTS)]
    if images == 1:
        return [number % 2 == 0]
    if images == 2:
        return list(contrast.fits)
    fitting = int(np.random.default_rng(number).integers(images))
    return [place == fitting for place in range(images)]


@lru_cache(maxsize=256)
def practice_picture(number: int, place_of: int, images: int) -> bytes:
    """The PNG of one picture of a practice task; the same each time."""
    contrast = CONTRASTS[number % len(CONTRASTS)]
    is_wanted = fits_of(number, images)[place_of]
    items = contrast.wanted if is_wanted else contrast.others[place_of % len(contrast.others)]
    scene = Scene(contrast.background, place(list(items), np.random.default_rng([number, place_of])))
    file = io.BytesIO()
    Image.fromarray(render(scene)).save(file, "PNG")
    return file.getvalue()
