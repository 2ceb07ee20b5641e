"""Ways in that are not the door. Each is refused in words, is one line in the log, and gives nothing away.

What has to do with accounts (forged cookies, guesses at passwords, other sites' pages, Gradio called raw) is in
`test_accounts.py`; what one request alone can do (hosts, methods) in `test_api.py`; scripts in what people write in
`tests/e2e/test_break_in.py`. Here one rater tries to be another, one workspace another, and many ask for too much.
"""

import contextlib
import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from apps.server import RunningServer, build_server, serve
from data.records import standing_ratings
from data.store import Store
from data.workspace import PNG_SIGNATURE, Workspace
from hitl.config import RateConfig
from hitl.core.live import Live
from tests.facts import a_task, fill
from tests.people import agree, answer

TOKEN = "the-token"


@dataclass
class House:
    """A rating app over five pairs, and everybody's browser."""

    workspace: Workspace
    store: Store
    server: RunningServer
    secret: str
    clients: list[httpx.Client] = field(default_factory=list)

    def stranger(self) -> httpx.Client:
        client = httpx.Client(base_url=self.server.url, trust_env=False, timeout=30, verify=False)
        self.clients.append(client)
        return client

    def rater(self, name: str) -> httpx.Client:
        client = self.stranger()
        client.post("/api/join", json={"name": name}).raise_for_status()
        agree(client)
        return client


@contextlib.contextmanager
def a_house(folder: Path, secret: str) -> Iterator[House]:
    workspace, live = Workspace(folder), Live()
    live.enter("rate", "Waiting for ratings", round=1, rounds=1)
    with Store.open(workspace, create=True) as store:
        store.start_round(1, "sha")
        fill(store, *(a_task(f"t{number:02d}") for number in range(30)), raters=())
        app = build_server(store, workspace, live, token=TOKEN, secret=secret, rate=RateConfig())
        house = House(workspace, store, serve(app, "127.0.0.1", 0), secret)
        yield house
        for client in house.clients:
            client.close()
        house.server.stop()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with a_house(tmp_path_factory.mktemp("mine"), "the-secret") as opened:
        yield opened


@pytest.fixture(scope="module")
def other_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with a_house(tmp_path_factory.mktemp("theirs"), "another-secret") as opened:
        yield opened


@contextlib.contextmanager
def refused(caplog: pytest.LogCaptureFixture, *, lines: int = 1) -> Iterator[None]:
    caplog.clear()
    with caplog.at_level(logging.INFO):
        yield
    told = [record.getMessage() for record in caplog.records]
    assert len([line for line in told if line.startswith("Refused")]) == lines, told
    assert not [line for line in told if "Traceback" in line or "Exception" in line]
    for secret in ("the-token", "the-secret", "another-secret"):
        assert secret not in caplog.text


def is_plain(reply: httpx.Response) -> bool:
    return bool(reply.json()["error"]) and not re.search(r"Traceback|the-secret|the-token|/tmp/|\.py\b", reply.text)


def offered(client: httpx.Client) -> dict[str, Any]:
    return client.get("/api/tasks", params={"limit": 1}).json()["tasks"][0]


# -- another rater's ---------------------------------------------------------------------------------------------------


def test_no_rater_undoes_changes_or_releases_what_is_another_s(house: House):
    ann, eve = house.rater("Ann"), house.rater("Eve")
    sent = answer(offered(ann))
    ann.post("/api/ratings", json=sent).raise_for_status()
    reply = eve.post("/api/undo", json={"rating_id": str(uuid.uuid4()), "voids": sent["rating_id"]})
    assert (reply.status_code, is_plain(reply)) == (404, True)
    # The same id again, with another answer, as another rater: the first one stands.
    eve.post("/api/ratings", json={**sent, "payload": {"choice": "right"}})
    held = offered(ann)
    eve.post("/api/release", json={"task_ids": [held["task_id"]]}).raise_for_status()
    assert offered(house.rater("Carl"))["task_id"] != held["task_id"]  # Ann still holds it
    (kept,) = [rating for rating in standing_ratings(house.store.ratings()) if rating.task_id == sent["task_id"]]
    assert kept.payload == {"choice": "left"}
    assert kept.rater_id == ann.get("/api/me").json()["rater_id"]


