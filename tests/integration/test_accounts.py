"""Who may do what, over a real socket: coming in, being shut out, and every way round that was thought of."""

import base64
import hashlib
import json
import logging
import re
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, repeat
from pathlib import Path
from typing import Any

import httpx
import pytest
from argon2 import PasswordHasher, profiles
from fastapi.routing import APIRoute
from itsdangerous import TimestampSigner

from apps.accounts import Accounts
from apps.server import RunningServer, build_server, serve
from data.records import Role
from data.store import Store
from data.workspace import Workspace
from hitl.config import RateConfig
from hitl.core.live import Live
from tests.facts import PROMPT, a_task, an_image
from tests.people import agree

TOKEN, SECRET = "the-token", "the-secret"
PASSWORD = "four words that rhyme"
OFFICE = {"Authorization": f"Bearer {TOKEN}"}
QUICK = PasswordHasher.from_parameters(profiles.CHEAPEST)
"""The same algorithm and the same code; what a guess costs the guesser is argon2's own business."""


class Clock:
    """Stands still until a test lets time pass, on a slow machine too."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class House:
    """A rating app with an admin, so that nobody comes in by a name alone. What tests do to it is over HTTP."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.workspace = Workspace(folder)
        self.store = Store.open(self.workspace, create=True)
        self.live = Live()
        self.live.enter("rate", "Waiting for ratings", round=1, rounds=1)
        self.add_tasks()
        self.clock = Clock()
        self.accounts().add("Boss", role="admin", password=PASSWORD)
        self.clients: list[httpx.Client] = []
        self.headers: dict[str, str] = {}
        self.serve(**settings)

    def accounts(self) -> Accounts:
        return Accounts(self.store, clock=self.clock, hasher=QUICK)

    def serve(self, **settings: Any) -> None:
        app = build_server(
            self.store,
            self.workspace,
            self.live,
            token=TOKEN,
            secret=SECRET,
            rate=RateConfig(),
            accounts=self.accounts(),
            root_path=settings.get("root_path", ""),
        )
        self.server: RunningServer = serve(app, "127.0.0.1", 0, **settings)
        self.app = app

    def restart(self, **settings: Any) -> None:
        self.server.stop()
        self.store.close()
        self.store = Store.open(self.workspace)
        self.serve(**settings)

    def add_tasks(self) -> None:
        self.store.add_prompts([PROMPT])
        self.store.start_round(1, "sha")
        tasks = [a_task(f"t{number}") for number in range(5)]
        self.store.add_images(an_image(f"{task.task_id}-{side}") for task in tasks for side in "ab")
        self.store.add_tasks(tasks)

    def stranger(self) -> httpx.Client:
        # `verify=False`: there is no https here, and reading the world's certificates takes longer than most tests.
        client = httpx.Client(base_url=self.server.url, trust_env=False, timeout=30, headers=self.headers, verify=False)
        self.clients.append(client)
        return client

    def ask(self, action: str, **body: Any) -> dict[str, Any]:
        """As `hitl raters` does, with the token of hub.json."""
        reply = self.stranger().post(f"/api/raters/{action}", json=body, headers=OFFICE)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def invite(self, **asked: Any) -> str:
        return self.ask("invite", **asked)["invites"][0]["token"]

    def rater(self, name: str, *, role: Role = "rater", password: str = PASSWORD) -> httpx.Client:
        """Somebody who came in by an invite and chose a password."""
        client = self.stranger()
        reply = client.post("/api/invite", json={"token": self.invite(role=role), "name": name, "password": password})
        assert reply.status_code == 200, reply.text
        agree(client)
        return client

    def empty(self) -> None:
        """Only the admin is left, as at first."""
        for client in self.clients:
            client.close()
        self.clients.clear()
        for rater in self.store.raters():
            if rater.name != "Boss" and not rater.name.startswith("erased"):
                self.store.erase_rater(rater.rater_id, ratings="delete")

    def close(self) -> None:
        self.empty()
        self.server.stop()
        self.store.close()


