"""The store: what goes in comes out, once; leases and progress; copies, crashes and other versions."""

import hashlib
import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from data.database import STORAGE_VERSION, Database
from data.journal import Journal, read_entries
from data.records import FINISHED, FROM_FOLDER, IMPORTED, Account, Prompt, Rating
from data.store import Store
from data.workspace import Workspace
from hitl.core.errors import ConfigError, StoreError
from tests.facts import PROMPT, WHEN, a_rater, a_rating, a_store, a_task, an_image, everything, fill, image_id

ONE, TWO, THREE = a_task("one"), a_task("two"), a_task("three")


# -- facts ------------------------------------------------------------------------------------------------------------


def test_facts_come_back_as_they_were_given_also_after_reopening(tmp_path: Path):
    workspace, store = a_store(tmp_path, ONE, TWO)
    rating = a_rating(ONE, "ann", "left", image_ids=ONE.image_ids[::-1])
    store.start_round(1, "abc")
    store.add_rating(rating)
    store.add_metrics(1, "train", [{"step": 1, "name": "loss", "value": 0.25}])
    for opened in (store, None):
        if opened is None:
            store.close()
            opened = Store.open(workspace)
        assert opened.prompts() == [PROMPT]
        assert opened.tasks() == [ONE, TWO]
        assert opened.task("two") == TWO
        assert opened.image(image_id("one-a")) == an_image("one-a")
        assert len(opened.images(1)) == 4
        assert opened.raters() == [a_rater("ann"), a_rater("bob")]
        assert opened.rater_by_name("ANN") == opened.rater("ann") == a_rater("ann")
        assert opened.ratings() == [rating]
        assert opened.metrics(1)[0].value == 0.25
        assert opened.rounds()[0].config_sha == "abc"
        assert opened.comparisons()[0].outcome == "b"
        assert opened.comparisons()[0].left == "b"
    opened.close()


def test_what_is_not_there_is_none_or_empty(tmp_path: Path):
    _, store = a_store(tmp_path)
    with store:
        assert store.image("0" * 64) is None
        assert store.task("none") is None
        assert store.rater("none") is None
        assert store.rater_by_name("none") is None
        assert store.lease("ann", limit=3) == []
        assert store.comparisons() == store.rounds() == store.ratings() == store.metrics(1) == []
        assert store.progress(1).is_complete


def test_adding_again_changes_nothing(tmp_path: Path):
    workspace, store = a_store(tmp_path, ONE, TWO)
    with store:
        before = workspace.journal_path.read_bytes()
        fill(store, ONE, TWO)
        store.start_round(1, "abc")
        after_start = workspace.journal_path.read_bytes()
        store.start_round(1, "abc")
        store.set_round_state(1, "started")
        assert workspace.journal_path.read_bytes() == after_start
        assert after_start.startswith(before)
        assert after_start.count(b"\n") == before.count(b"\n") + 1


