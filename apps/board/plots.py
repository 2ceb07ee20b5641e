"""Small plots as SVG text. Colours are the style sheet's, so that they follow light, dark and paper."""

import html
import math
from collections.abc import Sequence

DWELL_EDGES_S = tuple(0.1 * 2 ** (step / 2) for step in range(21))
"""From 0.1 s to 102 s, twice as long every second edge; what is longer or shorter is in the last and first bin."""


def estimate(
    value: float, se: float, *, low: float, high: float, marks: Sequence[float], label: str, other: float | None = None
) -> str:
    """A dot with two standard errors to each side, on an axis from `low` to `high` with lines at `marks`.

    `other` is drawn as a hollow dot. What lies outside of the axis is at its end.
    """
    width, height, middle, inset = 132, 26, 13, 6

    def x(number: float) -> float:
        share = (min(max(number, low), high) - low) / (high - low)
        return round(inset + share * (width - 2 * inset), 1)

    lines = "".join(f'<path class="mark" d="M{x(mark)} 3V{height - 3}"/>' for mark in marks)
    spread = (
        f'<path class="whisker" d="M{x(value - 2 * se)} {middle}H{x(value + 2 * se)}"/>' if math.isfinite(se) else ""
    )
    hollow = "" if other is None else f'<circle class="hollow" cx="{x(other)}" cy="{middle}" r="4.5"/>'
    return _svg(
        width,
        height,
        f'<path class="axis" d="M{inset} {middle}H{width - inset}"/>{lines}{spread}{hollow}'
        f'<circle class="dot" cx="{x(value)}" cy="{middle}" r="4.5"/>',
        label=label,
        name="estimate",
    )


def interval(
    value: float,
    low: float,
    high: float,
    *,
    bounds: tuple[float, float],
    marks: Sequence[tuple[float, str]],
    label: str,
) -> str:
    """A large dot with its interval, over an axis with named lines."""
    width, height, middle, inset = 520, 64, 22, 14

    def x(number: float) -> float:
        share = (min(max(number, bounds[0]), bounds[1]) - bounds[0]) / (bounds[1] - bounds[0])
        return round(inset + share * (width - 2 * inset), 1)

    lines = "".join(
        f'<path class="mark" d="M{x(at)} 4V42"/><text x="{x(at)}" y="58" text-anchor="middle">{name}</text>'
        for at, name in marks
    )
    spread = f'<path class="whisker wide" d="M{x(low)} {middle}H{x(high)}"/>' if math.isfinite(low) else ""
    return _svg(
        width,
        height,
        f'<path class="axis" d="M{inset} {middle}H{width - inset}"/>{lines}{spread}'
        f'<circle class="dot" cx="{x(value)}" cy="{middle}" r="8"/>',
        label=label,
        name="interval",
    )


def dwell_bins(seconds: Sequence[float]) -> list[int]:
    """How many lie in each bin of `DWELL_EDGES_S`."""
    bins = [0] * (len(DWELL_EDGES_S) - 1)
    for each in seconds:
        place = int(2 * math.log2(max(each, 0.1) / 0.1))
        bins[min(place, len(bins) - 1)] += 1
    return bins


def spark(counts: Sequence[int], *, label: str, at: float | None = None) -> str:
    """Bars without an axis; `at` is a place from 0 to 1 to draw a line at."""
    width, height = 132, 26
    top, step = max(*counts, 1), width / len(counts)
    bars = "".join(
        f'<rect class="bar" x="{n * step + 0.5:.1f}" y="{height - size:.1f}" width="{step - 1:.1f}"'
        f' height="{size:.1f}"/>'
        for n, count in enumerate(counts)
        if (size := (height - 3) * count / top) > 0
    )
    line = "" if at is None else f'<path class="at" d="M{at * width:.1f} 0V{height}"/>'
    return _svg(
        width, height, f'<path class="axis" d="M0 {height - 0.5}H{width}"/>{bars}{line}', label=label, name="spark"
    )


def bars(
    heights: Sequence[float],
    *,
    titles: Sequence[str],
    ticks: Sequence[tuple[int, str]],
    label: str,
    pale: int | None = None,
    line: tuple[float, str] | None = None,
) -> str:
    """Bars with an axis to the left: `ticks` are names at some edges, `pale` the bar that is not complete yet, `line` a
    place along the axis, in bars, and what is there.
    """
    width, height, left, floor = 560, 224, 44, 190
    top = _round_up(max([*heights, 0.0]))
    step = (width - left - 8) / max(len(heights), 1)
    gap = min(2.0, step / 5)
    rules = "".join(
        f'<path class="mark" d="M{left} {floor - 170 * share:.1f}H{width}"/>'
        f'<text x="{left - 8}" y="{floor - 170 * share + 4:.1f}" text-anchor="end">{top * share:g}</text>'
        for share in (0, 0.5, 1)
    )
    drawn = "".join(
        f'<rect class="bar{" pale" if n == pale else ""}" x="{left + n * step + gap / 2:.1f}"'
        f' y="{floor - 170 * each / top:.1f}" width="{step - gap:.1f}" height="{170 * each / top:.1f}" rx="1.5">'
        f"<title>{html.escape(titles[n])}</title></rect>"
        for n, each in enumerate(heights)
        if each > 0
    )
    names = "".join(
        f'<text x="{left + n * step:.1f}" y="{floor + 24}" text-anchor="middle">{html.escape(name)}</text>'
        for n, name in ticks
    )
    mark = ""
    if line is not None:
        x = left + line[0] * step
        is_late = x > width - 130
        mark = (
            f'<path class="at" d="M{x:.1f} 10V{floor}"/><text class="strong" y="20"'
            f' x="{x + (-6 if is_late else 6):.1f}" text-anchor="{"end" if is_late else "start"}">{line[1]}</text>'
        )
    return _svg(width, height, rules + drawn + names + mark, label=label, name="bars")


def _round_up(value: float) -> float:
    """To a round number that has a round half: a top for an axis."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10) if step * power >= value)


def _svg(width: int, height: int, content: str, *, label: str, name: str) -> str:
    return (
        f'<svg class="plot {name}" viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(label)}">'
        f"<title>{html.escape(label)}</title>{content}</svg>"
    )
