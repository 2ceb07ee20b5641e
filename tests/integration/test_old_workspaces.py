"""Workspaces that older versions wrote open with every fact as it was written, and can be rebuilt and checked.

`tests/fixtures/make_workspace.py` says how each was made. The facts are spelled out here again: nothing is shared.
"""

import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from data.integrity import check
from data.migrations import LATEST
from data.records import (
    Account,
    Consent,
    GoldAnswer,
    Image,
    Invite,
    Judgement,
    Prompt,
    Rater,
    Rating,
    Repeat,
    Round,
    Task,
    WithdrawnImage,
)
from data.store import Store
from data.workspace import Workspace

pytestmark = pytest.mark.long

FIXTURES = Path(__file__).parent.parent / "fixtures" / "workspaces"
VERSIONS = (1, 2, 3, 4, 6, 7, 8)
"""Five came after six: no version wrote a store of five."""
NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
I1, I2, I3, I4, I5, I6 = (f"0{number}" * 32 for number in range(1, 7))
ERASED = "0000000000000000000000000000002a"


def at(seconds: int) -> datetime:
    return datetime(2026, 11, 20, 12, 0, seconds, 250, tzinfo=UTC)


def rating(number: int, task_id: str, rater_id: str, payload: dict, image_ids: tuple[str, ...], **more: Any) -> Rating:
    kind = more.pop("kind", "pairwise")
    return Rating(
        rating_id=f"rating-{number}",
        task_id=task_id,
        rater_id=rater_id,
        kind=kind,
        payload=payload,
        image_ids=image_ids,
        dwell_ms=900 + number,
        client_time="2026-11-20T13:00:00+01:00",
        server_time=at(number),
        app_version="0.1.0",
        **more,
    )


def pair(task_id: str, prompt_id: str, *image_ids: str, kind: str = "pairwise", **more: Any) -> Task:
    return Task(task_id=task_id, round=1, kind=kind, prompt_id=prompt_id, image_ids=image_ids, **more)


