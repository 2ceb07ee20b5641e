"""Accounts and invites as facts; a rater who is erased is nowhere any more, and the journal says so."""

import hashlib
import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pytest

import data.fact_log
from data.erasure import Erasure
from data.integrity import Difference, check
from data.journal import Journal, read_entries
from data.migrations import m001_initial
from data.records import Account, Consent, Invite, Prompt, Rater
from data.store import Store
from data.workspace import Workspace
from hitl.core.errors import ConfigError, StoreError
from tests.facts import WHEN, a_rater, a_rating, a_store, a_task, everything, image_id

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


def test_nothing_of_an_erased_rater_is_left_but_the_ratings(with_zed):
    workspace, store = with_zed
    other = [found for found in store.comparisons() if found.rater_id == "bob"]
    erased = store.erase_rater(ID)
    assert store.rater(ID) is store.rater_by_name(NAME) is None
    assert erased in store.raters()
    assert len(store.comparisons()) == 2
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


def test_ratings_that_are_deleted_open_their_tasks_again(with_zed):
    _, store = with_zed
    assert store.progress(1).is_complete
    assert store.lease("ann", limit=9) == []
    store.erase_rater(ID, ratings="delete")
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


# -- with all that they rated -----------------------------------------------------------------------------------------


@pytest.fixture
def with_more(tmp_path: Path) -> Iterator[tuple[Workspace, Store]]:
    """Zed left whatever a rater can leave, and between and after it are facts of others and of nobody."""
    again = replace(a_task("again"), image_ids=ONE.image_ids, purpose="repeat", repeats="one")
    gold = replace(a_task("gold"), purpose="gold", worse=image_id("gold-a"))
    order = replace(a_task("order"), kind="ranking", image_ids=(*ONE.image_ids, *TWO.image_ids))
    workspace, store = a_store(tmp_path / "workspace", ONE, TWO, again, gold, order)
    store.start_round(1, "sha")
    for name in ("for-anybody", "for-bob", "open"):
        digest = hashlib.sha256(name.encode()).hexdigest()
        store.add_invite(an_invite(invite_id=name, token_hash=digest, rater_id="bob" if name == "for-bob" else None))
    zed = Rater(rater_id=ID, name=NAME, kind="human", created_at=WHEN)
    used = hashlib.sha256(b"for-anybody").hexdigest()
    assert store.use_invite(used, zed, Account(rater_id=ID, password_hash=HASH))
    for name in ("their-own", "their-other"):
        digest = hashlib.sha256(name.encode()).hexdigest()
        store.add_invite(an_invite(invite_id=name, token_hash=digest, rater_id=ID))
    assert store.revoke_invite("their-other")
    for number, who in enumerate(("bob", ID)):
        store.add_consent(Consent(rater_id=who, version="v", language="en", text="Yes.", given_at=WHEN))
        store.end_practice(who, "finished")
        for task in (ONE, TWO, gold, again):
            store.add_rating(a_rating(task, who, rating_id=f"{task.task_id}-{number}-of-{who}"))
            store.add_prompts([Prompt.of(f"after {task.task_id} of {number}")])
        ranks = {"ranks": [2, 1, 1, 3]}
        store.add_rating(a_rating(order, who, payload=ranks, rating_id=f"order-{number}-of-{who}"))
    undone = f"two-1-of-{ID}"
    store.add_rating(a_rating(TWO, ID, None, voids=undone, rating_id=f"undo-of-{ID}"))
    store.set_account(Account(rater_id=ID, password_hash=HASH, role="researcher"))
    store.add_metrics(1, "train", [{"step": 1, "name": "loss", "value": 0.5}])
    store.withdraw_image(image_id("two-a"), "is missing")
    yield workspace, store
    store.close()


def faults(workspace: Workspace, store: Store) -> list[Difference]:
    """Where the store is not what the journal tells, row by row. The pictures of these tasks were never drawn."""
    return [found for found in check(workspace, store, quick=True).differences if found.kind != "image"]


