"""A round's tasks: which of its images people are asked about together, checks of raters, and blind comparisons."""

import itertools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from data.blind import blind_tasks
from data.checks import gold_of, repeats_of
from data.records import Image, Prompt, Task
from data.task_policies import Candidate, RandomTasks, UncertainTasks, choose, sets_of
from data.workspace import Workspace
from hitl.config import RunConfig

Uncertainty = Mapping[tuple[str, frozenset[str]], float]
"""How unsure the last fit is of the answer to a pair, by the prompt's id and the images'."""


def make_tasks(
    images: Sequence[Image],
    prompts: Sequence[Prompt],
    config: RunConfig,
    *,
    round: int,
    uncertainty: Uncertainty,
    made: Sequence[Task] = (),
    blind: Sequence[Task] = (),
) -> list[Task]:
    """Pairs, or other sets, of images of one prompt that people are asked about, and among them the checks of raters
    and the `blind` tasks.

    `made` tasks are there already: the sets are then chosen among those that nobody was asked about, and a propensity
    is that of being chosen among these.
    """
    rate = config.rate
    chance = random.Random(f"{config.project.seed}/tasks/{round}/{len(made)}")
    shown = {(task.prompt_id, frozenset(task.image_ids)) for task in made}
    by_prompt: dict[str, list[str]] = {}
    for image in images:
        by_prompt.setdefault(image.prompt_id, []).append(image.image_id)
    candidates = []
    for prompt_id, image_ids in by_prompt.items():
        sets, share = sets_of(image_ids, rate.images_per_task, chance)
        candidates += [
            Candidate(
                prompt_id=prompt_id,
                image_ids=each,
                uncertainty=_of_set(uncertainty, prompt_id, each),
                share=share,
            )
            for each in sets
            if (prompt_id, frozenset(each)) not in shown
        ]
    policy = UncertainTasks(rate.explore) if uncertainty else RandomTasks()
    tasks = [
        Task(
            task_id=f"task {number}",
            round=round,
            kind=rate.kind,
            prompt_id=chosen.candidate.prompt_id,
            image_ids=tuple(chance.sample(chosen.candidate.image_ids, rate.images_per_task)),
            overlap=rate.overlap,
            policy=chosen.policy,
            propensity=chosen.propensity,
        )
        for number, chosen in enumerate(choose(policy, candidates, rate.ratings_per_round, chance))
    ]
    texts = {prompt.prompt_id: prompt.text for prompt in prompts}
    checks = [*repeats_of(tasks, rate.repeats, chance), *gold_of(tasks, texts, by_prompt, rate.gold, chance)]
    mixed = [*tasks, *checks, *blind]
    return _numbered(round, chance.sample(mixed, len(mixed)), len(made))


def _numbered(round: int, tasks: Sequence[Task], first: int) -> list[Task]:
    """The tasks with ids that tell nobody which of them are checks."""
    ids = {task.task_id: f"r{round:04d}-{number:05d}" for number, task in enumerate(tasks, first)}
    return [
        replace(task, task_id=ids[task.task_id], repeats=ids[task.repeats] if task.repeats else None) for task in tasks
    ]


def _of_set(uncertainty: Uncertainty, prompt_id: str, image_ids: Sequence[str]) -> float:
    """The mean of its pairs'; a single image has none."""
    pairs = [uncertainty.get((prompt_id, frozenset(pair)), 0.0) for pair in itertools.combinations(image_ids, 2)]
    return sum(pairs) / len(pairs) if pairs else 0.0


def read_uncertainty(workspace: Workspace, round: int) -> Uncertainty:
    """What the draw stage says of the round's pairs, by the last round's fit; nothing where it was not asked."""
    path = workspace.stage_dir(round, "draw") / "result.json"
    rows = json.loads(path.read_text()).get("uncertainty", []) if path.exists() else []
    return {(row["prompt_id"], frozenset(row["image_ids"])): row["uncertainty"] for row in rows}


def blind_comparisons(
    workspace: Workspace, prompts: Sequence[Prompt], config: RunConfig, *, round: int
) -> tuple[list[Image], list[Task]]:
    """Comparisons of the last round's policy with the reference and the policy before it, for people to judge."""
    return blind_tasks(
        workspace,
        round - 1,
        held_out={prompt.prompt_id for prompt in prompts if prompt.split == "held_out"},
        share=config.rate.blind,
        tasks=config.rate.ratings_per_round,
        overlap=config.rate.overlap,
        chance=random.Random(f"{config.project.seed}/blind/{round}"),
    )
