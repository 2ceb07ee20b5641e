"""The starter's recipe, a few steps of it: it resumes, and it ships a folder that stock diffusers draws with."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import load_file

from rl.pretrain.diffusion import Stretch, _encoded_scenes, train_denoiser
from rl.pretrain.pool import TASK_SHARES
from rl.pretrain.vae import train_decoder, train_vae

WEIGHTS = Path("starter_model", "unet", "diffusion_pytorch_model.safetensors")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_resumed_autoencoder_is_the_uninterrupted_one(tmp_path: Path):
    whole = train_vae(tmp_path / "whole", steps=4, scenes=32, processes=1)
    train_vae(tmp_path / "parts", steps=2, scenes=32, processes=1)
    parts = train_vae(tmp_path / "parts", steps=4, scenes=32, processes=1)
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], weight, rtol=0, atol=0, msg=name)


def test_the_decoder_trains_on_alone_and_resumes(tmp_path: Path):
    for name, stops in (("whole", (3,)), ("parts", (2, 3))):
        encoder_only = train_vae(tmp_path / name, steps=2, scenes=32, processes=1)
        for steps in stops:
            train_decoder(tmp_path / name, steps=steps, scenes=32, processes=1)
        train_vae(tmp_path / name, steps=2, scenes=32, processes=1)  # has nothing to do, and undoes nothing
    whole, parts = (AutoencoderKL.from_pretrained(tmp_path / name / "vae") for name in ("whole", "parts"))
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], weight, rtol=0, atol=0, msg=name)
        changed = not torch.equal(weight, encoder_only.state_dict()[name])
        assert changed == name.startswith(("decoder.", "post_quant_conv.")), name


def test_an_autoencoder_that_trains_on_is_not_overwritten_by_an_older_decoder_phase(tmp_path: Path):
    """After more steps of the first phase the second starts anew on its latents, and keeps them."""
    train_vae(tmp_path, steps=2, scenes=32, processes=1)
    train_decoder(tmp_path, steps=1, scenes=32, processes=1)
    newer = train_vae(tmp_path, steps=4, scenes=32, processes=1)
    assert not (tmp_path / "decoder_state.pt").exists()
    train_decoder(tmp_path, steps=1, scenes=32, processes=1)
    found = AutoencoderKL.from_pretrained(tmp_path / "vae")
    for name, weight in newer.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight) == name.startswith(("encoder.", "quant_conv.")), name


def test_latents_are_made_anew_when_they_would_be_others(tmp_path: Path):
    train_vae(tmp_path, steps=2, scenes=32, processes=1)

    def latents(scenes: int, seed: int = 0, shares: Sequence[float] = TASK_SHARES) -> torch.Tensor:
        vae = AutoencoderKL.from_pretrained(tmp_path / "vae")
        return _encoded_scenes(tmp_path, vae, scenes, seed, shares, 1)[1]

    first = latents(16)
    written = (tmp_path / "latents.pt").stat().st_mtime_ns
    train_decoder(tmp_path, steps=1, scenes=32, processes=1)  # leaves them as they are
    assert torch.equal(latents(16), first)
    assert (tmp_path / "latents.pt").stat().st_mtime_ns == written
    assert len(latents(8)) == 8
    assert not torch.equal(latents(16, seed=1), first)
    assert not torch.equal(latents(16, shares=(1.0, 0.0, 0.0, 0.0, 0.0)), first)
    train_vae(tmp_path, steps=4, scenes=32, processes=1)
    assert not torch.equal(latents(16), first)


def test_what_ships_is_a_half_precision_folder_that_draws(tmp_path: Path):
    train_vae(tmp_path, steps=2, scenes=32, processes=1)
    train_denoiser(tmp_path, stretches=[Stretch(steps=2, scenes=32)], batch_size=4, processes=1)
    shipped = tmp_path / "starter_model"
    assert not any("_name_or_path" in json.loads(path.read_text()) for path in shipped.rglob("*.json"))
    pipeline = StableDiffusionPipeline.from_pretrained(shipped, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline.to(dtype=torch.float32)("a red star", num_inference_steps=2, output_type="np").images
    assert drawn.shape == (1, 64, 64, 3)


def test_a_run_that_was_cut_off_between_two_stretches_ends_with_the_same_weights(tmp_path: Path):
    first = Stretch(steps=2, scenes=32)
    stretches = (first, Stretch(steps=2, scenes=16, shares=(0.0, 0.0, 1.0, 0.0, 0.0), rate=0.5))
    train_vae(tmp_path / "whole", steps=2, scenes=32, processes=1)
    shutil.copytree(tmp_path / "whole" / "vae", tmp_path / "cut" / "vae")
    train_denoiser(tmp_path / "whole", stretches=stretches, batch_size=4, processes=1)
    train_denoiser(tmp_path / "cut", stretches=(first,), batch_size=4, processes=1)
    before = load_file(tmp_path / "cut" / WEIGHTS)
    train_denoiser(tmp_path / "cut", stretches=stretches, batch_size=4, processes=1)
    after, whole = load_file(tmp_path / "cut" / WEIGHTS), load_file(tmp_path / "whole" / WEIGHTS)
    assert all(torch.equal(after[name], weight) for name, weight in whole.items())
    assert not all(torch.equal(before[name], weight) for name, weight in whole.items())
