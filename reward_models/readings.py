"""What the linear head reads, and how strongly its weights are held back: by evidence, not by cross-validation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from reward_models.choice_model import ChoiceModel
from reward_models.choices import Choices
from reward_models.folds import Folds

LARGE = 20_000
"""Choices from which on all features are read, and one penalty serves all parts: with so many neither matters much."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Which features the linear head reads, and whether the CLIP score among them is all but free of a penalty."""

    clip_score_leads: bool
    image: bool
    product: bool

    def __str__(self) -> str:
        parts = [("CLIP score", self.clip_score_leads), ("image", self.image), ("image × text", self.product)]
        return ", ".join(name for name, is_read in parts if is_read)

    def model(self, features: Float[np.ndarray, "things features"], choices: Choices) -> ChoiceModel:
        width = (features.shape[1] - 1) // 2
        parts = [range(self.clip_score_leads), range(1, 1 + width) if self.image else ()]
        parts.append(range(1 + width, 1 + 2 * width) if self.product else ())
        columns = np.array([column for part in parts for column in part])
        blocks = max(self.image + self.product, 1)
        return ChoiceModel(features, choices, anchors=int(self.clip_score_leads), blocks=blocks, columns=columns)


READINGS = tuple(
    Reading(leads, image, product)
    for leads in (True, False)
    for image, product in ((True, True), (True, False), (False, True))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """Models of the same choices that read other features, and which of them at what penalty the answers speak for."""

    readings: tuple[Reading, ...]
    models: tuple[ChoiceModel, ...]
    chosen: int
    """By all answers, as `l2`."""
    l2: float
    log_evidence: dict[float, float]
    """Of each penalty with the chosen reading, in nats less than the best's."""
    of_part: Int[np.ndarray, "parts"]
    """By the answers outside each part alone, as `l2_of_part`: what a part is judged on has no say in it."""
    l2_of_part: Float[np.ndarray, "parts"]

    @property
    def model(self) -> ChoiceModel:
        return self.models[self.chosen]

    def reading(self, part: int | None = None) -> tuple[Reading, float]:
        """What is read and at what penalty, by the answers outside the part or by all."""
        if part is None:
            return self.readings[self.chosen], self.l2
        return self.readings[self.of_part[part]], float(self.l2_of_part[part])

    def by_part(self, folds: Folds) -> Iterator[tuple[ChoiceModel, np.ndarray, np.ndarray]]:
        """Each model with the parts that chose it, and the choices outside each of these: (choices, parts)."""
        for number in np.unique(self.of_part):
            parts = np.flatnonzero(self.of_part == number)
            yield self.models[number], parts, np.stack([folds.fitted_on(part) for part in parts.tolist()], axis=1)

    def with_slopes(
        self,
        slope: Float[np.ndarray, "choices"],
        folds: Folds,
        l2: Sequence[float],
        weights: Float[np.ndarray, "choices"],
    ) -> "Readings":
        """With scores that move each choice so strongly, and unless there are many compared again: those that all or
        any part had chosen.
        """
        if len(weights) > LARGE:
            return replace(self, models=tuple(model.with_slopes(slope) for model in self.models))
        kept = sorted({self.chosen, *self.of_part.tolist()})
        readings, models = zip(*((self.readings[n], self.models[n].with_slopes(slope)) for n in kept), strict=True)
        return _compared(readings, models, folds, l2, weights)


def compare_readings(
    features: Float[np.ndarray, "things features"],
    choices: Choices,
    folds: Folds,
    l2: Sequence[float],
    weights: Float[np.ndarray, "choices"],
) -> Readings:
    """The reading and the penalty under which the answers are most probable.

    By evidence, which uses all answers it is given, and not by cross-validation: of few answers, what a held-out part
    says of six readings is mostly noise, and the penalty that predicts best makes the posterior too sure.
    """
    readings = READINGS if len(choices) <= LARGE else READINGS[:1]
    models = tuple(reading.model(features, choices) for reading in readings)
    return _compared(readings, models, folds, l2, weights)


def _compared(
    readings: tuple[Reading, ...],
    models: tuple[ChoiceModel, ...],
    folds: Folds,
    l2: Sequence[float],
    weights: Float[np.ndarray, "choices"],
) -> Readings:
    grid, count = np.array(sorted(l2, reverse=True)), folds.count
    parts = [folds.fitted_on(part) for part in range(count)] if len(weights) <= LARGE else []
    kept = weights[:, None] * np.stack([np.ones(len(weights), bool), *parts], axis=1)
    table = np.stack([log_evidence(model, grid, kept) for model in models])
    best = table.reshape(len(models), -1, len(grid)).transpose(1, 0, 2).reshape(kept.shape[1], -1).argmax(1)
    chosen, taken = np.divmod(best, len(grid))
    mine = table[chosen[0], 0]
    of_part = np.arange(1, count + 1) if parts else np.zeros(count, int)
    return Readings(
        readings=readings,
        models=models,
        chosen=int(chosen[0]),
        l2=float(grid[taken[0]]),
        log_evidence={float(each): float(value) for each, value in zip(grid, mine - mine.max(), strict=True)},
        of_part=chosen[of_part],
        l2_of_part=grid[taken[of_part]],
    )


def log_evidence(
    model: ChoiceModel, grid: Float[np.ndarray, "penalties"], kept: Float[np.ndarray, "choices sets"]
) -> Float[np.ndarray, "sets penalties"]:
    columns = np.repeat(kept, len(grid), axis=1)
    return model.log_evidence(np.tile(grid, kept.shape[1]), columns).reshape(-1, len(grid))
