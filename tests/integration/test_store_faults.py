"""The store while things break: killed at any moment, its write-ahead log torn or damaged, no room, no permission, two
owners, a clock that is set back. What was acknowledged is there, and is what the journal tells.
"""

import json
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from data.erasing import Erasures
from data.integrity import Difference, check
from data.receipts import read_receipts
from data.store import Store
from data.workspace import Workspace
from tests.facts import WHEN, a_rater, a_rating, a_store, a_task, everything
from tests.finished import finish_round
from tests.integration.test_rating_faults import can_mount

pytestmark = pytest.mark.long

TASKS = [a_task(f"t{number:02d}", overlap=9) for number in range(12)]

_WRITE = """
import random, sys
from pathlib import Path
import data.fact_log
from data.records import Prompt
from data.store import Store
from data.workspace import Workspace
from tests.facts import a_rater, a_rating
from tests.integration.test_store_faults import TASKS

chance = random.Random(int(sys.argv[2]))
data.fact_log.CHECKPOINT_EVERY = chance.choice([1, 3, 10, 200])
data.fact_log.CHECKPOINT_AFTER_IDLE_S = chance.choice([0.0, 0.001, 30.0])
store = Store.open(Workspace(Path(sys.argv[1])))
standing = []
for number in range(200):
    name = f"{sys.argv[2]}-{number}"
    what = chance.choice(["rate", "rate", "rate", "undo", "prompt", "metric", "round", "several"])
    if what == "rate":
        store.add_rater(a_rater(name))
        rating = a_rating(chance.choice(TASKS), name, chance.choice(["left", "right", "tie", "skip"]))
        assert store.add_rating(rating)
        standing.append(rating)
        told = rating.rating_id
    elif what == "undo" and standing:
        old = standing.pop(chance.randrange(len(standing)))
        undo = a_rating(next(task for task in TASKS if task.task_id == old.task_id), old.rater_id, None,
                        voids=old.rating_id)
        assert store.add_rating(undo)
        told = undo.rating_id
    elif what == "metric":
        store.add_metrics(1, "train", [{"step": number % 7, "name": "loss", "value": chance.random()}])
        told = ""
    elif what == "round":
        store.set_round_state(1, name)
        told = ""
    else:
        store.add_prompts(Prompt.of(f"{name} {i}") for i in range(500 if what == "several" else 1))
        told = f"{name} 0"
    print("kept", told, flush=True)
print("all", "", flush=True)
"""


def kill_while_it_writes(workspace: Workspace, seed: int) -> list[str]:
    """What a process that writes at random acknowledged before it was killed, at a random moment."""
    command = [sys.executable, "-c", _WRITE, str(workspace.root), str(seed)]
    chance = random.Random(seed)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(chance.randrange(1, 150))]
        time.sleep(chance.uniform(0, 0.01))
        process.kill()
        told += process.stdout.readlines()
    return [line[5:-1] for line in told if line.startswith("kept ") and line.endswith("\n")]


@pytest.mark.parametrize(
    "seeds", [range(1), pytest.param(range(100, 108), marks=[pytest.mark.slow, pytest.mark.timeout(1200)])], ids=len
)
def test_killed_amid_random_writes_and_checkpoints_all_that_was_acknowledged_is_there(tmp_path: Path, seeds: range):
    workspace, store = a_store(tmp_path, *TASKS)
    store.start_round(1, "sha")
    store.close()
    kept: set[str] = set()
    for seed in seeds:
        fresh = kill_while_it_writes(workspace, seed)
        assert fresh
        kept |= {*fresh} - {""}
        with Store.open(workspace) as store:
            found = {rating.rating_id for rating in store.ratings()} | {prompt.text for prompt in store.prompts()}
            assert kept <= found
            assert faults(workspace, store) == []
    with Store.open(workspace) as store:
        before = everything(store)
    with Store.rebuild(workspace) as store:
        assert everything(store) == before


_ERASE = """
import sys
from pathlib import Path
from data.erasing import Erasures
from data.store import Store
from data.workspace import Workspace

workspace = Workspace(Path(sys.argv[1]))
with Store.open(workspace) as store:
    erasures = Erasures(store=store, workspace=workspace, write_report=lambda workspace, number: workspace.root)
    print("open", flush=True)
    erasures.begin("person-to-go", sys.argv[2])
    erasures.finish()
print("all", flush=True)
"""


