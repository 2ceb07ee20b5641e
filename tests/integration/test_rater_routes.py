"""What comes before a rater's first rating, and what they may see of themselves, over a real server and store."""

import contextlib
import io
import json
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image as Picture

from apps.languages import languages
from apps.practice import CONTRASTS, practice_picture, practice_tasks
from apps.server import build_server, serve
from apps.session import new_rater
from apps.welcome import Welcome, text_of_setting
from data import RATING_KINDS
from data.receipts import read_receipts
from data.records import Image, Prompt, Task
from data.store import Store
from data.workspace import Workspace
from data.world import verifier
from hitl.config import RateConfig
from hitl.core.errors import ConfigError
from hitl.core.live import Live
from tests.people import agree

HEART = Prompt.of("a green heart")


@dataclass
class House:
    """A hub with three pairs to rate. Each test has people of its own."""

    workspace: Workspace
    store: Store
    url: str
    open: contextlib.ExitStack

    def client(self, name: str | None = None) -> httpx.Client:
        client = self.open.enter_context(httpx.Client(base_url=self.url, trust_env=False, timeout=30))
        if name is not None:
            client.post("/api/join", json={"name": name}).raise_for_status()
        return client

    def journal(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.workspace.journal_path.read_text().splitlines()]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    workspace, live = Workspace(tmp_path_factory.mktemp("workspace")), Live()
    with Store.open(workspace, create=True) as store:
        store.start_round(1, "sha")
        store.add_prompts([HEART])
        ids = []
        for grey in range(6):
            file = io.BytesIO()
            Picture.new("RGB", (8, 8), (grey, grey, grey)).save(file, "PNG")
            ids.append(workspace.add_image(file.getvalue()))
        store.add_images(
            Image(image_id=each, prompt_id=HEART.prompt_id, round=1, width=8, height=8, provenance={"seed": 4711})
            for each in ids
        )
        store.add_tasks(
            Task(
                task_id=f"t{n}",
                round=1,
                kind="pairwise",
                prompt_id=HEART.prompt_id,
                image_ids=(ids[n], ids[n + 3]),
                overlap=9,
            )
            for n in range(3)
        )
        live.enter("rate", "Waiting for ratings", round=1, rounds=5)
        app = build_server(store, workspace, live, token="t", secret="s", rate=RateConfig(overlap=9))
        server = serve(app, "127.0.0.1", 0)
        with contextlib.ExitStack() as clients:
            yield House(workspace, store, server.url, clients)
        server.stop()


def rating_of(task: dict[str, Any], number: int, choice: str = "left", **payload: Any) -> dict[str, Any]:
    return {
        "rating_id": str(uuid.uuid4()),
        "task_id": task["task_id"],
        "kind": task["kind"],
        "payload": {"choice": choice, **payload},
        "image_ids": task["image_ids"],
        "dwell_ms": 1000 * (number + 1),
        "client_time": "",
    }


# -- consent ----------------------------------------------------------------------------------------------------------


def test_nobody_rates_who_has_not_agreed_and_agreeing_is_a_fact_of_the_journal(house: House):
    anna = house.client("Ben")
    assert anna.get("/api/me").json()["needs"] == ["consent", "practice"]
    assert anna.get("/api/tasks").status_code == 403
    task = {"task_id": "t0", "kind": "pairwise", "image_ids": list(house.store.tasks(1)[0].image_ids)}
    assert anna.post("/api/ratings", json=rating_of(task, 0)).status_code == 403
    assert house.store.ratings() == []

    texts = anna.get("/api/welcome", params={"language": "de"}).json()
    assert texts["consent"] == languages()["de"]["consent.text"]
    reply = anna.post("/api/consent", json={"version": texts["version"], "language": "de"})
    assert reply.json() == {"needs": ["practice"]}
    entry = house.journal()[-1]
    assert entry["event"] == "consent_given"
    assert (entry["data"]["language"], entry["data"]["text"]) == ("de", texts["consent"])
    assert len(anna.get("/api/tasks").json()["tasks"]) == 3
    # Another language says the same: nobody is asked twice, and to agree again is no new fact.
    agree(anna)
    anna.post("/api/consent", json={"version": texts["version"], "language": "de"}).raise_for_status()
    me = anna.get("/api/me").json()["rater_id"]
    assert [line["data"]["language"] for line in house.journal() if line["event"] == "consent_given"] == ["de", "en"]
    assert len(house.store.consents(me)) == 2


