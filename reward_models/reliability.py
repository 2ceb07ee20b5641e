"""How far each rater can be followed: the slope of their answers on what everybody else's answers predict.

P(left) = sigma(beta_w (s_left - s_right) + b_w): beta_w is 1 for the median rater, 0 for one who answers at random and
less than 0 for one who answers the other way round. A rater's slope is judged on scores fitted without that rater;
on scores that their own answers went into, whoever answers a lot would look reliable. (A joint fit of scores and slopes
is as good with one adversary in eight, and costs accuracy when all raters are alike.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from reward_models.answers import Answer
from reward_models.choice_model import ChoiceModel, fit_columns
from reward_models.choices import RATER_PENALTY, Choices

PRIOR_SD = 0.7
"""Of a rater's slope about 1, before they have answered: it takes some answers to be thought ill of."""

_PASSES = 3
_MOST_PARTS = 8
"""Parts in which raters are left out: each costs a fit."""
_ANY_SLOPE = 10.0
"""Prior standard deviation of a slope that all raters share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaterFit:
    """One rater's slope and preference for the left side (log-odds), with standard errors; nan where not known."""

    answers: int
    reliability: float
    reliability_se: float
    side_bias: float
    side_bias_se: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    raters: dict[str, RaterFit]
    form_slopes: dict[str, float]
    """How strongly a point of score moves an answer of each form, beside a comparison's 1."""
    slope: Float[np.ndarray, "choices"]
    """Of each choice: its rater's reliability times its form's slope."""


def fit_reliability(
    model: ChoiceModel, answers: Sequence[Answer], l2: float, weights: Float[np.ndarray, "choices"]
) -> Reliability:
    """Raters' slopes, with scores fitted at penalty `l2` and choices counted by `weights`.

    Slopes are relative: the median rater's is 1, and so a lone one's.
    """
    choices = model.choices
    names, rater = np.unique([answers[each].rater for each in choices.answer], return_inverse=True)
    forms, form = np.unique([_form(answers[each]) for each in choices.answer], return_inverse=True)
    part = _parts(answers, choices, rater, len(names))
    beta, unit = np.ones(len(names)), np.ones(len(forms))
    theta, error = np.empty((2, len(names), 2))
    start = None  # the next pass begins where this one ended
    for _ in range(_PASSES):
        slope = beta[rater] * (unit / _of_pairs(unit, forms))[form]
        held, fixed, start = _predicted_without(model.with_slopes(slope), part, l2, weights, start)
        unit = np.array(
            [_common_slope(choices, held, fixed, beta[rater], weights * (form == n)) for n in range(len(forms))]
        )
        for n in range(len(names)):
            mine = np.flatnonzero(rater == n)
            theta[n], error[n] = _own_slope(choices, mine, held, fixed, unit[form[mine]], weights[mine])
        typical = float(np.median(theta[:, 0]))
        if typical > 0.1:  # else nobody agrees with anybody, and who is turned round cannot be said
            theta[:, 0], error[:, 0] = theta[:, 0] / typical, error[:, 0] / typical
        else:
            theta[:, 0] = 1.0
        beta = theta[:, 0]
    answered = [len(set(choices.answer[rater == n].tolist())) for n in range(len(names))]
    return Reliability(
        raters={
            str(name): RaterFit(
                answers=answered[n],
                reliability=float(beta[n]),
                reliability_se=float(error[n, 0]),
                side_bias=float(theta[n, 1]),
                side_bias_se=float(error[n, 1]),
            )
            for n, name in enumerate(names)
        },
        form_slopes={str(name): float(each) for name, each in zip(forms, unit / _of_pairs(unit, forms), strict=True)},
        slope=beta[rater] * (unit / _of_pairs(unit, forms))[form],
    )


def _form(answer: Answer) -> str:
    return answer.form if answer.levels else "comparison"


def _of_pairs(unit: np.ndarray, forms: np.ndarray) -> float:
    """The slope that the others are relative to: of comparisons, or without any of the first form."""
    return float(unit[list(forms).index("comparison")] if "comparison" in forms else unit[0])


def _parts(answers: Sequence[Answer], choices: Choices, rater: Int[np.ndarray, "choices"], raters: int) -> np.ndarray:
    """In which part each choice is left out: with its rater, the busiest alone as far as parts go; or with one rater by
    prompt.
    """
    if raters < 2:
        _, prompt = np.unique([answers[each].prompt for each in choices.answer], return_inverse=True)
        return prompt % _MOST_PARTS
    part = np.empty(raters, int)
    part[np.argsort(-np.bincount(rater, minlength=raters), kind="stable")] = np.arange(raters) % _MOST_PARTS
    return part[rater]


def _predicted_without(
    model: ChoiceModel,
    part: Int[np.ndarray, "choices"],
    l2: float,
    weights: Float[np.ndarray, "choices"],
    start: np.ndarray | None,
) -> tuple[Float[np.ndarray, "alternatives"], Float[np.ndarray, "alternatives"], np.ndarray]:
    """Scores' and extras' share of every alternative's utility, by the fit that did not see its part.

    Without sides: those are each rater's own.
    """
    count = int(part.max()) + 1
    kept = weights[:, None] * (part[:, None] != np.arange(count))
    fits = model.fit(np.full(count, l2), kept, start=start)
    rows = np.repeat(part, model.choices.sizes)
    scores = (model.choices.scores @ fits.scores)[np.arange(len(rows)), rows]
    is_side = np.array([name.split(",")[0] == "side" for name in model.choices.extra_names])
    found = np.where(is_side[:, None], 0, model.extras(fits))
    extras = (model.choices.extras @ found)[np.arange(len(rows)), rows]
    return scores.astype(float), extras.astype(float), fits.theta


def _common_slope(
    choices: Choices, held: np.ndarray, fixed: np.ndarray, beta: np.ndarray, weights: np.ndarray
) -> float:
    kept = np.flatnonzero(weights)
    rows = choices.alternatives(kept)
    column = (held * np.repeat(beta, choices.sizes))[rows, None]
    theta, _ = fit_columns(choices.take(kept), column, fixed[rows], weights[kept], [1.0], [_ANY_SLOPE**-2])
    return max(float(theta[0]), 0.05)  # scores that predict nothing must not turn everybody round


def _own_slope(
    choices: Choices, mine: np.ndarray, held: np.ndarray, fixed: np.ndarray, unit: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A rater's slope and side bias, with standard errors."""
    part, rows = choices.take(mine), choices.alternatives(mine)
    sides = [n for n, name in enumerate(choices.extra_names) if name == "side"]
    side = part.extras[:, sides].toarray().sum(1)
    columns = np.column_stack([held[rows] * np.repeat(unit, part.sizes), side])
    theta, covariance = fit_columns(part, columns, fixed[rows], weights, [1.0, 0.0], [PRIOR_SD**-2, RATER_PENALTY])
    error = np.sqrt(np.diag(covariance))
    return (theta, error) if sides and side.any() else (theta * [1, np.nan], error * [1, np.nan])