def facts_of_others(store: Store) -> dict[str, Any]:
    facts = everything(store)
    for name in ("raters", "ratings", "comparisons"):
        facts[name] = [found for found in facts[name] if found.rater_id != ID]
    facts["repeats"] = [found for found in store.repeats() if found.rater_id != ID]
    facts["gold"] = [found for found in store.gold_answers() if found.rater_id != ID]
    facts["consents"], facts["practice"] = store.consents("bob"), store.practice_outcome("bob")
    facts["invites"] = [invite for invite in store.invites() if ID not in (invite.rater_id, invite.used_by)]
    facts["withdrawn"] = store.withdrawn_images()
    return facts


def test_with_their_ratings_nothing_of_a_rater_is_left_in_any_file(with_more):
    workspace, store = with_more
    wanted = facts_of_others(store)
    assert [len(wanted[name]) for name in ("ratings", "repeats", "gold", "invites")] == [5, 1, 1, 2]
    assert files_with(workspace.root, f"of-{ID}") != []
    store.erase_rater(ID, ratings="delete")
    gone = [*SECRETS, "for-anybody", "their-own", "their-other", hashlib.sha256(b"their-own").hexdigest()]
    journal = workspace.journal_path.read_text(encoding="utf-8")
    assert [text for text in gone if text in journal] == []
    assert facts_of_others(store) == wanted == {**facts_of_others(store), **everything(store)}
    assert (store.rater(ID), store.practice_outcome(ID), store.consents(ID)) == (None, None, [])
    assert not store.use_invite(hashlib.sha256(b"for-anybody").hexdigest(), a_rater("eve"), Account(rater_id="eve"))
    with pytest.raises(ConfigError, match="no rater"):  # one that was on its way
        store.add_rating(a_rating(ONE, ID))
    assert faults(workspace, store) == []
    store.close()
    with Store.open(workspace) as again:  # which leaves the old bytes behind
        assert facts_of_others(again) == wanted
        assert faults(workspace, again) == []
    for text in gone:
        assert files_with(workspace.root, text) == []
    with Store.rebuild(workspace) as rebuilt:
        assert facts_of_others(rebuilt) == wanted
        assert faults(workspace, rebuilt) == []
        rebuilt.add_rating(a_rating(TWO, "ann"))
        assert faults(workspace, rebuilt) == []


def test_lines_that_are_left_out_leave_no_gap_and_the_last_line_counts_them(with_more):
    """The oracle takes the lines out of an old copy, with json and hashlib alone, and comes to the same chain."""
    workspace, store = with_more
    old = [json.loads(line) for line in workspace.journal_path.read_text().splitlines()]
    theirs = [ID, '"for-anybody"', '"their-own"', '"their-other"']
    kept = [line for line in old if not any(text in json.dumps(line["data"]) for text in theirs)]
    rows = {
        "accounts": 1, "consents": 1, "image_values": 1, "invites": 3, "outcomes": 4,
        "practices": 1, "raters": 1, "ratings": 6,
    }  # fmt: skip
    erased = store.erase_rater(ID, ratings="delete")
    entries = list(read_entries(workspace.journal_path))
    before = "0" * 64
    for seq, (line, entry) in enumerate(zip(kept, entries[:-1], strict=True), start=1):
        body = {"seq": seq, "at": line["at"], "event": line["event"], "data": line["data"], "prev": before}
        before = hashlib.sha256(
            json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        ).hexdigest()
        assert entry.end.hash == before
    last = entries[-1].data
    first = next(number for number, line in enumerate(old, start=1) if line not in kept)
    assert last["deleted"] == {"lines": len(old) - len(kept), "first_line": first, "rows": rows}
    # 3 invites, of which one let them in and one was revoked; consent, practice, account, 5 answers and an undo
    assert len(old) - len(kept) == 14
    assert (last["rater_id"], last["ratings"], last["hash_before"]) == (erased.rater_id, "delete", old[-1]["hash"])
    assert store.position == len(kept) + 1


def test_the_same_number_of_facts_is_not_the_same_facts(with_more):
    _, store = with_more
    store.add_rater(a_rater("eve"))
    store.add_rating(a_rating(ONE, "eve"))
    before = store.journal_position
    store.erase_rater("eve", ratings="delete")
    store.add_rater(a_rater("joe"))
    assert store.position == before.seq
    assert store.journal_position != before


