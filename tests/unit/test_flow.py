"""A stochastic step of a flow-matching model against float64 arithmetic (fixtures/golden.json), and what it keeps."""

import json
import math
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch.distributions import Normal

from hitl.core.errors import ModelLoadError
from rl.flow import Flow, flow_schedule
from rl.gaussian import Schedule, gaussian_kl, gaussian_log_prob, step_mean

GOLDEN = json.loads((Path(__file__).parents[1] / "fixtures" / "golden.json").read_text())["flow_sde"]


def one_step(sigma: float, after: float, *, eta: float) -> Schedule:
    sigmas = torch.tensor([sigma, after], dtype=torch.float64)
    return flow_schedule(sigmas[:1] * 1000, sigmas, eta=eta, window=1)


def mean_of(schedule: Schedule, x: torch.Tensor, v: torch.Tensor, step: int = 0) -> torch.Tensor:
    coefficients = (schedule.x_coefficient, schedule.output_coefficient)
    return step_mean(x, v, *(c[step].expand(len(x)) for c in coefficients))


def as_latent(values: list[float]) -> torch.Tensor:
    return torch.tensor(values).reshape(1, -1, 1, 1)


def test_the_golden_step():
    """Noise level 0.7; KL weight: what a squared difference of velocities costs in nats."""
    x, v = as_latent(GOLDEN["x"]), as_latent(GOLDEN["v"])
    schedule = one_step(GOLDEN["sigma"], GOLDEN["sigma_prev"], eta=0.7)
    mean = mean_of(schedule, x, v)
    torch.testing.assert_close(mean, as_latent(GOLDEN["mu"]), rtol=1e-6, atol=1e-7)
    assert float(schedule.std[0]) == pytest.approx(GOLDEN["step_std"], rel=1e-6)
    without = mean_of(one_step(GOLDEN["sigma"], GOLDEN["sigma_prev"], eta=0.0), x, v)
    torch.testing.assert_close(without, as_latent(GOLDEN["ode_mu"]), rtol=1e-6, atol=1e-7)
    # The authors' code leaves dt out of the weight of a squared difference of means; this is the KL's own.
    moved = as_latent([1.0, 0.0, 0.0, 0.0])
    assert float(gaussian_kl(mean + moved, mean, schedule.std)) == pytest.approx(GOLDEN["kl_w_true"], rel=1e-5)
    sample = mean + schedule.std * as_latent([0.3, -1.2, 0.8, 0.1])
    expected = Normal(as_latent(GOLDEN["mu"]), GOLDEN["step_std"]).log_prob(sample).sum(dim=(1, 2, 3))
    torch.testing.assert_close(gaussian_log_prob(sample, mean, schedule.std), expected, rtol=1e-5, atol=1e-5)


def test_with_less_and_less_noise_a_step_becomes_eulers():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    x, v = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(0)).double().chunk(2)
    distances = []
    for eta in (0.2, 0.1, 0.0):
        schedule = Flow(scheduler.config).schedule(6, eta=eta, window=6)
        scheduler.set_timesteps(6)
        euler = [x + v * float(scheduler.sigmas[i + 1] - scheduler.sigmas[i]) for i in range(6)]
        distances.append([float((mean_of(schedule, x, v, i) - euler[i]).abs().max()) for i in range(6)])
        assert schedule.std.tolist() == pytest.approx(
            [eta / 0.2 * std for std in Flow(scheduler.config).schedule(6, eta=0.2, window=6).std.tolist()]
        )
    for far, near, none in zip(*distances, strict=True):
        assert near == pytest.approx(far / 4, rel=0.01)
        assert none < 1e-6


def marginal(sigma: float) -> tuple[float, float]:
    """Mean and variance of x = (1 - sigma) x_0 + sigma eps, where x_0 ~ N(0.8, 0.5^2)."""
    return (1 - sigma) * 0.8, ((1 - sigma) * 0.5) ** 2 + sigma**2


