"""Which head, and with what penalty: cross-validation with all answers about a prompt in one part."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from sklearn.model_selection import GroupKFold

from reward_models.choice_model import ChoiceModel, losses_of_scores
from reward_models.choices import Choices

LARGE = 20_000
"""Choices from which on one part chooses the penalty and all features are read: with so many neither matters much."""

_INNER_FOLDS = 4
_NESTED_UP_TO = 4000
"""Choices up to which the penalty is chosen anew inside each part: what it is judged on has then no say in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One head that was tried, and what it did on answers held out from it."""

    head: str
    l2: float | None
    """Penalty that cross-validation over all answers chose; None for a head without one."""
    log_loss: float
    """Mean negative log-likelihood of the held-out choices, ties included. The lowest is chosen."""
    by_l2: dict[str, float]
    """Held-out log loss of each penalty tried; of the first part alone when there are many answers."""
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
    """Models of the same choices that read other features, and which of them the answers speak for."""

    readings: tuple[Reading, ...]
    models: tuple[ChoiceModel, ...]
    chosen: int
    """By all answers."""
    of_part: Int[np.ndarray, "parts"]
    """By the answers outside each part alone: what a part is judged on has no say in it."""

    @property
    def model(self) -> ChoiceModel:
        return self.models[self.chosen]

    def reading(self, part: int | None = None) -> Reading:
        """By the answers outside the part, or by all."""
        return self.readings[self.chosen if part is None else self.of_part[part]]

    def with_slopes(self, slope: Float[np.ndarray, "choices"]) -> "Readings":
        return replace(self, models=tuple(model.with_slopes(slope) for model in self.models))


def compare_readings(
    features: Float[np.ndarray, "things features"],
    choices: Choices,
    folds: Folds,
    l2: Sequence[float],
    weights: Float[np.ndarray, "choices"],
) -> Readings:
    """The readings under which the answers are most probable, each at its best penalty.

    By evidence, which uses all answers it is given, and not by cross-validation: of few answers, what a held-out part
    says of six readings is mostly noise.
    """
    readings = READINGS if len(choices) <= LARGE else READINGS[:1]
    models = tuple(reading.model(features, choices) for reading in readings)
    best = np.zeros(folds.count + 1, int)
    if len(models) > 1:
        kept = [np.ones(len(choices), bool), *(folds.fitted_on(part) for part in range(folds.count))]
        columns = np.repeat(weights[:, None] * np.stack(kept, axis=1), len(l2), axis=1)
        table = [model.log_evidence(np.tile(l2, len(kept)), columns).reshape(len(kept), -1).max(1) for model in models]
        best = np.argmax(table, axis=0)
    return Readings(readings=readings, models=models, chosen=int(best[0]), of_part=best[1:])


def try_linear(
    readings: Readings,
    folds: Folds,
    group: Int[np.ndarray, "things"],
    l2: Sequence[float],
    weights: Float[np.ndarray, "choices"],
) -> Tried:
    """Every penalty in every part, all at once. A part is judged with the features and the penalty that the answers
    outside it chose; which are taken in the end is chosen by all answers.
    """
    choices, grid = readings.model.choices, np.array(sorted(l2, reverse=True))
    parts, is_large = np.arange(folds.count), len(choices) > LARGE
    by_l2 = _by_l2(readings.model, folds, parts[:1] if is_large else parts, grid, weights)
    best = int(by_l2.argmin())
    tried = grid[best : best + 1] if is_large else grid
    is_nested = len(grid) > 1 and len(choices) <= _NESTED_UP_TO
    inner = _inner_splits(choices, folds, group) if is_nested else []
    losses, scores = np.empty(len(choices)), np.empty(len(choices.things))
    for number in np.unique(readings.of_part):
        model, mine = readings.models[number], parts[readings.of_part == number]
        table, found = _held_out(model, folds, mine, tried, weights)
        taken = np.full(folds.count, 0 if is_large else best)
        if is_nested:
            inside = [each for each in inner if each[0] in mine]
            taken = _chosen_inside(model, inside, grid, weights, folds.count)
        for place, part in enumerate(mine):
            rows, things = folds.of_choice == part, folds.of_thing == part
            losses[rows], scores[things] = table[rows, taken[part]], found[things, place, taken[part]]
    return Tried(
        candidate=Candidate(
            head="linear",
            l2=float(grid[best]),
            log_loss=float(weights @ losses / weights.sum()),
            by_l2={f"{each:g}": float(loss) for each, loss in zip(grid, by_l2, strict=True)},
            reads=str(readings.reading()),
        ),
        scores=scores,
    )


def _held_out(
    model: ChoiceModel, folds: Folds, parts: np.ndarray, grid: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Losses of the parts' choices under every penalty, (choices, penalties); and all scores, (things, parts, ...)."""
    kept = np.stack([folds.fitted_on(int(part)) for part in parts], axis=1)
    fits = model.fit(np.tile(grid, len(parts)), weights[:, None] * np.repeat(kept, len(grid), axis=1))
    loss = model.losses(fits).reshape(len(weights), len(parts), len(grid))
    table = np.zeros((len(weights), len(grid)))
    for place, part in enumerate(parts):
        table[folds.of_choice == part] = loss[folds.of_choice == part, place]
    return table, fits.scores.reshape(-1, len(parts), len(grid)).astype(float)


