"""Facts, kept in two places that go in step: the rows of one DuckDB file, and the lines of the journal.

A fact is recorded in this order: its rows are written in an open transaction, its line goes into the journal and is
synced to the disk, the transaction commits together with the journal's position. Whatever dies in between, either the
journal has the fact (and the rows catch up when the store is opened next) or nobody was told that it was kept.
"""

import contextlib
import json
import logging
import os
import weakref
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any, Self

from data import events
from data.database import Database, TableDifference, write_ahead_log
from data.idle import IdleTimer
from data.journal import Entry, Journal, Position, canonical_json, rewriting, settle_rewriting
from data.lock import StoreLock
from data.mounts import network_file_system
from data.workspace import Workspace, disk_errors
from hitl.core.errors import StoreError

logger = logging.getLogger(__name__)

CHECKPOINT_EVERY = 200
"""Ratings between checkpoints: a short write-ahead log is quick to replay and has little to lose."""
CHECKPOINT_AFTER_IDLE_S = 30.0
"""The same after so many seconds without a write: what is left when people go home is one file."""
_ENTRIES_AT_ONCE = 100_000
"""In one transaction: memory does not grow with the journal."""


class FactLog:
    """What all parts of the store write through."""

    def __init__(self, database: Database, *, journal: Journal | None = None, lock: StoreLock | None = None) -> None:
        self._database = database
        self._journal: Journal | None = journal
        self._lock = lock
        self._seen = _position(database)
        self._since_checkpoint = 0
        self._idle = IdleTimer(CHECKPOINT_AFTER_IDLE_S, weakref.WeakMethod(self._checkpoint_when_idle))
        self._rows = database.rows

    # -- opening and closing --------------------------------------------------------------------------------------

    @classmethod
    def open(cls, workspace: Workspace, *, create: bool = False) -> Self:
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
    def _open_locked(cls, path: Path, journal_path: Path, lock: StoreLock | None) -> Self:
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
    def open_snapshot(cls, path: Path) -> Self:
        """Read a copy made by `copy_to`. Takes no lock and cannot change anything."""
        return cls(Database.open_read_only(path))

    @classmethod
    def rebuild(cls, workspace: Workspace) -> Self:
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
            _settle_by_store(path, workspace.journal_path)
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
                apply_entries(self._database, self._journal.read(self._seen))
                self._seen = self._journal.end
                self._forget()
            yield

    def _forget(self) -> None:
        """Of facts that are remembered some may have changed: the journal had more than the store knew."""

    def _record(self, event: str, *facts: dict[str, Any]) -> None:
        """Apply events of one name, journal them, commit. To be called inside `_writing`."""
        assert self._journal is not None
        told = [json.loads(canonical_json(data)) for data in facts]
        first = self._journal.end.seq + 1
        with self._database.transaction() as writer:
            events.apply(writer, [events.Event(seq=seq, name=event, data=data) for seq, data in enumerate(told, first)])
            end = self._journal.append_all(event, told, datetime.now(UTC))
            set_position(writer, end)
        self._seen = end
        self._idle.note()

    def _checkpoint_after(self, ratings: int) -> None:
        """So many more were recorded. To be called inside `_writing`."""
        self._since_checkpoint += ratings
        if self._since_checkpoint >= CHECKPOINT_EVERY and self._database.checkpoint():
            self._since_checkpoint = 0

    def _checkpoint_when_idle(self) -> None:
        with contextlib.suppress(StoreError), self._database.writing():  # closed meanwhile, or the disk is full
            if self._database.checkpoint():
                self._since_checkpoint = 0
            else:
                self._idle.note()

    def _check_known(self, what: str, table: str, column: str, ids: set[str]) -> None:
        """In place of foreign keys, which stand in the way of harmless updates."""
        query = f"SELECT {column} FROM {table} WHERE {column} IN (SELECT unnest($1::VARCHAR[]))"
        known = {row[0] for row in self._rows(query, [list(ids)])}
        if missing := sorted(ids - known):
            raise StoreError(
                f"There is no {what} {missing[0]!r} in the store ({len(missing)} unknown in all).",
                hint=f"Add the {table} first.",
            )

    # -- the whole ------------------------------------------------------------------------------------------------

    @property
    def position(self) -> int:
        """Number of the last fact. What was worked out at the same `journal_position` still holds; a deletion brings
        numbers back.
        """
        return self._seen.seq

    @property
    def journal_position(self) -> Position:
        """Up to which line of the journal this store, or the copy of one that it is, holds all facts."""
        return self._seen

    def counts(self) -> dict[str, int]:
        """How many rows each table of facts has."""
        return self._database.counts()

    def differences(self, path: Path) -> list[TableDifference]:
        """Where another store's file, which nobody has open, holds other facts."""
        return self._database.differences(path)

    def copy_to(self, path: Path) -> None:
        """A consistent copy in one new file, made by SQL: opening the live file would drop DuckDB's lock on it.

        Raises:
            StoreError: the path is taken.
        """
        if path.exists():
            raise StoreError(f"{path} is there already.", hint="Choose a name that is not taken.")
        with self._writing():
            self._database.copy_to(path)


def apply_entries(database: Database, entries: Iterable[Entry]) -> None:
    """Bring a database further by lines of the journal. To be called inside `writing`."""
    rest, end = iter(entries), None

    def told(some: Iterable[Entry]) -> Iterator[events.Event]:
        nonlocal end
        for entry in some:
            end = entry.end
            yield events.Event(seq=entry.end.seq, name=entry.event, data=entry.data)

    for first in rest:
        with database.transaction() as writer:
            events.apply(writer, told(chain([first], islice(rest, _ENTRIES_AT_ONCE - 1))))
            assert end is not None
            set_position(writer, end)


def _settle_by_store(path: Path, journal_path: Path) -> None:
    """An erasure that a store committed stays one: the new store has not seen it, and would be made without it. Of a
    store that cannot be read nobody knows, and what is not finished of an erasure is done again (`data.erasing`).
    """
    if rewriting(journal_path).exists():
        with contextlib.suppress(StoreError), contextlib.closing(Database.open_read_only(path)) as database:
            settle_rewriting(journal_path, _position(database))


def _position(database: Database) -> Position:
    query = "SELECT journal_seq, journal_hash, journal_bytes FROM store_state"
    seq, digest, size = database.rows(query)[0]
    return Position(seq=seq, hash=digest, offset=size)


def set_position(connection: events.Connection, position: Position) -> None:
    connection.execute(
        "UPDATE store_state SET journal_seq = ?, journal_hash = ?, journal_bytes = ?",
        [position.seq, position.hash, position.offset],
    )
