"""Rating kinds: what a rater may answer, what to show for it, and what follows from an answer.

A new kind is one module here and one line in `data.RATING_KINDS` (or an entry point of the group `hitl.rating_kinds`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from data.records import ImageValues, Outcome
from hitl.core.errors import ConfigError

SKIP = "skip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """One thing that a rater can press."""

    key: str
    """Name of the key as the browser's `KeyboardEvent.key` has it."""
    label: str
    choice: str


class RatingKind(Protocol):
    """The rules that every entry of the registry keeps; `tests/unit/test_rating_kinds.py` checks them."""

    @property
    def name(self) -> str: ...

    @property
    def screen(self) -> Literal["choose", "best", "rank", "grade"]:
        """How the page asks: one choice for all images, one image, a place for each, or a grade for each and axis."""
        ...

    @property
    def images(self) -> range:
        """How many images a task may show; the first number is what it shows unless `rate.images` says otherwise."""
        ...

    @property
    def levels(self) -> int:
        """Grades that an image can get, from 1; 0 where images are not graded."""
        ...

    @property
    def controls(self) -> tuple[Control, ...]: ...

    def validate(self, payload: Mapping[str, Any], images: int) -> None:
        """Raise ConfigError when the payload is not an answer of this kind about so many images."""
        ...

    def is_skip(self, payload: Mapping[str, Any]) -> bool:
        """Whether the rater gave no answer and somebody else should be asked."""
        ...

    def outcomes(
        self, payload: Mapping[str, Any], *, image_ids: Sequence[str], displayed: Sequence[str]
    ) -> list[Outcome]:
        """What the answer says about pairs: `image_ids` in the task's order, `displayed` as the rater saw them."""
        ...

    def values(
        self, payload: Mapping[str, Any], *, image_ids: Sequence[str], displayed: Sequence[str]
    ) -> list[ImageValues]:
        """What the answer says about images that are not a pair, in the task's order."""
        ...


def is_skip(payload: Mapping[str, Any]) -> bool:
    """A skip is the same in every kind: `{"choice": "skip"}`, with a `reason` or without."""
    return payload.get("choice") == SKIP


def in_task_order(values: Sequence[Any], *, image_ids: Sequence[str], displayed: Sequence[str]) -> tuple[Any, ...]:
    """Values that were given for the images as displayed, for the images as the task has them."""
    by_image = dict(zip(displayed, values, strict=True))
    return tuple(by_image[image_id] for image_id in image_ids)


def numbers_of(name: str, values: object, *, images: int, allowed: range, or_none: bool = False) -> list[int | None]:
    """The values when they are a list with a whole number of `allowed` (or null) for each image; else ConfigError."""
    if isinstance(values, list) and len(values) == images:
        found = [each for each in values if (each is None and or_none) or (type(each) is int and each in allowed)]
        if len(found) == images:
            return found
    null = " or null" if or_none else ""
    raise ConfigError(
        f"{name} is {values!r}.",
        hint=f"Send a list with a number from {allowed.start} to {allowed.stop - 1}{null} for each of {images} images, "
        "as they were shown.",
    )
