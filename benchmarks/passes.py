"""One batch's pass through the starter's UNet, forward alone and with its gradient, by how its layers are computed.

    python -m benchmarks.passes --threads 1 --out benchmarks/results/passes.json

64 transitions with guidance (128 rows) and a LoRA of rank 8, in both precisions: the LoRA's layers by PEFT's own
forward and by ours (`rl/families/lora_linear.py`), attention by torch's fused kernel and without it; forward alone, the
LoRA merged into the weights; and ours as `train.compile` compiles them, with the attention that the precision has by
default. The variants go round in turn; figures are medians, and every pass is in the file. `seconds_compiling` is what
the first passes, of one row fewer as in the trainer's own trial, took beyond the median, with what
TORCHINDUCTOR_CACHE_DIR held.
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from peft.tuners.lora import Linear

from benchmarks.machine import describe
from rl.config import SampleConfig, TrainConfig
from rl.families.sd15 import StableDiffusion15
from rl.randomness import generator

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ATTENTION = {"fused attention": AttnProcessor2_0, "plain attention": AttnProcessor}
LAYERS = ("peft", "ours", "merged", "compiled")
BY_DEFAULT = {("float32", "fused attention"), ("bfloat16", "plain attention")}
_ROWS = TrainConfig().batch_size
PROMPTS = ("a red circle", "two blue squares", "a star above a circle", "a green heart")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="of each variant, after one that is not counted")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    torch.set_num_threads(arguments.threads)
    passes: dict[str, Callable[[int], None]] = {
        f"{dtype}, {attention}, {layer}, {kind}": run
        for dtype in DTYPES
        for attention in ATTENTION
        for layer in LAYERS
        if layer != "compiled" or (dtype, attention) in BY_DEFAULT
        for kind, run in variants(dtype, attention, layer).items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for rows in (_ROWS - 1, *[_ROWS] * arguments.repeats):
        for name, run in passes.items():
            started = time.monotonic()
            run(rows)
            seconds[name].append(round(time.monotonic() - started, 4))
    result = {
        "machine": describe(),
        "command": shlex.join(["python", "-m", "benchmarks.passes", *sys.argv[1:]]),
        "threads": arguments.threads,
        "milliseconds": {name: round(1000 * median(found[1:])) for name, found in seconds.items()},
        "seconds_compiling": {
            name: round(found[0] - median(found[1:]), 1) for name, found in seconds.items() if "compiled" in name
        },
        "seconds": {name: found[1:] for name, found in seconds.items()},
    }
    print(json.dumps({name: result[name] for name in ("milliseconds", "seconds_compiling")}, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


def variants(dtype: str, attention: str, layer: str) -> dict[str, Callable[[int], None]]:
    family = StableDiffusion15.load("starter", dtype=DTYPES[dtype])
    config, sample = TrainConfig(), SampleConfig()
    family.add_lora(rank=config.lora_rank, targets=config.lora_targets, seed=0)
    unet: Any = family._denoiser
    unet.set_attn_processor(ATTENTION[attention]())
    for module in unet.modules():
        if isinstance(module, Linear) and layer in ("peft", "merged"):
            module.__class__ = Linear  # back to PEFT's own
            if layer == "merged":
                module.merge()
    if layer == "compiled":
        family.compile_blocks(True)
    x = torch.randn((_ROWS, *family.latent_shape), generator=generator("passes"))
    timesteps = torch.full((len(x),), 500)
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(len(x))]

    def predict(rows: int) -> torch.Tensor:
        return family.predict(x[:rows], timesteps[:rows], prompts[:rows], guidance=sample.guidance)

    def forward(rows: int) -> None:
        with torch.no_grad():
            predict(rows)

    def learn(rows: int) -> None:
        predict(rows).square().mean().backward()
        family.drop_gradients()

    return {"forward": forward} if layer == "merged" else {"forward": forward, "with gradient": learn}


if __name__ == "__main__":
    main()
