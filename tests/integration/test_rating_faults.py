"""Rating while things break: the hub killed, the disk full, the clock set, a picture lost, two raters and one task."""

import contextlib
import io
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image as Picture

from apps.server import RunningServer, build_server, serve
from data.records import Image, Rating, Task, standing_ratings
from data.store import Store
from data.workspace import Workspace
from hitl.config import RateConfig
from hitl.core.live import Live
from tests.facts import PROMPT, a_task, everything, fill
from tests.people import agree, answer

LEASE_S = 60


def a_server(store: Store, workspace: Workspace, *, port: int = 0) -> RunningServer:
    live = Live()
    live.enter("rate", "Waiting for ratings", round=1, rounds=1)
    rate = RateConfig(lease_s=LEASE_S)
    app = build_server(store, workspace, live, token="the-token", secret="the-secret", rate=rate)
    return serve(app, "127.0.0.1", port)


@dataclass
class Hub:
    """A rating app in this process over one round, and the raters' browsers."""

    workspace: Workspace
    store: Store
    server: RunningServer
    clients: list[httpx.Client] = field(default_factory=list)

    def rater(self, name: str) -> httpx.Client:
        client = httpx.Client(base_url=self.server.url, trust_env=False, timeout=30, verify=False)
        self.clients.append(client)
        client.post("/api/join", json={"name": name}).raise_for_status()
        agree(client)
        return client

    def add_tasks(self, count: int, *, overlap: int = 1) -> list[Task]:
        """Of pictures that are there."""
        shades = iter(range(256))
        tasks = []
        for number in range(count):
            ids = []
            for _ in "ab":
                file = io.BytesIO()
                Picture.new("RGB", (8, 8), (next(shades), 0, 0)).save(file, "PNG")
                ids.append(self.workspace.add_image(file.getvalue()))
            fields = {"round": 1, "kind": "pairwise", "prompt_id": PROMPT.prompt_id, "overlap": overlap}
            tasks.append(Task(task_id=f"t{number}", image_ids=tuple(ids), **fields))
        self.store.add_prompts([PROMPT])
        self.store.start_round(1, "sha")
        self.store.add_images(
            Image(image_id=image_id, prompt_id=PROMPT.prompt_id, round=1, width=8, height=8)
            for task in tasks
            for image_id in task.image_ids
        )
        self.store.add_tasks(tasks)
        return tasks


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    workspace = Workspace(tmp_path / "workspace")
    with Store.open(workspace, create=True) as store:
        opened = Hub(workspace, store, a_server(store, workspace))
        yield opened
        for client in opened.clients:
            client.close()
        opened.server.stop()


def offered(client: httpx.Client, limit: int = 3) -> list[dict[str, Any]]:
    reply = client.get("/api/tasks", params={"limit": limit})
    assert reply.status_code == 200, reply.text
    return reply.json()["tasks"]


# -- two raters and one task ------------------------------------------------------------------------------------------


def test_of_many_who_ask_for_the_last_task_at_once_one_gets_it(hub: Hub):
    hub.add_tasks(1)
    raters = [hub.rater(f"rater {number}") for number in range(8)]
    door = threading.Barrier(len(raters))

    def ask(client: httpx.Client) -> list[dict[str, Any]]:
        door.wait()
        return offered(client)

    with ThreadPoolExecutor(len(raters)) as threads:
        got = [tasks for tasks in threads.map(ask, raters) if tasks]
    assert [[task["task_id"] for task in tasks] for tasks in got] == [["t0"]]


def test_a_task_that_two_raters_answer_at_once_counts_once_and_neither_is_refused(hub: Hub, clock: "Clock"):
    """The first one's lease ran out while they thought. Both answers are kept; the round has what it asked for."""
    hub.add_tasks(1)
    ann, bob = hub.rater("Ann"), hub.rater("Bob")
    (first,) = offered(ann)
    clock.shift += LEASE_S + 1
    (second,) = offered(bob)
    with ThreadPoolExecutor(2) as threads:
        sent = [(ann, answer(first)), (bob, answer(second, "right"))]
        replies = list(threads.map(lambda each: each[0].post("/api/ratings", json=each[1]).json(), sent))
    assert [reply["stored"] for reply in replies] == [True, True]
    progress = hub.store.progress(1)
    assert (progress.done, progress.needed, len(hub.store.ratings())) == (1, 1, 2)
    assert offered(ann) == offered(bob) == []


