"""What an experiment is, and how it goes from nothing to its JSON and its pictures."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe
from benchmarks.papers.figures import picture_grid
from benchmarks.papers.judging import judged_rows, kept, reference_images
from benchmarks.papers.plan import SIZES, Plan, Training
from benchmarks.papers.runs import family_of, folder_of, reference_scores, results
from benchmarks.papers.summary import best_of_summary, reference_summary, summarise
from data.workspace import write_atomically

Result = Mapping[str, Any]
"""What an experiment's JSON holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One experiment of a paper: a page under docs/experiments and a JSON of the same name."""

    name: str
    arms: Callable[[Plan], dict[str, Training]]
    """What is compared, by its name. All are asked the reward equally often."""
    tables: Callable[[Result], dict[str, str]]
    """The page's tables by name, in Markdown."""
    plot: Callable[[Result, Path], None]
    """Writes the figure."""
    rows_of_grid: Mapping[str, str] | None = None
    """Arms whose pictures stand below the reference's, and what they are called there; None: no such picture."""
    best_of: int = 0
    """Compare with the reference's best of up to so many images."""
    prompts_of_grid: Callable[[str, str], bool] = lambda task, split: split == "held_out" and task != "bias"
    """Whether prompts of that task and split are shown."""


def run(
    experiment: Experiment,
    size: str,
    *,
    seeds: int,
    work: Path,
    out: Path,
    images: Path,
    command: str,
    device: str = "cpu",
    processes: int = 1,
) -> dict[str, Any]:
    """Run what is missing, and write the JSON and the pictures."""
    plan = SIZES[size]
    arms = {
        name: [replace(training, seed=seed) for seed in range(1, seeds + 1)]
        for name, training in experiment.arms(plan).items()
    }
    budgets = {name: runs[0].queries for name, runs in arms.items()}
    assert len({*budgets.values()}) == 1, f"unequal budgets: {budgets}"
    found = results([each for runs in arms.values() for each in runs], work, device=device, processes=processes)
    first = [runs[0] for runs in arms.values()]
    references = {each.key: reference_scores(each, work, device) for each in first}
    result: dict[str, Any] = {
        "experiment": experiment.name,
        "size": size,
        "command": command,
        "machine": describe(),
        "minutes": round(sum(each["seconds_in_all"] for each in found.values()) / 60, 1),
        "seeds": [*range(1, seeds + 1)],
        "plan": asdict(plan),
        "reference": reference_summary(first[0], references[first[0].key]),
        "arms": summarise(arms, found, references),
    }
    if experiment.best_of:
        many = replace(first[0], judged=replace(first[0].judged, images_per_prompt=experiment.best_of))
        scores = reference_scores(many, work, device)
        result["best_of"] = best_of_summary(many, scores, experiment.best_of)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, (json.dumps(result) + "\n").encode())
    experiment.plot(result, images / f"{experiment.name}.png")
    if experiment.rows_of_grid is not None:
        _save_grid(experiment, {arm: runs[0] for arm, runs in arms.items()}, work, device, images)
    return result


def _save_grid(experiment: Experiment, runs: Mapping[str, Training], work: Path, device: str, images: Path) -> None:
    """The first image of some prompts, by the reference and by the first seed's policies."""
    assert experiment.rows_of_grid is not None
    first = next(iter(runs.values()))
    chosen = _columns(experiment, first)
    rows = judged_rows(first.judged)
    before = reference_images(family_of(first.dtype, device), first.judged, work).numpy()
    shown = {"original": before} | {
        said: kept(folder_of(runs[arm], work) / "images.npz", _missing) for arm, said in experiment.rows_of_grid.items()
    }
    pictures = {said: stack[chosen].transpose(0, 2, 3, 1) for said, stack in shown.items()}
    texts = [rows[i][0].text for i in chosen]
    picture_grid(pictures, texts, images / f"{experiment.name}_pictures.png")


def _columns(experiment: Experiment, run: Training, most: int = 8) -> Sequence[int]:
    """Judged images to show: the first of each prompt, a task's prompts in turn, `most` in all."""
    by_task: dict[str, list[int]] = {}
    for i, (prompt, index) in enumerate(judged_rows(run.judged)):
        if index == 0 and experiment.prompts_of_grid(prompt.task, prompt.split):
            by_task.setdefault(prompt.task, []).append(i)
    each = -(-most // len(by_task))
    return [i for found in by_task.values() for i in found[:each]][:most]


def _missing() -> np.ndarray:
    raise AssertionError("a finished run has its pictures")
