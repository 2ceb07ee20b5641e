"""What a CUDA device adds: it draws what the CPU draws, and trains from the same noise to nearly the same weights."""

from collections.abc import Sequence
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
TRAIN = TrainConfig(epochs=2, prompts_per_epoch=2, images_per_prompt=4, batch_size=3, learning_rate=1e-3, lora_rank=2)


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch: pytest.MonkeyPatch):
    """TensorFloat-32 keeps ten bits of a convolution's inputs: too few to compare devices with."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


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
    on_cpu, on_gpu = (load_file(tmp_path / device / "pytorch_lora_weights.safetensors") for device in ("cpu", "cuda"))
    moved_alike = [
        torch.nn.functional.cosine_similarity(on_gpu[name].flatten(), weight.flatten(), dim=0)
        for name, weight in on_cpu.items()
        if "lora_B" in name or "lora.up" in name  # they start at 0
    ]
    assert moved_alike
    assert min(moved_alike) > 0.9
    assert max(first_ratios) < 1e-2
