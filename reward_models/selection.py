"""Which head, by cross-validation with all answers about a prompt in one part; and what the linear head reads and how
strongly its weights are held back, by evidence.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Int
from sklearn.model_selection import GroupKFold

from reward_models.choice_model import ChoiceModel, losses_of_scores
from reward_models.choices import Choices

LARGE = 20_000
"""Choices from which on all features are read, and one penalty serves all parts: with so many neither matters much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One head that was tried, and what it did on answers held out from it."""

    head: str
    l2: float | None
    """Penalty that all answers chose; None for a head without one."""
    log_loss: float
    """Mean negative log-likelihood of the held-out choices, ties included. The lowest is chosen."""
    log_evidence: dict[str, float] = field(default_factory=dict)
    """Of each penalty tried, in nats less than the best's: how much less probable it makes the answers."""
    reads: str = ""
    """Features that the linear head reads; the first leads when it is the CLIP score."""
    accuracy: float = float("nan")
    """Share of the held-out comparisons that prefer an image which it gets right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    candidate: Candidate
    scores: Float[np.ndarray, "things"]
    """Of each thing by the fit that did not see its group. Comparable inside a group only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folds:
    """A split of groups of things (prompts) into parts of about as many choices."""

    of_choice: Int[np.ndarray, "choices"]
    of_thing: Int[np.ndarray, "things"]
    count: int

    @classmethod
    def of(cls, choices: Choices, group: Int[np.ndarray, "things"], folds: int) -> "Folds":
        mine = group_of(choices, group)
        count = min(folds, len(np.unique(mine)))
        of_group = np.zeros(int(group.max()) + 1, int)
        for part, (_, held_out) in enumerate(GroupKFold(count).split(mine, groups=mine)):
            of_group[mine[held_out]] = part
        return cls(of_choice=of_group[mine], of_thing=of_group[group], count=count)

    def fitted_on(self, part: int) -> np.ndarray:
        """Mask of the choices outside the part."""
        return self.of_choice != part


def group_of(choices: Choices, group: Int[np.ndarray, "things"]) -> Int[np.ndarray, "choices"]:
    """The group that each choice's things belong to: one, since a choice is about one prompt."""
    rows = choices.starts[:-1]  # an alternative without scores is never the first
    return group[choices.scores.indices[choices.scores.indptr[rows]]]


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

    def reading(self, part: int | None = None) -> Reading:
        """By the answers outside the part, or by all."""
        return self.readings[self.chosen if part is None else self.of_part[part]]

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
    table = np.stack([_log_evidence(model, grid, kept) for model in models])
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


def _log_evidence(
    model: ChoiceModel, grid: Float[np.ndarray, "penalties"], kept: Float[np.ndarray, "choices sets"]
) -> Float[np.ndarray, "sets penalties"]:
    columns = np.repeat(kept, len(grid), axis=1)
    return model.log_evidence(np.tile(grid, kept.shape[1]), columns).reshape(-1, len(grid))


def try_linear(readings: Readings, folds: Folds, weights: Float[np.ndarray, "choices"]) -> Tried:
    """The linear head in every part, with the features and at the penalty that the answers outside it chose."""
    losses, scores = np.empty(len(weights)), np.empty(len(readings.model.choices.things))
    for model, parts, fitted_on in _by_reading(readings, folds):
        fits = model.fit(readings.l2_of_part[parts], weights[:, None] * fitted_on)
        found = model.losses(fits)
        for column, part in enumerate(parts):
            rows, things = folds.of_choice == part, folds.of_thing == part
            losses[rows], scores[things] = found[rows, column], fits.scores[things, column]
    return Tried(
        candidate=Candidate(
            head="linear",
            l2=readings.l2,
            log_loss=float(weights @ losses / weights.sum()),
            log_evidence={f"{each:g}": value for each, value in readings.log_evidence.items()},
            reads=str(readings.reading()),
        ),
        scores=scores,
    )


def _by_reading(readings: Readings, folds: Folds) -> Iterator[tuple[ChoiceModel, np.ndarray, np.ndarray]]:
    """Each model with the parts that chose it, and the choices outside each of them: (choices, parts)."""
    for number in np.unique(readings.of_part):
        parts = np.flatnonzero(readings.of_part == number)
        yield readings.models[number], parts, np.stack([folds.fitted_on(part) for part in parts.tolist()], axis=1)


def try_head(
    head: str,
    fit: Callable[[Float[np.ndarray, "choices"], int], Float[np.ndarray, "things"]],
    choices: Choices,
    folds: Folds,
    weights: Float[np.ndarray, "choices"],
) -> Tried:
    """A head without a penalty to choose. `fit` fits it on choices weighted 0 in a part and scores all things."""
    losses, scores = np.empty(len(choices)), np.empty(len(choices.things))
    for part in range(folds.count):
        fitted_on = weights * folds.fitted_on(part)
        found = fit(fitted_on, part)
        loss, _ = losses_of_scores(choices, found, fitted_on)
        losses[~folds.fitted_on(part)] = loss[~folds.fitted_on(part)]
        scores[folds.of_thing == part] = found[folds.of_thing == part]
    log_loss = float(weights @ losses / weights.sum())
    return Tried(candidate=Candidate(head=head, l2=None, log_loss=log_loss), scores=scores)


def learning_curve(
    readings: Readings,
    folds: Folds,
    l2: Sequence[float],
    weights: Float[np.ndarray, "choices"],
    shares: Sequence[float],
    *,
    seed: int,
) -> list[Float[np.ndarray, "things"]]:
    """Held-out scores of the linear head fitted on each share of the answers outside a part, at the penalty that these
    choose; of many answers, at the one that all chose.
    """
    choices, grid = readings.model.choices, np.array(sorted(l2, reverse=True))
    grid = grid if len(choices) <= LARGE else np.array([readings.l2])
    chance = np.random.default_rng([seed, 1]).random(int(choices.answer.max()) + 1)[choices.answer]
    found = []
    for share in shares:
        scores = np.empty(len(choices.things))
        for model, parts, fitted_on in _by_reading(readings, folds):
            kept = (weights * (chance < share))[:, None] * fitted_on
            best = _log_evidence(model, grid, kept).argmax(1) if len(grid) > 1 else np.zeros(len(parts), int)
            fits = model.fit(grid[best], kept)
            for column, part in enumerate(parts):
                scores[folds.of_thing == part] = fits.scores[folds.of_thing == part, column]
        found.append(scores)
    return found
