"""DPOK, Figures 2 and 3: the original model, supervised fine-tuning and RL, task by task."""

from pathlib import Path

from benchmarks.papers import dpok
from benchmarks.papers.experiment import Experiment, Result
from benchmarks.papers.figures import gain_bars
from benchmarks.papers.plan import ASKED, Plan, Training
from benchmarks.papers.tables import budget, gains_by_measure, gains_by_seed, gains_by_task, made_by

_ARMS = {"sft": "supervised", "rl": "RL"}
_GROUPS = ("asked", *ASKED)


def _arms(plan: Plan) -> dict[str, Training]:
    return {"sft": dpok.sft(plan), "rl": dpok.rl(plan)}


def _tables(result: Result) -> dict[str, str]:
    return {
        "made": made_by(result),
        "measures": gains_by_measure(result, _ARMS, ("reward", "exact", "correctness", "taste", "clip")),
        "tasks": gains_by_task(result, _ARMS, "exact", _GROUPS),
        "rewards": gains_by_task(result, _ARMS, "reward", _GROUPS),
        "seeds": gains_by_seed(result, _ARMS, ("reward", "exact", "taste")),
        "budget": budget(result, _ARMS),
    }


def _plot(result: Result, path: Path) -> None:
    gain_bars(result, _ARMS, ("reward", "exact", "taste"), _GROUPS, path)


EXPERIMENT = Experiment(name="dpok_tasks", arms=_arms, tables=_tables, plot=_plot, rows_of_grid=_ARMS)
