"""How the cost of an epoch grows: with the batch, the steps, the resolution, the LoRA's rank and the processes.

    python -m benchmarks.growth --out benchmarks/results/growth.json
    python -m benchmarks.growth --out benchmarks/results/growth.json --plot docs/images/growth.png

DPOK on the starter, on the CPU: an epoch draws 64 images (8 prompts of 8), scores them by their brightness and learns
from 192 transitions. One thing varies at a time, the rest is the default. `batch` is that of drawing and of learning
alike. Other resolutions than the starter's 64 pixels are other sizes of its latents; what it then draws is of no
matter. Several processes share one epoch of the same 64 images through torchrun and gloo; memory is the sum of theirs,
and `all_reduced_bytes` what each of them hands over for an epoch.

Every measurement is a fresh process, whose peak resident memory is the kernel's VmHWM; the repeats go through the cases
in turn, for a machine that is not quiet, and figures are medians over all counted epochs of all repeats. What --out
holds is not measured again.
"""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.figure import INK, MUTED, ORANGE, STYLE, TEAL, VIOLET
from benchmarks.machine import describe, differences
from benchmarks.peer_trl import prompts
from benchmarks.workers import run_worker

DEFAULTS: dict[str, Any] = {"batch": 64, "steps": 10, "pixels": 64, "rank": 8, "processes": 1, "launcher": False}


@dataclass(frozen=True, slots=True)
class Axis:
    """One thing that varies."""

    title: str
    values: tuple[Any, ...]
    """Of the setting; of processes, (processes, threads of each)."""
    is_doubled: bool = False
    """Its plot has a logarithmic axis."""


