"""What must hold of advantages, losses and steps for any numbers."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.advantages import group_advantages
from rl.ddim import ddim_coefficients, ddim_sigma
from rl.gaussian import gaussian_kl, gaussian_log_prob, step_mean
from rl.losses import ppo_clip_loss
from rl.randomness import derive_seed, generator

quick = settings(max_examples=60, deadline=None)  # time is the machine's, not the code's
seeds = st.integers(0, 2**32 - 1)
alphas = st.tuples(st.floats(0.005, 0.99), st.floats(0.01, 0.9))


def scores_of(seed: int, groups: int, members: int) -> torch.Tensor:
    return torch.randn((groups, members), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def a_step(seed: int, pair: tuple[float, float]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """x_0, eps, alpha-bar before and after; the second number says how far towards 1 the step goes."""
    random = torch.Generator().manual_seed(seed)
    x_0, eps = (torch.randn((1, 4, 2, 2), dtype=torch.float64, generator=random) for _ in range(2))
    a_t = torch.tensor([pair[0]], dtype=torch.float64)
    return x_0, eps, a_t, a_t + (1 - a_t) * pair[1]


# -- advantages -------------------------------------------------------------------------------------------------------


@quick
@given(seeds, st.integers(1, 5), st.integers(2, 9), st.floats(-1e3, 1e3))
def test_a_constant_group_gets_zero_whatever_the_others_do(seed: int, groups: int, members: int, constant: float):
    scores = torch.cat([scores_of(seed, groups, members), torch.full((1, members), constant, dtype=torch.float64)])
    assert group_advantages(scores)[-1].abs().max() < 1e-9


@quick
@given(seeds, st.integers(1, 5), st.integers(2, 9), st.floats(0.1, 100))
def test_a_shift_of_one_prompt_and_a_scale_of_all_change_nothing(seed: int, groups: int, members: int, scale: float):
    scores = scores_of(seed, groups, members)
    shifts = 50 * scores_of(seed + 1, groups, 1)
    torch.testing.assert_close(
        group_advantages(scale * scores + shifts), group_advantages(scores), rtol=1e-6, atol=1e-9
    )


@quick
@given(seeds, st.integers(1, 5), st.integers(2, 9))
def test_advantages_of_a_group_sum_to_zero_and_keep_its_order(seed: int, groups: int, members: int):
    scores = scores_of(seed, groups, members)
    advantages = group_advantages(scores, clip=1e9)
    assert advantages.sum(dim=1).abs().max() < 1e-9
    assert torch.equal(advantages.argsort(dim=1), scores.argsort(dim=1))
    torch.testing.assert_close(advantages.square().mean(), torch.tensor(1.0, dtype=torch.float64))


@quick
@given(seeds, st.integers(1, 5), st.integers(2, 9), st.floats(0.01, 5))
def test_no_advantage_exceeds_the_clip(seed: int, groups: int, members: int, clip: float):
    assert group_advantages(scores_of(seed, groups, members), clip=clip).abs().max() <= clip


# -- the clipped surrogate --------------------------------------------------------------------------------------------

advantage_sizes = st.floats(0.01, 5)
clip_ranges = st.floats(1e-4, 0.5)


def gradient_of_ppo(log_ratio: float, advantage: float, clip_range: float) -> float:
    log_prob = torch.tensor([log_ratio], dtype=torch.float64, requires_grad=True)
    old, advantages = torch.zeros(1, dtype=torch.float64), torch.tensor([advantage], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(ppo_clip_loss(log_prob, old, advantages, clip_range=clip_range), log_prob)
    return gradient.item()


@quick
@given(advantage_sizes, clip_ranges, st.floats(1e-6, 1000))
def test_no_gradient_once_ratio_leaves_the_range_in_the_good_direction(size: float, clip_range: float, beyond: float):
    assert gradient_of_ppo(math.log1p(clip_range) + beyond, size, clip_range) == 0
    assert gradient_of_ppo(math.log1p(-clip_range) - beyond, -size, clip_range) == 0


@quick
@given(advantage_sizes, clip_ranges, st.floats(1e-6, 50))
def test_the_whole_gradient_pulls_back_a_ratio_that_left_in_the_bad_direction(
    size: float, clip_range: float, beyond: float
):
    low, high = math.log1p(-clip_range) - beyond, math.log1p(clip_range) + beyond
    assert math.isclose(gradient_of_ppo(low, size, clip_range), -size * math.exp(low), rel_tol=1e-9)
    assert math.isclose(gradient_of_ppo(high, -size, clip_range), size * math.exp(high), rel_tol=1e-9)


@quick
@given(seeds, clip_ranges)
def test_the_clipped_loss_never_promises_more_than_the_plain_one(seed: int, clip_range: float):
    log_ratio, advantages = scores_of(seed, 2, 6)
    plain = (-advantages * log_ratio.exp()).mean()
    assert ppo_clip_loss(log_ratio, torch.zeros_like(log_ratio), advantages, clip_range=clip_range) >= plain - 1e-12


# -- the step ---------------------------------------------------------------------------------------------------------


@quick
@given(seeds, alphas, st.floats(0, 1))
def test_a_step_keeps_the_marginals_of_the_diffusion(seed: int, pair: tuple[float, float], eta: float):
    """From x_t of known x_0 and eps: the mean is on x_0's line, and the noise of both kinds has variance 1 - a_prev."""
    x_0, eps, a_t, a_prev = a_step(seed, pair)
    x_t = a_t.sqrt() * x_0 + (1 - a_t).sqrt() * eps
    std = ddim_sigma(a_t, a_prev, eta=eta)
    mean = step_mean(x_t, eps, *ddim_coefficients(a_t, a_prev, std, predicts_velocity=False))
    kept = (mean - a_prev.sqrt() * x_0) / eps
    torch.testing.assert_close(kept.square() + std**2, (1 - a_prev).expand_as(kept), rtol=1e-6, atol=1e-9)


