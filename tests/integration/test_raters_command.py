"""`hitl raters` by its command line, in the store itself and through a running hub; and when the app is not served."""

import io
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from apps.simulated import crew, run
from data.erasing import Erasures
from data.receipts import read_receipts
from data.store import Store
from data.workspace import Workspace
from hitl.commands.hub import Served, running_hub
from hitl.core.errors import ConfigError
from tests.command import Hitl, run_hitl

PASSWORD = "four words that rhyme"


@pytest.fixture
def hitl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Hitl:
    """Runs a command in the workspace `mine`: exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HITL_WORKSPACE", str(tmp_path / "mine"))

    def run(*words: object, typed: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        return run_hitl(capsys, monkeypatch, *words)

    assert run("init")[0] == 0
    return run


@contextmanager
def a_hub(*settings: str) -> Iterator[Served]:
    with running_hub(None, ["server.port=0", *settings], create=False) as served:
        yield served


@pytest.fixture(params=["the store", "a hub"])
def place(request: pytest.FixtureRequest, hitl: Hitl) -> Iterator[str]:
    if request.param == "the store":
        yield request.param
        return
    with a_hub():
        yield request.param


def listed(hitl: Hitl) -> dict[str, Any]:
    code, out, _ = hitl("raters", "list", "--json")
    assert code == 0
    return json.loads(out)


@pytest.mark.parametrize("fate", ["keep", "delete"])
def test_a_rater_is_added_invited_disabled_and_erased(hitl: Hitl, place: str, tmp_path: Path, fate: str):
    code, out, err = hitl("raters", "add", "Anna")
    assert (code, err) == (0, "")
    assert "Added Anna (rater)." in out
    assert "/join#" in out
    assert hitl("raters", "add", "Boss", "--role", "admin", "--password", typed=f"{PASSWORD}\n")[0] == 0
    code, out, _ = hitl("raters", "invite", "--count", 2, "--role", "researcher", "--json")
    made = json.loads(out)["invites"]
    assert [(invite["role"], invite["state"]) for invite in made] == [("researcher", "open")] * 2
    assert "token" not in made[0]
    found = listed(hitl)
    assert [(rater["name"], rater["role"], rater["has_password"]) for rater in found["raters"]] == [
        ("Anna", "rater", False),
        ("Boss", "admin", True),
    ]
    assert len(found["invites"]) == 3
    assert hitl("raters", "invite", "--revoke", made[0]["invite_id"])[0] == 0
    assert [invite["state"] for invite in listed(hitl)["invites"]] == ["open", "revoked", "open"]
    assert "shut out" in hitl("raters", "disable", "anna")[1]
    assert listed(hitl)["raters"][0]["disabled"]
    assert "may come in again" in hitl("raters", "disable", "anna", "--undo")[1]
    code, out, err = hitl("raters", "erase", "Anna")
    assert (code, "--yes" in err) == (2, True)
    code, out, err = hitl("raters", "erase", "Anna", "--ratings", fate, "--yes")
    says = "stay under that name: erased " if fate == "keep" else "are deleted; the receipt goes by the name: erased "
    assert (code, says in out) == (0, True)
    assert ("until the hub is started again" in out) == (place == "a hub")
    raters, invites = (["erased", "Boss"], ["revoked"] * 2) if fate == "keep" else (["Boss"], ["revoked"])
    assert [rater["name"][:6] for rater in listed(hitl)["raters"]] == raters
    assert [invite["state"] for invite in listed(hitl)["invites"]] == [*invites, "open"]
    code, out, _ = hitl("db", "check", "--quick", "--json")
    assert (code, json.loads(out)["differences"]) == (0, [])
    assert "Anna" not in Workspace(tmp_path / "mine").journal_path.read_text(encoding="utf-8")


@pytest.mark.parametrize("fate", ["keep", "delete"])
@pytest.mark.parametrize("next_start", ["the command again", "a hub"])
def test_an_erasure_that_was_interrupted_is_finished_by_the_next_start(
    hitl: Hitl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, next_start: str, fate: str
):
    """Stopped when the name had left the store, and so cannot be asked for any more."""
    hitl("raters", "add", "Anna")
    folder = tmp_path / "mine" / "erasures"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Erasures, "_finish", stop)
        assert hitl("raters", "erase", "Anna", "--ratings", fate, "--yes")[0] == 130
    assert [rater["name"][:6] for rater in listed(hitl)["raters"]] == ["erased"] * (fate == "keep")
    assert len(list(folder.glob("unfinished-*"))) == 1
    if next_start == "a hub":
        with a_hub():
            pass
    else:
        code, out, _ = hitl("raters", "erase", "Anna", "--yes")
        said = "stay under that name: erased" if fate == "keep" else "are deleted; the receipt goes by the name: erased"
        assert (code, out.startswith(f"Erased. The ratings {said}")) == (0, True)
    (receipt,) = read_receipts(Workspace(tmp_path / "mine"))
    assert receipt.finished_at is not None
    assert receipt.rows == (
        {"accounts": 1, "invites": 1, "raters": 1} if fate == "keep" else {"invites": 1, "raters": 1}
    )
    assert [path.name for path in folder.iterdir()] == [receipt.file_name]
    assert hitl("raters", "erase", "Anna", "--yes")[0] == 2


REFUSED = [
    ("disable Nobody", "There is no rater 'Nobody'"),
    ("erase Nobody --yes", "There is no rater 'Nobody'"),
    ("erase Boss --yes --ratings burn", "ratings"),
    ("invite Nobody", "There is no rater 'Nobody'"),
    ("invite --count 0", "0 invites"),
    ("invite Boss --count 2", "2 invites"),
    ("invite --days 0", "0 days"),
    ("invite --role king", "role"),
    ("invite --revoke nothing", "no open invite 'nothing'"),
    ("add boss", "called 'boss' already"),
    ("add Eve --role king", "role"),
    ("add Eve --password", "--password"),
]
"""Commands, and what their errors say."""


def test_what_cannot_be_done_is_one_sentence_and_changes_nothing(hitl: Hitl, place: str):
    hitl("raters", "add", "Boss", "--role", "admin", "--password", typed=f"{PASSWORD}\n")
    before = listed(hitl)
    for words, message in REFUSED:
        code, out, err = hitl("raters", *words.split())
        assert (code, out) == (2, ""), words
        assert message in err, words
        assert "Traceback" not in err, words
        assert "hint:  " in err.splitlines()[-1], words
        assert listed(hitl) == before, words


def test_an_invite_leads_to_the_hub_that_runs_and_lets_in(hitl: Hitl):
    with a_hub() as served:
        link = json.loads(hitl("raters", "invite", "--json")[1])["invites"][0]["link"]
        page, _, token = link.partition("#")
        assert page == f"{served.server.url}/join"
        with httpx.Client(base_url=served.server.url, trust_env=False) as client:
            assert client.get("/join").status_code == 200
            assert client.post("/api/invite", json={"token": token, "name": "Anna"}).status_code == 200
        assert [rater["name"] for rater in listed(hitl)["raters"]] == ["Anna"]


@pytest.mark.parametrize(
    "settings",
    [
        ["server.host=0.0.0.0"],
        ["server.host=::"],
        ['server.proxies=["127.0.0.1"]'],
        ["server.public_url=https://lab.example"],
    ],
)
def test_without_accounts_the_app_is_served_to_this_machine_alone(hitl: Hitl, settings: list[str], tmp_path: Path):
    with pytest.raises(ConfigError, match="nobody has an account") as refusal, a_hub(*settings):
        pass
    assert not Workspace(tmp_path / "mine").hub_path.exists()
    words = refusal.value.hint.partition(": hitl ")[2].replace("NAME", "Boss").split()
    assert hitl(*words)[0] == 0  # following the hint works
    if settings != ["server.host=::"]:
        with a_hub(*settings) as served, httpx.Client(base_url=served.server.url, trust_env=False) as client:
            assert client.post("/api/join", json={"name": "Anna"}).status_code == 403


def test_a_door_that_is_shut_by_the_settings_is_shut_before_there_are_accounts(hitl: Hitl):
    with (
        a_hub("server.open_join=false") as served,
        httpx.Client(base_url=served.server.url, trust_env=False) as client,
    ):
        assert client.post("/api/join", json={"name": "Anna"}).status_code == 403
        assert client.get("/").headers["location"] == "join"


def test_simulated_raters_come_in_where_people_have_accounts(hitl: Hitl):
    hitl("raters", "invite")
    with a_hub() as served:
        served.hub.live.enter("finished", "All rounds are done")
        run(served.server.url, crew(2, seed=0, taste_weight=1.0), threading.Event(), token=served.token)
        assert [rater["kind"] for rater in listed(hitl)["raters"]] == ["simulated"] * 1
        with pytest.raises(ConfigError, match="not let in"):
            run(served.server.url, crew(2, seed=0, taste_weight=1.0), threading.Event())


def test_the_store_of_a_hub_that_was_stopped_knows_what_was_done_through_it(hitl: Hitl, tmp_path: Path):
    with a_hub():
        hitl("raters", "add", "Anna", "--role", "researcher")
    with Store.open(Workspace(tmp_path / "mine")) as store:
        (anna,) = store.raters()
        assert store.account(anna.rater_id).role == "researcher"