def test_a_known_prompt_keeps_its_split(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    _, store = a_store(tmp_path)
    with store, caplog.at_level(logging.WARNING):
        assert store.add_prompts([replace(PROMPT, split="heldout"), Prompt.of("new", split="heldout")]) == 1
        assert [prompt.text for prompt in store.prompts(split="heldout")] == ["new"]
        assert [prompt.text for prompt in store.prompts(task="colour")] == ["a green heart"]
    assert "stays what it was" in caplog.text


@pytest.mark.parametrize("text", ["", "  \n", "\ud800"])
def test_a_prompt_that_is_no_text_is_refused(text: str):
    with pytest.raises(ConfigError):
        Prompt.of(text)


def test_the_same_bytes_drawn_in_two_rounds_are_in_both(tmp_path: Path):
    _, store = a_store(tmp_path, ONE)
    with store:
        store.add_images([an_image("one-a", round=2)])
        assert [found.image_id for found in store.images(2)] == [image_id("one-a")]
        found = store.image(image_id("one-a"))
        assert found is not None
        assert found.round == 1


def test_facts_that_hang_in_the_air_are_refused(tmp_path: Path):
    _, store = a_store(tmp_path)
    with store:
        with pytest.raises(StoreError, match="no prompt"):
            store.add_images([an_image("x", prompt=Prompt.of("unknown"))])
        with pytest.raises(StoreError, match=r"no image .* \(2 unknown"):
            store.add_tasks([ONE])
        with pytest.raises(StoreError, match="never started"):
            store.set_round_state(4, "draw")
        with pytest.raises(ConfigError, match="1 different images"):
            store.add_tasks([replace(ONE, image_ids=(ONE.image_ids[0],) * 2)])
        with pytest.raises(ConfigError, match="called 'ANN'"):
            store.add_rater(replace(a_rater("ann2"), name="ANN"))
        with pytest.raises(ConfigError, match="time zone"):
            store.add_rater(replace(a_rater("eve"), created_at=datetime(2026, 1, 1)))


def test_a_round_is_finished_once_and_can_go_on(tmp_path: Path):
    _, store = a_store(tmp_path)
    with store:
        store.start_round(1, "abc")
        store.set_round_state(1, "rate")
        assert store.rounds()[0].finished_at is None
        store.set_round_state(1, FINISHED)
        (found,) = store.rounds()
        assert found.state == FINISHED
        assert found.finished_at is not None
        assert found.finished_at >= found.started_at
        store.start_round(1, "def")
        assert store.rounds()[0].config_sha == "def"
        assert len(store.rounds()) == 1


def test_metrics_replace_each_other_by_step_and_name_and_keep_nan(tmp_path: Path):
    _, store = a_store(tmp_path)
    with store:
        store.add_metrics(
            1, "train", [{"step": 1, "name": "kl", "value": 0.5}, {"step": 0, "name": "kl", "value": 0.1}]
        )
        store.add_metrics(1, "train", [{"step": 1, "name": "kl", "value": float("inf")}])
        store.add_metrics(1, "fit", [{"step": 0, "name": "accuracy", "value": 1}])
        assert [row.step for row in store.metrics(1, "train")] == [0, 1]
        assert math.isnan(store.metrics(1, "train")[1].value)
        assert [row.name for row in store.metrics(1)] == ["accuracy", "kl", "kl"]


# -- ratings ----------------------------------------------------------------------------------------------------------


def test_a_rating_sent_twice_counts_once(tmp_path: Path):
    _, store = a_store(tmp_path, ONE)
    with store:
        rating = a_rating(ONE, "ann")
        assert store.add_rating(rating)
        assert not store.add_rating(rating)
        assert not store.add_rating(a_rating(ONE, "ann", "right"))
        assert len(store.ratings()) == 1
        assert store.progress(1).done == 1


def test_undo_takes_an_answer_back_and_offers_the_task_again_first(tmp_path: Path):
    _, store = a_store(tmp_path, ONE, TWO, THREE)
    with store:
        store.lease("ann", limit=3)
        first = a_rating(ONE, "ann")
        store.add_rating(first)
        assert [offer.task.task_id for offer in store.lease("ann", limit=3)] == ["two", "three"]
        undo = a_rating(ONE, "ann", None, voids=first.rating_id)
        assert store.add_rating(undo)
        assert not store.add_rating(a_rating(ONE, "ann", None, voids=first.rating_id))
        assert store.comparisons() == []
        assert store.progress(1).done == 0
        assert store.lease("ann", limit=1)[0].task == ONE
        assert store.add_rating(a_rating(ONE, "ann", "right"))
        assert [found.outcome for found in store.comparisons()] == ["b"]
        assert [rating.voids for rating in store.ratings()] == [None, first.rating_id, None]


def test_a_correction_voids_and_answers_in_one_row(tmp_path: Path):
    _, store = a_store(tmp_path, ONE)
    with store:
        first = a_rating(ONE, "ann", "left")
        store.add_rating(first)
        second = a_rating(ONE, "ann", "tie", voids=first.rating_id)
        assert store.add_rating(second)
        assert [found.outcome for found in store.comparisons()] == ["tie"]
        assert store.progress(1).done == 1
        with pytest.raises(ConfigError, match="undone already"):
            store.add_rating(a_rating(ONE, "ann", "right", voids=first.rating_id))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task_id": "none"}, "no task"),
        ({"rater_id": "none"}, "no rater"),
        ({"kind": "likert"}, "pairwise, not likert"),
        ({"image_ids": (image_id("one-a"), image_id("two-b"))}, "not those of task"),
        ({"image_ids": (image_id("one-a"),) * 2}, "not those of task"),
        ({"payload": {"choice": "up"}}, "choice 'up'"),
        ({"payload": {}}, "no answer"),
        ({"payload": {"choice": "left", "note": "\ud800"}}, "cannot be stored"),
        ({"payload": {"choice": "left", "note": float("nan")}}, "cannot be stored"),
        ({"dwell_ms": -1}, "dwell_ms"),
        ({"dwell_ms": 900.7}, "dwell_ms is 900.7"),
        ({"dwell_ms": "900"}, "dwell_ms is '900'"),
        ({"dwell_ms": True}, "dwell_ms is True"),
        ({"decide_ms": 900.7}, "decide_ms is 900.7"),
        ({"voids": "none"}, "not an answer of this rater"),
        ({"server_time": datetime(2026, 1, 1)}, "time zone"),
    ],
)
def test_a_rating_that_does_not_fit_is_refused_and_leaves_no_trace(tmp_path: Path, changes: dict, message: str):
    workspace, store = a_store(tmp_path, ONE, TWO)
    with store:
        before = workspace.journal_path.read_bytes()
        with pytest.raises(ConfigError, match=message):
            store.add_rating(replace(a_rating(ONE, "ann"), **changes))
        assert workspace.journal_path.read_bytes() == before
        assert store.add_rating(a_rating(ONE, "ann"))


