"""How near an epoch is to the fastest it could be: its matrix products at this machine's rate, and the rest.

    python -m benchmarks.floor --out benchmarks/results/floor.json

An epoch's floating-point operations (matrix products, convolutions and attention, forward and backward, as torch counts
them) over the rate of a large matrix product in the same precision are its floor: no epoch of these operations can be
shorter. The rate is measured before and after every timed epoch, so that a machine that slows down slows both. The
share is floor / seconds. Operations that a cleverer trainer would not do at all count as useful here.

Then one epoch under torch's profiler says where the time goes, by kind of operation. `outside operations` is what the
epoch took less all operations: Python, the autograd engine, and the profiler's own weight; `profiled_seconds` beside
`seconds` says how much that weighs. 64 pictures, the rest by default; `every step` trains all ten steps of each, as
`benchmarks.peer_trl` does.
"""

import argparse
import json
import os
import shlex
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import describe
from benchmarks.passing import train_in_passing
from data.prompt_list import starter_prompts
from rl.algorithms.dpok import Dpok
from rl.config import SampleConfig, TrainConfig
from rl.families.sd15 import StableDiffusion15

TARGET = 0.6
GROUPS, MEMBERS = 8, 8
SIDES = (512, 1024, 2048)
"""Of the square matrices whose products are timed. The fastest size is the rate: caches decide which one that is."""
PHASES = ("collect", "update")
CASES: dict[str, tuple[torch.dtype, SampleConfig]] = {
    "default": (torch.float32, SampleConfig()),
    "every step": (torch.float32, SampleConfig(window=10, shared_noise=False)),
    "default, bfloat16": (torch.bfloat16, SampleConfig()),
    "every step, bfloat16": (torch.bfloat16, SampleConfig(window=10, shared_noise=False)),
}
KINDS = {
    "convolutions": ("conv",),
    "attention": ("scaled_dot_product", "flash_attention"),
    "matrix products": ("mm", "matmul", "linear", "einsum"),
    "norms": ("norm",),
    "copies": ("copy", "clone", "cat", "stack", "index", "gather", "fill", "zero", "slice_backward", "select_backward"),
    "views and allocation": tuple(
        "empty view reshape transpose expand permute as_strided chunk split slice select squeeze narrow aten::t".split()
    ),
}
"""Kind -> parts of an operation's name; the first that fits. What fits none is elementwise arithmetic."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5, help="timed, for each case")
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    torch.set_num_threads(arguments.threads)
    result: dict[str, Any] = {
        "machine": describe(),
        "command": shlex.join(["python", "-m", "benchmarks.floor", *sys.argv[1:]]),
        "threads": arguments.threads,
        "target_share_of_floor": TARGET,
        "cases": {},
    }
    for name in arguments.only:
        found = result["cases"][name] = measure(*CASES[name], epochs=arguments.epochs)
        print(name, json.dumps({key: value for key, value in found.items() if key != "profile"}), flush=True)
        print(json.dumps({phase: part["share"] for phase, part in found["profile"].items()}, indent=2), flush=True)
        if arguments.out:  # after every case: a run that is cut off keeps what it saw
            arguments.out.write_text(json.dumps(result, indent=2) + "\n")


def measure(dtype: torch.dtype, sample: SampleConfig, *, epochs: int) -> dict[str, Any]:
    watch = Watch(dtype, epochs)
    prompts = [prompt.text for prompt in starter_prompts(GROUPS, 1) if prompt.split == "train"]
    train_in_passing(
        StableDiffusion15.load("starter", dtype=dtype),
        Dpok(),
        watch.reward,
        prompts,
        TrainConfig(epochs=epochs + 3, prompts_per_epoch=GROUPS, images_per_prompt=MEMBERS),
        sample,
        place=("floor",),
        on_epoch=watch.on_epoch,
    )
    return watch.result()


class Watch:
    """Sees an epoch from outside, where the reward is asked and where the epoch ends: 1 warms up, then `epochs` are
    timed, one is counted and one is profiled."""

    def __init__(self, dtype: torch.dtype, epochs: int) -> None:
        self.dtype, self.epochs = dtype, epochs
        self.timed: list[dict[str, float]] = []
        self.flops: dict[str, Counter[str]] = {}
        self.profile: dict[str, Any] = {}
        self._counter = FlopCounterMode(display=False)
        self._profiler = profile(activities=[ProfilerActivity.CPU])
        self._counting = self._profiling = False
        self._rate = 0.0

    def reward(self, images: torch.Tensor, prompts: Iterable[str]) -> torch.Tensor:
        if self._counting:
            self.flops["collect"] = self._counted()
        if self._profiling:
            self._profiler.stop()
            self.profile["collect"] = self._profiler.key_averages()
            self._profiler = profile(activities=[ProfilerActivity.CPU])
            self._profiler.start()
        return images.float().mean(dim=(1, 2, 3)) / 255

    def on_epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        seconds = {phase: metrics[f"seconds_{phase}"] for phase in PHASES}
        if self._profiling:
            self._profiler.stop()
            self.profile["update"] = self._profiler.key_averages()
            self.profile = {phase: by_kind(self.profile[phase], seconds[phase]) for phase in PHASES}
        elif self._counting:
            self._counter.__exit__(None, None, None)
            self.flops["update"] = self._counted() - self.flops["collect"]
        else:
            rate, self._rate = self._rate, matmul_rate(self.dtype)
            if epoch > 1:
                self.timed.append({**seconds, "flops_per_second": (rate + self._rate) / 2})
        # What begins here sees the epoch's state being saved, too: some milliseconds, no products.
        self._counting, self._profiling = epoch == self.epochs + 1, epoch == self.epochs + 2
        if self._counting:
            self._counter.__enter__()
        if self._profiling:
            self._profiler.start()

    def _counted(self) -> Counter[str]:
        counts = self._counter.get_flop_counts().get("Global", {})
        return Counter({str(operation): int(flops) for operation, flops in counts.items()})

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "images": GROUPS * MEMBERS,
            "matmul_gflops_per_second": round(median(epoch["flops_per_second"] for epoch in self.timed) / 1e9, 1),
        }
        for name, phases in (("collect", ("collect",)), ("update", ("update",)), ("epoch", PHASES)):
            flops = sum(self.flops[phase].total() for phase in phases)
            took = [sum(epoch[phase] for phase in phases) for epoch in self.timed]
            shares = [
                flops / epoch["flops_per_second"] / seconds for epoch, seconds in zip(self.timed, took, strict=True)
            ]
            found[name] = {
                "gflops": round(flops / 1e9, 2),
                "seconds": round(median(took), 3),
                "share_of_floor": round(median(shares), 3),
                "lowest_and_highest": [round(min(shares), 3), round(max(shares), 3)],
            }
        found["gflops_by_operation"] = {
            phase: {operation: round(flops / 1e9, 2) for operation, flops in self.flops[phase].most_common()}
            for phase in PHASES
        }
        found["timed"] = self.timed
        found["profile"] = self.profile
        return found


def matmul_rate(
    dtype: torch.dtype, *, sides: Sequence[int] = SIDES, seconds: float = 0.5, device: str = "cpu"
) -> float:
    """Floating-point operations per second of the fastest of some matrix products, each repeated for so long.

    The mean over that time and not the best product: what disturbs the machine, or warms a chip, slows an epoch, too.
    """
    is_gpu = device == "cuda"
    queued = 10 if is_gpu else 1  # waiting for every one would be timed, too
    rates = []
    for side in sides:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        product = a @ b
        if is_gpu:
            torch.cuda.synchronize()
        count, started = 0, time.monotonic()
        while time.monotonic() - started < seconds:
            for _ in range(queued):
                torch.matmul(a, b, out=product)
            if is_gpu:
                torch.cuda.synchronize()
            count += queued
        rates.append(2 * side**3 * count / (time.monotonic() - started))
    return max(rates)


def by_kind(events: Any, seconds: float) -> dict[str, Any]:
    """Seconds of a phase by kind of operation, their shares, and the dearest operations."""
    spent: dict[str, float] = defaultdict(float)
    single: dict[str, float] = {}
    calls = 0
    for event in events:
        if event.key.startswith("aten::"):
            spent[kind_of(event.key)] += event.self_cpu_time_total / 1e6
            single[event.key] = event.self_cpu_time_total / 1e6
            calls += event.count
    spent["outside operations"] = seconds - sum(spent.values())
    return {
        "profiled_seconds": round(seconds, 3),
        "operations": calls,
        "share": _largest(spent, seconds),
        "dearest": dict(list(_largest(single, seconds).items())[:12]),
    }


def _largest(spent: Mapping[str, float], seconds: float) -> dict[str, float]:
    """Shares of the time, the largest first."""
    return {name: round(spent[name] / seconds, 3) for name in sorted(spent, key=spent.__getitem__, reverse=True)}


def kind_of(operation: str) -> str:
    return next((kind for kind, parts in KINDS.items() if any(part in operation for part in parts)), "elementwise")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
