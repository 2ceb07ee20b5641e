"""The board's panels as HTML: figures at the top, the pace, agreement, coverage, dwell times, and every rater."""

import html
import math
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from apps.board import plots
from apps.board.findings import Coverage, Findings
from apps.board.words import clock, duration, percent
from data.agreement import Agreement
from data.quality import RaterQuality, Share
from hitl.core.live import LiveStatus
from hitl.core.words import counted

MOST_RATERS = 12
"""Raters shown unless all are asked for: those in doubt come first."""
_MOST_COLUMNS = 96
"""Columns of the coverage; with more prompts, a column is several neighbours and shows the one with fewest answers."""
_MOST_BARS = 48
_STEPS_MIN = (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880, 10080, 20160, 40320)
_RELY, _TENTATIVE = 0.8, 0.667
"""Krippendorff's rule of thumb for alpha; what is a matter of taste is usually at 0.2 to 0.5."""
_CAPTION = {
    "Reliability": "0 a coin · 1 as the others",
    "Left": "● all else equal ○ as answered",
    "Consistency": "same answer to a repeat",
    "Gold": "right where it is known",
    "Ties": "put equal",
    "Seconds": "for an answer, 0.1 to 100",
}


# -- the head ---------------------------------------------------------------------------------------------------------


def summary(
    status: LiveStatus, rated: dict[str, Any], per_hour: float, findings: Findings | None, *, lost: str = ""
) -> str:
    """The head of the page: figures, a bar for the stage under way, and what is said of lost pictures, if any are."""
    skipped = f"{rated['skipped']} skipped" if rated["skipped"] else ""
    ends, at = "done", ""
    if rated["done"] < rated["needed"]:
        ends = duration(rated["eta_s"])
        at = f"at {clock(datetime.now(UTC) + timedelta(seconds=rated['eta_s']))}" if rated["eta_s"] else "no pace yet"
    figures = [
        ("Round", f"{status.round or rated['round']}", f"of {status.rounds}" if status.rounds else ""),
        ("Stage", status.stage, ""),
        ("Ratings", f"{rated['done']:,}/{rated['needed']:,}", skipped),
        ("Ratings per hour", f"{per_hour:,.0f}" if per_hour else "–", "latest pace" if per_hour else "none yet"),
        ("Rating ends in", ends, at),
        _agreement_figure(findings),
    ]
    cells = "".join(
        f"<div><dt>{name}</dt><dd>{html.escape(value)}<small>{html.escape(note)}</small></dd></div>"
        for name, value, note in figures
    )
    alert = f'<p class="lost" role="alert">{html.escape(lost)}</p>' if lost else ""
    return f'<dl class="figures">{cells}</dl>{_stage_bar(status, rated)}{alert}'


def _agreement_figure(findings: Findings | None) -> tuple[str, str, str]:
    known = [each for each in findings.agreements.values() if not each.reason] if findings else []
    if not known:
        return ("Agreement α", "–", "not known yet")
    first = known[0]
    spread = f"{first.low:.2f} to {first.high:.2f}" if math.isfinite(first.low) else "one screen"
    return ("Agreement α", f"{first.alpha:.2f}", spread)


def _stage_bar(status: LiveStatus, rated: dict[str, Any]) -> str:
    """How far the stage is. While people rate, that is how far they are."""
    done, total, eta_s = status.done, status.total, status.eta_s
    if status.stage == "rate":
        done, total, eta_s = rated["done"], rated["needed"], rated["eta_s"]
    share = min(1.0, done / total) if total else 0.0
    count = f"{done:,}/{total:,}" + (f" · about {duration(eta_s)} left" if eta_s else "")
    return (
        f'<p class="stage"><strong>{html.escape(status.message)}</strong><span>{count}</span></p>'
        f'<div class="meter" role="progressbar" aria-valuemin="0" aria-valuemax="100"'
        f' aria-valuenow="{share * 100:.0f}" aria-label="Progress of the stage">'
        f'<i style="width:{share * 100:.1f}%"></i></div>'
    )


# -- panels about all raters ------------------------------------------------------------------------------------------