def after_step(sigma: float, after: float, *, eta: float) -> tuple[float, float]:
    """Mean and variance after a step from the marginal with the best velocity, E[eps - x_0 | x], linear in x."""
    mean, variance = marginal(sigma)
    slope = (sigma - (1 - sigma) * 0.25) / variance
    schedule = one_step(sigma, after, eta=eta)
    x, output = float(schedule.x_coefficient), float(schedule.output_coefficient)
    return x * mean + output * -0.8, (x + output * slope) ** 2 * variance + float(schedule.std) ** 2


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("sigma", [0.9, 0.5, 0.1])
def test_a_step_keeps_the_marginals_to_first_order(sigma: float, eta: float):
    """The error is of second order: half the step has a quarter of it. Forgotten drift would halve it only."""
    for which in (0, 1):
        errors = [
            abs(after_step(sigma, sigma - dt, eta=eta)[which] - marginal(sigma - dt)[which])
            for dt in (0.04 * sigma, 0.02 * sigma)
        ]
        assert errors[1] < errors[0] / 3.5 or errors[0] < 1e-6


def test_a_whole_chain_of_small_steps_ends_in_the_images_own_distribution():
    """From pure noise to N(0.8, 0.5^2), also where every step is stochastic."""
    for eta, window in ((0.0, 0), (0.7, 200), (1.0, 100)):
        scheduler = FlowMatchEulerDiscreteScheduler()
        schedule = Flow(scheduler.config).schedule(200, eta=eta, window=window)
        mean, variance = 0.0, 1.0
        for t, x, output, std in zip(
            *(part.tolist() for part in (schedule.timesteps / 1000, schedule.x_coefficient)),
            schedule.output_coefficient.tolist(),
            schedule.std.tolist(),
            strict=True,
        ):
            expected, spread = marginal(t)
            slope = (t - (1 - t) * 0.25) / spread
            velocity = -0.8 - slope * expected  # at x = 0
            mean = (x + output * slope) * mean + output * velocity
            variance = (x + output * slope) ** 2 * variance + std**2
        assert mean == pytest.approx(0.8, abs=0.02)
        assert math.sqrt(variance) == pytest.approx(0.5, abs=0.02)


def test_the_first_step_from_pure_noise_is_finite_and_takes_the_next_sigma_in_its_std():
    """Stable Diffusion 3 starts at sigma 1, where the std would be infinite: 0.7 sqrt(1 / (1 - 0.9)) sqrt(0.1)."""
    schedule = one_step(1.0, 0.9, eta=0.7)
    assert float(schedule.std) == pytest.approx(0.7)
    assert float(schedule.x_coefficient) == pytest.approx(1 - 0.49 * 10 * 0.1 / 2)
    assert float(schedule.output_coefficient) == pytest.approx(-0.1)  # (1 - sigma) is 0 in its drift


def test_the_last_step_ends_at_sigma_0_with_noise_only_where_it_is_in_the_window():
    """Its KL weight is the one of SD 3.5's ten steps (shift 3, noise level 0.7) by hand: 1 / (2 std^2)."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    ten = Flow(scheduler.config).schedule(10, eta=0.7, window=10)
    scheduler.set_timesteps(10)
    sigma = float(scheduler.sigmas[-2])
    assert float(scheduler.sigmas[-1]) == 0
    assert float(ten.std[-1]) == pytest.approx(0.7 * sigma / math.sqrt(1 - sigma), rel=1e-5)
    assert 1 / (2 * float(ten.std[-1]) ** 2) == pytest.approx(12_686, rel=0.01)
    nine = Flow(scheduler.config).schedule(10, eta=0.7, window=9)
    assert float(nine.std[-1]) == 0
    assert float(nine.x_coefficient[-1]) == 1
    assert float(nine.output_coefficient[-1]) == pytest.approx(-sigma)


def test_a_schedule_that_depends_on_the_pictures_size_is_refused():
    config = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True).config
    with pytest.raises(ModelLoadError, match="use_dynamic_shifting") as caught:
        Flow(config)
    assert "Stable Diffusion 3" in caught.value.hint