@pytest.fixture(scope="module")
def shared_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One server for the module, for Gradio takes long to build its pages."""
    opened = House(tmp_path_factory.mktemp("house") / "workspace", proxies=["127.0.0.1"])
    yield opened
    opened.close()


@pytest.fixture
def house(shared_house: House, request: pytest.FixtureRequest) -> Iterator[House]:
    """Each test comes from an address of its own, so that wrong passwords of one do not keep the next one waiting."""
    digest = hashlib.sha256(request.node.nodeid.encode()).digest()
    shared_house.headers = {"X-Forwarded-For": f"10.{digest[0]}.{digest[1]}.{digest[2]}"}
    yield shared_house
    shared_house.empty()


@pytest.fixture
def own_house(tmp_path: Path) -> Iterator[House]:
    """For tests that stop the server or set up its surroundings."""
    opened = House(tmp_path / "workspace")
    yield opened
    opened.close()


@contextmanager
def refused(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What happens inside is refused, and that is one line in the log, with no secret in it."""
    caplog.clear()
    with caplog.at_level(logging.INFO):
        yield
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Refused")]
    assert len(lines) == 1, lines
    for secret in (PASSWORD, TOKEN, SECRET, "Anna", "Boss", "Dora"):
        assert secret not in caplog.text


def is_plain(reply: httpx.Response) -> bool:
    """A sentence for a person, and no trace of the code or the secrets behind it."""
    told = reply.json()["error"]
    return told.endswith(".") and not any(
        text in reply.text for text in ("Traceback", PASSWORD, TOKEN, SECRET, "argon2")
    )


# -- coming in --------------------------------------------------------------------------------------------------------


def test_where_people_have_accounts_a_name_alone_lets_nobody_in(house: House, caplog: pytest.LogCaptureFixture):
    stranger = house.stranger()
    for name in ("Anna", "Boss"):
        with refused(caplog):
            reply = stranger.post("/api/join", json={"name": name})
        assert (reply.status_code, is_plain(reply)) == (403, True)
    with refused(caplog):
        assert stranger.post("/api/join", json={"name": "Robot", "kind": "simulated"}).status_code == 403
    assert [rater.name for rater in house.store.raters()] == ["Boss"]
    assert stranger.post("/api/join", json={"name": "Robot", "kind": "simulated"}, headers=OFFICE).status_code == 200
    page = house.stranger().get("/", follow_redirects=True)
    assert page.url.path == "/join"
    assert "<h1" in page.text


def test_an_invite_lets_one_person_in_and_a_replay_nobody(house: House, caplog: pytest.LogCaptureFixture):
    token = house.invite()
    anna, eve = house.stranger(), house.stranger()
    assert anna.post("/api/invite/look", json={"token": token}).json() == {"name": None, "role": "rater"}
    reply = anna.post("/api/invite", json={"token": token, "name": "Anna"})
    assert (reply.status_code, reply.json()["role"]) == (200, "rater")
    assert anna.get("/api/me").json()["name"] == "Anna"
    agree(anna)
    assert len(anna.get("/api/tasks").json()["tasks"]) == 3
    for path in ("/api/invite/look", "/api/invite"):
        with refused(caplog):
            again = eve.post(path, json={"token": token, "name": "Eve"})
        assert (again.status_code, is_plain(again)) == (403, True)
    assert eve.get("/api/me").status_code == 401
    assert house.store.rater_by_name("Eve") is None
    for path in house.workspace.root.iterdir():
        assert token.encode() not in path.read_bytes()


def test_of_many_who_use_one_invite_at_once_one_comes_in(house: House):
    token, door = house.invite(), threading.Barrier(6)

    def come(number: int) -> int:
        client = house.stranger()
        door.wait()
        return client.post("/api/invite", json={"token": token, "name": f"Guest {number}"}).status_code

    with ThreadPoolExecutor(6) as guests:
        assert sorted(guests.map(come, range(6))) == [200, 403, 403, 403, 403, 403]
    assert sum(rater.name.startswith("Guest") for rater in house.store.raters()) == 1


