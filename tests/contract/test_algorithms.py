"""What every algorithm of the registry keeps: pure functions of a frozen configuration, signs and gradients right.

There are kinds of them (`rl.algorithms.contract`), and each entry is of one.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.distributions import Normal

from hitl.core.errors import ConfigError
from rl import ALGORITHMS
from rl.algorithms.best_of_n import BestOfN
from rl.algorithms.contract import Backpropagation, Denoised, PolicyGradient, Preference, Regression, Steps
from rl.algorithms.dpok import Dpok, DpokAuthors
from rl.algorithms.draft import Refl
from rl.algorithms.nft import Nft
from rl.algorithms.rwr import Rwr
from rl.algorithms.sft import Sft
from rl.config import SampleConfig, TrainConfig
from rl.preferences import Comparisons, retrace
from rl.rollout import trace
from rl.train import train, train_on_comparisons
from tests.fixtures.tiny_pipeline import build_family

GOLDEN = json.loads((Path(__file__).parents[1] / "fixtures" / "golden.json").read_text())
OLD = torch.tensor([-200.0, -180.0, 15.0])
ADVANTAGES = torch.tensor([1.0, -2.0, 0.5])
STEPS = Steps(
    log_prob=OLD,
    old_log_prob=OLD,
    advantages=ADVANTAGES,
    weights=torch.ones(3),
    kl=torch.tensor([0.0, 0.2, 1.0]),
    kl_per_distance=torch.tensor([0.1, 0.1, 5.0]),
    output_mse=torch.tensor([0.0, 0.02, 0.002]),
    dims=100,
    kl_scale=1.0,
)
"""Three fresh transitions: at the last, the last but one step, a small difference of noises is a large KL."""


KINDS = (PolicyGradient, Regression, Backpropagation, Preference, BestOfN)


def names(kind: type) -> list[str]:
    return [name for name in ALGORITHMS.names() if isinstance(ALGORITHMS.load(name)(), kind)]


@pytest.fixture(params=names(PolicyGradient))
def algorithm(request: pytest.FixtureRequest) -> PolicyGradient:
    return ALGORITHMS.load(request.param)()


@pytest.fixture(params=names(Regression))
def regression(request: pytest.FixtureRequest) -> Regression:
    return ALGORITHMS.load(request.param)()


@pytest.fixture(params=names(Backpropagation))
def backpropagation(request: pytest.FixtureRequest) -> Backpropagation:
    return ALGORITHMS.load(request.param)()


@pytest.fixture(params=names(Preference))
def preference(request: pytest.FixtureRequest) -> Preference:
    return ALGORITHMS.load(request.param)()


@pytest.mark.parametrize("name", ALGORITHMS.names())
def test_it_is_a_frozen_configuration_with_a_default_for_every_field(name: str):
    algorithm = ALGORITHMS.load(name)()
    assert sum(isinstance(algorithm, kind) for kind in KINDS) == 1
    assert dataclasses.is_dataclass(algorithm)
    for field in dataclasses.fields(algorithm):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(algorithm, field.name, 1.0)
    assert algorithm == type(algorithm)()


def test_advantages_have_the_scores_shape_order_and_a_zero_for_a_group_that_agrees(algorithm):
    scores = torch.tensor([[0.1, 0.9, 0.4], [0.5, 0.5, 0.5]])
    advantages = algorithm.advantages(scores, ["a", "b"], {})
    assert advantages.shape == scores.shape
    assert advantages[0].argsort().tolist() == scores[0].argsort().tolist()
    if algorithm.has_group_baseline:
        assert advantages[0, 1] > 0 > advantages[0, 0]
        assert advantages[1].tolist() == [0.0, 0.0, 0.0]


def test_advantages_know_no_prompts_level_or_are_the_scores(algorithm):
    """Scores that a prompt gets anyway must not make its images look good, unless a value function sees to that."""
    scores = torch.tensor([[0.1, 0.9], [0.5, 0.3]])
    if algorithm.has_group_baseline:
        shifted = algorithm.advantages(scores + torch.tensor([[5.0], [-3.0]]), ["a", "b"], {})
        torch.testing.assert_close(shifted, algorithm.advantages(scores, ["a", "b"], {}))
    else:
        assert algorithm.advantages(scores, ["a", "b"], {}).tolist() == scores.tolist()


def test_on_fresh_samples_the_gradient_is_the_advantages_negated_over_the_batch(algorithm):
    """Times the weight of the step; DPOK's authors have none, but a weight of the score and a mean over the latent."""
    weights = torch.tensor([0.5, 1.0, 1.5])
    log_prob = OLD.clone().requires_grad_()
    loss = algorithm.loss(replace(STEPS, log_prob=log_prob, weights=weights))
    (gradient,) = torch.autograd.grad(loss, log_prob)
    assert loss.shape == ()
    assert torch.isfinite(loss)
    factor = torch.full((3,), algorithm.reward_weight / 100) if isinstance(algorithm, DpokAuthors) else weights
    torch.testing.assert_close(gradient, -factor * ADVANTAGES / 3)


