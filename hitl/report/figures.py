"""The report's plots: small panels by matplotlib, as inline SVG whose colours are the page's own CSS variables.

A panel is as wide as a phone, so its letters are never scaled below reading size; the page sets panels side by side
where there is room. Equal numbers give equal bytes.
"""

import html
import io
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

from data.bootstrap import Interval

WIDTH = 300
"""Units of a panel's width; about one CSS pixel each when it is shown."""

COLOURS = {
    "ink": "#0a0b01",
    "muted": "#0a0b02",
    "line": "#0a0b03",
    "reference": "#0a0b04",
    "policy": "#0a0b05",
    "best": "#0a0b06",
    "trained": "#0a0b07",
    "taste": "#0a0b08",
    "reward": "#0a0b09",
    "draw": "#0a0b11",
    "rate": "#0a0b12",
    "fit": "#0a0b13",
    "train": "#0a0b14",
    "evaluate": "#0a0b15",
    "bad": "#0a0b16",
}
"""Name of a CSS variable -> the colour that stands for it until the SVG is written."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 11.5,
    "text.color": COLOURS["ink"],
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.7,
    "grid.alpha": 0.7,
    "xtick.color": COLOURS["line"],
    "ytick.color": COLOURS["line"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line of a panel, by round: a mean and its interval; a round without an entry is a gap."""

    colour: str
    points: Mapping[int, Interval]
    marker: str = "o"
    dashes: str = "-"
    shift: float = 0.0
    """Sideways, so that intervals of the same round do not hide each other."""


class Panel:
    """One small figure; `svg()` hands it out as markup."""

    def __init__(
        self, name: str, *, height: int = 220, left: float = 44, bottom: float = 36, right: float = 12, top: float = 10
    ):
        self._name = name
        self._context = matplotlib.rc_context({**_STYLE, "svg.hashsalt": name})
        with self._context:
            self._figure = Figure(figsize=(WIDTH / 72, height / 72))
            box = (left / WIDTH, bottom / height, 1 - (left + right) / WIDTH, 1 - (bottom + top) / height)
            self.axes: Axes = self._figure.add_axes(box)

    def svg(self, alt: str) -> str:
        buffer = io.StringIO()
        with matplotlib.rc_context({**_STYLE, "svg.hashsalt": self._name}):
            self._figure.savefig(
                buffer,
                format="svg",
                transparent=True,
                metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
            )
        return _inline(buffer.getvalue(), alt)


def _inline(svg: str, alt: str) -> str:
    """The figure as an element of a page: no prolog, no ids but those referred to, colours and type from the page."""
    body = svg[svg.index("<svg") :]
    head, _, rest = body.partition(">")
    view_box = re.search(r'viewBox="([^"]+)"', head)
    assert view_box is not None
    rest = re.sub(r"<metadata>.*?</metadata>", "", rest, flags=re.DOTALL)
    rest = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", rest, flags=re.DOTALL)
    targets = set(re.findall(r"#([\w.-]+)", rest))
    rest = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in targets else "", rest)
    rest = re.sub(r"font-family: [^;\"]+;? ?", "", rest)
    rest = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", rest)
    rest = rest.replace("xlink:href", "href")
    for name, stand_in in COLOURS.items():
        rest = rest.replace(stand_in, f"var(--{name})")
    rest = re.sub(r"\s*\n\s*", " ", rest)
    title = f"<title>{html.escape(alt)}</title>"
    return f'<svg viewBox="{view_box[1]}" role="img" aria-label="{html.escape(alt)}">{title}{rest}'


# -- panels ---------------------------------------------------------------------------------------------------------


def over_rounds(
    name: str, series: Sequence[Series], last: int, *, scale: float = 1.0, unit: str = "", alt: str = "", start: int = 0
) -> str:
    """Gains by round; round 0 is the reference, where every gain is 0 by definition."""
    panel = Panel(name)
    axes = panel.axes
    axes.axhline(0, color=COLOURS["reference"], linewidth=1.2)
    for each in series:
        for stretch in _stretches(each.points, start):
            _line(axes, each, stretch, scale)
    axes.set_xlim(start - 0.35, last + 0.35)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: "ref." if round(x) == 0 and start == 0 else f"{x:.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _signed(y)))
    axes.grid(axis="x", visible=False)
    axes.set_xlabel("round")
    if unit:
        axes.set_ylabel(unit)
    return panel.svg(alt)


