"""The README.md beside a policy: its front matter, what it says and leaves out, and that its code runs as it stands."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from data.workspace import Workspace
from hitl.config import RunConfig, parse_config
from hitl.stages.model_card import model_card
from hitl.stages.stage import Stage
from rl.families.family import Family
from rl.families.loading import STARTER_FOLDER, load_family
from rl.randomness import generator
from rl.rollout import draw
from tests.fixtures.single_file import save_as_single_file
from tests.fixtures.tiny_models import KINDS, load_stock

pytestmark = pytest.mark.long

PROMPTS = ["a red circle", 'a "blue" heart']
SNAPSHOT = "5f" * 32


def a_stage(root: Path, model: str, **train: Any) -> Stage:
    config = asdict(RunConfig())
    config["model"] |= {"name": model}
    config["draw"] |= {"steps": 3}
    config["train"] |= train
    return Stage(
        name="train",
        workspace=Workspace(root / "workspace"),
        round=2,
        config=parse_config(config),
        inputs={
            "prompts": [{"text": text} for text in PROMPTS],
            "snapshot": SNAPSHOT,
            "policy_round": 1,
        },
    )


def a_policy(stage: Stage, family: Family) -> torch.Tensor:
    """In the stage's folder, with its card; the picture it draws of the first prompt."""
    if stage.config.train.weights == "full":
        for i, parameter in enumerate(family.add_full()):
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator("full", i))
    else:
        for i, parameter in enumerate(family.add_lora(rank=2, targets=("to_q", "to_v", "to_out.0"), seed=0)):
            torch.nn.init.normal_(parameter, std=0.5, generator=generator("lora", i))
    folder = stage.checkpoint(stage.round)
    family.save_policy(folder)
    (folder / "README.md").write_text(model_card(stage, family))
    return draw(family, PROMPTS[:1], steps=3, guidance=3.0, seeds=[("draw", 0)], batch_size=1)


def code_of(card: str) -> str:
    return card.split("```python\n")[1].split("```")[0]


def head_of(card: str) -> list[str]:
    return card.split("---\n")[1].splitlines()


