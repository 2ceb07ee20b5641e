"""DPOK's correction of a bias: the star that is yellow whatever is asked for, and what happens to everything else."""

from dataclasses import replace
from pathlib import Path

from benchmarks.papers import dpok
from benchmarks.papers.experiment import Experiment, Result
from benchmarks.papers.figures import gain_bars
from benchmarks.papers.plan import ASKED, Plan, Training
from benchmarks.papers.tables import budget, gains_by_measure, gains_by_seed, gains_by_task, made_by
from data.world.captions import TASKS

_ARMS = {"sft": "supervised, bias alone", "rl": "RL, bias alone", "rl_all": "RL, all tasks"}
_GROUPS = ("bias", "asked", *ASKED)


def _arms(plan: Plan) -> dict[str, Training]:
    changes = {
        "epochs": max(1, plan.epochs * 2 // 3),  # few prompts, which the starter half knows
        "look_every": plan.epochs,
        "judged": replace(plan.judged, bias_images_per_prompt=plan.bias_images),
    }
    return {
        "sft": dpok.sft(plan, tasks=("bias",), **changes),
        "rl": dpok.rl(plan, tasks=("bias",), **changes),
        "rl_all": dpok.rl(plan, tasks=TASKS, **changes),
    }


def _tables(result: Result) -> dict[str, str]:
    return {
        "made": made_by(result),
        "tasks": gains_by_task(result, _ARMS, "exact", _GROUPS),
        "measures": gains_by_measure(result, _ARMS, ("reward", "correctness", "taste", "clip")),
        "seeds": gains_by_seed(result, _ARMS, ("exact",), group="bias", split="train"),
        "budget": budget(result, _ARMS),
    }


def _plot(result: Result, path: Path) -> None:
    gain_bars(result, _ARMS, ("exact", "taste"), _GROUPS, path)


EXPERIMENT = Experiment(
    name="dpok_bias",
    arms=_arms,
    tables=_tables,
    plot=_plot,
    rows_of_grid=_ARMS,
    prompts_of_grid=lambda task, split: task == "bias",
)