def _by_l2(
    model: ChoiceModel, folds: Folds, parts: np.ndarray, grid: np.ndarray, weights: np.ndarray
) -> Float[np.ndarray, "penalties"]:
    """Mean loss of the parts' choices, held out, under every penalty."""
    judged = weights * np.isin(folds.of_choice, parts)
    return judged @ _held_out(model, folds, parts, grid, weights)[0] / judged.sum()


def best_l2(model: ChoiceModel, folds: Folds, l2: Sequence[float], weights: Float[np.ndarray, "choices"]) -> float:
    """The penalty that does best on one part held out: near enough for what is only weighed by it."""
    grid = np.array(sorted(l2, reverse=True))
    if folds.count < 2 or len(grid) < 2:
        return float(grid[0])
    return float(grid[_by_l2(model, folds, np.arange(1), grid, weights).argmin()])


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
    return Tried(candidate=Candidate(head=head, l2=None, log_loss=log_loss, by_l2={}), scores=scores)


def learning_curve(
    readings: Readings,
    folds: Folds,
    l2: Sequence[float],
    weights: Float[np.ndarray, "choices"],
    shares: Sequence[float],
    *,
    seed: int,
) -> list[Float[np.ndarray, "things"]]:
    """Held-out scores of the linear head fitted on each share of the answers outside a part, at its best penalty."""
    choices, grid = readings.model.choices, np.array(sorted(l2, reverse=True))
    chance = np.random.default_rng([seed, 1]).random(int(choices.answer.max()) + 1)[choices.answer]
    found = []
    for share in shares:
        table, scores = np.empty((len(choices), len(grid))), np.empty((len(choices.things), len(grid)))
        for number in np.unique(readings.of_part):
            mine = np.flatnonzero(readings.of_part == number)
            losses, every = _held_out(readings.models[number], folds, mine, grid, weights * (chance < share))
            for place, part in enumerate(mine):
                rows, things = folds.of_choice == part, folds.of_thing == part
                table[rows], scores[things] = losses[rows], every[things, place]
        found.append(scores[:, int((weights @ table).argmin())])
    return found


def _inner_splits(
    choices: Choices, folds: Folds, group: Int[np.ndarray, "things"]
) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """(outer part, fitted on, judged on) inside each part that has several groups."""
    mine, found = group_of(choices, group), []
    for part in range(folds.count):
        inside = np.flatnonzero(folds.fitted_on(part))
        count = min(_INNER_FOLDS, len(np.unique(mine[inside])))
        if count < 2:
            continue
        for _, judged in GroupKFold(count).split(inside, groups=mine[inside]):
            judged_on = np.zeros(len(choices), bool)
            judged_on[inside[judged]] = True
            found.append((part, folds.fitted_on(part) & ~judged_on, judged_on))
    return found


def _chosen_inside(
    model: ChoiceModel,
    inner: list[tuple[int, np.ndarray, np.ndarray]],
    grid: np.ndarray,
    weights: np.ndarray,
    parts: int,
) -> np.ndarray:
    """Index of each part's penalty; the strongest (the first) where one group inside tells nothing."""
    total = np.zeros((parts, len(grid)))
    if inner:
        kept = np.repeat(np.stack([fitted for _, fitted, _ in inner], axis=1), len(grid), axis=1)
        loss = model.losses(model.fit(np.tile(grid, len(inner)), weights[:, None] * kept))
        loss = loss.reshape(len(weights), len(inner), len(grid))
        for column, (part, _, judged_on) in enumerate(inner):
            total[part] += weights[judged_on] @ loss[judged_on, column]
    return total.argmin(1)