@quick
@given(seeds, alphas, st.floats(0.05, 1))
def test_kl_is_the_weighted_square_of_the_difference_in_noise(seed: int, pair: tuple[float, float], eta: float):
    x_t, eps, a_t, a_prev = a_step(seed, pair)
    other = eps + 0.1 * x_t
    std = ddim_sigma(a_t, a_prev, eta=eta)
    coefficients = ddim_coefficients(a_t, a_prev, std, predicts_velocity=False)
    mean, other_mean = (step_mean(x_t, output, *coefficients) for output in (eps, other))
    weight = coefficients[1] ** 2 / (2 * std**2)
    expected = weight * (eps - other).square().sum()
    torch.testing.assert_close(gaussian_kl(mean, other_mean, std), expected, rtol=1e-5, atol=1e-12)


@quick
@given(seeds, st.floats(0.01, 3))
def test_nothing_is_likelier_than_the_mean_and_kl_is_symmetric_and_zero_at_home(seed: int, size: float):
    x, mean = scores_of(seed, 2, 12).reshape(2, 1, 3, 2, 2)
    std = torch.tensor([size], dtype=torch.float64)
    assert gaussian_log_prob(x, mean, std) <= gaussian_log_prob(mean, mean, std)
    assert gaussian_kl(mean, mean, std) == 0
    assert gaussian_kl(x, mean, std) == gaussian_kl(mean, x, std) > 0


# -- randomness -------------------------------------------------------------------------------------------------------

places = st.lists(st.one_of(st.integers(0, 99), st.sampled_from(["start", "steps", "order"])), min_size=1, max_size=5)


@quick
@given(places, places)
def test_a_place_always_draws_the_same_and_another_place_draws_otherwise(here: list[object], there: list[object]):
    first = torch.randn(4, generator=generator(*here))
    assert torch.equal(first, torch.randn(4, generator=generator(*here)))
    assert 0 <= derive_seed(*here) < 2**63
    if here != there:
        assert not torch.equal(first, torch.randn(4, generator=generator(*there)))
