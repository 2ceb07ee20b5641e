"""What a round trains on: the fitted reward alone, or several with the scales of the round's drawn images."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data.workspace import Workspace
from hitl.config import parse_config
from hitl.core.errors import ConfigError, ModelLoadError
from hitl.stages.reward import require_rewards, training_reward
from hitl.stages.stage import Desk, Stage, read_images
from reward_models.fit import RewardFitConfig, fit_reward
from reward_models.load import load_reward
from reward_models.rewards.clip_head import ClipHead
from reward_models.rewards.weighted_sum import WeightedSum
from rl.algorithms.make import make_algorithm

PROMPTS = ["a red circle", "two blue hearts", "a star above a cross"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, list[dict[str, str]]]:
    """A workspace with twelve images and a reward model fitted on them."""
    root = tmp_path_factory.mktemp("workspace")
    workspace = Workspace(root)
    rng = np.random.default_rng(0)
    rows, pictures = [], {}
    for number in range(12):
        picture = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        picture[: 5 * number] = 0
        Image.fromarray(picture).save(root / "drawn.png")
        image_id = workspace.add_image(root / "drawn.png")
        pictures[image_id] = picture
        rows.append({"image_id": image_id, "prompt": PROMPTS[number % 3], "seed": f"{number}"})
    rated = [
        {"round": 1, "rater_id": "ann", "outcome": "a", "left": "b", "prompt": one["prompt"]}
        | {"image_a": one["image_id"], "image_b": other["image_id"]}
        for one, other in zip(rows[:9], rows[3:], strict=True)
    ]
    fit_reward(
        rated,
        pictures.__getitem__,
        RewardFitConfig(l2=(10.0,), folds=2),
        workspace.root / "cache",
        workspace.stage_dir(1, "fit") / "reward",
    )
    return workspace, rows


def stage(drawn: tuple[Workspace, list[dict[str, str]]], tree: dict[str, Any], number: int = 1) -> Stage:
    workspace, rows = drawn
    config = parse_config({"model": {"device": "cpu"}, **tree})
    made = Stage(name="train", workspace=workspace, round=number, config=config, inputs={"drawn": rows})
    made.folder.mkdir(parents=True, exist_ok=True)
    (made.folder / "reward.json").unlink(missing_ok=True)
    (made.folder / "policy" / "state.pt").unlink(missing_ok=True)
    return made


def again(before: Stage, tree: dict[str, Any]) -> Stage:
    """The same training, which goes on with perhaps other settings."""
    config = parse_config({"model": {"device": "cpu"}, **tree})
    return Stage(name="train", workspace=before.workspace, round=before.round, config=config, inputs=before.inputs)


def begin(stage: Stage) -> None:
    (stage.folder / "policy").mkdir(exist_ok=True)
    (stage.folder / "policy" / "state.pt").touch()


def test_the_fitted_reward_alone_is_itself(drawn: Any):
    assert isinstance(training_reward(stage(drawn, {}), Desk()), ClipHead)
    others = {"reward": {"jpeg_size": 0.0}, "reward_settings": {"jpeg_size": {"quality": 50}}}
    assert isinstance(training_reward(stage(drawn, others), Desk()), ClipHead)


def test_other_rewards_are_divided_by_their_deviation_over_the_drawn_images(drawn: Any):
    workspace, rows = drawn
    tree = {"reward": {"jpeg_size": -0.5}, "reward_settings": {"jpeg_size": {"quality": 80}}}
    reward = training_reward(stage(drawn, tree), Desk())
    images, prompts = read_images(workspace, [row["image_id"] for row in rows]), [row["prompt"] for row in rows]
    sizes = load_reward("jpeg_size", {"quality": 80})(images, prompts)
    fitted = ClipHead.load(workspace.stage_dir(1, "fit") / "reward")(images, prompts)
    expected = fitted - 0.5 * sizes / float(np.std(sizes.numpy()))
    torch.testing.assert_close(reward(images, prompts), expected, atol=1e-5, rtol=1e-5)


def test_a_training_that_goes_on_keeps_the_scales_it_began_with(drawn: Any):
    first = stage(drawn, {"reward": {"clip_head": 0, "jpeg_size": 1.0}})
    begun = training_reward(first, Desk())
    assert isinstance(begun, WeightedSum)
    begin(first)
    kept = json.loads((first.folder / "reward.json").read_text())
    assert kept["scales"] == {"jpeg_size": begun.terms[0].scale}
    (first.folder / "reward.json").write_text(json.dumps(kept | {"scales": {"jpeg_size": 123.0}}))
    resumed = training_reward(first, Desk())
    assert isinstance(resumed, WeightedSum)
    assert resumed.terms[0].scale == 123.0


def test_a_training_cannot_change_its_rewards_on_its_way(drawn: Any):
    tree = {"reward": {"jpeg_size": 1.0}}
    first = stage(drawn, tree)
    training_reward(first, Desk())
    training_reward(again(first, {"reward": {"jpeg_size": 2.0}}), Desk())  # nothing was trained yet
    begin(first)
    for other, named in (
        (tree, "[reward] is {'clip_head': 1.0, 'jpeg_size': 1.0}"),
        ({}, "[reward] is {'clip_head': 1.0}"),
        (
            {"reward": {"jpeg_size": 2.0}, "reward_settings": {"jpeg_size": {"quality": 50}}},
            "[reward_settings] is {'jpeg_size': {'quality': 50}}",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            training_reward(again(first, other), Desk())
        assert named in caught.value.message
    plain = stage(drawn, {})
    begin(plain)  # by a version that had no other rewards
    with pytest.raises(ConfigError, match=r"was begun with \{.clip_head.: 1\.0\}"):
        training_reward(again(plain, tree), Desk())


def test_how_a_reward_is_reached_may_change_on_the_way(drawn: Any):
    tree = {"reward": {"clip_score": 1.0}, "reward_settings": {"clip_score": {"chunk": 8}}}
    first = stage(drawn, tree)
    training_reward(first, Desk())
    begin(first)
    training_reward(again(first, {"reward": {"clip_score": 1.0}}), Desk())


def test_what_training_would_lack_is_missed_before_anything_is_drawn():
    dpok, draft = make_algorithm("dpok", {}), make_algorithm("draft", {})
    desk = Desk()

    def config(tree: dict[str, Any]) -> Any:
        return parse_config({"model": {"device": "cpu"}, **tree})

    require_rewards(config({"reward": {"jpeg_size": 1.0}}), dpok, desk)
    require_rewards(config({"reward": {"clip_score": 1.0}}), draft, desk)
    require_rewards(config({"reward": {"hps": 1.0}}), make_algorithm("diffusion_dpo", {}), desk)  # asks no reward
    with pytest.raises(ConfigError, match="jpeg_size cannot be learned from by a gradient"):
        require_rewards(config({"reward": {"jpeg_size": 1.0}}), draft, desk)
    with pytest.raises(ModelLoadError, match="HPS_v2"):
        require_rewards(config({"reward": {"hps": 1.0}}), dpok, desk)
    with pytest.raises(ConfigError, match="needs to be told its 'url'"):
        require_rewards(config({"reward": {"http": 1.0}}), dpok, desk)
