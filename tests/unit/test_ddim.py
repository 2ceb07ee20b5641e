"""One DDIM step against float64 arithmetic (fixtures/golden.json), torch.distributions and diffusers' scheduler."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from torch.distributions import Normal, kl_divergence

from rl.ddim import Ddim, alpha_bars, ddim_coefficients, ddim_schedule, ddim_sigma, previous_timesteps
from rl.gaussian import gaussian_kl, gaussian_log_prob, step_mean

GOLDEN = json.loads((Path(__file__).parents[1] / "fixtures" / "golden.json").read_text())


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def as_latent(values: list[float]) -> torch.Tensor:
    return double(*values).reshape(1, -1, 1, 1)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def ddim_mean_std(
    x_t: torch.Tensor, eps: torch.Tensor, a_t: torch.Tensor, a_prev: torch.Tensor, *, eta: float
) -> tuple[torch.Tensor, torch.Tensor]:
    sigma = ddim_sigma(a_t, a_prev, eta=eta)
    return step_mean(x_t, eps, *ddim_coefficients(a_t, a_prev, sigma, predicts_velocity=False)), sigma


def eps_coefficient(a_t: torch.Tensor, a_prev: torch.Tensor, *, eta: float) -> torch.Tensor:
    return ddim_coefficients(a_t, a_prev, ddim_sigma(a_t, a_prev, eta=eta), predicts_velocity=False)[1]


def sd15_alphas() -> torch.Tensor:
    """Stable Diffusion 1.x' schedule in float64."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return torch.from_numpy(np.cumprod(1 - betas))


# -- golden numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", GOLDEN["sd15_ddim50_eta1"], ids=lambda step: f"t{step['t']}")
def test_a_step_of_stable_diffusions_schedule(step):
    cumulative, timesteps = sd15_alphas(), torch.arange(49, -1, -1) * 20 + 1
    earlier = previous_timesteps(timesteps, 1000)
    a_t = alpha_bars(cumulative, cumulative[0], timesteps)[step["i"]].reshape(1)
    a_prev = alpha_bars(cumulative, cumulative[0], earlier)[step["i"]].reshape(1)
    zero, one = torch.zeros((1, 1, 1, 1), dtype=torch.float64), torch.ones((1, 1, 1, 1), dtype=torch.float64)
    c_x, sigma = ddim_mean_std(one, zero, a_t, a_prev, eta=1.0)
    c_eps, _ = ddim_mean_std(zero, one, a_t, a_prev, eta=1.0)
    found = {
        "t": int(timesteps[step["i"]]),
        "prev": int(earlier[step["i"]]),
        "abar_t": a_t.item(),
        "abar_prev": a_prev.item(),
        "sigma": sigma.item(),
        "c_x": c_x.item(),
        "c_eps": c_eps.item(),
        "kl_w": gaussian_kl(c_eps, zero, sigma).item(),
    }
    assert found == pytest.approx({name: step[name] for name in found}, rel=1e-9)
    assert eps_coefficient(a_t, a_prev, eta=1.0).item() == pytest.approx(step["c_eps"], rel=1e-9)


def test_mean_sample_log_probability_ratio_and_kl_of_the_step_at_481():
    toy, step = GOLDEN["toy_step_t481"], GOLDEN["sd15_ddim50_eta1"][3]
    a_t, a_prev = double(step["abar_t"]), double(step["abar_prev"])
    x_t, eps, eps_new = as_latent(toy["x_t"]), as_latent(toy["eps"]), as_latent(toy["eps_new"])
    mean, std = ddim_mean_std(x_t, eps, a_t, a_prev, eta=1.0)
    mean_new, _ = ddim_mean_std(x_t, eps_new, a_t, a_prev, eta=1.0)
    x_prev = mean + std * as_latent(toy["z"])
    torch.testing.assert_close(mean, as_latent(toy["mu"]), rtol=1e-9, atol=0)
    torch.testing.assert_close(x_prev, as_latent(toy["x_prev"]), rtol=1e-9, atol=0)
    log_prob = gaussian_log_prob(x_prev, mean, std)
    torch.testing.assert_close(log_prob, double(toy["logp_sum"]), rtol=1e-9, atol=0)
    torch.testing.assert_close(log_prob / 4, double(toy["logp_mean"]), rtol=1e-9, atol=0)
    log_ratio = gaussian_log_prob(x_prev, mean_new, std) - log_prob
    torch.testing.assert_close(log_ratio, double(toy["logratio_sum"]), rtol=1e-9, atol=0)
    torch.testing.assert_close(gaussian_kl(mean_new, mean, std), double(toy["kl_sum"]), rtol=1e-9, atol=0)


