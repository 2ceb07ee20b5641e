"""The raters' page: agreement from a real store, against counts by hand; what cannot be said is said."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.round_agreement import round_agreement
from data.store import Store
from data.workspace import Workspace
from hitl.report import build_report
from hitl.report.files import read_round
from hitl.report.raters_page import raters_page
from tests.facts import a_rating, a_store, a_task
from tests.fixtures.judged import make_scores, write_round


def rated(root: Path, *answers: str) -> tuple[Workspace, Store]:
    """Two letters for each task: what ann and bob answered, `l` or `r`; a dot for nothing."""
    tasks = [a_task(f"t{i}", overlap=2) for i in range(len(answers))]
    workspace, store = a_store(root, *tasks)
    for task, given in zip(tasks, answers, strict=True):
        for rater, letter in zip(("ann", "bob"), given, strict=True):
            if letter != ".":
                store.add_rating(a_rating(task, rater, {"l": "left", "r": "right"}[letter]))
    return workspace, store


def text_of(workspace: Workspace, agreement: dict[str, Any] | None) -> str:
    """The sentences of the page of a round that was rated so."""
    folder = write_round(workspace, 1, make_scores("better", prompts=3))
    manifest = json.loads((folder / "rate" / "manifest.json").read_text())
    more = {} if agreement is None else {"agreement": agreement}
    workspace.write_manifest(1, "rate", manifest | more)
    page = raters_page(read_round(workspace, 1))
    assert page is not None
    return " ".join(sentence for answer in page.answers for sentence in answer.sentences)


def test_agreement_by_hand(tmp_path: Path):
    """ll, ll, rr, lr: eight values, five l. 2 of 8 differ, by chance 2 * 5 * 3 / (8 * 7): alpha is 1 - 0.25 / 0.54.
    Of eight votes the other rater says the same on six.
    """
    workspace, store = rated(tmp_path, "ll", "ll", "rr", "lr")
    with store:
        found = round_agreement(store, 1)
    assert found["alpha"]["Pairs"]["alpha"] == pytest.approx(1 - 0.25 / (30 / 56))
    assert found["ceiling"]["agreement"]["mean"] == 0.75
    assert {name: each["answers"] for name, each in found["raters"].items()} == {"ann": 4, "bob": 4}
    text = text_of(workspace, json.loads(json.dumps(found)))
    assert "Pairs: Krippendorff’s α 0.53 [" in text
    assert "on 4 tasks that several answered" in text
    assert "One rater says what most of the others say on 75.0 %" in text
    assert "nobody was asked the same twice" in text
    assert "no task with a known answer was answered" in text


def test_repeats_and_gold_of_each_rater(tmp_path: Path):
    """Ann says the same again on one of two repeats, and one of her two gold tasks is right."""
    workspace, store = rated(tmp_path, "l.", "l.")
    tasks = store.tasks(1)
    again = [replace(task, task_id=f"{task.task_id}+", purpose="repeat", repeats=task.task_id) for task in tasks]
    gold = [replace(task, task_id=f"{task.task_id}g", purpose="gold", worse=task.image_ids[0]) for task in tasks]
    with store:
        store.add_tasks([*again, *gold])
        for task, choice in zip(again, ("left", "right"), strict=True):
            store.add_rating(a_rating(task, "ann", choice, image_ids=task.image_ids[::-1]))
        for task, choice in zip(gold, ("left", "right"), strict=True):
            store.add_rating(a_rating(task, "ann", choice))
        found = round_agreement(store, 1)
    text = text_of(workspace, json.loads(json.dumps(found)))
    assert "the same answer in 50.0 % (no interval) of 2" in text
    assert "1 of 2 tasks with a known answer were answered right" in text
    page = raters_page(read_round(workspace, 1))
    assert page is not None
    assert [(row.name, row.answers, row.again, row.gold) for row in page.rows] == [
        ("rater 1", "6", "50 % of 2", "50 % of 2")
    ]


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (("l.", "r."), "Nobody can say: one rater has nobody to agree with."),
        (("ll", "ll"), "nobody can say. All answers are the same"),
        (("l.", ".r"), "rate.overlap = 2 asks two raters about each task."),
        (("..",), "Nobody can say: there are no answers."),
    ],
    ids=["one rater", "constant", "nothing shared", "zero votes"],
)
def test_what_cannot_be_said_is_said_so(tmp_path: Path, answers: tuple[str, ...], said: str):
    workspace, store = rated(tmp_path, *answers)
    with store:
        found = round_agreement(store, 1)
    assert said in text_of(workspace, json.loads(json.dumps(found)))
    build_report(workspace, 1)


def test_a_round_of_an_older_version_names_the_command_that_tells_it(tmp_path: Path):
    assert "older version" in text_of(Workspace(tmp_path), None)
    assert "<code>hitl agreement --round 1</code>" in build_report(Workspace(tmp_path), 1).read_text(encoding="utf-8")


def test_the_report_names_no_rater(tmp_path: Path):
    workspace, store = rated(tmp_path, "ll", "lr")
    with store:
        found = round_agreement(store, 1)
    secret = found | {"raters": {f"{name}@example.org": each for name, each in found["raters"].items()}}
    text_of(workspace, secret)
    page = build_report(workspace, 1)
    facts = page.with_name("report.json").read_text(encoding="utf-8")
    assert "example.org" not in page.read_text(encoding="utf-8") + facts
    assert list(json.loads(facts)["raters"]["1"]["raters"]) == ["rater 1", "rater 2"]
