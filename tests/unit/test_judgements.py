"""Tasks that judge models: nothing learns from them, no round waits for them, and raters cannot tell which they are."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from apps.session import RatingDesk
from data.answered import agreements, answered, votes_of
from data.assignment import Answer, Leases, RoundQueue
from data.integrity import check
from data.records import Task
from data.store import Store
from data.streams import Selection
from data.validation import check_task
from hitl.core.errors import ConfigError
from hitl.core.live import Live
from tests.facts import a_rating, a_store, a_task, everything

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
MODELS = ("policy of round 1", "reference")


def a_judgement(name: str, **changes: Any) -> Task:
    return replace(a_task(name), **{"purpose": "judge", "models": MODELS, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"models": None},
        {"models": ("one", "")},
        {"purpose": "learn"},
        {"purpose": "learn", "models": None, "study": "which"},
        {"repeats": "other"},
        {"worse": a_task("t").image_ids[0]},
        {"kind": "ranking", "image_ids": tuple("abcd")},
    ],
)
def test_a_judgement_names_the_models_of_its_two_images_and_nothing_else_does(changes: dict[str, Any]):
    check_task(a_judgement("t"))
    check_task(a_judgement("t", study="which"))
    with pytest.raises(ConfigError):
        check_task(a_judgement("t", **changes))


# -- who is asked when ------------------------------------------------------------------------------------------------


def a_queue(*tasks: Task) -> RoundQueue:
    return RoundQueue(round=1, tasks=tasks)


def offered(queue: RoundQueue, rater_id: str = "ann", **options: Any) -> list[str]:
    return [task.task_id for task in queue.open_to(rater_id, Leases(), limit=10, now=NOW, **options)]


def answer(queue: RoundQueue, task_id: str, rater_id: str = "ann") -> None:
    queue.note(task_id, rater_id, Answer(is_skip=False, at=NOW, displayed=("x", "y")))


def test_a_judgement_comes_between_the_tasks_of_its_round_and_never_after_the_last():
    queue = a_queue(a_judgement("j1"), a_task("t1"), a_judgement("j2"), a_task("t2"), a_judgement("j3"))
    assert offered(queue) == ["j1", "t1", "j2", "t2"]
    answer(queue, "t1")
    assert offered(queue) == ["j1", "j2", "t2"]
    answer(queue, "j1")
    answer(queue, "t2")
    assert offered(queue) == []
    progress = queue.progress(Leases(), now=NOW)
    assert (progress.done, progress.needed, progress.checks, progress.is_complete) == (2, 2, 1, True)


def test_a_judgement_is_asked_of_as_many_raters_as_its_overlap_says():
    queue = a_queue(a_judgement("j", overlap=2), a_task("t", overlap=9))
    for rater_id in ("ann", "bob"):
        assert offered(queue, rater_id) == ["j", "t"]
        answer(queue, "j", rater_id)
    assert offered(queue, "cleo") == ["t"]


def test_a_study_comes_when_there_is_nothing_else_to_rate_and_while_the_machine_works():
    study = a_judgement("s", study="which")
    queue = a_queue(study, a_task("t"))
    assert offered(queue) == ["t", "s"]
    assert offered(queue, studies_only=True) == ["s"]
    answer(queue, "t")
    assert offered(queue) == ["s"]
    answer(queue, "s", "bob")
    assert offered(queue) == []
    progress = queue.progress(Leases(), now=NOW)
    assert (progress.done, progress.checks, progress.studied, progress.to_study) == (1, 0, 1, 1)


def test_studies_outlast_the_round_they_began_in_and_need_none(tmp_path: Path):
    """Two tasks of a study made before any round; then a round begins, and its task comes first."""
    _, store = a_store(tmp_path, *(a_judgement(name, round=0, study="which") for name in ("s1", "s2")))
    with store:
        desk = RatingDesk(store, Live())
        desk.live.enter("rate", "Waiting for ratings")
        told = desk.next_tasks("ann", 3)
        assert [task["task_id"] for task in told["tasks"]] == ["s1", "s2"]
        assert (told["progress"]["done"], told["progress"]["needed"]) == (0, 2)
        store.add_rating(a_rating(a_judgement("s1"), "ann"))
        store.release("ann", ["s2"])  # else what they hold already comes first
        store.start_round(1, "sha")
        store.add_tasks([replace(a_task("s1"), task_id="t")])
        told = desk.next_tasks("ann", 3)
        assert [(task["task_id"], task["round"]) for task in told["tasks"]] == [("t", 1), ("s2", 1)]
        assert told["progress"] == {"round": 1, "done": 0, "needed": 1, "skipped": 0, "eta_s": None}
        assert {*told["tasks"][0]} == {*told["tasks"][1]}
        desk.live.enter("train", "Training")
        told = desk.next_tasks("ann", 3)
        assert (told["state"], [task["task_id"] for task in told["tasks"]]) == ("rating", ["s2"])
        assert (told["progress"]["done"], told["progress"]["needed"]) == (1, 3)


# -- what becomes of the answers --------------------------------------------------------------------------------------


def test_answers_are_judgements_and_nothing_that_could_be_learned_from(tmp_path: Path):
    tasks = [a_task("t"), a_judgement("j", overlap=2), a_judgement("s", study="which", models=("new", "old"))]
    workspace, store = a_store(tmp_path, *tasks)
    with store:
        seen = tasks[1].image_ids[::-1]
        store.add_rating(a_rating(tasks[0], "ann"))
        store.add_rating(a_rating(tasks[1], "ann", "right", image_ids=seen))
        store.add_rating(a_rating(tasks[1], "bob", "both_bad"))
        store.add_rating(a_rating(tasks[2], "bob", "skip"))
        store.add_rating(a_rating(tasks[2], "ann", "right"))
        found = store.judgements()
        assert [(each.rater_id, each.model, each.other, each.outcome, each.credit) for each in found] == [
            ("ann", *MODELS, "a", 1.0),  # the right one of what was shown the other way round
            ("bob", *MODELS, "tie", 0.5),
        ]
        assert [(each.model, each.outcome) for each in store.judgements(study="which")] == [("new", "b")]
        assert store.judgements(2) == []
        assert store.judgements(study="other") == []
        assert [each.task_id for each in store.comparisons()] == ["t"]
        assert store.answers() == store.write_snapshot(tmp_path / "s.parquet", 9).comparisons == 1
        assert sum(batch.num_rows for batch in store.streams(Selection()).pairs()) == 1
        said = answered(store)
        assert len(votes_of(said)) == 1
        assert agreements(said)["Pairs"].clusters == 0
        assert [each for each in check(workspace, store, quick=True).differences if each.kind != "image"] == []
        before = (everything(store), found)
    with Store.rebuild(workspace) as store:
        assert (everything(store), store.judgements()) == before


def test_the_newest_answer_of_a_rater_counts_and_an_undone_one_does_not(tmp_path: Path):
    task = a_judgement("j")
    _, store = a_store(tmp_path, task)
    with store:
        first = a_rating(task, "ann", server_time=NOW)
        store.add_rating(first)
        store.add_rating(a_rating(task, "ann", None, voids=first.rating_id, server_time=NOW + timedelta(seconds=1)))
        assert store.judgements() == []
        store.add_rating(a_rating(task, "ann", "tie"))
        assert [each.outcome for each in store.judgements()] == ["tie"]
