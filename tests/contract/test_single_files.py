"""A checkpoint that is one .safetensors file in the original layout, as most fine-tuned models are published."""

from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from hitl.core.errors import ModelLoadError
from rl import FAMILIES
from rl.families.loading import load_family
from rl.rollout import draw
from tests.fixtures.single_file import save_as_single_file
from tests.fixtures.tiny_models import KINDS, load_stock

pytestmark = pytest.mark.long

SEEDS = [("draw", 0), ("draw", 1)]


def pictures(name: object, **options: Any) -> torch.Tensor:
    family = load_family(str(name), **options)
    return draw(family, ["a red circle", "two blue hearts"], steps=3, guidance=3.0, seeds=SEEDS, batch_size=2)


@pytest.fixture(scope="module", params=KINDS)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """Kind of model, the file, and the folder of the same model in diffusers' layout."""
    root = tmp_path_factory.mktemp(request.param)
    folder, file = KINDS[request.param].save(root / "folder"), root / "model.safetensors"
    without = ("text_encoder_3", "tokenizer_3") if request.param == "sd3" else ()
    save_as_single_file(load_stock(folder, **dict.fromkeys(without)), file)
    return request.param, file, folder


def test_it_draws_what_the_folder_of_the_same_model_draws(published: tuple[str, Path, Path]):
    kind, file, folder = published
    assert not any(".down_blocks." in name or ".transformer_blocks.0.attn.to_q" in name for name in load_file(file))
    assert type(load_family(str(file), config=str(folder))) is FAMILIES.load(KINDS[kind].family)
    assert torch.equal(pictures(file, config=str(folder)), pictures(folder))


def test_its_weights_and_not_the_folders_are_what_is_drawn_with(published: tuple[str, Path, Path], tmp_path: Path):
    """The folder is only asked for tokenizers and settings."""
    _, file, folder = published
    weights = load_file(file)
    (bias,) = (name for name in weights if name.endswith(("out.2.bias", "final_layer.linear.bias")))
    save_file(weights | {bias: weights[bias] + 0.5}, tmp_path / "other.safetensors")
    difference = pictures(tmp_path / "other.safetensors", config=str(folder)).int() - pictures(folder).int()
    assert difference.abs().max() > 10


def test_a_file_without_the_t5_encoder_loads_without_it_whatever_the_settings_say(tmp_path: Path):
    """Stable Diffusion 3 is published with and without; the settings of the hub are those with."""
    folder = KINDS["sd35"].save(tmp_path / "folder")
    save_as_single_file(load_stock(folder), tmp_path / "model.safetensors", with_t5=False)
    load_stock(folder, text_encoder_3=None, tokenizer_3=None).save_pretrained(tmp_path / "without")
    found = pictures(tmp_path / "model.safetensors", config=str(folder))
    assert torch.equal(found, pictures(tmp_path / "without"))
    assert not torch.equal(found, pictures(folder))
    save_as_single_file(load_stock(folder), tmp_path / "with.safetensors")
    assert torch.equal(pictures(tmp_path / "with.safetensors", config=str(tmp_path / "without")), found)


def refused(name: object, **options: Any) -> tuple[str, str]:
    with pytest.raises(ModelLoadError) as caught:
        load_family(str(name), **options)
    return caught.value.message, caught.value.hint


def test_what_is_no_model_is_refused(tmp_path: Path):
    file, folder = tmp_path / "model.safetensors", KINDS["sd1"].save(tmp_path / "folder")
    message, hint = refused(file, config=str(folder))
    assert "No such file" in message
    assert "Check the path" in hint
    save_as_single_file(load_stock(folder), file)
    for name, left in (("empty", 0), ("short", 5000)):
        (tmp_path / f"{name}.safetensors").write_bytes(file.read_bytes()[:left])
        message, hint = refused(tmp_path / f"{name}.safetensors", config=str(folder))
        assert "Cannot load" in message
        assert "Download it again" in hint
    save_file({"lora_unet_a.lora_down.weight": torch.zeros(2, 2)}, tmp_path / "lora.safetensors")
    assert "holds a LoRA" in refused(tmp_path / "lora.safetensors")[0]
    weights = {name: value for name, value in load_file(file).items() if not name.startswith("cond_stage_model.")}
    save_file(weights, tmp_path / "headless.safetensors")
    assert "CLIPTextModel" in refused(tmp_path / "headless.safetensors", config=str(folder))[0]
    (tmp_path / "model.ckpt").write_bytes(b"any")
    message, hint = refused(tmp_path / "model.ckpt")
    assert "is a pickle" in message
    assert ".safetensors" in hint


def test_the_family_is_the_one_of_the_folder_that_is_named_beside_it(published: tuple[str, Path, Path]):
    kind, file, folder = published
    other = next(name for name in FAMILIES.names() if name != KINDS[kind].family)
    message, hint = refused(file, config=str(folder), family=other)
    assert f"model.family is '{other}'" in message
    assert KINDS[kind].family in hint


def test_without_a_folder_its_usual_settings_come_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = KINDS["sd1"].save(tmp_path / "folder")
    save_as_single_file(load_stock(folder), tmp_path / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message, hint = refused(tmp_path / "model.safetensors")
    assert "as a StableDiffusionPipeline" in message
    assert "model.config names a folder or hub id" in hint