# -- the clock --------------------------------------------------------------------------------------------------------


class Clock:
    """This machine's clock as somebody sets it; the one that only counts seconds goes on as it did."""

    shift = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    set_to, true_time = Clock(), time.time

    class Set(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(seconds=set_to.shift)

    monkeypatch.setattr(time, "time", lambda: true_time() + set_to.shift)
    for module in ("apps.session", "data.fact_log", "data.people", "data.questions", "data.open_round"):
        monkeypatch.setattr(f"{module}.datetime", Set)
    return set_to


HOUR, YEAR = 3600.0, 365 * 24 * 3600.0


@pytest.mark.parametrize("jump", [HOUR, -HOUR, -YEAR])
def test_a_clock_that_is_set_loses_nobody_their_session_their_ratings_or_the_round(hub: Hub, clock: Clock, jump: float):
    hub.add_tasks(4)
    ann, bob = hub.rater("Ann"), hub.rater("Bob")
    held = offered(ann, limit=2)
    ann.post("/api/ratings", json=answer(held[0])).raise_for_status()
    clock.shift += jump
    assert ann.post("/api/ratings", json=answer(held[1])).json()["stored"] is True
    for client in (bob, ann, bob):
        for task in offered(client, limit=1):
            assert client.post("/api/ratings", json=answer(task)).json()["stored"] is True
    progress = hub.store.progress(1)
    assert progress.is_complete
    assert progress.per_minute >= 0
    before = everything(hub.store)
    hub.store.close()
    with Store.rebuild(hub.workspace) as again:
        assert everything(again) == before


def test_who_left_before_the_clock_was_set_back_keeps_no_task_from_the_others(hub: Hub, clock: Clock):
    """By a day: their lease would be over tomorrow."""
    hub.add_tasks(1)
    gone, here = hub.rater("Gone"), hub.rater("Here")
    assert len(offered(gone)) == 1
    assert offered(here) == []
    clock.shift -= 24 * HOUR
    assert len(offered(here)) == 1


def test_a_skip_from_before_the_clock_was_set_back_is_not_waited_for(hub: Hub, clock: Clock):
    """Bob, who could still answer what Ann skipped, answered once and went home; that was not tomorrow."""
    hub.add_tasks(2)
    ann, bob = hub.rater("Ann"), hub.rater("Bob")
    first, second = offered(ann, limit=2)
    ann.post("/api/release", json={"task_ids": [first["task_id"]]})
    bob.post("/api/ratings", json=answer(offered(bob, limit=1)[0])).raise_for_status()
    ann.post("/api/ratings", json=answer(second, "skip")).raise_for_status()
    assert not hub.store.progress(1).is_complete
    clock.shift -= 24 * HOUR
    assert hub.store.progress(1).is_complete


# -- a lost picture ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["gone", "corrupt"])
def test_a_picture_that_is_gone_or_corrupt_takes_its_task_along_and_the_researcher_is_told(
    hub: Hub, how: str, caplog: pytest.LogCaptureFixture
):
    tasks = hub.add_tasks(3)
    ann, bob = hub.rater("Ann"), hub.rater("Bob")
    lost = tasks[0].image_ids[1]
    path = hub.workspace.image_path(lost)
    path.unlink() if how == "gone" else path.write_bytes(path.read_bytes()[:-20])
    first = next(task for task in offered(ann) if task["task_id"] == "t0")
    with caplog.at_level(logging.ERROR):
        for client in (ann, ann, bob):
            replies = [client.get(f"/{image}") for image in first["images"]]
            assert sorted(reply.status_code for reply in replies) == [200, 404]
    assert [str(path) in record.getMessage() for record in caplog.records] == [True]
    for client in (ann, bob):
        for task in offered(client):
            assert task["task_id"] != "t0"
            client.post("/api/ratings", json=answer(task)).raise_for_status()
    assert ann.get("/api/tasks").json()["state"] == "machine"
    assert hub.store.progress(1).is_complete
    office = {"Authorization": "Bearer the-token"}
    assert lost[:12] in ann.get("/api/status", headers=office).json()["lost"]
    assert lost[:12] not in ann.get("/api/tasks").text


# -- a full disk ------------------------------------------------------------------------------------------------------


def can_mount() -> bool:
    unshare = shutil.which("unshare")
    return (
        unshare is not None
        and subprocess.run([unshare, "-rm", "true"], capture_output=True, check=False).returncode == 0
    )


@dataclass
class SmallDisk:
    """`hitl serve` on a disk of its own that is soon full: a tmpfs that only this process and we (by /proc) see."""

    process: subprocess.Popen[bytes]
    root: Path
    url: str

    def fill(self) -> None:
        """To the last byte, as another program on the disk would."""
        with contextlib.suppress(OSError), (self.root / "filler").open("wb", buffering=0) as file:
            for block in (2**16, 2**12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"\0" * block)

    def make_room(self) -> None:
        (self.root / "filler").unlink()


@contextlib.contextmanager
def a_small_disk(folder: Path, mebibytes: int = 24) -> Iterator[SmallDisk]:
    mounted = folder / "disk"
    mounted.mkdir()
    command = f"mount -t tmpfs -o size={mebibytes}m tmpfs {mounted} && cp -r {folder / 'workspace'} {mounted} && "
    command += f"exec {sys.executable} -m hitl.cli serve -w {mounted / 'workspace'} --set server.port=0"
    process = subprocess.Popen(["unshare", "-rm", "sh", "-c", command], stderr=subprocess.DEVNULL)
    root = Path(f"/proc/{process.pid}/root{mounted}")
    try:
        announced = root / "workspace" / "hub.json"
        deadline = time.monotonic() + 60
        while not announced.exists():
            assert process.poll() is None, "The hub did not start."
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield SmallDisk(process, root, json.loads(announced.read_text())["url"])
    finally:
        process.terminate()
        process.wait(30)


def a_workspace_to_rate(folder: Path, tasks: int) -> Workspace:
    workspace = Workspace(folder / "workspace")
    with Store.open(workspace, create=True) as store:
        store.start_round(1, "sha")
        fill(store, *(a_task(f"t{number}") for number in range(tasks)), raters=())
    (workspace.root / "hitl.toml").write_text("")
    return workspace


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="needs a kernel that lets us mount a small disk (user namespaces)")
def test_on_a_full_disk_the_rater_is_told_and_nothing_is_lost_or_doubled(tmp_path: Path):
    a_workspace_to_rate(tmp_path, 8)
    with a_small_disk(tmp_path) as disk, httpx.Client(base_url=disk.url, trust_env=False, timeout=30) as ann:
        ann.post("/api/join", json={"name": "Ann"}).raise_for_status()
        agree(ann)
        sent = [answer(task) for task in offered(ann, limit=8)]
        ann.post("/api/ratings", json=sent[0]).raise_for_status()
        before = (disk.root / "workspace" / "journal.jsonl").read_bytes()
        disk.fill()
        for rating in sent[1:]:
            reply = ann.post("/api/ratings", json=rating)
            assert reply.status_code == 503
            assert "disk is full" in reply.json()["error"]
            assert "workspace" not in reply.text
        # A line may still fit into the journal's last block; its rating then counts, and is not told of as stored.
        assert (disk.root / "workspace" / "journal.jsonl").read_bytes().startswith(before)
        assert ann.get("/api/tasks").status_code == 200  # what can be read still can
        disk.make_room()
        stored = [ann.post("/api/ratings", json=rating).raise_for_status().json()["stored"] for rating in sent]
        assert (stored[0], stored[2:]) == (False, 6 * [True])
        shutil.copytree(disk.root / "workspace", tmp_path / "copy", ignore=shutil.ignore_patterns("store.*"))
    with Store.rebuild(Workspace(tmp_path / "copy")) as store:
        assert [rating.rating_id for rating in store.ratings()] == [rating["rating_id"] for rating in sent]


