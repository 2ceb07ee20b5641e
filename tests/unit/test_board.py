"""The board over stores that a simulated crowd filled, over hostile ones and over none; and who may call it."""

import asyncio
import hashlib
import html
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from starlette.requests import Request

from apps.board import findings as findings_module
from apps.board import panels, plots
from apps.board.decisions import last_decisions
from apps.board.findings import Coverage, Finder, Findings, find
from apps.board.page import build_board
from apps.session import RatingDesk
from benchmarks import board as benchmark
from benchmarks.crowd import CAREFUL, COIN, HASTY, LEFT, TURNED, Crowd, crowd
from data.records import Image, Prompt, Task
from data.store import Store
from data.workspace import Workspace
from hitl.core.live import Live
from tests.facts import a_rater, a_rating, a_store, a_task

SCRIPT = "<script>alert(1)</script>"


def many_tasks(count: int, *, kind: str = "pairwise", images: int = 2, overlap: int, prompts: int = 4) -> Any:
    """Prompts, images and tasks of one round; images of even tasks are the reference's, the others a policy's."""
    texts = [Prompt.of(f"prompt {number} & {SCRIPT}") for number in range(prompts)]
    drawn, tasks = [], []
    for number in range(count):
        prompt = texts[number % prompts]
        ids = tuple(hashlib.sha256(f"{kind}{number}/{each}".encode()).hexdigest() for each in range(images))
        drawn += [
            Image(
                image_id=each,
                prompt_id=prompt.prompt_id,
                round=1,
                width=64,
                height=64,
                provenance={"policy_round": number % 2},
            )
            for each in ids
        ]
        tasks.append(
            Task(
                task_id=f"t{number:03d}",
                round=1,
                kind=kind,
                prompt_id=prompt.prompt_id,
                image_ids=ids,
                overlap=overlap,
            )
        )
    return texts, drawn, tasks


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Eight raters, five of whom are odd, and 40 tasks that each of them rated."""
    with Store.open(Workspace(tmp_path_factory.mktemp("rated")), create=True) as store:
        people = Crowd(store, crowd(8))
        prompts, images, tasks = many_tasks(40, overlap=8)
        asked = people.add_tasks(1, prompts, images, tasks[:-1], checks=5)
        store.add_tasks([tasks[-1]])
        people.rate(asked, begin=datetime.now(UTC) - timedelta(hours=3), hours=3)
        yield store


@pytest.fixture(scope="module")
def findings(rated: Store) -> Findings:
    return find(rated, 1)


def test_odd_raters_are_pointed_at_and_the_careful_one_is_not(findings: Findings):
    doubts = {each.rater.name: " ".join(each.doubts) for each in findings.raters}
    assert "other way round" in doubts[TURNED]
    assert "hardly follows" in doubts[COIN]
    assert "left picture" in doubts[LEFT]
    assert "where" in doubts[HASTY]
    assert [name for name in doubts if name.startswith(("rater", CAREFUL)) and doubts[name]] == []
    assert [bool(each.doubts) for each in findings.raters] == [True] * 4 + [False] * 4  # those to look at come first
    assert findings.raters[-4].slopes is not None


def test_coverage_is_counted_by_hand(rated: Store, findings: Findings):
    """Eight answers to each task but the last, of which nobody was asked; 40 tasks over 4 prompts and 2 models."""
    prompts = tuple(prompt.text for prompt in rated.prompts())
    assert findings.coverage == Coverage(
        models=("reference", "policy of round 1"),
        prompts=prompts,
        answers=((80, None, 80, None), (None, 80, None, 72)),
    )
    assert len(findings.given) == 39 * 8 + 5 * 8 * 2


def test_agreement_is_of_all_that_several_rated(findings: Findings):
    assert set(findings.agreements) == {"Pairs"}
    assert findings.agreements["Pairs"].clusters == 39
    assert 0 < findings.agreements["Pairs"].low < findings.agreements["Pairs"].high < 0.6


def test_the_page_names_everybody_and_runs_nothing_that_somebody_wrote(findings: Findings):
    page = panels.overview(findings) + panels.raters(findings, everybody=True, chosen=None)
    for each in findings.raters:
        assert html.escape(each.rater.name) in page
    assert SCRIPT not in page
    assert html.escape(SCRIPT) in page


@pytest.mark.parametrize(
    ("kind", "images"), [("ranking", 4), ("best", 5), ("grades", 2), ("good_bad", 1), ("pairwise", 2)]
)
def test_every_kind_has_its_board_and_its_decisions(tmp_path: Path, kind: str, images: int):
    with Store.open(Workspace(tmp_path), create=True) as store:
        people = Crowd(store, crowd(3))
        prompts, drawn, tasks = many_tasks(3, kind=kind, images=images, overlap=3)
        people.add_tasks(1, prompts, drawn, tasks)
        assert people.rate(tasks, begin=datetime.now(UTC) - timedelta(minutes=9), hours=0.1) == 9
        found = find(store, 1)
        assert all(each.answers == 3 and each.dwell_s for each in found.raters)
        assert found.agreements
        assert panels.raters(found, everybody=True, chosen=None).count("<tr") == 4
        decisions = last_decisions(store, store.raters()[0])
        assert (decisions.count("<article"), decisions.count("<img")) == (3, 3 * images)


def test_decisions_are_those_of_one_rater_as_shown_with_all_that_was_added(tmp_path: Path):
    tasks = [a_task(f"t{number}", overlap=2) for number in range(3)]
    _, store = a_store(tmp_path, *tasks)
    with store:
        added = {"flags": [["hands"], []], "points": [[], [[0.25, 0.5]]], "note": SCRIPT}
        swapped = tasks[0].image_ids[::-1]
        payload = {"choice": "right"} | added
        store.add_rating(a_rating(tasks[0], "ann", payload=payload, image_ids=swapped, dwell_ms=1234))
        store.add_rating(a_rating(tasks[1], "ann", "both_bad"))
        store.add_rating(a_rating(tasks[1], "ann", None, voids=store.ratings()[-1].rating_id))
        store.add_rating(a_rating(tasks[2], "bob", payload={"choice": "skip", "reason": "broken"}))
        shown = last_decisions(store, store.raters()[0])
        others = last_decisions(store, store.raters()[1])
    first, second = shown.split("</article>")[:2]
    assert "both bad" in first
    assert "taken back" in first
    assert second.index(swapped[0]) < second.index(swapped[1])
    assert "chosen" in second[second.index(swapped[1]) :]
    assert "chosen" not in second[: second.index(swapped[1])]
    assert all(part in second for part in ("1.2 s", "hands", "left:25.0%;top:50.0%", html.escape(SCRIPT)))
    assert SCRIPT not in shown
    assert shown.count("<article") == 2
    assert "skipped" in others
    assert "broken" in others


def test_no_more_than_fifty_decisions_the_newest_first(tmp_path: Path):
    tasks = [a_task(f"t{number:02d}") for number in range(53)]
    _, store = a_store(tmp_path, *tasks)
    with store:
        for number, task in enumerate(tasks):
            store.add_rating(a_rating(task, "ann", dwell_ms=1000 * number))
        shown = last_decisions(store, store.raters()[0])
    assert shown.count("<article") == 50
    assert shown.index(">52.0 s") < shown.index(">51.0 s")
    assert ">2.0 s" not in shown


def test_an_empty_store_and_a_lone_rater_get_words_in_place_of_numbers(tmp_path: Path):
    tasks = [a_task(f"t{number}") for number in range(2)]
    _, store = a_store(tmp_path, *tasks)
    with store:
        empty = find(store, None)
        said = panels.overview(empty) + panels.raters(empty, everybody=False, chosen=None)
        for words in ("No ratings yet", "No answers yet", "nothing has answers of two raters", "Nobody has rated yet"):
            assert words in said
        for task in tasks:
            store.add_rating(a_rating(task, "ann", "tie"))
        alone = find(store, 1)
        said = panels.overview(alone) + panels.raters(alone, everybody=False, chosen=None)
        assert "Nothing has answers of two raters yet." in said
        assert "Nobody stands out." in said
        assert "nan" not in said


def test_constant_answers_are_no_agreement(tmp_path: Path):
    tasks = [a_task(f"t{number}", overlap=2) for number in range(3)]
    _, store = a_store(tmp_path, *tasks)
    with store:
        for task in tasks:
            for rater in ("ann", "bob"):
                store.add_rating(a_rating(task, rater, "left"))
        said = panels.overview(find(store, 1))
    assert "All answers are the same, so there is no telling agreement from chance." in said


def test_what_did_not_change_is_worked_out_once_and_what_did_not_at_once(tmp_path: Path):
    tasks = [a_task("t0"), a_task("t1")]
    _, store = a_store(tmp_path, *tasks)
    with store:
        finder = Finder(store)
        first = settled(finder)
        assert settled(finder) is first
        store.add_rating(a_rating(tasks[0], "ann"))
        assert settled(finder) is first  # for another 15 s
        finder._kept[1].next_at = time.monotonic()
        assert finder.latest(1) is first  # the page does not wait for the next
        deadline = time.monotonic() + 30
        while settled(finder) is first and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(settled(finder).given) == 1


def test_as_many_facts_as_before_a_deletion_are_not_the_same_facts(tmp_path: Path):
    """Eve's two lines go, the one that says so comes, and a rater joins: the last fact has the number that it had."""
    task = a_task("t0", overlap=9)
    _, store = a_store(tmp_path, task)
    with store:
        finder, eve = Finder(store), a_rater("eve")
        store.add_rater(eve)
        store.add_rating(a_rating(task, "eve"))
        first = settled(finder)
        store.erase_rater("eve", ratings="delete")
        store.add_rater(eve)
        assert store.position == first.position.seq
        assert finder.latest(1) is not first  # nor once more while others are worked out
        assert (len(first.given), len(settled(finder).given)) == (1, 0)


