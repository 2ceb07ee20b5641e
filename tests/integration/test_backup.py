"""`hitl backup` and `hitl restore`: of one moment, whole or refused, and nothing that is there is ever lost."""

import hashlib
import io
import itertools
import json
import os
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from data.backup import write_backup
from data.copies import copies
from data.records import Rating
from data.restore import restore_backup
from data.store import Store
from data.workspace import Workspace
from hitl.commands.hub import running_hub
from hitl.commands.reading import copy_of_store
from tests.command import Hitl, run_hitl
from tests.facts import a_rater, a_rating, everything
from tests.integration.test_integrity import a_png, fill
from tests.integration.test_rating_faults import can_mount

pytestmark = pytest.mark.long


@pytest.fixture
def hitl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Hitl:
    """Runs a command: exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HITL_WORKSPACE", raising=False)

    return partial(run_hitl, capsys, monkeypatch)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Made once; each test changes a copy."""
    workspace = Workspace(tmp_path_factory.mktemp("filled") / "mine")
    with Store.open(workspace, create=True) as store:
        fill(workspace, store)
    (workspace.root / "hitl.toml").write_text("# mine\n")
    return workspace


@pytest.fixture
def mine(filled: Workspace, tmp_path: Path) -> Workspace:
    """A workspace with a round that is under way, a fit, and all that is no part of a backup."""
    workspace = Workspace(tmp_path / "mine")
    shutil.copytree(filled.root, workspace.root)
    files = {
        "prompts.txt": "a green heart\n",
        "session.key": "secret",
        "rounds/0001/config.toml": "# 1",
        "rounds/0001/prompts.json": "[]",
        "rounds/0001/metrics.jsonl": "{}\n",
        "rounds/0001/draw/manifest.json": "{}",
        "rounds/0001/draw/result.json": "{}",
        "fits/abc/reward/head.json": "{}",
        "fits/abc/snapshot.parquet": "PAR1",
        "erasures/2026.json": "{}",
    }
    left_out = {
        "rounds/0001/fit/spec.json": "{}",
        "rounds/0001/fit/reward/head.json": "half",
        "fits/def/spec.json": "{}",
        "fits/def/reward/head.json": "half",
        "cache/display/x.png": "",
        "hub.json": "{}",
        ".hidden.txt": "",
        "old.hitl.tar": "",
        "models/big.bin": "",
        "store.duckdb.before-rebuild": "",
    }
    for name, content in (files | left_out).items():
        path = workspace.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (workspace.root / "rounds/0001/draw/link.txt").symlink_to("/etc/passwd")
    return workspace


