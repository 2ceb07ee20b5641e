"""Grades for each picture by itself: 1 to 5 on named axes, or good and bad."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from data.rating_kinds import Control, in_task_order, is_skip, numbers_of
from data.records import OVERALL, ImageValues, Outcome
from hitl.core.errors import ConfigError

_MOST_AXES = 9
_LONGEST_AXIS = 40


@dataclass(frozen=True, slots=True)
class Grades:
    """Payload: `{"grades": {"overall": [4, 2], "alignment": [5, 1]}}`, a grade for each image as displayed.

    The axis `overall` is always there: it is what the reward model learns from.
    """

    name: str
    levels: int
    screen: ClassVar[Literal["grade"]] = "grade"
    images: ClassVar[range] = range(1, 10)
    controls: ClassVar[tuple[Control, ...]] = (Control(key="s", label="Skip", choice="skip"),)

    def validate(self, payload: Mapping[str, Any], images: int) -> None:
        """Raise ConfigError unless every image has a grade on every axis."""
        if is_skip(payload):
            return
        grades = payload.get("grades")
        if not isinstance(grades, dict) or OVERALL not in grades or len(grades) > _MOST_AXES:
            raise ConfigError(
                f"grades is {grades!r}.", hint=f'Send an object of at most {_MOST_AXES} axes, "{OVERALL}" among them.'
            )
        for axis, given in grades.items():
            if len(axis) > _LONGEST_AXIS:
                raise ConfigError(f"An axis is called {axis!r}.", hint=f"Use at most {_LONGEST_AXIS} letters.")
            numbers_of(f"grades.{axis}", given, images=images, allowed=range(1, self.levels + 1))

    def is_skip(self, payload: Mapping[str, Any]) -> bool:
        return is_skip(payload)

    def outcomes(
        self, payload: Mapping[str, Any], *, image_ids: Sequence[str], displayed: Sequence[str]
    ) -> list[Outcome]:
        """None: the reward model learns from the grades themselves."""
        return []

    def values(
        self, payload: Mapping[str, Any], *, image_ids: Sequence[str], displayed: Sequence[str]
    ) -> list[ImageValues]:
        """One for each axis, by name."""
        self.validate(payload, len(displayed))
        if is_skip(payload):
            return []
        return [
            ImageValues(
                axis=axis,
                image_ids=tuple(image_ids),
                values=in_task_order(given, image_ids=image_ids, displayed=displayed),
                levels=self.levels,
            )
            for axis, given in sorted(payload["grades"].items())
        ]


GRADES = Grades("grades", levels=5)
GOOD_BAD = Grades("good_bad", levels=2)
