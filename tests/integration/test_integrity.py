"""`hitl db check` and `hitl db rebuild`: clean when all is well, and each thing that is wrong told in one line."""

import hashlib
import io
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pytest
from PIL import Image as Picture

from data.integrity import check
from data.records import Account, Image, Task
from data.store import Store
from data.workspace import Workspace
from hitl.commands.hub import running_hub
from tests.command import Hitl, run_hitl
from tests.facts import PROMPT, WHEN, a_rater, a_rating, everything

pytestmark = pytest.mark.long


def a_png(shade: int) -> bytes:
    file = io.BytesIO()
    Picture.new("RGB", (8, 8), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def fill(workspace: Workspace, store: Store, tasks: int = 3) -> list[Task]:
    """One finished `rate` stage over pictures that are there, with every kind of row that can be changed."""
    ids = [workspace.add_image(a_png(number)) for number in range(2 * tasks)]
    made = [
        Task(
            task_id=f"t{number}",
            round=1,
            kind="pairwise",
            prompt_id=PROMPT.prompt_id,
            image_ids=(ids[2 * number], ids[2 * number + 1]),
        )
        for number in range(tasks)
    ]
    store.add_prompts([PROMPT])
    store.start_round(1, "sha")
    store.add_images(
        Image(image_id=each, prompt_id=PROMPT.prompt_id, round=1, width=8, height=8, provenance={"seed": "s"})
        for each in ids
    )
    store.add_tasks(made)
    store.add_rater(a_rater("ann"))
    store.add_rater(a_rater("zed"))
    store.add_rater(a_rater("eve"))
    store.set_account(Account(rater_id="ann", role="admin", password_hash="x"))
    for task in made:
        store.add_rating(a_rating(task, "ann"))
    store.add_rating(a_rating(made[0], "ann", None, voids=store.ratings()[0].rating_id))
    store.add_rating(a_rating(made[1], "zed", payload={"choice": "tie", "note": "mine"}))
    store.add_rating(a_rating(made[2], "eve"))
    store.add_metrics(1, "train", [{"step": 1, "name": "loss", "value": float("inf")}])
    store.erase_rater("zed")
    store.erase_rater("eve", ratings="delete")
    frozen = store.write_snapshot(workspace.round_dir(1) / "snapshot.parquet", 1)
    workspace.write_manifest(1, "rate", {"snapshot": frozen.sha256})
    return made


@pytest.fixture
def hitl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Hitl:
    """Runs a command in the workspace `mine`: exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HITL_WORKSPACE", str(tmp_path / "mine"))

    return partial(run_hitl, capsys, monkeypatch)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Made once; each test changes a copy."""
    workspace = Workspace(tmp_path_factory.mktemp("filled") / "mine")
    with Store.open(workspace, create=True) as store:
        fill(workspace, store)
    (workspace.root / "hitl.toml").write_text("")
    return workspace


@pytest.fixture
def mine(filled: Workspace, tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "mine")
    shutil.copytree(filled.root, workspace.root)
    return workspace


def differences(hitl: Hitl, *words: str) -> list[dict[str, Any]]:
    code, out, err = hitl("db", "check", "--json", *words)
    found = json.loads(out)["differences"]
    assert code == (1 if found else 0)
    assert ("difference(s) found" in err) == bool(found)
    return found


def test_a_workspace_as_it_was_made_is_clean(hitl: Hitl, mine: Workspace):
    code, out, err = hitl("db", "check")
    assert (code, err) == (0, "")
    events = mine.journal_path.read_bytes().count(b"\n")
    assert out.splitlines() == [
        f"journal     {events} events, whose facts are those of the store",
        "images      6, all with files that hold what their names say",
        "snapshots   1, all as their rounds left them",
    ]
    assert "all with files that are there" in hitl("db", "check", "--quick")[1]


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE ratings SET dwell_ms = 1 WHERE rating_id = $1", "ratings has 1 row in the store alone"),
        ("DELETE FROM ratings WHERE rating_id = $1", "ratings has 1 row in the journal alone"),
        ("INSERT INTO outcomes FROM outcomes WHERE rating_id = $1", "outcomes has 1 row in the store alone"),
        ("UPDATE images SET provenance = '{}' WHERE $1 <> ''", "images has 6 rows in the store alone"),
        ("DELETE FROM accounts WHERE $1 <> ''", "accounts has 3 rows in the journal alone"),
        ("UPDATE metrics SET value = 1 WHERE $1 <> ''", "metrics has 1 row in the store alone"),
        ("UPDATE tasks SET propensity = 0.5 WHERE task_id = 't1' AND $1 <> ''", "tasks has 1 row in the store alone"),
    ],
)
def test_a_row_that_was_changed_is_found_and_a_rebuild_mends_it(hitl: Hitl, mine: Workspace, statement: str, told: str):
    with Store.open(mine) as store:
        before = everything(store)
        rating_id = store.ratings()[1].rating_id
    with duckdb.connect(str(mine.store_path)) as connection:
        connection.execute(statement, [rating_id])
    (found,) = differences(hitl)
    assert found["kind"] == "store"
    assert told in found["what"]
    assert "hitl db rebuild" in found["hint"]
    code, out, _ = hitl("db", "rebuild")
    assert code == 0
    assert "1 prompt, 6 images, 3 tasks, 5 ratings, 2 raters" in out
    assert (mine.root / "store.duckdb.before-rebuild").is_file()
    assert "store.duckdb.before-rebuild" in out
    assert differences(hitl) == []
    with Store.open(mine) as store:
        assert everything(store) == before