def expected(version: int) -> dict[str, Any]:
    """All facts, by the methods that answer with them."""
    heart, odd = Prompt.of("a green heart", task="colour"), Prompt.of('two "stars",\nünd 🦊', split="held_out")
    of_prompt = {I1: heart, I2: heart, I3: heart, I4: heart, I5: odd, I6: odd}
    shown = {"decide_ms": 700, "input_device": "keyboard", "screen_size": "small", "shown_as": "display"}
    raters = [
        Rater(rater_id="ann", name="Ann", kind="human", created_at=NOON),
        Rater(rater_id="bob", name="Bob 🦊", kind="simulated", created_at=NOON + DAY),
    ]
    tasks = [
        pair("one", heart.prompt_id, I1, I2, overlap=2),
        pair("two", heart.prompt_id, I3, I4, policy="uncertain", propensity=1 / 3),
        pair("three", odd.prompt_id, I5, I6),
    ]
    ratings = [
        rating(1, "one", "ann", {"choice": "left", "note": "the colour"}, (I2, I1)),
        rating(2, "two", "ann", {"choice": "tie"}, (I3, I4)),
        rating(3, "two", "ann", {}, (I3, I4), voids="rating-2"),
        rating(4, "two", "ann", {"choice": "both_bad"}, (I3, I4)),
        rating(5, "three", "bob", {"choice": "skip"}, (I5, I6)),
    ]
    facts: dict[str, Any] = {
        "prompts": [heart, odd],
        "images": [
            Image(
                image_id=image_id,
                prompt_id=prompt.prompt_id,
                round=1,
                width=64,
                height=48,
                provenance={"seed": number, "guidance": 7.5, "model": "starter"},
            )
            for number, (image_id, prompt) in enumerate(of_prompt.items(), start=1)
        ],
        "rounds": [Round(number=1, state="finished", started_at=NOON, finished_at=NOON, config_sha="a-configuration")],
        "tasks": tasks,
        "raters": raters,
        "ratings": ratings,
        "metrics": [("train", 1, "loss", "nan"), ("train", 2, "kl", "1e-09")],
        "comparisons": [("one", "ann", I1, I2, "b", False, "b"), ("two", "ann", I3, I4, "tie", True, "a")],
        "answers": 2,
        "accounts": [Account(rater_id="ann"), Account(rater_id="bob")],
        "invites": [],
        "withdrawn": [],
        "repeats": [],
        "gold": [],
        "consents": [],
        "practice": None,
        "judgements": [],
        "studied": [],
    }
    if version >= 2:
        tasks.append(pair("order", heart.prompt_id, I1, I2, I3, I4, kind="ranking"))
        ratings.append(rating(6, "order", "bob", {"ranks": [2, 1, 1, 3]}, (I4, I3, I2, I1), kind="ranking"))
        facts["answers"] = 3
    if version >= 3:
        tasks.append(pair("again", heart.prompt_id, I1, I2, purpose="repeat", repeats="one"))
        tasks.append(pair("gold", heart.prompt_id, I3, I4, purpose="gold", worse=I3))
        ratings.append(rating(7, "again", "ann", {"choice": "left"}, (I1, I2), **shown))
        ratings.append(rating(8, "gold", "ann", {"choice": "right"}, (I3, I4), **shown))
        facts["repeats"] = [
            Repeat(
                rating_id="rating-7",
                first_rating_id="rating-1",
                round=1,
                rater_id="ann",
                agreement=0.0,
                is_swapped=True,
            )
        ]
        facts["gold"] = [GoldAnswer(rating_id="rating-8", task_id="gold", round=1, rater_id="ann", correct=1.0)]
    if version >= 4:
        raters.append(Rater(rater_id="eve", name="Eve", kind="human", created_at=NOON + 2 * DAY))
        raters.append(Rater(rater_id=ERASED, name="erased 00000000", kind="human", created_at=NOON + 3 * DAY))
        ratings.append(rating(9, "one", ERASED, {"choice": "right"}, (I1, I2)))
        facts["comparisons"].insert(0, ("one", ERASED, I1, I2, "b", False, "a"))
        facts["answers"] += 1
        facts["accounts"] = [
            Account(rater_id="ann", role="admin", password_hash="a-hash", sessions=2),
            Account(rater_id="bob"),
            Account(rater_id="eve", role="researcher"),
            Account(rater_id=ERASED, is_disabled=True),
        ]
        times: dict[str, Any] = {"created_at": NOON, "expires_at": NOON + 7 * DAY}
        facts["invites"] = [
            Invite(invite_id="open", token_hash="0" * 64, role="rater", rater_id=None, **times),
            Invite(
                invite_id="used",
                token_hash="1" * 64,
                role="researcher",
                rater_id=None,
                used_at=NOON,
                used_by="eve",
                **times,
            ),
        ]
    if version >= 6:
        tasks.append(pair("best", heart.prompt_id, I1, I2, I3, I4, kind="best", purpose="gold", better=I3))
        ratings.append(rating(10, "best", "ann", {"ranks": [None, None, 1, None]}, (I1, I2, I3, I4), kind="best"))
        facts["gold"].insert(0, GoldAnswer(rating_id="rating-10", task_id="best", round=1, rater_id="ann", correct=1.0))
        facts["withdrawn"] = [WithdrawnImage(image_id=I5, reason="is missing", withdrawn_at=NOON)]
    if version >= 7:
        facts["consents"] = [
            Consent(rater_id="ann", version="v1", language="de", text="Ich stimme zu.\n", given_at=NOON)
        ]
        facts["practice"] = "skipped"
    if version >= 8:
        judge: dict[str, Any] = {"purpose": "judge"}
        tasks.append(pair("blind", heart.prompt_id, I2, I3, models=("policy of round 1", "reference"), **judge))
        tasks.append(pair("studied", heart.prompt_id, I2, I3, models=("new", "old"), study="which", overlap=3, **judge))
        ratings.append(rating(11, "blind", "ann", {"choice": "left"}, (I3, I2)))
        ratings.append(rating(12, "studied", "bob", {"choice": "both_bad"}, (I2, I3)))
        about: dict[str, Any] = {"round": 1, "kind": "pairwise", "prompt_id": heart.prompt_id}
        facts["judgements"] = [
            Judgement(
                rating_id="rating-11",
                task_id="blind",
                study=None,
                rater_id="ann",
                model="policy of round 1",
                other="reference",
                outcome="b",
                both_bad=False,
                left="b",
                **about,
            )
        ]
        facts["studied"] = [
            Judgement(
                rating_id="rating-12",
                task_id="studied",
                study="which",
                rater_id="bob",
                model="new",
                other="old",
                outcome="tie",
                both_bad=True,
                left="a",
                **about,
            )
        ]
    return facts