def test_kl_costs_its_mean_times_its_weight_or_nothing(algorithm):
    """dL/dKL is kl_weight / batch for every sample; an algorithm without the field ignores the reference."""
    field = "output_mse" if isinstance(algorithm, DpokAuthors) else "kl"
    kl = getattr(STEPS, field).clone().requires_grad_()
    loss = algorithm.loss(replace(STEPS, log_prob=OLD.clone().requires_grad_(), kl_scale=3.0, **{field: kl}))
    (gradient,) = torch.autograd.grad(loss, kl, materialize_grads=True)
    torch.testing.assert_close(gradient, torch.full((3,), getattr(algorithm, "kl_weight", 0.0) / 3))


def test_without_a_kl_budget_the_scale_of_an_earlier_one_is_forgotten(algorithm):
    assert [algorithm.next_kl_scale(16.0, kl) for kl in (0.0, 10.0)] == [1.0, 1.0]
    assert float(algorithm.loss(replace(STEPS, kl_scale=16.0))) == float(algorithm.loss(STEPS))


def test_a_capped_kl_charges_no_step_more_than_the_cap():
    """Factors 0.1, 0.1 and 5 capped at 0.5: KLs 0, 0.2 and 1 cost 0, 0.2 and 0.1; their mean is 0.1."""
    capped, plain = Dpok(kl_weight=2.0, kl_cap=0.5), Dpok(kl_weight=0.0)
    assert float(capped.loss(STEPS) - plain.loss(STEPS)) == pytest.approx(2 * 0.1)


def test_a_kl_budget_doubles_the_price_above_it_and_halves_it_below():
    """Target 0.3: the price stays between 0.2 and 0.45."""
    algorithm = Dpok(kl_target=0.3)
    assert [algorithm.next_kl_scale(4.0, kl) for kl in (0.1, 0.21, 0.3, 0.44, 0.46)] == [2.0, 4.0, 4.0, 4.0, 8.0]
    assert algorithm.next_kl_scale(4.0, 0.0) == 4.0  # nothing is spent yet
    assert algorithm.next_kl_scale(1024.0, 9.0) == 1024.0
    assert algorithm.next_kl_scale(1 / 1024, 0.1) == 1 / 1024
    plain, priced = (float(replace(algorithm, kl_weight=weight).loss(STEPS)) for weight in (1e-9, 0.01))
    scaled = float(algorithm.loss(replace(STEPS, kl_scale=4.0)))
    assert scaled - plain == pytest.approx(4 * (priced - plain), rel=1e-3)
    with pytest.raises(ConfigError, match="a kl_weight of 0 stays 0"):
        Dpok(kl_target=0.3, kl_weight=0.0)


def test_a_policy_of_two_numbers_finds_what_is_rewarded(algorithm):
    """x ~ N(m, 1) in two dimensions, rewarded by -|x - g|^2: the best m is g, less what the KL to N(0, 1) costs.

    That is at most |g| kl_weight / (kl_weight + 1 / scale), where the score's scale is about 4: under 0.1.
    """
    goal = torch.tensor([1.5, -0.5])
    mean = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([mean], lr=0.05)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        x = mean.detach() + torch.randn((512, 2), generator=generator)
        scores = -(x - goal).square().sum(dim=1)
        log_prob = Normal(mean, 1.0).log_prob(x).sum(dim=1)
        steps = replace(
            STEPS,
            log_prob=log_prob,
            old_log_prob=log_prob.detach(),
            advantages=algorithm.advantages(scores[None], ["a"], {})[0],
            weights=torch.ones(512),
            kl=mean.square().sum().expand(512) / 2,
            kl_per_distance=torch.full((512,), 0.5),
            output_mse=mean.square().mean().expand(512),
            dims=2,
        )
        optimizer.zero_grad()
        algorithm.loss(steps).backward()
        optimizer.step()
    torch.testing.assert_close(mean.detach(), goal, rtol=0, atol=0.25)


