"""The API over a real socket: joining, rating, undoing, pictures, and what is refused to whom."""

import hashlib
import io
import json
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from itsdangerous import TimestampSigner
from PIL import Image as Picture
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from apps.server import RunningServer, build_server, serve
from data.records import Image, Prompt, Task
from data.store import Store
from data.workspace import Workspace
from data.world.scenes import Scene, place, render
from hitl.config import RateConfig, load_config
from hitl.core.errors import ConfigError
from hitl.core.live import Live
from tests.people import agree, answer

TOKEN = "the-token"
SECRET = "the-secret"


def png_of(kinds: list[tuple[str, str]], rng: np.random.Generator) -> bytes:
    file = io.BytesIO()
    Picture.fromarray(render(Scene("white", place(kinds, rng)))).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningServer, Store, Workspace, Live]]:
    """One server for the module, for Gradio takes seconds to import. Tests only add raters and ratings."""
    workspace, live = Workspace(tmp_path_factory.mktemp("workspace")), Live()
    rng = np.random.default_rng(0)
    with Store.open(workspace, create=True) as store:
        prompt = Prompt.of("a green heart")
        store.add_prompts([prompt])
        store.start_round(1, "sha")
        tasks = []
        for number in range(60):
            ids = [workspace.add_image(png_of([("green", "heart")], rng)) for _ in range(2)]
            store.add_images(
                Image(image_id=image_id, prompt_id=prompt.prompt_id, round=1, width=64, height=64) for image_id in ids
            )
            tasks.append(
                Task(
                    task_id=f"t{number:02d}",
                    round=1,
                    kind="pairwise",
                    prompt_id=prompt.prompt_id,
                    image_ids=(ids[0], ids[1]),
                )
            )
        store.add_tasks(tasks)
        live.enter("rate", "Waiting for ratings", round=1, rounds=5)
        server = serve(
            build_server(store, workspace, live, token=TOKEN, secret=SECRET, rate=RateConfig()), "127.0.0.1", 0
        )
        yield server, store, workspace, live
        server.stop()


@pytest.fixture
def server(hub: tuple[RunningServer, Store, Workspace, Live]) -> RunningServer:
    return hub[0]


@pytest.fixture
def store(hub: tuple[RunningServer, Store, Workspace, Live]) -> Store:
    return hub[1]


@pytest.fixture
def workspace(hub: tuple[RunningServer, Store, Workspace, Live]) -> Workspace:
    return hub[2]


@pytest.fixture
def stranger(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture
def rater(server: RunningServer) -> Iterator[httpx.Client]:
    """A signed-in rater of a new name; gives back what it did not rate."""
    with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as client:
        client.post("/api/join", json={"name": f"rater {uuid.uuid4().hex[:8]}"}).raise_for_status()
        agree(client)
        yield client
        held = client.get("/api/tasks", params={"limit": 10}).json()["tasks"]
        client.post("/api/release", json={"task_ids": [task["task_id"] for task in held]})


def is_plain(response: httpx.Response) -> bool:
    """Whether a refusal is JSON with a sentence for a person, and no trace of the code behind it."""
    told = response.json()["error"]
    return told.endswith(".") and "Traceback" not in response.text


def test_a_rating_is_in_the_journal_when_it_is_acknowledged(rater: httpx.Client, workspace: Workspace) -> None:
    task = rater.get("/api/tasks", params={"limit": 1}).json()["tasks"][0]
    sent = answer(task, "right")
    reply = rater.post("/api/ratings", json=sent)
    assert reply.json() == {"rating_id": sent["rating_id"], "stored": True}
    last = json.loads(workspace.journal_path.read_text().splitlines()[-1])
    assert last["data"]["rating_id"] == sent["rating_id"]
    assert last["data"]["image_ids"] == task["image_ids"]
    assert rater.post("/api/ratings", json=sent).json()["stored"] is False


def test_an_undo_through_the_api_makes_the_task_come_back_first(rater: httpx.Client) -> None:
    task = rater.get("/api/tasks", params={"limit": 1}).json()["tasks"][0]
    sent = answer(task)
    rater.post("/api/ratings", json=sent).raise_for_status()
    undo = {"rating_id": str(uuid.uuid4()), "voids": sent["rating_id"]}
    assert rater.post("/api/undo", json=undo).json()["stored"] is True
    assert rater.get("/api/tasks", params={"limit": 1}).json()["tasks"][0]["task_id"] == task["task_id"]


def test_a_picture_comes_by_its_hash_and_may_be_kept_for_ever(rater: httpx.Client) -> None:
    task = rater.get("/api/tasks", params={"limit": 1}).json()["tasks"][0]
    for image_id, path in zip(task["image_ids"], task["images"], strict=True):
        reply = rater.get(f"/{path}")
        assert hashlib.sha256(reply.content).hexdigest() == image_id
        assert "immutable" in reply.headers["cache-control"]
        assert "private" in reply.headers["cache-control"]
        assert reply.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/me"),
        ("GET", "/api/tasks"),
        ("POST", "/api/ratings"),
        ("POST", "/api/undo"),
        ("POST", "/api/release"),
        ("GET", f"/image/{'0' * 64}"),
        ("GET", f"/image/{'0' * 64}/display"),
    ],
)
def test_without_a_session_there_is_nothing(stranger: httpx.Client, method: str, path: str) -> None:
    reply = stranger.request(method, path, json={} if method == "POST" else None)
    assert reply.status_code == 401
    assert is_plain(reply)