def test_guesses_that_come_all_at_once_count_like_those_that_come_in_a_row(house: House):
    house.rater("Cleo")
    guess = {"name": "Cleo", "password": "wrong"}
    with ThreadPoolExecutor(12) as guests:
        client = house.stranger()
        codes = Counter(guests.map(lambda _: client.post("/api/login", json=guess).status_code, range(12)))
    # More may wait for their turn to be hashed than are let in, but no more than 5 are ever compared.
    assert set(codes) == {403, 429}
    assert codes[403] == 5


@pytest.mark.parametrize("token", ["", "guess", "0" * 5000, "\u2028", "\ud800"])
def test_a_guessed_invite_is_refused(house: House, token: str, caplog: pytest.LogCaptureFixture):
    with refused(caplog):
        body = json.dumps({"token": token, "name": "Eve"}).encode()
        reply = house.stranger().post("/api/invite", content=body, headers={"Content-Type": "application/json"})
    assert (reply.status_code, is_plain(reply)) == (403, True)


def test_a_revoked_invite_lets_nobody_in(house: House):
    made = house.ask("invite")["invites"][0]
    house.ask("revoke", invite_id=made["invite_id"])
    assert house.stranger().post("/api/invite", json={"token": made["token"], "name": "Eve"}).status_code == 403
    reply = house.stranger().post("/api/raters/revoke", json={"invite_id": made["invite_id"]}, headers=OFFICE)
    assert (reply.status_code, is_plain(reply)) == (400, True)


def test_an_invite_does_not_make_anybody_somebody_else(house: House):
    token = house.invite()
    reply = house.stranger().post("/api/invite", json={"token": token, "name": "boss", "password": PASSWORD})
    assert reply.status_code == 409
    assert house.stranger().post("/api/invite", json={"token": token, "name": "Anna"}).status_code == 200


def test_an_invite_for_a_rater_gives_them_a_new_password_and_role_and_ends_the_old_sessions(house: House):
    anna = house.rater("Anna")
    token = house.invite(name="anna", role="researcher")
    fresh = house.stranger()
    assert fresh.post("/api/invite/look", json={"token": token}).json() == {"name": "Anna", "role": "researcher"}
    reply = fresh.post("/api/invite", json={"token": token, "name": "ignored", "password": "another long one"})
    assert (reply.json()["name"], reply.json()["role"]) == ("Anna", "researcher")
    assert fresh.get("/board/").status_code == 200
    assert anna.get("/api/me").status_code == 401
    assert house.stranger().post("/api/login", json={"name": "Anna", "password": PASSWORD}).status_code == 403
    login = house.stranger().post("/api/login", json={"name": "Anna", "password": "another long one"})
    assert login.status_code == 200


@pytest.mark.parametrize("password", ["", "short", "anna anna", "x" * 201])
def test_a_password_that_is_none_leaves_the_invite_open(house: House, password: str):
    token = house.invite(role="researcher")
    weak = {"token": token, "name": "Anna Anna", "password": password}
    reply = house.stranger().post("/api/invite", json=weak)
    assert (reply.status_code, is_plain(reply)) == (400, True)
    assert house.stranger().post("/api/invite", json={**weak, "password": PASSWORD}).status_code == 200


def test_a_wrong_password_and_a_wrong_name_get_the_same_answer(house: House, caplog: pytest.LogCaptureFixture):
    house.rater("Gone")
    house.ask("disable", name="Gone")
    answers = []
    guesses = [("Boss", "wrong"), ("Nobody", PASSWORD), ("Gone", PASSWORD), ("Boss", "x" * 50_000), ("Boss", "\ud800")]
    for name, password in guesses:
        sent = json.dumps({"name": name, "password": password}).encode()  # which escapes half a character
        with refused(caplog):
            reply = house.stranger().post("/api/login", content=sent, headers={"Content-Type": "application/json"})
        assert is_plain(reply)
        answers.append((reply.status_code, reply.json()["error"], "set-cookie" in reply.headers))
    assert answers == [answers[0]] * len(guesses)
    assert answers[0][0] == 403


def guess_until_told_to_wait(client: httpx.Client, names: Iterator[str], free: int, **options: Any) -> httpx.Response:
    for _ in range(free):
        assert client.post("/api/login", json={"name": next(names), "password": "wrong"}, **options).status_code == 403
    return client.post("/api/login", json={"name": next(names), "password": "wrong"}, **options)