def test_nobody_voids_somebody_elses_rating(tmp_path: Path):
    _, store = a_store(tmp_path, ONE, TWO)
    with store:
        rating = a_rating(ONE, "ann")
        store.add_rating(rating)
        for task, rater in ((ONE, "bob"), (TWO, "ann")):
            with pytest.raises(ConfigError, match="not an answer of this rater"):
                store.add_rating(a_rating(task, rater, None, voids=rating.rating_id))
        undo = a_rating(ONE, "ann", None, voids=rating.rating_id)
        store.add_rating(undo)
        with pytest.raises(ConfigError, match="not an answer of this rater"):
            store.add_rating(a_rating(ONE, "ann", None, voids=undo.rating_id))


# -- leases and progress ----------------------------------------------------------------------------------------------


def _leased(store: Store, rater: str, limit: int = 3, **more) -> list[str]:
    return [offer.task.task_id for offer in store.lease(rater, limit=limit, **more)]


def test_two_raters_never_hold_one_task(tmp_path: Path):
    _, store = a_store(tmp_path, ONE, TWO, THREE)
    with store:
        assert _leased(store, "ann", 2) == ["one", "two"]
        assert _leased(store, "bob", 2) == ["three"]
        assert _leased(store, "ann", 2) == ["one", "two"]
        store.release("ann", ["one"])
        assert _leased(store, "bob", 2) == ["three", "one"]
        assert _leased(store, "ann", 2) == ["two"]


def test_overlap_says_how_many_raters_share_a_task(tmp_path: Path):
    _, store = a_store(tmp_path, a_task("one", overlap=2))
    with store:
        store.add_rater(a_rater("eve"))
        assert _leased(store, "ann") == _leased(store, "bob") == ["one"]
        assert _leased(store, "eve") == []
        store.add_rating(a_rating(ONE, "ann"))
        assert _leased(store, "eve") == []
        store.release("bob", ["one"])
        assert _leased(store, "eve") == ["one"]
        assert store.progress(1).needed == 2


def test_a_lease_runs_out_and_asking_again_renews_a_living_one(tmp_path: Path):
    _, store = a_store(tmp_path, ONE, TWO)
    with store:
        assert _leased(store, "ann", 2, lease_s=60, now=WHEN) == ["one", "two"]
        assert _leased(store, "ann", 1, lease_s=60, now=WHEN + timedelta(seconds=59)) == ["one"]
        later = WHEN + timedelta(seconds=61)
        assert _leased(store, "bob", 2, now=later) == ["two"]
        assert _leased(store, "ann", 2, now=later) == ["one"]
        assert store.add_rating(a_rating(TWO, "ann")), "late is not wrong"
        assert _leased(store, "bob", 2, now=later) == []