def _line(axes: Axes, series: Series, rounds: list[int], scale: float) -> None:
    colour = COLOURS[series.colour]
    x = [number + (series.shift if number else 0) for number in rounds]
    zero = Interval(0.0, 0.0, 0.0, 0, 0)
    found = [series.points.get(number, zero) for number in rounds]
    axes.plot(x, [each.mean * scale for each in found], series.dashes, color=colour, linewidth=2, zorder=3)
    judged = [(at, each) for at, each, n in zip(x, found, rounds, strict=True) if n in series.points]
    sure = [(at, each) for at, each in judged if math.isfinite(each.low)]
    low, high = ([getattr(each, end) * scale for _, each in sure] for end in ("low", "high"))
    axes.vlines([at for at, _ in sure], low, high, color=colour, linewidth=1.3, zorder=3)
    axes.plot(
        [at for at, _ in judged],
        [each.mean * scale for _, each in judged],
        series.marker,
        color=colour,
        markersize=5.5,
        zorder=4,
    )


def _stretches(points: Mapping[int, Interval], start: int) -> list[list[int]]:
    """Runs of rounds without a gap; the first one begins at the reference."""
    stretches: list[list[int]] = []
    for number in sorted({*points, start} if start == 0 and 1 in points else points):
        if stretches and stretches[-1][-1] == number - 1:
            stretches[-1].append(number)
        else:
            stretches.append([number])
    return stretches


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One measure against another quantity, round after round: (round, x, gain)."""

    colour: str
    points: Sequence[tuple[int, float, Interval]]
    marker: str = "o"


def against(name: str, traces: Sequence[Trace], *, x_label: str, y_label: str, alt: str) -> str:
    """Gains against something that grows with training; the reference is the origin, numbers are rounds."""
    panel = Panel(name)
    axes = panel.axes
    axes.axhline(0, color=COLOURS["reference"], linewidth=1.2)
    for trace in traces:
        colour = COLOURS[trace.colour]
        axes.plot(
            [0, *(x for _, x, _ in trace.points)],
            [0, *(y.mean for _, _, y in trace.points)],
            color=colour,
            linewidth=1.8,
        )
        x = [along for _, along, _ in trace.points]
        y = [gain for _, _, gain in trace.points]
        axes.vlines(x, [gain.low for gain in y], [gain.high for gain in y], color=colour, linewidth=1, alpha=0.55)
        axes.plot(x, [gain.mean for gain in y], trace.marker, color=colour, markersize=5)
        for number, along, gain in trace.points:
            axes.annotate(
                str(number), (along, gain.mean), (4, 4), textcoords="offset points", color=colour, fontsize=10
            )
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _signed(y)))
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return panel.svg(alt)


def training_curve(
    name: str,
    epochs: Sequence[tuple[int, float]],
    *,
    colour: str,
    unit: str,
    alt: str,
    band: Sequence[float] | None = None,
) -> str:
    """One value per epoch, the rounds one after the other; `epochs` are (round, value)."""
    panel = Panel(name, height=200, left=52)
    axes = panel.axes
    lengths = Counter(number for number, _ in epochs)
    starts = _in_a_row(axes, lengths)
    for number in starts:
        rows = [i for i, (each, _) in enumerate(epochs) if each == number]
        values = [epochs[i][1] for i in rows]
        x = [i + 0.5 for i in rows]
        if band is not None:
            low, high = ([value + side * band[i] for i, value in zip(rows, values, strict=True)] for side in (-1, 1))
            axes.fill_between(x, low, high, color=COLOURS[colour], alpha=0.16, linewidth=0)
        axes.plot(x, values, "-o", color=COLOURS[colour], linewidth=1.8, markersize=3.5)
    names = _named_rounds(starts, lengths)
    axes.set_xticks(list(names), list(names.values()))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.grid(axis="x", visible=False)
    axes.set_xlabel("round (a dot is an epoch)")
    axes.set_ylabel(unit)
    return panel.svg(alt)


def _in_a_row(axes: Axes, lengths: Mapping[int, int]) -> dict[int, int]:
    """Rounds of so many epochs one after the other, a line between two; returns where each begins."""
    starts = dict(zip(lengths, accumulate(lengths.values(), initial=0), strict=False))
    for begin in starts.values():
        if begin:
            axes.axvline(begin, color=COLOURS["line"], linewidth=1)
    axes.set_xlim(0, max(sum(lengths.values()), 1))
    axes.grid(axis="x", visible=False)
    return starts


def _named_rounds(starts: Mapping[int, int], lengths: Mapping[int, int]) -> dict[float, str]:
    """The middle of a round -> its number; of many rounds some."""
    step = max(1, math.ceil(len(starts) / 8))
    return {begin + lengths[number] / 2: str(number) for number, begin in [*starts.items()][::step]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """What the guard of one round saw, by epochs that were finished when it looked."""

    epochs: int
    """That the round trained."""
    reward: Mapping[int, Interval]
    judgement: Mapping[int, Interval]
    kept: int | None
    """Epoch of the policy that the round ended with; None while it trains."""
    is_stopped: bool


def looks(name: str, rounds: Mapping[int, Looks], *, alt: str) -> str:
    """Changes since each round's start, the rounds one after the other: the learned reward's and the judgement's. A
    ring is around the policy that was kept, a dashed line where training was stopped."""
    panel = Panel(name, height=240, top=22)
    axes = panel.axes
    axes.axhline(0, color=COLOURS["reference"], linewidth=1.2)
    lengths = {number: found.epochs for number, found in rounds.items()}
    starts = _in_a_row(axes, lengths)
    whole = max(sum(lengths.values()), 1)
    apart = 0.008 * whole
    axes.set_xlim(-4 * apart, whole + 4 * apart)  # the first and the last look with their intervals
    for number, found in rounds.items():
        ring = None
        for points, colour, style, shift in (
            (found.reward, "reward", "-s", -apart),
            (found.judgement, "policy", "-o", apart),
        ):
            if not points:
                continue
            if found.kept is not None and found.kept in points:
                ring = (starts[number] + found.kept + shift, points[found.kept].mean)
            epochs = sorted(points)
            x = [starts[number] + epoch + shift for epoch in epochs]
            means, lows, highs = ([getattr(points[epoch], end) for epoch in epochs] for end in ("mean", "low", "high"))
            axes.vlines(x, lows, highs, color=COLOURS[colour], linewidth=1.2, alpha=0.7, zorder=3)
            axes.plot(x, means, style, color=COLOURS[colour], linewidth=1.8, markersize=4, zorder=4, clip_on=False)
        if ring is not None:
            axes.plot(*ring, "o", color=COLOURS["ink"], markersize=10, fillstyle="none", zorder=5, clip_on=False)
        if found.is_stopped:
            axes.axvline(
                starts[number] + found.epochs, color=COLOURS["bad"], linewidth=1.6, linestyle="--", clip_on=False
            )
    for middle, label in _named_rounds(starts, lengths).items():
        axes.text(middle, 1.03, label, transform=axes.get_xaxis_transform(), ha="center", color=COLOURS["muted"])
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _signed(y)))
    axes.set_xlabel("epoch (above: its round)")
    axes.set_ylabel("change, SD")
    return panel.svg(alt)


def task_bars(
    name: str,
    rows: Mapping[str, Mapping[str, Interval | None]],
    *,
    scale: float,
    unit: str,
    alt: str,
    limits: tuple[float, float] | None = None,
) -> str:
    """Bars with intervals, one group per task; `rows` maps a task to subject -> interval."""
    names = [_short(task) for task in rows]
    subjects = list(dict.fromkeys(subject for row in rows.values() for subject in row))
    left = 16 + 6.6 * max((len(label) for label in names), default=0)
    panel = Panel(name, height=54 + len(rows) * (12 * max(len(subjects), 3) + 12), left=left, right=16)
    axes = panel.axes
    thick = min(0.8 / max(len(subjects), 1), 0.45)
    first = -thick * len(subjects) / 2
    for place, subject in enumerate(subjects):
        found = [
            (g + first + thick * (place + 0.5), row[subject]) for g, row in enumerate(rows.values()) if subject in row
        ]
        known = [(y, each) for y, each in found if each is not None]
        axes.barh(
            [y for y, _ in known],
            [each.mean * scale for _, each in known],
            height=thick * 0.86,
            color=COLOURS[subject],
            linewidth=0,
        )
        sure = [(y, each) for y, each in known if math.isfinite(each.low)]
        low, high = ([getattr(each, end) * scale for _, each in sure] for end in ("low", "high"))
        axes.hlines([y for y, _ in sure], low, high, color=COLOURS["ink"], linewidth=1.2)
    axes.axvline(0, color=COLOURS["muted"], linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.45, -0.55)
    if limits is not None:
        axes.set_xlim(*limits)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(unit)
    return panel.svg(alt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Whisker:
    """One row of a forest plot."""

    found: Interval
    colour: str = "policy"
    beside: float | None = None
    """A second value for the same things, drawn as a hollow dot."""


def forest(
    name: str,
    rows: Mapping[str, Whisker],
    *,
    unit: str,
    alt: str,
    marks: Mapping[str, float],
    scale: float = 1.0,
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> str:
    """Values with intervals, one below the other, against named `marks`; nothing is drawn beyond `limits`."""
    labels = [_short(label) for label in rows]
    row_height = min(max(150 // len(rows), 28), 40)
    panel = Panel(
        name, height=62 + row_height * len(rows), left=16 + 6.6 * max(len(label) for label in labels), right=14
    )
    axes = panel.axes
    shown = list(marks.values())
    for y, row in enumerate(rows.values()):
        colour, mean = COLOURS[row.colour], row.found.mean
        low, high = (min(max(end, limits[0]), limits[1]) for end in (row.found.low, row.found.high))
        if math.isfinite(row.found.low):
            axes.plot([scale * low, scale * high], [y, y], color=colour, linewidth=3, alpha=0.6)
        if row.beside is not None:
            axes.plot([scale * row.beside], [y], "o", color=COLOURS["policy"], markersize=9, fillstyle="none")
        axes.plot([scale * mean], [y], "o", color=colour, markersize=8)
        shown += finite([low, mean, high, row.beside])
    edge = 0.06 * (max(shown) - min(shown)) or 0.1
    for place, (label, at) in enumerate(sorted(marks.items(), key=lambda mark: mark[1])):
        axes.axvline(scale * at, color=COLOURS["reference"], linewidth=1.2, linestyle="--")
        side: Literal["left", "right"] = "right" if place == 0 and len(marks) > 1 else "left"
        nudge = (-edge if side == "right" else edge) / 3
        axes.text(scale * (at + nudge), -0.66, label, color=COLOURS["muted"], fontsize=10, va="center", ha=side)
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.5, -0.95)
    low = min(shown) - (3 if len(marks) > 1 else 1) * edge  # room for the label on the left
    high = max(shown) + edge
    axes.set_xlim(scale * max(low, limits[0] - edge), scale * min(high, limits[1] + edge / 2))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}".replace("-", "−")))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(unit)
    return panel.svg(alt)


def reliability(name: str, bins: Sequence[tuple[float, Interval]], *, alt: str) -> str:
    """(predicted, observed) of each bin against the diagonal of true probabilities; a dot's area is its number."""
    panel = Panel(name, height=240, left=48)
    axes = panel.axes
    axes.plot([50, 100], [50, 100], color=COLOURS["reference"], linewidth=1.2, linestyle="--")
    largest = max(observed.n for _, observed in bins)
    ends = [50.0]
    for predicted, observed in bins:
        low, high = (100 * min(max(end, 0.0), 1.0) for end in (observed.low, observed.high))
        if math.isfinite(observed.low):
            axes.vlines(100 * predicted, low, high, color=COLOURS["policy"], linewidth=1.6, alpha=0.6)
        size = max(9 * math.sqrt(observed.n / largest), 3)
        axes.plot([100 * predicted], [100 * observed.mean], "o", color=COLOURS["policy"], markersize=size)
        ends += finite([low, 100 * observed.mean])
    axes.set_xlim(48.5, 101.5)
    axes.set_ylim(min(ends) - 3, 103)
    axes.xaxis.set_major_locator(MultipleLocator(10))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.set_xlabel("confidence, %")
    axes.set_ylabel("right, %")
    return panel.svg(alt)


