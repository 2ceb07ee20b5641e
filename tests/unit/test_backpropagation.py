"""The gradient of a differentiable reward (draft, refl) on a tiny pipeline of real classes."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hitl.core.errors import ConfigError, TrainingError
from rl import backpropagation
from rl.algorithms.contract import Backpropagation
from rl.algorithms.draft import Draft, Refl
from rl.config import SampleConfig, TrainConfig
from rl.families.sd15 import StableDiffusion15
from rl.randomness import generator
from rl.rollout import draw
from rl.state import TrainingState
from rl.train import train
from tests.fixtures.tiny_pipeline import build_family, build_pipeline

PROMPTS = ["a red circle", "two blue hearts"]
PLACE = (0, 1)
SAMPLE = SampleConfig(steps=4, guidance=2.0, window=1, batch_size=32)
TRAIN = TrainConfig(epochs=2, prompts_per_epoch=2, images_per_prompt=4, batch_size=3, learning_rate=1e-2, lora_rank=4)
LORA_FILE = "pytorch_lora_weights.safetensors"


class Brightness:
    """From 0 to 10, with a gradient."""

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.differentiable(images / 255, prompts)

    def differentiable(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return 10 * images.mean(dim=(1, 2, 3))


def run(folder: Path, algorithm: Backpropagation, *, config: TrainConfig = TRAIN, **more: Any) -> list[dict]:
    """Train; each epoch's metrics."""
    metrics: list[dict[str, float]] = []
    given = {"reward": Brightness(), "on_epoch": lambda epoch, values: metrics.append(values)} | more
    reward = given.pop("reward")
    train(build_family(), algorithm, reward, PROMPTS, config, SAMPLE, folder=folder, place=PLACE, **given)
    return metrics


@pytest.fixture(params=[Draft(last_steps=2), Refl(ceiling=20.0)], ids=["draft", "refl"])
def algorithm(request: pytest.FixtureRequest) -> Backpropagation:
    return request.param


