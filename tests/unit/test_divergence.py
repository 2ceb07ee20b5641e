"""The KL of trajectories to the reference's, against torch.distributions on the states that the policy visits."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from rl.config import SampleConfig
from rl.divergence import kl_to_reference
from rl.gaussian import step_mean
from rl.rollout import trace
from tests.fixtures.tiny_pipeline import build_family

PROMPTS = ["a red circle", "two blue hearts", "a star above a cross"]
SEEDS = [(0, "kl", number) for number in range(3)]
SAMPLE = SampleConfig(steps=4, window=2, batch_size=2)


def test_it_is_the_sum_of_the_steps_of_torchs_own():
    family = build_family()
    parameters = family.add_lora(rank=2, targets=("to_q", "to_v"), seed=0)
    with torch.no_grad():
        for number, parameter in enumerate(parameters):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    found = kl_to_reference(family, PROMPTS, SAMPLE, seeds=SEEDS)

    schedule = family.process.schedule(SAMPLE.steps, eta=SAMPLE.eta, window=SAMPLE.window)
    drawn = trace(family, PROMPTS, schedule, guidance=SAMPLE.guidance, seeds=SEEDS, batch_size=2)
    expected = torch.zeros(3)
    for step in range(SAMPLE.window):
        x, every = drawn.states[:, step], [each[step].expand(3) for each in (schedule.timesteps, schedule.std)]
        coefficients = schedule.x_coefficient[step].expand(3), schedule.output_coefficient[step].expand(3)
        with torch.no_grad():
            policy = step_mean(x, family.predict(x, every[0], PROMPTS, guidance=SAMPLE.guidance), *coefficients)
            with family.reference():
                reference = step_mean(x, family.predict(x, every[0], PROMPTS, guidance=SAMPLE.guidance), *coefficients)
        std = every[1].reshape(-1, 1, 1, 1)
        expected += kl_divergence(Normal(policy, std), Normal(reference, std)).sum(dim=(1, 2, 3))
    assert expected.min() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("window", [1, 2])
def test_the_reference_is_at_no_distance_from_itself(window: int):
    sample = SampleConfig(steps=4, window=window)
    assert kl_to_reference(build_family(), PROMPTS, sample, seeds=SEEDS).tolist() == [0, 0, 0]
