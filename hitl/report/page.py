"""Puts the report together: reads the rounds, judges them, draws, and fills the page's template."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import jinja2

from data.evaluation import DIVERSITY, KL, PREVIOUS
from data.win_rates import policy_name
from data.workspace import STAGES, Workspace, write_atomically
from hitl.report import figures, pictures, words
from hitl.report.advice import advice
from hitl.report.blind import blind_answer, blind_of, percent, voters
from hitl.report.crew import counted, warning, who_taught
from hitl.report.files import RoundFiles, later_manifests, read_rounds
from hitl.report.guards import guard_answer, guard_gaps, guard_looks
from hitl.report.judgement import Judged, falls, judge_round, judge_tasks
from hitl.report.provenance import Provenance, provenance, when
from hitl.report.raters_page import hidden, rater_names, raters_page
from hitl.report.reward_agreement import reward_agreements
from hitl.report.reward_page import pseudonymous, reward_page
from hitl.report.sections import judges_of, learning, task_panels, training
from hitl.report.times import costs, time_table
from hitl.report.words import Answer, Verdict

HTML_FILE, JSON_FILE = "report.html", "report.json"
_COSTS = ("total", "shares", "ratings", "comparisons", "drawn", "reward_queries")
_TEMPLATES = ("report.html.j2", "report.css", "parts.html.j2")


def write_report(workspace: Workspace, number: int) -> Path:
    """See `hitl.report.build_report`."""
    rounds = read_rounds(workspace, number)
    latest = rounds[-1]
    judged = judge_round(latest)
    bias = _bias(latest)
    verdict = words.verdict(judged, number)
    who = who_taught(rounds)
    answers = words.story(
        judged,
        latest.best_of,
        bias,
        is_simulated=who == "simulated",
        is_guarded=bool(latest.guard.get("looks")),
    )
    if answer := guard_answer(latest):
        answers.append(answer)
    later = later_manifests(workspace, number)
    blind = blind_of(rounds, later.get("rate"))
    agreements = reward_agreements(latest, later)
    if judged:
        answers.append(blind_answer(blind, number, who))
    advised = advice(
        verdict, judged, blind, number, latest.best_of, bool(latest.guard.get("reason")), who, falls(latest)
    )
    missing = [*_gaps(rounds, number), *latest.missing]
    origin = provenance(rounds)
    shown = {
        "workspace": workspace.root.name,
        "number": number,
        "verdict": verdict,
        "advice": advised,
        "answers": answers,
        "missing": missing,
        "judged": judged,
        "origin": origin,
        "blind": blind,
        "votes": [each for each in blind if each.model == policy_name(number)],
        "explained": words.explained(judged),
        "has_rest": any(words.rest(found) for found in judged.values()),
        "agreements": agreements,
        **_shown(rounds, judged, workspace.image_path),
    }
    page = _environment().get_template("report.html.j2").render(shown)
    facts = _facts(rounds, judged, bias, verdict, [*([advised] if advised else []), *answers], missing, origin)
    facts["blind"] = plain([asdict(each) for each in blind])
    facts["reward_agreement"] = plain({split: asdict(each) for split, each in agreements.items()})
    folder = workspace.round_dir(number)
    text = json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(folder / JSON_FILE, f"{text}\n".encode())
    write_atomically(folder / HTML_FILE, page.encode())
    return folder / HTML_FILE


def _shown(
    rounds: Sequence[RoundFiles], judged: Mapping[str, Sequence[Judged]], image_path: Callable[[str], Path]
) -> dict[str, Any]:
    """What the template shows beside the story: pictures, plots and tables."""
    latest = rounds[-1]
    last_judged = next((files for files in reversed(rounds) if files.summary), latest)
    return {
        "against": judges_of(judge_round(last_judged)),
        "best_of": latest.best_of,
        "shared_scale": _shared_scales(judged),
        "when": when(latest.times[1]) if latest.times else "",
        "checkpoint": f"rounds/{latest.number:04d}/train/policy" if latest.has_policy else "",
        "rated_by": counted(latest.manifests["rate"]) if "rate" in latest.manifests else "",
        "crew": warning(rounds),
        "highlights": pictures.highlights(latest),
        "groups": pictures.through_rounds(rounds),
        "frames": [files.number for files in pictures.rounds_shown(rounds)],
        "is_crisp": pictures.is_crisp(rounds),
        "learning": learning(rounds),
        "training": training(rounds),
        "guard": guard_looks(rounds),
        "tasks": task_panels(latest),
        "reward": reward_page(rounds, image_path),
        "raters": raters_page(latest),
        "times": time_table(rounds),
    }


def _environment() -> jinja2.Environment:
    folder = package_files("hitl.report")
    environment = jinja2.Environment(
        loader=jinja2.DictLoader({name: (folder / name).read_text(encoding="utf-8") for name in _TEMPLATES}),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "split_name": lambda split: words.SPLITS.get(split, split or "Prompts"),
        "change_words": words.CHANGES,
        "level": words.level,
        "deciding": words.deciding,
        "rest": words.rest,
        "written": words.number,
        "ruler": words.ruler,
        "duration": words.duration,
        "count": words.count,
        "mark": interval_mark,
        "percent": percent,
        "voters": voters,
        "stages": STAGES,
    }
    return environment


def interval_mark(judged: Judged, extent: float) -> dict[str, str] | None:
    """Where the mean and the ends of a gain stand on a scale from -extent to extent, in per cent of its width."""
    if not math.isfinite(judged.gain.low) or extent <= 0:
        return None
    ends = {"low": judged.gain.low, "mean": judged.gain.mean, "high": judged.gain.high}
    return {name: f"{50 + 50 * value / extent:.2f}%" for name, value in ends.items()}


def _shared_scales(judged: Mapping[str, Sequence[Judged]]) -> dict[str, float]:
    """Per measure the largest end over all splits, so that the marks of one measure can be compared."""
    extents: dict[str, float] = {}
    for found in judged.values():
        for each in found:
            ends = figures.finite([each.gain.low, each.gain.high])
            key = each.measure.key
            extents[key] = max([extents.get(key, 0.0), *(1.08 * abs(end) for end in ends)])
    return extents


def _bias(latest: RoundFiles) -> dict[str, Judged]:
    """The planted bias, split by split, where the round was judged on it."""
    found = {split: judge_tasks(latest, split, "exact").get("bias") for split in latest.splits}
    return {split: each for split, each in found.items() if each is not None}


def _gaps(rounds: Sequence[RoundFiles], number: int) -> list[str]:
    there = {files.number for files in rounds}
    gaps = [f"Round {n} has no folder: the curves leave it out." for n in range(1, number) if n not in there]
    gaps += [
        f"Round {files.number} is not judged: the curves leave it out." for files in rounds[:-1] if not files.summary
    ]
    gaps += [gap for files in rounds if files.summary for gap in _not_judged(files)]
    gaps += guard_gaps(rounds)
    latest = rounds[-1]
    if "train" in latest.manifests and not latest.has_policy:
        gaps.append(
            f"The policy of round {latest.number} is not in rounds/{latest.number:04d}/train/policy: what stands here "
            "was judged before it went. Restore it from a backup."
        )
    return gaps


def _not_judged(files: RoundFiles) -> list[str]:
    """What this version judges and the files of a round do not have, or have of no prompt that tells anything."""
    gaps = []
    if "held_out" not in files.splits:
        gaps.append(
            f"Round {files.number} was judged on no held-out prompts: nothing says whether it learned or remembers. "
            "Mark some as held_out in the prompts’ file, or leave the column out: then a third is."
        )
    if "judges" in files.manifests.get("evaluate", {}):
        return gaps
    absent = [
        name
        for key, name in ((DIVERSITY, "diversity"), (KL, "KL in nats"))
        if not any(files.gain(split, key) for split in files.splits)
    ]
    absent.append("rewards that training did not use")
    if files.number > 1 and PREVIOUS not in files.summary.get("subjects", {}):
        absent.append("the policy it started from")
    gaps.append(
        f"Round {files.number} was judged by an older version, without {words.listed(absent)}. "
        f"`hitl evaluate {files.number}` measures them."
    )
    return gaps


def _facts(
    rounds: Sequence[RoundFiles],
    judged: Mapping[str, Sequence[Judged]],
    bias: Mapping[str, Judged],
    verdict: Verdict,
    answers: Sequence[Answer],
    missing: Sequence[str],
    origin: Provenance,
) -> dict[str, Any]:
    """The report for programs: the same numbers, unrounded; what is not known is null."""
    facts = {
        "round": rounds[-1].number,
        "verdict": asdict(verdict),
        "story": {answer.question: list(answer.sentences) for answer in answers},
        "missing": list(missing),
        "judged": {split: {each.measure.key: _judged(each) for each in found} for split, found in judged.items()},
        "planted_bias": {split: _judged(each) for split, each in bias.items()},
        "gains_by_round": {
            str(files.number): {split: gains.get("all", {}) for split, gains in files.summary.get("gains", {}).items()}
            for files in rounds
        },
        "reward_model": {
            str(files.number): pseudonymous(files.fit, rater_names(files)) for files in rounds if files.fit
        },
        "raters": {
            str(files.number): hidden(files.agreement, rater_names(files)) for files in rounds if files.agreement
        },
        "guard": {str(files.number): files.guard for files in rounds if files.guard},
        "seconds": {str(row["number"]): row["seconds"] for row in costs(rounds)},
        "cost": {str(row["number"]): {name: row[name] for name in _COSTS} for row in costs(rounds)},
        "provenance": asdict(origin) | {"facts": dict(origin.facts)},
    }
    return plain(facts)


def _judged(each: Judged) -> dict[str, Any]:
    found = asdict(each)
    del found["measure"], found["split"]
    return found | {"change": each.change}


def plain(value: Any) -> Any:
    """JSON has no nan and no infinity: both become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