def overview(findings: Findings | None) -> str:
    """Pace, agreement, coverage and dwell times."""
    if findings is None:
        return '<div class="panels"><section class="panel whole"><p>The ratings are being read …</p></section></div>'
    seconds = [each for rater in findings.raters for each in rater.dwell_s]
    return (
        f'<div class="panels">{_panel("Ratings per hour", *_pace(findings.given))}'
        f"{_panel('Time for an answer', *_dwell(seconds))}{_panel('Agreement', *_agreement(findings))}"
        f"{_panel('Coverage', *_covered(findings.coverage))}</div>"
    )


def _panel(title: str, body: str, note: str) -> str:
    return f'<section class="panel"><h2>{title}</h2>{body}<p class="note">{note}</p></section>'


def _pace(given: Sequence[datetime]) -> tuple[str, str]:
    if not given:
        return _nothing("No ratings yet."), "The plot starts with the first rating."
    first, now = min(given), datetime.now(UTC)
    minutes = next(step for step in _STEPS_MIN if (now - first).total_seconds() / 60 / step < _MOST_BARS)
    step = timedelta(minutes=minutes)
    origin = first.astimezone().replace(second=0, microsecond=0)
    origin -= timedelta(minutes=(origin.hour * 60 + origin.minute) % min(minutes, 1440))
    counts = Counter(int((each - origin) / step) for each in given)
    number = int((now - origin) / step) + 1
    edges = [(origin + n * step) for n in range(number + 1)]
    form = "%H:%M" if minutes < 1440 else "%d %b"
    every = max(1, math.ceil(number / 6))
    drawn = plots.bars(
        [counts[n] * 60 / minutes for n in range(number)],
        titles=[f"{edges[n]:%d %b %H:%M}: {counted(counts[n], 'answer')}" for n in range(number)],
        ticks=[(n, f"{edges[n]:{form}}") for n in range(0, number, every)],
        pale=number - 1,
        label=f"Answers per hour since {clock(first)}, {counted(len(given), 'answer')} in all",
    )
    width = duration(minutes * 60) if minutes > 1 else "1 min"
    return drawn, f"{counted(len(given), 'answer')} since {clock(first)}. A bar is {width}; the pale one is not over."


def _dwell(seconds: Sequence[float]) -> tuple[str, str]:
    if not seconds:
        return _nothing("No answers yet."), "From the pictures being there to the answer."
    edges = plots.DWELL_EDGES_S
    counts = plots.dwell_bins(seconds)
    ordered = sorted(seconds)
    median = ordered[len(ordered) // 2]
    drawn = plots.bars(
        counts,
        titles=[
            f"{_short(edges[n])} to {_short(edges[n + 1])} s: {counted(count, 'answer')}"
            for n, count in enumerate(counts)
        ],
        ticks=[(n, f"{_short(edges[n])} s") for n in range(0, len(edges), 4)],
        line=(_place(median) * len(counts), f"median {median:.1f} s"),
        label=f"Histogram of the seconds for an answer; the median is {median:.1f} s",
    )
    fast = sum(each < 0.5 for each in seconds)
    return drawn, f"From the pictures being there to the answer. {percent(fast / len(seconds))} took less than 0.5 s."


def _short(seconds: float) -> str:
    return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.2g}"


def _place(seconds: float) -> float:
    """Along the axis of dwell times, from 0 to 1."""
    edges = plots.DWELL_EDGES_S
    share = math.log(max(seconds, 1e-9) / edges[0]) / math.log(edges[-1] / edges[0])
    return min(max(share, 0.0), 1.0)


def _agreement(findings: Findings) -> tuple[str, str]:
    note = (
        "Krippendorff’s α with its 95 % interval over tasks: 1 is full agreement, 0 is chance, 0.67 and 0.8 are the"
        " usual bounds for tentative and for firm conclusions. Taste is mostly at 0.2 to 0.5; nothing depends on α."
    )
    if not findings.agreements:
        return _nothing("Not known: nothing has answers of two raters yet. Set rate.overlap to 2 or more."), note
    parts = [_alpha(name, found) for name, found in findings.agreements.items()]
    return "".join(parts), note


