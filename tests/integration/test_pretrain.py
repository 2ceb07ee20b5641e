"""The starter's recipe, a few steps of it: it resumes, and it ships a folder that stock diffusers draws with."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from rl.pretrain.diffusion import train_denoiser
from rl.pretrain.vae import train_vae

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_resumed_autoencoder_is_the_uninterrupted_one(tmp_path: Path):
    whole = train_vae(tmp_path / "whole", steps=4, decoder_steps=2, scenes=32, processes=1)
    state = tmp_path / "parts"
    train_vae(state, steps=4, decoder_steps=0, scenes=32, processes=1)
    parts = train_vae(state, steps=4, decoder_steps=2, scenes=32, processes=1)
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], weight, rtol=0, atol=0, msg=name)


def test_what_ships_is_a_half_precision_folder_that_draws(tmp_path: Path):
    train_vae(tmp_path, steps=2, decoder_steps=0, scenes=32, processes=1)
    train_denoiser(tmp_path, steps=2, batch_size=4, scenes=32, processes=1)
    shipped = tmp_path / "starter_model"
    assert not any("_name_or_path" in json.loads(path.read_text()) for path in shipped.rglob("*.json"))
    pipeline = StableDiffusionPipeline.from_pretrained(shipped, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline.to(dtype=torch.float32)("a red star", num_inference_steps=2, output_type="np").images
    assert drawn.shape == (1, 64, 64, 3)