def test_only_the_newest_round_is_offered(tmp_path: Path):
    _, store = a_store(tmp_path, ONE)
    with store:
        assert _leased(store, "ann") == ["one"]
        fill(store, a_task("next", round=2))
        assert _leased(store, "ann") == ["next"]
        assert store.progress(1).needed == 1


def test_sides_are_random_per_rater_and_reproducible(tmp_path: Path):
    tasks = [a_task(f"t{number:03d}", overlap=2) for number in range(200)]
    workspace, store = a_store(tmp_path, *tasks)
    with store:
        ann, bob = store.lease("ann", limit=200), store.lease("bob", limit=200)
    with Store.open(workspace) as store:
        assert store.lease("ann", limit=200) == ann
    # 200 fair coins: 5 sigma = 35 away from 100.
    assert 65 < sum(offer.image_ids == offer.task.image_ids for offer in ann) < 135
    assert 65 < sum(a.image_ids == b.image_ids for a, b in zip(ann, bob, strict=True)) < 135
    assert ann[0].prompt == PROMPT.text


def test_a_skip_frees_the_slot_for_others(tmp_path: Path):
    _, store = a_store(tmp_path, ONE)
    with store:
        store.add_rating(a_rating(ONE, "ann", "skip"))
        assert _leased(store, "ann") == []
        assert _leased(store, "bob") == ["one"]
        store.add_rating(a_rating(ONE, "bob", "left"))
        progress = store.progress(1)
        assert (progress.done, progress.needed, progress.skipped) == (1, 1, 0)


def test_a_skip_ends_the_round_unless_another_active_rater_could_still_answer(tmp_path: Path):
    _, store = a_store(tmp_path, ONE, TWO)
    with store:
        store.add_rating(a_rating(ONE, "ann", "skip"))
        alone = store.progress(1, now=WHEN)
        assert (alone.done, alone.needed, alone.skipped) == (0, 1, 1)
        store.add_rating(a_rating(TWO, "bob"))
        joined = store.progress(1, now=WHEN)
        assert (joined.done, joined.needed, joined.skipped, joined.is_complete) == (1, 2, 0, False)
        gone = store.progress(1, now=WHEN + timedelta(hours=1))
        assert (gone.done, gone.needed, gone.skipped, gone.is_complete) == (1, 1, 1, True)
        store.add_rating(a_rating(ONE, "bob", "skip"))
        assert store.progress(1, now=WHEN).is_complete


def test_what_a_rater_answered_is_counted_without_skips_undone_ones_and_other_rounds(tmp_path: Path):
    later = a_task("later", round=2)
    workspace, store = a_store(tmp_path, ONE, TWO, THREE, later)
    store.add_rating(a_rating(ONE, "ann"))
    store.add_rating(a_rating(TWO, "ann", "skip"))
    store.add_rating(a_rating(THREE, "bob"))
    store.add_rating(a_rating(later, "ann"))
    counts = [store.answered(name, number) for name in ("ann", "bob", "eve") for number in (1, 2)]
    assert counts == [1, 1, 1, 0, 0, 0]
    store.close()
    with Store.open(workspace) as store:
        assert [store.answered(name, number) for name in ("ann", "bob", "eve") for number in (1, 2)] == counts


def test_pace_is_of_the_latest_ratings_and_survives_reopening(tmp_path: Path):
    """Three ratings, 10 s and 20 s apart: two gaps in 30 s are 4 a minute."""
    workspace, store = a_store(tmp_path, ONE, TWO, THREE)
    for task, seconds in ((ONE, 0), (TWO, 10), (THREE, 30)):
        store.add_rating(a_rating(task, "ann", server_time=WHEN + timedelta(seconds=seconds)))
    expected = store.progress(1, now=WHEN)
    assert expected.per_minute == pytest.approx(4)
    assert expected.last_rating_at == WHEN + timedelta(seconds=30)
    store.close()
    with Store.open(workspace) as store:
        assert store.progress(1, now=WHEN) == expected


