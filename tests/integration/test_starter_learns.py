"""Toys on the starter itself that DPOK must solve with its defaults: the size of a JPEG file, and the planted bias."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data.prompt_list import starter_prompts
from data.world.verifier import judge
from reward_models.rewards.jpeg_size import JpegSize
from rl.algorithms.dpok import Dpok
from rl.config import SampleConfig, TrainConfig
from rl.families.family import Family
from rl.families.loading import load_family
from rl.rollout import draw
from rl.train import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
IMAGES = 64


def drawn(family: Family, prompts: Sequence[str]) -> tuple[Tensor, list[str]]:
    """The same starts whatever the policy, without noise in the steps: what a report judges."""
    told = [prompts[i % len(prompts)] for i in range(IMAGES)]
    seeds = [("judge", index) for index in range(IMAGES)]
    return draw(family, told, steps=10, guidance=3.0, seeds=seeds, batch_size=IMAGES), told


def learn(reward: Callable[..., Tensor], prompts: list[str], epochs: int, folder: Path) -> tuple[Family, Tensor]:
    """The trained policy, and the scores of what the reference drew."""
    family = load_family("starter")
    before = reward(*drawn(family, prompts))
    config = TrainConfig(epochs=epochs, prompts_per_epoch=8, images_per_prompt=8)
    train(family, Dpok(), reward, prompts, config, SampleConfig(), folder=folder, place=(0, 1))
    return family, before


@pytest.mark.parametrize("sign", [1, -1])
def test_jpeg_files_grow_or_shrink_as_rewarded(sign: int, tmp_path: Path):
    """Same starts before and after, so that the mean change is the policy's: 3 standard errors and half a deviation."""
    reward = JpegSize(sign=sign)
    prompts = [prompt.text for prompt in starter_prompts(2, 1) if prompt.split == "train"]
    family, before = learn(reward, prompts, 14, tmp_path)
    change = reward(*drawn(family, prompts)) - before
    assert change.mean() > 3 * change.std() / IMAGES**0.5
    assert change.mean() > 0.5 * before.std()


def test_the_planted_bias_is_undone(tmp_path: Path):
    """Stars that the starter draws yellow whatever colour is asked for: right in a fifth before, in most after."""

    def exact(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.tensor([verdict.exact for verdict in verdicts(images, prompts)]).float()

    def graded(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.tensor([verdict.score for verdict in verdicts(images, prompts)])

    def verdicts(images: Tensor, prompts: Sequence[str]) -> list:
        found = [judge(image.numpy(), text) for image, text in zip(images.permute(0, 2, 3, 1), prompts, strict=True)]
        return [verdict for verdict in found if verdict is not None]

    prompts = [prompt.text for prompt in starter_prompts(32, 8) if (prompt.task, prompt.split) == ("bias", "train")]
    family, _ = learn(graded, prompts, 10, tmp_path)
    with_policy = exact(*drawn(family, prompts)).mean()
    family.drop_policy()
    assert exact(*drawn(family, prompts)).mean() < 0.3
    assert with_policy > 0.6
