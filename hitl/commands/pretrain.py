"""`hitl pretrain`: make the starter again, by its recipe."""

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from hitl.core.errors import ConfigError

RECIPE = ("vae", "denoiser", "clip")
"""What the starter that ships is made of, in this order."""

PARTS = (*RECIPE, "decoder")


def run(out: Path, part: str, steps: int) -> None:
    if part not in (*PARTS, "all"):
        raise ConfigError(f"--part is {part!r}.", hint=f"Use one of {', '.join(PARTS)}, or all.")
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    torch.set_flush_denormal(True)
    logging.getLogger().setLevel(logging.INFO)
    out.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"steps": steps} if steps else {}
    for name in RECIPE if part == "all" else (part,):
        _train(name, out, options)
    print(f"Done: {out}")


def _train(part: str, out: Path, options: dict[str, Any]) -> None:
    if part == "vae":
        from rl.pretrain.vae import train_vae

        train_vae(out, **options)
    elif part == "decoder":
        from rl.pretrain.vae import train_decoder

        train_decoder(out, **options)
    elif part == "denoiser":
        from rl.pretrain.diffusion import RECIPE as stretches
        from rl.pretrain.diffusion import train_denoiser

        train_denoiser(out, stretches=[replace(stretches[0], **options)] if options else stretches)
    else:
        from reward_models.pretrain import ClipPretrainConfig, pretrain

        pretrain(out / "clip", ClipPretrainConfig(**options))
