"""A policy exported for kohya-ss, ComfyUI and AUTOMATIC1111: the names they know, and the same pictures."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.utils import convert_state_dict_to_kohya
from safetensors.torch import load_file

from data.workspace import Workspace
from hitl.cli import main
from rl.families.loading import load_family
from rl.randomness import generator
from rl.rollout import draw
from tests.fixtures.tiny_models import KINDS, load_stock

pytestmark = pytest.mark.long

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "conv1", "time_emb_proj", "proj_in")
PROMPTS = ["a red circle", "two blue hearts"]
SEEDS = [("draw", 0), ("draw", 1)]
LORA_FILE = "pytorch_lora_weights.safetensors"


def policy(kind: str, root: Path) -> tuple[Path, torch.Tensor]:
    """Folder of the model, beside which a workspace with two trained rounds lies; pictures of the second's policy."""
    model = KINDS[kind].save(root / "model")
    workspace = Workspace(root / "workspace")
    pictures = torch.empty(0)
    for number in (1, 2):
        family = load_family(str(model))
        targets = TARGETS if KINDS[kind].family != "sd3" else TARGETS[:4]
        for i, parameter in enumerate(family.add_lora(rank=2, targets=targets, seed=0)):
            torch.nn.init.normal_(parameter, std=0.2, generator=generator("lora", number, i))
        family.save_policy(workspace.stage_dir(number, "train") / "policy")
        workspace.write_manifest(number, "train", {})
        pictures = draw(family, PROMPTS, steps=3, guidance=2.0, seeds=SEEDS, batch_size=2)
    workspace.stage_dir(3, "train").mkdir(parents=True)  # being trained
    return model, pictures


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def export(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """`hitl export` in the workspace of a test: exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()  # of what was done before
        monkeypatch.setattr(sys, "argv", ["hitl", "export", *map(str, words), "-w", str(tmp_path / "workspace")])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(caught.value.code or 0), out, err

    return run


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_diffusers_reads_the_exported_file_and_draws_the_policys_pictures(kind: str, tmp_path: Path, export: Command):
    model, ours = policy(kind, tmp_path)
    out = tmp_path / "policy.safetensors"
    assert export(out, "--format", "kohya") == (0, f"The policy of round 2 in {out}\n", "")
    stock = load_stock(model)

    def stock_pictures() -> torch.Tensor:
        latents = torch.stack([torch.randn((4, 8, 8), generator=generator(*seed)) for seed in SEEDS])
        images = stock(PROMPTS, latents=latents, num_inference_steps=3, guidance_scale=2.0, output_type="pt").images
        return (images * 255).round().int()

    assert (stock_pictures() - ours).abs().max() > 3
    stock.load_lora_weights(out)
    assert (stock_pictures() - ours).abs().max() <= 1


def test_names_and_alphas_are_those_of_diffusers_own_conversion(tmp_path: Path, export: Command):
    """Which takes PEFT's names; and some by hand, as the other programs spell them."""
    policy("sdxl", tmp_path)
    assert export(tmp_path / "policy.safetensors")[0] == 0
    found = load_file(tmp_path / "policy.safetensors")
    saved = load_file(tmp_path / "workspace" / "rounds" / "0002" / "train" / "policy" / LORA_FILE)
    peft = {name.replace("lora.down", "lora_A").replace("lora.up", "lora_B"): each for name, each in saved.items()}
    expected = convert_state_dict_to_kohya(peft)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value.to(found[name].dtype)), name
    block = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0"
    for name in ("attn1_to_q.lora_down.weight", "attn2_to_out_0.lora_up.weight", "ff_net_0_proj.lora_down.weight"):
        assert f"{block}_{name}" in found
    assert "lora_unet_mid_block_resnets_1_conv1.lora_up.weight" in found
    alpha = found[f"{block}_attn1_to_q.alpha"]
    assert (alpha.shape, float(alpha)) == ((), 2.0)
    modules = {name.split(".")[0] for name in found}
    assert len(found) == 3 * len(modules)


def test_a_round_is_chosen_by_number_and_wrong_use_is_said(tmp_path: Path, export: Command):
    policy("sd1", tmp_path)
    out = tmp_path / "policy.safetensors"
    assert "round 1" in export(out, "--round", 1)[1]
    first = out.read_bytes()
    assert "round 2" in export(out)[1]
    assert out.read_bytes() != first
    for words, code, message in (
        ((out, "--round", 3), 2, r"Round 3 is not trained\.\nhint: .*rounds 1, 2\."),
        ((tmp_path / "policy.bin", "--format", "kohya"), 2, r"does not end in \.safetensors"),
        ((out, "--format", "onnx"), 2, r"'onnx' is not known"),
        ((tmp_path,), 2, r"is not known|is a folder"),
        ((tmp_path, "--format", "kohya"), 2, r"is a folder"),
    ):
        found, _, err = export(*words)
        assert (found, bool(re.search(message, err))) == (code, True), err
    weights = tmp_path / "workspace" / "rounds" / "0002" / "train" / "policy" / LORA_FILE
    weights.write_bytes(weights.read_bytes()[:100])
    code, _, err = export(out)
    assert (code, "The policy of round 2 cannot be read" in err) == (1, True)
    weights.unlink()
    assert "The policy of round 2 cannot be read" in export(out)[2]


def test_without_a_trained_round_there_is_nothing_to_export(tmp_path: Path, export: Command):
    (tmp_path / "workspace" / "rounds" / "0001" / "train").mkdir(parents=True)
    code, _, err = export(tmp_path / "policy.safetensors")
    assert (code, "is trained yet" in err, "hitl round" in err) == (1, True, True)
    assert not (tmp_path / "policy.safetensors").exists()


@pytest.mark.parametrize(("kind", "part"), [("sd1", "unet"), ("sd3", "transformer")])
def test_a_policy_of_all_weights_is_refused_with_what_loads_it(kind: str, part: str, tmp_path: Path, export: Command):
    family = load_family(str(KINDS[kind].save(tmp_path / "model")))
    family.add_full()
    workspace = Workspace(tmp_path / "workspace")
    family.save_policy(workspace.stage_dir(1, "train") / "policy")
    workspace.write_manifest(1, "train", {})
    code, _, err = export(tmp_path / "policy.safetensors", "--format", "kohya")
    assert (code, f"is a whole {part} (train.weights = full)" in err) == (2, True)
    assert f"diffusers loads {Path('rounds', '0001', 'train', 'policy', part)}" in err.replace(f"{workspace.root}/", "")
    assert not (tmp_path / "policy.safetensors").exists()


def test_a_transformers_policy_is_refused_with_the_file_that_comfyui_reads(tmp_path: Path, export: Command):
    policy("sd3", tmp_path)
    code, _, err = export(tmp_path / "policy.safetensors")
    assert (code, "Stable Diffusion 3" in err) == (2, True)
    assert str(Path("rounds", "0002", "train", "policy", LORA_FILE)) in err
