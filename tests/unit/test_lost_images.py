"""Pictures whose files are gone or damaged: who is told, what is asked, and that rounds end all the same."""

import io
import logging
import os
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image as Picture

from apps.lost_images import lost_in_words, original, restore_images
from apps.session import Refused
from data.records import Image, Task
from data.store import Store
from data.workspace import Workspace
from tests.facts import PROMPT, a_rater, a_rating, everything

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def a_picture(workspace: Workspace, shade: int) -> str:
    file = io.BytesIO()
    Picture.new("RGB", (8, 8), (shade, 0, 0)).save(file, "PNG")
    return workspace.add_image(file.getvalue())


@pytest.fixture
def shown(tmp_path: Path) -> tuple[Workspace, Store, list[str], list[Task]]:
    """Three tasks of two images each; the first two share their first image, and a check shows the third's."""
    workspace = Workspace(tmp_path / "workspace")
    store = Store.open(workspace, create=True)
    ids = [a_picture(workspace, shade) for shade in range(5)]
    pairs = [(ids[0], ids[1]), (ids[0], ids[2]), (ids[3], ids[4])]
    fields = {"round": 1, "kind": "pairwise", "prompt_id": PROMPT.prompt_id}
    tasks = [Task(task_id=f"t{n}", image_ids=pair, overlap=2, **fields) for n, pair in enumerate(pairs)]
    tasks.append(Task(task_id="gold", image_ids=(ids[0], ids[3]), purpose="gold", worse=ids[0], **fields))
    store.add_prompts([PROMPT])
    store.add_images(
        Image(image_id=image_id, prompt_id=PROMPT.prompt_id, round=1, width=8, height=8) for image_id in ids
    )
    store.start_round(1, "sha")
    store.add_tasks(tasks)
    for name in ("ann", "bob"):
        store.add_rater(a_rater(name))
    return workspace, store, ids, tasks


def spoil(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "cut short":
        os.truncate(path, path.stat().st_size - 1)
    elif how == "another picture":
        other = next(other for other in path.parent.parent.rglob("*.png") if other != path)
        path.write_bytes(other.read_bytes())
    elif how == "link":
        path.rename(path.with_suffix(".aside"))
        path.symlink_to(path.with_suffix(".aside"))
    else:
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize("how", ["missing", "cut short", "another picture", "link", "folder"])
def test_tasks_with_a_lost_picture_are_asked_no_more_and_it_is_told_once(
    shown: tuple[Workspace, Store, list[str], list[Task]], how: str, caplog: pytest.LogCaptureFixture
):
    workspace, store, ids, _ = shown
    with store:
        original(store, workspace, ids[0])
        assert lost_in_words(store) == ""
        spoil(workspace.image_path(ids[0]), how)
        for _ in range(3):
            with caplog.at_level(logging.ERROR), pytest.raises(Refused) as refusal:
                original(store, workspace, ids[0])
            assert refusal.value.status == 404
        (line,) = caplog.records
        assert str(workspace.image_path(ids[0])) in line.getMessage()
        assert ids[0][:12] in lost_in_words(store)
        for rater_id in ("ann", "bob"):
            assert [offer.task.task_id for offer in store.lease(rater_id, limit=10)] == ["t2"]


def test_a_round_ends_without_the_tasks_that_are_withdrawn(shown: tuple[Workspace, Store, list[str], list[Task]]):
    """6 slots; t0 has one of its 2 answers when its picture is lost, t1 none: 3 are left, of which 1 is filled."""
    _, store, ids, tasks = shown
    with store:
        store.add_rating(a_rating(tasks[0], "ann", server_time=NOW))
        store.add_rating(a_rating(tasks[1], "bob", "skip", server_time=NOW))
        now = store.progress(1, now=NOW)
        assert (now.done, now.needed, now.skipped) == (1, 5, 1)  # nobody but Ann could still answer what Bob skipped
        store.withdraw_image(ids[0], "is missing")
        now = store.progress(1, now=NOW)
        assert (now.done, now.needed, now.skipped) == (1, 3, 0)
        for rater_id in ("ann", "bob"):
            store.add_rating(a_rating(tasks[2], rater_id, server_time=NOW))
        assert store.progress(1, now=NOW).is_complete
        store.add_rating(a_rating(tasks[1], "ann", server_time=NOW))  # late is not wrong
        now = store.progress(1, now=NOW)
        assert (now.done, now.needed, now.is_complete) == (4, 4, True)
        assert len(store.ratings()) == 5


def test_nothing_is_learned_from_a_lost_picture_and_its_answers_stay(
    shown: tuple[Workspace, Store, list[str], list[Task]], tmp_path: Path
):
    _, store, ids, tasks = shown
    with store:
        store.add_rating(a_rating(tasks[0], "ann"))
        store.add_rating(a_rating(tasks[2], "ann"))
        store.withdraw_image(ids[1], "is missing")
        assert store.answers(1) == 1
        assert len(store.comparisons(1)) == 2
        store.write_snapshot(tmp_path / "snapshot.parquet", 1)
        assert pq.read_table(tmp_path / "snapshot.parquet")["task_id"].to_pylist() == ["t2"]
        assert [image.image_id for image in store.usable_images(1)] == [ids[0], *ids[2:]]


def test_what_is_withdrawn_outlasts_a_restart_and_a_rebuild_and_comes_back_with_the_file(
    shown: tuple[Workspace, Store, list[str], list[Task]],
):
    workspace, store, ids, _ = shown
    path = workspace.image_path(ids[0])
    aside = path.rename(path.with_suffix(".aside"))
    with pytest.raises(Refused):
        original(store, workspace, ids[0])
    before = everything(store), store.withdrawn_images()
    store.close()
    for open_store in (Store.open, Store.rebuild):
        with open_store(workspace) as store:
            assert (everything(store), store.withdrawn_images()) == before
            restore_images(store, workspace)  # the file is not back yet
            assert len(store.withdrawn_images()) == 1
    aside.rename(path)
    with Store.open(workspace) as store:
        restore_images(store, workspace)
        assert store.withdrawn_images() == []
        assert {offer.task.task_id for offer in store.lease("ann", limit=10)} >= {"t0", "t1", "t2"}


def test_nobody_withdraws_what_was_never_drawn(shown: tuple[Workspace, Store, list[str], list[Task]]):
    workspace, store, _, _ = shown
    with store:
        for guess in ("0" * 64, "../../store.duckdb", ""):
            with pytest.raises(Refused):
                original(store, workspace, guess)
        assert store.withdrawn_images() == []