# -- regression on images ---------------------------------------------------------------------------------------------


def test_better_images_weigh_more_and_none_less_than_nothing(regression):
    scores = torch.tensor([[0.1, 0.9, 0.4, 0.2], [7.5, 7.5, 7.5, 7.5]])
    weights = regression.image_weights(scores)
    assert weights.shape == scores.shape
    assert weights[0].argsort().tolist() == scores[0].argsort().tolist()
    assert weights[0, 1] > weights[0, 0] >= 0
    assert weights[1].unique().numel() == 1  # a group that agrees
    shifted = regression.image_weights(scores + torch.tensor([[5.0], [-3.0]]))
    torch.testing.assert_close(shifted, weights)  # no prompt's level counts


def test_rwrs_weights_by_hand():
    """Scores 0 and 1 are the advantages -1 and 1: exp(-2) and exp(2) over their mean. Of four, the best quarter."""
    weights = Rwr(beta=2.0).image_weights(torch.tensor([[0.0, 1.0]]))
    mean = (math.exp(-2) + math.exp(2)) / 2
    torch.testing.assert_close(weights, torch.tensor([[math.exp(-2) / mean, math.exp(2) / mean]]))
    best = Rwr(top_share=0.25).image_weights(torch.tensor([[0.3, 0.1, 0.9, 0.2], [4.0, 1.0, 2.0, 3.0]]))
    assert best.tolist() == [[0, 0, 4, 0], [4, 0, 0, 0]]
    tied = Rwr(top_share=0.25).image_weights(torch.tensor([[2.0, 2.0, 2.0, 2.0], [1.0, 3.0, 3.0, 2.0]]))
    assert tied.tolist() == [[1, 1, 1, 1], [0, 2, 2, 0]]  # no order of the images decides
    steep = Rwr(beta=100.0).image_weights(torch.cat([torch.zeros(15, 8), torch.eye(8)[:1]]))
    assert torch.isfinite(steep).all()


def test_sfts_weights_and_both_its_regularisers_by_hand():
    """Advantages -1 and 1, shifted by 0.5 and cut off: 0 and 1.5; KL-D adds 0.25. KL-O: 0.25 x 0.4 + 1.75 x 0.2 over 2
    are 0.225, and 2 x (0.01 + 0.03) / 2 = 0.04 more."""
    algorithm = Sft(shift=0.5, kl_data=0.25, kl_weight=2.0)
    weights = algorithm.image_weights(torch.tensor([[0.0, 1.0]]))
    assert weights.tolist() == [[0.25, 1.75]]
    denoised = denoised_of(
        torch.zeros(2, 1), target=torch.tensor([[0.4], [0.2]]).sqrt(), reference=torch.tensor([[0.1], [0.03**0.5]])
    )
    assert float(algorithm.loss(replace(denoised, weights=weights[0]))) == pytest.approx(0.225 + 0.04)


def test_nfts_loss_by_hand():
    """From 1 the positive policy goes to 1.5 and the negative to 0.5; in the image twice as far, 3 and 1 from the
    target 0: 9 / 3 and 1 / 1. With r = 0.75, 5 x (0.75 x 3 + 0.25 x 1) / 0.5 = 25; the reference costs 0.1 x 0.25.
    """
    denoised = denoised_of(
        torch.tensor([[2.0]]),
        target=torch.zeros(1, 1),
        reference=torch.tensor([[1.5]]),
        drawn=torch.ones(1, 1),
        clean_per_output=torch.tensor([2.0]),
        weights=torch.tensor([0.75]),
    )
    assert float(Nft(beta=0.5, kl_weight=0.1).loss(denoised)) == pytest.approx(25 + 0.025)
    assert Nft(advantage_clip=2.0).image_weights(torch.tensor([[0.0, 1.0]])).tolist() == [[0.25, 0.75]]


