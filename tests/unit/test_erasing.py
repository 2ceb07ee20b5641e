"""An erasure reaches every file of the workspace, is finished whatever dies on the way, and says what it did."""

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import data.erased_files
import data.erasing
import data.receipts
from data.at_work import Files, files_alone
from data.copies import Copy, note_copy
from data.erasing import Erasures
from data.integrity import check
from data.receipts import in_words, read_receipts
from data.records import Account, Rater
from data.store import Store
from data.workspace import Workspace
from hitl.commands import backup, export
from hitl.commands.export import Asked
from tests.facts import WHEN, a_rating, a_store, a_task, everything
from tests.finished import finish_round, fit_outside

ONE, TWO = a_task("one"), a_task("two", round=2)
NAME, ID = "Zacharias Unforgettable", "1d000000000000000000000000000000"


class World:
    """Zed and Bob rated in two finished rounds, and once more was fitted outside of them."""

    def __init__(self, root: Path) -> None:
        self.workspace, self.store = a_store(root, ONE, TWO)
        for number in (1, 2):
            self.store.start_round(number, "sha")
        note_copy(self.workspace, a_copy("before-zed", self.store.position))
        self.store.add_rater(Rater(rater_id=ID, name=NAME, kind="human", created_at=WHEN))
        self.store.set_account(Account(rater_id=ID, password_hash="argon2-hash"))
        for task in (ONE, TWO):
            self.store.add_rating(a_rating(task, ID, rating_id=f"{task.task_id}-zed"))
            self.store.add_rating(a_rating(task, "bob", rating_id=f"{task.task_id}-bob"))
        note_copy(self.workspace, a_copy("with-zed", self.store.position))
        self.before = {number: finish_round(self.workspace, self.store, number) for number in (1, 2)}
        fit_outside(self.workspace, self.store, 2)
        (root / "store.duckdb.before-rebuild").write_bytes(NAME.encode())
        imports = root / "imports"
        imports.mkdir()
        refused = [{"row": 1, "rater": NAME}, {"row": 2, "rater": "Bob"}, {"row": 3, "text": f"by {NAME}"}]
        (imports / "x-refused.jsonl").write_text("".join(json.dumps(row) + "\n" for row in refused))
        self.reports: list[int] = []

    def erasures(self) -> Erasures:
        return Erasures(store=self.store, workspace=self.workspace, write_report=self._write_report)

    def _write_report(self, workspace: Workspace, number: int) -> Path:
        self.reports.append(number)
        return workspace.round_dir(number) / "report.html"

    def reopen(self) -> None:
        self.store.close()
        self.store = Store.open(self.workspace)


def a_copy(name: str, seq: int) -> Copy:
    return Copy(kind="backup", path=Path("/backups") / name, made_at=datetime.now(UTC), seq=seq, has_names=True)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = World(tmp_path_factory.mktemp("template") / "workspace")
    made.store.close()
    return made.workspace.root


@pytest.fixture
def world(template: Path, tmp_path: Path) -> Iterator[World]:
    made = opened(shutil.copytree(template, tmp_path / "workspace"))
    yield made
    made.store.close()


def erase(world: World, ratings: Any) -> Any:
    world.erasures().begin(ID, ratings)
    (receipt,) = world.erasures().finish()
    return receipt


def new_id_of(world: World) -> str:
    """By which the journal's last line says that somebody was erased."""
    last = json.loads(world.workspace.journal_path.read_text().splitlines()[-1])
    assert last["event"] == "rater_erased"
    return last["data"]["rater_id"]


def rated(world: World, number: int) -> dict[str, Any]:
    """The manifest of a round's ratings."""
    manifest = world.workspace.manifest(number, "rate")
    assert manifest is not None
    return manifest


def files_with(root: Path, text: str) -> list[str]:
    return sorted(
        str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and text.encode() in path.read_bytes()
    )


def manifests_naming(root: Path, sha256: str) -> list[Any]:
    """Every JSON object in the workspace with that hash under `snapshot` or `snapshot_sha`, but for the notes."""
    found = []

    def look(value: Any) -> None:
        if isinstance(value, dict):
            found.extend(key for key in ("snapshot", "snapshot_sha") if value.get(key) == sha256)
            for key, item in value.items():
                if key != "erasures":
                    look(item)
        elif isinstance(value, list):
            for item in value:
                look(item)

    for path in root.rglob("*.json"):
        if path.parent.name != "erasures":
            look(json.loads(path.read_text()))
    return found


