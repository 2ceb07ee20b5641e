"""What pictures without a mistake would teach: the most that ratings of as many pictures can be hoped to bring.

    python -m benchmarks.supervised --out benchmarks/results/supervised.json

Reinforcement learning is told of each of its own pictures how good it is. Here the same weights (the LoRA of a round's
defaults; or all of the UNet's, `--weights all`) are told instead, for the same trained-on prompts, what a right picture
looks like: fresh scenes that show what their caption says, none of them biased, and ε-prediction as in pretraining.
Exact verdicts on trained-on and held-out prompts while it learns; the baseline is the reference, step 0.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.machine import describe
from data.bootstrap import cluster_interval
from data.prompt_list import starter_prompts
from data.records import Prompt
from data.world.captions import TASKS, prompts, scene_of
from data.world.scenes import render
from data.world.verifier import judge
from hitl.config import RunConfig
from rl.families.family import Family
from rl.families.loading import load_family
from rl.pretrain.diffusion import EMPTY_SHARE
from rl.pretrain.vae import fast_autocast, set_rate, trapezoid
from rl.randomness import generator
from rl.rollout import draw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", choices=("lora", "all"), default="lora")
    parser.add_argument("--per-task", type=int, default=32, help="trained-on prompts of each task")
    parser.add_argument("--judged", type=int, default=24, help="prompts of each task and split that are looked at")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--every", type=int, default=300, help="steps between two looks")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    torch.set_num_threads(arguments.threads)
    settings = {key: value for key, value in vars(arguments).items() if key != "out"}
    result = {
        "machine": describe(),
        "command": "python -m benchmarks.supervised "
        + " ".join(f"--{key.replace('_', '-')} {value}" for key, value in settings.items()),
        "curve": [],
    }
    for point in learn(**{key: value for key, value in settings.items() if key != "threads"}):
        result["curve"].append(point)
        if arguments.out:  # after every point: a run that is cut off keeps what it saw
            arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def learn(
    *, weights: str, per_task: int, judged: int, steps: int, batch_size: int, learning_rate: float, every: int
) -> Iterator[dict[str, Any]]:
    """Fine-tune on right pictures; yields the verdicts at step 0 and every `every` steps."""
    config = RunConfig()
    family = load_family("starter")
    if weights == "lora":
        parameters = family.add_lora(rank=config.train.lora_rank, targets=config.train.lora_targets, seed=0)
    else:
        parameters = family.add_full()
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0, betas=(0.9, 0.99))
    by_task = [[prompt.text for prompt in prompts(task, "train", per_task)] for task in TASKS]
    scenes, noises = np.random.default_rng(0), generator("supervised")
    seconds = 0.0
    for step in range(steps + 1):
        if step % every == 0:
            yield {
                "step": step,
                "pictures": step * batch_size,
                "seconds_of_training": round(seconds, 1),
                "exact": exact_verdicts(family, starter_prompts(judged, judged), config),
            }
        if step == steps:
            return
        started = time.monotonic()
        texts = [str(scenes.choice(by_task[index % len(by_task)])) for index in range(batch_size)]
        pictures = np.stack([render(scene_of(text, scenes, biased=False)) for text in texts])
        loss = denoising_loss(family, pictures, texts, noises)
        set_rate(optimizer, learning_rate * trapezoid(step, steps))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        seconds += time.monotonic() - started


def denoising_loss(family: Family, pictures: np.ndarray, texts: Sequence[str], noises: torch.Generator) -> torch.Tensor:
    with torch.no_grad(), fast_autocast():
        x_0 = family.encode(torch.from_numpy(pictures).permute(0, 3, 1, 2))
    levels = torch.randint(family.process.levels, (len(texts),), generator=noises)
    x_t, timesteps, target = family.process.noised(x_0, torch.randn(x_0.shape, generator=noises), levels)
    is_empty = torch.rand(len(texts), generator=noises) < EMPTY_SHARE
    shown = ["" if empty else text for text, empty in zip(texts, is_empty, strict=True)]
    with fast_autocast(), sdpa_kernel(SDPBackend.MATH):
        predicted = family.predict(x_t, timesteps, shown, guidance=1.0)
    return F.mse_loss(predicted, target)


def exact_verdicts(family: Family, judged: Sequence[Prompt], config: RunConfig) -> dict[str, Any]:
    """By split: all prompts, and each task; from seeds that do not depend on the step, sampled as a round judges."""
    wanted = [(p, index) for p in judged for index in range(config.evaluate.images_per_prompt)]
    texts = [prompt.text for prompt, _ in wanted]
    pictures = draw(
        family,
        texts,
        steps=config.evaluate.steps,
        guidance=config.sample.guidance,
        seeds=[("benchmark", prompt.text, index) for prompt, index in wanted],
        batch_size=config.sample.batch_size,
    )
    verdicts = [judge(p.numpy(), text) for p, text in zip(pictures.permute(0, 2, 3, 1), texts, strict=True)]
    exact = np.array([float(verdict is not None and verdict.exact) for verdict in verdicts])
    found: dict[str, Any] = {}
    for split in ("train", "held_out"):
        for task in ("all", *TASKS):
            rows = [i for i, (p, _) in enumerate(wanted) if p.split == split and task in ("all", p.task)]
            interval = cluster_interval(exact[rows], [texts[row] for row in rows])
            found.setdefault(split, {})[task] = interval.to_dict()
    return found


if __name__ == "__main__":
    main()
