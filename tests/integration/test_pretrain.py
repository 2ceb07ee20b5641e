"""The starter's recipe, a few steps of it: it resumes, and it ships a folder that stock diffusers draws with."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from rl.pretrain.diffusion import train_denoiser
from rl.pretrain.vae import train_decoder, train_vae

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


def test_what_ships_is_a_half_precision_folder_that_draws(tmp_path: Path):
    train_vae(tmp_path, steps=2, scenes=32, processes=1)
    train_denoiser(tmp_path, steps=2, batch_size=4, scenes=32, processes=1)
    shipped = tmp_path / "starter_model"
    assert not any("_name_or_path" in json.loads(path.read_text()) for path in shipped.rglob("*.json"))
    pipeline = StableDiffusionPipeline.from_pretrained(shipped, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline.to(dtype=torch.float32)("a red star", num_inference_steps=2, output_type="np").images
    assert drawn.shape == (1, 64, 64, 3)
