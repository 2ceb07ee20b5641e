"""How far the first updates lead from the reference, by what is trained and how fast: a LoRA, or all weights.

    python -m benchmarks.first_updates --out benchmarks/results/first_updates.json

DPOK on the starter at its defaults, in epochs of 64 images with one update each; the reward is the verifier's score.
The KL of a sampling step in nats is measured in the epoch after an update, on fresh images.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe
from benchmarks.passing import train_in_passing
from benchmarks.peer_trl import prompts
from benchmarks.scores import correctness
from rl.algorithms.dpok import Dpok
from rl.config import SampleConfig, TrainConfig
from rl.families.sd15 import StableDiffusion15

CASES = (("lora", 2e-3), ("full", 1e-5), ("full", 3e-5), ("full", 1e-4), ("full", 3e-4), ("full", 1e-3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    torch.set_num_threads(arguments.threads)
    result: dict[str, Any] = {
        "machine": describe(),
        "command": shlex.join(["python", "-m", "benchmarks.first_updates", *sys.argv[1:]]),
        "kl_per_step": {},
    }
    for weights, rate in CASES:
        found = [measure(weights, rate, arguments.updates, seed) for seed in range(arguments.seeds)]
        result["kl_per_step"][f"{weights} {rate:g}"] = found
        print(weights, f"{rate:g}", found, flush=True)
        if arguments.out:  # after every case: a run that is cut off keeps what it saw
            arguments.out.write_text(json.dumps(result, indent=1) + "\n")


def measure(weights: str, rate: float, updates: int, seed: int) -> list[float]:
    """Nats after the first update, after the second, and so on."""
    kl: list[float] = []
    chosen = prompts()
    train_in_passing(
        StableDiffusion15.load("starter"),
        Dpok(),
        correctness,
        chosen,
        TrainConfig(epochs=updates + 1, prompts_per_epoch=len(chosen), weights=weights, learning_rate=rate),
        SampleConfig(),
        place=("first updates", seed),
        on_epoch=lambda epoch, metrics: kl.append(float(f"{metrics['kl_per_step']:.3g}")),
    )
    return kl[1:]


if __name__ == "__main__":
    main()
