"""What a reward needs, looked for in the caches of the hub and of open_clip; and the command that says so."""

import json
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest

from hitl.cli import main
from hitl.commands.rewards import describe, examine
from reward_models import REWARDS
from reward_models.needs import HubFile, HubModel, OpenClipWeights


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    return tmp_path / "hub"


def put(cache: Path, repo: str, *files: str) -> None:
    """Into the cache as the hub's own client lays it out."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text("c0ffee")
    (folder / "snapshots" / "c0ffee").mkdir(parents=True, exist_ok=True)
    for file in files:
        (folder / "snapshots" / "c0ffee" / file).touch()


def test_a_file_of_the_hub(hub_cache: Path):
    need = HubFile("xswu/HPSv2", "HPS_v2.1_compressed.pt")
    assert not need.is_here()
    put(hub_cache, "xswu/HPSv2", "HPS_v2_compressed.pt")
    assert not need.is_here()
    put(hub_cache, "xswu/HPSv2", "HPS_v2.1_compressed.pt")
    assert need.is_here()
    assert str(need) == "xswu/HPSv2/HPS_v2.1_compressed.pt"


@pytest.mark.parametrize(
    ("part", "files"),
    [
        ("model", ["config.json", "model.safetensors.index.json"]),
        ("model", ["config.json", "pytorch_model.bin"]),
        ("processor", ["preprocessor_config.json"]),
        ("tokenizer", ["vocab.txt"]),
    ],
)
def test_a_model_of_the_hub_is_here_with_its_last_file(hub_cache: Path, part: str, files: list[str]):
    need = HubModel("some/model", part)
    for file in files:
        assert not need.is_here()
        put(hub_cache, "some/model", file)
    assert need.is_here()


def test_weights_of_open_clip_are_looked_for_on_the_hub_and_where_openai_put_them(hub_cache: Path):
    openai, laion = OpenClipWeights("ViT-L-14", "openai"), OpenClipWeights("ViT-H-14", "laion2b_s32b_b79k")
    assert (openai.is_here(), laion.is_here()) == (False, False)
    put(hub_cache, "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "open_clip_pytorch_model.bin")
    assert (openai.is_here(), laion.is_here()) == (False, True)
    old = hub_cache.parent / ".cache" / "clip" / "ViT-L-14.pt"
    old.parent.mkdir(parents=True)
    old.touch()
    assert openai.is_here()


def test_the_command_lists_every_reward(
    hub_cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    put(hub_cache, "xswu/HPSv2", "HPS_v2.1_compressed.pt")
    monkeypatch.setattr(sys, "argv", ["hitl", "rewards", "--json"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code in (0, None)
    found = {reward["name"]: reward for reward in json.loads(capsys.readouterr().out)["rewards"]}
    assert sorted(found) == REWARDS.names()
    assert all(reward["about"] for reward in found.values())
    assert (found["hps"]["here"], found["image_reward"]["here"], found["jpeg_size"]["here"]) == (True, False, True)
    assert found["http"]["settings"] == ["url"]
    assert {name for name, reward in found.items() if reward["differentiable"]} == {
        *("aesthetic", "clip_head", "clip_score", "hps", "image_reward", "pick_score", "weighted_sum")
    }


def test_what_is_missing_is_marked(hub_cache: Path):
    lines = describe(examine("image_reward")).splitlines()
    assert lines[0].startswith("image_reward   here: no   gradient: yes  ImageReward: BLIP fine-tuned")
    assert lines[1].strip() == "needs THUDM/ImageReward/ImageReward.pt (missing)"
    assert describe(examine("http")).splitlines()[1].strip() == "needs the setting url"