# -- kill -9 ----------------------------------------------------------------------------------------------------------

KILLS, RATERS = 50, 4


def be_a_hub(folder: Path, port: int) -> None:
    """In a process of its own, until it is killed."""
    workspace = Workspace(folder)
    with Store.open(workspace) as store:
        a_server(store, workspace, port=port)
        threading.Event().wait()


class Browser:
    """Rates as the page does: what is not acknowledged is sent again, under the same id, until it is."""

    def __init__(self, name: str, url: str, stop: threading.Event) -> None:
        self.name, self.stop = name, stop
        self.acknowledged: list[str] = []
        self.client = httpx.Client(base_url=url, trust_env=False, timeout=10)

    def ask(self, method: str, path: str, **options: Any) -> Any:
        while True:
            try:
                reply = self.client.request(method, path, **options)
            except httpx.TransportError:
                time.sleep(0.02)
                continue
            reply.raise_for_status()
            return reply.json()

    def rate(self) -> None:
        self.ask("POST", "/api/join", json={"name": self.name})
        texts = self.ask("GET", "/api/welcome")
        self.ask("POST", "/api/consent", json={"version": texts["version"], "language": texts["language"]})
        while not self.stop.is_set():
            for task in self.ask("GET", "/api/tasks", params={"limit": 3})["tasks"]:
                sent = answer(task)
                self.ask("POST", "/api/ratings", json=sent)
                self.acknowledged.append(sent["rating_id"])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_acknowledged_rating_outlasts_a_hub_that_is_killed_at_random_fifty_times(tmp_path: Path):
    chance = random.Random(5)
    workspace = a_workspace_to_rate(tmp_path, 6000)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = multiprocessing.get_context("forkserver")  # Gradio is imported once, not fifty times
    server.set_forkserver_preload(["apps.board", "apps.rate", "apps.server"])
    stop = threading.Event()
    browsers = [Browser(f"rater {number}", f"http://127.0.0.1:{port}", stop) for number in range(RATERS)]

    def acknowledged() -> int:
        return sum(len(browser.acknowledged) for browser in browsers)

    killed_at = []
    with ThreadPoolExecutor(RATERS) as threads:
        rating = [threads.submit(browser.rate) for browser in browsers]
        try:
            for kill in range(KILLS + 1):
                hub = server.Process(target=be_a_hub, args=(workspace.root, port))
                hub.start()
                before, deadline = acknowledged(), time.monotonic() + 60
                while acknowledged() == before:
                    assert hub.is_alive()
                    assert time.monotonic() < deadline
                    time.sleep(0.005)
                if kill == KILLS:  # the last one may answer what is under way
                    stop.set()
                    for done in rating:
                        done.result(60)
                else:
                    time.sleep(chance.uniform(0, 0.2))
                assert hub.pid is not None
                os.kill(hub.pid, signal.SIGKILL)
                hub.join()
                killed_at.append(acknowledged())
        finally:
            stop.set()
    for browser in browsers:
        browser.client.close()
    with Store.open(workspace) as store:
        kept = store.ratings()
        told = [rating_id for browser in browsers for rating_id in browser.acknowledged]
        assert len(killed_at) == KILLS + 1
        assert len(told) > KILLS
        assert {count for count in Counter(rating.rating_id for rating in kept).values()} == {1}
        assert set(told) == {rating.rating_id for rating in kept}  # all were told of: each was sent until it was
        assert max(_answers_by_task_and_rater(kept).values()) == 1
        before = everything(store)
    with Store.rebuild(workspace) as again:
        assert everything(again) == before


def _answers_by_task_and_rater(ratings: list[Rating]) -> Counter[tuple[str, str]]:
    return Counter((rating.task_id, rating.rater_id) for rating in standing_ratings(ratings))
