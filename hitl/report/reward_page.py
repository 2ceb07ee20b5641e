"""The reward model's page: how far the learned reward can be trusted, by whom it was taught, and why this head."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.bootstrap import Interval
from hitl.report import figures, pictures, words
from hitl.report.crew import who_taught
from hitl.report.files import RoundFiles, interval
from hitl.report.judgement import Change, change
from hitl.report.raters_page import rater_names
from hitl.report.reward_panels import reward_panels
from hitl.report.sections import Panel

_POINTS = words.Ruler(100.0, 1, "points")
_WAYS: dict[Change, str] = {
    "up": "clearly better",
    "down": "clearly worse",
    "unclear": "no clear difference",
    "unknown": "cannot say",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureRow:
    """One row of the table of what was measured: a value for each of the models."""

    name: str
    note: str
    values: tuple[tuple[str, str], ...]
    """(mean, interval)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardPage:
    answers: tuple[words.Answer, ...]
    warning: str
    legend: tuple[tuple[str, str], ...]
    panels: tuple[Panel, ...]
    models: tuple[str, ...]
    """The columns of `measures`."""
    measures: tuple[MeasureRow, ...]
    mistakes: pictures.Mistakes | None
    candidates: tuple[dict[str, Any], ...]
    chosen: str


def reward_page(rounds: Sequence[RoundFiles], image_path: Callable[[str], Path] | None = None) -> RewardPage | None:
    """How far the learned reward can be trusted; None for a round without a fitted one.

    `image_path` says where an image's file is; without it no mistakes are shown.
    """
    fit = pseudonymous(rounds[-1].fit, rater_names(rounds[-1]))
    accuracy = interval(fit.get("accuracy"))
    if accuracy is None:
        return None
    models = {"Reward model": fit.get("judgement"), "Zero-shot CLIP": fit.get("zero_shot_judgement")}
    judgements = {name: found for name, found in models.items() if isinstance(found, dict)}
    kind = "simulated " if who_taught(rounds) == "simulated" else ""
    found = [each | {"rater": f"{kind}{each['rater']}"} for each in fit.get("mistakes") or ()]
    return RewardPage(
        answers=tuple(reward_answers(fit, accuracy)),
        warning=reward_warning(fit, accuracy),
        legend=tuple(_legend(fit)),
        panels=tuple(reward_panels(rounds, fit, accuracy)),
        models=tuple(judgements),
        measures=tuple(_measures(list(judgements.values()))),
        mistakes=pictures.mistakes(found, image_path) if found and image_path is not None else None,
        candidates=tuple(each for each in fit.get("candidates") or () if isinstance(each, dict)),
        chosen=str(fit.get("head", "")),
    )