@pytest.fixture(scope="module")
def much_rated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace where two people rated 3,000 tasks by turns, and a round learned from that."""
    tasks = [a_task(f"t{number}", overlap=9) for number in range(3000)]
    workspace, store = a_store(tmp_path_factory.mktemp("much") / "mine", *tasks)
    with store:
        store.start_round(1, "sha")
        store.add_rater(a_rater("person-to-go"))
        store.add_ratings(
            a_rating(task, ("ann", "person-to-go")[number % 2], rating_id=f"{number}-of-{number % 2}-x")
            for number, task in enumerate(tasks)
        )
        finish_round(workspace, store, 1)
    return workspace.root


@pytest.mark.parametrize("fate", ["keep", "delete"])
@pytest.mark.parametrize("count", [3, pytest.param(15, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_an_erasure_that_was_killed_at_any_moment_is_done_or_was_never_asked_for(
    much_rated: Path, tmp_path: Path, fate: str, count: int
):
    """The process is killed in the second in which it erases; two more starts, as of a hub, finish what is begun."""
    chance = random.Random(count)
    ends = set()
    for number in range(count):
        workspace = Workspace(shutil.copytree(much_rated, tmp_path / str(number)))
        with subprocess.Popen(
            [sys.executable, "-c", _ERASE, str(workspace.root), fate], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            time.sleep(chance.uniform(0, 1.0))
            process.kill()
        is_asked = any(workspace.erasures_dir.glob("*.json"))
        for _ in range(2):
            with Store.open(workspace) as store:
                assert [each for each in faults(workspace, store) if each.kind != "snapshot"] == []
                Erasures(store=store, workspace=workspace, write_report=lambda its, _: its.root).finish()
                assert faults(workspace, store) == []
        with Store.open(workspace) as store:
            left = len(store.ratings())
        told = [receipt.finished_at is not None for receipt in read_receipts(workspace)]
        assert told == [True] * is_asked
        ends.add(is_asked)
        words = ["person-to-go", "-of-1-x"] if fate == "delete" else ["person-to-go"]
        found = [word for word in words if any(word.encode() in content for content in contents(workspace.root))]
        assert found == ([] if is_asked else words)
        assert left == (1500 if is_asked and fate == "delete" else 3000)
        shutil.rmtree(workspace.root)
    assert True in ends


def contents(root: Path) -> list[bytes]:
    return [path.read_bytes() for path in root.rglob("*") if path.is_file()]


def faults(workspace: Workspace, store: Store) -> list[Difference]:
    """Where journal and store differ. The pictures of these tasks were never drawn."""
    return [each for each in check(workspace, store, quick=True).differences if each.kind != "image"]


# -- the write-ahead log ----------------------------------------------------------------------------------------------


@pytest.fixture
def killed(tmp_path: Path) -> tuple[Path, dict, int]:
    """The files that a kill -9 leaves, what was in the store, and the size of its write-ahead log."""
    workspace, store = a_store(tmp_path / "live", *TASKS)
    store.add_rater(a_rater("eve"))
    store.close()
    store = Store.open(workspace)
    for task in TASKS:
        first = a_rating(task, "ann")
        store.add_rating(first)
        store.add_rating(a_rating(task, "ann", None, voids=first.rating_id))
        store.add_rating(a_rating(task, "bob", payload={"choice": "tie", "note": "ü" * 200}))
    facts = everything(store)
    dead = tmp_path / "dead"
    dead.mkdir()
    # By another process: this one would drop DuckDB's lock on the file that it has open.
    subprocess.run(["cp", "-r", f"{workspace.root}/.", str(dead)], check=True)
    store.close()
    return dead, facts, (dead / "store.duckdb.wal").stat().st_size


def opens_with(dead: Path, place: Path, log: bytes) -> dict:
    """All facts of a store whose write-ahead log is this, and which its journal then tells as well."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(dead, place)
    (place / "store.duckdb.wal").write_bytes(log)
    workspace = Workspace(place)
    with Store.open(workspace) as store:
        found = everything(store)
        assert faults(workspace, store) == []
        store.add_rating(a_rating(TASKS[0], "eve"))
    with Store.open(workspace) as store:
        assert len(store.ratings()) == len(found["ratings"]) + 1
    return found