@pytest.mark.parametrize("fate", ["keep", "delete"])
def test_nothing_in_the_workspace_names_them_any_more(world: World, fate: str):
    root = world.workspace.root
    assert len(files_with(root, ID)) > 8
    receipt = erase(world, fate)
    assert receipt.pseudonym == f"erased {new_id_of(world)[:8]}"
    left = {"bob", new_id_of(world)} if fate == "keep" else {"bob"}
    assert {rater.rater_id for rater in world.store.raters()} == left | {"ann"}
    world.reopen()  # which drops old bytes of the store
    assert files_with(root, ID) == []
    assert (files_with(root, "one-zed") == []) is (fate == "delete")
    assert files_with(root, "one-bob") != []
    assert [each for each in check(world.workspace, world.store, quick=True).differences if each.kind != "image"] == []
    assert files_with(root, NAME) == ["imports/x-refused.jsonl"]  # in a sentence of somebody's, not as a rater
    rows = [json.loads(line) for line in (root / "imports" / "x-refused.jsonl").read_text().splitlines()]
    assert [row.get("rater") for row in rows] == [receipt.pseudonym, "Bob", None]
    for path in root.rglob("*.parquet"):
        assert set(pq.read_table(path)["rater_id"].to_pylist()) == left
    fitted = json.loads((root / "rounds/0002/fit/manifest.json").read_text())["report"]
    assert set(fitted["raters_fitted"]) == set(fitted["judgement"]["by_rater"]) == left
    assert {each["rater"] for each in fitted["mistakes"]} == left
    assert not (root / "store.duckdb.before-rebuild").exists()
    assert world.reports == [1, 2]


@pytest.mark.parametrize("fate", ["keep", "delete"])
def test_a_changed_snapshot_is_what_the_store_would_write_now(world: World, tmp_path: Path, fate: str):
    erase(world, fate)
    for number in (1, 2):
        again = world.store.write_snapshot(tmp_path / f"{number}.parquet", number)
        changed = world.workspace.round_dir(number) / "snapshot.parquet"
        assert pq.read_table(changed).equals(pq.read_table(again.path))
        assert pq.read_schema(changed).equals(pq.read_schema(again.path), check_metadata=True)


@pytest.mark.parametrize("fate", ["keep", "delete"])
def test_whatever_names_a_snapshot_names_the_changed_one_and_the_one_before(world: World, fate: str):
    root = world.workspace.root
    named = {number: len(manifests_naming(root, sha256)) for number, sha256 in world.before.items()}
    receipt = erase(world, fate)
    for number, before in world.before.items():
        now = hashlib.sha256((world.workspace.round_dir(number) / "snapshot.parquet").read_bytes()).hexdigest()
        assert now != before
        assert manifests_naming(root, before) == []
        assert len(manifests_naming(root, now)) == named[number]
        (note,) = rated(world, number)["erasures"]
        assert (note["snapshot"], note["rows"], note["pseudonym"]) == (before, number, receipt.pseudonym)
        card = (world.workspace.stage_dir(number, "train") / "policy" / "README.md").read_text()
        assert f"`{now}, before an erasure {before}`" in card


def test_two_erasures_one_after_the_other_leave_both_notes(world: World):
    world.store.add_rating(a_rating(TWO, "ann"))
    first = erase(world, "keep")
    world.erasures().begin("bob", "delete")
    (second,) = world.erasures().finish()
    notes = rated(world, 1)["erasures"]
    assert [note["pseudonym"] for note in notes] == [first.pseudonym, second.pseudonym]
    assert notes[0]["snapshot"] == world.before[1] != notes[1]["snapshot"]
    assert [each.pseudonym for each in read_receipts(world.workspace)] == [first.pseudonym, second.pseudonym]


# -- the receipt ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fate", ["keep", "delete"])
def test_the_receipt_counts_what_was_done_and_names_nobody(world: World, fate: str):
    receipt = erase(world, fate)
    (path,) = world.workspace.erasures_dir.iterdir()
    assert path.name == receipt.file_name
    text = path.read_text() + in_words(receipt, path)
    assert NAME not in text
    assert ID not in text
    assert read_receipts(world.workspace) == [receipt]
    derived = {"outcomes": 2} if fate == "delete" else {}  # which name no rater
    assert receipt.rows == {"accounts": 1, **derived, "raters": 1, "ratings": 2}
    assert receipt.journal_lines == 4  # joined, account, two ratings
    assert receipt.snapshots == {
        "fits/outside/snapshot.parquet": 2,
        "rounds/0001/snapshot.parquet": 1,
        "rounds/0002/snapshot.parquet": 2,
    }
    assert {"rounds/0001/fit/manifest.json", "rounds/0002/rate/manifest.json"} < set(receipt.files)
    assert receipt.removed == ("store.duckdb.before-rebuild",)
    assert [each["path"] for each in receipt.copies] == ["/backups/with-zed"]
    assert [each.path for each in receipt.learned_from] == [
        "fits/outside/reward",
        "rounds/0001/fit/reward",
        "rounds/0001/train/policy",
        "rounds/0002/fit/reward",
        "rounds/0002/train/policy",
    ]
    assert receipt.still_named == ()
    assert path.stat().st_mode & 0o077 == 0