def test_a_forged_session_is_no_session(stranger: httpx.Client, rater: httpx.Client) -> None:
    (name,) = [cookie for cookie in rater.cookies if cookie.startswith("hitl_")]
    assert rater.get("/api/me").status_code == 200
    payload = rater.cookies[name].rsplit(".", 2)[0]
    forged = TimestampSigner("another secret").sign(payload).decode()
    assert stranger.get("/api/me", headers={"Cookie": f"{name}={forged}"}).status_code == 401


def test_the_session_cookie_is_out_of_reach_of_scripts_and_other_sites(stranger: httpx.Client) -> None:
    header = stranger.post("/api/join", json={"name": "Cookie"}).headers["set-cookie"].lower()
    assert "httponly" in header
    assert "samesite=lax" in header


@pytest.mark.parametrize("name", ["..%2f..%2fstore.duckdb", "a" * 63, "A" * 64, "0" * 64, "%00"])
def test_the_image_route_serves_images_only(rater: httpx.Client, name: str) -> None:
    reply = rater.get(f"/image/{name}")
    assert reply.status_code == 404
    assert is_plain(reply)


def test_a_link_in_place_of_an_image_is_not_followed(rater: httpx.Client, workspace: Workspace) -> None:
    path = workspace.image_path("f" * 64)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.symlink(workspace.journal_path, path)
    assert rater.get(f"/image/{'f' * 64}").status_code == 404


def test_a_copy_is_served_as_the_image_is_and_to_whom_it_is(
    rater: httpx.Client, stranger: httpx.Client, workspace: Workspace
) -> None:
    (image_id, other) = rater.get("/api/tasks", params={"limit": 1}).json()["tasks"][0]["image_ids"]
    reply, original = rater.get(f"/image/{image_id}/display"), rater.get(f"/image/{image_id}")
    assert (reply.status_code, reply.headers["content-type"]) == (200, "image/webp")
    for header in ("cache-control", "x-content-type-options", "content-security-policy"):
        assert reply.headers[header] == original.headers[header]
    assert Picture.open(io.BytesIO(reply.content)).size == (64, 64)
    assert stranger.get(f"/image/{image_id}/display").status_code == 401
    link = workspace.display_dir / other[:2] / f"{other}.webp"
    link.parent.mkdir(parents=True, exist_ok=True)
    os.symlink(workspace.journal_path, link)
    try:
        assert rater.get(f"/image/{other}/display").status_code == 404
        assert rater.get(f"/image/{other}").status_code == 200
    finally:
        link.unlink()
    assert rater.get(f"/image/{'0' * 64}/display").status_code == 404


def test_a_page_of_another_site_cannot_rate(rater: httpx.Client, server: RunningServer, store: Store) -> None:
    task = rater.get("/api/tasks", params={"limit": 1}).json()["tasks"][0]
    before = len(store.ratings())
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        reply = rater.post("/api/ratings", json=answer(task), headers={"Origin": origin})
        assert reply.status_code == 403
        assert is_plain(reply)
    assert len(store.ratings()) == before
    assert rater.post("/api/ratings", json=answer(task), headers={"Origin": server.url}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/api/me", "/api/status", "/api/tasks", "/board/"])
@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "localhost.evil", ""])
def test_a_name_that_was_pointed_here_gets_nothing(rater: httpx.Client, path: str, host: str) -> None:
    """DNS rebinding: host and origin agree, only the name is not this machine's."""
    reply = rater.get(path, headers={"Host": host, "Origin": f"http://{host}"})
    assert reply.status_code == 403
    assert is_plain(reply)
    assert "default-src 'self'" in reply.headers["content-security-policy"]