def learning_curve(name: str, points: Mapping[int, Interval], *, zero_shot: float | None, alt: str) -> str:
    """Accuracy with so many comparisons, on a log scale, between a coin and what needs no ratings."""
    panel = Panel(name)
    axes = panel.axes
    axes.axhline(50, color=COLOURS["reference"], linewidth=1.2, linestyle="--")
    if zero_shot is not None:
        axes.axhline(100 * zero_shot, color=COLOURS["muted"], linewidth=1.2, linestyle=":")
    x = sorted(points)
    sure = [n for n in x if math.isfinite(points[n].low)]
    low, high = ([100 * min(max(getattr(points[n], end), 0), 1) for n in sure] for end in ("low", "high"))
    axes.vlines(sure, low, high, color=COLOURS["policy"], linewidth=1.3)
    axes.plot(x, [100 * points[n].mean for n in x], "-o", color=COLOURS["policy"], linewidth=2, markersize=5.5)
    axes.set_xscale("log")
    axes.minorticks_off()
    ticks: list[int] = []  # from the right, those whose numbers have room
    for n in reversed(x):
        if not ticks or ticks[-1] / n > (x[-1] / x[0]) ** 0.16:
            ticks.append(n)
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    axes.grid(axis="x", visible=False)
    axes.set_xlabel("comparisons fitted on")
    axes.set_ylabel("right, %")
    return panel.svg(alt)