def test_guessing_a_password_takes_longer_each_time_and_says_how_long(house: House, caplog: pytest.LogCaptureFixture):
    dora, stranger = house.rater("Dora"), house.stranger()
    wrong, right = {"name": "Dora", "password": "wrong"}, {"name": "Dora", "password": PASSWORD}
    reply = guess_until_told_to_wait(stranger, repeat("Dora"), 5)
    for wait_s in (1, 2, 4):
        assert (reply.status_code, reply.headers["retry-after"], is_plain(reply)) == (429, str(wait_s), True)
        assert f"wait {wait_s} s" in reply.json()["error"]
        house.clock.now += wait_s
        assert stranger.post("/api/login", json=wrong).status_code == 403
        reply = stranger.post("/api/login", json=wrong)
    with refused(caplog):
        assert stranger.post("/api/login", json=right).status_code == 429
    assert dora.get("/api/me").status_code == 200  # who is in stays in
    assert stranger.post("/api/login", json={"name": "Boss", "password": PASSWORD}).status_code == 200
    house.clock.now += 8
    assert stranger.post("/api/login", json=right).status_code == 200


# -- sessions ---------------------------------------------------------------------------------------------------------


def test_a_session_outlives_a_restart_of_the_server(own_house: House):
    house = own_house
    anna = house.rater("Anna")
    cookies = dict(anna.cookies)
    house.restart()
    again = house.stranger()
    again.cookies.update(cookies)
    assert again.get("/api/me").json()["name"] == "Anna"


def test_a_rater_who_is_disabled_is_out_at_once_and_stays_out(house: House, caplog: pytest.LogCaptureFixture):
    anna = house.rater("Anna")
    task = anna.get("/api/tasks", params={"limit": 1}).json()["tasks"][0]
    house.ask("disable", name="Anna")
    rating = {
        "rating_id": "8c6d5f0e-5a0e-4d0a-9a55-0d8f3f7a1b11",
        "task_id": task["task_id"],
        "kind": task["kind"],
        "payload": {"choice": "left"},
        "image_ids": task["image_ids"],
        "dwell_ms": 700,
        "client_time": "",
    }
    asked = [
        ("GET", "/api/me", None),
        ("GET", "/api/tasks", None),
        ("POST", "/api/ratings", rating),
        ("POST", "/api/release", {"task_ids": [task["task_id"]]}),
        ("GET", f"/{task['images'][0]}", None),
    ]
    for method, path, body in asked:
        with refused(caplog):
            reply = anna.request(method, path, json=body)
        assert (reply.status_code, is_plain(reply)) == (401, True)
    assert house.store.ratings() == []
    house.ask("disable", name="Anna", undo=True)
    assert anna.get("/api/me").status_code == 401  # the old session is over for good
    assert house.stranger().post("/api/login", json={"name": "Anna", "password": PASSWORD}).status_code == 200


def test_a_rater_who_is_erased_is_out_at_once_and_their_name_is_free(house: House):
    anna = house.rater("Anna")
    assert house.ask("erase", name="Anna")["rater"]["name"].startswith("erased ")
    assert anna.get("/api/me").status_code == 401
    assert house.stranger().post("/api/login", json={"name": "Anna", "password": PASSWORD}).status_code == 403
    assert "Anna" not in house.workspace.journal_path.read_text(encoding="utf-8")
    assert house.rater("Anna").get("/api/me").status_code == 200


def forge(cookie: str, change: str) -> str:
    payload, *_ = cookie.rsplit(".", 2)
    match change:
        case "another secret":
            return TimestampSigner("another").sign(payload).decode()
        case "another rater":
            other = {**json.loads(base64.b64decode(payload)), "rater": "somebody else"}
            return cookie.replace(payload, base64.b64encode(json.dumps(other).encode()).decode())
        case "too old":
            return Old(SECRET).sign(payload).decode()
        case "no signature":
            return payload
    return "\x01garbage"


class Old(TimestampSigner):
    """Signs as it did 31 days ago."""

    def get_timestamp(self) -> int:
        return super().get_timestamp() - 31 * 24 * 3600


