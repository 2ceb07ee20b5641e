"""Four to nine pictures put in order: the best alone, or a place for each, with ties."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from data.rating_kinds import Control, in_task_order, is_skip, numbers_of
from data.records import OVERALL, ImageValues, Outcome
from hitl.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Ranking:
    """Payload: `{"ranks": [2, 1, 1, 3]}`, a place for each image as displayed: 1 is best, equal is a tie.

    Where the screen asks for the best alone, the others' places are null: `{"ranks": [null, 1, null, null]}`.
    """

    name: str
    screen: Literal["best", "rank"]
    images: ClassVar[range] = range(4, 10)
    levels: ClassVar[int] = 0
    controls: ClassVar[tuple[Control, ...]] = (Control(key="s", label="Skip", choice="skip"),)

    def validate(self, payload: Mapping[str, Any], images: int) -> None:
        """Raise ConfigError unless every image has a place, or one image is the best."""
        if is_skip(payload):
            return
        asks_best, places = self.screen == "best", range(1, images + 1)
        ranks = numbers_of("ranks", payload.get("ranks"), images=images, allowed=places, or_none=asks_best)
        if asks_best and sorted(ranks, key=str) != [1, *[None] * (images - 1)]:
            raise ConfigError(f"ranks is {ranks!r}.", hint="Send 1 for the best image and null for the others.")

    def is_skip(self, payload: Mapping[str, Any]) -> bool:
        return is_skip(payload)

    def outcomes(
        self, payload: Mapping[str, Any], *, image_ids: Sequence[str], displayed: Sequence[str]
    ) -> list[Outcome]:
        """None: an order is more than its pairs, and counting those as well would count it twice."""
        return []

    def values(
        self, payload: Mapping[str, Any], *, image_ids: Sequence[str], displayed: Sequence[str]
    ) -> list[ImageValues]:
        """The places without gaps: 1, 1, 3 says what 1, 1, 2 says."""
        self.validate(payload, len(displayed))
        if is_skip(payload):
            return []
        ranks = in_task_order(payload["ranks"], image_ids=image_ids, displayed=displayed)
        places = {rank: place for place, rank in enumerate(sorted({*ranks} - {None}), start=1)}
        values = tuple(None if rank is None else places[rank] for rank in ranks)
        return [ImageValues(axis=OVERALL, image_ids=tuple(image_ids), values=values, levels=None)]


RANKING = Ranking("ranking", screen="rank")
BEST = Ranking("best", screen="best")
