"""What it brings to ask where the last fit is unsure, and what it does to a fit's own accuracy.

    python -m benchmarks.task_policies --out benchmarks/results/task_policies.json

The worlds are those of `benchmarks.reward_truth`: images are random unit vectors and a rater's utility is linear in
them. In the `even` ones all pairs are about as different; in the `uneven` ones the images of a prompt have from hardly
anything to nearly all in common, and so about the same utility. Each round has --prompts new prompts of four images,
6 pairs each, of which --answers are asked about: by `random`, and by `uncertain` with the linear head of all rounds
before. After each round the fit is judged on all pairs of 400 new prompts. Differences are paired by world and come
with twice their standard errors.

`bias` is the accuracy that a fit states of its last round, held out by prompt, minus that of the same held-out scores
on all pairs of that round: of the answers as they are, and by the inverse of their propensities.
"""

import argparse
import itertools
import json
import random
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import expit

from benchmarks.machine import describe
from benchmarks.reward_truth import IMAGES, World, linear
from data.task_policies import Candidate, Chosen, RandomTasks, TaskPolicy, UncertainTasks, choose
from reward_models.answers import Answer
from reward_models.heads.linear import LinearHead
from reward_models.uncertainty import difference_variance

WIDTH = 64
ROUNDS = 4
POLICIES: dict[str, TaskPolicy] = {
    "random": RandomTasks(),
    "uncertain, explore 0.3": UncertainTasks(0.3),
    "uncertain, explore 0.6": UncertainTasks(0.6),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=24)
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--answers", type=int, nargs="+", default=[48])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result: dict[str, Any] = {
        "machine": describe(),
        "command": shlex.join(["python", "-m", "benchmarks.task_policies", *sys.argv[1:]]),
        "worlds": arguments.worlds,
        "prompts": arguments.prompts,
    }
    cases = [(kind, int(count)) for kind in ("even", "uneven") for count in arguments.answers]
    for kind, count in cases:
        found = {
            name: [run(seed, policy, arguments.prompts, count, kind) for seed in range(arguments.worlds)]
            for name, policy in POLICIES.items()
        }
        case = {name: summary(runs, found["random"]) for name, runs in found.items()}
        result[f"{kind}, {count} answers a round"] = case
        print(json.dumps({kind: case}, indent=2), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


def run(seed: int, policy: TaskPolicy, prompts: int, count: int, kind: str) -> dict[str, list[float]]:
    """After each round: the accuracy on new prompts; from the second on, the bias of both accuracies of the round."""
    world, chance = World(seed, WIDTH, prompts * ROUNDS, uneven=kind == "uneven"), random.Random(seed)
    rater = np.random.default_rng([seed, count])
    answers: list[Answer] = []
    head = None
    found: dict[str, list[float]] = {"accuracy": [], "bias as they are": [], "bias by propensity": []}
    for number in range(ROUNDS):
        candidates = pairs_of(world, range(number * prompts, (number + 1) * prompts), head)
        chosen = choose(policy if head else RandomTasks(), candidates, count, chance)
        answers += [answer(world, each, number, rater) for each in chosen]
        weight, model, (tried, _, _, things) = linear(world, answers)
        posterior = model.posterior(
            tried.candidate.l2,
            np.ones(len(answers)),
            model.fit(np.array([tried.candidate.l2]), np.ones((len(answers), 1))),
        )
        head = LinearHead.of(posterior)
        found["accuracy"].append(world.judged(lambda x, w=weight: x @ w))
        if number:
            scores = dict(zip(things, tried.scores, strict=True))
            plain, weighed = biases(world, answers[-count:], candidates, scores)
            found["bias as they are"].append(plain)
            found["bias by propensity"].append(weighed)
    return found


def pairs_of(world: World, prompts: Sequence[int], head: LinearHead | None) -> list[Candidate]:
    found = []
    for prompt in prompts:
        features = torch.from_numpy(world.features[prompt * IMAGES : (prompt + 1) * IMAGES]).float()
        unsure = difference_variance(head, features) if head else torch.zeros(IMAGES, IMAGES)
        found += [
            Candidate(
                prompt_id=f"{prompt:05d}",
                image_ids=(f"{prompt:05d}-{one}", f"{prompt:05d}-{other}"),
                uncertainty=float(unsure[one, other]),
            )
            for one, other in itertools.combinations(range(IMAGES), 2)
        ]
    return found


def answer(world: World, chosen: Chosen, number: int, rater: np.random.Generator) -> Answer:
    is_first = rater.random() < expit(apart(world, chosen.candidate))
    return Answer(
        prompt=chosen.candidate.prompt_id,
        rater="ann",
        images=chosen.candidate.image_ids,
        values=(1, 2) if is_first else (2, 1),
        left=chosen.candidate.image_ids[int(rater.integers(2))],
        round=number,
        propensity=chosen.propensity,
    )


def apart(world: World, candidate: Candidate) -> float:
    """The first image's utility minus the second's."""
    one, other = (int(candidate.prompt_id) * IMAGES + int(image[-1]) for image in candidate.image_ids)
    return float(world.utility[one] - world.utility[other])


def biases(
    world: World, answers: Sequence[Answer], candidates: Sequence[Candidate], scores: dict[tuple[str, str], float]
) -> tuple[float, float]:
    """Of the stated accuracy, as the answers are and by their propensities. Images that nobody saw have no score."""

    def difference(prompt: str, images: tuple[str, ...]) -> float:
        return scores[images[0], prompt] - scores[images[1], prompt]

    truth = [
        float(expit(np.sign(difference(each.prompt_id, each.image_ids)) * apart(world, each)))
        for each in candidates
        if all((image, each.prompt_id) in scores for image in each.image_ids)
    ]
    right = np.array([(difference(each.prompt, each.images) > 0) == (each.values == (1, 2)) for each in answers])
    weights = np.array([1 / each.propensity for each in answers])
    return float(right.mean() - np.mean(truth)), float(np.average(right, weights=weights) - np.mean(truth))


def summary(runs: list[dict[str, list[float]]], baseline: list[dict[str, list[float]]]) -> dict[str, Any]:
    accuracy, theirs = (np.array([each["accuracy"] for each in some]) for some in (runs, baseline))
    return {
        "accuracy after each round": accuracy.mean(0).round(4).tolist(),
        "more than random": [mean_and_error(column) for column in (accuracy - theirs).T],
        "bias as they are": mean_and_error(np.array([np.mean(each["bias as they are"]) for each in runs])),
        "bias by propensity": mean_and_error(np.array([np.mean(each["bias by propensity"]) for each in runs])),
    }


def mean_and_error(values: np.ndarray) -> list[float]:
    return [round(float(values.mean()), 4), round(2 * float(values.std(ddof=1)) / len(values) ** 0.5, 4)]


if __name__ == "__main__":
    main()
