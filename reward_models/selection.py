"""Which head, and with what penalty: cross-validation with all answers about a prompt in one part."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from sklearn.model_selection import GroupKFold

from reward_models.choice_model import ChoiceModel, losses_of_scores
from reward_models.choices import Choices

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
    """Held-out log loss of each penalty tried."""
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


def try_linear(
    model: ChoiceModel,
    folds: Folds,
    group: Int[np.ndarray, "things"],
    l2: Sequence[float],
    weights: Float[np.ndarray, "choices"],
) -> Tried:
    """Every penalty in every part, all at once."""
    choices, grid = model.choices, np.array(sorted(l2, reverse=True))
    inner = _inner_splits(choices, folds, group, weights) if len(grid) > 1 and len(choices) <= _NESTED_UP_TO else []
    outer = [folds.fitted_on(part) for part in range(folds.count)]
    kept = [*outer, *(fitted for _, fitted, _ in inner)]
    columns = np.repeat(np.stack(kept, axis=1), len(grid), axis=1)
    fits = model.fit(np.tile(grid, len(kept)), weights[:, None] * columns)
    loss = model.losses(fits).reshape(len(choices), len(kept), len(grid))
    held_out = np.zeros((len(choices), len(grid)))
    for part in range(folds.count):
        rows = folds.of_choice == part
        held_out[rows] = loss[rows, part]
    by_l2 = weights @ held_out / weights.sum()
    best = int(by_l2.argmin())
    taken = _chosen_inside(inner, loss[:, folds.count :], weights, folds.count) if inner else np.full(folds.count, best)
    scores = fits.scores.reshape(-1, len(kept), len(grid))
    return Tried(
        candidate=Candidate(
            head="linear",
            l2=float(grid[best]),
            log_loss=float(weights @ held_out[np.arange(len(choices)), taken[folds.of_choice]] / weights.sum()),
            by_l2={f"{each:g}": float(found) for each, found in zip(grid, by_l2, strict=True)},
        ),
        scores=scores[np.arange(len(scores)), folds.of_thing, taken[folds.of_thing]].astype(float),
    )


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
_READINGS_UP_TO = 20_000
"""Choices up to which readings are compared. With more, features that say nothing cost nothing."""


def choose_reading(
    features: Float[np.ndarray, "things features"],
    choices: Choices,
    l2: Sequence[float],
    weights: Float[np.ndarray, "choices"],
) -> tuple[Reading, ChoiceModel]:
    """The reading under which the answers are most probable, at its best penalty.

    By evidence, which uses all answers, and not by cross-validation: of few answers, what a held-out part says of six
    readings is mostly noise.
    """
    readings = READINGS if len(choices) <= _READINGS_UP_TO else READINGS[:1]
    models = [reading.model(features, choices) for reading in readings]
    if len(models) == 1:
        return readings[0], models[0]
    evidence = [model.log_evidence(np.array(l2), weights).max() for model in models]
    best = int(np.argmax(evidence))
    return readings[best], models[best]


def best_l2(model: ChoiceModel, folds: Folds, l2: Sequence[float], weights: Float[np.ndarray, "choices"]) -> float:
    """The penalty that does best on one part held out: near enough for what is only weighed by it."""
    grid, fitted_on = np.array(sorted(l2, reverse=True)), folds.fitted_on(0)
    if folds.count < 2 or len(grid) < 2:
        return float(grid[0])
    fits = model.fit(grid, np.repeat((weights * fitted_on)[:, None], len(grid), axis=1))
    return float(grid[((weights * ~fitted_on) @ model.losses(fits)).argmin()])


def try_head(
    head: str,
    fit: Callable[[Float[np.ndarray, "choices"]], Float[np.ndarray, "things"]],
    choices: Choices,
    folds: Folds,
    weights: Float[np.ndarray, "choices"],
) -> Tried:
    """A head without a penalty to choose. `fit` fits it on weighted choices and scores all things."""
    losses, scores = np.empty(len(choices)), np.empty(len(choices.things))
    for part in range(folds.count):
        fitted_on = weights * folds.fitted_on(part)
        found = fit(fitted_on)
        loss, _ = losses_of_scores(choices, found, fitted_on)
        losses[~folds.fitted_on(part)] = loss[~folds.fitted_on(part)]
        scores[folds.of_thing == part] = found[folds.of_thing == part]
    log_loss = float(weights @ losses / weights.sum())
    return Tried(candidate=Candidate(head=head, l2=None, log_loss=log_loss, by_l2={}), scores=scores)


def learning_curve(
    model: ChoiceModel,
    folds: Folds,
    l2: Sequence[float],
    weights: Float[np.ndarray, "choices"],
    shares: Sequence[float],
    *,
    seed: int,
) -> list[Float[np.ndarray, "things"]]:
    """Held-out scores of the linear head fitted on each share of the answers outside a part, at its best penalty."""
    choices, grid = model.choices, np.array(sorted(l2, reverse=True))
    chance = np.random.default_rng([seed, 1]).random(int(choices.answer.max()) + 1)[choices.answer]
    kept = [(chance < share) & folds.fitted_on(part) for share in shares for part in range(folds.count)]
    columns = np.repeat(np.stack(kept, axis=1), len(grid), axis=1)
    fits = model.fit(np.tile(grid, len(kept)), weights[:, None] * columns)
    loss = model.losses(fits).reshape(len(choices), len(shares), folds.count, len(grid))
    scores = fits.scores.reshape(-1, len(shares), folds.count, len(grid))
    found = []
    for number in range(len(shares)):
        held_out = loss[np.arange(len(choices)), number, folds.of_choice]
        best = int((weights @ held_out).argmin())
        found.append(scores[np.arange(len(scores)), number, folds.of_thing, best].astype(float))
    return found


def _inner_splits(
    choices: Choices, folds: Folds, group: Int[np.ndarray, "things"], weights: Float[np.ndarray, "choices"]
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
    inner: list[tuple[int, np.ndarray, np.ndarray]], loss: np.ndarray, weights: np.ndarray, parts: int
) -> np.ndarray:
    """Index of each part's penalty; the strongest (the first) where one group inside tells nothing."""
    total = np.zeros((parts, loss.shape[2]))
    for column, (part, _, judged_on) in enumerate(inner):
        total[part] += weights[judged_on] @ loss[judged_on, column]
    return total.argmin(1)
