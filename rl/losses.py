"""Losses of the policy and the value function. Pure functions of log-probabilities and advantages."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor


def ppo_clip_loss(
    log_prob: Float[Tensor, "batch"],
    old_log_prob: Float[Tensor, "batch"],
    advantages: Float[Tensor, "batch"],
    *,
    clip_range: float,
    weights: Float[Tensor, "batch"] | None = None,
) -> Float[Tensor, ""]:
    """The pessimistic clipped surrogate of PPO (arXiv:1707.06347), Eq. (7), negated: we minimise. A batch mean.

    `weights` scale each sample's term (the division by |c_eps|/sigma of `rl.policy_gradient`). DPOK's authors clamp the
    ratio without the pessimistic maximum, which leaves no gradient on the wrong side of the range either.
    """
    log_ratio = log_prob - old_log_prob
    # min(A r, A clip(r)) bounds r on one side only, by A's sign. Bounded before exp, a ratio too large for a float has
    # the gradient 0 that it should have, where clamping after exp gives 0 x infinity.
    bounded = torch.where(
        advantages >= 0, log_ratio.clamp(max=math.log1p(clip_range)), log_ratio.clamp(min=math.log1p(-clip_range))
    )
    loss = -advantages * bounded.exp()
    return (loss if weights is None else weights * loss).mean()


def clamped_ratio_loss(
    log_prob: Float[Tensor, "batch"],
    old_log_prob: Float[Tensor, "batch"],
    advantages: Float[Tensor, "batch"],
    *,
    clip_range: float,
) -> Float[Tensor, ""]:
    """-A clamp(r): the surrogate of DPOK's authors' code. Outside the range the gradient is 0 for either sign of A."""
    log_ratio = (log_prob - old_log_prob).clamp(math.log1p(-clip_range), math.log1p(clip_range))
    return (-advantages * log_ratio.exp()).mean()


def score_function_loss(
    log_prob: Float[Tensor, "batch"],
    advantages: Float[Tensor, "batch"],
    *,
    weights: Float[Tensor, "batch"] | None = None,
) -> Float[Tensor, ""]:
    """REINFORCE, DDPO's DDPO_SF (arXiv:2305.13301, Eq. (4)), negated. Right only for samples of the present policy."""
    loss = -advantages * log_prob
    return (loss if weights is None else weights * loss).mean()


def davidson_loss(
    log_odds: Float[Tensor, "batch"], outcome: Int[Tensor, "batch"], *, tie_odds: float
) -> Float[Tensor, ""]:
    """- log P(outcome) of comparisons that may end in a tie, by the model of Davidson (1970); a batch mean.

    With d the log-odds of the first, the weights of first, second and tie are e^(d/2), e^(-d/2) and `tie_odds`, so that
    a tie draws d towards 0. With `tie_odds` = 0 it is -log sigmoid(d) of the better one, and a tie says nothing.
    """
    log_tie = torch.full_like(log_odds, tie_odds).log()
    weights = torch.stack([-log_odds / 2, log_tie, log_odds / 2])  # rows: outcome -1, 0, 1
    losses = weights.logsumexp(dim=0) - weights.gather(0, (outcome.long() + 1)[None])[0]
    if tie_odds == 0:
        losses = torch.where(outcome == 0, 0.0, losses)
    return losses.mean()