def test_who_joins_with_what_was_on_the_page_has_agreed_to_it(house: House):
    stranger = house.client()
    version = stranger.get("/api/welcome", params={"language": "ar"}).json()["version"]
    sent = {"name": "Cleo", "consent": version, "language": "ar"}
    assert stranger.post("/api/join", json=sent).json()["needs"] == ["practice"]
    (consent,) = house.store.consents(stranger.get("/api/me").json()["rater_id"])
    assert (consent.version, consent.language) == (version, "ar")
    # A page that showed another text lets them in, and asks.
    late = house.client().post("/api/join", json={"name": "a friend of C.", "consent": "0" * 12, "language": "en"})
    assert (late.status_code, late.json()["needs"]) == (200, ["consent", "practice"])


def test_a_version_that_is_not_shown_is_refused(house: House):
    anna = house.client("Dan")
    english = anna.get("/api/welcome").json()["version"]
    for sent in ({"version": "", "language": "en"}, {"version": english, "language": "de"}):
        assert anna.post("/api/consent", json=sent).status_code == 400
    assert anna.get("/api/me").json()["needs"] == ["consent", "practice"]


def test_when_the_project_changes_its_text_people_are_asked_again(tmp_path: Path):
    """What they rate meanwhile from a page that is open is still taken. Simulated raters are asked nothing."""
    (tmp_path / "consent.md").write_text("# We keep\n- all of it <script>\n", encoding="utf-8")
    with Store.open(Workspace(tmp_path), create=True) as store:
        before, after = (
            Welcome.of(store, RateConfig(practice=0, consent=text), tmp_path) for text in ("", "consent.md")
        )
        anna, robot = new_rater("Eva"), new_rater("Robot", "simulated")
        for rater in (anna, robot):
            store.add_rater(rater)
        before.agree(anna, before.describe("en")["version"], "en")
        assert (before.needs(anna), after.needs(anna), after.needs(robot)) == ([], ["consent"], [])
        after.require_consent(anna)
        assert after.describe("de")["consent"] == "# We keep\n- all of it <script>"
        after.agree(anna, after.describe("ar")["version"], "ar")
        assert (before.needs(anna), after.needs(anna)) == ([], [])
        assert Welcome.of(store, RateConfig(practice=0, guide="Look."), tmp_path).needs(anna) == ["practice"]


def test_a_text_that_cannot_be_read_is_refused_before_anything_runs(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"rate\.guide is 'guide\.md'"):
        text_of_setting("rate.guide", "guide.md", tmp_path)
    assert text_of_setting("rate.guide", "Look. Then say guide.md\nor so", tmp_path) == "Look. Then say guide.md\nor so"


# -- practice ---------------------------------------------------------------------------------------------------------


def test_practice_comes_once_and_leaves_nothing_but_that_it_is_over(house: House):
    anna = house.client("Gil")
    agree(anna)
    told = anna.get("/api/practice").json()
    assert len(told["tasks"]) == 6
    for url in told["tasks"][0]["images"]:
        assert anna.get(f"/{url}").headers["content-type"] == "image/png"
    assert anna.post("/api/practice", json={"outcome": "skipped"}).json() == {"needs": []}
    anna.post("/api/practice", json={"outcome": "finished"}).raise_for_status()
    assert [line["data"]["outcome"] for line in house.journal() if line["event"] == "practice_ended"] == ["skipped"]
    assert house.store.ratings(rater_id=anna.get("/api/me").json()["rater_id"]) == []
    assert house.client("Gil").get("/api/me").json()["needs"] == []  # from another browser, too
    assert anna.post("/api/practice", json={"outcome": "perfect"}).status_code == 422
    for url in ("/practice/6/0.png", "/practice/0/2.png", "/practice/0/-1.png"):
        assert anna.get(url).status_code == 404
    assert house.client().get("/practice/0/0.png").status_code == 401


@pytest.mark.parametrize("kind", RATING_KINDS.names())
def test_the_verifier_sees_in_every_practice_picture_what_the_page_is_told_of_it(kind: str):
    """It reads pictures by classical image processing and knows nothing of how these were made."""
    texts = languages()["en"]
    for task in practice_tasks(RateConfig(kind=kind, practice=12)):
        prompt = texts[f"practice.prompt.{task['contrast']}"]
        for place, fits in enumerate(task["fits"]):
            number = int(task["task_id"].removeprefix("practice "))
            picture = np.asarray(Picture.open(io.BytesIO(practice_picture(number, place, len(task["fits"])))))
            verdict = verifier.judge(picture, prompt)
            assert verdict is not None
            assert verdict.exact if fits else verdict.score < 0.4, (prompt, place, verdict)
        assert len(task["fits"]) < 3 or sum(task["fits"]) == 1


def test_practice_of_pairs_calls_for_each_of_the_four_answers():
    assert {tuple(task["fits"]) for task in practice_tasks(RateConfig())} == {
        (True, False), (False, True), (True, True), (False, False)
    }  # fmt: skip
    assert all(f"practice.prompt.{contrast.name}" in languages()["ar"] for contrast in CONTRASTS)