def contents(folder: Path) -> dict[str, bytes]:
    """Of all files but those that a start writes: the store, whose facts are compared by themselves, and its lock."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("store.") and path.name != "copies.jsonl"
    }


def facts(workspace: Workspace) -> dict[str, Any]:
    with Store.open(workspace) as store:
        return everything(store)


def test_what_is_restored_is_what_was_backed_up(hitl: Hitl, mine: Workspace, tmp_path: Path):
    before = facts(mine)
    code, out, err = hitl("backup", "it.tar", "-w", mine.root)
    assert (code, err) == (0, "")
    file = tmp_path / "it.tar"
    assert str(file) in out
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    code, out, err = hitl("restore", file, "-w", tmp_path / "new")
    assert (code, err) == (0, "")
    assert "1 prompt, 6 images, 3 tasks, 5 ratings, 2 raters" in out
    new = Workspace(tmp_path / "new")
    found = contents(new.root)
    images = {f"images/{image.image_id[:2]}/{image.image_id}.png" for image in before["images"]}
    names = """hitl.toml prompts.txt session.key journal.jsonl rounds/0001/config.toml rounds/0001/prompts.json
        rounds/0001/metrics.jsonl rounds/0001/snapshot.parquet rounds/0001/draw/manifest.json
        rounds/0001/draw/result.json rounds/0001/rate/manifest.json fits/abc/reward/head.json fits/abc/snapshot.parquet
        erasures/2026.json"""
    assert set(found) == images | {*names.split()}
    assert found.items() <= contents(mine.root).items()
    assert facts(new) == before
    for name in ("store.duckdb", "journal.jsonl", "session.key", "copies.jsonl"):
        assert (new.root / name).stat().st_mode & 0o077 == 0
    assert hitl("db", "check", "-w", new.root)[0] == 0
    for workspace in (mine, new):
        assert [(copy.kind, copy.path, copy.has_names) for copy in copies(workspace)] == [("backup", file, True)]
    with Store.open(new) as store:
        assert store.add_rating(a_rating(store.tasks()[0], "ann"))


def test_the_file_is_a_tar_that_others_open_and_its_manifest_is_true(hitl: Hitl, mine: Workspace, tmp_path: Path):
    hitl("backup", "it.tar", "-w", mine.root)
    subprocess.run(["tar", "-xf", "it.tar", "--one-top-level=by-hand"], cwd=tmp_path, check=True)
    header, *lines = map(json.loads, (tmp_path / "by-hand/manifest.jsonl").read_text().splitlines())
    assert header["format"] == 1
    assert header["journal"]["offset"] == (tmp_path / "by-hand/journal.jsonl").stat().st_size
    sums = "".join(f"{line['sha256']}  {line['path']}\n" for line in lines)
    subprocess.run(["sha256sum", "-c", "-"], input=sums, text=True, cwd=tmp_path / "by-hand", check=True)
    with tarfile.open(tmp_path / "it.tar") as tar:
        assert tar.getnames() == [*(line["path"] for line in lines), "manifest.jsonl"]


def test_the_default_name_says_whose_and_when_and_nothing_is_overwritten(hitl: Hitl, mine: Workspace, tmp_path: Path):
    code, out, _ = hitl("backup", "-w", mine.root, "--json")
    path = Path(json.loads(out)["path"])
    assert code == 0
    assert path.parent == tmp_path
    assert path.match("mine-20??????T??????Z.hitl.tar")
    (tmp_path / "taken.tar").write_text("mine")
    for name, message in (("taken.tar", "there already"), ("none/x.tar", "no folder")):
        code, out, err = hitl("backup", name, "-w", mine.root)
        assert (code, out) == (2, "")
        assert message in err
    assert (tmp_path / "taken.tar").read_text() == "mine"
    assert list(tmp_path.glob(".*")) == []


@contextmanager
def rating_goes_on(store: Store) -> Iterator[threading.Condition]:
    """In another thread, as fast as it can, from the first rating on; the condition tells of every further one."""
    done = threading.Event()
    another = threading.Condition()

    def rate() -> None:
        for number in itertools.count():
            if done.is_set():
                return
            store.add_rater(a_rater(f"r{number}"))
            store.add_rating(a_rating(store.tasks()[number % 3], f"r{number}"))
            with another:
                another.notify_all()

    thread = threading.Thread(target=rate)
    thread.start()
    try:
        with another:
            assert another.wait(60)
        yield another
    finally:
        done.set()
        thread.join()


def is_a_beginning(file: Path, new: Workspace, all_of_them: list[Rating]) -> int:
    """How many ratings a backup holds: the first that there were, and what its own journal tells, or no restore."""
    restore_backup(file, new)
    with Store.open(new) as store:
        kept = store.ratings()
    assert kept == all_of_them[: len(kept)]
    return len(kept)


def test_a_backup_while_raters_rate_is_of_one_moment(mine: Workspace, tmp_path: Path):
    with Store.open(mine) as store:

        @contextmanager
        def copied() -> Iterator[Path]:
            path = tmp_path / f"{secrets.token_hex(4)}.duckdb"
            store.copy_to(path)
            yield path

        with rating_goes_on(store) as another:
            for number in range(2):
                with another:
                    assert another.wait(60)
                out = tmp_path / f"{number}.tar"
                write_backup(mine, out, copied, app_version="0.1.0", made_at=datetime.now(UTC))
        all_of_them = store.ratings()
    counts = [is_a_beginning(tmp_path / f"{n}.tar", Workspace(tmp_path / f"new{n}"), all_of_them) for n in range(2)]
    assert 6 <= counts[0] < counts[1] <= len(all_of_them)


@pytest.mark.slow
def test_a_backup_by_the_command_line_while_a_hub_runs(hitl: Hitl, mine: Workspace, tmp_path: Path):
    with running_hub(mine.root, ["server.port=0"], create=False) as served:
        with rating_goes_on(served.hub.store):
            assert hitl("backup", "it.tar", "-w", mine.root)[0] == 0
        all_of_them = served.hub.store.ratings()
    new = Workspace(tmp_path / "new")
    assert is_a_beginning(tmp_path / "it.tar", new, all_of_them) >= 6
    assert not new.hub_path.exists()
    assert hitl("db", "check", "-w", new.root)[0] == 0


def test_a_workspace_that_is_there_is_replaced_only_when_asked_and_then_kept(
    hitl: Hitl, mine: Workspace, tmp_path: Path
):
    hitl("backup", "it.tar", "-w", mine.root)
    with Store.open(mine) as store:
        store.add_rater(a_rater("later"))
    later = facts(mine)
    kept = [contents(mine.root)]
    code, out, err = hitl("restore", "it.tar", "-w", mine.root)
    assert (code, out) == (2, "")
    assert "--replace" in err
    assert contents(mine.root) == kept[0]
    for number, name in enumerate(("mine.before-restore", "mine.before-restore-2")):
        code, out, err = hitl("restore", "it.tar", "-w", mine.root, "--replace")
        assert (code, err) == (0, "")
        assert str(tmp_path / name) in out
        assert contents(tmp_path / name) == kept[number]
        kept.append(contents(mine.root))
        assert [str(copy.path) for copy in copies(mine)][-1] == str(tmp_path / name)
    assert facts(Workspace(tmp_path / "mine.before-restore")) == later
    assert "later" not in {rater.rater_id for rater in facts(mine)["raters"]}
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_hub_that_holds_the_target_is_not_taken_away(hitl: Hitl, mine: Workspace, tmp_path: Path):
    hitl("backup", "it.tar", "-w", mine.root)
    with Store.open(mine) as store:
        code, out, err = hitl("restore", "it.tar", "-w", mine.root, "--replace")
        assert (code, out) == (1, "")
        assert "is held by process" in err
        assert len(store.ratings()) == 5
    assert not (tmp_path / "mine.before-restore").exists()


def test_images_that_were_lost_before_are_said_and_the_rest_is_there(hitl: Hitl, mine: Workspace, tmp_path: Path):
    with Store.open(mine) as store:
        gone, bad = (image.image_id for image in store.images()[:2])
    mine.image_path(gone).unlink()
    mine.image_path(bad).write_bytes(a_png(99))
    code, out, _ = hitl("backup", "it.tar", "-w", mine.root)
    assert code == 0
    assert f"missing: the file of image {gone}" in out
    code, out, _ = hitl("restore", "it.tar", "-w", tmp_path / "new")
    assert code == 0
    lines = [line for line in out.splitlines() if line.startswith("As it was when the backup was made: The image")]
    assert sorted(line.split()[10].rstrip(":") for line in lines) == sorted([gone, bad])


# -- archives that are not what they say ------------------------------------------------------------------------------


def a_member(name: str, content: bytes = b"x", **changes: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in changes.items():
        setattr(info, key, value)
    return info, content


def rewritten(source: Path, target: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], Any]) -> Path:
    """A backup's members, changed, in a new file."""
    with tarfile.open(source) as tar:
        members = [(info, file.read()) for info in tar if (file := tar.extractfile(info))]
    change(members)
    with tarfile.open(target, "w") as tar:
        for info, content in members:
            info.size = len(content) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(content))
    return target


