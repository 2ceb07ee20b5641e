"""Regression on images (rwr, sft) on a tiny pipeline of real classes: what it sees, whose images, what it learns."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hitl.core.errors import ConfigError
from rl import regression
from rl.algorithms.rwr import Rwr
from rl.algorithms.sft import Sft
from rl.config import SampleConfig, TrainConfig
from rl.ddim import Ddim
from rl.families.sd15 import StableDiffusion15
from rl.randomness import generator
from rl.rollout import collect
from rl.state import TrainingState
from rl.train import train
from tests.fixtures.tiny_pipeline import build_family, build_pipeline

PROMPTS = ["a red circle", "two blue hearts"]
PLACE = (0, 1)
SAMPLE = SampleConfig(steps=2, guidance=1.0, window=1, batch_size=8, shared_noise=False)
TRAIN = TrainConfig(epochs=2, prompts_per_epoch=2, images_per_prompt=2, batch_size=3, learning_rate=1e-2, lora_rank=2)
LORA_FILE = "pytorch_lora_weights.safetensors"


def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.float().mean(dim=(1, 2, 3)) / 255


def run(folder: Path, algorithm: Any, *, reward=brightness, config: TrainConfig = TRAIN, **more: Any) -> list[dict]:
    """Train; each epoch's metrics."""
    metrics: list[dict[str, float]] = []
    given = {
        "family": build_family(),
        "sample": SAMPLE,
        "on_epoch": lambda epoch, values: metrics.append(values),
    } | more
    family, sample = given.pop("family"), given.pop("sample")
    train(family, algorithm, reward, PROMPTS, config, sample, folder=folder, place=PLACE, **given)
    return metrics


def test_noise_is_added_and_predicted_as_by_stock_diffusers(tmp_path: Path):
    """A fresh LoRA predicts what the pipeline does, at any timestep and unguided; each image stands there twice."""
    pipeline = build_pipeline()
    family = StableDiffusion15(pipeline, torch.device("cpu"))
    config = replace(TRAIN, noises_per_image=2)
    trajectory = collect(family, PROMPTS, 2, SAMPLE, PLACE)
    state = TrainingState.start(family, config, SAMPLE, tmp_path, PLACE, None)
    scores = torch.tensor([[0.0, 1.0], [3.0, 3.0]])
    metrics = regression.update(state, Rwr(beta=1.0), trajectory, scores, config, PLACE)

    stock = build_pipeline()
    shuffled = torch.randperm(8, generator=generator(*PLACE, "order")) // 2
    timesteps = torch.randint(1000, (8,), generator=generator(*PLACE, "timesteps"))
    eps = torch.randn((8, 4, 8, 8), generator=generator(*PLACE, "noise"))
    x_t = stock.scheduler.add_noise(trajectory.latents[shuffled], eps, timesteps)
    texts = [trajectory.prompts[row] for row in shuffled.tolist()]
    tokens = stock.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        predicted = stock.unet(x_t, timesteps, stock.text_encoder(tokens)[0]).sample
    error = (predicted - eps).square().mean(dim=(1, 2, 3))
    weights = torch.tensor([-1.0, 1.0, 0.0, 0.0]).mul(2**0.5).exp()  # the scale of (-1, 1, 0, 0) / 2 is 1 / sqrt(8)
    weights = weights / weights.mean()
    assert metrics["denoising_error"] == pytest.approx(float(error.mean()), rel=1e-4)
    assert metrics["loss"] == pytest.approx(float((weights[shuffled] * error).mean()), rel=1e-4)
    assert metrics["effective_images"] == pytest.approx(float(weights.sum() ** 2 / weights.square().sum()), rel=1e-5)
    assert metrics["reference_distance"] == 0


def test_adding_noise_leaves_the_schedulers_table_where_it_is():
    """diffusers' own moves it to the device of the images, where drawing then no longer finds it."""
    pipeline = build_pipeline()
    family = StableDiffusion15(pipeline, torch.device("cpu"))
    process = family.process
    assert isinstance(process, Ddim)
    table = process._scheduler.alphas_cumprod
    ones, levels = torch.ones(2, 4, 8, 8), torch.tensor([0, 999])
    noised, _, _ = process.noised(ones, torch.zeros(2, 4, 8, 8), levels)
    assert process._scheduler.alphas_cumprod is table
    torch.testing.assert_close(noised, pipeline.scheduler.add_noise(ones, torch.zeros(2, 4, 8, 8), levels))
    elsewhere = torch.empty(2, 4, 8, 8, device="meta")
    moved, _, _ = process.noised(elsewhere, elsewhere, levels)
    assert moved.device.type == "meta"
    assert process._scheduler.alphas_cumprod.device.type == "cpu"


