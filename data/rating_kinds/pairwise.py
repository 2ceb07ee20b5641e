"""Two pictures side by side: left, right, tie, both bad, or skip; which is better, fits the text, or looks better."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from data.rating_kinds import Control, is_skip
from data.records import ImageValues, Outcome
from hitl.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Pairwise:
    """Payload: `{"choice": "left" | "right" | "tie" | "both_bad" | "skip"}`. Further keys are kept and ignored."""

    name: str
    screen: ClassVar[Literal["choose"]] = "choose"
    images: ClassVar[range] = range(2, 3)
    levels: ClassVar[int] = 0
    controls: ClassVar[tuple[Control, ...]] = (
        Control(key="ArrowLeft", label="Left is better", choice="left"),
        Control(key="ArrowRight", label="Right is better", choice="right"),
        Control(key="t", label="Tie", choice="tie"),
        Control(key="b", label="Both bad", choice="both_bad"),
        Control(key="s", label="Skip", choice="skip"),
    )

    def validate(self, payload: Mapping[str, Any], images: int = 2) -> None:
        """Raise ConfigError unless `choice` is one of the controls'."""
        known = [control.choice for control in self.controls]
        if payload.get("choice") not in known:
            raise ConfigError(
                f"A rating of kind {self.name} has the choice {payload.get('choice')!r}.",
                hint=f"Send one of: {', '.join(known)}.",
            )

    def is_skip(self, payload: Mapping[str, Any]) -> bool:
        return is_skip(payload)

    def outcomes(
        self, payload: Mapping[str, Any], *, image_ids: Sequence[str], displayed: Sequence[str]
    ) -> list[Outcome]:
        """One outcome, or none for a skip. "Left" is turned into `a` or `b` here and nowhere else."""
        self.validate(payload)
        image_a, image_b = image_ids
        left = "a" if displayed[0] == image_a else "b"
        right = "b" if left == "a" else "a"
        match payload["choice"]:
            case "skip":
                return []
            case "left":
                outcome = left
            case "right":
                outcome = right
            case _:
                outcome = "tie"
        both_bad = payload["choice"] == "both_bad"
        return [Outcome(image_a=image_a, image_b=image_b, outcome=outcome, both_bad=both_bad, left=left)]

    def values(
        self, payload: Mapping[str, Any], *, image_ids: Sequence[str], displayed: Sequence[str]
    ) -> list[ImageValues]:
        """None: a pair is an outcome."""
        return []


PAIRWISE = Pairwise("pairwise")
ALIGNMENT = Pairwise("alignment")
"""Asks only which of the two shows the text more exactly."""
QUALITY = Pairwise("quality")
"""Asks only which of the two looks better."""
