"""Learning from comparisons (diffusion_dpo, d3po) on a tiny pipeline of real classes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from hitl.core.errors import ConfigError, TrainingError
from rl import preferences
from rl.algorithms.contract import Preference
from rl.algorithms.dpo import D3po, DiffusionDpo
from rl.config import SampleConfig, TrainConfig
from rl.families.sd15 import StableDiffusion15
from rl.preferences import Comparisons, Traces, retrace
from rl.randomness import generator
from rl.rollout import trace
from rl.state import TrainingState
from rl.train import train_on_comparisons
from tests.fixtures.tiny_pipeline import build_family, build_pipeline

PROMPTS = ["a red circle", "two blue hearts"]
PLACE = (0, 1)
SAMPLE = SampleConfig(steps=4, guidance=2.0, window=2, batch_size=32)
TRAIN = TrainConfig(
    epochs=2,
    prompts_per_epoch=2,
    images_per_prompt=4,
    updates_per_epoch=1,
    batch_size=8,
    learning_rate=1e-2,
    lora_rank=4,
    noises_per_image=2,
)
LORA_FILE = "pytorch_lora_weights.safetensors"


def brightness(images: Tensor) -> Tensor:
    return images.float().mean(dim=(1, 2, 3)) / 255


def rated(family: StableDiffusion15, count: int = 4, *, all_tied: bool = False) -> tuple[Comparisons, Traces]:
    """`count` images of each prompt, each compared with the next: the brighter is better."""
    prompts = [prompt for prompt in PROMPTS for _ in range(count)]
    seeds = [("draw", index) for index in range(len(prompts))]
    schedule = family.process.schedule(SAMPLE.steps, eta=1.0, window=SAMPLE.window)
    drawn = trace(family, prompts, schedule, guidance=SAMPLE.guidance, seeds=seeds, batch_size=SAMPLE.batch_size)
    first = torch.tensor([i for i in range(len(prompts)) if (i + 1) % count])
    bright = brightness(drawn.images)
    compared = Comparisons(
        images=drawn.images,
        prompts=prompts,
        first=first,
        second=first + 1,
        outcome=(bright[first] - bright[first + 1]).sign().long() * (not all_tied),
    )
    return compared, retrace(family, compared, schedule, guidance=SAMPLE.guidance, seeds=seeds, batch_size=3)


def run(folder: Path, algorithm: Preference, *, config: TrainConfig = TRAIN, count: int = 4, **more: Any) -> list[dict]:
    """Train; each epoch's metrics."""
    metrics: list[dict[str, float]] = []
    family = build_family()
    compared, traces = rated(family, count, all_tied=more.pop("all_tied", False))
    given: dict[str, Any] = {"on_epoch": lambda epoch, values: metrics.append(values)} | more
    needed = traces if algorithm.learns_from_steps else None
    train_on_comparisons(family, algorithm, compared, needed, config, SAMPLE, folder=folder, place=PLACE, **given)
    return metrics


@pytest.fixture(params=[DiffusionDpo(), D3po()], ids=["diffusion_dpo", "d3po"])
def algorithm(request: pytest.FixtureRequest) -> Preference:
    return request.param


@pytest.fixture
def moved(tmp_path: Path) -> tuple[Any, StableDiffusion15, TrainingState]:
    """A pipeline whose LoRA stands somewhere."""
    pipeline = build_pipeline()
    family = StableDiffusion15(pipeline, torch.device("cpu"))
    state = TrainingState.start(family, TRAIN, SAMPLE, tmp_path, PLACE, None)
    for parameter in state.parameters:
        parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator("lora", tuple(parameter.shape))))
    return pipeline, family, state


def outputs(pipeline: Any, x: Tensor, t: Tensor, prompts: list[str]) -> Tensor:
    """Stock, unguided."""
    tokens = pipeline.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        return pipeline.unet(x, t, pipeline.text_encoder(tokens)[0]).sample


