"""One process of `benchmarks.peer_trl` on TRL's side: epochs of its DDPOTrainer, timed phase by phase.

    .venv-trl/bin/python -m benchmarks.peer_trl_worker '{"model": ..., "prompts": [...], ...}'

Runs in TRL's own environment and imports of ours only what needs no package. The job is one JSON object, and so is the
last line that it prints.
"""

import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import distributions
from itertools import cycle
from typing import Any

import torch
from accelerate import PartialState
from peft import LoraConfig

from benchmarks.workers import peak_memory

trl: Any = importlib.import_module("trl")  # not by `import`: our environment, where types are checked, has none


class Pipeline(trl.DefaultDDPOStableDiffusionPipeline):
    """TRL's, with our rank: its own writes 4 into the code."""

    def __init__(self, model: str, lora_rank: int, lora_targets: list[str]) -> None:
        super().__init__(model, use_lora=True)
        self.lora = LoraConfig(
            r=lora_rank, lora_alpha=lora_rank, init_lora_weights="gaussian", target_modules=lora_targets
        )

    def get_trainable_layers(self) -> Any:
        self.sd_pipeline.unet.add_adapter(self.lora)
        for parameter in self.sd_pipeline.unet.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        return self.sd_pipeline.unet


class Trainer(trl.DDPOTrainer):
    """TRL's, with a watch on its phases and a count of what its loss is given."""

    seconds_collect = seconds_score = 0.0
    transitions = 0

    def _generate_samples(self, *args: Any, **kwargs: Any) -> Any:
        started = time.monotonic()
        samples = super()._generate_samples(*args, **kwargs)
        self.seconds_collect = time.monotonic() - started
        return samples

    def compute_rewards(self, *args: Any, **kwargs: Any) -> Any:
        started = time.monotonic()
        rewards = super().compute_rewards(*args, **kwargs)
        self.seconds_score = time.monotonic() - started
        return rewards

    def calculate_loss(self, latents: torch.Tensor, *args: Any) -> Any:
        self.transitions += len(latents)
        return super().calculate_loss(latents, *args)


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_flush_denormal(True)
    torch.set_num_threads(job["threads"])
    trainer = trainer_of(job, brightness)
    images = job["groups"] * job["members"]
    loaded = peak_memory()
    print(
        json.dumps(
            {
                "epochs": list(epochs(trainer, job["epochs"], images)),
                "memory_loaded_mib": loaded,
                "memory_peak_mib": peak_memory(),
                "packages": {found.metadata["Name"]: found.version for found in distributions()},
            }
        )
    )


def trainer_of(job: dict[str, Any], reward: Callable[..., Any]) -> Trainer:
    PartialState(cpu=True)  # TRL's pipeline logs before its trainer has made one
    images = job["groups"] * job["members"]
    config = trl.DDPOConfig(
        seed=job["seed"],
        mixed_precision={"float32": "no", "bfloat16": "bf16"}[job["dtype"]],
        sample_num_steps=job["steps"],
        sample_guidance_scale=job["guidance"],
        sample_eta=job["eta"],
        sample_batch_size=job["sample_batch_size"],
        sample_num_batches_per_epoch=images // job["sample_batch_size"],
        train_batch_size=job["train_batch_size"],
        train_gradient_accumulation_steps=images // job["train_batch_size"] // job["updates"],
        train_learning_rate=job["learning_rate"],
        per_prompt_stat_tracking=job["per_prompt_stats"],
        accelerator_kwargs={"cpu": True},
        save_freq=sys.maxsize,
    )
    prompts = cycle(prompt for prompt in job["prompts"] for _ in range(job["members"]))
    pipeline = Pipeline(job["model"], job["lora_rank"], job["lora_targets"])
    trainer = Trainer(config, reward, lambda: (next(prompts), {}), pipeline)
    pipeline.set_progress_bar_config(disable=True)
    return trainer


def epochs(trainer: Trainer, count: int, images: int) -> Iterator[dict[str, float]]:
    """The warm-up epoch comes first."""
    step = 0
    for epoch in range(count + 1):
        trainer.transitions = 0
        started = time.monotonic()
        step = trainer.step(epoch, step)
        seconds = time.monotonic() - started
        yield {
            "images": images,
            "transitions": trainer.transitions,
            "seconds_collect": trainer.seconds_collect,
            "seconds_score": trainer.seconds_score,
            "seconds_update": seconds - trainer.seconds_collect - trainer.seconds_score,
        }


def brightness(images: torch.Tensor, prompts: Any, metadata: Any) -> tuple[torch.Tensor, dict[str, Any]]:
    return images.float().mean(dim=(1, 2, 3)), {}


if __name__ == "__main__":
    main()
