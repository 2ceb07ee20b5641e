"""Every algorithm of the engine at equal reward queries and at equal seconds, beside the best of N of the reference."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.papers.experiment import Experiment, Result
from benchmarks.papers.figures import dots
from benchmarks.papers.plan import Plan, Training
from benchmarks.papers.summary import over_seeds
from benchmarks.papers.tables import MEASURE_NAMES, cell, gains_by_seed, made_by, table

RATES = {
    "dpok": 8e-3,
    "dpok_authors": 8e-3,
    "ddpo_is": 8e-3,
    "ddpo_sf": 8e-3,
    "nft": 8e-3,
    "sft": 8e-3,
    "rwr": 2e-3,
    "draft": 2e-3,
    "refl": 2e-3,
    "diffusion_dpo": 2e-3,
    "d3po": 2e-3,
}
"""Learning rates: of the two that `benchmarks.algorithms` tried for each, the one after which nothing fell apart."""

_ARMS = {name: f"`{name}`" for name in RATES}


def _arms(plan: Plan) -> dict[str, Training]:
    judged = replace(plan.judged, prompts_per_task=max(1, plan.judged.prompts_per_task * 2 // 3), images_per_prompt=1)
    short = {"epochs": max(1, plan.epochs // 2), "look_every": max(1, plan.epochs // 4), "judged": judged}
    return {name: plan.training(name, learning_rate=rate, **short) for name, rate in RATES.items()}


_COLUMNS = (("held_out", "reward"), ("held_out", "taste"), ("held_out", "exact"), ("train", "reward"))
_HEAD = [f"{MEASURE_NAMES[measure]}{', trained on' if split == 'train' else ''}" for split, measure in _COLUMNS]


def _tables(result: Result) -> dict[str, str]:
    return {
        "made": made_by(result),
        "queries": _at_equal_queries(result),
        "seconds": _at_equal_seconds(result),
        "seeds": gains_by_seed(result, _ARMS, ("reward",)),
    }


def _at_equal_queries(result: Result) -> str:
    rows = []
    for name, said in _ARMS.items():
        arm = result["arms"][name]
        gains = [cell(arm["gains"][split]["asked"][measure]["over_seeds"], measure) for split, measure in _COLUMNS]
        rows.append(
            [said, f"{arm['queries']}", f"{arm['seconds']:.0f}", f"{arm['looks'][-1]['nats']['mean']:.1f}", *gains]
        )
    for n, found in result["best_of"].items():
        gains = [cell(found[split][measure], measure) for split, measure in _COLUMNS]
        rows.append([f"best of {n}", f"{n} a picture", "0", "–", *gains])
    return table(["", "queries", "seconds", "nats", *_HEAD], rows)


def _at_equal_seconds(result: Result) -> str:
    """At the end of the quickest; between two judgements on the straight line."""
    seconds, rows = _quickest(result), []
    for name, said in _ARMS.items():
        arm = result["arms"][name]
        queries = np.interp(seconds, *_line([(look["seconds"], look["queries"]) for look in arm["looks"]]))
        gains = [cell(_at(arm, split, measure, seconds), measure) for split, measure in _COLUMNS]
        rows.append([said, f"{seconds:.0f}", f"{queries:.0f}", *gains])
    return table(["", "seconds", "queries", *_HEAD], rows)


def _at(arm: Mapping[str, Any], split: str, measure: str, seconds: float) -> dict[str, Any]:
    seeds = range(len(arm["gains"][split]["asked"][measure]["by_seed"]))
    values = []
    for seed in seeds:
        points = [(look["seconds"], look["gains"][split][measure]["by_seed"][seed]["mean"]) for look in arm["looks"]]
        values.append(float(np.interp(seconds, *_line(points))))
    return over_seeds(values)


def _line(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """From the reference on, which has gained nothing."""
    return [0.0, *(x for x, _ in points)], [0.0, *(y for _, y in points)]


def _plot(result: Result, path: Path) -> None:
    measures = ("reward", "taste", "exact")
    seconds = _quickest(result)
    rows: dict[str, dict[str, Any]] = {}
    for name in _ARMS:
        arm = result["arms"][name]
        gains = arm["gains"]["held_out"]["asked"]
        rows[name] = {
            "at equal queries": {measure: gains[measure]["over_seeds"] for measure in measures},
            "at equal seconds": {measure: _at(arm, "held_out", measure, seconds) for measure in measures},
        }
    for n, found in result["best_of"].items():
        rows[f"best of {n}"] = {"untrained, by choice (95 % over prompts)": found["held_out"]}
    dots(rows, measures, path)


def _quickest(result: Result) -> float:
    return min(arm["seconds"] for arm in result["arms"].values())


EXPERIMENT = Experiment(name="algorithms", arms=_arms, tables=_tables, plot=_plot, best_of=8)