def test_an_image_gains_what_its_denoising_error_falls_below_the_references(moved):
    """Both images of a comparison at one level and with one noise, by stock diffusers."""
    pipeline, family, _ = moved
    with family.reference():
        compared, _ = rated(family)
    rows = torch.tensor([2, 0])
    first, second = preferences._Denoising(family, compared, rows, PLACE).of(torch.arange(2))
    stock, levels = build_pipeline(), torch.randint(1000, (2,), generator=generator(*PLACE, "timesteps"))
    eps = torch.randn((2, 4, 8, 8), generator=generator(*PLACE, "noise"))
    for gains, images in ((first, compared.first[rows]), (second, compared.second[rows])):
        pixels = compared.images[images].float() / 127.5 - 1
        with torch.no_grad():
            x_0 = stock.vae.encode(pixels).latent_dist.mode() * stock.vae.config.scaling_factor
        x_t = stock.scheduler.add_noise(x_0, eps, levels)
        prompts = [compared.prompts[image] for image in images.tolist()]
        error, reference = (
            (outputs(each, x_t, levels, prompts) - eps).square().sum(dim=(1, 2, 3)) for each in (pipeline, stock)
        )
        torch.testing.assert_close(gains.detach(), reference - error, rtol=1e-3, atol=1e-5)
    assert first.detach().abs().max() > 1e-3


def test_a_step_gains_its_log_probability_less_the_references(moved):
    """By torch.distributions, with means and deviations read off diffusers' scheduler."""
    pipeline, family, _ = moved
    with family.reference():
        compared, traces = rated(family)
    rows = torch.tensor([2, 0, 1, 4, 5])
    gains = preferences._Steps(family, compared, traces, rows, PLACE)
    first, _ = gains.of(torch.arange(5))
    assert {*gains._step.tolist()} == {0, 1}
    stock = build_pipeline()
    stock.scheduler.set_timesteps(SAMPLE.steps)
    for gain, row, step in zip(first.detach(), rows.tolist(), gains._step.tolist(), strict=True):
        image = int(compared.first[row])
        x, moved_to = traces.states[image, step][None], traces.states[image, step + 1][None]
        t = stock.scheduler.timesteps[step]
        log_probs = []
        for each in (pipeline, stock):
            without, told = (outputs(each, x, t, [text]) for text in ("", compared.prompts[image]))
            eps = without + SAMPLE.guidance * (told - without)
            means = [
                stock.scheduler.step(eps, int(t), x, eta=1.0, variance_noise=z).prev_sample
                for z in (torch.zeros_like(x), torch.ones_like(x))
            ]
            log_probs.append(Normal(means[0], means[1] - means[0]).log_prob(moved_to).sum())
        torch.testing.assert_close(gain, log_probs[0] - log_probs[1], rtol=2e-2, atol=2e-2)
    assert first.detach().abs().max() > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("sign", [1, -1])
def test_what_is_preferred_becomes_more(algorithm, sign: int, tmp_path: Path):
    """Same seeds before and after, so that the mean change is the policy's; it must be 4 standard errors and more.

    Of steps it is brightness. Denoising learns from latents of images, and those of a random autoencoder are not what
    was decoded, and nearly all alike: there it is their mean, and a few epochs at a low rate.
    """
    family = build_family()
    schedule = family.process.schedule(4, eta=0.0, window=0)
    seeds = [("judge", index) for index in range(16)]

    def liking() -> Tensor:
        found = trace(family, PROMPTS * 8, schedule, guidance=SAMPLE.guidance, seeds=seeds, batch_size=16)
        return brightness(found.images) if algorithm.learns_from_steps else found.latents.mean(dim=(1, 2, 3))

    before = liking()
    compared, traces = rated(family, 16)
    config = replace(TRAIN, epochs=6, images_per_prompt=16, batch_size=64)
    if not algorithm.learns_from_steps:
        value, traces = family.encode(compared.images).mean(dim=(1, 2, 3)), None
        compared = replace(compared, outcome=(value[compared.first] - value[compared.second]).sign().long())
        config = replace(config, epochs=4, learning_rate=2e-3)
    compared = replace(compared, outcome=sign * compared.outcome)
    metrics: list[dict[str, float]] = []
    train_on_comparisons(
        family,
        algorithm,
        compared,
        traces,
        config,
        SAMPLE,
        folder=tmp_path,
        place=PLACE,
        on_epoch=lambda epoch, values: metrics.append(values),
    )
    change = sign * (liking() - before)
    assert change.mean() > 4 * change.std() / len(change) ** 0.5
    assert metrics[0]["preferred_share"] == 0  # nothing is gained yet
    assert metrics[-1]["preferred_share"] > 0.6


