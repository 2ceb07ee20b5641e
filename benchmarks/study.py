"""How often a study of simulated people comes out even where it should, and finds a difference of the size it names.

    python -m benchmarks.study --out benchmarks/results/study.json

Every pair of pictures has an appeal of its own and so has every prompt (normal, in log-odds), and every rater a side
that they prefer (left or right) and a share of ties. In an A/A study that is all: which picture is A's is chance. Where
`raters_differ` is not 0 every rater has a preference for A or B of their own, whose mean over all people is 0.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe
from data.records import Judgement
from data.study_results import Alike, Answer, alike, answers, detectable

SHAPES = (
    {"votes": 400, "per_pair": 1, "raters": 4, "pairs_per_prompt": 1},
    {"votes": 400, "per_pair": 3, "raters": 3, "pairs_per_prompt": 1},
    {"votes": 400, "per_pair": 4, "raters": 8, "pairs_per_prompt": 2},
    {"votes": 120, "per_pair": 3, "raters": 5, "pairs_per_prompt": 1},
    {"votes": 1600, "per_pair": 4, "raters": 12, "pairs_per_prompt": 4},
)


def a_study(
    rng: np.random.Generator,
    *,
    votes: int,
    per_pair: int,
    raters: int,
    pairs_per_prompt: int,
    difference: float = 0.0,
    prompt_sd: float = 0.3,
    pair_sd: float = 1.0,
    raters_differ: float = 0.0,
    side_sd: float = 0.3,
    ties: float = 0.15,
) -> list[Judgement]:
    """The votes of one simulated study, `difference` (in log-odds) in favour of the first side."""
    pairs = votes // per_pair
    prompt = np.arange(pairs) // pairs_per_prompt
    appeal = rng.normal(0, prompt_sd, prompt.max() + 1)[prompt] + rng.normal(0, pair_sd, pairs)
    own, side = rng.normal(0, raters_differ, raters), rng.normal(0, side_sd, raters)
    said = []
    for pair in range(pairs):
        for rater in rng.permutation(raters)[:per_pair]:
            is_left = bool(rng.random() < 0.5)
            odds = difference + appeal[pair] + own[rater] + (side[rater] if is_left else -side[rater])
            wins = rng.random() < 1 / (1 + np.exp(-odds))
            said.append(
                Judgement(
                    rating_id=f"{pair}/{rater}",
                    task_id=str(pair),
                    round=0,
                    study="simulated",
                    kind="pairwise",
                    prompt_id=str(prompt[pair]),
                    rater_id=str(rater),
                    model="B",
                    other="A",
                    outcome="tie" if rng.random() < ties else "a" if wins else "b",
                    both_bad=False,
                    left="a" if is_left else "b",
                )
            )
    return said


def judged(rng: np.random.Generator, repetitions: int, **shape: Any) -> list[Answer]:
    return [answers(a_study(rng, **shape))[0] for _ in range(repetitions)]


def even_rates(repetitions: int, seed: int) -> list[dict[str, Any]]:
    """How many of 100 A/A studies come out even, by the interval and by the exact test."""
    rows = []
    for shape in SHAPES:
        for raters_differ in (0.0, 0.3):
            rng = np.random.default_rng([seed, shape["votes"], shape["raters"], int(10 * raters_differ)])
            found = judged(rng, repetitions, raters_differ=raters_differ, **shape)
            rows.append(
                shape
                | {
                    "raters_differ": raters_differ,
                    "repetitions": repetitions,
                    "even": float(np.mean([each.verdict == "even" for each in found])),
                    "even_by_exact_test": float(np.mean([not each.p_value <= 0.05 for each in found])),
                    "even_over_prompts": float(
                        np.mean([each.over_prompts.low <= 0.5 <= each.over_prompts.high for each in found])
                    ),
                    "width": float(np.mean([each.share.high - each.share.low for each in found])),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


def true_share(rng: np.random.Generator, difference: float, **shape: Any) -> float:
    """Of votes for the first side, over very many pairs."""
    votes = a_study(rng, difference=difference, **(shape | {"votes": 20_000, "per_pair": 1, "raters": 200}))
    return float(np.mean([each.credit for each in votes]))


def difference_of(share: float, rng: np.random.Generator, **shape: Any) -> float:
    """The difference in log-odds of which the votes' share is that, by bisection on one set of random numbers."""
    low, high, state = 0.0, 4.0, rng.bit_generator.state
    for _ in range(12):
        middle = (low + high) / 2
        rng.bit_generator.state = state
        low, high = (middle, high) if true_share(rng, middle, **shape) < share else (low, middle)
    return (low + high) / 2


def found_rates(repetitions: int, seed: int) -> list[dict[str, Any]]:
    """Of 100 studies with the difference that is told in advance, how many find it."""
    rows = []
    for shape in SHAPES:
        rng = np.random.default_rng([seed, shape["votes"], shape["raters"]])
        pairs = shape["votes"] // shape["per_pair"]
        sizes: dict[str, Any] = {
            "pairs": pairs,
            "prompts": -(-pairs // shape["pairs_per_prompt"]),
            "raters": shape["raters"],
        }
        known = alike(a_study(rng, **(shape | {"votes": 20_000, "per_pair": min(4, shape["raters"])}))) or Alike()
        least = detectable(shape["votes"], **sizes, shared=known)
        difference = difference_of(0.5 + least, rng, **shape)
        found = judged(rng, repetitions, difference=difference, **shape)
        rows.append(
            shape
            | {
                "told": least,
                "told_without_knowing": detectable(shape["votes"], **sizes),
                "shared_by_pairs": known.pairs,
                "shared_by_prompts": known.prompts,
                "shared_by_raters": known.raters,
                "repetitions": repetitions,
                "found": float(np.mean([each.verdict == "better" for each in found])),
                "found_by_exact_test": float(np.mean([each.p_value <= 0.05 for each in found])),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    result = {
        "machine": describe(),
        "seed": asked.seed,
        "even": even_rates(asked.repetitions, asked.seed),
        "found": found_rates(asked.repetitions, asked.seed),
    }
    if asked.out:
        asked.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