def test_no_rater_rates_as_another(house: House):
    ann, eve = house.rater("Ann"), house.rater("Eve")
    her_id = ann.get("/api/me").json()["rater_id"]
    task = offered(eve)
    reply = eve.post("/api/ratings", json=answer(task, rater_id=her_id))
    assert (reply.status_code, is_plain(reply)) == (409, True)
    assert task["task_id"] not in {rating.task_id for rating in house.store.ratings()}


def test_what_a_rater_hears_says_nothing_of_others_nor_of_where_pictures_come_from(house: House):
    ann, eve = house.rater("Ann"), house.rater("Eve")
    ann.post("/api/ratings", json=answer(offered(ann))).raise_for_status()
    heard = "".join(eve.get(path).text for path in ("/api/me", "/api/tasks"))
    page = eve.get("/").text
    for told in (ann.get("/api/me").json()["rater_id"], str(house.workspace.root), "propensity"):
        assert told not in heard + page
    for told in ("provenance", "purpose", "repeats", "worse", "checkpoint"):
        assert told not in heard
    for name in ("t00-a", "seed"):  # what the pictures of these tests were drawn from
        assert f'"{name}"' not in heard


# -- another workspace's ----------------------------------------------------------------------------------------------


def test_a_session_of_another_workspace_is_none_here(
    house: House, other_house: House, caplog: pytest.LogCaptureFixture
):
    theirs = other_house.rater("Ann")
    ((name, cookie),) = theirs.cookies.items()
    (own_name,) = dict(house.rater("Ben").cookies)
    assert name != own_name
    for sent in (f"{name}={cookie}", f"{own_name}={cookie}", f"{name}={cookie}; {own_name}={cookie}"):
        with refused(caplog):
            reply = house.stranger().get("/api/tasks", headers={"Cookie": sent})
        assert (reply.status_code, is_plain(reply)) == (401, True)


def test_a_picture_of_another_workspace_is_not_served_here(house: House, other_house: House):
    image_id = other_house.workspace.add_image(PNG_SIGNATURE + b"theirs")
    assert other_house.rater("Ann").get(f"/image/{image_id}").status_code == 200
    reply = house.rater("Ann").get(f"/image/{image_id}")
    assert (reply.status_code, is_plain(reply)) == (404, True)


# Written as a program would that does not tidy paths up before it sends them.
PATHS = [
    "/image/../store.duckdb",
    "/image/..%2f..%2fjournal.jsonl",
    "/image/%2e%2e/%2e%2e/session.key",
    "/image/....//journal.jsonl",
    "/image//etc/passwd",
    "/image/%2fetc%2fpasswd",
    "/image/..%5c..%5cjournal.jsonl",
    "/image/%c0%ae%c0%ae/journal.jsonl",
    "/image/\0",
    "/../../../../etc/passwd",
    "/static/../../journal.jsonl",
    "/file=/etc/passwd",
    "/gradio_api/file=/etc/passwd",
    "/board/gradio_api/file=/etc/passwd",
    "/board/../api/raters",
    "//etc/passwd",
]


def raw(house: House, request: bytes) -> bytes:
    where = urlsplit(house.server.url)
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=10) as line:
        line.sendall(request)
        parts = []
        while part := line.recv(65536):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("path", PATHS)
def test_no_path_leads_out_of_the_pictures(house: House, path: str):
    ann = house.rater("Ann")
    ((name, cookie),) = ann.cookies.items()
    host = urlsplit(house.server.url).netloc
    head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nCookie: {name}={cookie}\r\nConnection: close\r\n\r\n"
    reply = raw(house, head.encode("latin-1"))
    assert int(reply.split(b" ", 2)[1]) in (400, 403, 404)
    for secret in (b"root:", b'"event"', house.workspace.root.name.encode(), b"Traceback"):
        assert secret not in reply


