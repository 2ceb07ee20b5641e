"""The store: every fact of a workspace, in one DuckDB file that one process owns.

A fact is recorded in this order: its rows are written in an open transaction, its line goes into the journal and is
synced to the disk, the transaction commits together with the journal's position. Whatever dies in between, either the
journal has the fact (and the store catches up when it is opened next) or nobody was told that it was kept.
"""

import contextlib
import json
import logging
import os
import threading
import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from data import events, rows, snapshot, validation
from data.assignment import Answer, Leases, RoundQueue
from data.database import Database, TableDifference, write_ahead_log
from data.erasure import Erasure, Fate
from data.idle import IdleTimer
from data.journal import Journal, Position, canonical_json
from data.lock import StoreLock
from data.mounts import network_file_system
from data.records import (
    FROM_FOLDER,
    Account,
    Comparison,
    Consent,
    GoldAnswer,
    Image,
    Invite,
    Metric,
    Offer,
    PracticeOutcome,
    Progress,
    Prompt,
    Purpose,
    Rater,
    Rating,
    Repeat,
    Round,
    Snapshot,
    Task,
    WithdrawnImage,
)
from data.streams import Selection, Streams
from data.together import Together
from data.workspace import Workspace, disk_errors
from hitl.core.errors import ConfigError, StoreError

logger = logging.getLogger(__name__)

CHECKPOINT_EVERY = 200
"""Ratings between checkpoints: a short write-ahead log is quick to replay and has little to lose."""
_RATINGS_PER_COMMIT = 1000
CHECKPOINT_AFTER_IDLE_S = 30.0
"""The same after so many seconds without a write: what is left when people go home is one file."""
_AFTER_UNDO_S = 300
"""How long a task that was undone is kept for the rater who undid it."""


