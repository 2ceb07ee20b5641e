"""How far ratings go: number, noise, an adversary, and what weighing raters, choosing tasks and pessimism bring."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.papers.dpok import RL_RATE
from benchmarks.papers.experiment import Experiment, Result
from benchmarks.papers.figures import dots
from benchmarks.papers.plan import Plan, RatedTraining, Training
from benchmarks.papers.tables import cell, gains_by_seed, made_by, table

_COUNTS = (50, 200, 800, 3000)
_USUAL = 800
"""Ratings of the arms that differ in something else."""
_NAMES = {
    **{f"{count}": f"{count:,} ratings" for count in _COUNTS},
    "noise_40": "40 % turned round",
    "adversary": "one adversary in eight, weighed",
    "adversary_unweighed": "one adversary in eight, not weighed",
    "uncertain": "unsure pairs asked",
    "pessimism": "pessimism 1",
}
_MEASURES = ("reward", "exact", "correctness", "taste")


def _arms(plan: Plan) -> dict[str, Training]:
    ratings = replace(plan.ratings, count=min(_USUAL, plan.ratings.count), images_per_prompt=4)
    usual = RatedTraining(
        **{
            **asdict(plan.training("dpok", reward="utility", learning_rate=RL_RATE)),
            "ratings": ratings,
            "judged": replace(plan.judged, images_per_prompt=1),
            "prompts_per_task": max(1, plan.judged.prompts_per_task * 2 // 3),
            "prompts_per_epoch": max(2, plan.prompts_per_epoch // 2),
            "epochs": max(plan.rounds, plan.epochs // plan.rounds * plan.rounds),
            "look_every": plan.epochs,
            "rounds": plan.rounds,
        }
    )

    def rated(**changes: Any) -> Training:
        return replace(usual, ratings=replace(ratings, **changes))

    return {
        **{str(count): rated(count=min(count, plan.ratings.count * 4)) for count in _COUNTS},
        "noise_40": rated(flipped=0.4),
        "adversary": rated(adversaries=min(1, ratings.raters)),
        "adversary_unweighed": rated(adversaries=min(1, ratings.raters), weigh_raters=False),
        "uncertain": replace(usual, uncertain=True),
        "pessimism": replace(usual, pessimism=1.0),
    }


def _tables(result: Result) -> dict[str, str]:
    rows = []
    for name, said in _NAMES.items():
        gains = {split: result["arms"][name]["gains"][split]["asked"] for split in ("held_out", "train")}
        held_out = [cell(gains["held_out"][measure]["over_seeds"], measure) for measure in _MEASURES]
        rows.append([said, *held_out, cell(gains["train"]["reward"]["over_seeds"])])
    head = ["utility, SD", "exact verdicts, points", "graded correctness", "taste, SD", "utility, SD, trained on"]
    return {
        "made": made_by(result),
        "gains": table(["", *head], rows),
        "seeds": gains_by_seed(result, _NAMES, ("reward",)),
    }


def _plot(result: Result, path: Path) -> None:
    rows = {
        said: {
            kind: {
                measure: result["arms"][name]["gains"][split]["asked"][measure]["over_seeds"]
                for measure in ("reward", "exact", "taste")
            }
            for split, kind in (("held_out", "held out"), ("train", "trained on"))
        }
        for name, said in _NAMES.items()
    }
    dots(rows, ("reward", "exact", "taste"), path)


EXPERIMENT = Experiment(name="label_efficiency", arms=_arms, tables=_tables, plot=_plot)
