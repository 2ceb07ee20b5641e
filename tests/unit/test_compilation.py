"""train.compile on a tiny pipeline: the same numbers as uncompiled, and after a restart; kept only for a gain."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rl import compilation
from rl.algorithms.dpok import Dpok
from rl.config import SampleConfig, TrainConfig
from rl.families.family import Family
from rl.randomness import generator
from rl.train import train
from tests.fixtures.tiny_pipeline import build_family

# torch hides this one of its own warnings, which it cannot where pytest makes an error of it.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")]

PROMPTS = ["a red circle", "two blue hearts"]
SAMPLE = SampleConfig(steps=2, guidance=1.5, window=2, batch_size=8)
TRAIN = TrainConfig(compile=True, epochs=2, prompts_per_epoch=2, images_per_prompt=4, batch_size=8, lora_rank=2)


def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.float().mean(dim=(1, 2, 3))


def run(folder: Path, config: TrainConfig = TRAIN) -> list[dict[str, float]]:
    """Train with DPOK; each epoch's metrics."""
    metrics: list[dict[str, float]] = []
    train(
        build_family(),
        Dpok(),
        brightness,
        PROMPTS,
        config,
        SAMPLE,
        folder=folder,
        place=(0, 1),
        on_epoch=lambda epoch, found: metrics.append(found),
    )
    return metrics


def moved_family(weights: str) -> tuple[Family, list[nn.Parameter]]:
    """With a policy that is not the reference."""
    family, size = build_family(), 0.02 if weights == "full" else 0.2
    lora = {"rank": 2, "targets": TRAIN.lora_targets, "seed": 0}
    parameters = family.add_full() if weights == "full" else family.add_lora(**lora)
    for number, parameter in enumerate(parameters):
        parameter.data += size * torch.randn(parameter.shape, generator=generator("moved", number))
    return family, parameters


def passes(family: Family, parameters: list[nn.Parameter], rows: int) -> list[Tensor]:
    """Drawn, the reference's, learned, and its gradient."""
    x = torch.randn((rows, *family.latent_shape), generator=generator("x"))
    given: dict[str, Any] = {"timesteps": torch.full((rows,), 500), "prompts": ["a red circle"] * rows, "guidance": 1.5}
    with torch.no_grad():
        drawn = family.predict(x, **given)
    with family.reference():
        reference = family.predict(x, **given)
    learned = family.predict(x, **given)
    learned.square().mean().backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
    family.drop_gradients()
    assert all(parameter.grad is None for parameter in parameters)
    return [drawn, reference.detach(), learned.detach(), gradient]


def count_compiled(family: Family) -> int:
    return sum(module._compiled_call_impl is not None for module in family._denoiser.modules())


@pytest.mark.parametrize(("weights", "checkpointing"), [("lora", False), ("lora", True), ("full", False)])
def test_compiled_blocks_give_the_same_outputs_and_gradients_at_any_batch(weights: str, checkpointing: bool):
    family, parameters = moved_family(weights)
    family.checkpoint_gradients(checkpointing)
    plain = {rows: passes(family, parameters, rows) for rows in (6, 2)}
    family.compile_blocks(True)
    assert count_compiled(family) > 0
    for rows, expected in plain.items():
        for found, each in zip(passes(family, parameters, rows), expected, strict=True):
            assert not torch.equal(found, torch.zeros_like(found))
            torch.testing.assert_close(found, each, rtol=1e-4, atol=1e-6)
    family.compile_blocks(False)
    for found, each in zip(passes(family, parameters, 6), plain[6], strict=True):
        assert torch.equal(found, each)


def test_a_compiled_run_goes_on_bit_for_bit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(compilation, "LEAST_GAIN", float("-inf"))  # a tiny network may gain nothing
    whole = run(tmp_path / "whole")
    first = run(tmp_path / "parts", replace(TRAIN, epochs=1))
    torch.compiler.reset()  # as in another process
    rest = run(tmp_path / "parts")
    assert [each["loss"] for each in whole] == [each["loss"] for each in first + rest]
    assert whole[0]["compile_gain"] == whole[1]["compile_gain"] != 0
    assert first[0]["compile_gain"] == rest[0]["compile_gain"]  # and there was no second trial
    states = [torch.load(tmp_path / name / "state.pt") for name in ("whole", "parts")]
    assert all(torch.equal(*pair) for pair in zip(*(state["weights"] for state in states), strict=True))


def test_what_gains_nothing_is_left_as_it_was_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
):
    monkeypatch.setattr(compilation, "LEAST_GAIN", 1.0)
    with caplog.at_level(logging.WARNING):
        tried = run(tmp_path / "tried")
    assert "left as it is" in caplog.text
    assert "train.compile = false" in caplog.text
    plain = run(tmp_path / "plain", replace(TRAIN, compile=False))
    assert [each["loss"] for each in tried] == [each["loss"] for each in plain]
    assert [each["compile_gain"] for each in tried] == [0, 0]
    assert "compile_gain" not in plain[0]
    caplog.clear()
    run(tmp_path / "tried", replace(TRAIN, epochs=3))
    assert not caplog.records  # it is not tried again


def test_without_a_compiler_it_is_said_and_trained_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
):
    torch.compiler.reset()
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "no-such-compiler"))
    monkeypatch.setattr("torch._inductor.config.force_disable_caches", True)
    with caplog.at_level(logging.WARNING):
        metrics = run(tmp_path, replace(TRAIN, epochs=1))
    assert "this machine cannot compile" in caplog.text
    assert metrics[0]["compile_gain"] == 0