def test_after_a_deletion_the_copies_that_hold_somebody_are_still_named(world: World):
    """Lines are numbered anew, what was noted of copies is not: of Eve, who came later, one too many is named."""
    erase(world, "delete")
    world.store.add_rater(Rater(rater_id="eve", name="Eve", kind="human", created_at=WHEN))
    note_copy(world.workspace, a_copy("with-eve", world.store.position))
    for rater_id, copies in (("bob", ["before-zed", "with-zed", "with-eve"]), ("eve", ["with-zed", "with-eve"])):
        receipt = world.erasures().begin(rater_id, "delete")
        assert [Path(each["path"]).name for each in receipt.copies] == copies


def test_the_receipt_says_when_the_stores_file_was_written_anew(world: World):
    receipt = erase(world, "keep")
    assert receipt.free_blocks == "held"
    assert "until the hub is started again" in in_words(receipt, Path("r"))
    world.reopen()
    world.erasures().finish()
    assert read_receipts(world.workspace)[0].free_blocks == "written anew"


def test_a_rebuild_does_not_keep_what_was_erased_in_the_file_that_it_sets_aside(world: World):
    erase(world, "delete")
    world.store.close()
    world.store = Store.rebuild(world.workspace)
    aside = world.workspace.root / "store.duckdb.before-rebuild"
    assert NAME.encode() in aside.read_bytes()
    world.erasures().finish()
    assert not aside.exists()
    (receipt,) = read_receipts(world.workspace)
    assert receipt.free_blocks == "written anew"
    assert aside.name in receipt.removed
    aside.touch()  # of another repair, after that
    world.erasures().finish()
    assert aside.exists()


def test_who_rated_in_no_snapshot_taught_no_model(world: World):
    world.erasures().begin("ann", "keep")
    (receipt,) = world.erasures().finish()
    assert receipt.learned_from == receipt.files == ()
    assert world.reports == []


def test_a_policy_that_is_yet_to_be_trained_against_their_reward_model_is_named(world: World):
    world.workspace.reopen(2, "train")
    last = erase(world, "keep").learned_from[-1]
    assert (last.path, last.is_there) == ("rounds/0002/train/policy", False)


def test_a_snapshot_that_cannot_be_read_is_named_and_the_rest_is_done(world: World):
    (world.workspace.round_dir(1) / "snapshot.parquet").write_bytes(b"no parquet")
    receipt = erase(world, "keep")
    assert receipt.still_named == ("rounds/0001/snapshot.parquet",)
    assert receipt.snapshots.keys() == {"fits/outside/snapshot.parquet", "rounds/0002/snapshot.parquet"}


def test_nobody_is_erased_who_is_not_there_and_nothing_is_left_of_it(world: World):
    before = everything(world.store)
    with pytest.raises(Exception, match="no rater 'nobody'"):
        world.erasures().begin("nobody", "keep")
    assert everything(world.store) == before
    assert list(world.workspace.erasures_dir.iterdir()) == []


# -- whatever dies on the way -----------------------------------------------------------------------------------------


class Killed(BaseException):
    """In place of a kill: nothing of ours catches it, and what it interrupts is left as it is."""