def test_the_step_at_481_with_half_the_noise():
    half, step = GOLDEN["toy_step_t481_eta0.5"], GOLDEN["sd15_ddim50_eta1"][3]
    a_t, a_prev = double(step["abar_t"]), double(step["abar_prev"])
    c_x, std = ddim_mean_std(as_latent([1.0]), as_latent([0.0]), a_t, a_prev, eta=0.5)
    c_eps = eps_coefficient(a_t, a_prev, eta=0.5)
    kl = gaussian_kl(c_eps.reshape(1, 1, 1, 1), as_latent([0.0]), std)
    found = {"sigma": std.item(), "c_x": c_x.item(), "c_eps": c_eps.item(), "kl_w": kl.item()}
    assert found == pytest.approx(half, rel=1e-9)


@pytest.mark.parametrize(
    ("t", "earlier", "variance"), [(420, 400, 0.14771), (980, 960, 0.32460), (487, 486, 0.00979), (999, 998, 0.02)]
)
def test_the_variances_that_diffusers_own_tests_expect_of_a_linear_schedule(t: int, earlier: int, variance: float):
    """The four values of `test_variance` in diffusers' tests/schedulers/test_scheduler_ddim.py (1e-4 to 0.02, 1000)."""
    cumulative = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), dim=0)
    zero = torch.zeros((1, 1, 1, 1), dtype=torch.float64)
    _, std = ddim_mean_std(zero, zero, cumulative[t].reshape(1), cumulative[earlier].reshape(1), eta=1.0)
    assert std.item() ** 2 == pytest.approx(variance, abs=1e-5)  # their tolerance


# -- torch.distributions ----------------------------------------------------------------------------------------------


def test_log_probability_is_that_of_independent_normals_summed_over_a_latent():
    x, mean, std = noise(5, 4, 8, 8, seed=1), noise(5, 4, 8, 8, seed=2), torch.tensor([0.02, 0.1, 0.5, 1.0, 3.0])
    expected = Normal(mean, std.reshape(-1, 1, 1, 1)).log_prob(x).sum(dim=(1, 2, 3))
    torch.testing.assert_close(gaussian_log_prob(x, mean, std), expected)


def test_kl_is_that_of_two_normals_with_one_std():
    mean, other, std = noise(5, 4, 8, 8, seed=1), noise(5, 4, 8, 8, seed=2), torch.tensor([0.02, 0.1, 0.5, 1.0, 3.0])
    wide = std.reshape(-1, 1, 1, 1)
    expected = kl_divergence(Normal(mean, wide), Normal(other, wide)).sum(dim=(1, 2, 3))
    torch.testing.assert_close(gaussian_kl(mean, other, std), expected)


# -- diffusers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("set_alpha_to_one", [False, True])
@pytest.mark.parametrize("steps_offset", [0, 1])
@pytest.mark.parametrize("steps", [4, 50])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_every_step_is_the_one_of_diffusers(
    prediction: str, steps: int, steps_offset: int, set_alpha_to_one: bool, eta: float
):
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=set_alpha_to_one,
        steps_offset=steps_offset,
        prediction_type=prediction,
    )
    assert_same_steps(scheduler, steps, eta)


def assert_same_steps(scheduler: DDIMScheduler, steps: int, eta: float) -> None:
    schedule = Ddim(scheduler.config).schedule(steps, eta=eta, window=steps)
    scheduler.set_timesteps(steps)
    assert torch.equal(schedule.timesteps, scheduler.timesteps)
    x = noise(2, 4, 8, 8, seed=3)
    for i, t in enumerate(scheduler.timesteps):
        output, z = noise(2, 4, 8, 8, seed=10 + i), noise(2, 4, 8, 8, seed=100 + i)
        # Without noise diffusers wants none given.
        theirs = scheduler.step(output, int(t), x, eta=eta, variance_noise=z if eta > 0 else None).prev_sample
        mean = step_mean(x, output, *(c[i].expand(2) for c in (schedule.x_coefficient, schedule.output_coefficient)))
        x = mean + schedule.std[i] * z
        torch.testing.assert_close(x, theirs, rtol=5e-5, atol=5e-6)


