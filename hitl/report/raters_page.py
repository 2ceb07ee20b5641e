"""The raters' page: whether they agree with each other and with themselves, and how each of them rates."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hitl.report import figures, words
from hitl.report.crew import who_rated
from hitl.report.files import RoundFiles, interval


@dataclass(frozen=True, slots=True, kw_only=True)
class RaterRow:
    """One rater, as far as the round and its fit know them; an en dash where they do not."""

    name: str
    answers: str
    """In this round, checks included."""
    again: str
    gold: str
    seconds: str
    fitted: str
    """Comparisons, of all rounds so far."""
    reliability: str
    left: str
    doubts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RatersPage:
    answers: tuple[words.Answer, ...]
    rows: tuple[RaterRow, ...]
    notes: tuple[str, ...]


def rater_names(files: RoundFiles) -> dict[str, str]:
    """Rater's id -> `rater 1`, `rater 2`, ... of all that a round's files name: a report is a thing to be passed on."""
    fit = files.fit
    judgements = [fit[key] for key in ("judgement", "zero_shot_judgement") if isinstance(fit.get(key), dict)]
    ids = {
        *(fit.get("raters_fitted") or {}),
        *(each.get("rater") for each in fit.get("mistakes") or []),
        *(rater for each in judgements for rater in each.get("by_rater") or {}),
        *(files.agreement.get("raters") or {}),
    }
    return {rater: f"rater {place}" for place, rater in enumerate(sorted(map(str, ids)), start=1)}


def raters_page(files: RoundFiles) -> RatersPage | None:
    """How the round's raters rate; None for a round that is not rated and has no fit."""
    fitted, rated = files.fit.get("raters_fitted") or {}, files.agreement.get("raters") or {}
    if "rate" not in files.manifests and not fitted:
        return None
    names = rater_names(files)
    rows = [_row(name, rated.get(rater) or {}, fitted.get(rater) or {}) for rater, name in names.items()]
    return RatersPage(answers=tuple(_answers(files)), rows=tuple(rows), notes=tuple(_notes(files)))


def hidden(agreement: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The same with raters by their numbers."""
    raters = agreement.get("raters") or {}
    return {**agreement, "raters": {names[rater]: raters[rater] for rater in sorted(raters)}}


# -- sentences ------------------------------------------------------------------------------------------------------


def _answers(files: RoundFiles) -> list[words.Answer]:
    found = files.agreement
    if "rate" not in files.manifests:
        return []
    if not found:
        told = (
            f"Not in this report: round {files.number} was rated with an older version, which kept nothing of that.",
            f"`hitl agreement --round {files.number}` tells it.",
        )
        return [words.Answer(question="Do they agree?", sentences=told)]
    return [
        words.Answer(question="Do they agree with each other?", sentences=tuple(_with_each_other(found))),
        words.Answer(question="Can one speak for the others?", sentences=(_for_the_others(found),)),
        words.Answer(question="Do they agree with themselves?", sentences=(_with_themselves(found),)),
        words.Answer(question="Do they look?", sentences=(_looking(found),)),
    ]


def _notes(files: RoundFiles) -> list[str]:
    rate = files.manifests.get("rate") or {}
    notes = []
    if who_rated(rate) == "simulated":
        notes.append("No person rated: answers, times and agreement here are a program’s.")
    if rate.get("checks"):
        ratings = words.count(int(rate["ratings"]), "answer")
        checks = words.count(int(rate["checks"]), "more was a check", "more were checks")
        notes.append(
            f"The reward model learns from {ratings} of the round, its ratings. {checks}: repeats, tasks with a known "
            "answer and blind comparisons."
        )
    return notes


def _with_each_other(found: Mapping[str, Any]) -> list[str]:
    if len(found.get("raters") or {}) == 1:
        return ["Nobody can say: one rater has nobody to agree with."]
    sentences = []
    for name, alpha in (found.get("alpha") or {}).items():
        if not figures.finite([alpha.get("alpha")]):
            sentences.append(f"{name}: nobody can say. {alpha.get('reason', '')}".strip())
            continue
        ends = ""
        if figures.finite([alpha["low"]]):
            ends = f" [{words.number(alpha['low'], 2)}, {words.number(alpha['high'], 2)}]"
        shared = words.count(int(alpha["clusters"]), "task")
        sentences.append(
            f"{name}: Krippendorff’s α {words.number(alpha['alpha'], 2)}{ends} on {shared} that several answered. "
            "1 is always alike, 0 no more than chance."
        )
    if not sentences:
        return ["Nobody can say: there are no answers."]
    if not any(alpha.get("units") for alpha in found["alpha"].values()):
        sentences.append("rate.overlap = 2 asks two raters about each task.")
    return sentences


def _for_the_others(found: Mapping[str, Any]) -> str:
    agreed = interval((found.get("ceiling") or {}).get("agreement"))
    if agreed is None or not agreed.n:
        return "Not known: no two raters preferred an image of the same pair."
    return (
        f"One rater says what most of the others say on {words.share(agreed)} of {words.count(agreed.n, 'vote')}: "
        "a reward model need not be better than that."
    )


def _with_themselves(found: Mapping[str, Any]) -> str:
    again = interval(found.get("consistency"))
    if again is None or not again.n:
        return "Not known: nobody was asked the same twice (rate.repeats)."
    return f"The same question with the sides swapped got the same answer in {words.share(again)} of {again.n}."


def _looking(found: Mapping[str, Any]) -> str:
    given = [each["gold"] for each in (found.get("raters") or {}).values() if each.get("gold")]
    asked = sum(int(each["n"]) for each in given)
    if not asked:
        return "Not known: no task with a known answer was answered (rate.gold)."
    right = round(sum(each["value"] * each["n"] for each in given))
    return f"{right} of {words.count(asked, 'task')} with a known answer were answered right."


# -- table ----------------------------------------------------------------------------------------------------------


def _row(name: str, rated: Mapping[str, Any], fitted: Mapping[str, Any]) -> RaterRow:
    error, bias = fitted.get("reliability_se"), fitted.get("side_bias")
    return RaterRow(
        name=name,
        answers=words.number(rated.get("answers"), 0),
        again=_of(rated.get("consistency")),
        gold=_of(rated.get("gold")),
        seconds=words.number(rated.get("median_s"), 1),
        fitted=words.number(fitted.get("answers"), 0),
        reliability=f"{words.number(fitted['reliability'], 2)} ± {words.number(error, 2)}"
        if figures.finite([fitted.get("reliability")])
        else "–",
        left=words.left(bias) if bias is not None and figures.finite([bias]) else "–",
        doubts=tuple(rated.get("doubts") or ()),
    )


def _of(share: Mapping[str, Any] | None) -> str:
    return "–" if share is None else f"{words.number(100 * share['value'], 0)} % of {share['n']}"