def told(store: Store) -> dict[str, Any]:
    """The same, as the store answers."""
    return {
        "prompts": store.prompts(),
        "images": store.images(),
        "rounds": store.rounds(),
        "tasks": store.tasks(),
        "raters": store.raters(),
        "ratings": store.ratings(),
        "metrics": [(row.stage, row.step, row.name, repr(row.value)) for row in _by_step(store.metrics(1))],
        "comparisons": [
            (row.task_id, row.rater_id, row.image_a, row.image_b, row.outcome, row.both_bad, row.left)
            for row in store.comparisons()
        ],
        "answers": store.answers(),
        "accounts": [store.account(rater.rater_id) for rater in store.raters()],
        "invites": store.invites(),
        "withdrawn": store.withdrawn_images(),
        "repeats": store.repeats(),
        "gold": store.gold_answers(),
        "consents": store.consents("ann"),
        "practice": store.practice_outcome("ann"),
        "judgements": store.judgements(),
        "studied": store.judgements(study="which"),
    }


def _by_step(metrics: list[Any]) -> list[Any]:
    return sorted(metrics, key=lambda row: row.step)


@pytest.fixture(params=VERSIONS)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[int, Workspace]:
    version = request.param
    with zipfile.ZipFile(FIXTURES / f"m{version:03d}.zip") as archive:
        archive.extractall(tmp_path)
    with duckdb.connect(str(tmp_path / "store.duckdb"), read_only=True) as connection:
        assert connection.execute("SELECT schema_version FROM store_state").fetchall() == [(version,)]
    return version, Workspace(tmp_path)


def test_every_fact_is_as_it_was_written_and_the_journal_tells_the_same(old: tuple[int, Workspace]):
    version, workspace = old
    journal = workspace.journal_path.read_bytes()
    with Store.open(workspace) as store:
        assert told(store) == expected(version)
        found = check(workspace, store, quick=True)
        images = [each for each in found.differences if each.kind == "image"]
        assert found.differences == images
        assert len(images) == (6 if version < 6 else 5)  # the files were never there; one is known to be lost
        assert found.events == journal.count(b"\n")
    assert workspace.journal_path.read_bytes() == journal
    with Store.rebuild(workspace) as store:
        assert told(store) == expected(version)
        assert [each for each in check(workspace, store, quick=True).differences if each.kind != "image"] == []
    with duckdb.connect(str(workspace.store_path), read_only=True) as connection:
        assert connection.execute("SELECT schema_version FROM store_state").fetchall() == [(LATEST,)]


def test_an_old_workspace_is_written_to_as_any_other(old: tuple[int, Workspace]):
    _, workspace = old
    with Store.open(workspace) as store:
        before = store.ratings()
        more = rating(50, "one", "bob", {"choice": "right"}, (I1, I2), decide_ms=5, input_device="touch")
        assert store.add_rating(more)
        assert store.ratings() == [*before, more]
    with Store.rebuild(workspace) as store:
        assert store.ratings() == [*before, more]


def test_a_change_to_an_old_store_is_found(tmp_path: Path):
    """The same file with one byte of a fact changed, which the version that wrote it would not have noticed either."""
    with zipfile.ZipFile(FIXTURES / "m001.zip") as archive:
        archive.extractall(tmp_path)
    with duckdb.connect(str(tmp_path / "store.duckdb")) as connection:
        connection.execute("UPDATE ratings SET dwell_ms = dwell_ms + 1 WHERE rating_id = 'rating-4'")
    workspace = Workspace(tmp_path)
    with Store.open(workspace) as store:
        (found,) = [each for each in check(workspace, store, quick=True).differences if each.kind != "image"]
    assert "The table ratings has 1 row in the store alone (the first: rating-4)" in found.what
    with Store.rebuild(workspace) as store:
        assert {row.dwell_ms for row in store.ratings()} == {901, 902, 903, 904, 905}
