"""Rating kinds: what a rater may answer, what to show for it, and which comparisons follow from an answer.

A new kind is one module here and one line in `data.RATING_KINDS` (or an entry point of the group `hitl.rating_kinds`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from data.records import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """One thing that a rater can press."""

    key: str
    """Name of the key as the browser's `KeyboardEvent.key` has it."""
    label: str
    choice: str


class RatingKind(Protocol):
    """The rules that every entry of the registry keeps; `tests/contract` checks them."""

    @property
    def name(self) -> str: ...

    @property
    def images_per_task(self) -> int: ...

    @property
    def controls(self) -> tuple[Control, ...]: ...

    def validate(self, payload: Mapping[str, Any]) -> None:
        """Raise ConfigError when the payload is not an answer of this kind."""
        ...

    def is_skip(self, payload: Mapping[str, Any]) -> bool:
        """Whether the rater gave no answer and somebody else should be asked."""
        ...

    def outcomes(
        self, payload: Mapping[str, Any], *, image_ids: Sequence[str], displayed: Sequence[str]
    ) -> list[Outcome]:
        """What the answer says about the images: `image_ids` in the task's order, `displayed` as the rater saw them."""
        ...
