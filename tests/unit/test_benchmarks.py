"""The benchmarks that are seldom run: that they still run, and that what they say of a model is true of it."""

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from scipy.stats import binomtest
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu, gpu_worker, growth, guard
from rl.config import TrainConfig

JOB: dict[str, Any] = {
    **gpu.CASES["sd15-512-plain"],
    **gpu.SMALLEST,
    "device": "cpu",
    "smallest": True,
    "target_gib": None,
    "epochs": 1,
    "first": 1,
    "largest": 2,
    "count": False,
}


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("sd15", {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}),
        (
            "sdxl",
            {"unet": 2_567_463_684, "vae": 83_653_863, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840},
        ),
    ],
)
def test_the_networks_have_as_many_parameters_as_the_published_ones(model: str, parameters: dict[str, int]):
    pixels = gpu.TARGETS[model]["pixels"]
    family = gpu_worker.build_family(model, gpu_worker.SHAPES[model], pixels, device="meta", dtype=torch.bfloat16)
    assert family.latent_shape == (4, pixels // 8, pixels // 8)
    for name, count in parameters.items():
        network = getattr(family._pipeline, name)
        assert sum(parameter.numel() for parameter in network.parameters()) == count
        assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}


@pytest.mark.slow
@pytest.mark.parametrize(("model", "variant"), [("sd15", "plain"), ("sdxl", "checkpointing"), ("sd15", "compile")])
def test_the_gpu_script_measures_every_batch_up_to_the_largest(model: str, variant: str):
    one, two = gpu_worker.run({**JOB, "model": model, **gpu.VARIANTS[variant]})
    assert (one["batch"], two["batch"]) == (1, 2)
    assert one["images"] == two["images"] == 2  # a group has two
    assert one["transitions_per_second"] == pytest.approx(2 / one["seconds_update"], rel=0.01)
    assert "peak_gib" not in one  # of a GPU alone
    assert ("compile_gain" in one) == (variant == "compile")


@pytest.mark.slow
def test_an_image_and_a_transition_are_counted_as_the_passes_that_they_take():
    (found,) = gpu_worker.run({**JOB, "count": True})
    shape = gpu_worker.smallest(gpu_worker.SHAPES["sd15"])
    family = gpu_worker.build_family("sd15", shape, 64, device="cpu", dtype=torch.bfloat16)
    family.add_lora(rank=TrainConfig().lora_rank, targets=TrainConfig().lora_targets, seed=0)
    latents = torch.zeros(1, 4, 8, 8)
    predict = partial(family.predict, latents, torch.tensor([5]), [gpu_worker.PROMPT], guidance=2.0)
    with torch.no_grad():
        predict()  # texts are encoded once, and not again
        step = flops_of(predict)
        decoding = flops_of(lambda: family.decode(latents))
    assert found["flops_of_image"] == 2 * step + decoding
    # The reference and the loss forward; and the gradient, of activations and the LoRA alone.
    assert 2.5 * step < found["flops_of_transition"] < 3.5 * step


def flops_of(work: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def test_a_batch_that_memory_does_not_suffice_for_ends_the_case(monkeypatch: pytest.MonkeyPatch):
    def full(*args: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(gpu_worker, "train_in_passing", full)
    (found,) = gpu_worker.run({**JOB, "first": 2, "largest": 8})
    assert found == {"batch": 2, "out_of_memory": True}


def test_without_a_gpu_the_script_says_that_it_needs_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu"])
    with pytest.raises(SystemExit, match="a CUDA device, and there is none here"):
        gpu.main()


def test_a_case_goes_on_where_it_stopped_and_its_shares_are_by_hand(monkeypatch: pytest.MonkeyPatch):
    """Batch 2: 2 images of 3e12 and 6 transitions of 1e12 in 1 s and 2 s at 10e12 a second: 6/10, 6/20, 12/30."""
    jobs: list[dict[str, Any]] = []

    def worker(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
        jobs.append(job)
        if job["count"]:
            yield {"flops_of_image": 3 * 10**12, "flops_of_transition": 10**12}
            return
        line = {"images": 2, "transitions": 6, "seconds_collect": 1.0, "seconds_update": 2.0}
        line |= {"images_per_second": 2.0, "transitions_per_second": 3.0, "matmul_tflops_per_second": 10.0}
        yield {"batch": job["first"], **line}
        if len(jobs) > 2:
            yield {"batch": 2 * job["first"], "out_of_memory": True}
        else:
            yield {"failed": "killed"}

    monkeypatch.setattr(gpu, "_worker", worker)
    result: dict[str, Any] = {"cases": {}, "flops": {}, "targets": {"sd15": 8}}
    arguments = Namespace(smallest=True, epochs=1, largest=64)
    name = "sd15-512-plain"
    gpu.measure(name, arguments, result, lambda: None)
    assert result["cases"][name]["failed"] == "killed"
    gpu.measure(name, arguments, result, lambda: None)
    gpu.measure(name, arguments, result, lambda: None)  # finished: asks for nothing
    assert [(job["first"], job["count"]) for job in jobs] == [(1, True), (1, False), (2, False)]
    found = result["cases"][name]["batches"]["2"]
    assert [found[key] for key in ("share_of_rate_collect", "share_of_rate_update", "share_of_rate")] == [0.6, 0.3, 0.4]
    assert "| sd15-512-plain | 2 | – |  | 2.0 | 3.0 | 40.0 % |" in gpu.table(result)


def test_growth_varies_one_thing_at_a_time():
    for threads in (1, 2, 8):
        names = set()
        for name, axis in growth.axes_of(threads).items():
            cases = [growth.name_of(growth.job_of(name, value, threads), threads) for value in axis.values]
            assert len({*cases}) == len(cases)
            assert cases.count("default") == 1
            names |= {*cases}
        assert "pixels 128" in names
        assert any(case.startswith("processes 2") for case in names)


@pytest.mark.parametrize(("count", "total"), [(0, 40), (38, 40), (40, 40)])
def test_shares_of_the_guards_errors_have_exact_intervals(count: int, total: int):
    expected = binomtest(count, total).proportion_ci(0.95, method="exact")
    assert guard.share(count, total)["interval"] == pytest.approx([expected.low, expected.high], abs=1e-4)


def test_the_guards_runs_of_both_kinds_take_turns():
    assert guard.wanted_runs(4, 2) == ["adversarial-0", "healthy-0", "few-0", "healthy-1", "noisy-0", "adversarial-1"]
    assert guard.wanted_runs(1, 2) == ["adversarial-0", "healthy-0", "healthy-1"]