# -- threads ----------------------------------------------------------------------------------------------------------


def test_many_threads_rate_and_read_without_mixing_rows(tmp_path: Path):
    tasks = [a_task(f"t{number:02d}") for number in range(40)]
    _, store = a_store(tmp_path, *tasks)
    raters = [f"rater{number}" for number in range(4)]
    with store:
        for name in raters:
            store.add_rater(a_rater(name))
        start = threading.Barrier(len(raters))

        def work(name: str) -> int:
            start.wait()
            count = 0
            while offers := store.lease(name, limit=2):
                found = store.rater(name)
                assert found is not None
                assert found.rater_id == name
                assert {task.task_id for task in store.tasks(1)} == {task.task_id for task in tasks}
                rating = a_rating(offers[0].task, name)
                assert store.add_rating(rating)
                assert all(row.rater_id == name for row in store.ratings(rater_id=name))
                count += 1
            return count

        with ThreadPoolExecutor(len(raters)) as pool:
            counts = list(pool.map(work, raters))
        assert sum(counts) == 40
        assert set(Counter(rating.task_id for rating in store.ratings()).values()) == {1}
        assert store.progress(1).done == 40


# -- copies -----------------------------------------------------------------------------------------------------------


def test_a_snapshot_depends_on_what_was_rated_not_on_when_or_in_which_order(tmp_path: Path):
    answers = [(ONE, "ann", "left"), (TWO, "bob", "tie"), (THREE, "ann", "skip"), (TWO, "ann", "both_bad")]
    found = []
    for name, order, when in (("x", answers, WHEN), ("y", answers[::-1], datetime.now(UTC))):
        (tmp_path / name).mkdir()
        _, store = a_store(tmp_path / name, ONE, a_task("two", overlap=2), THREE)
        with store:
            for task, rater, choice in order:
                store.add_rating(a_rating(task, rater, choice, server_time=when))
            found.append(store.write_snapshot(tmp_path / f"{name}.parquet", 1))
    first, second = found
    assert first.sha256 == second.sha256 == hashlib.sha256(first.path.read_bytes()).hexdigest()
    assert first.comparisons == 3
    rows = pq.read_table(first.path).to_pylist()
    assert [(row["task_id"], row["rater_id"], row["outcome"], row["both_bad"]) for row in rows] == [
        ("one", "ann", "a", False),
        ("two", "ann", "tie", True),
        ("two", "bob", "tie", False),
    ]
    assert rows[0]["prompt"] == PROMPT.text
    assert (rows[0]["task"], rows[0]["split"], rows[0]["left"]) == ("colour", "train", "a")
    assert (rows[0]["image_a"], rows[0]["image_b"]) == ONE.image_ids


def test_a_snapshot_stops_at_its_round_and_may_be_empty(tmp_path: Path):
    later = a_task("later", round=2)
    _, store = a_store(tmp_path, ONE, later)
    with store:
        empty = store.write_snapshot(tmp_path / "empty.parquet", 1)
        assert (empty.comparisons, pq.read_table(empty.path).num_rows) == (0, 0)
        store.add_rating(a_rating(ONE, "ann"))
        store.add_rating(a_rating(later, "ann"))
        assert store.write_snapshot(tmp_path / "one.parquet", 1).comparisons == 1
        assert store.write_snapshot(tmp_path / "two.parquet", 2).comparisons == 2


def test_a_copy_holds_everything_and_cannot_be_changed(tmp_path: Path):
    _, store = a_store(tmp_path / "live", ONE, TWO)
    store.add_rating(a_rating(ONE, "ann"))
    path = tmp_path / "it's a copy.duckdb"
    store.copy_to(path)
    with pytest.raises(StoreError, match="there already"):
        store.copy_to(path)
    with Store.open_snapshot(path) as copy:
        assert everything(copy) == everything(store)
        assert copy.progress(1).done == 1
        with pytest.raises(StoreError, match="read-only"):
            copy.add_rating(a_rating(TWO, "ann"))
    store.add_rating(a_rating(TWO, "ann"))
    store.close()


