"""What every reward of the registry keeps, tested on models small enough to build here."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reward_models import REWARDS
from reward_models.fit import RewardFitConfig, fit_reward
from reward_models.pretrain import ClipPretrainConfig, pretrain

PROMPTS = ["a red circle", "two blue hearts", "", "a dog in a hat", "a star above a cross"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What `load` needs, for those rewards that need something."""
    root = tmp_path_factory.mktemp("rewards")
    pretrain(root, ClipPretrainConfig(steps=1, batch_size=8, evaluate_scenes=2))
    clip = str(root / "clip")
    _fit_head(clip, root)
    return {"clip_head": {"folder": root / "reward"}, "clip_score": {"backbone": clip}}


def _fit_head(clip: str, root: Path) -> None:
    rng = np.random.default_rng(0)
    row = {"round": 1, "rater_id": "ann", "outcome": "a", "left": "b"}
    rows = [row | {"prompt": PROMPTS[n % 3], "image_a": f"{n}", "image_b": f"{n + 1}"} for n in range(12)]
    pictures = {f"{n}": rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for n in range(13)}
    config = RewardFitConfig(backbone=clip, l2=(10.0,), folds=2)
    fit_reward(rows, pictures.__getitem__, config, root / "cache", root / "reward")


@pytest.fixture(params=REWARDS.names())
def reward(request: pytest.FixtureRequest, settings: dict[str, dict[str, Any]]):
    return REWARDS.load(request.param).load(**settings.get(request.param, {}))


def images(count: int, height: int = 64, width: int = 64) -> torch.Tensor:
    shape = (count, 3, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_one_finite_float32_for_each_image_on_the_cpu(reward):
    scores = reward(images(5), PROMPTS)
    assert scores.shape == (5,)
    assert scores.dtype == torch.float32
    assert scores.device.type == "cpu"
    assert not scores.requires_grad
    assert torch.isfinite(scores).all()


def test_a_score_never_depends_on_its_batch(reward):
    """Alone, in another order or beside other images: the same score, up to the last bits of a float."""
    batch, together = images(5), reward(images(5), PROMPTS)
    alone = torch.cat([reward(batch[i : i + 1], PROMPTS[i : i + 1]) for i in range(5)])
    order = [3, 0, 4, 2, 1]
    shuffled = reward(batch[order], [PROMPTS[i] for i in order])
    torch.testing.assert_close(alone, together, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(shuffled, together[order], atol=1e-4, rtol=1e-4)


def test_the_same_twice(reward):
    assert torch.equal(reward(images(4), PROMPTS[:4]), reward(images(4), PROMPTS[:4]))


def test_images_of_any_size_are_left_as_they_were(reward):
    batch = images(2, 96, 72)
    before = batch.clone()
    assert reward(batch, PROMPTS[:2]).shape == (2,)
    assert torch.equal(batch, before)
