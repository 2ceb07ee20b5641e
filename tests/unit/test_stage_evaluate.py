"""The evaluate stage on the starter: who is judged, by whom, and what need not be drawn or judged again."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.evaluation import ImageScore, read_scores
from data.judged_images import JudgedImages
from data.prompt_list import starter_prompts
from data.workspace import Workspace
from data.world.verifier import judge
from hitl.config import RunConfig, parse_config
from hitl.core.errors import ConfigError
from hitl.rounds import judged_of
from hitl.stages import evaluate
from hitl.stages.stage import Desk, Stage
from reward_models.fit import RewardFitConfig, fit_reward
from reward_models.load import load_reward
from reward_models.rewards.clip_head import ClipHead
from rl.families.loading import load_family

SETTINGS: dict[str, Any] = {
    "model": {"device": "cpu"},
    "sample": {"steps": 2, "window": 1},
    "evaluate": {"steps": 2, "images_per_prompt": 2, "images_per_trained_prompt": 1, "best_of": 2},
}
PROMPTS = [prompt for prompt in starter_prompts(1, 1) if prompt.task in ("colour", "count")]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Two rounds with a policy and a reward model each, as far as judging them needs any."""
    workspace = Workspace(tmp_path_factory.mktemp("judged"))
    rng = np.random.default_rng(0)
    pictures = {f"{number:064x}": rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for number in range(8)}
    names = [*pictures]
    rated = [
        {"round": 1, "rater_id": "ann", "outcome": "a", "left": "b", "prompt": PROMPTS[number % 2].text}
        | {"image_a": names[number], "image_b": names[number + 1]}
        for number in range(7)
    ]
    family = load_family("starter", family="auto", device="cpu", dtype=torch.float32)
    for number in (1, 2):
        config = RewardFitConfig(l2=(10.0 * number,), folds=2)
        fitted = workspace.stage_dir(number, "fit") / "reward"
        fit_reward(rated, pictures.__getitem__, config, workspace.root / "cache", fitted)
        with torch.no_grad():
            for parameter in family.add_lora(rank=2, targets=("to_q", "to_v"), seed=number):
                parameter.add_(0.05 * number)
        policy = workspace.stage_dir(number, "train") / "policy"
        family.save_policy(policy)
        (policy / "policy.json").write_text(json.dumps({"model": "starter", "rewards": {"jpeg_size": 1.0}}))
        family.drop_policy()
    return workspace


def judged(workspace: Workspace, number: int, config: RunConfig | None = None) -> tuple[Stage, dict[str, Any]]:
    inputs = judged_of(workspace, number, PROMPTS)
    stage = Stage(
        name="evaluate", workspace=workspace, round=number, config=config or parse_config(SETTINGS), inputs=inputs
    )
    evaluate.run(stage, Desk())
    return stage, json.loads((stage.folder / "result.json").read_text())


def scores_of(stage: Stage) -> list[ImageScore]:
    return read_scores(stage.folder / "scores.parquet")


def test_every_model_is_judged_by_every_judge(workspace: Workspace):
    judged(workspace, 1)
    stage, result = judged(workspace, 2)
    scores = scores_of(stage)
    counts = {name: sum(score.subject == name for score in scores) for name in result["summary"]["subjects"]}
    assert counts == {"reference": 8, "previous": 6, "policy": 6, "best_of_2": 4}  # 2 held-out prompts, 2 trained-on
    assert result["judges"] == {"clip_score": {"is_trained_on": False}, "jpeg_size": {"is_trained_on": True}}
    drawn = JudgedImages.read(workspace.root / result["drawn"]["policy"])
    assert drawn is not None
    mine = [score for score in scores if score.subject == "policy"]
    assert [(score.prompt_id, score.index) for score in mine] == list(zip(drawn.prompt_ids, drawn.indices, strict=True))
    images, texts = torch.from_numpy(drawn.images), [score.prompt for score in mine]
    for name, reward in (
        ("reward", ClipHead.load(workspace.stage_dir(2, "fit") / "reward")),
        ("clip_score", load_reward("clip_score", {})),
        ("jpeg_size", load_reward("jpeg_size", {})),
    ):
        assert [score.values[name] for score in mine] == pytest.approx(reward(images, texts).tolist(), abs=1e-5)
    for score, image in zip(mine, drawn.images.transpose(0, 2, 3, 1), strict=True):
        verdict = judge(image, score.prompt)
        assert verdict is not None
        assert score.values["correctness"] == verdict.score
        assert ("diversity" in score.values) == (score.split == "held_out")  # one picture has no other
        assert ("kl" in score.values) == (score.split == "held_out" and score.index == 0)
    assert all(score.values["kl"] > 0 for score in mine if "kl" in score.values)
    assert {score.values.get("kl", 0.0) for score in scores if score.subject == "reference"} == {0.0}