def pseudonymous(fit: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A fit report whose raters are called by these names."""
    renamed = dict(fit)
    for key in ("judgement", "zero_shot_judgement"):
        if isinstance(fit.get(key), dict):
            renamed[key] = fit[key] | {"by_rater": _renamed(fit[key]["by_rater"], names)}
    if fit.get("raters_fitted"):
        renamed["raters_fitted"] = _renamed(fit["raters_fitted"], names)
    if fit.get("mistakes"):
        renamed["mistakes"] = [each | {"rater": names[str(each.get("rater"))]} for each in fit["mistakes"]]
    return renamed


def _renamed(found: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names[rater]: found[rater] for rater in sorted(found)}


# -- sentences ------------------------------------------------------------------------------------------------------


def reward_warning(fit: Mapping[str, Any], accuracy: Interval) -> str:
    if bool(fit.get("is_better_than_chance", accuracy.low > 0.5)):
        return ""
    warning = "Its accuracy cannot be told from a coin: what training did with it means nothing."
    needed, now = fit.get("needed"), int(fit.get("comparisons") or 0)
    if needed is not None and needed > now:
        more = f"About {words.count(needed, 'comparison')} in all would probably settle it; so far there are {now}."
    elif "needed" in fit:
        more = "Nothing in them says that more ratings of this kind would help."
    else:
        return warning
    return f"{warning} {more}"


def reward_answers(fit: Mapping[str, Any], accuracy: Interval) -> list[words.Answer]:
    """What a reader wants to know of a fit, in their order."""
    answers = [
        words.Answer(question="Does it know what raters prefer?", sentences=tuple(_against_chance(fit, accuracy))),
        words.Answer(question="As well as a rater does?", sentences=tuple(_against_people(fit.get("ceiling") or {}))),
        words.Answer(question="Since the last round?", sentences=tuple(_against_the_last_round(fit))),
        words.Answer(question="Do its probabilities hold?", sentences=tuple(_calibration(fit.get("judgement") or {}))),
        words.Answer(question="What does it rest on?", sentences=tuple(_what_it_rests_on(fit))),
    ]
    return [answer for answer in answers if answer.sentences]


def _against_chance(fit: Mapping[str, Any], accuracy: Interval) -> list[str]:
    held_out = "pairs of images" if fit.get("held_out_by") == "images" else "prompts"
    sentences = [
        f"Right on {words.share(accuracy)} of {words.count(accuracy.n, 'comparison')} with {held_out} held out from "
        "it; a coin is right on half."
    ]
    zero_shot, gain = interval(fit.get("zero_shot")), interval(fit.get("gain"))
    if zero_shot is not None and gain is not None:
        sentences.append(f"Zero-shot CLIP, without any rating: {words.share(zero_shot)}. {_difference(gain)}")
    return sentences


def _against_people(found: Mapping[str, Any]) -> list[str]:
    human, model = interval(found.get("human")), interval(found.get("model"))
    if human is None or model is None:
        return []
    return [
        f"A rater agrees with the others on {words.share(human)} of {words.count(human.n, 'answer')} to pairs that "
        f"several rated; the reward model gives {words.share(model)} of these same answers."
    ]


def _against_the_last_round(fit: Mapping[str, Any]) -> list[str]:
    sentences = []
    previous, drift = fit.get("previous") or {}, fit.get("drift") or {}
    accuracy, gain = interval(previous.get("accuracy")), interval(previous.get("gain"))
    if accuracy is not None and gain is not None:
        sentences.append(
            f"Round {previous.get('round')}’s model, on {words.count(accuracy.n, 'comparison')} of the newest round: "
            f"{words.share(accuracy)}. {_difference(gain)}"
        )
    agreement = interval(drift.get("agreement"))
    if agreement is not None:
        moved = words.number(drift.get("shift"), 2, sign=True)
        sentences.append(
            f"On {words.count(int(drift.get('images', agreement.n)), 'fixed image')}, its scores and those of the last "
            f"round’s model have a rank correlation of {words.number(agreement.mean, 2)}{_ends(agreement, 1, 2)} "
            f"within a prompt (1: the same order); their mean moved by {moved}."
        )
    return sentences


def _calibration(judgement: Mapping[str, Any]) -> list[str]:
    ece, expected = interval(judgement.get("ece")), interval(judgement.get("ece_if_calibrated"))
    if ece is None or expected is None or not ece.n:
        return []
    error, chance = (words.number(100 * each, 1) for each in (ece.mean, expected.mean))
    if ece.mean <= expected.high:
        return [
            f"No sign that its probabilities are off: by {error} points on average, and chance alone makes {chance} of "
            "so many comparisons."
        ]
    bins = [(float(each["predicted"]), interval(each["observed"])) for each in judgement.get("bins") or ()]
    excess = sum(observed.n * (predicted - observed.mean) for predicted, observed in bins if observed is not None)
    way = "too sure of itself" if excess > 0 else "surer than it says"
    return [
        f"Its probabilities are off by {error} points on average, where chance alone makes {chance}: it is {way}. "
        "Its order of the images is not touched by that."
    ]


def _what_it_rests_on(fit: Mapping[str, Any]) -> list[str]:
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
    sentences = [f"Fitted on {words.listed(counts)}, of all rounds so far."]
    answers = fit.get("answers") or {}
    kinds = (("pairs", "pair"), ("rankings", "ranking"), ("grades", "grade"), ("labels", "label"))
    given = [words.count(int(answers[key]), one) for key, one in kinds if answers.get(key)]
    if given:
        both_bad = answers.get("both_bad")
        tail = f"; of {words.count(int(both_bad), 'pair')} both were called bad" if both_bad else ""
        sentences.append(f"The answers: {words.listed(given)}{tail}.")
    if fit.get("truncated"):
        long = words.count(int(fit["truncated"]), "prompt")
        sentences.append(f"The backbone does not see the end of {long}: longer than it can read.")
    candidates = [each for each in fit.get("candidates") or () if isinstance(each, dict)]
    if len(candidates) > 1:
        sentences.append(f"Head: {fit.get('head')}, because its held-out log loss is the lowest of those tried.")
    elif candidates:
        sentences.append(f"Head: {fit.get('head')}, the only one tried with so many comparisons.")
    if figures.finite([fit.get("side_bias")]):
        sentences.append(
            f"Between two equal images, raters choose the left one {words.left(fit['side_bias'])} of the time."
        )
    return sentences


# -- tables ---------------------------------------------------------------------------------------------------------


def _measures(judgements: Sequence[Mapping[str, Any]]) -> list[MeasureRow]:
    """What was measured of the models, one row each; a row that none of them has is left out."""
    if not judgements:
        return []
    all_ties = words.number(50 * (1 + float(judgements[0].get("tie_share") or 0)), 1)
    rows = (
        ("accuracy", "Comparisons right", "", 100.0, 1),
        ("macro", "Mean over prompts", "each counts alike", 100.0, 1),
        ("tie_aware", "With ties as a third answer", f"calling all a tie: {all_ties} %", 100.0, 1),
        ("brier", "Brier score", "0 is best, a coin has 0.25", 1.0, 3),
        ("ece", "Calibration error, points", "lower is better", 100.0, 1),
        ("ece_if_calibrated", "The same by chance alone", "with probabilities exactly true", 100.0, 1),
    )
    table = []
    for key, name, note, scale, digits in rows:
        found = [interval(each.get(key)) for each in judgements]
        unit = "\u202f%" if key in ("accuracy", "macro", "tie_aware") else ""
        if any(each is not None for each in found):
            values = tuple(_value(each, scale, digits, unit) for each in found)
            table.append(MeasureRow(name=name, note=note, values=values))
    return table


# -- numbers in words -----------------------------------------------------------------------------------------------


def _difference(gain: Interval) -> str:
    return f"Difference {_POINTS.with_interval(gain)}: {_WAYS[change(gain)]}."


def _value(found: Interval | None, scale: float, digits: int, unit: str) -> tuple[str, str]:
    if found is None or not math.isfinite(found.mean):
        return "–", ""
    return f"{words.number(scale * found.mean, digits)}{unit}", _ends(found, scale, digits).strip()


def _ends(found: Interval, scale: float, digits: int) -> str:
    if not math.isfinite(found.low):
        return ""
    low, high = (words.number(scale * min(max(end, -1.0), 1.0), digits) for end in (found.low, found.high))
    return f" [{low}, {high}]"


def _legend(fit: Mapping[str, Any]) -> list[tuple[str, str]]:
    entries = [("policy", "reward model"), ("muted", "zero-shot CLIP")]
    if fit.get("previous"):
        entries.append(("trained", f"round {fit['previous'].get('round')}’s model"))
    if fit.get("ceiling"):
        entries.append(("taste", "one rater against the others"))
    return entries
