"""Accounts and invites as facts; a rater who is erased is nowhere any more, and the journal says so."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from data.erasure import Erasure
from data.journal import read_entries
from data.migrations import m001_initial
from data.records import Account, Invite, Rater
from data.store import Store
from data.workspace import Workspace
from hitl.core.errors import ConfigError
from tests.facts import WHEN, a_rater, a_rating, a_store, a_task, everything

ONE, TWO = a_task("one"), a_task("two")
NAME, HASH, NOTE, ID = "Zacharias Unforgettable", "argon2-hash-of-a-password", "my-own-words", "id-made-from-a-name"
SECRETS = [NAME, HASH, NOTE, ID]


def an_invite(**changes: object) -> Invite:
    fields = {
        "invite_id": "i1",
        "token_hash": "0" * 64,
        "role": "rater",
        "rater_id": None,
        "created_at": datetime.now(UTC),
        "expires_at": datetime.now(UTC) + timedelta(days=1),
    }
    return Invite(**{**fields, **changes})


def files_with(folder: Path, text: str) -> list[str]:
    return [path.name for path in folder.iterdir() if text.encode() in path.read_bytes()]


@pytest.fixture
def with_zed(tmp_path: Path) -> Iterator[tuple[Workspace, Store]]:
    """A store where Zed rated one task and Bob the other; Zed has all that a rater can leave behind."""
    workspace, store = a_store(tmp_path / "workspace", ONE, TWO)
    store.add_rater(Rater(rater_id=ID, name=NAME, kind="human", created_at=WHEN))
    store.add_invite(an_invite(rater_id=ID))
    store.set_account(Account(rater_id=ID, password_hash=HASH, role="admin"))
    store.add_rating(a_rating(ONE, ID))
    store.add_rating(a_rating(TWO, "bob"))
    yield workspace, store
    store.close()


def test_what_a_rater_may_do_is_a_fact_and_each_role_may_what_those_before_it_may(tmp_path: Path):
    workspace, store = a_store(tmp_path, ONE)
    with store:
        assert store.account("ann") == Account(rater_id="ann")
        assert not store.has_accounts()
        store.set_account(Account(rater_id="ann", role="researcher", password_hash="hash", sessions=3))
        assert [store.account("ann").may(role) for role in ("rater", "researcher", "admin")] == [True, True, False]
        assert not replace(store.account("ann"), is_disabled=True).may("rater")
        with pytest.raises(ConfigError, match="no rater"):
            store.set_account(Account(rater_id="nobody"))
    with Store.rebuild(workspace) as again:
        assert again.account("ann") == Account(rater_id="ann", role="researcher", password_hash="hash", sessions=3)
        assert again.has_accounts()


def test_an_invite_lets_one_person_in_once(tmp_path: Path):
    workspace, store = a_store(tmp_path)
    with store:
        store.add_invite(an_invite())
        eve = a_rater("eve")
        assert not store.use_invite("1" * 64, eve, Account(rater_id="eve"))
        assert store.rater("eve") is None
        with pytest.raises(ConfigError, match="called 'ann' already"):
            store.use_invite("0" * 64, replace(eve, name="ann"), Account(rater_id="eve"))
        assert store.use_invite("0" * 64, eve, Account(rater_id="eve", role="researcher"))
        assert not store.use_invite("0" * 64, a_rater("mallory"), Account(rater_id="mallory"))
        (used,) = store.invites()
        assert (used.state(datetime.now(UTC)), used.used_by) == ("used", "eve")
        assert not store.revoke_invite("i1")
    with Store.rebuild(workspace) as again:
        assert again.invites() == [used]
        assert again.account("eve").role == "researcher"
        assert again.rater("mallory") is None


@pytest.mark.parametrize("end", ["expired", "revoked", "for somebody else"])
def test_an_invite_that_has_ended_lets_nobody_in(tmp_path: Path, end: str):
    _, store = a_store(tmp_path)
    with store:
        now = datetime.now(UTC)
        expires = now - timedelta(seconds=1) if end == "expired" else now + timedelta(days=1)
        store.add_invite(an_invite(expires_at=expires, rater_id="bob" if end == "for somebody else" else None))
        if end == "revoked":
            assert store.revoke_invite("i1")
        assert not store.use_invite("0" * 64, a_rater("eve"), Account(rater_id="eve"))
        assert store.rater("eve") is None


@pytest.mark.parametrize(("fate", "count"), [("keep", 2), ("void", 1)])
def test_nothing_of_an_erased_rater_is_left_but_the_ratings(with_zed, fate, count: int):
    workspace, store = with_zed
    other = [found for found in store.comparisons() if found.rater_id == "bob"]
    erased = store.erase_rater(ID, ratings=fate)
    assert store.rater(ID) is store.rater_by_name(NAME) is None
    assert erased in store.raters()
    assert len(store.comparisons()) == count
    assert [found for found in store.comparisons() if found.rater_id == "bob"] == other
    assert {found.rater_id for found in store.comparisons()} <= {"bob", erased.rater_id}
    account = store.account(erased.rater_id)
    assert (account.is_disabled, account.password_hash) == (True, "")
    assert store.account(ID).is_disabled
    assert [invite.rater_id for invite in store.invites()] == [erased.rater_id]
    before = everything(store)
    for text in SECRETS:
        assert text not in workspace.journal_path.read_text(encoding="utf-8")
    store.close()
    with Store.open(workspace) as again:  # which leaves the old bytes behind
        assert everything(again) == before
    for text in SECRETS:
        assert files_with(workspace.root, text) == []
    with Store.rebuild(workspace) as rebuilt:
        assert everything(rebuilt) == before
        assert rebuilt.account(erased.rater_id) == account


def test_ratings_that_are_voided_open_their_tasks_again(with_zed):
    _, store = with_zed
    assert store.progress(1).is_complete
    assert store.lease("ann", limit=9) == []
    store.erase_rater(ID, ratings="void")
    assert [offer.task.task_id for offer in store.lease("ann", limit=9)] == ["one"]


def test_the_chain_holds_after_an_erasure_and_names_the_one_before_it(with_zed):
    """The oracle takes the same things out of an old copy, with json and hashlib alone, and comes to the same chain."""
    workspace, store = with_zed
    lines = [json.loads(line) for line in workspace.journal_path.read_text().splitlines()]
    erased = store.erase_rater(ID)
    entries = list(read_entries(workspace.journal_path))
    last = entries[-1].data
    assert (entries[-1].event, last["ratings"], last["hash_before"]) == ("rater_erased", "keep", lines[-1]["hash"])
    before = "0" * 64
    for line, entry in zip(lines, entries, strict=False):
        del line["hash"]
        text = json.dumps(line["data"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        text = text.replace(ID, erased.rater_id).replace(NAME, erased.name).replace(f'"{HASH}"', '""')
        body = {**line, "data": json.loads(text), "prev": before}
        before = hashlib.sha256(
            json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        ).hexdigest()
        assert entry.end.hash == before
    store.add_rating(a_rating(ONE, "ann"))
    assert list(read_entries(workspace.journal_path))[-1].event == "rating_added"


def test_a_note_goes_and_the_choice_stays():
    rating = {"rater_id": ID, "payload": {"choice": "left", "note": NOTE}, "image_ids": ["a", "b"]}
    other = {"rater_id": "bob", "payload": {"choice": "left", "note": "Bob's"}}
    erasure = Erasure(rater_id=ID, new_id="x" * 32)
    assert erasure.forget(rating) == {"rater_id": "x" * 32, "payload": {"choice": "left"}, "image_ids": ["a", "b"]}
    assert erasure.forget(other) == other


@pytest.mark.parametrize("is_committed", [True, False])
def test_an_erasure_that_was_killed_is_done_or_was_never_there(with_zed, is_committed: bool):
    """Killed between the commit and the renaming, or before the commit: the states that the files are then in."""
    workspace, store = with_zed
    again = workspace.journal_path.with_name("journal.jsonl.again")
    aside = workspace.root.parent / "before"
    store.close()
    shutil.copytree(workspace.root, aside)
    with Store.open(workspace) as opened:
        opened.erase_rater(ID)
        erased = everything(opened)
    if is_committed:
        workspace.journal_path.rename(again)
        shutil.copy(aside / "journal.jsonl", workspace.journal_path)
        with Store.open(workspace) as opened:
            assert everything(opened) == erased
            assert files_with(workspace.root, NAME) == []
    else:
        shutil.copy(workspace.journal_path, aside / again.name)
        with Store.open(Workspace(aside)) as opened:
            assert opened.rater_by_name(NAME) is not None
    assert not again.exists()
    assert not (aside / again.name).exists()


def test_a_workspace_from_before_there_were_accounts_opens(tmp_path: Path):
    workspace, store = a_store(tmp_path, ONE)
    store.add_rating(a_rating(ONE, "ann"))
    before = everything(store)
    store.close()
    workspace.store_path.unlink()
    workspace.journal_path.chmod(0o644)
    with duckdb.connect(str(workspace.store_path), config={"storage_compatibility_version": "v1.4.0"}) as connection:
        for statement in m001_initial.STATEMENTS:
            connection.execute(statement)
        connection.execute("UPDATE store_state SET schema_version = 1")
    with Store.open(workspace) as opened:
        assert everything(opened) == before
        assert opened.account("ann") == Account(rater_id="ann")
        assert not opened.has_accounts()
        assert workspace.journal_path.stat().st_mode & 0o077 == 0


def test_only_their_owner_reads_the_files_with_names_and_hashes(with_zed):
    workspace, store = with_zed
    log = workspace.store_path.with_name("store.duckdb.wal")
    for erase in (False, True):
        if erase:
            store.erase_rater(ID)
            store.set_account(Account(rater_id="ann", password_hash=HASH))
        for path in (workspace.store_path, workspace.journal_path, log):
            assert path.stat().st_mode & 0o077 == 0
    store.close()
    with Store.open(workspace):
        for path in (workspace.store_path, workspace.journal_path):
            assert path.stat().st_mode & 0o077 == 0