def axes_of(threads: int) -> dict[str, Axis]:
    shared = dict.fromkeys([(1, 1), (1, threads), (2, 1), (2, max(1, threads // 2))])
    return {
        "batch": Axis("images in a batch", (4, 8, 16, 32, 64), is_doubled=True),
        "steps": Axis("steps of an image", (5, 10, 20, 40)),
        "pixels": Axis("pixels of a side", (64, 80, 96, 128)),
        "rank": Axis("rank of the LoRA", (2, 8, 32, 64), is_doubled=True),
        "processes": Axis("processes × threads", tuple(shared)),
    }


def job_of(axis: str, value: Any, threads: int) -> dict[str, Any]:
    """All settings of a case; the default value of every axis gives the same ones."""
    job = {**DEFAULTS, "threads": threads}
    if axis != "processes":
        return job | {axis: value}
    processes, each = value
    return (
        job if (processes, each) == (1, threads) else job | {"processes": processes, "threads": each, "launcher": True}
    )


def name_of(job: Mapping[str, Any], threads: int) -> str:
    usual = {**DEFAULTS, "threads": threads}
    return ", ".join(f"{key} {job[key]}" for key in usual if key != "launcher" and job[key] != usual[key]) or "default"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2, help="processes of each case")
    parser.add_argument("--epochs", type=int, default=1, help="counted in each process, after one that is not")
    parser.add_argument("--groups", type=int, default=8, help="prompts of an epoch, with 8 images each")
    parser.add_argument("--only", nargs="+", choices=list(axes_of(1)), default=list(axes_of(1)))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plot", type=Path, help="only draw the figure of what --out holds, and print its table")
    arguments = parser.parse_args()
    if arguments.plot:
        result = json.loads(arguments.out.read_text())
        draw_figure(result, arguments.plot)
        print(table(result))
        return
    if "processes" in arguments.only and arguments.groups % 2:
        parser.error(f"--groups is {arguments.groups}, which two processes cannot share: use 8.")
    threads, machine = arguments.threads, describe()
    work = {"groups": arguments.groups, "members": 8, "pixels_of_model": 64}
    runs: dict[str, list[dict[str, Any]]] = {}
    if arguments.out.exists():
        before = json.loads(arguments.out.read_text())
        different = differences(before["machine"], machine)
        different = different or differences(before, {"threads": threads, "work": work}, ("threads", "work"))
        if different:
            raise SystemExit(f"{arguments.out} was measured with {different}: give --out another file.")
        runs = before["runs"]
    result: dict[str, Any] = {
        "machine": machine,
        "command": shlex.join(["python", "-m", "benchmarks.growth", *sys.argv[1:]]),
        "threads": threads,
        "work": work,
        "defaults": DEFAULTS,
        "axes": {},
        "runs": runs,
    }
    axes = {name: axis for name, axis in axes_of(threads).items() if name in arguments.only}
    jobs = [job_of(name, value, threads) for name, axis in axes.items() for value in axis.values]
    jobs = [*{name_of(job, threads): job for job in jobs}.values()]
    for repeat, job in product(range(arguments.repeats), jobs):
        name = name_of(job, threads)
        if len(runs.setdefault(name, [])) > repeat:
            continue
        runs[name].append(run({**work, **job, "epochs": arguments.epochs, "prompts": prompts()}))
        result["axes"] = summaries(runs, threads)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
        print(f"{repeat + 1}/{arguments.repeats}", name, json.dumps(summary(runs[name])), flush=True)
    result["axes"] = summaries(runs, threads)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


def run(job: Mapping[str, Any]) -> dict[str, Any]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(job["processes"])]
    command = [sys.executable, *(launcher if job["launcher"] else []), "-m", "benchmarks.growth_worker"]
    return run_worker(command, job)


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians over the counted epochs of these processes."""
    epochs = [epoch for run in runs for epoch in run["epochs"]]
    took = [sum(epoch.values()) for epoch in epochs]
    return {
        "seconds": round(median(took), 3),
        "fastest_and_slowest": [round(min(took), 3), round(max(took), 3)],
        "seconds_collect": round(median(epoch["collect"] for epoch in epochs), 3),
        "seconds_update": round(median(epoch["update"] for epoch in epochs), 3),
        "transitions_per_second": round(runs[0]["transitions"] / median(took), 2),
        "memory_loaded_mib": median(run["memory_loaded_mib"] for run in runs),
        "memory_peak_mib": median(run["memory_peak_mib"] for run in runs),
        "all_reduced_bytes": runs[0]["all_reduced_bytes"],
    }


def summaries(runs: Mapping[str, Sequence[Mapping[str, Any]]], threads: int) -> dict[str, Any]:
    """Axis -> the values measured so far, in their order."""
    found: dict[str, Any] = {}
    for name, axis in axes_of(threads).items():
        known = [(value, runs.get(name_of(job_of(name, value, threads), threads))) for value in axis.values]
        points = [{"value": value, **summary(done)} for value, done in known if done]
        if len(points) > 1:
            found[name] = points
    return found


# -- table and figure ------------------------------------------------------------------------------------------------


def table(result: Mapping[str, Any]) -> str:
    """Markdown, one table for each axis."""
    columns = {
        "seconds": "seconds per epoch",
        "seconds_collect": "drawing",
        "seconds_update": "learning",
        "transitions_per_second": "transitions/s",
        "memory_peak_mib": "peak MiB",
    }
    tables = []
    for name, points in result["axes"].items():
        shown = columns | ({"all_reduced_bytes": "bytes all-reduced"} if name == "processes" else {})
        rows = [[axes_of(result["threads"])[name].title, *shown.values()], ["---", *["---:"] * len(shown)]]
        rows += [[label(point["value"]), *(f"{point[key]:,}" for key in shown)] for point in points]
        tables.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    return "\n\n".join(tables)


def label(value: Any) -> str:
    return str(value) if isinstance(value, int) else " × ".join(map(str, value))


LINES: dict[str, tuple[str, str, str]] = {
    "seconds": (INK, "s", "an epoch"),
    "seconds_collect": (TEAL, "o", "drawing"),
    "seconds_update": (ORANGE, "D", "learning"),
}


def draw_figure(result: Mapping[str, Any], path: Path) -> None:
    """A column for each axis: the seconds of an epoch above, and the memory below."""
    measured = result["axes"]
    with rc_context(STYLE):
        figure = Figure(figsize=(2.55 * len(measured) + 0.4, 4.9), layout="constrained")
        figure.get_layout_engine().set(rect=(0, 0.06, 1, 0.94), w_pad=0.06, h_pad=0.06)  # type: ignore[union-attr]
        panels = figure.subplots(2, len(measured), sharex="col", sharey="row", squeeze=False)
        for column, (name, points) in zip(panels.T, measured.items(), strict=True):
            _column(column, axes_of(result["threads"])[name], points)
        panels[0][0].set_ylabel("seconds")
        panels[1][0].set_ylabel("peak resident GiB")
        for row in panels:
            row[0].set_ylim(bottom=0)
        _legend(figure)
        figure.savefig(path, dpi=144, facecolor="white", metadata={"Software": None})


def _column(column: Sequence[Axes], axis: Axis, points: Sequence[Mapping[str, Any]]) -> None:
    above, below = column
    above.set_title(axis.title, loc="left", fontsize=11, fontweight="bold")
    numbers = [point["value"] for point in points]
    x = numbers if all(isinstance(number, int) for number in numbers) else [*range(len(points))]
    if axis.is_doubled:
        above.set_xscale("log", base=2)
    line: dict[str, Any] = {"markersize": 4.6, "linewidth": 1.9, "linestyle": "-" if x is numbers else "none"}
    for key, (colour, marker, _) in LINES.items():
        above.plot(x, [point[key] for point in points], marker=marker, color=colour, **line)
    low, high = zip(*(point["fastest_and_slowest"] for point in points), strict=True)
    above.vlines(x, low, high, color=INK, linewidth=1.1)
    memory = [point["memory_peak_mib"] / 1024 for point in points]
    below.plot(x, memory, marker="o", color=VIOLET, **line)
    below.set_xticks(x, [label(number) for number in numbers])
    below.minorticks_off()
    for axes in column:
        axes.margins(x=0.12)


def _legend(figure: Figure) -> None:
    handles = [
        Line2D([], [], color=colour, marker=marker, markersize=4.6, linewidth=1.9, label=label)
        for colour, marker, label in LINES.values()
    ]
    handles.append(Line2D([], [], color=VIOLET, marker="o", markersize=4.6, linewidth=1.9, label="memory"))
    handles.append(Line2D([], [], color=MUTED, linewidth=1.1, label="fastest and slowest epoch"))
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=9, labelcolor=INK)


if __name__ == "__main__":
    main()