def _alpha(name: str, found: Agreement) -> str:
    if found.reason:
        return f'<div class="alpha"><p><b>{html.escape(name)}</b> <span>{found.reason}</span></p></div>'
    spread = f"{found.low:.2f} to {found.high:.2f}" if math.isfinite(found.low) else "no interval from one screen"
    drawn = plots.interval(
        found.alpha,
        found.low,
        found.high,
        bounds=(-0.25, 1),
        marks=((0, "0"), (_TENTATIVE, "0.67"), (_RELY, "0.8"), (1, "1")),
        label=f"Alpha of {name} is {found.alpha:.2f}, {spread}",
    )
    return (
        f'<div class="alpha"><p><b>{html.escape(name)}</b> <span><strong>{found.alpha:.2f}</strong> {spread} ·'
        f" {counted(found.clusters, 'task')} with two answers or more</span></p>{drawn}</div>"
    )


def _covered(coverage: Coverage) -> tuple[str, str]:
    if not coverage.prompts:
        return _nothing("No images have been drawn yet."), "Answers for each prompt, by the model that drew."
    size = math.ceil(len(coverage.prompts) / _MOST_COLUMNS)
    most = max((count for row in coverage.answers for count in row if count is not None), default=0)
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th>"
        f"<td><div class='cells'>{_cells(coverage.prompts, counts, size, most)}</div></td>"
        f"<td class='sum'>{sum(count or 0 for count in counts):,}</td></tr>"
        for name, counts in zip(coverage.models, coverage.answers, strict=True)
    )
    table = (
        f'<table class="coverage"><thead><tr><th>Drawn by</th><th>{counted(len(coverage.prompts), "prompt")}, in their'
        f" order</th><th class='sum'>answers</th></tr></thead><tbody>{rows}</tbody></table>{_scale(most)}"
    )
    holes = sum(count == 0 for row in coverage.answers for count in row)
    pairs = sum(count is not None for row in coverage.answers for count in row)
    said = (
        f"{holes} of {counted(pairs, 'pair')} of prompt and model {'has' if holes == 1 else 'have'} no answer yet."
        if holes
        else "Every prompt has answers for every model that drew it."
    )
    several = f" A cell is {size} prompts and shows the one with fewest answers." if size > 1 else ""
    return table, said + several


def _cells(prompts: Sequence[str], counts: Sequence[int | None], size: int, most: int) -> str:
    found = []
    for start in range(0, len(prompts), size):
        part = counts[start : start + size]
        known = [count for count in part if count is not None]
        fewest = min(known, default=None)
        name = prompts[start + part.index(fewest)] if known else prompts[start]
        level = "none" if fewest is None else f"{math.ceil(4 * fewest / most) if most else 0}"
        title = f"{name}: " + ("not drawn" if fewest is None else counted(fewest, "answer"))
        found.append(f'<i class="level-{level}" title="{html.escape(title)}"></i>')
    return "".join(found)


def _scale(most: int) -> str:
    steps = "".join(
        f'<span><i class="level-{level}"></i>{name}</span>'
        for level, name in (("none", "not drawn"), (0, "0"), (1, ""), (2, ""), (3, ""), (4, f"{most}"))
    )
    return f'<p class="scale">{steps} answers</p>'


def _nothing(words: str) -> str:
    return f'<p class="nothing">{words}</p>'


# -- raters -----------------------------------------------------------------------------------------------------------


