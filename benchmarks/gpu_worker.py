"""One process of `benchmarks.gpu`: a pipeline of a published model's shape, random weights, epochs of `rl.train` on it.

    python -m benchmarks.gpu_worker '{"model": "sd15", "pixels": 512, ...}'

The job is one JSON object; each batch size's result is a line of its own, printed as soon as it is known.
"""

import gc
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from benchmarks.floor import matmul_rate
from benchmarks.passing import train_in_passing
from rl.algorithms.dpok import Dpok
from rl.config import SampleConfig, TrainConfig
from rl.families.family import Family
from rl.families.sd15 import StableDiffusion15
from rl.families.sdxl import StableDiffusionXL
from rl.pretrain.diffusion import build_scheduler, build_tokenizer

GIB = 2**30
PHASES = ("collect", "update")
PROMPT = "a red circle above a blue square"

# -- the shapes ------------------------------------------------------------------------------------------------------

CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}
CLIP_BIG_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
TOKENS, VOCABULARY = 77, 49408
"""Of a prompt, of which the text encoders take all whatever it says; and rows of their embeddings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Settings of a pipeline's networks, as their published `config.json` files have them."""

    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    text_encoders: Sequence[Mapping[str, Any]]
    vocabulary: int = VOCABULARY


_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
SHAPES = {
    "sd15": Shape(
        unet={
            "block_out_channels": (320, 640, 1280, 1280),
            "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
            "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
            "layers_per_block": 2,
            "cross_attention_dim": 768,
            "attention_head_dim": 8,
        },
        vae={**_VAE, "scaling_factor": 0.18215},
        text_encoders=(CLIP_L,),
    ),
    "sdxl": Shape(
        unet={
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "layers_per_block": 2,
            "transformer_layers_per_block": (1, 2, 10),
            "cross_attention_dim": 2048,
            "attention_head_dim": (5, 10, 20),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 6 * 256 + 1280,
        },
        vae={**_VAE, "scaling_factor": 0.13025, "force_upcast": True},
        text_encoders=(CLIP_L, CLIP_BIG_G),
    ),
}