@pytest.mark.parametrize("count", [5, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_a_log_that_was_cut_anywhere_loses_nothing(killed: tuple[Path, dict, int], tmp_path: Path, count: int):
    dead, facts, size = killed
    content = (dead / "store.duckdb.wal").read_bytes()
    assert size > 10_000
    lengths = random.Random(count).sample(range(size), count)
    for length in sorted({0, 1, size - 1, *lengths}):
        assert opens_with(dead, tmp_path / "cut", content[:length]) == facts, length


@pytest.mark.parametrize("count", [5, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_a_log_with_a_changed_byte_loses_nothing(killed: tuple[Path, dict, int], tmp_path: Path, count: int):
    dead, facts, size = killed
    content = (dead / "store.duckdb.wal").read_bytes()
    chance = random.Random(count)
    for place in sorted(chance.sample(range(size), count)):
        changed = bytearray(content)
        changed[place] ^= chance.randrange(1, 256)
        assert opens_with(dead, tmp_path / "changed", bytes(changed)) == facts, place


# -- no room, no permission, two owners -------------------------------------------------------------------------------


@pytest.mark.skipif(not can_mount(), reason="needs a kernel that lets us mount a disk read-only (user namespaces)")
@pytest.mark.parametrize("words", ["status", "backup"])
def test_a_folder_that_cannot_be_written_is_said_in_words(tmp_path: Path, words: str):
    workspace, store = a_store(tmp_path / "workspace", *TASKS)
    store.close()
    (workspace.root / "hitl.toml").write_text("")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = f"{sys.executable} -m hitl.cli {words} -w {disk}/workspace"
    script = f"mount -t tmpfs tmpfs {disk} && cp -r {workspace.root} {disk} && mount -o remount,ro {disk} && {command}"
    found = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert found.returncode == 1
    assert "cannot be written: Read-only file system" in found.stderr
    assert "hint:" in found.stderr
    assert "Traceback" not in found.stderr


_ANNOUNCE = """
import json, sys, threading
from pathlib import Path
from hitl.commands.hub import running_hub
with running_hub(Path(sys.argv[1]), ["server.port=0"], create=False):
    print("up", flush=True)
    threading.Event().wait()
"""


@pytest.mark.slow
def test_a_second_hub_on_a_workspace_is_refused_and_the_first_goes_on(tmp_path: Path):
    workspace, store = a_store(tmp_path / "workspace", *TASKS)
    store.close()
    (workspace.root / "hitl.toml").write_text("")
    command = [sys.executable, "-c", _ANNOUNCE, str(workspace.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        try:
            assert first.stdout is not None
            assert first.stdout.readline() == "up\n"
            announced = workspace.hub_path.read_bytes()
            for words in ("serve", "round --raters simulated"):
                command = [sys.executable, "-m", "hitl.cli", *words.split(), "-w", str(workspace.root)]
                second = subprocess.run(
                    [*command, "--set", "server.port=0"], capture_output=True, text=True, check=False
                )
                assert second.returncode == 1
                assert f"is held by process {first.pid}" in second.stderr
                assert f"kill {first.pid}" in second.stderr
            assert workspace.hub_path.read_bytes() == announced
            command = [sys.executable, "-m", "hitl.cli", "status", "--json", "-w", str(workspace.root)]
            told = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
            assert told["hub"]["pid"] == first.pid
        finally:
            first.kill()
    with Store.open(workspace) as store:
        assert len(store.tasks()) == len(TASKS)


# -- the clock --------------------------------------------------------------------------------------------------------


def test_a_clock_that_goes_back_changes_neither_the_order_nor_what_is_kept(tmp_path: Path):
    """Ratings from tomorrow, then from last year: in order of arrival, in the store and in one that is made again."""
    workspace, store = a_store(tmp_path, *TASKS)
    times = [WHEN, WHEN + timedelta(days=1), WHEN - timedelta(days=365), WHEN - timedelta(days=364, hours=23)]
    sent = [a_rating(task, "ann", server_time=when) for task, when in zip(TASKS, times, strict=False)]
    for rating in sent:
        assert store.add_rating(rating)
    undo = a_rating(TASKS[1], "ann", None, voids=sent[1].rating_id, server_time=times[2])
    assert store.add_rating(undo)
    assert store.ratings() == [*sent, undo]
    progress = store.progress(1, now=times[3])
    assert (progress.done, progress.per_minute >= 0) == (3, True)
    # What was leased tomorrow is free today, and a lease of today holds for its time and no longer.
    assert [offer.task.task_id for offer in store.lease("bob", limit=1, lease_s=60, now=times[1])] == ["t00"]
    offers = store.lease("bob", limit=12, lease_s=60, now=times[3])
    assert len(offers) == len(TASKS)
    before = everything(store)
    assert faults(workspace, store) == []
    store.close()
    with Store.rebuild(workspace) as again:
        assert everything(again) == before
        assert [rating.server_time for rating in again.ratings()] == [*times, times[2]]
        assert again.add_rating(replace(sent[1], rating_id="again", server_time=times[2]))