def test_a_name_that_was_pointed_here_cannot_rate(rater: httpx.Client, store: Store) -> None:
    task = rater.get("/api/tasks", params={"limit": 1}).json()["tasks"][0]
    before = len(store.ratings())
    foreign = {"Host": "evil.example", "Origin": "http://evil.example"}
    assert rater.post("/api/ratings", json=answer(task), headers=foreign).status_code == 403
    assert len(store.ratings()) == before


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LocalHost:80", "[::1]", "[::1]:7860"])
def test_this_machine_goes_by_each_of_its_names(rater: httpx.Client, host: str) -> None:
    assert rater.get("/api/me", headers={"Host": host}).status_code == 200


def test_an_app_for_other_machines_goes_by_any_name() -> None:
    async def here(request: Request) -> PlainTextResponse:
        return PlainTextResponse("here")

    server = serve(Starlette(routes=[Route("/", here)]), "0.0.0.0", 0)
    try:
        assert httpx.get(server.url, headers={"Host": "lab-3.example"}, trust_env=False).text == "here"
    finally:
        server.stop()


def test_a_page_learns_its_workspace_and_not_the_secret(rater: httpx.Client) -> None:
    me = rater.get("/api/me").json()
    assert me == rater.post("/api/join", json={"name": me["name"]}).json()
    assert len(me["workspace_id"]) == 8
    assert SECRET not in json.dumps(me)


@pytest.mark.parametrize(
    ("page", "told"), [("{workspace_id}.somebody", "somebody else"), ("00000000.{rater_id}", "another workspace")]
)
def test_a_page_of_another_rater_or_workspace_is_told_so(rater: httpx.Client, page: str, told: str) -> None:
    me = rater.get("/api/me").json()
    own = {"X-Hitl-Page": f"{me['workspace_id']}.{me['rater_id']}"}
    task = rater.get("/api/tasks", params={"limit": 1}, headers=own).json()["tasks"][0]
    other = {"X-Hitl-Page": page.format(**me)}
    for reply in (rater.get("/api/tasks", headers=other), rater.post("/api/ratings", json=answer(task), headers=other)):
        assert reply.status_code == 409
        assert is_plain(reply)
        assert told in reply.text
    assert rater.post("/api/ratings", json=answer(task), headers=own).json()["stored"] is True


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"payload": {"choice": "best"}}, 400),
        ({"task_id": "nowhere"}, 400),
        ({"rating_id": "1"}, 400),
        ({"rater_id": "somebody else"}, 409),
        ({"dwell_ms": "long"}, 422),
        ({"dwell_ms": 900.5}, 422),
        ({"decide_ms": 900.5}, 422),
        ({"payload": "left"}, 422),
    ],
)
def test_odd_ratings_are_refused_in_words(rater: httpx.Client, changes: dict[str, Any], status: int) -> None:
    task = rater.get("/api/tasks", params={"limit": 1}).json()["tasks"][0]
    reply = rater.post("/api/ratings", json=answer(task, **changes))
    assert reply.status_code == status
    assert is_plain(reply)


def test_a_body_too_large_is_refused_before_it_is_read(rater: httpx.Client) -> None:
    assert rater.post("/api/join", json={"name": "x" * 100_000}).status_code == 413
    assert rater.post("/api/join", content=iter([b"{}"])).status_code == 411


@pytest.mark.parametrize(
    "path",
    [
        "/docs",
        "/redoc",
        "/openapi.json",
        "/gradio_api/info",
        "/gradio_api/openapi.json",
        "/gradio_api/file=/etc/passwd",
    ],
)
def test_no_page_describes_the_api_and_no_file_is_served(stranger: httpx.Client, path: str) -> None:
    reply = stranger.get(path)
    assert reply.status_code == 404
    assert is_plain(reply)


def test_nothing_can_be_uploaded(rater: httpx.Client) -> None:
    assert rater.post("/gradio_api/upload", files={"files": b"x"}).status_code == 404
    assert rater.post("/board/gradio_api/upload", files={"files": b"x"}).status_code == 403