def test_ties_alone_leave_the_policy_at_the_reference(algorithm, tmp_path: Path):
    assert [values["grad_norm"] for values in run(tmp_path, algorithm, all_tied=True)] == [0.0, 0.0]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_in_half_precision_the_reference_gains_nothing_on_itself(algorithm, tmp_path: Path, checkpointing: bool):
    """Attention rounds otherwise where no gradient is wanted: an untrained policy would seem to have an opinion."""
    family = StableDiffusion15(build_pipeline().to(dtype=torch.bfloat16), torch.device("cpu"))
    compared, traces = rated(family)
    needed = traces if algorithm.learns_from_steps else None
    metrics: list[dict[str, float]] = []
    train_on_comparisons(
        family,
        algorithm,
        compared,
        needed,
        replace(TRAIN, epochs=1, gradient_checkpointing=checkpointing),
        SAMPLE,
        folder=tmp_path,
        place=PLACE,
        on_epoch=lambda epoch, values: metrics.append(values),
    )
    assert metrics[0]["gain_size"] == 0
    assert metrics[0]["grad_norm"] > 0


def test_float16_is_refused_where_gradients_are_too_small_for_it(tmp_path: Path):
    family = StableDiffusion15(build_pipeline().to(dtype=torch.float16), torch.device("cpu"))
    compared, _ = rated(build_family())
    with pytest.raises(ConfigError, match=r"model.dtype is float16"):
        train_on_comparisons(family, DiffusionDpo(), compared, None, TRAIN, SAMPLE, folder=tmp_path, place=PLACE)


@pytest.mark.parametrize(
    ("algorithm", "pairs", "expected"), [(DiffusionDpo(), 4, 4), (DiffusionDpo(), 1, 2), (D3po(), 4, 1)]
)
def test_an_epoch_of_denoising_has_4_updates_or_as_many_as_it_has_looks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, algorithm: Preference, pairs: int, expected: int
):
    steps = []
    step = TrainingState.step

    def counted(state: TrainingState, largest: float) -> float:
        steps.append(largest)
        return step(state, largest)

    monkeypatch.setattr(TrainingState, "step", counted)
    config = replace(TRAIN, epochs=1, prompts_per_epoch=1, images_per_prompt=2 * pairs, updates_per_epoch=0)
    run(tmp_path, algorithm, config=config)
    assert len(steps) == expected


class Killed(BaseException):
    """Stands for a signal in the middle of a run."""


@pytest.mark.long
def test_interrupted_equals_uninterrupted_bit_for_bit(algorithm, tmp_path: Path):
    config = replace(TRAIN, epochs=3, images_per_prompt=2, updates_per_epoch=2)

    def stop(epoch: int, metrics: dict[str, float]) -> None:
        if epoch == 2:
            raise Killed

    run(tmp_path / "whole", algorithm, config=config)
    with pytest.raises(Killed):
        run(tmp_path / "parts", algorithm, config=config, on_epoch=stop)
    assert len(run(tmp_path / "parts", algorithm, config=config)) == 2
    assert (tmp_path / "parts" / LORA_FILE).read_bytes() == (tmp_path / "whole" / LORA_FILE).read_bytes()


def test_every_comparison_is_seen_before_any_is_seen_again():
    """7 comparisons by 3 in an epoch: 21 in 7 epochs are each three times, and in another order each time."""
    chosen = torch.cat([preferences._choose(7, 3, (*PLACE, epoch), epoch) for epoch in range(7)])
    laps = chosen.reshape(3, 7)
    assert torch.equal(laps.sort(dim=1).values, torch.arange(7).expand(3, 7))
    assert not torch.equal(laps[0], laps[1])


def test_images_that_come_out_otherwise_when_drawn_again_are_refused():
    family = build_family()
    compared, _ = rated(family)
    other = compared.images.clone()
    other[3] = 255 - other[3]
    seeds = [("draw", index) for index in range(8)]
    schedule = family.process.schedule(SAMPLE.steps, eta=1.0, window=SAMPLE.window)
    with pytest.raises(TrainingError, match="1 of 8 rated images come out otherwise"):
        retrace(family, replace(compared, images=other), schedule, guidance=SAMPLE.guidance, seeds=seeds, batch_size=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"updates_per_epoch": 99}, "updates_per_epoch is 99, but an epoch has 8 looks at a pair"),
        ({"replay": 8}, r"train.replay is set, but train.algorithm = 'dpok'"),
        ({"value_function": True}, r"train.value_function is set"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(tmp_path: Path, change: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, DiffusionDpo(), config=replace(TRAIN, **change))