def test_a_model_of_velocity_that_starts_from_noise_alone_has_finite_steps():
    """Stable Diffusion 2.x fine-tuned to a terminal signal of zero: alpha-bar is 0 at the first step."""
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    assert float(scheduler.alphas_cumprod[-1]) < 1e-7
    schedule = Ddim(scheduler.config).schedule(10, eta=1.0, window=10)
    assert all(torch.isfinite(part).all() for part in (schedule.x_coefficient, schedule.output_coefficient))
    assert schedule.std[0] > 0.9
    assert_same_steps(scheduler, 10, eta=0.0)


def test_noise_and_velocity_describe_the_same_steps_and_the_same_image():
    """An eps and the v that says the same of x_t lead to one mean, one x_0; noised() gives them as their targets."""
    x_0, eps, levels = noise(3, 4, 8, 8, seed=1), noise(3, 4, 8, 8, seed=2), torch.tensor([10, 500, 980])
    outputs = {}
    for prediction in ("epsilon", "v_prediction"):
        process = Ddim(DDIMScheduler(prediction_type=prediction).config)
        x_t, timesteps, target = process.noised(x_0, eps, levels)
        expected = DDIMScheduler().add_noise(x_0, eps, levels)
        torch.testing.assert_close(x_t, expected)
        torch.testing.assert_close(process.clean(x_t, target, timesteps), x_0, rtol=1e-3, atol=1e-3)
        outputs[prediction] = target
    velocity = DDIMScheduler(prediction_type="v_prediction").get_velocity(x_0, eps, levels)
    torch.testing.assert_close(outputs["v_prediction"], velocity)
    assert torch.equal(outputs["epsilon"], eps)
    a_t, a_prev = double(0.3), double(0.4)
    x_t, eps_one = as_latent([0.7]), as_latent([-0.2])
    v = (eps_one - (1 - a_t).sqrt() * x_t) / a_t.sqrt()
    sigma = ddim_sigma(a_t, a_prev, eta=0.7)
    means = [
        step_mean(x_t, output, *ddim_coefficients(a_t, a_prev, sigma, predicts_velocity=is_v))
        for output, is_v in ((eps_one, False), (v, True))
    ]
    torch.testing.assert_close(*means)


def test_steps_beyond_the_window_are_deterministic():
    window, whole, none = (
        ddim_schedule(
            torch.tensor([801, 401, 1]),
            torch.tensor([0.1, 0.5, 0.99]),
            torch.tensor([0.5, 0.99, 0.999]),
            eta=eta,
            window=window,
            predicts_velocity=False,
        )
        for eta, window in ((1.0, 2), (1.0, 3), (0.0, 3))
    )
    assert window.std.tolist() == [*whole.std.tolist()[:2], 0.0]
    assert window.output_coefficient.tolist() == [
        *whole.output_coefficient.tolist()[:2],
        none.output_coefficient.tolist()[2],
    ]


@pytest.mark.parametrize(
    ("steps_offset", "set_alpha_to_one", "is_zero"),
    [(0, False, True), (1, False, False), (0, True, True), (1, True, True)],
)
def test_which_schedules_end_in_a_step_without_noise(steps_offset: int, set_alpha_to_one: bool, is_zero: bool):
    """Such a step has no log-probability; the rollout leaves it out of training."""
    cumulative = sd15_alphas()
    final = torch.tensor(1.0, dtype=torch.float64) if set_alpha_to_one else cumulative[0]
    timesteps = torch.arange(49, -1, -1) * 20 + steps_offset
    a_t = alpha_bars(cumulative, final, timesteps)[-1:]
    a_prev = alpha_bars(cumulative, final, previous_timesteps(timesteps, 1000))[-1:]
    mean, std = ddim_mean_std(as_latent([1.0]), as_latent([0.5]), a_t, a_prev, eta=1.0)
    assert torch.isfinite(mean).all()
    assert (std.item() == 0) is is_zero