@pytest.mark.parametrize("target", ["journal.jsonl", "/etc/passwd", "a folder"])
def test_a_link_among_the_pictures_leads_nowhere(house: House, target: str):
    image_id = format(abs(hash(target)) % 2**64, "064x")
    path = house.workspace.image_path(image_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.symlink(house.workspace.root if target == "a folder" else house.workspace.root / target, path)
    reply = house.rater("Ann").get(f"/image/{image_id}")
    assert (reply.status_code, is_plain(reply)) == (404, True)
    path.unlink()


# -- too much of something --------------------------------------------------------------------------------------------

ROUTES = ["/api/join", "/api/login", "/api/invite", "/api/ratings", "/api/undo", "/api/release", "/api/raters/add"]


@pytest.mark.parametrize("path", ROUTES)
def test_a_body_too_large_is_refused_before_it_is_read(house: House, path: str, caplog: pytest.LogCaptureFixture):
    """The head alone is sent: whoever waited for the body would wait for ever."""
    host = urlsplit(house.server.url).netloc
    for length, status in ((70_000, 413), (10**15, 413), (-1, 400), ("many", 400)):
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        with refused(caplog, lines=int(status == 413)):
            reply = raw(house, head.encode())
        assert int(reply.split(b" ", 2)[1]) == status


BODIES = {
    "deep": b'{"payload": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "no JSON": b"\xff\xfe{",
    "a list": b"[]",
    "not a number": b'{"dwell_ms": NaN}',
    "a huge number": b'{"dwell_ms": ' + b"9" * 5000 + b"}",
    "half a character": b'{"rating_id": "\\ud800", "task_id": "\\udfff", "kind": "pairwise"}',
    "keys that are no keys": b'{"__proto__": {"rater_id": "x"}, "constructor": 1}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("path", ["/api/ratings", "/api/join"])
def test_a_body_that_makes_no_sense_is_refused_in_words(house: House, path: str, body: bytes):
    reply = house.rater("Ann").post(path, content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code in (400, 422)
    assert is_plain(reply)


@pytest.mark.parametrize(
    "payload",
    [
        {"choice": "left", "note": "x" * 50_000},
        {"choice": "left", "note": {"deep": [1]}},
        {"choice": "left", "flags": [["no such flag"] * 1000, []]},
        {"choice": "left", "points": [[[float("1e308"), -1]], []]},
        {"choice": "left", "note": "\ud800"},
    ],
)
def test_more_than_a_rating_may_hold_is_not_kept(house: House, payload: dict[str, Any]):
    ann = house.rater("Ann")
    task, before = offered(ann), house.workspace.journal_path.read_bytes()
    body = json.dumps(answer(task, payload=payload)).encode()
    reply = ann.post("/api/ratings", content=body, headers={"Content-Type": "application/json"})
    assert (reply.status_code, is_plain(reply)) == (400, True)
    assert house.workspace.journal_path.read_bytes() == before


def test_a_flood_of_websockets_is_shut_out_and_people_go_on_rating(house: House):
    """Nothing here speaks WebSocket: each is answered and let go, whatever session it has and however many come."""
    ann = house.rater("Ann")
    ((name, cookie),) = ann.cookies.items()
    host = urlsplit(house.server.url).netloc
    upgrade = (
        f"GET /api/me HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\nSec-WebSocket-Version: 13\r\n"
    ).encode()
    stop, replies = threading.Event(), []

    def flood() -> None:
        while not stop.is_set():
            for cookies in (b"", f"Cookie: {name}={cookie}\r\n".encode()):
                replies.append(raw_head(house, upgrade + cookies + b"\r\n"))

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        while len(replies) < 50:
            time.sleep(0.01)
        started = time.perf_counter()
        ann.post("/api/ratings", json=answer(offered(ann))).raise_for_status()
        assert time.perf_counter() - started < 5
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not any(b" 101 " in reply for reply in replies)


def raw_head(house: House, request: bytes) -> bytes:
    where = urlsplit(house.server.url)
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=10) as line:
        line.sendall(request)
        return line.recv(200)


def test_connections_that_say_nothing_keep_nobody_out(house: House):
    where = urlsplit(house.server.url)
    silent = [socket.create_connection((where.hostname or "", where.port or 0)) for _ in range(300)]
    try:
        for line in silent[::2]:
            line.sendall(b"POST /api/join HTTP/1.1\r\nHost: ")  # and no more
        ann = house.rater("Ann")
        assert ann.get("/api/me").status_code == 200
    finally:
        for line in silent:
            line.close()
