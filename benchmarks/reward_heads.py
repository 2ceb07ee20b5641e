"""What each reward head learns from the starter world's pictures, and what it costs, for two tastes.

    python -m benchmarks.reward_heads --out benchmarks/results/reward_heads.json

The simulated raters' own taste, which the backbone's features show, and shapes on the left, which they hardly do. One
rater answers --answers pairs of 16 pictures to each of --prompts captions. Every head is tried by the fit itself, with
answers held out by prompt; the baseline in the same run is the linear head.
"""

import argparse
import json
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import describe
from data.world import captions, scenes
from data.world.taste import taste
from reward_models.config import RewardFitConfig
from reward_models.fit import fit_reward

IMAGES = 16
"""Of each prompt."""
SLOPES = {"taste": 12.0, "shapes on the left": 0.1}
"""Of the answers in the difference of the utilities."""
HEADS = ("linear", "mlp", "ensemble", "finetune")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=4000)
    parser.add_argument("--prompts", type=int, default=160)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pictures, utilities = world(arguments.prompts)
    result: dict[str, Any] = {
        "machine": describe(),
        "command": shlex.join(["python", "-m", "benchmarks.reward_heads", *sys.argv[1:]]),
        "answers": arguments.answers,
        "pictures": len(pictures),
    }
    for name, utility in utilities.items():
        rows = answers(utility, SLOPES[name], arguments.answers)
        with tempfile.TemporaryDirectory() as folder:
            tried("linear", rows, pictures, Path(folder))  # features are then in the cache
            result[name] = {head: tried(head, rows, pictures, Path(folder)) for head in HEADS}
        result[name]["the true order"] = {"accuracy": expected(utility, SLOPES[name])}
        print(json.dumps({name: result[name]}, indent=2), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


def world(prompts: int) -> tuple[dict[tuple[str, str], np.ndarray], dict[str, dict[tuple[str, str], float]]]:
    """Pictures by image and prompt, and each taste's utility of them."""
    rng = np.random.default_rng(0)
    texts: list[str] = []
    while len(texts) < prompts:
        text, _ = captions.sample(rng)
        if text not in texts:
            texts.append(text)
    pictures, utilities = {}, {name: {} for name in SLOPES}
    for number, text in enumerate(texts):
        for image in range(IMAGES):
            scene = captions.scene_of(text, rng, biased=False)
            thing = f"{number:03d}-{image:02d}", text
            pictures[thing] = scenes.render(scene)
            utilities["taste"][thing] = taste(pictures[thing])
            utilities["shapes on the left"][thing] = -float(np.mean([item.x for item in scene.items]))
    return pictures, utilities


def answers(utility: dict[tuple[str, str], float], slope: float, count: int) -> list[dict[str, Any]]:
    """Rows of a snapshot: pairs of one prompt by one rater, without ties."""
    rng = np.random.default_rng(1)
    things = sorted(utility)
    rows = []
    for _ in range(count):
        prompt = int(rng.integers(len(things) // IMAGES))
        one, other = (things[prompt * IMAGES + int(each)] for each in rng.choice(IMAGES, 2, replace=False))
        is_first = rng.random() < 1 / (1 + np.exp(slope * (utility[other] - utility[one])))
        rows.append(
            {
                "round": 1,
                "prompt": one[1],
                "rater_id": "ann",
                "image_a": one[0],
                "image_b": other[0],
                "outcome": "a" if is_first else "b",
                "left": "a",
            }
        )
    return rows


def expected(utility: dict[tuple[str, str], float], slope: float) -> float:
    """Share of the answers to all pairs that go the better picture's way."""
    value = slope * np.array([utility[thing] for thing in sorted(utility)]).reshape(-1, IMAGES)
    one, other = np.triu_indices(IMAGES, 1)
    return float((1 / (1 + np.exp(-np.abs(value[:, one] - value[:, other])))).mean())


def tried(
    head: str, rows: list[dict[str, Any]], pictures: dict[tuple[str, str], np.ndarray], folder: Path
) -> dict[str, float]:
    by_image = {image: picture for (image, _), picture in pictures.items()}
    config = RewardFitConfig(heads=(head,), mlp_from=1)
    began, processor = time.perf_counter(), time.process_time()
    report = fit_reward(rows, by_image.__getitem__, config, folder / "cache", folder / head)
    return {
        "log_loss": report.candidates[0].log_loss,
        "accuracy": report.accuracy.mean,
        "accuracy_low": report.accuracy.low,
        "accuracy_high": report.accuracy.high,
        "seconds": time.perf_counter() - began,
        "processor_seconds": time.process_time() - processor,
    }


if __name__ == "__main__":
    main()
