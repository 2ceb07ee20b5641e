"""Penalised maximum likelihood of choices with scores linear in features: many fits of the same choices at once.

Cross-validation, its inner parts, penalties, raters left out and shares of the data differ in weights and penalties
alone. So the features are rotated once to where the likelihood's curvature is diagonal, and all fits take their steps
together, as columns of one matrix product: by L-BFGS, each from its own diagonal. A library's solver would fit one
after the other.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import cho_factor, cho_solve, eigh
from scipy.sparse import csr_array, diags_array

from reward_models.choices import ANCHOR_PENALTY, Choices

_HISTORY = 10
_MOST_STEPS = 300
_NEWTON_STEPS = 50
_DOUBLE_UP_TO = 4_000_000
"""Numbers in the features up to which fits run in double precision."""
_MOST_EXTRAS = 1500
"""Extras up to which Newton's steps and the posterior hold them; of more, the offsets that come last are held fixed."""


@dataclass(frozen=True, slots=True)
class Fits:
    """Several fits, one to a column."""

    theta: Float[np.ndarray, "parameters fits"]
    """Weights in the rotated features, then extras."""
    scores: Float[np.ndarray, "things fits"]


@dataclass(frozen=True, slots=True)
class Posterior:
    """Laplace's approximation (MacKay 1992, doi:10.1162/neco.1992.4.3.415): a Gaussian at the maximum."""

    weight: Float[np.ndarray, "features"]
    covariance: Float[np.ndarray, "features features"]
    extras: Float[np.ndarray, "extras"]


