"""`hitl study`: blind comparisons of two models or folders of pictures, by people in the rating app."""

import json
import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.bootstrap import LEAST_CLUSTERS
from data.lock import holder
from data.records import Judgement, Task
from data.studies import Study, read_study
from data.study_results import Answer, answers
from data.workspace import Workspace
from hitl.commands.reading import open_for_reading
from hitl.commands.study_making import Asked, make
from hitl.config import load_config
from hitl.core.errors import ConfigError, UnknownName
from hitl.report.page import plain

_WIDTH = 100
_ASKS = {"alignment": "which shows the text more exactly", "quality": "which looks better"}


# -- new --------------------------------------------------------------------------------------------------------------


def new(asked: Asked, workspace: Path | None, settings: list[str], as_json: bool) -> None:
    """Draw what is missing, and put the study's tasks into the store."""
    if asked.votes < 1 or asked.raters < 1:
        raise ConfigError(
            f"The study would have {asked.votes} votes by {asked.raters} raters of each pair.",
            hint="For example: --votes 400 --raters 4, which are 100 pairs.",
        )
    folder = Workspace.find(workspace)
    config = load_config(folder.config_path, settings)
    study = make(folder, config, asked)
    if as_json:
        print(json.dumps(asdict(study), indent=2, ensure_ascii=False))
    else:
        print(_made(study, folder))


def _made(study: Study, folder: Workspace) -> str:
    lines = [
        f"The study {study.name}: {study.b} (B) against {study.a} (A), {study.pairs} pairs of"
        f" {study.prompts} prompt{'' if study.prompts == 1 else 's'},"
        f" {study.raters} raters of each."
    ]
    if study.is_same:
        lines.append("A and B are the same: an A/A study, which should come out even. B's pictures are of other seeds.")
    if study.alike:
        lines.append(f"{study.alike} pairs are left out: the two pictures are the same.")
    lines.append(f"It asks two questions apart: {', and '.join(_ASKS.values())}.")
    lines.append(_power(study))
    if holder(folder.lock_path) is None:
        lines.append(
            f"People rate it under `hitl serve -w {folder.root}`, or during rounds when there is nothing else to rate."
        )
    else:
        lines.append("People who rate now are asked when they have nothing else to rate.")
    return "\n".join(
        textwrap.fill(line, _WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)
        for line in lines
    )


def _power(study: Study) -> str:
    known = (
        "as alike as earlier blind votes here were"
        if study.people_agree is None
        else f"if two people agree on {study.people_agree:.0%} of pairs"
    )
    if study.detectable >= 0.5:
        return f"{study.votes} votes on each question are too few: 80 of 100 such studies find no difference at all."
    points = f"{100 * study.detectable:.0f} points"
    return (
        f"{study.votes} votes on each question find a difference of {points} (B wins {0.5 + study.detectable:.0%} or"
        f" {0.5 - study.detectable:.0%} of them) in 80 of 100 studies, {known}."
    )


# -- status and result ------------------------------------------------------------------------------------------------


def status(workspace: Path | None, as_json: bool) -> None:
    """Every study, and how many of its votes are there."""
    folder = Workspace.find(workspace)
    with open_for_reading(folder) as store:
        names = dict.fromkeys(task.study for task in store.study_tasks() if task.study)
        found = [_standing(folder, name, store.study_tasks(name), store.judgements(study=name)) for name in names]
    if as_json:
        print(json.dumps({"studies": found}, indent=2, ensure_ascii=False))
        return
    if not found:
        print(f"There is no study yet.\nNext: hitl study new A B -w {folder.root}")
        return
    for each in found:
        votes = ", ".join(f"{name} {count['given']} of {count['wanted']}" for name, count in each["votes"].items())
        print(f"{each['name']}: {each['b']} (B) against {each['a']} (A); votes on {votes}; {_raters(each)}")
        if each["is_complete"]:
            print(f"  Next: hitl study result {each['name']} -w {folder.root}")
        elif holder(folder.lock_path) is None:
            print(f"  Next: hitl serve -w {folder.root}")
        else:
            print("  People who rate now are asked when they have nothing else to rate.")


def _standing(folder: Workspace, name: str, tasks: Sequence[Task], votes: Sequence[Judgement]) -> dict[str, Any]:
    """How far a study is. A vote beyond a task's overlap, which came late, is one of its answers and fills no slot."""
    given = Counter(vote.task_id for vote in votes)
    counted = {
        question: {
            "given": sum(min(given[task.task_id], task.overlap) for task in tasks if task.kind == question),
            "wanted": sum(task.overlap for task in tasks if task.kind == question),
        }
        for question in dict.fromkeys(sorted(task.kind for task in tasks))
    }
    models = tasks[0].models or ("B", "A")
    return {
        "name": name,
        "a": models[1],
        "b": models[0],
        "votes": counted,
        "raters": len({vote.rater_id for vote in votes}),
        "is_complete": all(count["given"] >= count["wanted"] for count in counted.values()),
        "told": read_study(folder, name),
    }