def smallest(shape: Shape) -> Shape:
    """The same networks with as few channels and layers as they allow: for a CPU, to try this script."""
    text_encoders = [
        {**encoder, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        | {"projection_dim": 16}
        for encoder in shape.text_encoders
    ]
    blocks = len(shape.unet["block_out_channels"])
    unet = {
        **shape.unet,
        "block_out_channels": (8,) * blocks,
        "layers_per_block": 1,
        "cross_attention_dim": 16 * len(text_encoders),
        "attention_head_dim": 2,
        "norm_num_groups": 2,
    }
    if "addition_embed_type" in unet:
        unet |= {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 6 * 8 + 16}
        unet |= {"transformer_layers_per_block": (1,) * blocks}
    vae = {**shape.vae, "block_out_channels": (4,) * 4, "layers_per_block": 1, "norm_num_groups": 2}
    return Shape(unet=unet, vae=vae, text_encoders=text_encoders, vocabulary=1000)


def build_family(model: str, shape: Shape, pixels: int, *, device: str, dtype: torch.dtype) -> Family:
    """Random weights, made where and as they stay: nothing is downloaded or copied."""
    scheduler, tokenizer = build_scheduler(), _tokenizer()
    torch.manual_seed(0)
    with _made(device, dtype):
        parts: dict[str, Any] = {
            "unet": UNet2DConditionModel(sample_size=pixels // 8, in_channels=4, out_channels=4, **shape.unet),
            "vae": AutoencoderKL(sample_size=pixels, **shape.vae),
            "text_encoder": CLIPTextModel(_text_config(shape, 0, tokenizer)),
            "tokenizer": tokenizer,
            "scheduler": scheduler,
        }
        if model == "sdxl":
            parts["text_encoder_2"] = CLIPTextModelWithProjection(_text_config(shape, 1, tokenizer))
    if model == "sdxl":
        pipeline = StableDiffusionXLPipeline(**parts, tokenizer_2=_tokenizer())
        return StableDiffusionXL(pipeline, torch.device(device))
    pipeline = StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    return StableDiffusion15(pipeline, torch.device(device))


def _tokenizer() -> CLIPTokenizer:
    tokenizer = build_tokenizer()
    tokenizer.model_max_length = TOKENS
    return tokenizer


def _text_config(shape: Shape, index: int, tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=shape.vocabulary,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **shape.text_encoders[index],
    )


@contextmanager
def _made(device: str, dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


# -- the measurement -------------------------------------------------------------------------------------------------


def main() -> None:
    job = json.loads(sys.argv[1])
    # As in the product: drawing and learning must round alike.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for found in run(job):
        print(json.dumps(found), flush=True)


def run(job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Counted operations of one image and of one transition, or what each batch size, doubled up to where memory runs
    out, takes."""
    device = job["device"]
    rate = rate_of(job)
    # Of the device and not of this process's tensors: what the driver and the libraries took to be there at all.
    outside = outside_gib() if device == "cuda" else 0.0
    shape = smallest(SHAPES[job["model"]]) if job["smallest"] else SHAPES[job["model"]]
    family = build_family(job["model"], shape, job["pixels"], device=device, dtype=torch.bfloat16)
    if job["count"]:
        yield count(family, job)
        return
    batch = job["first"]
    while batch <= job["largest"]:
        found: dict[str, Any] = {"batch": batch}
        measured = None
        if device == "cuda":
            found["outside_gib"] = round(outside, 2)
            if batch == 1 and job["target_gib"]:
                with _at_most(job["target_gib"] - outside):
                    measured = attempt(family, batch, job)
                found["fits_target"] = measured is not None
        measured = measured or attempt(family, batch, job)
        if measured is None:
            yield {**found, "out_of_memory": True}
            return
        before, rate = rate, rate_of(job)
        yield {**found, **measured, "matmul_tflops_per_second": round((before + rate) / 2e12, 4)}
        batch *= 2


def rate_of(job: Mapping[str, Any]) -> float:
    found = matmul_rate(torch.bfloat16, sides=job["sides"], seconds=job["seconds_of_product"], device=job["device"])
    _free()
    return found


def attempt(family: Family, batch: int, job: Mapping[str, Any]) -> dict[str, Any] | None:
    """What epochs of this batch size take; None where memory does not suffice."""
    watch: Watch | None = Watch(family.device, job["window"])
    try:
        train_epochs(family, batch, job, watch, count=1 + job["epochs"])
    except torch.OutOfMemoryError:
        watch = None
    _free()  # not before the error is gone, which holds the epoch's frames and all that is in them
    return watch and watch.result(batch)


def count(family: Family, job: Mapping[str, Any]) -> dict[str, Any]:
    """Floating-point operations at batch 1; with more in a batch an image and a transition take no others."""
    watch = Watch(family.device, job["window"], counts=True)
    train_epochs(family, 1, job, watch, count=2)
    return {
        "flops_of_image": watch.flops["collect"] // images_of(1),
        "flops_of_transition": watch.flops["update"] // (images_of(1) * job["window"]),
    }


def images_of(batch: int) -> int:
    """Of an epoch: one batch, but a group has two."""
    return max(2, batch)


def train_epochs(family: Family, batch: int, job: Mapping[str, Any], watch: "Watch", *, count: int) -> None:
    train_in_passing(
        family,
        Dpok(),
        watch.reward,
        [PROMPT],
        TrainConfig(
            epochs=count,
            prompts_per_epoch=1,
            images_per_prompt=images_of(batch),
            batch_size=batch,
            gradient_checkpointing=job["checkpointing"],
            compile=job["compile"],
        ),
        # Images that start from one latent share their first prediction: a batch would hold fewer states than rows.
        SampleConfig(steps=job["steps"], window=job["window"], batch_size=batch, shared_noise=False),
        place=("gpu",),
        on_epoch=watch.on_epoch,
    )


@dataclass
class Watch:
    """Sees an epoch from outside, where the reward is asked and where the epoch ends. The first one warms up."""

    device: torch.device
    window: int
    counts: bool = False
    """The second epoch's operations are counted."""
    timed: list[dict[str, float]] = field(default_factory=list)
    peaks: dict[str, int] = field(default_factory=dict)
    reserved: int = 0
    compile_gain: float | None = None
    flops: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._counter = FlopCounterMode(display=False)
        self._counting = False
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()

    @property
    def _on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def reward(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        self._phase_ends("collect")
        return images.float().mean(dim=(1, 2, 3)) / 255

    def on_epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        self._phase_ends("update")
        self.compile_gain = metrics.get("compile_gain")
        if self._counting:
            self._counter.__exit__(None, None, None)
            self.flops["update"] -= self.flops["collect"]
        elif epoch > 1:
            self.timed.append({phase: metrics[f"seconds_{phase}"] for phase in PHASES})
        self._counting = self.counts and epoch == 1
        if self._counting:
            self._counter.__enter__()

    def _phase_ends(self, phase: str) -> None:
        if self._on_gpu:
            torch.cuda.synchronize()
            self.peaks[phase] = max(self.peaks.get(phase, 0), torch.cuda.max_memory_allocated())
            self.reserved = max(self.reserved, torch.cuda.max_memory_reserved())
            torch.cuda.reset_peak_memory_stats()
        if self._counting:
            self.flops[phase] = self._counter.get_total_flops()

    def result(self, batch: int) -> dict[str, Any]:
        images = images_of(batch)
        seconds = {phase: median(epoch[phase] for epoch in self.timed) for phase in PHASES}
        found: dict[str, Any] = {
            "images": images,
            "transitions": images * self.window,
            "seconds_collect": round(seconds["collect"], 4),
            "seconds_update": round(seconds["update"], 4),
            "images_per_second": round(images / seconds["collect"], 3),
            "transitions_per_second": round(images * self.window / seconds["update"], 3),
            "timed": [{phase: round(epoch[phase], 4) for phase in PHASES} for epoch in self.timed],
        }
        if self.compile_gain is not None:
            found["compile_gain"] = round(self.compile_gain, 3)
        if self._on_gpu:
            found |= {
                "peak_gib": round(max(self.peaks.values()) / GIB, 2),
                "peak_gib_by_phase": {phase: round(peak / GIB, 2) for phase, peak in self.peaks.items()},
                "reserved_gib": round(self.reserved / GIB, 2),
            }
        return found


def outside_gib() -> float:
    free, total = torch.cuda.mem_get_info()
    return (total - free - torch.cuda.memory_reserved()) / GIB


@contextmanager
def _at_most(gib: float) -> Iterator[None]:
    """As on a card of that size: an allocation beyond it fails."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(max(0.0, gib * GIB / total), 1.0))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