def test_what_is_no_copy_is_refused(tmp_path: Path):
    (tmp_path / "text.duckdb").write_text("no database")
    for name in ("missing.duckdb", "text.duckdb"):
        with pytest.raises(StoreError, match="cannot be read"):
            Store.open_snapshot(tmp_path / name)


def test_the_file_has_the_format_that_older_versions_read(tmp_path: Path):
    workspace, store = a_store(tmp_path, ONE)
    store.copy_to(tmp_path / "copy.duckdb")
    store.close()
    for path in (workspace.store_path, tmp_path / "copy.duckdb"):
        with duckdb.connect(str(path), read_only=True) as connection:
            query = "SELECT tags['storage_version'] FROM duckdb_databases() WHERE NOT internal"
            assert connection.execute(query).fetchall() == [(f"{STORAGE_VERSION}+",)]


# -- crashes and versions ---------------------------------------------------------------------------------------------


def _rated(folder: Path) -> tuple[Workspace, dict]:
    workspace, store = a_store(folder, ONE, TWO, THREE)
    store.start_round(1, "abc")
    store.add_rating(a_rating(ONE, "ann"))
    first = a_rating(TWO, "ann", "skip")
    store.add_rating(first)
    store.add_rating(a_rating(TWO, "ann", None, voids=first.rating_id))
    store.add_metrics(1, "train", [{"step": 0, "name": "loss", "value": float("nan")}])
    store.set_round_state(1, FINISHED)
    facts = everything(store)
    store.close()
    return workspace, facts


def test_a_lost_store_is_made_again_from_the_journal(tmp_path: Path):
    workspace, facts = _rated(tmp_path)
    workspace.store_path.unlink()
    with Store.open(workspace) as store:
        assert everything(store) == facts


def test_rebuild_gives_the_same_store_and_keeps_the_old_one(tmp_path: Path):
    workspace, facts = _rated(tmp_path)
    for _ in range(2):
        with Store.rebuild(workspace) as store:
            assert everything(store) == facts
            store.add_rating(a_rating(THREE, "bob"))
            facts = everything(store)
    assert workspace.store_path.with_name("store.duckdb.before-rebuild").exists()


def test_a_fact_that_reached_only_the_journal_is_caught_up(tmp_path: Path):
    """The process died between the journal's fsync and the commit."""
    workspace, facts = _rated(tmp_path)
    rating = a_rating(THREE, "bob", "right")
    journal = Journal.open(workspace.journal_path)
    journal.append("rating_added", _as_event(rating), datetime.now(UTC))
    journal.close()
    with Store.open(workspace) as store:
        assert store.ratings() == [*facts["ratings"], rating]
        assert not store.add_rating(rating)


def test_a_fact_that_reached_only_the_journal_is_caught_up_while_running(tmp_path: Path):
    """The commit failed after the journal's fsync; the client sends the rating again."""
    _, store = a_store(tmp_path, ONE, TWO)
    with store:
        rating = a_rating(ONE, "ann")
        assert store._journal is not None
        store._journal.append("rating_added", _as_event(rating), datetime.now(UTC))
        assert not store.add_rating(rating)
        assert store.ratings() == [rating]
        assert store.add_rating(a_rating(TWO, "ann"))
        assert store.progress(1).done == 2


def test_what_was_caught_up_while_running_replaces_what_was_remembered(tmp_path: Path):
    _, store = a_store(tmp_path, ONE, TWO)
    with store:
        assert [offer.task for offer in store.lease("ann", limit=2)] == [ONE, TWO]
        assert not store.account("ann").is_disabled
        assert store._journal is not None
        store._journal.append("rating_added", _as_event(a_rating(ONE, "ann")), datetime.now(UTC))
        account = asdict(Account(rater_id="ann", is_disabled=True))
        store._journal.append("account_set", account, datetime.now(UTC))
        assert not store.add_rating(a_rating(ONE, "ann", "right"))  # under another id: that answer stands
        assert store.account("ann").is_disabled
        assert [offer.task for offer in store.lease("ann", limit=2)] == [TWO]