def test_what_was_drawn_and_judged_before_is_taken_from_there(workspace: Workspace):
    first, one = judged(workspace, 1)
    second, two = judged(workspace, 2)
    assert two["drawn"]["reference"] == one["drawn"]["reference"]
    assert two["drawn"]["previous"] == one["drawn"]["policy"]
    before = {(s.prompt_id, s.index): s.values for s in scores_of(first) if s.subject == "policy"}
    for score in scores_of(second):
        if score.subject == "previous":
            expected = before[score.prompt_id, score.index]
            assert {**score.values, "reward": 0} == {**expected, "reward": 0}
            assert score.values["reward"] != expected["reward"]  # another round's reward model
    file = workspace.root / two["drawn"]["policy"]
    written = file.stat().st_mtime_ns
    scores = scores_of(second)
    assert scores_of(judged(workspace, 2)[0]) == scores
    assert file.stat().st_mtime_ns == written
    file.write_bytes(b"torn")
    assert scores_of(judged(workspace, 2)[0]) == scores


def test_a_policy_that_was_trained_anew_is_drawn_anew(workspace: Workspace, tmp_path: Path):
    _, result = judged(workspace, 1)
    stale = JudgedImages.read(workspace.root / result["drawn"]["policy"])
    assert stale is not None
    replace(stale, checkpoint="of before", images=np.zeros_like(stale.images)).save(
        workspace.root / result["drawn"]["policy"]
    )
    _, again = judged(workspace, 1)
    found = JudgedImages.read(workspace.root / again["drawn"]["policy"])
    assert found is not None
    assert np.array_equal(found.images, stale.images)


def test_another_judge_sees_the_same_pictures(workspace: Workspace):
    judged(workspace, 1)
    tree = SETTINGS | {"evaluate": SETTINGS["evaluate"] | {"rewards": ["jpeg_size"]}}
    stage, result = judged(workspace, 1, parse_config(tree))
    assert [*result["judges"]] == ["jpeg_size"]
    assert all("clip_score" not in score.values and "kl" not in score.values for score in scores_of(stage)[1:2])


def test_without_a_reward_model_there_is_no_best_of_n(workspace: Workspace):
    inputs = judged_of(workspace, 1, PROMPTS) | {"reward": ""}
    stage = Stage(name="evaluate", workspace=workspace, round=1, config=parse_config(SETTINGS), inputs=inputs)
    evaluate.run(stage, Desk())
    assert {score.subject for score in scores_of(stage)} == {"reference", "policy"}
    assert all("reward" not in score.values for score in scores_of(stage))


def test_a_policy_of_another_model_is_refused(workspace: Workspace, tmp_path: Path):
    (tmp_path / "policy.json").write_text(json.dumps({"model": "somebody/model"}))
    inputs = judged_of(workspace, 1, PROMPTS) | {"policy": str(tmp_path)}
    stage = Stage(name="evaluate", workspace=workspace, round=1, config=parse_config(SETTINGS), inputs=inputs)
    with pytest.raises(ConfigError, match="is one of 'somebody/model'"):
        evaluate.run(stage, Desk())