def test_what_was_being_worked_out_during_an_erasure_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    task = a_task("t0", overlap=9)
    _, store = a_store(tmp_path, task)
    found: list[Findings] = []

    def find_and_erase(store: Store, round: int | None) -> Findings:
        found.append(find(store, round))
        if len(found) == 1:
            store.erase_rater("eve", ratings="keep")
        return found[-1]

    monkeypatch.setattr(findings_module, "find", find_and_erase)
    with store:
        store.add_rater(a_rater("eve"))
        store.add_rating(a_rating(task, "eve"))
        shown = settled(Finder(store))
    assert shown is found[1]
    assert [rater.rater.name for rater in found[0].raters] == ["Eve"]
    assert [rater.rater.name[:6] for rater in shown.raters] == ["erased"]


def settled(finder: Finder) -> Findings:
    while (found := finder.latest(1)) is None:
        pass
    return found


# -- who may ----------------------------------------------------------------------------------------------------------


def a_request() -> gr.Request:
    return gr.Request(request=Request({"type": "http", "headers": [], "session": {}}))  # pyright: ignore[reportArgumentType]


class Click(gr.EventData):
    def __init__(self, rater: str) -> None:
        super().__init__(None, {"rater": rater})


def functions(store: Store, *, is_researcher: bool) -> dict[str, Any]:
    async def build() -> gr.Blocks:  # within a running loop, as the server does
        return build_board(RatingDesk(store, Live()), lambda request: is_researcher)[0]

    page = asyncio.run(build())
    return {found.fn.__name__: found.fn for found in page.fns.values() if found.fn is not None}


