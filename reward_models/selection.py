"""Which head: cross-validation with all answers about a prompt in one part."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from reward_models.choice_model import losses_of_scores
from reward_models.choices import Choices
from reward_models.folds import Folds
from reward_models.readings import LARGE, Readings, log_evidence


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


def try_linear(readings: Readings, folds: Folds, weights: Float[np.ndarray, "choices"]) -> Tried:
    """The linear head in every part, with the features and at the penalty that the answers outside it chose."""
    losses, scores = np.empty(len(weights)), np.empty(len(readings.model.choices.things))
    for model, parts, fitted_on in readings.by_part(folds):
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
            reads=str(readings.reading()[0]),
        ),
        scores=scores,
    )


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
        for model, parts, fitted_on in readings.by_part(folds):
            kept = (weights * (chance < share))[:, None] * fitted_on
            best = log_evidence(model, grid, kept).argmax(1) if len(grid) > 1 else np.zeros(len(parts), int)
            fits = model.fit(grid[best], kept)
            for column, part in enumerate(parts):
                scores[folds.of_thing == part] = fits.scores[folds.of_thing == part, column]
        found.append(scores)
    return found