def raters(findings: Findings | None, *, everybody: bool, chosen: str | None) -> str:
    """One row for each rater, those in doubt first; a click on one asks for their last decisions."""
    if findings is None:
        return ""
    if not findings.raters:
        return f'<section class="panel whole"><h2>Raters</h2>{_nothing("Nobody has rated yet.")}</section>'
    shown = findings.raters if everybody else findings.raters[:MOST_RATERS]
    rest = len(findings.raters) - len(shown)
    head = "".join(f"<th>{name}<small>{caption}</small></th>" for name, caption in _CAPTION.items())
    rows = "".join(_rater(each, is_chosen=each.rater.rater_id == chosen) for each in shown)
    doubted = sum(bool(each.doubts) for each in findings.raters)
    look = (
        f"{counted(doubted, 'rater')} of {len(findings.raters)} may need a look." if doubted else "Nobody stands out."
    )
    note = (
        f"{look} Whiskers are two standard errors to each side. Nothing is taken away: all answers stay, and the fit"
        " follows each rater as far as their reliability goes."
    )
    more = f" {counted(rest, 'rater')} more: choose “all” above." if rest else ""
    return (
        f'<section class="panel whole"><h2>Raters</h2><table class="raters"><thead><tr><th>Rater</th>{head}</tr>'
        f'</thead><tbody>{rows}</tbody></table><p class="note">{note}{more}</p></section>'
    )


def _rater(quality: RaterQuality, *, is_chosen: bool) -> str:
    rater = quality.rater
    skips = f", {counted(quality.skips, 'skip')}" if quality.skips else ""
    doubts = "".join(f'<li><span aria-hidden="true">△ </span>{html.escape(doubt)}</li>' for doubt in quality.doubts)
    cells = [
        _reliability(quality),
        _left(quality),
        _share(quality.consistency, "repeats", 0.5),
        _share(quality.gold, "gold tasks", 0.8),
        _share(quality.ties, "comparisons", None),
        _seconds(quality),
    ]
    drawn = "".join(f'<td data-name="{name}">{cell}</td>' for name, cell in zip(_CAPTION, cells, strict=True))
    return (
        f'<tr class="{"doubted " if doubts else ""}{"chosen" if is_chosen else ""}"><th scope="row">'
        f'<button type="button" data-rater="{html.escape(rater.rater_id)}" aria-pressed="{str(is_chosen).lower()}">'
        f"{html.escape(rater.name)}</button>"
        f"<small>{counted(quality.answers, 'answer')}{skips}{' · simulated' if rater.kind == 'simulated' else ''}"
        f" · last {clock(quality.last_at)}</small>{f'<ul>{doubts}</ul>' if doubts else ''}</th>{drawn}</tr>"
    )


def _reliability(quality: RaterQuality) -> str:
    found = quality.slopes
    if found is None or not math.isfinite(found.reliability):
        return "<span>not known</span>"
    said = f"{found.reliability:.2f} ± {2 * found.reliability_se:.2f}"
    label = f"Reliability {said}"
    drawn = plots.estimate(found.reliability, found.reliability_se, low=-1.5, high=2.5, marks=(0, 1), label=label)
    return f"{drawn}<span>{said}</span>"


def _left(quality: RaterQuality) -> str:
    found, raw = quality.slopes, quality.left
    if found is None or not math.isfinite(found.side_bias):
        return _share(raw, "screens", 0.5)
    chance = 1 / (1 + math.exp(-found.side_bias))
    se = found.side_bias_se * chance * (1 - chance)
    answered = "" if raw is None else f", {percent(raw.value)} as answered"
    drawn = plots.estimate(
        chance,
        se,
        low=0,
        high=1,
        marks=(0.5,),
        other=None if raw is None else raw.value,
        label=f"Left {percent(chance, se)} all else equal{answered}",
    )
    return f"{drawn}<span>{percent(chance, se)}</span>"


def _share(found: Share | None, what: str, mark: float | None) -> str:
    if found is None:
        return f"<span>no {what}</span>"
    label = f"{percent(found.value, found.se)} of {found.n} {what}"
    marks = () if mark is None else (mark,)
    return (
        f"{plots.estimate(found.value, found.se, low=0, high=1, marks=marks, label=label)}"
        f"<span>{percent(found.value, found.se)} <small>of {found.n:,}</small></span>"
    )


def _seconds(quality: RaterQuality) -> str:
    if not quality.dwell_s:
        return "<span>no answers</span>"
    median = quality.median_s
    label = f"Seconds for an answer: the median is {median:.1f}"
    return (
        f"{plots.spark(plots.dwell_bins(quality.dwell_s), label=label, at=_place(median))}"
        f"<span>median {median:.1f} s</span>"
    )