@pytest.mark.parametrize(
    "path", ["/board", "/board/", "/board/config", "/board/gradio_api/info", "/board/gradio_api/queue/data"]
)
def test_the_board_is_for_the_researcher(rater: httpx.Client, path: str) -> None:
    reply = rater.get(path)
    assert reply.status_code == 403
    assert is_plain(reply)
    assert rater.get("/board", params={"key": "guess"}).status_code == 403


def test_the_link_with_the_key_opens_the_board_once_and_for_all(stranger: httpx.Client) -> None:
    reply = stranger.get("/board", params={"key": TOKEN})
    assert reply.status_code == 303
    assert TOKEN not in reply.headers["location"]
    page = stranger.get("/board/")
    assert page.status_code == 200
    assert "gradio_config" in page.text
    assert stranger.get("/api/status").status_code == 200


def test_the_report_so_far_is_the_researchers_and_written_anew_when_files_change(
    hub: tuple[RunningServer, Store, Workspace, Live], rater: httpx.Client, stranger: httpx.Client
) -> None:
    _, _, workspace, _ = hub
    assert rater.get("/report").status_code == 403
    stranger.get("/board", params={"key": TOKEN})
    reply = stranger.get("/report")
    assert (reply.status_code, is_plain(reply)) == (503, True)
    assert "There is no round 1" in reply.text
    folder = workspace.round_dir(1)
    folder.mkdir(parents=True)
    try:
        reply = stranger.get("/report", timeout=60)
        assert reply.status_code == 200
        assert "Round 1 is not judged yet." in reply.text
        assert reply.headers["refresh"] == "15"
        written = (folder / "report.html").stat().st_mtime_ns
        (folder / "metrics.jsonl").write_text("")  # changed, but the page is seconds old
        assert stranger.get("/report").status_code == 200
        assert (folder / "report.html").stat().st_mtime_ns == written
        assert stranger.get("/report", params={"round": 7}).status_code == 404
    finally:
        shutil.rmtree(folder)


def test_status_and_snapshot_are_for_the_holder_of_the_token(
    rater: httpx.Client, stranger: httpx.Client, store: Store
) -> None:
    assert rater.get("/api/status").status_code == 403
    assert rater.post("/api/snapshot").status_code in (403, 411)
    assert rater.post("/api/snapshot", json={}, headers={"Authorization": "Bearer wrong"}).status_code == 403
    key = {"Authorization": f"Bearer {TOKEN}"}
    status = stranger.get("/api/status", headers=key).json()
    assert (status["round"], status["rounds"], status["stage"]) == (1, 5, "rate")
    path = Path(stranger.post("/api/snapshot", json={}, headers=key).json()["path"])
    assert path.parent.stat().st_mode & 0o077 == 0
    copy = Store.open_snapshot(path)
    try:
        assert [rating.rating_id for rating in copy.ratings()] == [rating.rating_id for rating in store.ratings()]
    finally:
        copy.close()
        path.unlink()
        path.parent.rmdir()


def test_a_missing_picture_is_a_sentence_and_not_a_crash(rater: httpx.Client, workspace: Workspace) -> None:
    task = rater.get("/api/tasks", params={"limit": 1}).json()["tasks"][0]
    path = workspace.image_path(task["image_ids"][0])
    aside = path.rename(path.with_suffix(".aside"))
    try:
        reply = rater.get(f"/image/{task['image_ids'][0]}")
        assert reply.status_code == 404
        assert is_plain(reply)
    finally:
        aside.rename(path)


def test_every_answer_forbids_what_is_not_our_own(stranger: httpx.Client) -> None:
    for path in ("/", "/api/me", "/board"):
        assert "default-src 'self'" in stranger.get(path).headers["content-security-policy"]


def test_the_page_names_no_other_host_to_load_from(stranger: httpx.Client) -> None:
    page = stranger.get("/").text
    assert "fonts.googleapis" not in page
    assert "rating-screen" in page


def test_no_answer_waits_for_the_clients_acknowledgement(server: RunningServer) -> None:
    """What a listening socket has set, those that it accepts have too."""
    assert server._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_that_is_taken_is_named_with_a_setting_that_helps(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}") as refusal:
            serve(app, "127.0.0.1", port)
    (setting,) = re.findall(r"--set (\S+)", refusal.value.hint)
    assert load_config(tmp_path / "hitl.toml", [setting]).server.port == 0
