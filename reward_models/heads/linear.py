"""A linear head: L2-penalised logistic regression on feature differences, ties by Davidson's model."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from reward_models.comparisons import Comparisons

ANCHOR_PENALTY = 0.1
"""Penalty on the zero-shot score, on the side bias and on the log tie rate: small beside any number of ratings."""

_MAX_STEPS = 100


@dataclass(frozen=True, slots=True)
class LinearHead:
    """score = features @ weight. The first feature is the zero-shot CLIP score."""

    weight: Float[Tensor, "features"]
    side_bias: float
    """Log-odds by which the raters preferred the left side. Fitted so that the weights need not explain it."""
    log_tie: float
    """Davidson's log nu; -inf when no tie was seen."""

    def score(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch"]:
        return features @ self.weight.to(features)

    def tensors(self) -> dict[str, Tensor]:
        return {"weight": self.weight, "side_bias": torch.tensor(self.side_bias), "log_tie": torch.tensor(self.log_tie)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "LinearHead":
        return cls(tensors["weight"], tensors["side_bias"].item(), tensors["log_tie"].item())


def fit_linear(
    features: Float[Tensor, "things features"],
    comparisons: Comparisons,
    *,
    l2: float,
    weights: np.ndarray | None = None,
) -> LinearHead:
    """The penalised maximum-likelihood head, by Newton's method: no seed, no stopping early.

    Davidson (1970): P(a), P(b), P(tie) are proportional to exp(d/2), exp(-d/2) and nu, where d is the difference of
    the scores (plus the side bias for the image on the left). Without ties this is logistic regression on d.
    `l2` is the penalty per squared weight, after each block of features is scaled to unit root mean square over the
    comparisons; the zero-shot score is penalised by a small constant instead.
    """
    x = features.double().numpy()
    difference = x[comparisons.first] - x[comparisons.second]
    scale = block_scale(difference)
    design = np.column_stack([difference / scale, comparisons.side])
    penalty = np.full(design.shape[1], float(l2))
    penalty[[0, -1]] = ANCHOR_PENALTY
    counted = np.ones(len(comparisons)) if weights is None else np.asarray(weights, float)
    solution, log_tie = solve_davidson(design, comparisons.outcome, penalty, counted)
    weight = torch.from_numpy(solution[:-1] / scale).float()
    return LinearHead(weight, float(solution[-1]), log_tie)


def block_scale(difference: Float[np.ndarray, "comparisons features"]) -> Float[np.ndarray, "features"]:
    """Root mean square of each block [score | image | image * text], repeated over the block's features."""
    count = (difference.shape[1] - 1) // 2
    scale = np.empty(difference.shape[1])
    for block in (slice(0, 1), slice(1, 1 + count), slice(1 + count, None)):
        size = float(np.sqrt(np.mean(difference[:, block] ** 2))) if difference[:, block].size else 0.0
        scale[block] = size if size > 1e-8 else 1.0
    return scale


def solve_davidson(
    design: Float[np.ndarray, "comparisons features"],
    outcome: np.ndarray,
    penalty: Float[np.ndarray, "features"],
    counted: Float[np.ndarray, "comparisons"],
) -> tuple[Float[np.ndarray, "features"], float]:
    """Minimise the penalised negative log-likelihood; returns the coefficients and log nu (-inf without ties).

    -log P = log(exp(d/2) + exp(-d/2) + nu) - (d/2, -d/2 or log nu) is a log-sum-exp of affine functions minus an
    affine one, so the problem is convex. With more features than comparisons it is solved in the span of the data.
    """
    root = np.sqrt(penalty)
    z = design / root  # the penalty becomes the identity
    basis = None
    if z.shape[0] < z.shape[1]:
        left, singular, basis = np.linalg.svd(z, full_matrices=False)
        z = left * singular
    has_ties = bool((outcome == 0).any())
    theta = np.zeros(z.shape[1] + has_ties)
    value, gradient, hessian = _davidson(theta, z, outcome, counted, has_ties)
    for _ in range(_MAX_STEPS):
        step = np.linalg.solve(hessian, -gradient)
        if np.abs(step).max() < 1e-9:
            break
        length = 1.0
        while True:
            after = _davidson(theta + length * step, z, outcome, counted, has_ties)
            if after[0] <= value + 1e-4 * length * float(gradient @ step) + 1e-12 * abs(value) or length < 1e-8:
                break
            length /= 2
        theta = theta + length * step
        value, gradient, hessian = after
    coefficients = theta[:-1] if has_ties else theta
    if basis is not None:
        coefficients = coefficients @ basis
    return coefficients / root, float(theta[-1]) if has_ties else -np.inf


def _davidson(
    theta: np.ndarray, z: np.ndarray, outcome: np.ndarray, counted: np.ndarray, has_ties: bool
) -> tuple[float, np.ndarray, np.ndarray]:
    """Value, gradient and Hessian of the penalised negative log-likelihood."""
    coefficients = theta[:-1] if has_ties else theta
    half = z @ coefficients / 2
    log_tie = theta[-1] if has_ties else -np.inf
    logits = np.stack([half, -half, np.full_like(half, log_tie)])
    top = logits.max(0)
    log_total = top + np.log(np.exp(logits - top).sum(0))
    p_a, p_b, p_tie = np.exp(logits - log_total)
    chosen = np.where(outcome == 0, logits[2] if has_ties else 0.0, outcome * half)
    value = float(counted @ (log_total - chosen)) + 0.5 * float(coefficients @ coefficients)
    slope = (p_a - p_b - outcome) / 2
    curve = (p_a + p_b - (p_a - p_b) ** 2) / 4
    gradient = z.T @ (counted * slope) + coefficients
    hessian = (z * (counted * curve)[:, None]).T @ z
    hessian[np.diag_indices_from(hessian)] += 1.0
    if not has_ties:
        return value, gradient, hessian
    value += 0.5 * ANCHOR_PENALTY * log_tie**2
    tie_gradient = float(counted @ (p_tie - (outcome == 0))) + ANCHOR_PENALTY * log_tie
    tie_curve = float(counted @ (p_tie * (1 - p_tie))) + ANCHOR_PENALTY
    cross = z.T @ (counted * -p_tie * (p_a - p_b) / 2)
    hessian = np.block([[hessian, cross[:, None]], [cross[None, :], np.array([[tie_curve]])]])
    return value, np.append(gradient, tie_gradient), hessian
