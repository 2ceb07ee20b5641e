"""What a CUDA device adds: it draws what the CPU draws, and trains from the same noise to nearly the same weights."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rl.algorithms.dpok import Dpok
from rl.config import SampleConfig, TrainConfig
from rl.families.sd15 import StableDiffusion15
from rl.rollout import collect, draw
from rl.train import train
from tests.fixtures.tiny_pipeline import build_pipeline

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

PROMPTS = ["a red circle", "two blue hearts"]
SAMPLE = SampleConfig(steps=4, guidance=2.0, window=2, batch_size=8)
LORA_FILE = "pytorch_lora_weights.safetensors"
TRAIN = TrainConfig(epochs=2, prompts_per_epoch=2, images_per_prompt=4, batch_size=3, learning_rate=1e-3, lora_rank=2)


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    """TensorFloat-32 keeps ten bits of a convolution's inputs: too few to compare devices with."""
    # Not by monkeypatch: what torch answers by __getattr__ alone, it deletes afterwards instead of putting it back.
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def family(device: str) -> StableDiffusion15:
    return StableDiffusion15(build_pipeline(), torch.device(device))


def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.float().mean(dim=(1, 2, 3)) / 255


def test_both_devices_draw_the_same_pictures():
    seeds = [("gpu", index) for index in range(len(PROMPTS))]
    on_cpu, on_gpu = (
        draw(family(device), PROMPTS, steps=4, guidance=2.0, seeds=seeds, batch_size=2).int()
        for device in ("cpu", "cuda")
    )
    assert (on_cpu - on_gpu).abs().max() <= 2  # of 255


def test_the_text_encoder_is_on_the_gpu_only_while_it_encodes():
    pipeline = build_pipeline()
    model = StableDiffusion15(pipeline, torch.device("cuda"))
    ran_on: list[str] = []
    pipeline.text_encoder.register_forward_pre_hook(
        lambda module, inputs: ran_on.append(next(module.parameters()).device.type)
    )
    assert model.text_features(PROMPTS).device.type == "cuda"
    assert set(ran_on) == {"cuda"}
    assert {parameter.device.type for parameter in pipeline.text_encoder.parameters()} == {"cpu"}
    count = len(ran_on)
    model.text_features(PROMPTS)
    assert len(ran_on) == count


def test_both_devices_follow_the_same_trajectories():
    on_cpu, on_gpu = (collect(family(device), PROMPTS, 4, SAMPLE, (0, 1)) for device in ("cpu", "cuda"))
    torch.testing.assert_close(on_gpu.states.cpu(), on_cpu.states, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(on_gpu.log_probs.cpu(), on_cpu.log_probs, rtol=0, atol=0.1)  # of some 350 nats


def test_training_moves_the_weights_alike_and_its_first_ratio_is_one(tmp_path: Path):
    first_ratios: list[float] = []
    for device in ("cpu", "cuda"):
        train(
            family(device),
            Dpok(),
            brightness,
            PROMPTS,
            TRAIN,
            SAMPLE,
            folder=tmp_path / device,
            place=(0, 1),
            on_epoch=lambda epoch, metrics: first_ratios.append(metrics["first_pass_log_ratio"]),
        )
    on_cpu, on_gpu = (load_file(tmp_path / device / LORA_FILE) for device in ("cpu", "cuda"))
    moved_alike = [
        torch.nn.functional.cosine_similarity(on_gpu[name].flatten(), weight.flatten(), dim=0)
        for name, weight in on_cpu.items()
        if "lora_B" in name or "lora.up" in name  # they start at 0
    ]
    assert moved_alike
    assert min(moved_alike) > 0.9
    assert len(first_ratios) == 4
    assert max(first_ratios) < 2e-3  # what the CPU's tests ask for: a fifth of what `train` lets pass


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_trains_on_the_ratios_of_its_own_batches(tmp_path: Path, dtype: torch.dtype):
    """Drawn by 8 and learned from by 3, where a GPU rounds differently; the reference is float32 on the CPU."""
    metrics: list[dict[str, float]] = []
    for device, weights in (("cpu", torch.float32), ("cuda", dtype)):
        train(
            StableDiffusion15(build_pipeline().to(dtype=weights), torch.device(device)),
            Dpok(),
            brightness,
            PROMPTS,
            replace(TRAIN, epochs=1),
            SAMPLE,
            folder=tmp_path / device,
            place=(0, 1),
            on_epoch=lambda epoch, values: metrics.append(values),
        )
    exact, half = metrics
    assert "rollout_log_ratio" not in exact
    assert half["rollout_log_ratio"] >= half["first_pass_log_ratio"]
    assert half["first_pass_log_ratio"] < 1e-3  # the same batches by the same kernels
    assert half["grad_norm"] == pytest.approx(exact["grad_norm"], rel=0.2)
    assert half["kl_per_step"] < 0.1  # a fresh LoRA adds nothing: what is left is rounding
    assert all(torch.isfinite(weight).all() for weight in load_file(tmp_path / "cuda" / LORA_FILE).values())
