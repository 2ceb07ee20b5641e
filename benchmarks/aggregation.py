"""How long it takes to fit scores, raters and ties together, and what of it is right.

    python -m benchmarks.aggregation --out benchmarks/results/aggregation.json

Answers are drawn from the model itself: pairs of ten images of a prompt, ties, sides, one rater in ten a coin and one
in ten turned round. Told are seconds, memory, and how many 95 % intervals hold the truth.
"""

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe
from data.aggregation import aggregate
from data.votes import Votes

_IMAGES = 10
_TIE = 0.4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--raters", type=int, default=100)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    sizes = [measure(comparisons, arguments.raters) for comparisons in arguments.comparisons]
    text = json.dumps({"sizes": sizes, "machine": describe()}, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


def measure(comparisons: int, raters: int) -> dict[str, Any]:
    """A tenth as many images as comparisons, in prompts of ten."""
    rng = np.random.default_rng(0)
    prompts = max(1, comparisons // 10 // _IMAGES)
    score = rng.normal(size=prompts * _IMAGES)
    beta, bias = rng.normal(1, 0.3, raters), rng.normal(0, 0.3, raters)
    beta[::10], beta[1::10] = 0, -1
    prompt = rng.integers(prompts, size=comparisons)
    place = rng.integers(_IMAGES, size=comparisons)
    first = prompt * _IMAGES + place
    second = prompt * _IMAGES + (place + rng.integers(1, _IMAGES, size=comparisons)) % _IMAGES
    rater = rng.integers(raters, size=comparisons)
    half = (beta[rater] * (score[first] - score[second]) + bias[rater]) / 2
    chances = np.column_stack([np.exp(half), np.exp(-half), np.full(comparisons, _TIE)]).cumsum(1)
    drawn = (rng.random(comparisons) * chances[:, 2])[:, None] > chances[:, :2]
    votes = Votes(
        items=[(f"{n // _IMAGES:06d}", f"{n:07d}") for n in range(len(score))],
        raters=[f"{n:04d}" for n in range(raters)],
        first=first,
        second=second,
        outcome=np.array([1, -1, 0])[drawn.sum(1)],
        rater=rater,
        is_side_by_side=np.ones(comparisons, bool),
        weight=np.ones(comparisons),
        both_bad=0,
    )
    started = time.perf_counter()
    found = aggregate(votes)
    seconds = time.perf_counter() - started
    told = [found.raters[name] for name in votes.raters]
    away = {
        "score": (found.score - score) / found.score_se,
        "beta": np.array([(each.beta - b) / each.beta_se for each, b in zip(told, beta, strict=True)]),
        "bias": np.array([(each.bias - b) / each.bias_se for each, b in zip(told, bias, strict=True)]),
    }
    return {
        "comparisons": comparisons,
        "images": len(score),
        "raters": raters,
        "seconds": round(seconds, 2),
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "covered": {name: round(float(np.mean(np.abs(each) < 1.96)), 3) for name, each in away.items()},
        "tie": round(found.tie, 3),
        "notes": list(found.notes),
    }


if __name__ == "__main__":
    main()
