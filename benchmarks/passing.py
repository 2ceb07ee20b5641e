"""Training that is only watched: its policy goes with the folder it was trained in."""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from data.world.verifier import judge
from rl.config import SampleConfig, TrainConfig
from rl.families.family import Family
from rl.train import Reward, train


def train_in_passing(
    family: Family,
    algorithm: Any,
    reward: Reward,
    prompts: Sequence[str],
    config: TrainConfig,
    sample: SampleConfig,
    *,
    place: tuple[object, ...],
    on_epoch: Callable[[int, dict[str, float]], None],
) -> None:
    with TemporaryDirectory() as folder:
        where = Path(folder) / "train"
        train(family, algorithm, reward, prompts, config, sample, folder=where, place=place, on_epoch=on_epoch)


def brightness(images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
    """A reward that costs nothing beside drawing."""
    return images.float().mean(dim=(1, 2, 3)) / 255


def correctness(images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
    """The verifier's score; 0 of a prompt that is not in its language."""
    pictures = images.permute(0, 2, 3, 1).numpy()
    verdicts = [judge(picture, text) for picture, text in zip(pictures, prompts, strict=True)]
    return torch.tensor([verdict.score if verdict is not None else 0.0 for verdict in verdicts])