def denoised_of(
    output: torch.Tensor, *, target: torch.Tensor, reference: torch.Tensor, **more: torch.Tensor
) -> Denoised:
    """Of outputs of a few numbers, (images, numbers)."""
    given = {"output": output, "target": target, "reference": reference, "drawn": output.detach()}
    ones = {"clean_per_output": torch.ones(len(output)), "weights": torch.ones(len(output))}
    latents = {name: tensor[:, :, None, None] for name, tensor in (given | more).items() if tensor.ndim == 2}
    return Denoised(**(ones | more | latents))


def test_a_regression_of_two_numbers_finds_the_weighted_mean_of_what_it_sees(regression):
    """x ~ N(m, 1) in two dimensions, or N(0, 1) where the reference draws; the output is m, the score x . u.

    Drawn by the reference, the best m is the weighted mean of x, less what the distance to 0 costs:
    E[w x] / (E[w] + gamma).
    Drawn by the policy m must go on in the direction of u, as the next samples are better again.
    """
    direction = torch.tensor([0.6, 0.8])
    mean = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([mean], lr=0.05)
    generator = torch.Generator().manual_seed(0)
    from_reference = regression.learns_from_reference
    for _ in range(100):
        x = torch.randn((1024, 2), generator=generator) + (0 if from_reference else mean.detach())
        denoised = denoised_of(
            mean.expand(1024, 2),
            target=x,
            reference=torch.zeros(1024, 2),
            weights=regression.image_weights((x @ direction)[None])[0],
        )
        optimizer.zero_grad()
        regression.loss(denoised).backward()
        optimizer.step()
    if from_reference:
        x = torch.randn((100_000, 2), generator=generator)
        weights = ((x @ direction) + regression.shift).clamp(min=0)
        best = (weights[:, None] * x).mean(dim=0) / (weights.mean() + regression.kl_weight)
        torch.testing.assert_close(mean.detach(), best, rtol=0, atol=0.08)
    else:
        assert float(mean.detach() @ direction) > 2
        assert abs(float(mean.detach() @ torch.tensor([0.8, -0.6]))) < 1  # nothing rewards it, nothing holds it


# -- preferences ------------------------------------------------------------------------------------------------------


def test_at_the_reference_a_preference_costs_ln_2_and_a_tie_has_no_say_in_the_direction(preference):
    """Nothing is gained yet: P(first) = 1/2 without ties; with nu = 1/2, 1 / 2.5 and for a tie 0.5 / 2.5."""

    def loss_and_slope(gain: float, outcome: int, tie_odds: float) -> tuple[float, float]:
        first = torch.tensor([gain], requires_grad=True)
        loss = replace(preference, tie_odds=tie_odds).loss(first, torch.zeros(1), torch.tensor([outcome]))
        (slope,) = torch.autograd.grad(loss, first)
        return loss.item(), slope.item()

    loss, slope = loss_and_slope(0.0, 1, 0.0)
    assert loss == pytest.approx(GOLDEN["dpo_at_ref"])
    assert slope == pytest.approx(-preference.beta / 2)
    assert loss_and_slope(0.0, 1, 0.5)[0] == pytest.approx(math.log(2.5))
    assert loss_and_slope(0.0, 0, 0.5) == (pytest.approx(math.log(5)), 0.0)
    assert loss_and_slope(1 / preference.beta, 0, 0.5)[1] > 0  # a tie draws it back
    assert loss_and_slope(1 / preference.beta, 0, 0.0) == (0.0, 0.0)


def test_preferences_teach_the_utility_that_raters_have(preference):
    """x ~ N(0, 1) in two dimensions is liked as x . g. The best policy within N(m, 1) is m = g / beta (the optimum of
    DPO, exp(x . g / beta) times the reference), with or without ties, as long as they follow Davidson's model.

    A step gains m . x - |m|^2 / 2 nats; an image's mean square error falls by as much for its two numbers.
    """
    algorithm = replace(preference, beta=2.0, tie_odds=0.7)
    liking = torch.tensor([1.2, -0.6])
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn((2, 40_000, 2), generator=generator)
    d = (first - second) @ liking
    weights = torch.stack([(-d / 2).exp(), torch.full_like(d, 0.7), (d / 2).exp()], dim=1)
    outcome = torch.multinomial(weights, 1, generator=generator)[:, 0] - 1
    mean = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.LBFGS([mean], max_iter=50)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        gains = ((x - 0).square().mean(dim=1) - (x - mean).square().mean(dim=1) for x in (first, second))
        loss = algorithm.loss(*gains, outcome)
        loss.backward()
        return loss

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(mean.detach(), liking / 2, rtol=0, atol=0.03)