def test_what_was_taken_back_before_the_store_was_opened_is_known(tmp_path: Path):
    workspace, store = a_store(tmp_path, ONE)
    with store:
        first = a_rating(ONE, "ann")
        store.add_rating(first)
        store.add_rating(a_rating(ONE, "ann", None, voids=first.rating_id))
    with Store.open(workspace) as store:
        assert store.lease("ann", limit=1)[0].task == ONE
        assert not store.add_rating(a_rating(ONE, "ann", None, voids=first.rating_id))  # undone already
        assert store.add_rating(a_rating(ONE, "ann", "right"))


def test_an_imported_answer_stands_though_nobody_is_asked_about_its_task(tmp_path: Path):
    """Round 0 has both: tasks that people here are asked, and imported ones."""
    asked = replace(a_task("asked", round=0), policy=FROM_FOLDER)
    imported = replace(a_task("imported", round=0), policy=IMPORTED)
    workspace, store = a_store(tmp_path, asked, imported)
    first = a_rating(imported, "ann")
    with store:
        assert store.add_ratings([first]) == [True]
    with Store.open(workspace) as store:
        assert [offer.task for offer in store.lease("ann", limit=2)] == [asked]  # the round is in memory now
        assert store.task("imported") == imported
        assert not store.add_rating(a_rating(imported, "ann", "right"))
        assert store.answered("ann", 0) == 0
        assert store.add_rating(a_rating(imported, "ann", None, voids=first.rating_id))


def test_what_was_taken_by_itself_is_taken_among_others(tmp_path: Path):
    """A number for a text: DuckDB takes it, Arrow does not, and a rebuild inserts many rows at a time."""
    workspace = Workspace(tmp_path)
    with Store.open(workspace, create=True) as store:
        store.add_prompts([replace(PROMPT, task=7)])
        store.add_prompts([Prompt.of("two"), replace(Prompt.of("three"), split=3)])
        told = store.prompts()
        assert [(prompt.task, prompt.split) for prompt in told] == [("7", "train"), ("", "train"), ("", "3")]
    with Store.rebuild(workspace) as store:
        assert store.prompts() == told


def _as_event(rating: Rating) -> dict:
    fields = ("rating_id", "task_id", "rater_id", "kind", "payload", "image_ids", "dwell_ms", "client_time")
    data = {name: getattr(rating, name) for name in fields}
    more = {"app_version": rating.app_version, "voids": rating.voids, "server_time": rating.server_time.isoformat()}
    return {**data, **more, "task_image_ids": sorted(rating.image_ids, key=rating.image_ids.index)}


_FULL = """
import resource, sys
from pathlib import Path
from data.database import write_ahead_log
from hitl.core.errors import StoreError
from tests.facts import a_rating, a_store, a_task

tasks = [a_task(f"task {number}") for number in range(40)]
workspace, store = a_store(Path(sys.argv[1]), *tasks)
log = write_ahead_log(workspace.store_path)
size = max(path.stat().st_size for path in (log, workspace.journal_path) if path.exists())
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40_000, hard))
try:
    for task in tasks:
        store.add_rating(a_rating(task, "ann"))
        print(task.task_id)
except StoreError as error:
    print(f"failed: {error}")
assert log.stat().st_size > size + 20_000 > workspace.journal_path.stat().st_size, "the log was to fill first"
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
store.add_rating(a_rating(tasks[-1], "bob"))
"""