def test_latents_are_those_of_the_images():
    family = build_family()
    trajectory = collect(family, PROMPTS, 2, SAMPLE, PLACE)
    assert torch.equal(family.decode(trajectory.latents), trajectory.images)


def test_rwr_learns_from_the_policys_images_and_sft_from_the_references(tmp_path: Path):
    run(tmp_path / "moved", Rwr(), config=replace(TRAIN, epochs=1))
    (tmp_path / "moved" / "state.pt").unlink()
    reference = collect(build_family(), PROMPTS, 2, SAMPLE, (*PLACE, 0)).images
    seen: list[Tensor] = []

    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        seen.append(images)
        return brightness(images, prompts)

    for algorithm in (Sft(), Rwr()):
        run(
            tmp_path / type(algorithm).__name__,
            algorithm,
            reward=reward,
            config=replace(TRAIN, epochs=1),
            start_from=tmp_path / "moved",
        )
    rows = {tuple(image.flatten().tolist()) for image in reference}
    assert [{tuple(image.flatten().tolist()) for image in images} == rows for images in seen] == [True, False]


@pytest.mark.slow
def test_sft_stays_nearer_to_the_reference_the_more_distance_costs(tmp_path: Path):
    config = replace(TRAIN, epochs=6)
    free, held = (
        run(tmp_path / str(weight), Sft(kl_weight=weight), config=config)[-1]["reference_distance"]
        for weight in (0.0, 20.0)
    )
    assert 0 < held < 0.5 * free


@pytest.mark.slow
def test_brightness_rises_when_it_is_rewarded(tmp_path: Path):
    """Same seeds before and after, so that the mean change is the policy's; it must be 4 standard errors and more.

    Against a policy that learned from the same kind of images, all alike: denoising one's own images moves it too.
    """
    sample = replace(SAMPLE, steps=4, batch_size=32)
    config = replace(TRAIN, epochs=6, prompts_per_epoch=4, images_per_prompt=8, batch_size=64, lora_rank=4)
    bright = {}
    for name, algorithm in (("even", Rwr(beta=0.0)), ("brighter", Rwr(beta=3.0))):
        family = build_family()
        run(tmp_path / name, algorithm, family=family, config=config, sample=sample)
        bright[name] = brightness(collect(family, PROMPTS, 12, sample, ("judge",)).images, [])
    change = bright["brighter"] - bright["even"]
    assert change.mean() > 4 * change.std() / len(change) ** 0.5


class Killed(BaseException):
    """Stands for a signal in the middle of a run."""


@pytest.mark.long
def test_interrupted_equals_uninterrupted_bit_for_bit(tmp_path: Path):
    config = replace(TRAIN, epochs=3, updates_per_epoch=2)
    run(tmp_path / "whole", Rwr(), config=config)
    calls = []

    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        return brightness(images, prompts)

    with pytest.raises(Killed):
        run(tmp_path / "parts", Rwr(), config=config, reward=reward)
    run(tmp_path / "parts", Rwr(), config=config, reward=reward)
    assert len(calls) == 4
    assert (tmp_path / "parts" / LORA_FILE).read_bytes() == (tmp_path / "whole" / LORA_FILE).read_bytes()


def test_more_updates_than_noised_images_are_refused(tmp_path: Path):
    config = replace(TRAIN, updates_per_epoch=9, noises_per_image=2)
    with pytest.raises(ConfigError, match="updates_per_epoch is 9, but an epoch has 8 noised images"):
        run(tmp_path, Rwr(), config=config)


@pytest.mark.parametrize("change", [{"value_function": True}, {"replay": 8}])
def test_settings_that_only_policy_gradient_has_a_use_for_are_refused(tmp_path: Path, change: dict[str, Any]):
    config = replace(TRAIN, algorithm="rwr", **change)
    with pytest.raises(ConfigError, match=f"train.{next(iter(change))} is set, but train.algorithm = 'rwr'"):
        run(tmp_path, Rwr(), config=config)