def _raters(standing: Mapping[str, Any]) -> str:
    count = standing["raters"]
    return "nobody has voted yet" if not count else f"{count} rater{'' if count == 1 else 's'}"


def result(name: str, workspace: Path | None, as_json: bool) -> None:
    """What a study has found, question by question."""
    folder = Workspace.find(workspace)
    with open_for_reading(folder) as store:
        known = [*dict.fromkeys(task.study for task in store.study_tasks() if task.study)]
        if not name and len(known) == 1:
            name = known[0]
        if name not in known:
            there = f"There are {', '.join(known)}." if known else "There is none yet: hitl study new A B"
            raise UnknownName(f"There is no study {name!r}." if name else "Which study?", hint=there)
        votes = store.judgements(study=name)
        standing = _standing(folder, name, store.study_tasks(name), votes)
        called = {rater.rater_id: f"rater-{number:03d}" for number, rater in enumerate(store.raters(), 1)}
        simulated = sum(
            rater.kind == "simulated" for rater in store.raters() if rater.rater_id in {v.rater_id for v in votes}
        )
    found = [_told(each, called) for each in answers(votes)]
    if as_json:
        print(json.dumps(plain({**standing, "simulated": simulated, "answers": found}), indent=2, ensure_ascii=False))
    else:
        print(describe(standing, found, simulated))


def _told(answer: Answer, called: Mapping[str, str]) -> dict[str, Any]:
    return asdict(answer) | {"by_rater": {called[each]: share for each, share in answer.by_rater.items()}}


def describe(standing: Mapping[str, Any], found: Sequence[Mapping[str, Any]], simulated: int) -> str:
    """The result in lines."""
    lines = [f"{standing['name']}: {standing['b']} (B) against {standing['a']} (A), {_raters(standing)}."]
    if standing["told"].get("is_same"):
        lines.append("A and B are the same: what differs is chance.")
    if not standing["is_complete"]:
        left = sum(count["wanted"] - count["given"] for count in standing["votes"].values())
        lines.append(
            f"It is not finished: {left} votes are missing. Who stops when it looks well finds what is not there."
        )
    if simulated:
        lines.append(f"{simulated} of the raters {'is' if simulated == 1 else 'are'} simulated.")
    if standing["raters"] == 1:
        lines.append("One rater: what is found holds for this one alone.")
    for each in found:
        lines += ["", *_answer_lines(each)]
    return "\n".join(lines)


def _answer_lines(each: Mapping[str, Any]) -> list[str]:
    share = each["share"]
    over = {name: each[f"over_{name}"] for name in ("prompts", "raters")}
    lines = [
        f"{each['question']}, {_ASKS.get(each['question'], '')}: {_verdict(each)}",
        f"  B wins {_percent(share)} of {share['n']} votes, {each['ties']:.0%} ties as halves; "
        f"95 % over {share['prompts']} prompts and {share['raters']} raters together",
        f"  over prompts {_brackets(over['prompts'])}, over raters {_brackets(over['raters'])}",
        f"  mean of the raters {each['mean_of_raters']:.0%}"
        + ("" if math.isnan(each["sd_of_raters"]) else f" ± {each['sd_of_raters']:.0%} (standard deviation)"),
    ]
    if math.isnan(each["p_value"]):
        lines.append("  exact test: not to be had, no prompt was won by either side")
    else:
        lines.append(
            f"  exact test: B is ahead on {each['won']} prompts, A on {each['lost']}, {each['even']} are even and left "
            f"out; p = {each['p_value']:.2g}"
        )
    return lines


def _verdict(each: Mapping[str, Any]) -> str:
    return {
        "better": "B is better.",
        "worse": "A is better.",
        "even": "even: no difference was found.",
        "unknown": f"nothing is concluded of fewer than {LEAST_CLUSTERS} prompts.",
    }[each["verdict"]]


def _percent(share: Mapping[str, Any]) -> str:
    return f"{share['mean']:.0%} {_brackets(share)}"


def _brackets(share: Mapping[str, Any]) -> str:
    return "not known" if math.isnan(share["low"]) else f"[{share['low']:.0%}, {share['high']:.0%}]"