def assert_it_runs(stage: Stage, ours: torch.Tensor, monkeypatch: pytest.MonkeyPatch, *, base: str) -> None:
    """In its own folder, with the base model in its place; and what it loads draws the policy's picture."""
    folder = stage.checkpoint(stage.round)
    monkeypatch.chdir(folder)
    lines = code_of((folder / "README.md").read_text())
    found: dict[str, Any] = {}
    exec(lines.replace(f'path/to/{Path(base).name}"', f'{base}"'), found)
    latents = torch.randn((1, *load_family(stage.config.model.name).latent_shape), generator=generator("draw", 0))
    again = found["pipeline"](
        PROMPTS[0], latents=latents, num_inference_steps=3, guidance_scale=3.0, output_type="pt"
    ).images
    assert found["image"].size == (ours.shape[3], ours.shape[2])
    assert ((again * 255).round().int() - ours.int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("kind", "weights"), [("sd2", "lora"), ("sdxl", "lora"), ("sd35", "lora"), ("sd2", "full"), ("sd35", "full")]
)
def test_its_code_loads_the_policy(kind: str, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of a model that was published in half precision and, where it has a UNet, with another sampler than ours."""
    published = load_stock(KINDS[kind].save(tmp_path / "whole"), dtype=torch.float16)
    if hasattr(published, "unet"):
        published.scheduler = EulerDiscreteScheduler.from_config(published.scheduler.config)
    model = str(tmp_path / "my-model")
    published.save_pretrained(model)
    stage = a_stage(tmp_path, model, weights=weights, learning_rate=1e-4)
    ours = a_policy(stage, load_family(model))
    assert_it_runs(stage, ours, monkeypatch, base=model)
    assert ("- lora" in head_of(Path("README.md").read_text())) is (weights == "lora")
    assert len([line for line in code_of(Path("README.md").read_text()).splitlines() if line]) <= 6


def test_its_code_loads_the_policy_of_the_starter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stage = a_stage(tmp_path, "starter")
    assert_it_runs(stage, a_policy(stage, load_family("starter")), monkeypatch, base="starter")


def test_a_single_file_is_loaded_as_one(tmp_path: Path):
    save_as_single_file(load_stock(KINDS["sd1"].save(tmp_path / "model")), tmp_path / "tuned.safetensors")
    stage = a_stage(tmp_path, str(tmp_path / "tuned.safetensors"))
    card = model_card(stage, load_family(str(tmp_path / "tuned.safetensors"), config=str(tmp_path / "model")))
    assert 'StableDiffusionPipeline.from_single_file("path/to/tuned.safetensors", dtype=torch.float32)' in code_of(card)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return load_family(str(KINDS["sd1"].save(tmp_path_factory.mktemp("sd1"))))


def test_the_front_matter_names_the_base_model_if_it_is_of_the_hub(tmp_path: Path, family: Family):
    head = head_of(model_card(a_stage(tmp_path, "somebody/some-model"), family))
    assert head[:3] == ["base_model: somebody/some-model", "library_name: diffusers", "pipeline_tag: text-to-image"]
    assert {"- lora", "- dpok", "- human-feedback"} <= {*head}
    folder = tmp_path / "secret" / "my-model"
    folder.mkdir(parents=True)
    for model in (str(folder), "starter"):
        card = model_card(a_stage(tmp_path, model), family)
        assert not any("base_model" in line for line in head_of(card))
        assert str(tmp_path) not in card  # where somebody's files are
        assert "secret" not in card


def test_it_says_what_the_stage_knows(tmp_path: Path, family: Family):
    stage = a_stage(tmp_path, "somebody/some-model", epochs=7, lora_rank=4)
    empty = model_card(stage, family)
    assert "| last epoch | not recorded |" in empty
    assert "| learned from | comparisons |" in empty
    report = {"head": "linear", "backbone": "ViT", "comparisons": 96, "prompts": 40, "raters": 3}
    report |= {"accuracy": {"mean": 0.771, "low": 0.7, "high": 0.83}}
    stage.workspace.write_manifest(2, "fit", {"report": report})
    for epoch in (6, 7):
        stage.report(epoch, 7, reward_mean=0.1 * epoch, kl_per_step=0.01 * epoch, seconds_collect=1.0)
    replace(stage, name="evaluate").report(1, 3)
    card = model_card(stage, family)
    for said in (
        "| round | 2, going on from the policy of round 1 |",
        "96 comparisons of 40 prompts by 3 raters",
        "77% [70%, 83%]",
        f"`{SNAPSHOT}`",
        "mean score 0.7, KL to the base model 0.07 nats",
        "rank and alpha 4, on to_q, to_k, to_v, to_out.0 of the unet",
        "7 epochs",
        "kl_weight 0.01",
        "That of the base model",
    ):
        assert said in card
    full = model_card(a_stage(tmp_path, "somebody/some-model", weights="full", learning_rate=1e-4), family)
    assert "| trained | all weights of the unet |" in full
    assert "LoRA" not in full
    report["accuracy"] |= {"low": float("nan"), "high": float("nan")}
    stage.workspace.write_manifest(2, "fit", {"report": report})
    assert "as they do in 77% |" in model_card(stage, family)
    report["accuracy"] |= {"low": 0.7, "high": 0.83}
    stage.workspace.write_manifest(2, "fit", {"report": report})
    first = replace(stage, inputs=stage.inputs | {"policy_round": 0})
    assert "| round | 2, going on from the base model |" in model_card(first, family)
    progress = stage.workspace.round_dir(2) / "metrics.jsonl"
    progress.write_text(progress.read_text() + '{"stage": "tr')  # torn
    assert model_card(stage, family) == card


def test_the_starters_own_card_runs_where_the_project_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(STARTER_FOLDER.parents[1])
    exec(code_of((STARTER_FOLDER / "README.md").read_text()), {})