def test_a_journal_that_was_changed_is_found_also_where_no_start_looks_any_more(hitl: Hitl, mine: Workspace):
    content = mine.journal_path.read_bytes()
    mine.journal_path.write_bytes(content.replace(b"green heart", b"green heaps"))
    Store.open(mine).close()
    (found,) = differences(hitl)
    assert found["kind"] == "journal"
    assert "line 1 does not follow from line 0" in found["what"]
    code, out, err = hitl("db", "rebuild")
    assert (code, out) == (1, "")
    assert "was changed or damaged" in err
    mine.journal_path.write_bytes(content)
    assert differences(hitl) == []


@pytest.mark.parametrize(("how", "fault"), [("gone", "is missing"), ("changed", "is damaged"), ("link", "not a file")])
def test_an_image_whose_file_is_not_right_is_named(hitl: Hitl, mine: Workspace, how: str, fault: str):
    with Store.open(mine) as store:
        image_id = store.images()[3].image_id
    path = mine.image_path(image_id)
    content = path.read_bytes()
    path.unlink()
    if how == "changed":
        path.write_bytes(content[:-1] + b"\0")
    elif how == "link":
        (mine.root / "elsewhere.png").write_bytes(content)
        path.symlink_to(mine.root / "elsewhere.png")
    (found,) = differences(hitl)
    assert (found["kind"], image_id in found["what"], fault in found["what"]) == ("image", True, True)
    assert "backup" in found["hint"]
    assert len(differences(hitl, "--quick")) == (how == "gone")
    with Store.open(mine) as store:
        store.withdraw_image(image_id, fault)
    assert differences(hitl) == []
    assert "1 images are withdrawn" in hitl("db", "check")[1]


def test_many_lost_images_are_counted_and_files_of_no_image_are_a_note(hitl: Hitl, tmp_path: Path, mine: Workspace):
    with Store.open(mine) as store:
        store.add_images(
            Image(
                image_id=hashlib.sha256(str(number).encode()).hexdigest(),
                prompt_id=PROMPT.prompt_id,
                round=1,
                width=8,
                height=8,
            )
            for number in range(130)
        )
    mine.add_image(a_png(250))
    (mine.images_dir / "notes.txt").write_text("mine")
    code, out, _ = hitl("db", "check")
    lines = out.splitlines()
    assert code == 1
    assert sum(line.startswith("differs     The image ") for line in lines) == 100
    assert "differs     30 more images are missing or damaged. Put them back as well." in lines
    assert any(line.startswith("note        2 files under images/ belong to no image") for line in lines)


@pytest.mark.parametrize("how", ["gone", "changed", "manifest"])
def test_a_snapshot_that_a_round_did_not_freeze_is_found(hitl: Hitl, mine: Workspace, how: str):
    path = mine.round_dir(1) / "snapshot.parquet"
    if how == "gone":
        path.unlink()
    elif how == "changed":
        path.write_bytes(path.read_bytes() + b"\0")
    else:
        (mine.stage_dir(1, "rate") / "manifest.json").write_text("{")
    (found,) = differences(hitl)
    assert found["kind"] == "snapshot"
    assert {"gone": "is missing", "changed": "is not the one", "manifest": "not valid JSON"}[how] in found["what"]


def test_a_copy_is_compared_with_the_journal_up_to_it_while_the_store_goes_on(mine: Workspace, tmp_path: Path):
    with Store.open(mine) as store:
        store.copy_to(tmp_path / "copy.duckdb")
        store.add_rater(a_rater("bob"))
        store.add_rating(a_rating(store.tasks()[0], "bob"))
        with Store.open_snapshot(tmp_path / "copy.duckdb") as copy:
            found = check(mine, copy)
        assert (found.differences, found.events) == ([], store.position - 2)
        with mine.journal_path.open("ab") as file:
            file.write(b'{"a line that follows from none": 1}\n')
        with Store.open_snapshot(tmp_path / "copy.duckdb") as copy:
            (wrong,) = check(mine, copy).differences
    assert f"line {found.events + 3} does not follow" in wrong.what


@pytest.mark.slow
def test_a_hub_that_runs_is_checked_by_a_copy_while_raters_go_on_and_refuses_a_rebuild(hitl: Hitl, mine: Workspace):
    with running_hub(mine.root, ["server.port=0"], create=False) as served:
        store = served.hub.store
        store.add_rater(a_rater("bob"))
        for task in store.tasks():
            store.add_rating(a_rating(task, "bob", server_time=WHEN))
            assert differences(hitl) == []
        before = mine.journal_path.read_bytes()
        code, out, err = hitl("db", "rebuild")
        assert (code, out) == (1, "")
        assert "is held by process" in err
        lines = before.splitlines(keepends=True)
        mine.journal_path.write_bytes(b"".join([lines[0].replace(b"green", b"Green"), *lines[1:]]))
        (found,) = differences(hitl)
        assert "line 1 does not follow" in found["what"]
        mine.journal_path.write_bytes(before)
    assert differences(hitl) == []


def test_no_store_is_made_by_looking_at_it(hitl: Hitl, mine: Workspace, tmp_path: Path):
    before = sorted(path.name for path in mine.root.rglob("*"))
    differences(hitl)
    assert sorted(path.name for path in mine.root.rglob("*")) == before
    code, out, err = hitl("db", "check", "-w", tmp_path / "nowhere")
    assert (code, out) == (1, "")
    assert "There is no store" in err
    assert not (tmp_path / "nowhere").exists()