@pytest.mark.parametrize("password_hash", [None, HASH])
def test_the_last_with_an_account_is_deleted_and_the_door_stays_as_it_was(tmp_path: Path, password_hash: str | None):
    workspace, store = a_store(tmp_path, ONE)
    with store:
        store.set_account(Account(rater_id="ann", password_hash=password_hash))
        store.erase_rater("ann", ratings="delete")
    with Store.open(workspace) as opened:
        assert opened.has_accounts() is (password_hash is not None)
        assert [rater.rater_id for rater in opened.raters()] == ["bob"]
        assert faults(workspace, opened) == []


@pytest.mark.parametrize("first", ["keep", "void"])
def test_what_was_kept_or_voided_once_can_be_deleted_later(with_zed, first: str):
    """`void` is what older versions wrote: the ratings stayed, each voided."""
    workspace, store = with_zed
    erased = store.erase_rater(ID)
    if first == "void":
        store.close()
        rewrite_last_line(workspace, ratings="void")
        store = Store.rebuild(workspace)
        assert [found.rater_id for found in store.comparisons()] == ["bob"]
        (answer, undo) = [found for found in store.ratings() if found.rater_id == erased.rater_id]
        assert (undo.voids, undo.payload) == (answer.rating_id, {})
    with store:
        assert faults(workspace, store) == []
        again = store.erase_rater(erased.rater_id, ratings="delete")
        assert faults(workspace, store) == []
        assert erased.rater_id not in workspace.journal_path.read_text()
        assert {found.rater_id for found in store.ratings()} == {"bob"}
        told = [entry.data for entry in read_entries(workspace.journal_path) if entry.event == "rater_erased"]
        assert [(data["rater_id"], data["ratings"]) for data in told] == [
            (again.rater_id, first), (again.rater_id, "delete")
        ]  # fmt: skip
        assert told[1]["deleted"]["rows"]["ratings"] == (2 if first == "void" else 1)