class ChoiceModel:
    """Choices and their things' features. The first `anchors` features are all but free; the others are penalised.

    The penalised features are first freed of what the anchors explain (in the likelihood's curvature at equal scores)
    and scaled, block by block, so that a difference between images has a root mean square of 1. A feature's penalty is
    `l2` after that. With `columns` those features alone are used, and the weights of the others are 0.
    """

    def __init__(
        self,
        features: Float[np.ndarray, "things features"],
        choices: Choices,
        *,
        anchors: int = 1,
        blocks: int = 2,
        columns: Int[np.ndarray, "used"] | None = None,
    ) -> None:
        self._choices = choices
        self._slope = np.repeat(choices.slope, choices.sizes)
        dtype = np.float64 if features.size <= _DOUBLE_UP_TO else np.float32
        self._columns, self._features = columns, features.shape[1]
        x = np.asarray(features if columns is None else features[:, columns], dtype=dtype)
        x = x - x.mean(0)
        self._curvature = _curvature(
            choices, np.repeat(1 / choices.sizes, choices.sizes), np.ones(len(choices))
        ).astype(dtype)
        self._anchors = anchors
        self._scale = np.ones(x.shape[1])
        self._explained = np.zeros((anchors, x.shape[1] - anchors))
        bent = self._curvature @ x
        self._rescale(x, bent, blocks)
        rest, bent = x[:, anchors:], bent[:, anchors:]
        basis = np.eye(rest.shape[1], dtype=dtype)
        if rest.shape[0] < rest.shape[1]:  # the span of the data is enough: outside it weights stay 0
            basis = np.linalg.svd(rest, full_matrices=False)[2].T
            rest, bent = rest @ basis, bent @ basis
        values, vectors = np.zeros(0), np.eye(0)
        if rest.size:
            values, vectors = eigh((rest.T @ bent).astype(float))
        self._basis = basis @ vectors
        self._x = np.hstack([x[:, :anchors], rest @ vectors.astype(dtype)])
        lead = self._x[:, :anchors]
        self._bound = np.append(np.einsum("ij,ij->j", lead, self._curvature @ lead), values.clip(0))
        self._extra_bound = _extra_curvature(choices)
        self._compiled = _Compiled(choices, dtype)

    def _rescale(self, x: np.ndarray, bent: np.ndarray, blocks: int) -> None:
        """Free the features of the anchors' part and scale them, in place; `bent` is the curvature times `x`."""
        anchors = self._anchors
        lead = bent[:, :anchors].copy()
        gram = x[:, :anchors].T @ lead
        penalised = np.arange(anchors, x.shape[1])
        for block in np.array_split(penalised, blocks) if penalised.size else ():
            rows = slice(block[0], block[-1] + 1)
            if anchors:
                explained = np.linalg.lstsq(gram, lead.T @ x[:, rows], rcond=1e-10)[0]
                for each in (x, bent):
                    each[:, rows] -= each[:, :anchors] @ explained.astype(x.dtype)
                self._explained[:, block - anchors] = explained
            self._scale[rows] = self._size(x[:, rows], bent[:, rows])
        for anchor in range(anchors):
            self._scale[anchor] = self._size(x[:, anchor : anchor + 1], bent[:, anchor : anchor + 1])
        for each in (x, bent):
            each /= self._scale.astype(x.dtype)

    def _size(self, part: np.ndarray, bent: np.ndarray) -> float:
        """Root mean square of the differences: a pair's curvature at equal scores is a quarter of their square."""
        total = float(np.einsum("ij,ij->", part, bent))
        size = np.sqrt(max(4 * total / max(len(self._choices) * part.shape[1], 1), 0))
        return float(size) if size > 1e-8 else 1.0

    def with_slopes(self, slope: Float[np.ndarray, "choices"]) -> "ChoiceModel":
        """The same features, with scores that move each choice so strongly."""
        other = copy.copy(self)
        other._choices = self._choices.with_slopes(slope)
        other._slope = np.repeat(slope, self._choices.sizes)
        return other

    @property
    def choices(self) -> Choices:
        return self._choices

    @property
    def parameters(self) -> int:
        return self._x.shape[1] + self._extra_bound.size

    def fit(
        self,
        l2: Float[np.ndarray, "fits"],
        weights: Float[np.ndarray, "choices fits"],
        *,
        start: Float[np.ndarray, "parameters fits"] | None = None,
        tolerance: float = 0.1,
    ) -> Fits:
        """All fits to their maxima.

        `weights` say how much each choice counts; 0 leaves it out. `tolerance` is the length of the gradient in
        whitened parameters: its square is about twice the log-likelihood that is missing.
        """
        dtype = self._x.dtype
        weights = np.ascontiguousarray(weights, dtype=dtype)
        share = weights.mean(0, dtype=float)
        penalty = self._penalty(l2)
        curvature = np.concatenate([self._bound, self._extra_bound])[:, None] * share + penalty
        white = (1 / np.sqrt(curvature)).astype(dtype)
        penalty = penalty.astype(dtype)

        def objective(columns: np.ndarray, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            theta = point * white[:, columns]
            value, gradient = self._value_and_gradient(theta, weights[:, columns])
            value = value + 0.5 * np.einsum("ij,ij->j", theta * penalty[:, columns], theta, dtype=float)
            return value, (gradient + penalty[:, columns] * theta) * white[:, columns]

        begin = np.zeros(white.shape, dtype) if start is None else (start / white).astype(dtype)
        theta = _minimise(objective, begin, tolerance) * white
        return Fits(theta=theta, scores=self._x @ theta[: self._x.shape[1]])

    def extras(self, fits: Fits) -> Float[np.ndarray, "extras fits"]:
        return fits.theta[self._x.shape[1] :]

    def losses(self, fits: Fits) -> Float[np.ndarray, "choices fits"]:
        """Negative log-likelihood of each choice under each fit; a tie or grade never seen counts as very rare."""
        return self._compiled.losses(self._slope, fits.scores, self.extras(fits))

    def log_evidence(
        self, l2: Float[np.ndarray, "fits"], weights: Float[np.ndarray, "choices fits"]
    ) -> Float[np.ndarray, "fits"]:
        """How probable these answers are under each penalty as a prior, but for a constant (MacKay 1992).

        Laplace's approximation, with a curvature that is taken for a multiple of the one at equal scores: there it is
        diagonal, and a fit costs no Hessian.
        """
        fits = self.fit(l2, weights)
        width, penalty = self._x.shape[1], self._penalty(l2)[: self._x.shape[1]]
        chance = self._compiled.chances(self._slope, fits.scores, self.extras(fits))
        bound = float(self._bound.sum())
        found = np.einsum("ij,ij->j", weights, self.losses(fits))
        found += 0.5 * np.einsum("ij,ij->j", penalty, fits.theta[:width] ** 2)
        for column in range(len(l2)):
            curvature = _curvature(self._choices, chance[:, column].astype(float), weights[:, column])
            share = float(curvature.multiply(self._products).sum()) / bound if bound else 0.0
            found[column] += 0.5 * np.log1p(share * self._bound / penalty[:, column]).sum()
        return -found

    @cached_property
    def _products(self) -> csr_array:
        """x @ x.T where a curvature can be: between things of one choice."""
        rows, columns = self._curvature.nonzero()
        found = np.empty(len(rows))
        for start in range(0, len(rows), 4096):
            part = slice(start, start + 4096)
            found[part] = np.einsum("ij,ij->i", self._x[rows[part]], self._x[columns[part]])
        return csr_array((found, (rows, columns)), self._curvature.shape)

    def posterior(self, l2: float, weights: Float[np.ndarray, "choices"], fits: Fits, column: int = 0) -> Posterior:
        """The maximum, to the last digits by Newton's method, and the curvature there, for the given features."""
        theta = fits.theta[:, column].astype(float)
        x, width = self._x, self._x.shape[1]
        kept = min(len(theta), width + _MOST_EXTRAS)
        penalty = self._penalty(np.array([l2]))[:, 0]
        exact = _Compiled(self._choices, np.float64)
        hessian = np.eye(kept)
        for _ in range(_NEWTON_STEPS):
            value, gradient = _value_and_gradient(exact, self._slope, x, theta[:, None], weights[:, None])
            gradient = (gradient[:, 0] + penalty * theta)[:kept]
            hessian = self._hessian(exact, x, theta, weights, kept) + np.diag(penalty[:kept])
            factor = cho_factor(hessian)
            step = cho_solve(factor, -gradient)
            decrement = float(-gradient @ step)
            if decrement < (1e-12 if x.dtype == np.float64 else 1e-3):  # as far as the precision goes
                break
            value = float(value[0]) + 0.5 * float(penalty @ theta**2)
            length = 1.0
            while length > 1e-8:
                tried = theta.copy()
                tried[:kept] += length * step
                after, _ = _value_and_gradient(exact, self._slope, x, tried[:, None], weights[:, None])
                if float(after[0]) + 0.5 * float(penalty @ tried**2) <= value - 1e-4 * length * decrement + 1e-12:
                    break
                length /= 2
            theta[:kept] += length * step
        covariance = cho_solve(cho_factor(hessian), np.eye(kept))[:width, :width]
        return self._in_features(theta, covariance, l2)

    def _in_features(self, theta: np.ndarray, covariance: np.ndarray, l2: float) -> Posterior:
        """Back from rotated features. Directions that no data reached keep their prior."""
        anchors, width, count = self._anchors, self._x.shape[1], len(self._scale)
        spanned = np.zeros((count, width))
        spanned[:anchors, :anchors] = np.eye(anchors)
        spanned[anchors:, anchors:] = self._basis
        full = spanned @ covariance @ spanned.T
        full[anchors:, anchors:] += (np.eye(len(self._basis)) - self._basis @ self._basis.T) / l2
        back = np.diag(1 / self._scale)
        back[:anchors, anchors:] = -self._explained / self._scale[anchors:]
        full = back @ full @ back.T
        weight = back @ (spanned @ theta[:width])
        if self._columns is not None:
            among = np.zeros((self._features, count))
            among[self._columns, np.arange(count)] = 1
            weight, full = among @ weight, among @ full @ among.T
        return Posterior(weight=weight, covariance=(full + full.T) / 2, extras=theta[width:])

    def _penalty(self, l2: np.ndarray) -> np.ndarray:
        width = self._x.shape[1]
        penalty = np.empty((self.parameters, len(l2)))
        penalty[: self._anchors] = ANCHOR_PENALTY
        penalty[self._anchors : width] = l2
        penalty[width:] = self._choices.extra_penalty[:, None]
        return penalty

    def _value_and_gradient(self, theta: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _value_and_gradient(self._compiled, self._slope, self._x, theta, weights)

    def _hessian(
        self, exact: "_Compiled", x: np.ndarray, theta: np.ndarray, weights: np.ndarray, kept: int
    ) -> np.ndarray:
        width, choices = x.shape[1], self._choices
        scores = x @ theta[:width, None].astype(x.dtype)
        chance = exact.chances(self._slope, scores, theta[width:, None])[:, 0]
        scored = choices.scores * self._slope[:, None]
        extras = choices.extras[:, : kept - width]
        weight, starts = np.repeat(weights, choices.sizes), choices.starts
        mean_scores, mean_extras = (_sums(starts) @ diags_array(chance) @ each for each in (scored, extras))
        held = diags_array(weight * chance)
        count = diags_array(weights)
        hessian = np.empty((kept, kept))
        things = (scored.T @ held @ scored - mean_scores.T @ count @ mean_scores).tocsr()
        hessian[:width, :width] = x.T @ (things.astype(x.dtype) @ x)
        mixed = (scored.T @ held @ extras - mean_scores.T @ count @ mean_extras).tocsr()
        hessian[:width, width:] = x.T @ mixed.toarray() if mixed.shape[1] else 0.0
        hessian[width:, :width] = hessian[:width, width:].T
        hessian[width:, width:] = (extras.T @ held @ extras - mean_extras.T @ count @ mean_extras).toarray()
        return hessian


class _Compiled:
    """Choices with their matrices in one precision, ready for products.

    Rows are in another order than the choices' alternatives: in a block of choices with equally many, all the first
    alternatives come first, then all the second, so that sums and maxima of them run along the memory.
    """

    def __init__(self, choices: Choices, dtype: type) -> None:
        self._blocks = choices.blocks()
        order = [np.arange(rows.start, rows.stop).reshape(-1, size).T.ravel() for _, rows, size in self._blocks]
        self._order = np.concatenate([np.zeros(0, int), *order])
        row = np.empty_like(self._order)
        row[self._order] = np.arange(len(row))
        self._chosen = row[choices.chosen]
        scores, extras = (each[self._order].astype(dtype) for each in (choices.scores, choices.extras))
        self._scores, self._extras, self._scores_t, self._extras_t = scores, extras, scores.T.tocsr(), extras.T.tocsr()

    def losses(self, slope: np.ndarray, scores: np.ndarray, extras: np.ndarray) -> np.ndarray:
        """(choices, fits)"""
        return self._losses(self._utilities(slope, scores, extras))

    def chances(self, slope: np.ndarray, scores: np.ndarray, extras: np.ndarray) -> np.ndarray:
        """(alternatives, fits), in the choices' own order."""
        chance = self._utilities(slope, scores, extras)
        self._losses(chance)
        out = np.empty_like(chance)
        out[self._order] = chance
        return out

    def value_and_pull(
        self, slope: np.ndarray, scores: np.ndarray, extras: np.ndarray, weights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weighted losses (fits,), and their derivatives by the scores (things, fits) and by the extras."""
        pull = self._utilities(slope, scores, extras)
        value = np.einsum("ij,ij->j", weights, self._losses(pull), dtype=float)
        for choices, rows, size in self._blocks:
            part = pull[rows].reshape(size, -1, pull.shape[1])
            part *= weights[choices]
        pull[self._chosen] -= weights
        by_extras = self._extras_t @ pull
        pull *= slope[self._order, None].astype(pull.dtype)
        return value, self._scores_t @ pull, by_extras

    def _utilities(self, slope: np.ndarray, scores: np.ndarray, extras: np.ndarray) -> np.ndarray:
        found = self._scores @ scores
        found *= slope[self._order, None].astype(found.dtype)
        if extras.size:
            found += self._extras @ extras
        return found

    def _losses(self, utility: np.ndarray) -> np.ndarray:
        """(choices, fits), and the utilities become chances, in place."""
        for _, rows, size in self._blocks:
            part = utility[rows].reshape(size, -1, utility.shape[1])
            part -= part.max(0)
        loss = -utility[self._chosen]
        np.exp(utility, out=utility)
        for choices, rows, size in self._blocks:
            part = utility[rows].reshape(size, -1, utility.shape[1])
            total = part.sum(0)
            part /= total
            loss[choices] += np.log(total)
        return loss


def _value_and_gradient(
    compiled: _Compiled, slope: np.ndarray, x: np.ndarray, theta: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    width = x.shape[1]
    scores = x @ theta[:width].astype(x.dtype)
    value, by_scores, by_extras = compiled.value_and_pull(slope, scores, theta[width:], weights)
    return value, np.vstack([x.T @ by_scores.astype(x.dtype), by_extras])


def losses_of_scores(
    choices: Choices, scores: Float[np.ndarray, "things"], weights: Float[np.ndarray, "choices"]
) -> tuple[Float[np.ndarray, "choices"], Float[np.ndarray, "extras"]]:
    """Losses of all choices under scores that came from elsewhere, with extras fitted to the weighted ones; and these.

    Beside the extras the scores get a coefficient of their own, which is not used: a network that is too sure or not
    sure enough must not show up as a preference for a side.
    """
    model = ChoiceModel(scores[:, None], choices, blocks=1)
    extras = model.extras(model.fit(np.ones(1), weights[:, None], tolerance=1e-4))
    slope = np.repeat(choices.slope, choices.sizes)
    return _Compiled(choices, np.float64).losses(slope, scores[:, None], extras)[:, 0], extras[:, 0]


def score_hessian(
    choices: Choices, scores: Float[np.ndarray, "things"], weights: Float[np.ndarray, "choices"]
) -> csr_array:
    """Second derivative of the negative log-likelihood by scores, there and without extras: (things, things)."""
    chance = _Compiled(choices, np.float64).chances(
        np.repeat(choices.slope, choices.sizes), scores[:, None], np.zeros((len(choices.extra_names), 1))
    )[:, 0]
    return _curvature(choices, chance, weights)


def fit_columns(
    choices: Choices,
    columns: Float[np.ndarray, "alternatives columns"],
    fixed: Float[np.ndarray, "alternatives"],
    weights: Float[np.ndarray, "choices"],
    mean: Sequence[float],
    precision: Sequence[float],
) -> tuple[Float[np.ndarray, "columns"], Float[np.ndarray, "columns columns"]]:
    """A few coefficients of the utilities `columns @ theta + fixed`, with independent Gaussian priors: the maximum, by
    Newton's method, and Laplace's covariance there.
    """
    prior, penalty = np.array(mean, dtype=float), np.diag(np.array(precision, dtype=float))
    sums, heavy = _sums(choices.starts), np.repeat(weights, choices.sizes)
    theta, hessian = prior.copy(), penalty

    def value(point: np.ndarray) -> float:
        utility = columns @ point + fixed
        loss = np.log(sums @ np.exp(utility - _tops(utility, choices))) + _tops(utility, choices)[choices.starts[:-1]]
        return float(weights @ (loss - utility[choices.chosen]) + 0.5 * (point - prior) @ penalty @ (point - prior))

    for _ in range(_NEWTON_STEPS):
        utility = columns @ theta + fixed
        chance = np.exp(utility - _tops(utility, choices))
        chance /= np.repeat(sums @ chance, choices.sizes)
        mean_column = sums @ (chance[:, None] * columns)
        gradient = weights @ (mean_column - columns[choices.chosen]) + penalty @ (theta - prior)
        hessian = (columns * (heavy * chance)[:, None]).T @ columns - (mean_column * weights[:, None]).T @ mean_column
        hessian += penalty
        step = np.linalg.solve(hessian, -gradient)
        decrement, length, before = float(-gradient @ step), 1.0, value(theta)
        if decrement < 1e-12:
            break
        while length > 1e-8 and value(theta + length * step) > before - 1e-4 * length * decrement + 1e-12:
            length /= 2
        theta = theta + length * step
    return theta, np.linalg.inv(hessian)


def _tops(utility: np.ndarray, choices: Choices) -> np.ndarray:
    """The highest utility of each choice, for each of its alternatives."""
    return np.repeat(np.maximum.reduceat(utility, choices.starts[:-1]), choices.sizes)


def _sums(starts: np.ndarray) -> csr_array:
    """Adds up the alternatives of each choice: (choices, alternatives)."""
    return csr_array((np.ones(starts[-1]), np.arange(starts[-1]), starts), (len(starts) - 1, int(starts[-1])))


def _curvature(choices: Choices, chance: np.ndarray, weights: np.ndarray) -> csr_array:
    scored = choices.scores * np.repeat(choices.slope, choices.sizes)[:, None]
    mean = _sums(choices.starts) @ diags_array(chance) @ scored
    held = diags_array(np.repeat(weights, choices.sizes) * chance)
    return csr_array(scored.T @ held @ scored - mean.T @ diags_array(weights) @ mean)


def _extra_curvature(choices: Choices) -> np.ndarray:
    chance = np.repeat(1 / choices.sizes, choices.sizes)
    mean = _sums(choices.starts) @ diags_array(chance) @ choices.extras
    return np.asarray(choices.extras.power(2).T @ chance - mean.power(2).sum(0)).ravel().clip(0)


def _minimise(objective, begin: np.ndarray, tolerance: float) -> np.ndarray:
    """L-BFGS (Nocedal and Wright, algorithm 7.4) on all columns; each leaves when its gradient is short enough."""
    result, active = begin.copy(), np.arange(begin.shape[1])
    point = begin
    value, gradient = objective(active, point)
    steps: list[np.ndarray] = []
    turns: list[np.ndarray] = []
    for _ in range(_MOST_STEPS):
        going = np.linalg.norm(gradient, axis=0) > tolerance
        if not going.all():
            result[:, active[~going]] = point[:, ~going]
            active, point, value, gradient = active[going], point[:, going], value[going], gradient[:, going]
            steps, turns = [each[:, going] for each in steps], [each[:, going] for each in turns]
        if not active.size:
            return result
        direction = _direction(gradient, steps, turns)
        slope = np.einsum("ij,ij->j", gradient, direction, dtype=float)
        length = np.ones(len(active), point.dtype)
        while True:
            after_point = point + length * direction
            after, after_gradient = objective(active, after_point)
            short = (after > value + 1e-4 * length * slope + 1e-9 * np.abs(value)) & (length > 1e-6)
            if not short.any():
                break
            length = np.where(short, length / 2, length).astype(point.dtype)
        steps.append(after_point - point)
        turns.append(after_gradient - gradient)
        if len(steps) > _HISTORY:
            del steps[0], turns[0]
        stuck = np.abs(after - value) <= 1e-10 * np.abs(value)
        point, value, gradient = after_point, after, after_gradient
        if stuck.any():  # as far as this precision goes
            gradient = np.where(stuck, 0, gradient).astype(point.dtype)
    result[:, active] = point
    return result


def _direction(gradient: np.ndarray, steps: list[np.ndarray], turns: list[np.ndarray]) -> np.ndarray:
    """Minus the gradient times the approximate inverse curvature, column by column (two loops over the history)."""
    direction = -gradient
    history = []
    for step, turn in zip(reversed(steps), reversed(turns), strict=True):
        curved = np.einsum("ij,ij->j", step, turn, dtype=float)
        inverse = np.where(curved > 1e-12, 1 / np.where(curved > 1e-12, curved, 1), 0)
        along = (inverse * np.einsum("ij,ij->j", step, direction, dtype=float)).astype(gradient.dtype)
        direction -= along * turn
        history.append((step, turn, inverse, along))
    if history:
        step, turn, inverse, _ = history[0]
        size = np.einsum("ij,ij->j", turn, turn, dtype=float)
        scale = np.where(inverse > 0, 1 / np.maximum(inverse * size, 1e-12), 1)
        direction *= scale.astype(gradient.dtype)
    for step, turn, inverse, along in reversed(history):
        back = (inverse * np.einsum("ij,ij->j", turn, direction, dtype=float)).astype(gradient.dtype)
        direction += (along - back) * step
    return direction
