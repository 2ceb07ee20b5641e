"""What every reward of the registry keeps, tested on models small enough to build here."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hitl.core.errors import ConfigError
from reward_models import REWARDS
from reward_models.backbone import Backbone
from reward_models.fit import RewardFitConfig, fit_reward
from reward_models.pretrain import ClipPretrainConfig, pretrain
from tests.fixtures import reward_service, tiny_rewards

PROMPTS = ["a red circle", "two blue hearts", "", "a dog in a hat", "a star above a cross"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    """What `load` needs, for those rewards that need something."""
    root = tmp_path_factory.mktemp("rewards")
    pretrain(root, ClipPretrainConfig(steps=1, batch_size=8, evaluate_scenes=2))
    clip = str(root / "clip")
    _fit_head(clip, root)
    folders = {name: root / name for name in ("pick", "hps", "image_reward", "llava", "bert")}
    for folder in folders.values():
        folder.mkdir()
    llava = str(tiny_rewards.llava(folders["llava"]))
    made: dict[str, dict[str, Any]] = {
        "aesthetic": {
            "weights": tiny_rewards.aesthetic_head(root / "head.pth", Backbone.load(clip).width),
            "backbone": clip,
            "pretrained": "",
        },
        "clip_head": {"folder": root / "reward"},
        "clip_score": {"backbone": clip},
        "function": {"path": "tests.fixtures.tiny_rewards:redness"},
        "hps": tiny_rewards.hps(folders["hps"]),
        "image_reward": tiny_rewards.image_reward(folders["image_reward"]),
        "pick_score": tiny_rewards.pick_score(folders["pick"]),
        "vlm_alignment": {"model": llava, "encoder": str(tiny_rewards.bert(folders["bert"])), "layer": 2},
        "vqa": {"model": llava},
        "weighted_sum": {
            "terms": [
                {"reward": "clip_score", "settings": {"backbone": clip}},
                {"reward": "jpeg_size", "weight": -0.5, "scale": 2.0},
            ]
        },
    }
    with reward_service.serve(reward_service.redness) as url:
        yield made | {"http": {"url": url}}


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
    # A head that never learned divides by a small deviation: what is 1e-5 before that is 1e-4 behind it.
    torch.testing.assert_close(alone, together, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(shuffled, together[order], atol=1e-3, rtol=1e-4)


def test_the_same_twice(reward):
    assert torch.equal(reward(images(4), PROMPTS[:4]), reward(images(4), PROMPTS[:4]))


def test_images_of_any_size_are_left_as_they_were(reward):
    batch = images(2, 96, 72)
    before = batch.clone()
    assert reward(batch, PROMPTS[:2]).shape == (2,)
    assert torch.equal(batch, before)


def test_its_gradient_is_that_of_its_scores(reward):
    """Where it has one: along a random direction as the scores' own difference, and one for each pixel."""
    if not hasattr(reward, "differentiable"):
        pytest.skip("has no gradient")
    pictures = images(2, 40, 48)
    pixels = (pictures.float() / 255).requires_grad_()
    try:
        scores = reward.differentiable(pixels, PROMPTS[:2])
    except ConfigError:
        pytest.skip("a term has no gradient")
    torch.testing.assert_close(scores.detach(), reward(pictures, PROMPTS[:2]), atol=1e-5, rtol=1e-4)
    (gradient,) = torch.autograd.grad(scores.sum(), pixels)
    direction = gradient.sign() / 255  # the steepest way, so that the difference is well above a float's last digits
    with torch.no_grad():
        up, down = (reward.differentiable(pixels + step * direction, PROMPTS[:2]).double() for step in (0.5, -0.5))
    assert gradient.abs().sum(dim=(1, 2, 3)).min() > 0
    torch.testing.assert_close((up - down).sum(), (gradient * direction).sum().double(), rtol=0.02, atol=1e-6)