ARGUMENTS = {
    "numbers": (),
    "quality": ("newest", "all", None),
    "stages": (None, "within each round"),
    "decisions": ("newest", "all", None),
}


def test_every_function_of_the_board_refuses_whoever_is_no_researcher(rated: Store):
    """Asked past all gates; a function that is added later is asked too."""
    known = functions(rated, is_researcher=False)
    assert set(known) == set(ARGUMENTS)
    click = Click(rated.raters()[0].rater_id)
    for name, function in known.items():
        arguments = (*ARGUMENTS[name], a_request(), *([click] if name == "decisions" else []))
        with pytest.raises(gr.Error, match="for the researcher"):
            function(*arguments)


def test_the_researcher_gets_it_all_and_a_second_click_closes(rated: Store):
    known, request = functions(rated, is_researcher=True), a_request()
    rater = next(rater for rater in rated.raters() if rater.name == LEFT)
    assert "392/400" not in known["numbers"](request)
    _, overview, table, again = settled_quality(known["quality"], request)
    assert "Coverage" in overview
    assert again["value"] == 15
    assert LEFT in table
    chosen, table, decisions = known["decisions"]("newest", "all", None, request, Click(rater.rater_id))
    assert (chosen, decisions.count("<article")) == (rater.rater_id, 49)
    assert 'aria-pressed="true"' in table
    assert known["decisions"]("newest", "all", chosen, request, Click(rater.rater_id))[::2] == (None, "")
    assert known["decisions"]("newest", "all", None, request, Click("../../etc"))[::2] == (None, "")


def settled_quality(quality: Any, request: gr.Request) -> tuple[Any, str, str, Any]:
    while not (found := quality("newest", "all", None, request))[2]:
        assert found[3]["value"] == 3  # the page asks again soon
    return found


# -- plots ------------------------------------------------------------------------------------------------------------


def test_seconds_fall_into_their_bins():
    """Edges 0.1, 0.141, 0.2, ...: 0.15 is in the second; what is beyond the ends is in the last and the first."""
    counts = plots.dwell_bins([0, 0.05, 0.12, 0.15, 0.21, 86400])
    assert counts[:3] == [3, 1, 1]
    assert (counts[-1], sum(counts)) == (1, 6)


def test_an_estimate_beyond_the_axis_lies_at_its_end():
    drawn = plots.estimate(9.0, float("nan"), low=0, high=1, marks=(), label='a "label"')
    assert 'cx="126' in drawn
    assert "whisker" not in drawn
    assert 'aria-label="a &quot;label&quot;"' in drawn


def test_the_benchmark_runs(tmp_path: Path):
    result = benchmark.measure(tmp_path, raters=6, ratings=60)
    assert result["ratings"] >= 60
    assert result["page_s"]["most"] < 60
