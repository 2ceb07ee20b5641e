"""DDPO's four rewards by its three methods, and what becomes of the pictures when one reward is all that counts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.figure import STYLE
from benchmarks.papers.experiment import Experiment, Result
from benchmarks.papers.figures import curve, save
from benchmarks.papers.plan import Plan, Training
from benchmarks.papers.rewards import FUNCTIONS
from benchmarks.papers.tables import cell, made_by, table

_METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpo_sf": ("DDPO-SF", {"learning_rate": 8e-3}),
    "ddpo_is": ("DDPO-IS", {"learning_rate": 8e-3, "updates_per_epoch": 4}),
    "rwr": ("RWR", {"learning_rate": 2e-3, "updates_per_epoch": 4}),
}
"""As theirs: SF one update on an epoch's images, IS four. RWR at the rate after which it still draws."""
_GUARDED = "ddpo_is"
"""The method that the guard looks at."""


def _arms(plan: Plan) -> dict[str, Training]:
    judged = replace(plan.judged, prompts_per_task=max(1, plan.judged.prompts_per_task * 2 // 3), images_per_prompt=1)
    size: dict[str, Any] = {
        "epochs": max(1, plan.epochs * 3 // 4),
        "prompts_per_epoch": max(2, plan.prompts_per_epoch // 2),
        "look_every": max(1, plan.epochs // 4),
        "judged": judged,
    }
    return {
        f"{reward} {method}": plan.training(method, reward=reward, guard_looks=method == _GUARDED, **size, **settings)
        for reward in FUNCTIONS
        for method, (_, settings) in _METHODS.items()
    }


def _tables(result: Result) -> dict[str, str]:
    return {"made": made_by(result), "rewards": _rewards(result), "looks": _looks(result), "guard": _guard(result)}


def _rewards(result: Result) -> str:
    rows = []
    for reward in FUNCTIONS:
        for method, (said, _) in _METHODS.items():
            arm = result["arms"][f"{reward} {method}"]
            gains = {split: arm["gains"][split]["asked"] for split in ("train", "held_out")}
            shown = (("train", "reward"), ("held_out", "reward"), ("held_out", "exact"), ("held_out", "clip"))
            cells = [cell(gains[split][measure]["over_seeds"], measure) for split, measure in shown]
            rows.append([reward, said, *cells, f"{arm['looks'][-1]['nats']['mean']:.1f}", f"{arm['seconds']:.0f}"])
    head = ["reward, SD, trained on", "reward, SD, held out", "exact verdicts, points", "zero-shot CLIP score"]
    return table(["reward", "method", *head, "nats", "seconds"], rows)


def _looks(result: Result) -> str:
    """Reward / exact verdicts after each look, held out, means over seeds."""
    queries = [look["queries"] for look in result["arms"]["alignment ddpo_is"]["looks"]]
    rows = []
    for reward in FUNCTIONS:
        for method, (said, _) in _METHODS.items():
            looks = [look["gains"]["held_out"] for look in result["arms"][f"{reward} {method}"]["looks"]]
            cells = [
                f"{cell(each['reward']['over_seeds'] | {'low': None}, 'reward')} / "
                f"{cell(each['exact']['over_seeds'] | {'low': None}, 'exact')}"
                for each in looks
            ]
            rows.append([reward, said, *cells])
    return table(["reward", "method", *(f"{each} queries" for each in queries)], rows)


def _guard(result: Result) -> str:
    """Of each reward: what the guard does, and the policies with and without it, held out, over seeds."""
    rows = []
    for reward in FUNCTIONS:
        arm = result["arms"][f"{reward} {_GUARDED}"]
        stops = [verdict for verdict in arm["guard"] if verdict["stopped"]]
        each = arm["queries"] // arm["training"]["epochs"]
        when = ", ".join(str(verdict["stopped"] * each) for verdict in stops) or "–"
        without, guarded = (gains["held_out"] for gains in (arm["looks"][-1]["gains"], arm["guarded"][-1]["gains"]))
        cells = [
            cell(gains[measure]["over_seeds"], measure)
            for measure in ("reward", "exact")
            for gains in (without, guarded)
        ]
        rows.append([reward, f"{len(stops)} of {len(arm['guard'])}", when, *cells])
    head = [f"{measure}, {which}" for measure in ("reward, SD", "exact verdicts, points") for which in ("off", "on")]
    return table(["reward", "stopped", "after queries", *head], rows)


def _plot(result: Result, path: Path) -> None:
    with rc_context(STYLE):
        figure = Figure(figsize=(11.2, 5.2), layout="constrained")
        panels = figure.subplots(2, len(FUNCTIONS), sharex=True, sharey="row")
        for column, reward in enumerate(FUNCTIONS):
            for row, measure in enumerate(("reward", "exact")):
                axes = panels[row][column]
                name = f"{reward}, SD" if measure == "reward" else "exact verdicts, points"
                axes.set_title(name, loc="left", fontsize=10, fontweight="bold")
                axes.axhline(0, color="#8b8e99", linewidth=1)
                for number, (method, (said, _)) in enumerate(_METHODS.items()):
                    looks = result["arms"][f"{reward} {method}"]["looks"]
                    curve(axes, looks, measure, number, said, x="queries", split="held_out")
                guarded = result["arms"][f"{reward} {_GUARDED}"]["guarded"]
                curve(axes, guarded, measure, len(_METHODS), "DDPO-IS, guarded", x="queries", split="held_out")
            panels[1][column].set_xlabel("reward queries")
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        save(figure, path)


EXPERIMENT = Experiment(
    name="ddpo_rewards",
    arms=_arms,
    tables=_tables,
    plot=_plot,
    rows_of_grid={f"{reward} ddpo_is": reward for reward in FUNCTIONS},
)