# -- backpropagation --------------------------------------------------------------------------------------------------


def test_an_image_of_two_numbers_climbs_to_the_best_score(backpropagation):
    goal, image = torch.tensor([1.5, -0.5]), torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([image], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        losses = backpropagation.loss(-(image - goal).square().sum()[None])
        assert losses.shape == (1,)
        losses.sum().backward()
        optimizer.step()
    torch.testing.assert_close(image.detach(), goal, rtol=0, atol=0.01)


def test_refl_learns_nothing_from_a_score_above_its_ceiling():
    scores = torch.tensor([-1.0, 1.9, 2.5], requires_grad=True)
    losses = Refl(ceiling=2.0).loss(scores)
    assert losses.tolist() == pytest.approx([3.0, 0.1, 0.0])
    losses.sum().backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [-1.0, -1.0, 0.0]


# -- all --------------------------------------------------------------------------------------------------------------


class Brightness:
    """A reward with a gradient."""

    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        return self.differentiable(images / 255, prompts)

    def differentiable(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        return images.mean(dim=(1, 2, 3))


@pytest.mark.parametrize("name", ALGORITHMS.names())
def test_an_epoch_runs_and_every_metric_is_in_the_glossary(name: str, tmp_path: Path):
    folder = Path(__file__).parents[2] / "docs" / "algorithms"
    glossary = "".join(page.read_text() for page in folder.glob("*.md"))
    metrics: dict[str, float] = {}
    algorithm, family = ALGORITHMS.load(name)(), build_family()
    has_value = isinstance(algorithm, PolicyGradient)
    config = TrainConfig(epochs=1, prompts_per_epoch=1, images_per_prompt=2, lora_rank=1, value_function=has_value)
    sample = SampleConfig(steps=2 if not isinstance(algorithm, Backpropagation) else 3, window=1, guidance=1.0)
    where = {"folder": tmp_path, "place": (0, 1), "on_epoch": lambda epoch, values: metrics.update(values)}
    if isinstance(algorithm, Preference):
        seeds, schedule = [(0,), (1,)], family.process.schedule(2, eta=1.0, window=1)
        drawn = trace(family, ["a red circle"] * 2, schedule, guidance=1.0, seeds=seeds, batch_size=2)
        compared = Comparisons(
            images=drawn.images,
            prompts=["a red circle"] * 2,
            first=torch.tensor([0]),
            second=torch.tensor([1]),
            outcome=torch.tensor([1]),
        )
        traces = None
        if algorithm.learns_from_steps:
            traces = retrace(family, compared, schedule, guidance=1.0, seeds=seeds, batch_size=2)
        train_on_comparisons(family, algorithm, compared, traces, config, sample, **where)
    else:
        train(family, algorithm, Brightness(), ["a red circle"], config, sample, **where)
    assert (tmp_path / "pytorch_lora_weights.safetensors").exists()
    assert metrics.get("grad_norm", 0) > 0 or isinstance(algorithm, BestOfN)
    assert [metric for metric in metrics if f"`{metric}`" not in glossary] == []


@pytest.mark.parametrize("name", ALGORITHMS.names())
def test_a_setting_outside_its_range_is_refused_by_name(name: str):
    maker = ALGORITHMS.load(name)
    wrong = {
        "clip_range": (0.0, -0.1, 1.0),
        "kl_weight": (-0.01,),
        "kl_cap": (-1.0,),
        "kl_target": (-0.1,),
        "reward_weight": (-10.0,),
        "beta": (-1.0,),
        "tie_odds": (-0.1,),
        "last_steps": (-1,),
        "gradient_cap": (0.0,),
        "denoising_weight": (-1.0,),
        "top_share": (-0.1, 1.0),
        "shift": (-1.0,),
        "kl_data": (-1.0,),
        "advantage_clip": (0.0, -1.0),
    }
    known = {field.name for field in dataclasses.fields(maker)}
    for field in known & wrong.keys():
        for value in wrong[field]:
            with pytest.raises(ConfigError, match=f"algorithm.{field} is {value}"):
                maker(**{field: value})
