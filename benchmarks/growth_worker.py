"""One process of `benchmarks.growth`, or one of several that share the work: epochs of `rl.train` on the starter.

    python -m benchmarks.growth_worker '{"batch": 64, "steps": 10, ...}'
    torchrun --standalone --nproc-per-node 2 -m benchmarks.growth_worker '{"batch": 64, "steps": 10, ...}'

The job is one JSON object, and so is the last line that the first process prints.
"""

import json
import os
import sys
from typing import Any

import torch
from torch import distributed as dist

from benchmarks.passing import train_in_passing
from benchmarks.peer_ours_worker import Counted
from benchmarks.scores import brightness
from benchmarks.workers import peak_memory
from rl.algorithms.dpok import Dpok
from rl.config import SampleConfig, TrainConfig
from rl.families.sd15 import StableDiffusion15
from rl.ranks import Ranks


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_flush_denormal(True)
    torch.set_num_threads(job["threads"])
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    ranks, summed = Ranks.here(), Summed()
    family = StableDiffusion15.load("starter")
    channels, side, _ = family.latent_shape
    side = side * job["pixels"] // job["pixels_of_model"]
    family.latent_shape = (channels, side, side)  # a convolutional network takes other sizes than it was trained on
    algorithm: Any = Counted(Dpok())
    sample = SampleConfig(batch_size=job["batch"], steps=job["steps"])
    config = TrainConfig(
        epochs=1 + job["epochs"],  # the first one warms up
        prompts_per_epoch=job["groups"],
        images_per_prompt=job["members"],
        batch_size=job["batch"],
        lora_rank=job["rank"],
    )
    loaded = peak_memory()
    epochs: list[dict[str, float]] = []

    def keep(epoch: int, metrics: dict[str, float]) -> None:
        epochs.append({name: metrics[f"seconds_{name}"] for name in ("collect", "score", "update")})

    train_in_passing(family, algorithm, brightness, job["prompts"], config, sample, place=("growth",), on_epoch=keep)
    mine = {"transitions": algorithm.transitions, "loaded": loaded, "peak": peak_memory()}
    every: list[Any] = [mine]
    if ranks.count > 1:
        every = [None] * ranks.count
        dist.all_gather_object(every, mine)
    images = config.prompts_per_epoch * config.images_per_prompt
    assert sum(each["transitions"] for each in every) == config.epochs * images * sample.window
    if not ranks.rank:
        found = {
            "epochs": epochs[1:],
            "images": images,
            "transitions": images * sample.window,
            "memory_loaded_mib": round(sum(each["loaded"] for each in every), 1),
            "memory_peak_mib": round(sum(each["peak"] for each in every), 1),
            "all_reduced_bytes": summed.bytes // config.epochs,
        }
        print(json.dumps(found), flush=True)
    if dist.is_initialized():
        dist.destroy_process_group()


class Summed:
    """Counts the bytes that this process gives to all-reduce from now on."""

    def __init__(self) -> None:
        self.bytes = 0
        self._all_reduce = dist.all_reduce
        dist.all_reduce = self

    def __call__(self, tensor: torch.Tensor, *args: Any, **options: Any) -> Any:
        self.bytes += tensor.nbytes
        return self._all_reduce(tensor, *args, **options)


if __name__ == "__main__":
    main()