def _swap(members: list[Any], name: str, change: Callable[[bytes], bytes]) -> None:
    at = next(i for i, (info, _) in enumerate(members) if info.name == name)
    members[at] = (members[at][0], change(members[at][1]))


def _insert(*members: tuple[tarfile.TarInfo, bytes]) -> Callable[[list[Any]], None]:
    return lambda there: there.__setitem__(slice(-1, -1), members)


HOSTILE = {
    "a way out": _insert(a_member("../outside.txt")),
    "a way out inside": _insert(a_member("rounds/../../outside.txt")),
    "an absolute path": _insert(a_member("/tmp/outside.txt")),
    "a link out": _insert(a_member("rounds/x", type=tarfile.SYMTYPE, linkname="/etc")),
    "a hard link": _insert(a_member("rounds/x", type=tarfile.LNKTYPE, linkname="hitl.toml")),
    "a link and a file through it": _insert(
        a_member("rounds/x", type=tarfile.SYMTYPE, linkname="../.."), a_member("rounds/x/outside.txt")
    ),
    "a device": _insert(a_member("rounds/x", type=tarfile.CHRTYPE, devmajor=1, devminor=3)),
    "a pipe": _insert(a_member("rounds/x", type=tarfile.FIFOTYPE)),
    "a folder": _insert(a_member("rounds/x", type=tarfile.DIRTYPE)),
    "a file with holes": _insert(a_member("rounds/x", type=tarfile.GNUTYPE_SPARSE)),
    "a member twice": lambda members: members.insert(-1, members[2]),
    "a file as a folder": _insert(a_member("hitl.toml/x")),
    "a file more": _insert(a_member("notes.txt")),
    "a file that hitl runs by": _insert(a_member("hub.json")),
    "a file of another kind": _insert(a_member("run.sh")),
    "a hidden file": _insert(a_member(".bashrc")),
    "half a character": _insert(a_member("rounds/\udcff")),
    "a file less": lambda members: members.pop(3),
    "another order": lambda members: members.insert(0, members.pop(2)),
    "no manifest": lambda members: members.pop(),
    "a member after the manifest": lambda members: members.append(a_member("notes.txt")),
    "a changed file": lambda members: _swap(members, "hitl.toml", lambda _: b"[server]\nhost = '0.0.0.0'\n"),
    "a changed journal": lambda members: _swap(members, "journal.jsonl", lambda old: old.replace(b"heart", b"hands")),
    "no store": lambda members: members.pop(0),
    "a manifest of nonsense": lambda members: _swap(members, "manifest.jsonl", lambda _: b"\xff\n"),
    "a deep manifest": lambda members: _swap(members, "manifest.jsonl", lambda _: b"[" * 100_000 + b"\n"),
    "a newer format": lambda members: _swap(
        members, "manifest.jsonl", lambda old: old.replace(b'"format": 1', b'"format": 2')
    ),
}


