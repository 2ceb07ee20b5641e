"""One process of `benchmarks.peer_trl` on our side: epochs of `rl.train`, timed phase by phase.

    python -m benchmarks.peer_ours_worker '{"prompts": [...], ...}'

The job is one JSON object, and so is the last line it prints.
"""

import json
import sys
from typing import Any

import torch

from benchmarks.passing import train_in_passing
from benchmarks.scores import brightness
from benchmarks.workers import peak_memory
from rl.algorithms.contract import Steps
from rl.algorithms.ddpo import DdpoIs
from rl.algorithms.dpok import Dpok
from rl.config import SampleConfig, TrainConfig
from rl.families.sd15 import StableDiffusion15


class Counted:
    """An algorithm, with a count of the transitions that its loss is given."""

    def __init__(self, algorithm: Dpok | DdpoIs) -> None:
        self.algorithm = algorithm
        self.transitions = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.algorithm, name)

    def loss(self, steps: Steps) -> torch.Tensor:
        self.transitions += len(steps.log_prob)
        return self.algorithm.loss(steps)


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_flush_denormal(True)
    torch.set_num_threads(job["threads"])
    family = StableDiffusion15.load("starter", dtype=getattr(torch, job["dtype"]))
    found, config, sample = settings_of({**job, "epochs": job["epochs"] + 1})  # the first one warms up
    algorithm: Any = Counted(found)
    loaded = peak_memory()
    epochs: list[dict[str, float]] = []

    def keep(epoch: int, metrics: dict[str, float]) -> None:
        seconds = {name: metrics[name] for name in ("seconds_collect", "seconds_score", "seconds_update")}
        epochs.append({"images": job["groups"] * job["members"], "transitions": algorithm.transitions, **seconds})
        algorithm.transitions = 0

    train_in_passing(family, algorithm, brightness, job["prompts"], config, sample, place=("peer",), on_epoch=keep)
    print(json.dumps({"epochs": epochs, "memory_loaded_mib": loaded, "memory_peak_mib": peak_memory()}))


def settings_of(job: dict[str, Any]) -> tuple[Dpok | DdpoIs, TrainConfig, SampleConfig]:
    config = TrainConfig(
        algorithm=job["algorithm"],
        epochs=job["epochs"],
        prompts_per_epoch=job["groups"],
        images_per_prompt=job["members"],
        updates_per_epoch=job["updates"],
        learning_rate=job["learning_rate"],
        lora_rank=job["lora_rank"],
        lora_targets=tuple(job["lora_targets"]),
        compile=job["compile"],
    )
    sample = SampleConfig(
        steps=job["steps"],
        guidance=job["guidance"],
        eta=job["eta"],
        window=job["window"],
        shared_noise=job["shared_noise"],
    )
    return {"ddpo_is": DdpoIs, "dpok": Dpok}[job["algorithm"]](), config, sample


if __name__ == "__main__":
    main()
