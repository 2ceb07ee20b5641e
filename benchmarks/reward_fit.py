"""What a reward fit costs: 100,000 comparisons of 40,000 images of 5,000 prompts, from features of 512 dimensions.

    python -m benchmarks.reward_fit --out benchmarks/results/reward_fit.json

Each case runs in a process of its own, so that its peak of memory is its own; the process's start and the making of
the data are not counted as time. `linear` is everything from answers to the head's posterior: choices, the raters'
slopes, the penalty by cross-validation in five parts. The baseline is scikit-learn's logistic regression by L-BFGS: one
fit, at one penalty, on the differences of the same features, without ties or raters. `ensemble` is five networks on
bootstraps; its baseline is one epoch of one such network that forwards both images of every pair, as ImageReward's
trainer does. `features` is the starter's backbone over 2,048 pictures through the cache, beside a bare loop of
open_clip's encode_image over batches of the same size, prepared beforehand.
"""

import argparse
import json
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import describe

PROMPTS, IMAGES, WIDTH, PAIRS, RATERS = 5000, 8, 512, 100_000, 20
TARGETS = {"linear": 10.0, "ensemble": 60.0, "memory_gib": 2.0, "features": 0.8}


def data() -> tuple[list[Any], list[tuple[str, str]], np.ndarray]:
    """Answers of twenty raters with a linear taste and a fifth of ties, things and their features."""
    from reward_models.answers import Answer

    rng = np.random.default_rng(0)
    image = rng.normal(size=(PROMPTS * IMAGES, WIDTH)).astype(np.float32)
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    text = rng.normal(size=(PROMPTS, WIDTH)).astype(np.float32)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    product = image * np.repeat(text, IMAGES, 0)
    features = np.hstack([product.sum(1, keepdims=True), image, product])
    utility = image @ rng.normal(size=WIDTH) * 1.5
    prompt = rng.integers(PROMPTS, size=PAIRS)
    one = rng.integers(IMAGES, size=PAIRS)
    other = (one + rng.integers(1, IMAGES, size=PAIRS)) % IMAGES
    apart = utility[prompt * IMAGES + one] - utility[prompt * IMAGES + other]
    outcome = np.where(rng.random(PAIRS) < 0.2, 2, (rng.random(PAIRS) > 1 / (1 + np.exp(-apart))).astype(int))
    answers = []
    for number in range(PAIRS):
        images = tuple(f"{prompt[number]:05d}-{each}" for each in (one[number], other[number]))
        answers.append(
            Answer(
                prompt=f"{prompt[number]:05d}",
                rater=f"r{number % RATERS:02d}",
                images=images,
                values=((1, 2), (2, 1), (1, 1))[outcome[number]],
                left=images[number % 2],
            )
        )
    things = [(f"{p:05d}-{k}", f"{p:05d}") for p in range(PROMPTS) for k in range(IMAGES)]
    return answers, things, features


def linear() -> dict[str, float]:
    from reward_models.answers import groups
    from reward_models.choices import as_choices
    from reward_models.config import RewardFitConfig
    from reward_models.folds import Folds
    from reward_models.readings import compare_readings
    from reward_models.reliability import fit_reliability
    from reward_models.selection import try_linear

    answers, things, features = data()
    parts, clock = {}, _Clock()
    choices = as_choices(answers, things)
    counted, (group, _) = np.ones(len(choices)), groups(answers, things)
    folds, grid = Folds.of(choices, group, 5), RewardFitConfig().l2
    parts["choices"] = clock.lap()
    readings = compare_readings(features, choices, folds, grid, counted)
    parts["rotation and penalty"] = clock.lap()
    found = fit_reliability(readings.model, answers, readings.l2, counted)
    readings = readings.with_slopes(found.slope, folds, grid, counted)
    parts["raters"] = clock.lap()
    tried = try_linear(readings, folds, counted)
    parts["cross-validation"] = clock.lap()
    l2 = tried.candidate.l2
    assert l2 is not None
    model = readings.model
    model.posterior(l2, counted, model.fit(np.array([l2]), counted[:, None], tolerance=1e-3))
    parts["posterior"] = clock.lap()
    return {"seconds": clock.total, **parts, "log_loss": tried.candidate.log_loss}