@pytest.mark.parametrize("change", ["another secret", "another rater", "too old", "no signature"])
def test_a_forged_or_expired_cookie_is_no_session(house: House, change: str, caplog: pytest.LogCaptureFixture):
    boss = house.stranger()
    boss.post("/api/login", json={"name": "Boss", "password": PASSWORD}).raise_for_status()
    agree(boss)
    ((name, cookie),) = boss.cookies.items()
    for path in ("/api/tasks", "/board/", "/api/raters"):
        with refused(caplog):
            reply = house.stranger().get(path, headers={"Cookie": f"{name}={forge(cookie, change)}"})
        assert reply.status_code in (401, 403)
        assert is_plain(reply)
        assert boss.get(path).status_code == 200


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(house: House):
    header = house.stranger().post("/api/login", json={"name": "Boss", "password": PASSWORD}).headers["set-cookie"]
    assert {"httponly", "samesite=lax"} <= set(header.lower().split("; "))
    assert "secure" not in header.lower().split("; ")  # it is plain http here


# -- every function authorises itself ---------------------------------------------------------------------------------


def routes(house: House, method: str) -> list[str]:
    return [route.path for route in house.app.routes if isinstance(route, APIRoute) and method in (route.methods or ())]


def test_a_page_of_another_site_can_post_nothing(house: House, caplog: pytest.LogCaptureFixture):
    boss = house.stranger()
    boss.post("/api/login", json={"name": "Boss", "password": PASSWORD}).raise_for_status()
    paths = [*routes(house, "POST"), "/board/gradio_api/queue/join", "/gradio_api/queue/join", "/nothing"]
    assert len(paths) > 12
    before = house.workspace.journal_path.read_bytes()
    for path in paths:
        for header in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "same-site"}):
            with refused(caplog):
                reply = boss.post(path, json={}, headers=header)
            assert reply.status_code in (403, 404)
            assert is_plain(reply)
    assert house.workspace.journal_path.read_bytes() == before
    own = {"Origin": house.server.url, "Sec-Fetch-Site": "same-origin"}
    assert boss.post("/api/raters/invite", json={}, headers=own).status_code == 200


@pytest.mark.parametrize("who", ["stranger", "rater", "researcher", "wrong token"])
def test_only_admins_say_who_may_come_in(house: House, who: str, caplog: pytest.LogCaptureFixture):
    client = house.stranger()
    if who in ("rater", "researcher"):
        client = house.rater("Anna", role="rater" if who == "rater" else "researcher")
    headers = {"Authorization": "Bearer guess"} if who == "wrong token" else {}
    before = house.workspace.journal_path.read_bytes()
    bodies = {
        "add": {"name": "Eve", "role": "admin"},
        "invite": {"role": "admin"},
        "revoke": {"invite_id": "x"},
        "disable": {"name": "Boss"},
        "erase": {"name": "Boss"},
    }
    assert {f"/api/raters/{action}" for action in bodies} == {
        path for path in routes(house, "POST") if path.startswith("/api/raters")
    }
    for action, body in bodies.items():
        with refused(caplog):
            reply = client.post(f"/api/raters/{action}", json=body, headers=headers)
        assert (reply.status_code, is_plain(reply)) == (403, True)
    with refused(caplog):
        assert client.get("/api/raters", headers=headers).status_code == 403
    assert house.workspace.journal_path.read_bytes() == before


def test_an_admin_may_in_the_browser_what_the_command_may(house: House):
    boss = house.stranger()
    boss.post("/api/login", json={"name": "Boss", "password": PASSWORD}).raise_for_status()
    invite = boss.post("/api/raters/invite", json={"role": "researcher"}).json()["invites"][0]
    listed = boss.get("/api/raters")
    assert invite["invite_id"] in [found["invite_id"] for found in listed.json()["invites"]]
    assert invite["token"] not in listed.text
    assert "argon2" not in listed.text