@pytest.mark.parametrize("last_steps", [4, 2, 0])
def test_the_gradient_is_the_slope_of_the_mean_score_of_what_stock_diffusers_draws(tmp_path: Path, last_steps: int):
    """Measured by moving the LoRA a little to both sides, in the last steps only, and drawing by the stock pipeline."""
    pipeline = build_pipeline()
    family = StableDiffusion15(pipeline, torch.device("cpu"))
    config = replace(TRAIN, learning_rate=1e-30, max_grad_norm=math.inf)
    state = TrainingState.start(family, config, SAMPLE, tmp_path, PLACE, None)
    for parameter in state.parameters:
        parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator("lora", tuple(parameter.shape))))
    start = [parameter.detach().clone() for parameter in state.parameters]
    algorithm = Draft(last_steps=last_steps, gradient_cap=math.inf)
    backpropagation.update(state, algorithm, Brightness(), PROMPTS, config, SAMPLE, PLACE)
    direction = [torch.as_tensor(parameter.grad).clone() for parameter in state.parameters]
    length = math.sqrt(sum(float(each.square().sum()) for each in direction))

    names = [prompt for prompt in PROMPTS for _ in range(4)]
    latents = torch.stack([torch.randn((4, 8, 8), generator=generator(*PLACE, "start", row)) for row in range(8)])

    trained = last_steps or SAMPLE.steps  # 0: all

    def mean_score(distance: float) -> float:
        def place_lora(offset: float) -> None:
            for parameter, begun, each in zip(state.parameters, start, direction, strict=True):
                parameter.data.copy_(begun + offset * each / length)

        def on_step(pipe: Any, step: int, timestep: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
            if step + 1 == SAMPLE.steps - trained:
                place_lora(distance)
            return given

        place_lora(distance if trained == SAMPLE.steps else 0.0)
        images = pipeline(
            names,
            latents=latents,
            num_inference_steps=SAMPLE.steps,
            guidance_scale=SAMPLE.guidance,
            eta=0.0,
            output_type="pt",
            callback_on_step_end=on_step,
        ).images
        return float(Brightness().differentiable(images, names).mean())

    slope = (mean_score(0.05) - mean_score(-0.05)) / 0.1
    assert slope == pytest.approx(-length, rel=0.02)  # the gradient is that of the loss, which is minus the score
    assert length > 0.01


def test_refl_scores_the_image_that_a_random_late_step_means_by_diffusers_own_formula(tmp_path: Path):
    pipeline = build_pipeline()
    family = StableDiffusion15(pipeline, torch.device("cpu"))
    state = TrainingState.start(family, TRAIN, SAMPLE, tmp_path, PLACE, None)
    schedule = family.process.schedule(SAMPLE.steps, eta=0.0, window=0)
    stock = build_pipeline()
    steps_seen = set()
    for epoch in range(6):
        place = (*PLACE, epoch)
        found = backpropagation._last_latents(state, Refl(last_steps=2), PROMPTS, [0, 1], schedule, 1.0, place)
        x = torch.stack([torch.randn((4, 8, 8), generator=generator(*place, "start", row)) for row in (0, 1)])
        stock.scheduler.set_timesteps(SAMPLE.steps)
        tokens = stock.tokenizer(PROMPTS, padding="max_length", truncation=True, return_tensors="pt").input_ids
        for i, t in enumerate(stock.scheduler.timesteps):
            with torch.no_grad():
                eps = stock.unet(x, t, stock.text_encoder(tokens)[0]).sample
            step = stock.scheduler.step(eps, int(t), x, eta=0.0)
            if torch.allclose(step.pred_original_sample, found, rtol=1e-3, atol=1e-3):
                steps_seen.add(i)
                break
            x = step.prev_sample
        assert found.requires_grad
    assert steps_seen == {2, 3}


@pytest.mark.long
def test_the_score_rises(algorithm, tmp_path: Path):
    """Same seeds before and after, so that the mean change is the policy's; it must be 4 standard errors and more."""
    family = build_family()
    settings = {"steps": 4, "guidance": 2.0, "seeds": [("judge", index) for index in range(16)], "batch_size": 16}
    reward = Brightness()
    before = reward(draw(family, PROMPTS * 8, **settings), [])
    run(tmp_path, algorithm, config=replace(TRAIN, epochs=4, images_per_prompt=8, batch_size=16))
    family.load_policy(tmp_path)
    change = reward(draw(family, PROMPTS * 8, **settings), []) - before
    assert change.mean() > 4 * change.std() / len(change) ** 0.5


@pytest.mark.long
@pytest.mark.parametrize(("updates", "expected"), [(0, [8, 8]), (1, [16]), (3, [6, 5, 5])])
def test_an_update_is_of_8_images_unless_an_epoch_shall_have_so_many_updates(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, updates: int, expected: list[int]
):
    sizes, drawn = [], []
    last_latents, step = backpropagation._last_latents, TrainingState.step

    def watched(run: Any, algorithm: Any, prompts: list[str], *more: Any) -> Tensor:
        drawn.append(len(prompts))
        return last_latents(run, algorithm, prompts, *more)

    def counted(state: TrainingState, largest: float) -> float:
        sizes.append(sum(drawn))
        drawn.clear()
        return step(state, largest)

    monkeypatch.setattr(backpropagation, "_last_latents", watched)
    monkeypatch.setattr(TrainingState, "step", counted)
    run(tmp_path, Draft(), config=replace(TRAIN, epochs=1, images_per_prompt=8, updates_per_epoch=updates))
    assert sizes == expected


def test_a_steep_score_pulls_no_harder_than_the_cap(tmp_path: Path):
    """Every image's gradient is longer than a tiny cap, so that the whole is linear in it."""
    norms = {}
    for cap in (1e-4, 3e-4):
        config = replace(TRAIN, epochs=1, max_grad_norm=math.inf)
        (metrics,) = run(tmp_path / str(cap), Draft(gradient_cap=cap), config=config)
        assert metrics["cut_share"] == 1
        assert metrics["steepest_score"] > 3e-4
        norms[cap] = metrics["grad_norm"]
    assert norms[3e-4] == pytest.approx(3 * norms[1e-4], rel=1e-3)


def test_denoising_the_references_images_adds_the_gradient_that_stock_diffusers_gives(tmp_path: Path):
    """A score that is flat leaves the denoising term alone; a fresh LoRA predicts what the pipeline does."""

    class Flat(Brightness):
        def differentiable(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
            return 0 * super().differentiable(images, prompts)

    config = replace(TRAIN, epochs=1, max_grad_norm=math.inf)
    once, thrice = (
        run(tmp_path / str(weight), Refl(denoising_weight=weight), config=config, reward=Flat())[0]
        for weight in (1.0, 3.0)
    )
    assert thrice["grad_norm"] == pytest.approx(3 * once["grad_norm"], rel=1e-4) != 0
    place = (*PLACE, 0)
    stock = build_pipeline()
    chosen = _prompts_of_the_first_epoch()
    seeds = [(*place, "reference", index) for index in range(2)]
    x_0 = torch.stack([torch.randn((4, 8, 8), generator=generator(*seed)) for seed in seeds])
    x_0 = stock(chosen, latents=x_0, num_inference_steps=4, guidance_scale=2.0, eta=0.0, output_type="latent").images
    levels = torch.randint(1000, (8,), generator=generator(*place, "timesteps"))
    eps = torch.randn((8, 4, 8, 8), generator=generator(*place, "noise"))
    tokens = stock.tokenizer(chosen * 4, padding="max_length", truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        x_t = stock.scheduler.add_noise(x_0.repeat(4, 1, 1, 1), eps, levels)
        predicted = stock.unet(x_t, levels, stock.text_encoder(tokens)[0]).sample
    assert once["denoising_error"] == pytest.approx(float((predicted - eps).square().mean()), rel=1e-3)


def _prompts_of_the_first_epoch() -> list[str]:
    order = torch.randperm(2, generator=generator(*PLACE, "prompts", "", 0))
    return [PROMPTS[int(index)] for index in order]


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


def test_a_reward_without_a_gradient_is_refused_before_anything_is_drawn(tmp_path: Path):
    with pytest.raises(ConfigError, match="The reward function has no gradient, and draft learns by nothing else"):
        run(tmp_path, Draft(), reward=lambda images, prompts: torch.zeros(len(images)))


@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        (lambda found: found + torch.inf, TrainingError, r"gave 3 of 3 images a score that is not finite"),
        (lambda found: found[:, None], TrainingError, r"scores of shape \(3, 1\) for 3 images"),
        (lambda found: found.detach(), ConfigError, r"Wrong.differentiable have no gradient"),
    ],
)
def test_scores_that_cannot_be_learned_from_are_refused(tmp_path: Path, scores: Any, error: type, message: str):
    class Wrong(Brightness):
        def differentiable(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
            return scores(super().differentiable(images, prompts))

    with pytest.raises(error, match=message):
        run(tmp_path, Draft(), reward=Wrong())


@pytest.mark.parametrize(
    ("algorithm", "change", "message"),
    [
        (Draft(last_steps=5), {}, r"algorithm.last_steps is 5, but sample.steps is 4"),
        (Draft(), {"updates_per_epoch": 9}, r"updates_per_epoch is 9, but an epoch has 8 images"),
        (Draft(), {"replay": 8}, r"train.replay is set"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(
    tmp_path: Path, algorithm: Draft, change: dict[str, Any], message: str
):
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, algorithm, config=replace(TRAIN, **change))