def scikit_learn() -> dict[str, float]:
    from sklearn.linear_model import LogisticRegression

    answers, things, features = data()
    index = {thing: number for number, thing in enumerate(things)}
    answers = [answer for answer in answers if answer.values != (1, 1)]
    one, other = ([index[answer.images[side], answer.prompt] for answer in answers] for side in (0, 1))
    clock = _Clock()
    apart = features[one] - features[other]
    outcome = np.array([answer.values == (1, 2) for answer in answers])
    LogisticRegression(C=1.0, fit_intercept=False, max_iter=200).fit(apart, outcome)
    return {"seconds": clock.lap()}


def ensemble() -> dict[str, float]:
    from reward_models.choices import as_choices
    from reward_models.heads.ensemble import fit_ensemble

    answers, things, features = data()
    choices, x = as_choices(answers, things), torch.from_numpy(features)
    clock = _Clock()
    fit_ensemble(x, choices, seed=0)
    return {"seconds": clock.lap()}


def both_images_of_every_pair() -> dict[str, float]:
    from torch.nn.functional import logsigmoid

    from reward_models.choices import as_choices
    from reward_models.heads.imagereward import decided_pairs
    from reward_models.heads.mlp import build_network

    answers, things, features = data()
    pairs = torch.from_numpy(decided_pairs(as_choices(answers, things), np.ones(PAIRS)))
    x, network = torch.from_numpy(features), build_network(features.shape[1])
    optimizer = torch.optim.AdamW(network.parameters())
    clock = _Clock()
    for rows in torch.randperm(len(pairs)).split(1024):
        better, worse = network(x[pairs[rows]]).squeeze(2).unbind(1)
        optimizer.zero_grad()
        (-logsigmoid(better - worse).mean()).backward()
        optimizer.step()
    return {"seconds": clock.lap()}


def features_through_the_cache() -> dict[str, float]:
    from reward_models.backbone import Backbone
    from reward_models.features import FeatureCache

    backbone = Backbone.load()
    rng = np.random.default_rng(0)
    pictures = {f"{number:04d}": rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for number in range(2048)}
    read: list[str] = []

    def load(image_id: str) -> np.ndarray:
        read.append(image_id)
        return pictures[image_id]

    stacked = torch.from_numpy(np.stack(list(pictures.values()))).permute(0, 3, 1, 2)
    prepared = backbone.preprocess(stacked)
    bare, cached = [], []
    for _ in range(5):
        clock = _Clock()
        with torch.no_grad():
            for part in prepared.split(backbone.chunk):
                backbone.model.encode_image(part)
        bare.append(len(pictures) / clock.lap())
        with tempfile.TemporaryDirectory() as folder:
            read.clear()
            FeatureCache(Path(folder), backbone).images(sorted(pictures), load)
        cached.append(len(pictures) / clock.lap())
    return {
        "images_per_second": float(np.median(cached)),
        "bare_images_per_second": float(np.median(bare)),
        "ratio": float(np.median(np.array(cached) / np.array(bare))),
        "reads_per_image": len(read) / len(pictures),
    }


CASES: dict[str, Callable[[], dict[str, float]]] = {
    "linear": linear,
    "scikit-learn, one fit": scikit_learn,
    "ensemble": ensemble,
    "one epoch of one network, both images of every pair": both_images_of_every_pair,
    "features": features_through_the_cache,
}


class _Clock:
    def __init__(self) -> None:
        self.total, self._last = 0.0, time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        self.total += seconds
        return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        found = CASES[arguments.case]()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps(found | {"peak_memory_gib": peak}))
        return
    if arguments.out is None:
        parser.error("--out is needed")
    results = {}
    for case in arguments.only:
        command = [sys.executable, "-m", "benchmarks.reward_fit", "--case", case]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        results[case] = {name: round(value, 3) for name, value in json.loads(run.stdout.splitlines()[-1]).items()}
        print(case, json.dumps(results[case]), flush=True)
        report = {
            "command": shlex.join(["python", "-m", "benchmarks.reward_fit", *sys.argv[1:]]),
            "machine": describe(),
            "targets": TARGETS,
            "results": results,
        }
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