GRADIO = [
    ("GET", "config"),
    ("GET", "gradio_api/info"),
    ("GET", "gradio_api/queue/data?session_hash=x"),
    ("GET", "gradio_api/file=/etc/passwd"),
    ("GET", "gradio_api/heartbeat/x"),
    ("POST", "gradio_api/queue/join"),
    ("POST", "gradio_api/run/numbers"),
    ("POST", "gradio_api/call/numbers"),
    ("POST", "gradio_api/upload"),
    ("POST", "gradio_api/component_server"),
]


@pytest.mark.parametrize("who", ["stranger", "rater", "disabled researcher"])
def test_gradio_called_raw_tells_a_rater_nothing_of_the_board(house: House, who: str, caplog: pytest.LogCaptureFixture):
    client = house.stranger() if who == "stranger" else house.rater("Anna")
    if who == "disabled researcher":
        client = house.rater("Researcher", role="researcher")
        assert client.get("/board/config").status_code == 200
        house.ask("disable", name="Researcher")
    for method, path in GRADIO:
        body = {"data": [], "fn_index": 0, "session_hash": "x"} if method == "POST" else None
        with refused(caplog):
            reply = client.request(method, f"/board/{path}", json=body)
        assert (reply.status_code, is_plain(reply)) == (403, True)


@pytest.mark.parametrize(("method", "path"), [pair for pair in GRADIO if "heartbeat" not in pair[1]][1:])
def test_the_rating_page_has_no_gradio_functions_to_call(
    house: House, method: str, path: str, caplog: pytest.LogCaptureFixture
):
    with refused(caplog):
        reply = house.rater("Anna").request(method, f"/{path}", json={"data": []} if method == "POST" else None)
    assert (reply.status_code, is_plain(reply)) == (404, True)


def test_a_board_function_under_way_asks_again_who_calls_it(house: House):
    """The page was opened by a researcher who is disabled before its function runs, past every gate before it."""
    researcher = house.rater("Researcher", role="researcher")
    page = researcher.get("/board/config").json()
    first = page["dependencies"][0]["id"]
    call = {"data": [], "fn_index": first, "session_hash": "abc"}
    assert researcher.post("/board/gradio_api/queue/join", json=call).status_code == 200
    with researcher.stream("GET", "/board/gradio_api/queue/data", params={"session_hash": "abc"}) as stream:
        assert "Boss" not in stream.headers
        told = next(line for line in stream.iter_lines() if "process_completed" in line)
        assert '"success":true' in told.replace(" ", "")
    house.ask("disable", name="Researcher")
    assert researcher.post("/board/gradio_api/queue/join", json=call).status_code == 403


# -- how often --------------------------------------------------------------------------------------------------------


def test_a_page_gone_wild_is_slowed_down_and_the_others_are_not(house: House, caplog: pytest.LogCaptureFixture):
    anna, ben = house.rater("Anna"), house.rater("Ben")
    limit = house.app.state.door.limit
    assert limit.per_second >= 4 * 2 * 5  # a rating is a request and a half, and 5 a second is fast
    usual = limit.burst, limit.per_second, limit.clock
    limit.burst, limit.per_second, limit.clock = 3, 0.5, house.clock
    limit._buckets.clear()  # they count by the other clock
    try:
        assert [anna.get("/api/me").status_code for _ in range(3)] == [200] * 3
        with refused(caplog):
            slowed = anna.get("/api/me")
        assert (slowed.status_code, slowed.headers["retry-after"], is_plain(slowed)) == (429, "2", True)
        assert ben.get("/api/me").status_code == 200
        house.clock.now += 2
        assert anna.get("/api/me").status_code == 200
        assert anna.get("/api/me").status_code == 429
    finally:
        limit.burst, limit.per_second, limit.clock = usual


# -- behind a proxy ---------------------------------------------------------------------------------------------------

FORWARDED = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "lab.example", "X-Forwarded-For": "203.0.113.9"}
PROXIED: dict[str, Any] = {"proxies": ["127.0.0.1"], "names": ["lab.example"], "root_path": "/rate"}


