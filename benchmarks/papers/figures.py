"""The experiments' figures and same-seed pictures, in the look of all benchmarks' figures."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.figure import INK, MUTED, ORANGE, STYLE, TEAL, VIOLET
from benchmarks.papers.tables import MEASURE_NAMES, SPLIT_NAMES, TASK_NAMES, UNITS

COLOURS = (TEAL, ORANGE, VIOLET, "#8b8e99", "#b5446e", "#3d6fa8")
_MARKERS = "oDs^vP"


def gain_bars(
    result: Mapping[str, Any], arms: Mapping[str, str], measures: Sequence[str], groups: Sequence[str], path: Path
) -> None:
    """A panel for each measure and split; bars of each task and arm, with intervals over seeds."""
    with rc_context(STYLE):
        figure = Figure(figsize=(3.6 * len(measures), 4.8), layout="constrained")
        panels = figure.subplots(2, len(measures), sharey="col", squeeze=False)
        for row, (split, said) in zip(panels, SPLIT_NAMES.items(), strict=True):
            for axes, measure in zip(row, measures, strict=True):
                axes.set_title(f"{MEASURE_NAMES[measure]}: {said}", loc="left", fontsize=10, fontweight="bold")
                _bars(axes, result, arms, measure, split, groups)
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(arms), frameon=False)
        save(figure, path)


def _bars(
    axes: Axes, result: Mapping[str, Any], arms: Mapping[str, str], measure: str, split: str, groups: Sequence[str]
) -> None:
    width = 0.8 / len(arms)
    for i, (arm, said) in enumerate(arms.items()):
        found = [result["arms"][arm]["gains"][split][group][measure]["over_seeds"] for group in groups]
        x = np.arange(len(groups)) + (i - (len(arms) - 1) / 2) * width
        axes.bar(x, [_in_unit(each["mean"], measure) for each in found], width * 0.92, color=COLOURS[i], label=said)
        _whiskers(axes, x, found, measure)
    axes.axhline(0, color="#8b8e99", linewidth=1)
    axes.set_xticks(np.arange(len(groups)), [TASK_NAMES[group] for group in groups], rotation=25, ha="right")
    axes.grid(False, axis="x")


def _whiskers(axes: Axes, x: Sequence[float] | np.ndarray, found: Sequence[Mapping[str, Any]], measure: str) -> None:
    for at, each in zip(x, found, strict=True):
        if each["low"] is not None:
            axes.vlines(at, _in_unit(each["low"], measure), _in_unit(each["high"], measure), color=INK, linewidth=1)


def curves(
    result: Mapping[str, Any],
    arms: Mapping[str, str],
    measures: Sequence[str],
    path: Path,
    *,
    x: str = "queries",
    x_name: str = "reward queries",
    split: str = "held_out",
    columns: int = 0,
) -> None:
    """A panel for each measure: gains on one split's prompts over queries, seconds or nats, with intervals over seeds.

    A measure may also be `nats` itself.
    """
    columns = columns or len(measures)
    rows = -(-len(measures) // columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(3.6 * columns, 0.4 + 2.7 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes in panels[len(measures) :]:
            axes.set_axis_off()
        for axes, measure in zip(panels, measures, strict=False):
            title = "nats to the reference" if measure == "nats" else MEASURE_NAMES[measure]
            axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
            axes.axhline(0, color="#8b8e99", linewidth=1)
            axes.set_xlabel(x_name)
            for i, (arm, said) in enumerate(arms.items()):
                curve(axes, result["arms"][arm]["looks"], measure, i, said, x=x, split=split)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(arms), 6), frameon=False)
        save(figure, path)


def curve(
    axes: Axes, looks: Sequence[Mapping[str, Any]], measure: str, number: int, said: str, *, x: str, split: str
) -> None:
    """One arm's gains from the reference on, in the colour and with the marker of that number."""
    at = [0.0, *(look["nats"]["mean"] if x == "nats" else look[x] for look in looks)]
    found = [look["nats"] if measure == "nats" else look["gains"][split][measure]["over_seeds"] for look in looks]
    y = [0.0, *(_in_unit(each["mean"], measure) for each in found)]
    colour, marker = COLOURS[number], _MARKERS[number]
    axes.plot(at, y, color=colour, marker=marker, markersize=4.5, linewidth=1.8, label=said)
    for left, each in zip(at[1:], found, strict=True):
        if each["low"] is not None:
            low, high = _in_unit(each["low"], measure), _in_unit(each["high"], measure)
            axes.vlines(left, low, high, color=colour, linewidth=0.9, alpha=0.6)


def dots(rows: Mapping[str, Mapping[str, Mapping[str, Any]]], measures: Sequence[str], path: Path) -> None:
    """A panel for each measure and a line for each row, whose intervals are by kind (such as `at equal queries`) and
    measure."""
    kinds = list(dict.fromkeys(kind for found in rows.values() for kind in found))
    with rc_context(STYLE):
        figure = Figure(figsize=(3.3 * len(measures) + 1, 0.9 + 0.34 * len(rows)), layout="constrained")
        panels = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
        for axes, measure in zip(panels, measures, strict=True):
            axes.set_title(MEASURE_NAMES[measure], loc="left", fontsize=10, fontweight="bold")
            axes.axvline(0, color="#8b8e99", linewidth=1)
            for i, kind in enumerate(kinds):
                colour = COLOURS[i]
                for y, found in enumerate(rows.values()):
                    if kind in found:
                        each, away = found[kind][measure], 0.22 * ([*found].index(kind) - (len(found) - 1) / 2)
                        axes.plot(_in_unit(each["mean"], measure), y + away, _MARKERS[i], color=colour, markersize=5)
                        if each["low"] is not None:
                            low, high = _in_unit(each["low"], measure), _in_unit(each["high"], measure)
                            axes.hlines(y + away, low, high, color=colour, linewidth=1.2)
            axes.grid(False, axis="y")
        panels[0].set_yticks(range(len(rows)), list(rows))
        panels[0].invert_yaxis()
        handles = [
            Line2D([], [], color=COLOURS[i], marker=_MARKERS[i], linewidth=1.2, label=kind)
            for i, kind in enumerate(kinds)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(kinds), frameon=False)
        save(figure, path)


def picture_grid(rows: Mapping[str, np.ndarray], prompts: Sequence[str], path: Path) -> None:
    """Same-seed pictures: a row for each policy, uint8 (prompts, 64, 64, 3), a column for each prompt."""
    with rc_context(STYLE):
        figure = Figure(figsize=(1.05 * len(prompts) + 0.9, 1.05 * len(rows) + 0.55), layout="constrained")
        panels = figure.subplots(len(rows), len(prompts), squeeze=False)
        for line, (said, pictures) in zip(panels, rows.items(), strict=True):
            line[0].set_ylabel(said, rotation=0, ha="right", va="center", color=INK)
            for axes, picture in zip(line, pictures, strict=True):
                axes.imshow(picture, interpolation="nearest")
                axes.set_xticks([])
                axes.set_yticks([])
                axes.grid(False)
                for spine in axes.spines.values():
                    spine.set_visible(False)
        for axes, text in zip(panels[0], prompts, strict=True):
            axes.set_title("\n".join(textwrap.wrap(text, 15)), fontsize=7.5, color=MUTED)
        save(figure, path, dpi=70)


def save(figure: Figure, path: Path, dpi: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi, facecolor="white", metadata={"Software": None}, pil_kwargs={"optimize": True})


def _in_unit(value: float, measure: str) -> float:
    return UNITS.get(measure, 1.0) * value
