"""The starter's denoiser and text encoder, trained together on latents of rendered scenes."""

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from data.world.captions import TASKS, prompts
from data.world.vocabulary import byte_pairs
from rl.pretrain.pool import TASK_SHARES, draw_pool
from rl.pretrain.vae import fast_autocast, save_grid, save_state, set_rate, to_model, trapezoid, write_log

logger = logging.getLogger(__name__)

MAX_TOKENS = 16
EMPTY_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A part of the denoiser's training: its own scenes, and a learning rate that rises, stays and falls to 0."""

    steps: int
    scenes: int
    shares: Sequence[float] = TASK_SHARES
    """Of its scenes, by task."""
    rate: float = 1.0
    """Of the learning rate."""


RECIPE = (
    Stretch(steps=12_500, scenes=60_000),
    Stretch(steps=2_500, scenes=24_000, shares=(0.08, 0.1, 0.3, 0.44, 0.08), rate=0.6),
    Stretch(steps=8_000, scenes=60_000, shares=(0.06, 0.02, 0.44, 0.42, 0.06), rate=0.6),
)
"""Pairs come last: the first stretch leaves them at a quarter right, the second with colours exchanged. By then counts
are known, and the third nearly leaves them out.
"""


def build_tokenizer() -> CLIPTokenizer:
    vocabulary, merges = byte_pairs()
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=128,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 128),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,  # diffusers' name for the number of heads
        norm_num_groups=8,
    )


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion 1.x' own noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


class Denoiser(torch.nn.Module):
    """UNet and text encoder as one module, so that one optimiser, one average and one state file hold both."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.unet = build_unet()
        self.text_encoder = build_text_encoder(tokenizer)

    def forward(self, latents: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        return self.unet(latents, timesteps, self.text_encoder(tokens)[0]).sample


def train_denoiser(
    folder: Path,
    *,
    stretches: Sequence[Stretch] = RECIPE,
    batch_size: int = 48,
    learning_rate: float = 1e-3,
    seed: int = 0,
    processes: int = 2,
) -> None:
    """Train the stretches, or go on from `folder/denoiser_state.pt`; ends with `folder/starter_model`.

    ε-prediction, mean squared error, AdamW, exponential moving average of the weights.
    """
    torch.manual_seed(seed)
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    tokenizer = build_tokenizer()
    empty = _tokenize(tokenizer, [""])
    model = Denoiser(tokenizer)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, weight_decay=1e-2, betas=(0.9, 0.99), fused=True
    )
    average = EMAModel(model.parameters(), decay=0.999, use_ema_warmup=True, power=0.75)
    noise_schedule = build_scheduler()
    state_path, done = folder / "denoiser_state.pt", 0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.load_state_dict(state["average"])
        done = state["step"]
    started, running = time.monotonic(), 0.0
    for number, stretch in enumerate(stretches):
        begin = sum(earlier.steps for earlier in stretches[:number])
        end = begin + stretch.steps
        if done >= end:
            continue
        texts, latents = _encoded_scenes(folder, vae, stretch.scenes, seed + 1 + number, stretch.shares, processes)
        tokens = _tokenize(tokenizer, texts)
        for step in range(max(done, begin), end):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
            rows = torch.randint(len(latents), (batch_size,), generator=generator)
            is_empty = torch.rand((batch_size, 1), generator=generator) < EMPTY_SHARE
            timesteps = torch.randint(1000, (batch_size,), generator=generator)
            x_0 = latents[rows]
            eps = torch.randn(x_0.shape, generator=generator)
            x_t = noise_schedule.add_noise(x_0, eps, timesteps)
            # The fused attention is the slowest part in bfloat16 on a CPU: half of a whole step.
            with fast_autocast(), sdpa_kernel(SDPBackend.MATH):
                predicted = model(x_t, timesteps, torch.where(is_empty, empty, tokens[rows]))
            loss = F.mse_loss(predicted.float(), eps)
            set_rate(optimizer, learning_rate * stretch.rate * trapezoid(step - begin, stretch.steps))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            average.step(model.parameters())
            running += loss.item()
            if (step + 1) % 50 == 0:
                write_log(
                    folder, stage="denoiser", step=step + 1, loss=running / 50, seconds=time.monotonic() - started
                )
                running = 0.0
            if (step + 1) % 500 == 0 or step + 1 == end:
                save_state(state_path, model, optimizer, step + 1, average=average.state_dict())
                average.store(model.parameters())
                average.copy_to(model.parameters())
                _save_pipeline(folder, vae, tokenizer, model, noise_schedule)
                average.restore(model.parameters())
    assemble(folder, folder / "starter_model")


def _encoded_scenes(
    folder: Path, vae: AutoencoderKL, scenes: int, seed: int, shares: Sequence[float], processes: int
) -> tuple[list[str], Tensor]:
    """Captions and latents, kept in `latents.pt` and made anew when they would be others."""
    path = folder / "latents.pt"
    made_from = {"encoder": _encoder_hash(vae), "seed": seed, "scenes": scenes, "shares": list(shares)}
    if path.exists():
        stored = torch.load(path, weights_only=True)
        if stored.get("made_from") == made_from:
            return stored["texts"], stored["latents"]
        logger.info("%s was made from something else: encoding the scenes again", path)
    texts: list[str] = []
    latents: list[Tensor] = []
    for start in range(0, scenes, 4000):
        drawn, pictures = draw_pool(seed, start, min(4000, scenes - start), processes, shares)
        texts += drawn
        latents += [_encode(vae, pictures[i : i + 50]) for i in range(0, len(pictures), 50)]
        write_log(folder, stage="encode", scenes=len(texts))
    stored = {"made_from": made_from, "texts": texts, "latents": torch.cat(latents)}
    torch.save(stored, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)
    return stored["texts"], stored["latents"]


def _encoder_hash(vae: AutoencoderKL) -> str:
    """Of what makes latents: the decoder may train on meanwhile."""
    digest = hashlib.sha256(str(vae.config["scaling_factor"]).encode())
    for part in (vae.encoder, vae.quant_conv):
        for name, weight in sorted(part.state_dict().items()):
            digest.update(name.encode() + weight.contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def _encode(vae: AutoencoderKL, pictures: np.ndarray) -> Tensor:
    with fast_autocast():
        return vae.encode(to_model(pictures)).latent_dist.mode().float() * vae.config["scaling_factor"]


def _tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


def _save_pipeline(
    folder: Path, vae: AutoencoderKL, tokenizer: CLIPTokenizer, model: Denoiser, scheduler: DDIMScheduler
) -> None:
    """Write the pipeline folder in half precision, and a grid of 64 pictures drawn with it."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.text_encoder,
        tokenizer=tokenizer,
        unet=model.unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "pipeline", variant=None)
    pipeline.set_progress_bar_config(disable=True)
    texts = [prompt.text for task in TASKS for prompt in prompts(task, "held_out", 16)][:64]
    drawn = pipeline(
        texts, num_inference_steps=20, guidance_scale=3.0, output_type="np", generator=torch.Generator().manual_seed(0)
    ).images
    save_grid(folder / "grid.png", (drawn * 255).round().astype(np.uint8), columns=16)


def assemble(folder: Path, destination: Path) -> None:
    """Write the starter as it ships: the trained pipeline with the newest autoencoder, in float16, naming no folder."""
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder / "pipeline", vae=vae, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipeline.to(dtype=torch.float16).save_pretrained(destination)
    for path in destination.rglob("*.json"):
        content = json.loads(path.read_text())
        if content.pop("_name_or_path", None):
            path.write_text(json.dumps(content, indent=2) + "\n")