@pytest.mark.parametrize("prefix", ["/rate", ""], ids=["the proxy leaves the path", "the proxy cuts the path"])
def test_behind_a_proxy_all_is_under_its_path_and_cookies_are_secure(own_house: House, prefix: str):
    house = own_house
    house.restart(**PROXIED)
    client = house.stranger()
    own = {**FORWARDED, "Origin": "https://lab.example"}
    page = client.get(f"{prefix}/", headers=FORWARDED)
    assert (page.status_code, page.headers["location"]) == (303, "join")
    reply = client.post(f"{prefix}/api/login", json={"name": "Boss", "password": PASSWORD}, headers=own)
    cookie = reply.headers["set-cookie"]
    assert {"secure", "httponly", "samesite=lax", "path=/rate"} <= set(cookie.lower().split("; "))
    session = {**FORWARDED, "Cookie": cookie.partition(";")[0]}
    assert client.get(f"{prefix}/api/me", headers=session).json()["name"] == "Boss"
    for path, root in (("/", "https://lab.example/rate"), ("/board/", "https://lab.example/rate/board")):
        text = client.get(f"{prefix}{path}", headers=session).text
        assert set(re.findall(r'"root":"([^"]*)"', text)) == {root}
    for path in ("/board/", "/board/gradio_api/info", "/api/raters"):
        assert client.get(f"{prefix}{path}", headers=FORWARDED).status_code == 403
    assert client.get("/rate", headers=FORWARDED).headers["location"].endswith("/rate/")


def test_what_a_proxy_says_is_believed_from_no_one_else(own_house: House, caplog: pytest.LogCaptureFixture):
    house = own_house
    stranger = house.stranger()
    lie = {**FORWARDED, "X-Forwarded-Host": "127.0.0.1", "Origin": "https://127.0.0.1"}
    with refused(caplog):
        reply = stranger.post("/api/login", json={"name": "Boss", "password": PASSWORD}, headers=lie)
    assert reply.status_code == 403
    assert "203.0.113.9" not in caplog.text
    reply = stranger.post("/api/login", json={"name": "Boss", "password": PASSWORD}, headers=FORWARDED)
    assert reply.status_code == 200
    assert "secure" not in reply.headers["set-cookie"].lower().split("; ")
    assert "lab.example" not in stranger.get("/board/", headers=FORWARDED).text


def test_a_proxy_for_another_name_gets_nothing(own_house: House, caplog: pytest.LogCaptureFixture):
    house = own_house
    house.restart(**PROXIED)
    with refused(caplog):
        reply = house.stranger().get("/rate/join", headers={**FORWARDED, "X-Forwarded-Host": "evil.example"})
    assert (reply.status_code, is_plain(reply)) == (403, True)
    assert "203.0.113.9" in caplog.text


def test_guesses_through_a_proxy_count_for_who_makes_them(house: House):
    """20 wrong names from one address make it wait, and nobody else behind the same proxy."""
    client, here = house.stranger(), {"X-Forwarded-For": "203.0.113.9"}
    guess_until_told_to_wait(client, (f"guess {number}" for number in count()), 20, headers=here)
    login = {"name": "Boss", "password": PASSWORD}
    assert client.post("/api/login", json=login, headers=here).status_code == 429
    other = {"X-Forwarded-For": "203.0.113.10"}
    assert client.post("/api/login", json=login, headers=other).status_code == 200


def test_a_name_is_enough_on_this_machine_until_somebody_has_an_account(tmp_path: Path):
    workspace = Workspace(tmp_path)
    with Store.open(workspace, create=True) as store:
        app = build_server(store, workspace, Live(), token=TOKEN, secret=SECRET, rate=RateConfig())
        server = serve(app, "127.0.0.1", 0)
        with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as anna:
            try:
                assert anna.post("/api/join", json={"name": "Anna"}).status_code == 200
                assert anna.get("/join").headers["location"] == "./"
                account = store.account(anna.get("/api/me").json()["rater_id"])
                store.set_account(replace(account, role="researcher"))
                assert anna.post("/api/join", json={"name": "Anna"}).status_code == 409  # a name is not enough for that
                Accounts(store).invite()
                assert anna.get("/api/me").status_code == 200
                assert anna.post("/api/join", json={"name": "Ben"}).status_code == 403
            finally:
                server.stop()
