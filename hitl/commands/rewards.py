"""`hitl rewards`: every reward, what it is, what it needs, and whether that is on this machine."""

import inspect
import json
import sys
from typing import Any

from reward_models import REWARDS


def run(as_json: bool) -> None:
    found = [examine(name) for name in REWARDS.names()]
    if as_json:
        print(json.dumps({"rewards": found}, indent=2))
    elif sys.stdout.isatty():
        _show(found)
    else:
        print("\n".join(describe(reward) for reward in found))


def examine(name: str) -> dict[str, Any]:
    """One reward, from its own file: the first line of its docstring, its `needs`, and its `load`."""
    from reward_models.load import required_settings

    try:
        reward = REWARDS.load(name)
    except ImportError as error:  # another package's
        return _entry(name, about=f"cannot be imported: {error}")
    needs = [{"what": str(need), "here": need.is_here()} for need in getattr(reward, "needs", ())]
    return _entry(
        name,
        about=(inspect.getdoc(inspect.getmodule(reward)) or "").partition("\n")[0],
        needs=needs,
        settings=required_settings(reward.load),
        here=all(need["here"] for need in needs),
        differentiable=hasattr(reward, "differentiable"),
    )


def describe(reward: dict[str, Any]) -> str:
    """Name, yes or no for here and for its gradient, what it is; below, what it needs."""
    first = f"{reward['name']:14} here: {_yes(reward['here']):3}  gradient: {_yes(reward['differentiable']):3}  "
    return "\n".join([f"{first}{reward['about']}", *(f"{'':14} needs {what}" for what in _wants(reward))])


def _entry(
    name: str,
    *,
    about: str,
    needs: list[dict[str, Any]] | None = None,
    settings: list[str] | None = None,
    here: bool = False,
    differentiable: bool = False,
) -> dict[str, Any]:
    return {
        "name": name,
        "about": about,
        "needs": needs or [],
        "settings": settings or [],
        "here": here,
        "differentiable": differentiable,
    }


def _show(rewards: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    table = Table("reward", "what it is", Column("needs", overflow="fold"), "here", "gradient", show_lines=True)
    for reward in rewards:
        table.add_row(
            reward["name"],
            reward["about"],
            "\n".join(_wants(reward)),
            _yes(reward["here"]),
            _yes(reward["differentiable"]),
        )
    Console(markup=False).print(table)


def _wants(reward: dict[str, Any]) -> list[str]:
    """Weights, with those that are missing marked, and settings without which it cannot be loaded."""
    wants = [need["what"] + ("" if need["here"] else " (missing)") for need in reward["needs"]]
    return wants + [f"the setting {setting}" for setting in reward["settings"]]


def _yes(claim: bool) -> str:
    return "yes" if claim else "no"
