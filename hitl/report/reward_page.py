"""The reward model's page: how far the learned reward can be trusted, and why this head."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.bootstrap import Interval
from hitl.report import figures, words
from hitl.report.figures import Series
from hitl.report.files import RoundFiles, interval
from hitl.report.judgement import change
from hitl.report.sections import Panel


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardPage:
    sentences: tuple[str, ...]
    warning: str
    panels: tuple[Panel, ...]
    candidates: tuple[dict[str, Any], ...]
    chosen: str


def reward_page(rounds: Sequence[RoundFiles]) -> RewardPage | None:
    """How far the learned reward can be trusted; None for a round without a fitted one."""
    fit = rounds[-1].fit
    accuracy = interval(fit.get("accuracy"))
    if accuracy is None:
        return None
    zero_shot, gain = interval(fit.get("zero_shot")), interval(fit.get("gain"))
    is_sure = bool(fit.get("is_better_than_chance", accuracy.low > 0.5))
    warning = "" if is_sure else "Its accuracy cannot be told from a coin: what training did with it means nothing."
    return RewardPage(
        sentences=tuple(_reward_sentences(fit, accuracy, zero_shot, gain)),
        warning=warning,
        panels=tuple(_reward_panels(rounds, accuracy, zero_shot)),
        candidates=tuple(each for each in fit.get("candidates") or () if isinstance(each, dict)),
        chosen=str(fit.get("head", "")),
    )


def _reward_sentences(
    fit: Mapping[str, Any], accuracy: Interval, zero_shot: Interval | None, gain: Interval | None
) -> list[str]:
    held_out = "pairs of images" if fit.get("held_out_by") == "images" else "prompts"
    sentences = [
        f"Right on {_share(accuracy)} of {words.count(accuracy.n, 'comparison')} with {held_out} held out from it; "
        "a coin is right on half."
    ]
    if zero_shot is not None and gain is not None:
        way = {
            "up": "clearly better",
            "down": "clearly worse",
            "unclear": "no clear difference",
            "unknown": "cannot say",
        }
        said = words.Ruler(100.0, 1, "points").with_interval(gain)
        sentences.append(
            f"Zero-shot CLIP, without any rating: {_share(zero_shot)}. Difference {said}: {way[change(gain)]}."
        )
    counts = [
        f"{words.count(int(fit[key]), one)}{more}"
        for key, one, more in (
            ("comparisons", "comparison", f" ({fit.get('ties', 0)} ties)"),
            ("prompts", "prompt", ""),
            ("images", "image", ""),
            ("raters", "rater", ""),
        )
        if fit.get(key) is not None
    ]
    sentences.append(f"Fitted on {words.listed(counts)}, of all rounds so far.")
    candidates = [each for each in fit.get("candidates") or () if isinstance(each, dict)]
    if len(candidates) > 1:
        sentences.append(f"Head: {fit.get('head')}, because its held-out log loss is the lowest of those tried.")
    elif candidates:
        sentences.append(f"Head: {fit.get('head')}, the only one tried with so many comparisons.")
    if figures.finite([fit.get("side_bias")]):
        left = 1 / (1 + math.exp(-float(fit["side_bias"])))
        sentences.append(
            f"Between two equal images, raters choose the left one {words.number(100 * left, 0)} % of the time."
        )
    return sentences


def _share(found: Interval) -> str:
    if not math.isfinite(found.low):
        return f"{words.number(100 * found.mean, 1)} % (no interval)"
    return (
        f"{words.number(100 * found.mean, 1)} % (95 % interval {words.number(100 * found.low, 1)} "
        f"to {words.number(100 * found.high, 1)})"
    )


def _reward_panels(rounds: Sequence[RoundFiles], accuracy: Interval, zero_shot: Interval | None) -> list[Panel]:
    fit = rounds[-1].fit
    rows = {"reward model": ("policy", accuracy)}
    if zero_shot is not None:
        rows["zero-shot CLIP"] = ("muted", zero_shot)
    svg = figures.accuracy("accuracy", rows, alt="Accuracy of the reward model and of zero-shot CLIP against a coin")
    panels = [Panel(title="Accuracy on held-out comparisons", svg=svg)]
    series = []
    for key, colour, marker, shift in (("zero_shot", "muted", "^", 0.06), ("accuracy", "policy", "o", -0.06)):
        found = {files.number: interval(files.fit.get(key)) for files in rounds}
        points = {n: _shifted(each, -0.5) for n, each in found.items() if each is not None}
        series.append(Series(colour=colour, points=points, marker=marker, shift=shift))
    if len(series[-1].points) > 1:
        svg = figures.over_rounds(
            "accuracy-rounds",
            series,
            rounds[-1].number,
            scale=100.0,
            unit="points above a coin",
            alt="Accuracy of the reward model and of zero-shot CLIP by round, in points above a coin",
            start=min(series[-1].points),
        )
        panels.append(Panel(title="Accuracy by round", svg=svg, note="On all comparisons up to that round."))
    linear = next((each for each in fit.get("candidates") or () if isinstance(each, dict) and each.get("by_l2")), None)
    if linear is not None and len(linear["by_l2"]) > 1:
        table = {float(penalty): float(loss) for penalty, loss in linear["by_l2"].items()}
        svg = figures.penalties("penalties", table, linear.get("l2"), alt="Held-out log loss of each penalty")
        panels.append(
            Panel(
                title="Choice of the linear head’s penalty", svg=svg, note="Lower is better; the large dot was chosen."
            )
        )
    return panels


def _shifted(found: Interval, by: float) -> Interval:
    return Interval(found.mean + by, found.low + by, found.high + by, found.n, found.clusters)