class Store:
    """Made by `open` or `open_snapshot`; methods are named after the questions we ask. Safe in many threads."""

    def __init__(self, database: Database, *, journal: Journal | None = None, lock: StoreLock | None = None) -> None:
        self._database = database
        self._journal = journal
        self._lock = lock
        self._seen = _position(database)
        self._since_checkpoint = 0
        self._idle = IdleTimer(CHECKPOINT_AFTER_IDLE_S, weakref.WeakMethod(self._checkpoint_when_idle))
        self._arrivals = Together(self._keep)
        self._rows = database.rows
        # Facts that never change once they are there, so that a rating asks the database as little as possible.
        self._tasks: dict[str, Task] = {}
        self._raters: dict[str, Rater] = {}
        self._accounts: dict[str, Account] = {}
        self._has_accounts = False
        self._consents: dict[str, list[Consent]] = {}
        self._texts: dict[str, str] = {}
        self._newest_round: int | None = None
        self._leases = Leases()
        self._queue: RoundQueue | None = None
        self._queue_lock = threading.Lock()

    # -- opening and closing --------------------------------------------------------------------------------------

    @classmethod
    def open(cls, workspace: Workspace, *, create: bool = False) -> "Store":
        """Own the workspace's store until `close`: bring its schema and its facts up to date.

        Raises:
            StoreError: another process owns it, it is of a newer version, or it and the journal disagree.
        """
        if create:
            with disk_errors(workspace.root):
                workspace.root.mkdir(parents=True, exist_ok=True)
        elif not workspace.store_path.exists() and not workspace.journal_path.exists():
            raise StoreError(
                f"There is no store in {workspace.root}.", hint="Make a workspace with `hitl init`, or check -w DIR."
            )
        if kind := network_file_system(workspace.root):
            logger.warning(
                "%s lies on a network file system (%s). Locks and syncs may not hold there, so that two programs could"
                " write at once and a power cut could take ratings along. Put the workspace on a local disk.",
                workspace.root,
                kind,
            )
        lock = StoreLock.acquire(workspace.lock_path)
        try:
            return cls._open_locked(workspace.store_path, workspace.journal_path, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _open_locked(cls, path: Path, journal_path: Path, lock: StoreLock | None) -> "Store":
        database = Database.open(path)
        try:
            journal = Journal.open(journal_path, after=_position(database))
        except BaseException:
            database.close()
            raise
        store = cls(database, journal=journal, lock=lock)
        try:
            with store._writing():
                pass  # Entering catches up with the journal.
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def open_snapshot(cls, path: Path) -> "Store":
        """Read a copy made by `copy_to`. Takes no lock and cannot change anything."""
        return cls(Database.open_read_only(path))

    @classmethod
    def rebuild(cls, workspace: Workspace) -> "Store":
        """Make the store again from the journal alone and open it. The old file is kept as `*.before-rebuild`.

        Raises:
            StoreError: there is no journal, it was changed, or another process owns the store.
        """
        if not workspace.journal_path.exists():
            raise StoreError(
                f"There is no journal in {workspace.root} to rebuild the store from.",
                hint="Put back journal.jsonl from a backup.",
            )
        path = workspace.store_path
        fresh = path.with_name(f"{path.name}.new")
        lock = StoreLock.acquire(workspace.lock_path)
        try:
            for leftover in (fresh, write_ahead_log(fresh)):
                leftover.unlink(missing_ok=True)
            cls._open_locked(fresh, workspace.journal_path, None).close()
            # The write-ahead log first: beside a new file, an old log would be replayed into it.
            for old in (write_ahead_log(path), path):
                if old.exists():
                    os.replace(old, old.with_name(f"{old.name}.before-rebuild"))
            os.replace(fresh, path)
            return cls._open_locked(path, workspace.journal_path, lock)
        except BaseException:
            lock.release()
            raise

    def close(self) -> None:
        """Write everything into the one file and give the lock back. Closing twice is harmless."""
        self._idle.stop()
        if self._journal is not None:
            with self._database.writing():
                self._database.checkpoint()
                self._journal.close()
                self._journal = None
        self._database.close()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- prompts, images, rounds, tasks ---------------------------------------------------------------------------

    def add_prompts(self, prompts: Iterable[Prompt]) -> int:
        """Add the prompts that are not there yet; return how many. A known text keeps its first task and split."""
        given = {prompt.prompt_id: prompt for prompt in prompts}
        with self._writing():
            query = f"SELECT {rows.PROMPT} FROM prompts WHERE prompt_id IN (SELECT unnest($1::VARCHAR[]))"
            known = {row[0]: rows.prompt(row) for row in self._rows(query, [list(given)])}
            for prompt_id in given.keys() & known.keys():
                if given[prompt_id] != known[prompt_id]:
                    logger.warning("The prompt %r stays what it was: %s.", given[prompt_id].text, known[prompt_id])
            new = [asdict(prompt) for prompt_id, prompt in given.items() if prompt_id not in known]
            if new:
                self._record("prompts_added", {"prompts": new})
        return len(new)

    def prompts(self, split: str | None = None, task: str | None = None) -> list[Prompt]:
        """Prompts in order of arrival."""
        found = self._rows(
            f"""
            SELECT {rows.PROMPT} FROM prompts
            WHERE ($1 IS NULL OR split = $1) AND ($2 IS NULL OR task = $2) ORDER BY position
            """,
            [split, task],
        )
        return [rows.prompt(row) for row in found]

    def add_images(self, images: Iterable[Image]) -> int:
        """Add the images that are not there yet for their round and prompt; return how many.

        Raises:
            StoreError: a prompt is unknown.
        """
        given = {(image.image_id, image.round, image.prompt_id): image for image in images}
        with self._writing():
            self._check_known("prompt", "prompts", "prompt_id", {image.prompt_id for image in given.values()})
            known = self.image_keys(image.image_id for image in given.values())
            new = [asdict(image) for key, image in given.items() if key not in known]
            if new:
                self._record("images_added", {"images": new})
        return len(new)

    def image_keys(self, image_ids: Iterable[str]) -> set[tuple[str, int, str]]:
        """Of these ids: where each is known, as image id, round and prompt id."""
        query = "SELECT image_id, round, prompt_id FROM images WHERE image_id IN (SELECT unnest($1::VARCHAR[]))"
        return set(self._rows(query, [list(image_ids)]))

    def image(self, image_id: str) -> Image | None:
        """The image of that id as it was first drawn; None when there is none."""
        found = self._rows(f"SELECT {rows.IMAGE} FROM images WHERE image_id = ? ORDER BY position LIMIT 1", [image_id])
        return rows.image(found[0]) if found else None

    def images(self, round: int | None = None) -> list[Image]:
        """Images in order of arrival."""
        query = f"SELECT {rows.IMAGE} FROM images WHERE $1 IS NULL OR round = $1 ORDER BY position"
        return [rows.image(row) for row in self._rows(query, [round])]

    def withdraw_image(self, image_id: str, reason: str) -> bool:
        """Ask about this image no more: its file cannot be shown. Answers to it stay, but are not learned from.

        Returns:
            False when it changes nothing: it is withdrawn already, or no image of the store.
        """
        with self._writing():
            is_known = any(withdrawn.image_id == image_id for withdrawn in self.withdrawn_images())
            if is_known or self.image(image_id) is None:
                return False
            now = datetime.now(UTC).isoformat()
            self._record("image_withdrawn", {"image_id": image_id, "reason": reason, "withdrawn_at": now})
            self._forget_queue()
        return True

    def restore_image(self, image_id: str) -> None:
        """Ask about a withdrawn image again."""
        with self._writing():
            if any(withdrawn.image_id == image_id for withdrawn in self.withdrawn_images()):
                self._record("image_restored", {"image_id": image_id})
                self._forget_queue()

    def withdrawn_images(self) -> list[WithdrawnImage]:
        """Images that cannot be shown, by the time they were withdrawn."""
        query = f"SELECT {rows.WITHDRAWN_IMAGE} FROM withdrawn_images ORDER BY withdrawn_at, image_id"
        return [rows.withdrawn_image(row) for row in self._rows(query)]

    def usable_images(self, round: int | None = None) -> list[Image]:
        """Images in order of arrival, without those that were withdrawn."""
        withdrawn = {image.image_id for image in self.withdrawn_images()}
        return [image for image in self.images(round) if image.image_id not in withdrawn]

    def start_round(self, number: int, config_sha: str) -> None:
        """Begin a round, or note that one that is there goes on (with this configuration)."""
        with self._writing():
            if any(found.number == number and found.config_sha == config_sha for found in self.rounds()):
                return
            now = datetime.now(UTC).isoformat()
            self._record("round_started", {"number": number, "config_sha": config_sha, "started_at": now})
            with self._queue_lock:
                self._newest_round = None

    def set_round_state(self, number: int, state: str) -> None:
        """Say where a round is; `records.FINISHED` also notes when.

        Raises:
            StoreError: the round was never started.
        """
        with self._writing():
            found = next((found for found in self.rounds() if found.number == number), None)
            if found is None:
                raise StoreError(f"Round {number} was never started.", hint="Call start_round first.")
            if found.state != state:
                now = datetime.now(UTC).isoformat()
                self._record("round_state_set", {"number": number, "state": state, "changed_at": now})

    def rounds(self) -> list[Round]:
        """Rounds by number."""
        return [rows.round_(row) for row in self._rows(f"SELECT {rows.ROUND} FROM rounds ORDER BY number")]

    def newest_round(self) -> int | None:
        """The number of the last round that was started; 0 before, where there are tasks of a folder's pictures.

        Every page asks, so it is not looked up each time.
        """
        with self._queue_lock:  # or what was read before a round began could be kept after it
            if self._newest_round is None:
                query = (
                    "SELECT coalesce((SELECT max(number) FROM rounds), (SELECT 0 FROM tasks WHERE policy = ? LIMIT 1))"
                )
                self._newest_round = self._rows(query, [FROM_FOLDER])[0][0]
            return self._newest_round

    def add_tasks(self, tasks: Iterable[Task]) -> int:
        """Add the tasks that are not there yet; return how many.

        Raises:
            ConfigError: a task that nobody could rate: a wrong number of images, the same image twice, no overlap.
            StoreError: a prompt, an image or the task that a repeat repeats is unknown.
        """
        given = {task.task_id: task for task in tasks}
        for task in given.values():
            validation.check_task(task)
        with self._writing():
            self._check_known("prompt", "prompts", "prompt_id", {task.prompt_id for task in given.values()})
            shown = {image_id for task in given.values() for image_id in task.image_ids}
            self._check_known("image", "images", "image_id", shown)
            named = [*given, *(task.repeats for task in given.values() if task.repeats)]
            query = "SELECT task_id FROM tasks WHERE task_id IN (SELECT unnest($1::VARCHAR[]))"
            known = {row[0] for row in self._rows(query, [named])}
            if missing := sorted({task.repeats for task in given.values() if task.repeats} - known - given.keys()):
                raise StoreError(f"There is no task {missing[0]!r} to repeat.", hint="Add that task first.")
            new = [asdict(task) for task_id, task in given.items() if task_id not in known]
            if new:
                self._record("tasks_added", {"tasks": new})
                self._forget_queue()
        return len(new)

    def tasks(self, round: int | None = None) -> list[Task]:
        """Tasks in order of arrival."""
        query = f"SELECT {rows.TASK} FROM tasks WHERE $1 IS NULL OR round = $1 ORDER BY position"
        return [rows.task(row) for row in self._rows(query, [round])]

    def task(self, task_id: str) -> Task | None:
        if task_id not in self._tasks:
            for row in self._rows(f"SELECT {rows.TASK} FROM tasks WHERE task_id = ?", [task_id]):
                self._tasks[task_id] = rows.task(row)
        return self._tasks.get(task_id)

    def tasks_showing(self, image_id: str) -> list[Task]:
        """Tasks that ask about this image, in order of arrival."""
        query = f"SELECT {rows.TASK} FROM tasks WHERE list_contains(tasks.image_ids, ?) ORDER BY position"
        return [rows.task(row) for row in self._rows(query, [image_id])]

    def ids_beginning(self, letters: str, *, limit: int) -> list[tuple[str, str]]:
        """Kind and id of images, ratings and tasks whose id begins so; an id that is just that alone."""
        query = """
            WITH ids AS (
                SELECT 'image' AS kind, image_id AS id FROM images WHERE starts_with(image_id, $1)
                UNION SELECT 'rating', rating_id FROM ratings WHERE starts_with(rating_id, $1)
                UNION SELECT 'task', task_id FROM tasks WHERE starts_with(task_id, $1)
            )
            SELECT kind, id FROM ids WHERE id = $1 OR NOT EXISTS (FROM ids WHERE id = $1) ORDER BY kind, id LIMIT $2
        """
        return [(kind, found) for kind, found in self._rows(query, [letters, limit])]

    # -- raters ---------------------------------------------------------------------------------------------------

    def add_rater(self, rater: Rater) -> bool:
        """Add a rater; False when the id is there already.

        Raises:
            ConfigError: the name is empty or somebody else's (upper and lower case do not differ).
        """
        validation.check_rater(rater)
        with self._writing():
            if self.rater(rater.rater_id) is not None:
                return False
            self._require_free(rater.name)
            self._record("rater_added", {**asdict(rater), "created_at": validation.iso(rater.created_at)})
        return True

    def add_raters(self, raters: Iterable[Rater], *, is_disabled: bool = False) -> int:
        """Add the raters that are not there yet by one commit; return how many. Disabled ones nobody can come in as.

        Raises:
            ConfigError: a name is empty or somebody else's.
        """
        given = {rater.rater_id: rater for rater in raters}
        with self._writing():
            new = [rater for rater_id, rater in given.items() if self.rater(rater_id) is None]
            if len({rater.name.lower() for rater in new}) < len(new):
                raise ConfigError("Two of the raters have one name.", hint="Give each a name of their own.")
            for rater in new:
                validation.check_rater(rater)
                self._require_free(rater.name)
            if new and is_disabled:  # first, so that whoever is there is shut out
                accounts = [Account(rater_id=rater.rater_id, is_disabled=True) for rater in new]
                self._record("account_set", *map(asdict, accounts))
                self._accounts.update((account.rater_id, account) for account in accounts)
            if new:
                times = ({"created_at": validation.iso(rater.created_at)} for rater in new)
                self._record("rater_added", *(asdict(rater) | at for rater, at in zip(new, times, strict=True)))
        return len(new)

    def rater(self, rater_id: str) -> Rater | None:
        if rater_id not in self._raters:
            for rater in self._raters_where("WHERE rater_id = ?", [rater_id]):
                self._raters[rater_id] = rater
        return self._raters.get(rater_id)

    def rater_by_name(self, name: str) -> Rater | None:
        """Upper and lower case do not differ."""
        return next(iter(self._raters_where("WHERE lower(name) = lower(?)", [name])), None)

    def raters(self) -> list[Rater]:
        """Raters by the time they joined."""
        return self._raters_where()

    def _raters_where(self, where: str = "", values: Sequence[object] = ()) -> list[Rater]:
        query = f"SELECT {rows.RATER} FROM raters {where} ORDER BY created_at, name"
        return [rows.rater(row) for row in self._rows(query, values)]

    # -- who may do what ------------------------------------------------------------------------------------------

    def account(self, rater_id: str) -> Account:
        """What this rater may do; of one who never got an account, or is not there, what everybody may."""
        known = self._accounts.get(rater_id)
        if known is None:
            found = self._rows(f"SELECT {rows.ACCOUNT} FROM accounts WHERE rater_id = ?", [rater_id])
            # Never over what a writer has put there meanwhile: a rater who was just disabled stays so.
            known = self._accounts.setdefault(rater_id, rows.account(found[0]) if found else Account(rater_id=rater_id))
        return known

    def has_accounts(self) -> bool:
        """Whether anybody ever got a password or an invite. Never false again once it was true: no door reopens."""
        if not self._has_accounts:
            query = "SELECT EXISTS (FROM invites) OR EXISTS (FROM accounts WHERE password_hash IS NOT NULL)"
            self._has_accounts = self._rows(query)[0][0]
        return self._has_accounts

    def set_account(self, account: Account) -> None:
        """Replace what this rater may do.

        Raises:
            ConfigError: there is no such rater.
        """
        with self._writing():
            self._require_rater(account.rater_id)
            if account != self.account(account.rater_id):
                self._record("account_set", asdict(account))
                self._accounts[account.rater_id] = account

    def add_invite(self, invite: Invite) -> None:
        """Keep an invite.

        Raises:
            ConfigError: it is for a rater who is not there.
        """
        with self._writing():
            if invite.rater_id is not None:
                self._require_rater(invite.rater_id)
            times = {"created_at": validation.iso(invite.created_at), "expires_at": validation.iso(invite.expires_at)}
            self._record("invite_added", {**asdict(invite), **times})

    def invite(self, token_hash: str) -> Invite | None:
        found = self._rows(f"SELECT {rows.INVITE} FROM invites WHERE token_hash = ?", [token_hash])
        return rows.invite(found[0]) if found else None

    def invites(self) -> list[Invite]:
        """Invites in order of arrival, whatever became of them."""
        return [rows.invite(row) for row in self._rows(f"SELECT {rows.INVITE} FROM invites ORDER BY position")]

    def use_invite(self, token_hash: str, rater: Rater, account: Account) -> bool:
        """Let a rater in, once, new or known; False when the invite is not open (any more).

        Raises:
            ConfigError: the name is empty or somebody else's.
        """
        validation.check_rater(rater)
        now = datetime.now(UTC)
        with self._writing():
            invite = self.invite(token_hash)
            if invite is None or invite.state(now) != "open" or invite.rater_id not in (None, rater.rater_id):
                return False
            new = None
            if self.rater(rater.rater_id) is None:
                self._require_free(rater.name)
                new = {**asdict(rater), "created_at": validation.iso(rater.created_at)}
            used = {"invite_id": invite.invite_id, "used_at": now.isoformat(), "rater": new, "account": asdict(account)}
            self._record("invite_used", used)
            self._accounts[rater.rater_id] = account
        return True

    def revoke_invite(self, invite_id: str) -> bool:
        """End an invite; False when it was not open."""
        now = datetime.now(UTC)
        with self._writing():
            found = next((invite for invite in self.invites() if invite.invite_id == invite_id), None)
            if found is None or found.state(now) != "open":
                return False
            self._record("invite_revoked", {"invite_id": invite_id, "revoked_at": now.isoformat()})
        return True

    def add_consent(self, consent: Consent) -> bool:
        """Keep that a rater agreed; False when they had agreed to this version already.

        Raises:
            ConfigError: there is no such rater.
        """
        with self._writing():
            self._require_rater(consent.rater_id)
            given = self.consents(consent.rater_id)
            if any(known.version == consent.version for known in given):
                return False
            self._record("consent_given", {**asdict(consent), "given_at": validation.iso(consent.given_at)})
            self._consents[consent.rater_id] = [*given, consent]
        return True

    def consents(self, rater_id: str) -> list[Consent]:
        """What a rater agreed to, in order. Asked with every rating, so it is not asked of the database again."""
        known = self._consents.get(rater_id)
        if known is None:
            query = f"SELECT {rows.CONSENT} FROM consents WHERE rater_id = ? ORDER BY position"
            # Never over what a writer has put there meanwhile.
            known = self._consents.setdefault(rater_id, [rows.consent(row) for row in self._rows(query, [rater_id])])
        return known

    def end_practice(self, rater_id: str, outcome: PracticeOutcome) -> bool:
        """Note that a rater is through the guide and its practice; False when they had been.

        Raises:
            ConfigError: there is no such rater.
        """
        with self._writing():
            self._require_rater(rater_id)
            if self.practice_outcome(rater_id) is not None:
                return False
            now = datetime.now(UTC).isoformat()
            self._record("practice_ended", {"rater_id": rater_id, "outcome": outcome, "ended_at": now})
        return True

    def practice_outcome(self, rater_id: str) -> PracticeOutcome | None:
        """How a rater's practice ended; None while it has not."""
        found = self._rows("SELECT outcome FROM practices WHERE rater_id = ?", [rater_id])
        return found[0][0] if found else None

    def erase_rater(self, rater_id: str, *, ratings: Fate = "keep", new_id: str = "") -> Rater:
        """Forget who a rater is (`data.erasure` says how); return who stands in their place, by default under a new id.

        What lies beside the store is reached by `data.erasing`.

        Raises:
            ConfigError: there is no such rater.
        """
        with self._writing():
            assert self._journal is not None
            old = self._require_rater(rater_id)
            erasure = Erasure(rater_id=rater_id, **({"new_id": new_id} if new_id else {}))
            event = erasure.event(ratings=ratings, before=self._journal.end.hash)
            end = self._journal.write_again(erasure.forget, "rater_erased", event, datetime.now(UTC))
            with self._database.transaction() as writer:
                erasure.apply(writer)
                events.apply(writer, [events.Event(seq=end.seq, name="rater_erased", data=event)])
                writer.execute("UPDATE store_state SET has_erased = TRUE")
                _set_position(writer, end)
            try:
                self._journal.adopt(end)
            except BaseException:
                # The store is ahead of the log that is open. Nothing may be added to it; the next start settles it.
                self._journal.close()
                self._journal = None
                raise
            self._seen = end
            self._database.checkpoint()
            self._raters.pop(rater_id, None)
            self._consents.pop(rater_id, None)
            self._accounts[rater_id] = Account(rater_id=rater_id, is_disabled=True)
            with self._queue_lock:
                self._queue = None
                self._leases.drop_all(rater_id)
            return replace(old, rater_id=erasure.new_id, name=erasure.new_name)

    def rows_of_erased(self, new_id: str) -> dict[str, int]:
        """By table, how many rows are left under the id of who stands in an erased rater's place."""
        with self._database.reading() as cursor:
            return Erasure(rater_id="", new_id=new_id).rows_left(cursor)

    @property
    def holds_erased_bytes(self) -> bool:
        """Whether free parts of the file hold what was erased; the next `open` writes the file anew."""
        return self._rows("SELECT has_erased FROM store_state")[0][0]

    def _require_rater(self, rater_id: str) -> Rater:
        rater = self.rater(rater_id)
        if rater is None:
            raise ConfigError(f"There is no rater {rater_id!r}.", hint="`hitl raters list` names them all.")
        return rater

    def _require_free(self, name: str) -> None:
        if self.rater_by_name(name) is not None:
            raise ConfigError(f"There is a rater called {name!r} already.", hint="Choose another name.")

    # -- who rates what -------------------------------------------------------------------------------------------

    def lease(self, rater_id: str, *, limit: int, lease_s: float = 300, now: datetime | None = None) -> list[Offer]:
        """Up to `limit` tasks of the newest round for this rater alone: those already leased first, then open ones.

        Never a task that this rater has rated or skipped; never more raters on a task than its overlap. Between them
        come the repeats and gold tasks that are due, which are every rater's own.
        """
        now = now or datetime.now(UTC)
        with self._queue_lock:
            queue = self._newest_queue()
            found = queue.open_to(rater_id, self._leases, limit=limit, now=now) if queue else []
            shown = [queue.displayed(task, rater_id) for task in found] if queue else []
            for task in found:
                self._leases.hold(task.task_id, rater_id, now, lease_s)
        prompts = self._prompt_texts({task.prompt_id for task in found})
        return [
            Offer(task=task, prompt=prompts[task.prompt_id], image_ids=image_ids)
            for task, image_ids in zip(found, shown, strict=True)
        ]

    def release(self, rater_id: str, task_ids: Iterable[str]) -> None:
        """Give tasks back unrated."""
        with self._queue_lock:
            for task_id in task_ids:
                self._leases.drop(task_id, rater_id)

    def progress(self, round: int, *, now: datetime | None = None) -> Progress:
        """How far the rating of a round is."""
        with self._queue_lock:
            return self._queue_of(round).progress(self._leases, now=now or datetime.now(UTC))

    def answered(self, rater_id: str, round: int) -> int:
        """How many tasks of a round this rater answered, checks counted and skips not. Every page that waits asks each
        second.
        """
        with self._queue_lock:
            return self._queue_of(round).answered_by(rater_id)

    def _queue_of(self, round: int) -> RoundQueue:
        """The queue of any round. The caller holds the queue's lock."""
        queue = self._newest_queue()
        return queue if queue is not None and queue.round == round else self._load_queue(round)

    def _newest_queue(self) -> RoundQueue | None:
        """The queue of the newest round that has tasks. The caller holds the queue's lock."""
        if self._queue is None:
            newest = self._rows(f"SELECT max(round) FROM tasks WHERE {_IS_ASKED}", [FROM_FOLDER])[0][0]
            self._queue = None if newest is None else self._load_queue(newest)
        return self._queue

    def _load_queue(self, round: int) -> RoundQueue:
        query = f"SELECT {rows.TASK} FROM tasks WHERE {_IS_ASKED} AND round = ? ORDER BY position"
        tasks = [rows.task(row) for row in self._rows(query, [FROM_FOLDER, round])]
        self._tasks.update((task.task_id, task) for task in tasks)
        lost = {image.image_id for image in self.withdrawn_images()}
        withdrawn = {task.task_id for task in tasks if lost.intersection(task.image_ids)}
        queue = RoundQueue(round=round, tasks=tasks, withdrawn=withdrawn)
        query = f"""
            SELECT task_id, rater_id, is_skip, server_time, standing.image_ids
            FROM standing_ratings AS standing JOIN tasks USING (task_id)
            WHERE {_IS_ASKED} AND tasks.round = ? ORDER BY standing.position
        """
        for task_id, rater_id, is_skip, server_time, displayed in self._rows(query, [FROM_FOLDER, round]):
            answer = Answer(is_skip=is_skip, at=server_time.replace(tzinfo=UTC), displayed=tuple(displayed))
            queue.note(task_id, rater_id, answer)
        return queue

    def _forget_queue(self) -> None:
        """It is loaded again when somebody asks: what is to be rated has changed."""
        with self._queue_lock:
            self._queue = self._newest_round = None

    def _note(self, rating: Rating) -> None:
        """Tell the queue of a rating that was recorded. What was undone is what this rater wants to see next."""
        with self._queue_lock:
            if rating.payload:
                is_skip = events.is_skip(rating.kind, rating.payload)
                answer = Answer(is_skip=is_skip, at=rating.server_time, displayed=rating.image_ids)
                self._leases.drop(rating.task_id, rating.rater_id)
            else:
                answer = None
                self._leases.hold(rating.task_id, rating.rater_id, datetime.now(UTC), _AFTER_UNDO_S)
            if self._queue is not None and self._queue.round == self._tasks[rating.task_id].round:
                self._queue.note(rating.task_id, rating.rater_id, answer)

    # -- ratings --------------------------------------------------------------------------------------------------

    def add_rating(self, rating: Rating) -> bool:
        """Keep a rating. Durable, in the journal and in the store, when this returns.

        Late is not wrong: a rating is kept even when its lease has run out or the task has enough already.

        Returns:
            False when it changes nothing: its id is there already, this rater's answer to this task stands already, or
            it undoes what is undone already.

        Raises:
            ConfigError: it does not fit its task, its kind, or what it voids.
        """
        canonical_json({**asdict(rating), "server_time": validation.iso(rating.server_time)})
        return self._arrivals.do(rating)

    def add_ratings(self, ratings: Iterable[Rating]) -> list[bool | Exception]:
        """Keep many ratings, each as `add_rating` does, by one commit for some hundreds of them.

        Returns:
            For each what `add_rating` returns, or the error that it raises.
        """
        outcomes: list[bool | Exception] = []
        rest = iter(ratings)
        while some := list(islice(rest, _RATINGS_PER_COMMIT)):
            with self._writing():
                before = self._tasks.keys() & {rating.task_id for rating in some}
                self._read_tasks({rating.task_id for rating in some} - before)
                outcomes += self._keep(some)
                for task_id in {rating.task_id for rating in some} - before:  # not all tasks of a million ratings
                    self._tasks.pop(task_id, None)
        return outcomes

    def rating_ids(self, ids: Iterable[str]) -> set[str]:
        """Which of these ids are of ratings that are here."""
        query = "SELECT rating_id FROM ratings WHERE rating_id IN (SELECT unnest($1::VARCHAR[]))"
        return {row[0] for row in self._rows(query, [list(ids)])}

    def _read_tasks(self, task_ids: set[str]) -> None:
        query = f"SELECT {rows.TASK} FROM tasks WHERE task_id IN (SELECT unnest($1::VARCHAR[]))"
        self._tasks.update((row[0], rows.task(row)) for row in self._rows(query, [list(task_ids)]))

    def _keep(self, arrived: Sequence[Rating]) -> list[bool | Exception]:
        """Keep some ratings by one commit. What each changes is judged after those before it."""
        with self._writing():
            beside = _Beside(self._rows_beside(arrived))
            outcomes: list[bool | Exception] = []
            kept: list[Rating] = []
            for rating in arrived:
                try:
                    is_news = self._is_to_be_kept(rating, beside)
                except ConfigError as error:
                    outcomes.append(error)
                    continue
                outcomes.append(is_news)
                if is_news:
                    kept.append(rating)
                    beside.add(rating.rating_id, rating.task_id, rating.rater_id, rating.voids, not rating.payload)
            if kept:
                self._record("rating_added", *map(self._as_fact, kept))
                for rating in kept:
                    self._note(rating)
                self._since_checkpoint += len(kept)
                if self._since_checkpoint >= CHECKPOINT_EVERY and self._database.checkpoint():
                    self._since_checkpoint = 0
        return outcomes

    def _rows_beside(self, arrived: Sequence[Rating]) -> list[tuple[Any, ...]]:
        """All that is there of these ratings, and of answers by their raters to their tasks."""
        # Joined with the lists: among a million ratings that takes 3 ms, where conditions with OR take 24.
        return self._rows(
            """
            SELECT rating_id, task_id, rater_id, voids, is_undo FROM ratings
            WHERE rating_id IN (SELECT unnest($1::VARCHAR[]))
            UNION
            SELECT rating_id, task_id, rater_id, voids, is_undo FROM ratings
            WHERE task_id IN (SELECT unnest($2::VARCHAR[])) AND rater_id IN (SELECT unnest($3::VARCHAR[]))
            """,
            [
                [each.rating_id for each in arrived],
                [each.task_id for each in arrived],
                [each.rater_id for each in arrived],
            ],
        )

    def _is_to_be_kept(self, rating: Rating, beside: "_Beside") -> bool:
        """Whether it changes anything, given what is there.

        Raises:
            ConfigError: it does not fit its task, its kind, or what it voids.
        """
        if rating.rating_id in beside.ids:
            return False
        related = beside.related[rating.task_id, rating.rater_id]
        task = self.task(rating.task_id)
        if task is None:
            raise ConfigError(f"There is no task {rating.task_id!r}.", hint="Ask for tasks again and rate those.")
        if self.rater(rating.rater_id) is None:
            raise ConfigError(f"There is no rater {rating.rater_id!r}.", hint="Join with a name first.")
        validation.check_rating(rating, task)
        answers = {rating_id for rating_id, _, is_undo in related if not is_undo}
        return _is_news(rating, answers, standing=answers - {voids for _, voids, _ in related})

    def _as_fact(self, rating: Rating) -> dict[str, Any]:
        return {
            **asdict(rating),
            "server_time": validation.iso(rating.server_time),
            "task_image_ids": list(self._tasks[rating.task_id].image_ids),
        }

    def ratings(
        self, round: int | None = None, rater_id: str | None = None, purpose: Purpose | None = None
    ) -> list[Rating]:
        """All rows in order of arrival, voided ones and undos included; of tasks of one purpose or of every."""
        found = self._rows(
            f"""
            SELECT {rows.RATING} FROM ratings JOIN tasks USING (task_id)
            WHERE ($1 IS NULL OR tasks.round = $1) AND ($2 IS NULL OR rater_id = $2)
                AND ($3 IS NULL OR tasks.purpose = $3)
            ORDER BY ratings.position
            """,
            [round, rater_id, purpose],
        )
        return [rows.rating(row) for row in found]

    def rating(self, rating_id: str) -> Rating | None:
        found = self._rows(f"SELECT {rows.RATING} FROM ratings WHERE rating_id = ?", [rating_id])
        return rows.rating(found[0]) if found else None

    def ratings_of(self, task_ids: Sequence[str]) -> list[Rating]:
        """All rows of some tasks in order of arrival, voided ones and undos included."""
        query = f"""
            SELECT {rows.RATING} FROM ratings WHERE task_id IN (SELECT unnest($1::VARCHAR[])) ORDER BY position
        """
        return [rows.rating(row) for row in self._rows(query, [list(task_ids)])]

    def has_ratings(self, round: int) -> bool:
        """Whether anybody rated or skipped anything in a round."""
        query = "SELECT EXISTS (FROM ratings JOIN tasks USING (task_id) WHERE tasks.round = ?)"
        return self._rows(query, [round])[0][0]

    def comparisons(self, round: int | None = None) -> list[Comparison]:
        """What the ratings that stand say, without skips and checks, by round, task and rater."""
        query = f"SELECT {rows.COMPARISON} FROM comparisons WHERE $1 IS NULL OR round = $1 {_COMPARISON_ORDER}"
        return [rows.comparison(row) for row in self._rows(query, [round])]

    def answers(self, round: int | None = None) -> int:
        """How many ratings stand that can be learned from, whatever was asked: no skips, no undos, no lost pictures."""
        query = f"SELECT count(*) FROM answers WHERE ($1 IS NULL OR round = $1) AND {_CAN_BE_SHOWN}"
        return self._rows(query, [round])[0][0]

    def repeats(self, round: int | None = None) -> list[Repeat]:
        """Screens that a rater answered twice and took back neither time, by round, rater and rating."""
        query = f"SELECT {rows.REPEAT} FROM repeats WHERE $1 IS NULL OR round = $1 ORDER BY round, rater_id, rating_id"
        return [rows.repeat(row) for row in self._rows(query, [round])]

    def gold_answers(self, round: int | None = None) -> list[GoldAnswer]:
        """What raters said where it is known which image is worse or better, by round, rater and task."""
        query = f"""
            SELECT {rows.GOLD_ANSWER} FROM gold_answers
            WHERE $1 IS NULL OR round = $1 ORDER BY round, rater_id, task_id
        """
        return [rows.gold_answer(row) for row in self._rows(query, [round])]

    # -- metrics --------------------------------------------------------------------------------------------------

    def add_metrics(self, round: int, stage: str, rows: Iterable[dict[str, Any]]) -> None:
        """Keep rows of `step`, `name`, `value`. The same step and name again replaces the value."""
        kept = [
            {"step": int(row["step"]), "name": str(row["name"]), "value": events.finite_or_none(row["value"])}
            for row in rows
        ]
        if kept:
            with self._writing():
                self._record("metrics_added", {"round": round, "stage": stage, "rows": kept})

    def metrics(self, round: int, stage: str | None = None) -> list[Metric]:
        found = self._rows(
            f"""
            SELECT {rows.METRIC} FROM metrics
            WHERE round = $1 AND ($2 IS NULL OR stage = $2) ORDER BY stage, name, step
            """,
            [round, stage],
        )
        return [rows.metric(row) for row in found]

    @property
    def position(self) -> int:
        """Number of the last fact: what was worked out at the same one still holds."""
        return self._seen.seq

    @property
    def journal_position(self) -> Position:
        """Up to which line of the journal this store, or the copy of one that it is, holds all facts."""
        return self._seen

    def counts(self) -> dict[str, int]:
        """How many rows each table of facts has."""
        return self._database.counts()

    def image_ids(self, prefix: str) -> list[str]:
        """Ids of images that begin so, in order, each once."""
        query = "SELECT DISTINCT image_id FROM images WHERE starts_with(image_id, ?) ORDER BY image_id"
        return [row[0] for row in self._rows(query, [prefix])]

    def differences(self, path: Path) -> list[TableDifference]:
        """Where another store's file, which nobody has open, holds other facts."""
        return self._database.differences(path)

    # -- copies ---------------------------------------------------------------------------------------------------

    def write_snapshot(self, path: Path, up_to_round: int) -> Snapshot:
        """The answers of all rounds up to this one as Parquet; the same ratings give the same bytes."""
        which = f"round <= {up_to_round:d} AND {_CAN_BE_SHOWN}"
        query = f"SELECT {rows.SNAPSHOT} FROM answers WHERE {which} {_COMPARISON_ORDER}"
        return snapshot.write(path, self._database.batches(query))

    def streams(self, selection: Selection) -> Streams:
        """What may be too much to be held at once."""
        return Streams(self._database, selection)

    def copy_to(self, path: Path) -> None:
        """A consistent copy in one new file, made by SQL: opening the live file would drop DuckDB's lock on it.

        Raises:
            StoreError: the path is taken.
        """
        if path.exists():
            raise StoreError(f"{path} is there already.", hint="Choose a name that is not taken.")
        with self._writing():
            self._database.copy_to(path)

    # -- reading and writing --------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the writer lock on a store that has seen all of the journal.

        It may be behind when it is opened after a crash, or when a commit failed after the journal had the event.
        """
        with self._database.writing():
            if self._journal is None:
                raise StoreError("This copy of a store is read-only.", hint="Change the workspace's own store instead.")
            if self._seen != self._journal.end:
                self._seen = _position(self._database)
                logger.info("Bringing the store from event %d to %d.", self._seen.seq, self._journal.end.seq)
                missed = (
                    events.Event(seq=entry.end.seq, name=entry.event, data=entry.data)
                    for entry in self._journal.read(self._seen)
                )
                with self._database.transaction() as writer:
                    events.apply(writer, missed)
                    _set_position(writer, self._journal.end)
                self._seen = self._journal.end
            yield

    def _record(self, event: str, *facts: dict[str, Any]) -> None:
        """Apply events of one name, journal them, commit. To be called inside `_writing`."""
        assert self._journal is not None
        told = [json.loads(canonical_json(data)) for data in facts]
        first = self._journal.end.seq + 1
        with self._database.transaction() as writer:
            events.apply(writer, [events.Event(seq=seq, name=event, data=data) for seq, data in enumerate(told, first)])
            end = self._journal.append_all(event, told, datetime.now(UTC))
            _set_position(writer, end)
        self._seen = end
        self._idle.note()

    def _checkpoint_when_idle(self) -> None:
        with contextlib.suppress(StoreError), self._database.writing():  # closed meanwhile, or the disk is full
            if self._database.checkpoint():
                self._since_checkpoint = 0
            else:
                self._idle.note()

    def _prompt_texts(self, prompt_ids: set[str]) -> dict[str, str]:
        for prompt_id in prompt_ids - self._texts.keys():
            for row in self._rows("SELECT text FROM prompts WHERE prompt_id = ?", [prompt_id]):
                self._texts[prompt_id] = row[0]
        return self._texts

    def _check_known(self, what: str, table: str, column: str, ids: set[str]) -> None:
        """In place of foreign keys, which stand in the way of harmless updates."""
        query = f"SELECT {column} FROM {table} WHERE {column} IN (SELECT unnest($1::VARCHAR[]))"
        known = {row[0] for row in self._rows(query, [list(ids)])}
        if missing := sorted(ids - known):
            raise StoreError(
                f"There is no {what} {missing[0]!r} in the store ({len(missing)} unknown in all).",
                hint=f"Add the {table} first.",
            )


_IS_ASKED = "(tasks.round > 0 OR tasks.policy = ?)"
"""Of a task: people here are asked. Imported ones, in round 0, were asked elsewhere; pictures of a folder are not."""
_CAN_BE_SHOWN = """
    NOT EXISTS (
        FROM withdrawn_images AS lost
        WHERE lost.image_id IN (image_a, image_b) OR list_contains(images, lost.image_id)
    )
"""
"""Of an answer: all its pictures are there, so that it can be learned from."""
_COMPARISON_ORDER = "ORDER BY round, task_id, rater_id, image_a, image_b"


class _Beside:
    """What is there of some ratings: their ids, and what their raters said of their tasks: id, voids, is it an undo."""

    def __init__(self, found: Iterable[tuple[Any, ...]]) -> None:
        self.ids: set[str] = set()
        self.related: dict[tuple[str, str], list[tuple[str, str | None, bool]]] = defaultdict(list)
        for row in found:
            self.add(*row)

    def add(self, rating_id: str, task_id: str, rater_id: str, voids: str | None, is_undo: bool) -> None:
        self.ids.add(rating_id)
        self.related[task_id, rater_id].append((rating_id, voids, is_undo))


def _is_news(rating: Rating, answers: set[str], *, standing: set[str]) -> bool:
    """Whether a rating changes anything, given the ids of this rater's answers to this task: all, and those that stand.

    Raises:
        ConfigError: it voids what it cannot void.
    """
    if rating.voids is None:
        return not standing
    if rating.voids not in answers:
        raise ConfigError(
            f"{rating.voids!r} is not an answer of this rater to task {rating.task_id}.",
            hint="Undo one of your own ratings, naming its task.",
        )
    if rating.voids not in standing and rating.payload:
        raise ConfigError(f"Rating {rating.voids!r} was undone already.", hint="Send the answer without `voids`.")
    return rating.voids in standing


def _position(database: Database) -> Position:
    query = "SELECT journal_seq, journal_hash, journal_bytes FROM store_state"
    seq, digest, size = database.rows(query)[0]
    return Position(seq=seq, hash=digest, offset=size)


def _set_position(connection: events.Connection, position: Position) -> None:
    connection.execute(
        "UPDATE store_state SET journal_seq = ?, journal_hash = ?, journal_bytes = ?",
        [position.seq, position.hash, position.offset],
    )