def killed_at(moment: int, monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> bool:
    """Whether `do` was killed: before the `moment`th change of a file."""
    left = iter(range(moment))

    def dying(change: Any) -> Any:
        def counted(*given: Any, **named: Any) -> Any:
            if next(left, None) is None:
                raise Killed
            return change(*given, **named)

        return counted

    with monkeypatch.context() as patch:
        for module in (data.erased_files, data.erasing, data.receipts):
            patch.setattr(module, "write_atomically", dying(module.write_atomically))
        patch.setattr(Path, "unlink", dying(Path.unlink))
        patch.setattr(Store, "erase_rater", dying(Store.erase_rater))
        try:
            do()
        except Killed:
            return True
    return False


def state(world: World) -> dict[str, Any]:
    """All that must be the same after an interrupted erasure, the new id and the times taken out."""
    (receipt,) = read_receipts(world.workspace)
    new_id, pseudonym = new_id_of(world), receipt.pseudonym
    found: dict[str, Any] = {}
    for path in sorted(world.workspace.root.rglob("*")):
        name = str(path.relative_to(world.workspace.root)).replace(pseudonym.replace(" ", "-"), "PSEUDONYM")
        if path.suffix == ".parquet":
            rows = pq.read_table(path).to_pylist()
            found[name] = sorted((row["task_id"], row["rater_id"] == new_id) for row in rows)
        elif path.suffix in (".json", ".md", ".jsonl") and path.parent != world.workspace.root:
            text = path.read_text().replace(new_id, "NEW").replace(pseudonym, "PSEUDONYM")
            found[name if "erasures" not in name else "receipt"] = len(text)
    return found


def opened(folder: Path) -> World:
    """A world whose files are there."""
    world = World.__new__(World)
    world.workspace, world.reports = Workspace(folder), []
    world.store = Store.open(world.workspace)
    world.before = {number: rated(world, number)["snapshot"] for number in (1, 2)}
    return world


def finished_by_whoever_comes_next(world: World) -> dict[str, Any]:
    """The state after two more starts: the first finishes what is left, the second drops old bytes of the store."""
    for _ in range(2):
        world.reopen()
        world.erasures().finish()
    found = state(world)
    world.store.close()
    return found


@pytest.mark.parametrize(
    ("fate", "stride"),
    [
        pytest.param("keep", 7, marks=pytest.mark.long),
        pytest.param("delete", 7, marks=pytest.mark.long),
        pytest.param("keep", 1, marks=pytest.mark.slow),
        pytest.param("delete", 1, marks=pytest.mark.slow),
    ],
)
def test_killed_before_any_change_it_is_finished_at_the_next_start(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fate: Any, stride: int
):
    """Killed before one change of a file after the other; whoever comes next ends where nobody was killed."""
    undisturbed = opened(shutil.copytree(template, tmp_path / "undisturbed"))
    erase(undisturbed, fate)
    wanted = finished_by_whoever_comes_next(undisturbed)
    moment, was_killed = 1, True
    while was_killed:
        world = opened(shutil.copytree(template, tmp_path / str(moment)))
        was_killed = killed_at(moment, monkeypatch, partial(erase, world, fate))
        assert finished_by_whoever_comes_next(world) == wanted, f"killed before change {moment}"
        assert files_with(world.workspace.root, ID) == []
        assert (files_with(world.workspace.root, "one-zed") == []) is (fate == "delete")
        moment += stride
    assert moment > 15


def test_what_was_half_written_when_somebody_was_killed_goes_too(world: World):
    """Of a table nobody can say whom it names; the other is not about them, and somebody may be at it."""
    root = world.workspace.root
    gone = [
        "erasures/.unfinished-0.json.a.tmp",
        "rounds/0001/.snapshot.parquet.b.tmp",
        "rounds/0001/fit/.fit.json.c.tmp",
    ]
    world.workspace.erasures_dir.mkdir()
    for name in gone:
        (root / name).write_text("" if "parquet" in name else f'{{"rater_id": "{ID}", "na')
    gone.append("imports/.x-refused.jsonl.e.tmp")
    (root / gone[-1]).write_text(f'{{"row": 1, "rater": "{NAME}"')
    (root / "rounds/.config.toml.d.tmp").write_text("seed = ")
    receipt = erase(world, "delete")
    assert [name for name in gone if (root / name).exists()] == []
    assert set(gone) < set(receipt.removed)
    assert (root / "rounds/.config.toml.d.tmp").exists()


def test_half_of_an_export_or_backup_goes_wherever_in_the_workspace_it_was_to_be(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Killed before each takes its name. What is there then is hidden from their clearing up, which a kill prevents."""
    root = world.workspace.root
    world.store.close()
    (root / "out").mkdir()

    def killed(do: Callable[[], object]) -> None:
        halves: list[Path] = []

        def die(source: Any, _: Any) -> None:
            halves.extend(each for each in (Path(source), Path(source).parent) if each.suffix == ".tmp")
            os.replace(halves[0], tmp_path / "half")
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", die)
            with pytest.raises(Killed):
                do()
        os.replace(tmp_path / "half", halves[0])

    killed(lambda: export.run(root / "rounds/one.csv", Asked(), root))
    killed(lambda: export.run(root / "out/two", Asked(format="jsonl", names=True), root))
    killed(lambda: backup.run(root / "out/three.tar", root, as_json=False))
    left = sorted(str(path.relative_to(root)) for path in root.rglob(".*.tmp"))
    assert [name.split(".")[1] for name in left] == ["three", "two", "one"]
    others = [root / "out/.theirs.abcd1234.tmp", root / "inner/.out.abcd1234.tmp/part.csv"]
    others[1].parent.mkdir(parents=True)
    (root / "inner/hitl.toml").touch()  # a workspace of its own
    for path in others:
        path.touch()
    world.store = Store.open(world.workspace)
    receipt = erase(world, "delete")
    assert sorted(root.rglob(".*.tmp")) == sorted([others[0], others[1].parent])
    assert all(path.exists() for path in others)
    assert set(left) < set(receipt.removed)


def test_an_export_during_an_erasure_is_let_be_and_named(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of a copy of the store, as a hub makes it: what the copy holds is written when it is erased already."""
    root, write_table = world.workspace.root, export.write_table
    world.store.copy_to(tmp_path / "copy.duckdb")

    def erase_meanwhile(*given: Any) -> int:
        world.erasures().begin(ID, "delete")
        assert world.erasures().finish() == []
        assert len(list(root.glob(".out.csv.*.tmp"))) == 1
        return write_table(*given)

    monkeypatch.setattr(export, "open_for_reading", lambda _: Store.open_snapshot(tmp_path / "copy.duckdb"))
    monkeypatch.setattr(export, "write_table", erase_meanwhile)
    export.run(root / "out.csv", Asked(names=True), root)
    assert NAME in (root / "out.csv").read_text()
    (receipt,) = world.erasures().finish()
    assert {"kind": "export", "path": str(root / "out.csv")}.items() <= receipt.copies[-1].items()


def test_killed_halfway_the_check_says_so_until_it_is_finished(world: World, monkeypatch: pytest.MonkeyPatch):
    def notes() -> list[str]:
        return [note for note in check(world.workspace, world.store, quick=True).notes if "erasure" in note]

    assert notes() == []
    assert killed_at(6, monkeypatch, partial(erase, world, "delete"))
    world.reopen()
    assert len(notes()) == 1
    world.erasures().finish()
    assert notes() == []


def test_killed_before_it_was_written_down_it_was_never_asked_for(world: World, monkeypatch: pytest.MonkeyPatch):
    assert killed_at(0, monkeypatch, partial(erase, world, "keep"))
    world.reopen()
    assert world.erasures().finish() == []
    assert world.store.rater_by_name(NAME) is not None


def test_while_files_are_in_use_store_and_journal_come_first_and_the_rest_when_they_are_free(world: World):
    root, files = world.workspace.root, Files(world.workspace)
    with files.in_use():
        begun = world.erasures().begin(ID, "keep")
        assert world.erasures().finish() == []
        assert ID not in world.workspace.journal_path.read_text()
        assert world.store.rater(ID) is None
        (receipt,) = read_receipts(world.workspace)
        assert receipt == begun
        assert receipt.finished_at is None
        assert "files follow" in in_words(receipt, Path("r"))
        snapshot = root / "rounds/0001/snapshot.parquet"
        assert hashlib.sha256(snapshot.read_bytes()).hexdigest() == world.before[1]
        with files.left():  # as a round does while people rate
            (done,) = world.erasures().finish()
        assert done.finished_at is not None
    assert read_receipts(world.workspace) == [done]
    assert files_with(root / "rounds", ID) == []


def test_it_is_finished_by_itself_when_the_work_is_over(world: World):
    with Files(world.workspace).in_use():
        world.erasures().begin(ID, "delete")
        world.erasures().finish_later()
        assert files_with(world.workspace.root / "rounds", ID) != []
    for thread in threading.enumerate():
        if thread.name == "erasure":
            thread.join(timeout=10)
    assert files_with(world.workspace.root / "rounds", ID) == []


def test_many_work_with_the_files_together_and_an_erasure_alone(tmp_path: Path):
    workspace = Workspace(tmp_path)
    with Files(workspace).in_use(), Files(workspace).in_use(), files_alone(workspace, wait=False) as is_alone:
        assert not is_alone
    with files_alone(workspace, wait=False) as is_alone, files_alone(workspace, wait=False) as other:
        assert (is_alone, other) == (True, False)
