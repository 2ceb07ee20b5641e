"""The starter's autoencoder: 64 x 64 RGB to 8 x 8 latents with four channels."""

import json
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from rl.pretrain.pool import draw_pool

logger = logging.getLogger(__name__)

SHAPE_WEIGHT = 1.5
"""What the pixels of all shapes of a picture weigh together, next to 1 for the whole picture: shapes fill a tenth of it
and carry its meaning, and a small one carries as much as a large one."""

LEARNING_RATE = 7e-4

LATENT_NOISE = 0.15
"""Largest noise on the (unit variance) latents that the second phase trains the decoder on: what a denoiser leaves."""


def build_vae() -> AutoencoderKL:
    """An untrained autoencoder.

    Two groups per norm, not the usual 32: with one channel per group the narrow levels cannot carry colour.
    """
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        sample_size=64,
        block_out_channels=(32, 32, 64, 128),
        layers_per_block=1,
        norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )


def train_vae(
    folder: Path, *, steps: int = 6000, scenes: int = 20_000, seed: int = 0, processes: int = 2
) -> AutoencoderKL:
    """Train the autoencoder, or go on from its state in `folder`; ends with `folder/vae/`, of unit latent variance.

    Latents that change put the decoder phase back to its beginning.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    vae = build_vae()
    draw = partial(draw_pool, seed, 0, scenes, processes)
    trained = _fit(vae, folder, "vae", list(vae.parameters()), draw, steps=steps, seed=seed, noise=0.0)
    decoder_state = folder / _state_name("decoder")
    if not trained and decoder_state.exists() and (folder / "vae").exists():
        # Its decoder has been trained on since: what this phase left in its state is older.
        return AutoencoderKL.from_pretrained(folder / "vae")
    decoder_state.unlink(missing_ok=True)  # it was trained on another encoder's latents
    _set_scaling(vae, draw_pool(seed, 0, min(2000, scenes), processes)[1])
    vae.save_pretrained(folder / "vae")
    return vae


def train_decoder(
    folder: Path, *, steps: int = 4000, scenes: int = 20_000, seed: int = 1, processes: int = 2
) -> AutoencoderKL:
    """Train the decoder of `folder/vae/` on, with noise on the latents, or go on from its state.

    The latents stay as they are, so a denoiser that learns them may train before, after or beside it.
    """
    torch.manual_seed(seed)
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    vae.requires_grad_(False)
    trained = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    for parameter in trained:
        parameter.requires_grad_(True)
    draw = partial(draw_pool, seed, 0, scenes, processes)
    _fit(vae, folder, "decoder", trained, draw, steps=steps, seed=seed, noise=LATENT_NOISE)
    vae.save_pretrained(folder / "vae")
    return vae


def _fit(
    vae: AutoencoderKL,
    folder: Path,
    stage: str,
    trained: list[torch.nn.Parameter],
    draw: Callable[[], tuple[list[str], np.ndarray]],
    *,
    steps: int,
    seed: int,
    noise: float,
    batch_size: int = 16,
) -> bool:
    """Train some parameters of the autoencoder, or go on from `folder/<stage>_state.pt`; False if no step was left.

    Only what is trained is restored: the rest is that of `vae`.

    Loss: weighted L1 + L2 of the reconstruction + 1e-6 KL; AdamW, 7e-4. `draw` makes the scenes, should any be needed.
    """
    vae.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=1e-4, betas=(0.9, 0.99))
    state_path, done = folder / _state_name(stage), 0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        for name, parameter in vae.named_parameters():
            if parameter.requires_grad:
                parameter.data.copy_(state["model"][name])
        optimizer.load_state_dict(state["optimizer"])
        done = state["step"]
    if done >= steps:
        return False
    pictures = draw()[1]
    started = time.monotonic()
    for step in range(done, steps):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(len(pictures), (batch_size,), generator=generator).numpy()
        x = to_model(pictures[rows])
        with fast_autocast():
            posterior = vae.encode(x).latent_dist
            # One strength of noise per picture: the decoder learns clean latents and rough ones alike.
            strength = noise / vae.config["scaling_factor"] * torch.rand((batch_size, 1, 1, 1), generator=generator)
            spread = (posterior.var.float() + strength.square()).sqrt()
            z = posterior.mean + spread * torch.randn(posterior.mean.shape, generator=generator)
            error = vae.decode(z).sample.float() - x
        loss = (_pixel_weight(x) * (error.abs() + error.square())).mean() + 1e-6 * posterior.kl().float().mean()
        set_rate(optimizer, LEARNING_RATE * trapezoid(step, steps))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0 or step + 1 == steps:
            write_log(folder, stage=stage, step=step + 1, loss=loss.item(), seconds=time.monotonic() - started)
        if (step + 1) % 250 == 0 or step + 1 == steps:
            save_state(state_path, vae, optimizer, step + 1)
            _save_grid(folder / f"{stage}_grid.png", vae, pictures[:16])
    return True


def _state_name(stage: str) -> str:
    return f"{stage}_state.pt"


def _pixel_weight(x: Tensor) -> Tensor:
    """Weight of each pixel, (batch, 1, height, width), from the picture in [-1, 1]: shapes and their rim count more."""
    chroma = x.amax(dim=1, keepdim=True) - x.amin(dim=1, keepdim=True)
    mask = F.max_pool2d((chroma > 0.3).float(), kernel_size=5, stride=1, padding=2)
    return 1 + SHAPE_WEIGHT * mask / mask.mean(dim=(1, 2, 3), keepdim=True).clamp(min=0.01)


def fast_autocast() -> torch.autocast:
    """bfloat16 autocast where the processor has instructions for it; elsewhere it is several times slower."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    is_fast = bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_fast)


def trapezoid(step: int, steps: int, *, warm_up: int = 100, decay: float = 0.2) -> float:
    """Learning rate factor: up over `warm_up` steps, level, and down to 0 over the last fifth.

    While it is level a run does not depend on `steps`: one that was cut off can be resumed with another length.
    """
    return min(1.0, (step + 1) / warm_up, max(0.0, (steps - step) / (decay * steps)))


def set_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def to_model(pictures: np.ndarray) -> Tensor:
    """uint8 (n, h, w, 3) -> float (n, 3, h, w) in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(x: Tensor) -> np.ndarray:
    """float (n, 3, h, w) in [-1, 1] -> uint8 (n, h, w, 3)."""
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def save_grid(path: Path, pictures: np.ndarray, columns: int) -> None:
    rows = [np.concatenate(list(pictures[i : i + columns]), 1) for i in range(0, len(pictures), columns)]
    Image.fromarray(np.concatenate(rows, 0)).save(path)


def save_state(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int, **more) -> None:
    """Write a training state so that a kill leaves either the old one or the new one."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    torch.save(state | more, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def write_log(folder: Path, **row: object) -> None:
    logger.info("%s", row)
    with (folder / "pretrain.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


@torch.no_grad()
def _save_grid(path: Path, vae: AutoencoderKL, pictures: np.ndarray) -> None:
    decoded = vae.decode(vae.encode(to_model(pictures)).latent_dist.mode()).sample
    save_grid(path, np.concatenate([pictures, to_pictures(decoded)]), columns=8)


@torch.no_grad()
def _set_scaling(vae: AutoencoderKL, pictures: np.ndarray) -> None:
    latents = torch.cat(
        [vae.encode(to_model(pictures[i : i + 100])).latent_dist.mode() for i in range(0, len(pictures), 100)]
    )
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