def penalties(name: str, by_penalty: Mapping[float, float], chosen: float | None, *, alt: str) -> str:
    """Log evidence of each penalty of the linear head, the highest marked."""
    panel = Panel(name, height=180, left=52)
    axes = panel.axes
    x = sorted(by_penalty)
    axes.plot(x, [by_penalty[each] for each in x], "-o", color=COLOURS["reference"], linewidth=1.6, markersize=4)
    if chosen is not None and chosen in by_penalty:
        axes.plot([chosen], [by_penalty[chosen]], "o", color=COLOURS["policy"], markersize=8)
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(x[:: max(1, math.ceil(len(x) / 6))])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.set_xlabel("L2 penalty")
    axes.set_ylabel("log evidence")
    return panel.svg(alt)


def stage_times(name: str, rows: Mapping[int, Mapping[str, float]], *, alt: str) -> str:
    """Where the time of each round went: one stacked bar per round."""
    panel = Panel(name, height=50 + 24 * len(rows), left=34)
    axes = panel.axes
    total = max((sum(stages.values()) for stages in rows.values()), default=0.0)
    unit, size = ("hours", 3600) if total > 3 * 3600 else ("minutes", 60) if total > 150 else ("seconds", 1)
    for y, stages in enumerate(rows.values()):
        left = 0.0
        for stage, seconds in stages.items():
            axes.barh(y, seconds / size, left=left, height=0.66, color=COLOURS[stage], linewidth=0)
            left += seconds / size
    axes.set_yticks(range(len(rows)), [str(number) for number in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(unit)
    axes.set_ylabel("round")
    return panel.svg(alt)


def _short(task: str) -> str:
    task = task or "no task"
    return task if len(task) <= 18 else f"{task[:17]}…"


def _signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "−") if abs(value) > 1e-9 else "0"


def finite(values: Sequence[Any]) -> list[float]:
    return [float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]
