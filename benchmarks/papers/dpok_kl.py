"""DPOK's study of the KL: RL and supervised fine-tuning, each with it and without."""

from pathlib import Path

from benchmarks.papers import dpok
from benchmarks.papers.experiment import Experiment, Result
from benchmarks.papers.figures import curves
from benchmarks.papers.plan import Plan, Training
from benchmarks.papers.tables import budget, gains_by_measure, gains_by_seed, made_by

_ARMS = {"rl": "RL with KL", "rl_free": "RL without", "sft": "supervised with KL", "sft_free": "supervised without"}


def _arms(plan: Plan) -> dict[str, Training]:
    return {
        "rl": dpok.rl(plan),
        "rl_free": dpok.rl(plan, kl=False),
        "sft": dpok.sft(plan),
        "sft_free": dpok.sft(plan, kl=False),
    }


def _tables(result: Result) -> dict[str, str]:
    return {
        "made": made_by(result),
        "measures": gains_by_measure(result, _ARMS, ("reward", "exact", "correctness", "taste", "clip")),
        "seeds": gains_by_seed(result, _ARMS, ("reward", "exact")),
        "budget": budget(result, _ARMS),
    }


def _plot(result: Result, path: Path) -> None:
    curves(result, _ARMS, ("reward", "exact", "taste", "nats"), path, columns=2)


EXPERIMENT = Experiment(name="dpok_kl", arms=_arms, tables=_tables, plot=_plot)
