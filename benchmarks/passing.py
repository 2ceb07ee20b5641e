"""Training that is only watched: its policy goes with the folder it was trained in."""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

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