@pytest.fixture(scope="module")
def good(filled: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = Workspace(tmp_path_factory.mktemp("good") / "mine")
    shutil.copytree(filled.root, workspace.root)
    out = workspace.root.parent / "it.tar"
    write_backup(workspace, out, partial(copy_of_store, workspace), app_version="0.1.0", made_at=datetime.now(UTC))
    return out


def refused(hitl: Hitl, file: Path, tmp_path: Path) -> str:
    """What a restore says that changes nothing."""
    before = sorted(path.name for path in tmp_path.iterdir())
    code, out, err = hitl("restore", file, "-w", tmp_path / "new")
    assert (code, out) == (1, "")
    assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    return err


@pytest.mark.parametrize("what", HOSTILE)
def test_an_archive_that_is_not_a_backup_is_refused_in_words(hitl: Hitl, good: Path, tmp_path: Path, what: str):
    inside = tmp_path / "inside"
    inside.mkdir()
    file = rewritten(good, inside / "bad.tar", HOSTILE[what])
    err = refused(hitl, file, inside)
    assert "hitl" in err.split("hint:")[1] or "another backup" in err


def test_what_is_refused_says_why(hitl: Hitl, good: Path, tmp_path: Path):
    def told(what: str) -> str:
        return refused(hitl, rewritten(good, tmp_path / f"{what}.tar", HOSTILE[what]), tmp_path)

    assert "no backup holds a link called 'rounds/x'" in told("a link out")
    assert "'hitl.toml' is not what the manifest says" in told("a changed file")
    assert "is in it twice" in told("a member twice")
    assert "it has no manifest at its end" in told("no manifest")
    assert "has format 2; this version of hitl reads 1" in told("a newer format")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_backup_that_was_cut_short_is_refused(hitl: Hitl, good: Path, tmp_path: Path, share: float):
    content = good.read_bytes()
    with tarfile.open(good) as tar:
        end = tar.getmembers()[-1].offset_data
    (tmp_path / "cut.tar").write_bytes(content[: int(end * share)])
    assert "is not a whole backup" in refused(hitl, tmp_path / "cut.tar", tmp_path)


def test_a_compressed_file_another_file_and_none_are_refused(hitl: Hitl, good: Path, tmp_path: Path):
    with tarfile.open(tmp_path / "small.tar", "w:gz") as tar:
        tar.add(good, "hitl.toml")
    (tmp_path / "text.tar").write_text("no tar " * 1000)
    for name in ("small.tar", "text.tar"):
        assert "is not a whole backup" in refused(hitl, tmp_path / name, tmp_path)
    assert hitl("restore", tmp_path / "none.tar", "-w", tmp_path / "new")[0] == 2


def test_a_store_that_is_not_what_its_journal_tells_is_refused(hitl: Hitl, good: Path, tmp_path: Path):
    """Both are in the archive as its manifest says, but they are of two workspaces."""
    other = Workspace(tmp_path / "other")
    with Store.open(other, create=True) as store:
        fill(other, store)
    hitl("backup", "other.tar", "-w", other.root)
    with tarfile.open(tmp_path / "other.tar") as tar:
        journal = tar.extractfile("journal.jsonl")
        assert journal is not None
        content = journal.read()

    def mix(members: list[Any]) -> None:
        _swap(members, "journal.jsonl", lambda _: content)
        line = {"path": "journal.jsonl", "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        lines = members[-1][1].splitlines(keepends=True)
        lines = [json.dumps(line).encode() + b"\n" if b'"journal.jsonl"' in each else each for each in lines]
        members[-1] = (members[-1][0], b"".join(lines))

    file = rewritten(good, tmp_path / "mixed.tar", mix)
    err = refused(hitl, file, tmp_path)
    assert "different ages" in err
    assert "hitl db rebuild" in err


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_killed_in_the_middle_the_old_state_is_as_it_was(hitl: Hitl, mine: Workspace, tmp_path: Path, command: str):
    """A large file makes it last; killed when its temporary name is seen, and the same command works afterwards."""
    (mine.round_dir(1) / "large.bin").write_bytes(os.urandom(1 << 20) * 64)
    hitl("backup", "it.tar", "-w", mine.root)
    before = facts(mine), contents(mine.root)
    words = {
        "backup": ["backup", tmp_path / "other.tar", "-w", mine.root],
        "restore": ["restore", tmp_path / "it.tar", "-w", mine.root, "--replace"],
    }[command]
    process = subprocess.Popen([sys.executable, "-m", "hitl.cli", *map(str, words)])
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 0 for path in tmp_path.glob(".*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "other.tar").exists()
    assert not (tmp_path / "mine.before-restore").exists()
    assert (facts(mine), contents(mine.root)) == before
    assert hitl(*words)[0] == 0


@pytest.mark.skipif(not can_mount(), reason="needs a kernel that lets us mount a small disk (user namespaces)")
@pytest.mark.parametrize("mount", ["size=64k", "ro"])
@pytest.mark.parametrize("command", ["backup", "restore"])
def test_a_disk_that_is_full_or_read_only_is_said_and_nothing_is_left(
    good: Path, tmp_path: Path, mount: str, command: str
):
    disk = tmp_path / "disk"
    disk.mkdir()
    words = f"backup {disk}/it.tar -w {good.parent}/mine" if command == "backup" else f"restore {good} -w {disk}/new"
    script = f"mount -t tmpfs -o {mount} tmpfs {disk} && {sys.executable} -m hitl.cli {words}; echo $? && ls -A {disk}"
    found = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout == "1\n"
    message = "cannot be written: Read-only file system" if mount == "ro" else "is full"
    assert message in found.stderr or "MiB are free" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_target_that_cannot_be_replaced_stays(
    hitl: Hitl, good: Path, mine: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As where the workspace is a mounted disk: the second renaming fails, and the first one is taken back."""
    before = contents(mine.root)
    real, count = os.rename, itertools.count()

    def rename(old: Path, new: Path) -> None:
        if next(count) == 1:
            raise OSError(16, "Device or resource busy")
        real(old, new)

    monkeypatch.setattr("data.restore.os.rename", rename)
    code, _, err = hitl("restore", good, "-w", mine.root, "--replace")
    assert code == 1
    assert "cannot be replaced: Device or resource busy" in err
    assert contents(mine.root) == before
    assert not list(tmp_path.glob(".*"))
    assert not (tmp_path / "mine.before-restore").exists()


def test_a_second_backup_after_an_erasure_is_of_the_new_journal(hitl: Hitl, mine: Workspace, tmp_path: Path):
    hitl("backup", "one.tar", "-w", mine.root)
    with Store.open(mine) as store:
        store.erase_rater("ann")
    hitl("backup", "two.tar", "-w", mine.root)
    assert hitl("restore", "two.tar", "-w", tmp_path / "new")[0] == 0
    assert b"Ann" not in (tmp_path / "new/journal.jsonl").read_bytes()
    assert [copy.path.name for copy in copies(Workspace(tmp_path / "new"))] == ["one.tar", "two.tar"]
    shutil.rmtree(tmp_path / "new")