# -- one's own data ---------------------------------------------------------------------------------------------------


def test_my_data_is_all_that_is_stored_about_me_and_nothing_of_others(house: House):
    anna, bo = house.client("Jon"), house.client("a friend of J.")
    for person in (anna, bo):
        agree(person)
    tasks = anna.get("/api/tasks").json()["tasks"]
    for number, task in enumerate(tasks[:2]):
        anna.post("/api/ratings", json=rating_of(task, number, note=f"note {number}")).raise_for_status()
    mine = anna.get("/api/mine").json()
    assert (mine["rater"]["name"], mine["consents"][0]["language"]) == ("Jon", "en")
    stored = house.store.ratings(rater_id=mine["rater"]["rater_id"])
    assert [row["rating_id"] for row in mine["ratings"]] == [row.rating_id for row in stored]
    assert [row["payload"]["note"] for row in mine["ratings"]] == ["note 0", "note 1"]
    assert {row["prompt"] for row in mine["ratings"]} == {"a green heart"}
    assert [row["image_ids"] for row in mine["ratings"]] == [list(row.image_ids) for row in stored]
    text = json.dumps(mine)
    assert "hash" not in text
    assert "a friend of J." not in text
    assert "4711" not in text  # nor how a picture was made
    assert anna.get("/api/mine/summary").json() == {
        "answers": 2, "median_s": 1.5, "repeats": 0, "repeats_alike": 0
    }  # fmt: skip
    theirs = bo.get("/api/mine").json()
    assert theirs["ratings"] == []
    assert house.client().get("/api/mine").status_code == 401
    page = {"X-Hitl-Page": f"elsewhere.{mine['rater']['rater_id']}"}
    assert bo.get("/api/mine", headers=page).status_code == 409


@pytest.mark.parametrize("fate", ["keep", "delete"])
def test_erase_me_is_for_oneself_ends_the_session_and_leaves_no_name(house: House, fate: str):
    anna, bo = house.client("Kim"), house.client("a friend of K.")
    agree(anna)
    task = anna.get("/api/tasks").json()["tasks"][0]
    sent = rating_of(task, 0, note="my secret")
    anna.post("/api/ratings", json=sent).raise_for_status()
    rater_id = anna.get("/api/me").json()["rater_id"]
    assert bo.post("/api/mine/erase", json={"rater_id": rater_id, "ratings": fate}).status_code == 409
    reply = anna.post("/api/mine/erase", json={"rater_id": rater_id, "ratings": fate}).json()
    assert reply["ratings"] == fate
    assert anna.get("/api/me").status_code == 401
    journal = house.workspace.journal_path.read_text()
    for trace in ("Kim", rater_id, "my secret"):
        assert trace not in journal
    heirs = [rater.rater_id for rater in house.store.raters() if rater.name == reply["left_as"]]
    standing = [found for found in house.store.comparisons(1) if found.rater_id in heirs]
    assert (len(heirs), len(standing)) == ((1, 1) if fate == "keep" else (0, 0))
    assert (sent["rating_id"] in journal) is (fate == "keep")
    assert bo.get("/api/me").status_code == 200
    for thread in threading.enumerate():
        if thread.name == "erasure":
            thread.join(timeout=10)
    receipts = {receipt.pseudonym: receipt for receipt in read_receipts(house.workspace)}
    assert receipts[reply["left_as"]].finished_at is not None


def test_who_runs_the_project_is_not_erased_from_the_page(house: House):
    boss = house.client("Lou the boss")
    account = house.store.account(boss.get("/api/me").json()["rater_id"])
    house.store.set_account(type(account)(rater_id=account.rater_id, role="researcher", sessions=account.sessions))
    sent = {"rater_id": account.rater_id, "ratings": "keep"}
    assert boss.post("/api/mine/erase", json=sent).status_code == 403
    assert house.store.rater(account.rater_id) is not None


def test_what_is_stored_of_consent_and_practice_is_rebuilt_from_the_journal(house: House, tmp_path: Path):
    anna = house.client("Mia")
    agree(anna)
    anna.post("/api/practice", json={"outcome": "finished"}).raise_for_status()
    rater_id = anna.get("/api/me").json()["rater_id"]
    copy = Workspace(tmp_path / "copy")
    copy.root.mkdir()
    copy.journal_path.write_bytes(house.workspace.journal_path.read_bytes())
    with Store.rebuild(copy) as rebuilt:
        assert rebuilt.consents(rater_id) == house.store.consents(rater_id)
        assert rebuilt.practice_outcome(rater_id) == "finished"