def rewrite_last_line(workspace: Workspace, **changed: object) -> None:
    """Change what the last line of a journal says, and chain it anew."""
    *lines, last = workspace.journal_path.read_text().splitlines()
    body = json.loads(last)
    body["data"] |= changed
    del body["hash"]
    spell = partial(json.dumps, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    body["hash"] = hashlib.sha256(spell(body).encode()).hexdigest()
    workspace.journal_path.write_text("".join(f"{line}\n" for line in [*lines, spell(body)]))
    workspace.store_path.unlink()


@pytest.mark.parametrize("seed", range(3))
def test_after_any_facts_and_erasures_the_store_is_what_the_journal_tells(tmp_path: Path, seed: int):
    """Whoever was deleted is in no file; whoever was kept has as many answers as before."""
    chance = random.Random(seed)
    tasks = [a_task(f"t{number}", overlap=9) for number in range(6)]
    workspace, store = a_store(tmp_path, *tasks)
    people, deleted = {"ann": 0, "bob": 0}, []
    for number in range(60):
        what = chance.choice(["join", "rate", "rate", "rate", "prompt", "keep", "delete"])
        who = chance.choice([*people])
        if what == "join":
            store.add_rater(a_rater(name := f"person-{number}-x"))
            people[name] = 0
        elif what == "rate":
            people[who] += store.add_rating(a_rating(chance.choice(tasks), who))
        elif what == "prompt":
            store.add_prompts([Prompt.of(f"number {number}")])
        elif len(people) > 1:
            answers = people.pop(who)
            erased = store.erase_rater(who, ratings="keep" if what == "keep" else "delete")
            if what == "keep":
                people[erased.rater_id] = answers
            elif who not in ("ann", "bob"):  # which are in hashes too
                deleted.append(who)
    assert Counter(rating.rater_id for rating in store.ratings()) == Counter(people)
    assert faults(workspace, store) == []
    store.close()
    with Store.open(workspace) as again:
        assert faults(workspace, again) == []
    assert deleted
    assert [who for who in deleted if files_with(workspace.root, who)] == []


def test_an_erasure_does_not_hide_that_the_journal_was_changed(with_zed):
    """A line from before the store was opened, which is not read again then."""
    workspace, store = with_zed
    store.close()
    lines = workspace.journal_path.read_bytes()
    workspace.journal_path.write_bytes(lines.replace(b'"width":64', b'"width":65', 1))
    with Store.open(workspace) as store:
        with pytest.raises(StoreError, match="line 2 does not follow"):
            store.erase_rater(ID, ratings="delete")
        assert store.rater(ID) is not None
        assert len(store.ratings()) == 2


def test_who_comes_again_under_the_id_of_one_who_was_deleted_is_not_shut_out(with_zed):
    """A simulated rater's id is made from the name; a restart would let them in as well."""
    _, store = with_zed
    again = Rater(rater_id=ID, name=NAME, kind="simulated", created_at=WHEN)
    store.erase_rater(ID, ratings="delete")
    assert store.account(ID).is_disabled
    assert store.add_rater(again)
    assert store.account(ID) == Account(rater_id=ID)


def test_a_note_goes_and_the_choice_stays():
    rating = {"rater_id": ID, "payload": {"choice": "left", "note": NOTE}, "image_ids": ["a", "b"]}
    other = {"rater_id": "bob", "payload": {"choice": "left", "note": "Bob's"}}
    erasure = Erasure(rater_id=ID, new_id="x" * 32)
    assert erasure.forget(rating) == {"rater_id": "x" * 32, "payload": {"choice": "left"}, "image_ids": ["a", "b"]}
    assert erasure.forget(other) == other


@pytest.mark.parametrize("fate", ["keep", "delete"])
@pytest.mark.parametrize("is_committed", [True, False])
def test_an_erasure_that_was_killed_is_done_or_was_never_there(with_zed, is_committed: bool, fate):
    """Killed between the commit and the renaming, or before the commit: the states that the files are then in."""
    workspace, store = with_zed
    again = workspace.journal_path.with_name("journal.jsonl.again")
    aside = workspace.root.parent / "before"
    store.close()
    shutil.copytree(workspace.root, aside)
    with Store.open(workspace) as opened:
        opened.erase_rater(ID, ratings=fate)
        erased = everything(opened)
    if is_committed:
        workspace.journal_path.rename(again)
        shutil.copy(aside / "journal.jsonl", workspace.journal_path)
        with Store.open(workspace) as opened:
            assert everything(opened) == erased
            assert files_with(workspace.root, NAME) == []
            assert faults(workspace, opened) == []
    else:
        shutil.copy(workspace.journal_path, aside / again.name)
        with Store.open(Workspace(aside)) as opened:
            assert opened.rater_by_name(NAME) is not None
            assert faults(Workspace(aside), opened) == []
    assert not again.exists()
    assert not (aside / again.name).exists()


@pytest.mark.parametrize("fate", ["keep", "delete"])
def test_an_erasure_that_was_committed_survives_a_rebuild_and_a_rebuild_that_fails(
    with_zed, fate: Any, monkeypatch: pytest.MonkeyPatch
):
    """Killed between the commit and the renaming: then nothing is folded into the store's file, nor written further."""

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    workspace, store = with_zed
    killed = Workspace(workspace.root.parent / "killed")
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "adopt", die)
        with pytest.raises(Killed):
            store.erase_rater(ID, ratings=fate)
    shutil.copytree(workspace.root, killed.root)
    assert files_with(killed.root, NAME) != []
    with monkeypatch.context() as patch:
        patch.setattr(data.fact_log, "apply_entries", die)
        with pytest.raises(Killed):
            Store.rebuild(killed)
    with Store.open(killed) as opened:
        assert opened.rater(ID) is None
    shutil.rmtree(killed.root)
    shutil.copytree(workspace.root, killed.root)
    with Store.rebuild(killed) as rebuilt:
        assert rebuilt.rater(ID) is None
        assert [rating.rater_id for rating in rebuilt.ratings()].count("bob") == 1
        assert faults(killed, rebuilt) == []
    assert not killed.journal_path.with_name("journal.jsonl.again").exists()
    assert NAME not in killed.journal_path.read_text()


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
