"""What every algorithm of the registry keeps: pure functions of a frozen configuration, signs and gradients right."""

import dataclasses
from pathlib import Path

import pytest
import torch

from hitl.core.errors import ConfigError
from rl import ALGORITHMS
from rl.config import SampleConfig, TrainConfig
from rl.train import Algorithm, train
from tests.fixtures.tiny_pipeline import build_family

OLD = torch.tensor([-200.0, -180.0, 15.0])
ADVANTAGES = torch.tensor([1.0, -2.0, 0.5])
KL = torch.tensor([0.0, 0.2, 1.0])
ONES = torch.ones(3)


@pytest.fixture(params=ALGORITHMS.names())
def algorithm(request: pytest.FixtureRequest) -> Algorithm:
    return ALGORITHMS.load(request.param)()


def test_it_is_a_frozen_configuration_with_a_default_for_every_field(algorithm):
    assert isinstance(algorithm, Algorithm)
    assert dataclasses.is_dataclass(algorithm)
    for field in dataclasses.fields(algorithm):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(algorithm, field.name, 1.0)
    assert algorithm == type(algorithm)()


def test_advantages_have_the_scores_shape_order_and_a_zero_for_a_group_that_agrees(algorithm):
    scores = torch.tensor([[0.1, 0.9, 0.4], [0.5, 0.5, 0.5]])
    advantages = algorithm.advantages(scores)
    assert advantages.shape == scores.shape
    assert advantages[0].argsort().tolist() == scores[0].argsort().tolist()
    assert advantages[0, 1] > 0 > advantages[0, 0]
    assert advantages[1].tolist() == [0.0, 0.0, 0.0]


def test_advantages_know_no_prompts_level(algorithm):
    """Scores that a prompt gets anyway must not make its images look good."""
    scores = torch.tensor([[0.1, 0.9], [0.5, 0.3]])
    torch.testing.assert_close(
        algorithm.advantages(scores + torch.tensor([[5.0], [-3.0]])), algorithm.advantages(scores)
    )


def test_on_fresh_samples_the_gradient_is_the_advantages_negated_over_the_batch(algorithm):
    weights = torch.tensor([0.5, 1.0, 1.5])
    log_prob = OLD.clone().requires_grad_()
    loss = algorithm.loss(log_prob, OLD, ADVANTAGES, KL, weights)
    (gradient,) = torch.autograd.grad(loss, log_prob)
    assert loss.shape == ()
    assert torch.isfinite(loss)
    torch.testing.assert_close(gradient, -weights * ADVANTAGES / 3)


def test_a_step_down_the_loss_makes_good_images_likelier_and_bad_ones_less_likely(algorithm):
    log_prob = OLD.clone().requires_grad_()
    algorithm.loss(log_prob, OLD, ADVANTAGES, KL, ONES).backward()
    assert log_prob.grad is not None
    assert torch.equal((-log_prob.grad).sign(), ADVANTAGES.sign())


def test_kl_costs_its_mean_times_its_weight_or_nothing(algorithm):
    """dL/dKL is kl_weight / batch for every sample; an algorithm without the field ignores the reference."""
    kl = KL.clone().requires_grad_()
    loss = algorithm.loss(OLD.clone().requires_grad_(), OLD, ADVANTAGES, kl, ONES)
    (gradient,) = torch.autograd.grad(loss, kl, materialize_grads=True)
    torch.testing.assert_close(gradient, torch.full((3,), getattr(algorithm, "kl_weight", 0.0) / 3))


@pytest.mark.parametrize("name", ALGORITHMS.names())
def test_an_epoch_runs_and_every_metric_is_in_the_glossary(name: str, tmp_path: Path):
    glossary = (Path(__file__).parents[2] / "docs" / "algorithms" / "dpok.md").read_text()
    metrics: dict[str, float] = {}
    train(
        build_family(),
        ALGORITHMS.load(name)(),
        lambda images, prompts: images.float().mean(dim=(1, 2, 3)),
        ["a red circle"],
        TrainConfig(epochs=1, prompts_per_epoch=1, images_per_prompt=2, lora_rank=1, value_function=True),
        SampleConfig(steps=2, window=1, guidance=1.0),
        folder=tmp_path,
        place=(0, 1),
        on_epoch=lambda epoch, values: metrics.update(values),
    )
    assert metrics["grad_norm"] > 0
    assert [metric for metric in metrics if f"`{metric}`" not in glossary] == []


@pytest.mark.parametrize("name", ALGORITHMS.names())
def test_a_setting_outside_its_range_is_refused_by_name(name: str):
    maker = ALGORITHMS.load(name)
    wrong = {"clip_range": (0.0, -0.1, 1.0), "kl_weight": (-0.01,), "advantage_clip": (0.0, -1.0)}
    known = {field.name for field in dataclasses.fields(maker)}
    for field in known & wrong.keys():
        for value in wrong[field]:
            with pytest.raises(ConfigError, match=f"algorithm.{field} is {value}"):
                maker(**{field: value})
