"""What the shipped starter model draws: exact verdicts by task on held-out prompts, clean shapes, and a grid.

    python -m benchmarks.starter --out benchmarks/results/starter.json --grid docs/images/starter.png

20 DDIM steps, guidance 3, --images of each held-out prompt (no more than --limit prompts of each task). The baseline in
the same run is chance: the same images judged against the caption of another prompt of the same task.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import describe
from data.bootstrap import cluster_interval
from data.world.captions import TASKS, prompts
from data.world.verifier import CLEAN_FIT, judge, read
from rl.families.family import Family
from rl.families.loading import load_family
from rl.pretrain.vae import save_grid
from rl.rollout import draw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=10_000, help="prompts of each task")
    parser.add_argument("--images", type=int, default=4, help="of each prompt")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--grid", type=Path)
    arguments = parser.parse_args()
    family = load_family(arguments.model)
    tasks: dict[str, Any] = {}
    shown: list[np.ndarray] = []
    for task in TASKS:
        texts = [prompt.text for prompt in prompts(task, "held_out", arguments.limit)]
        pictures = draw_pictures(family, texts, arguments.images)
        tasks[task] = judge_task(texts, pictures)
        shown += list(pictures[: len(texts)][:16])  # the first image of each prompt comes first
    result = {
        "machine": describe(),
        "command": f"python -m benchmarks.starter --limit {arguments.limit} --images {arguments.images}",
        "sampler": {"steps": 20, "guidance": 3.0, "eta": 0.0},
        "held_out": tasks,
        "clean_shapes": clean_shapes(family),
        "planted_bias": planted_bias(family),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    if arguments.grid:
        save_grid(arguments.grid, np.stack(shown[:64]), columns=16)


def draw_pictures(family: Family, texts: list[str], images: int) -> np.ndarray:
    """The first picture of each text, then the second of each, ...: uint8 (images * texts, 64, 64, 3)."""
    seeds = [("benchmark", text, index) for index in range(images) for text in texts]
    drawn = draw(family, texts * images, steps=20, guidance=3.0, seeds=seeds, batch_size=32)
    return drawn.permute(0, 2, 3, 1).numpy()


def judge_task(prompts: list[str], pictures: np.ndarray) -> dict[str, Any]:
    texts = prompts * (len(pictures) // len(prompts))
    verdicts = [judge(picture, text) for picture, text in zip(pictures, texts, strict=True)]
    others = [judge(picture, text) for picture, text in zip(pictures, [*texts[1:], texts[0]], strict=True)]
    return {
        "exact": cluster_interval([float(v is not None and v.exact) for v in verdicts], texts).to_dict(),
        "score": cluster_interval([v.score for v in verdicts if v is not None], texts).to_dict(),
        "exact_for_another_caption": float(np.mean([v is not None and v.exact for v in others])),
    }


def clean_shapes(family: Family) -> dict[str, Any]:
    """Share of pictures of "a {colour} {shape}" in which every shape seen is a clean one."""
    texts = [prompt.text for split in ("train", "held_out") for prompt in prompts("colour", split, 100)]
    clean = []
    for picture in draw_pictures(family, texts, 1):
        items = read(picture).items
        clean.append(float(bool(items) and all(item.confidence >= CLEAN_FIT for item in items)))
    return cluster_interval(clean, texts).to_dict()


def planted_bias(family: Family) -> dict[str, Any]:
    """Exact verdicts on all prompts of the planted bias, trained-on ones too: the held-out ones are very few."""
    texts = [prompt.text for split in ("train", "held_out") for prompt in prompts("bias", split, 100)]
    return judge_task(texts, draw_pictures(family, texts, 32))["exact"]


if __name__ == "__main__":
    torch.set_flush_denormal(True)
    main()