def test_a_commit_that_finds_the_disk_full_loses_nothing_acknowledged(tmp_path: Path):
    """A file size limit stands in for the full disk: it lets the journal grow and not the write-ahead log."""
    run = subprocess.run([sys.executable, "-c", _FULL, str(tmp_path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    *acknowledged, said = run.stdout.splitlines()
    assert said.startswith("failed: The store could not be written: ")
    assert acknowledged
    with Store.open(Workspace(tmp_path)) as store:
        kept = [rating.task_id for rating in store.ratings(rater_id="ann")]
        assert len(store.ratings(rater_id="bob")) == 1
    # Whether the one that failed is in the journal depends on how far DuckDB came (1.4 and 2.0 differ).
    assert kept in (acknowledged, [*acknowledged, f"task {len(acknowledged)}"])


def test_a_damaged_write_ahead_log_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The log is kept by copying the files while the store is open: what a kill -9 leaves behind."""
    live, dead = tmp_path / "live", tmp_path / "dead"
    _, store = a_store(live, ONE, TWO, THREE)
    for task in (ONE, TWO, THREE):
        store.add_rating(a_rating(task, "ann"))
    facts = everything(store)
    dead.mkdir()
    for path in live.iterdir():
        (dead / path.name).write_bytes(path.read_bytes())
    store.close()
    log = dead / "store.duckdb.wal"
    content = bytearray(log.read_bytes())
    content[content.index(b"gold_answers")] ^= 0xFF  # in a name: a damaged length is taken for a torn end
    log.write_bytes(content)
    with caplog.at_level(logging.WARNING), Store.open(Workspace(dead)) as store:
        assert everything(store) == facts
    assert "Set aside" in caplog.text


def test_following_the_hint_for_a_damaged_file_works(tmp_path: Path):
    workspace, facts = _rated(tmp_path)
    workspace.store_path.write_bytes(b"\0" * 20_000)
    with pytest.raises(StoreError, match="cannot be opened") as caught:
        Store.open(workspace)
    assert "Move store.duckdb and store.duckdb.wal away" in caught.value.hint
    workspace.store_path.unlink()
    with Store.open(workspace) as store:
        assert everything(store) == facts


def test_a_store_and_a_journal_of_different_ages_are_refused(tmp_path: Path):
    workspace, _ = _rated(tmp_path)
    lines = workspace.journal_path.read_bytes().splitlines(keepends=True)
    workspace.journal_path.write_bytes(b"".join(lines[:-2]))
    with pytest.raises(StoreError, match="different ages"):
        Store.open(workspace)
    workspace.journal_path.write_bytes(b"".join(lines))
    Store.open(workspace).close()


def test_a_newer_store_and_a_newer_journal_are_refused(tmp_path: Path):
    workspace, _ = _rated(tmp_path)
    journal = Journal.open(workspace.journal_path)
    journal.append("dream_added", {}, datetime.now(UTC))
    journal.close()
    with pytest.raises(StoreError, match="'dream_added'") as caught:
        Store.open(workspace)
    assert "newer version" in caught.value.hint
    with duckdb.connect(str(workspace.store_path)) as connection:
        connection.execute("UPDATE store_state SET schema_version = 99")
    with pytest.raises(StoreError, match="schema version 99"):
        Store.open(workspace)
    with pytest.raises(StoreError, match="schema version 99"):
        Store.open_snapshot(workspace.store_path)


def test_no_store_no_journal_and_a_closed_store_are_said(tmp_path: Path):
    with pytest.raises(StoreError, match="no store") as caught:
        Store.open(Workspace(tmp_path))
    assert "hitl init" in caught.value.hint
    assert not list(tmp_path.iterdir())
    with pytest.raises(StoreError, match="no journal"):
        Store.rebuild(Workspace(tmp_path))
    _, store = a_store(tmp_path)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.prompts()
    with pytest.raises(StoreError, match="closed"):
        store.add_prompts([PROMPT])


def test_the_journal_alone_tells_the_story(tmp_path: Path):
    workspace, _ = _rated(tmp_path)
    assert [entry.event for entry in read_entries(workspace.journal_path)] == [
        "prompts_added",
        "images_added",
        "tasks_added",
        "rater_added",
        "rater_added",
        "round_started",
        "rating_added",
        "rating_added",
        "rating_added",
        "metrics_added",
        "round_state_set",
    ]
    assert json.loads(workspace.journal_path.read_text().splitlines()[9])["data"]["rows"][0]["value"] is None


def test_ctrl_c_that_meets_a_query_is_still_ctrl_c(tmp_path: Path):
    database = Database.open(tmp_path / "store.duckdb")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job has it ignored
    stop = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    stop.start()
    # DuckDB may look for signals only when the query is over: it takes seconds, not hours.
    with pytest.raises(KeyboardInterrupt):
        database.rows("SELECT max(hash(range)) FROM range(1500000000)")
    stop.join()
    signal.signal(signal.SIGINT, before)
    assert database.rows("SELECT 42") == [(42,)]
    database.close()
