"""One DuckDB file: opened with a pinned format, migrated, read by many threads and written by one at a time.

The only module that imports duckdb. It knows of tables, not of facts: those are `data.fact_log`'s.
"""

import contextlib
import errno
import logging
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from data.migrations import LATEST, MIGRATIONS
from hitl.core.errors import DiskFull, StoreError

logger = logging.getLogger(__name__)

STORAGE_VERSION = "v1.4.0"
"""File format that DuckDB 1.4 LTS to 2.x can read; a file of 2.0's own format is refused by 1.x."""
_THREADS = 1
"""Our questions are small: handing part of one to another thread takes longer than answering it, more so while training
keeps all cores busy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableDifference:
    """How many rows of a table only one of two files holds, and the first of them by what their first column says."""

    table: str
    here: int
    there: int
    first_here: str
    first_there: str


class Database:
    """An open file. Made by `open` or `open_read_only`."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, path: Path) -> None:
        self._connection = connection
        self._log = write_ahead_log(path)
        self._writer = connection.cursor()
        self._writer_lock = threading.RLock()
        self._local = threading.local()
        self._cursors: weakref.WeakSet[duckdb.DuckDBPyConnection] = weakref.WeakSet()
        self._cursors_lock = threading.Lock()
        self._is_closed = False

    @classmethod
    def open(cls, path: Path) -> "Database":
        """Open or create the file and bring its schema up to date.

        Raises:
            StoreError: another program has it open, it is damaged, or it is of a newer version.
        """
        connection = _connect(path)
        try:
            path.chmod(0o600)  # it holds names and hashes of passwords
            _migrate(connection)
            if connection.execute("SELECT has_erased FROM store_state").fetchall()[0][0]:
                connection = _drop_old_bytes(connection, path)
            return cls(connection, path)
        except BaseException:
            connection.close()
            raise

    @classmethod
    def open_read_only(cls, path: Path) -> "Database":
        """Open a copy that nobody writes to.

        Raises:
            StoreError: it is missing or of another version.
        """
        try:
            connection = duckdb.connect(str(path), read_only=True)
        except duckdb.Error as error:
            raise _unreadable(path, error) from error
        try:
            try:
                version = _schema_version(connection)
            except duckdb.Error as error:
                raise _unreadable(path, error) from error
            if version != LATEST:
                raise StoreError(
                    f"{path} has schema version {version}; this version of hitl reads {LATEST}.",
                    hint="Use the version of hitl that made the copy.",
                )
            return cls(connection, path)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Close the file. A cursor that was left open would keep it open. Closing twice is harmless."""
        with self._writer_lock, self._cursors_lock:
            self._is_closed = True
            for cursor in [*self._cursors, self._writer, self._connection]:
                cursor.close()

    @contextlib.contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """This thread's own cursor: a connection that threads share gives one the rows of another."""
        cursor = getattr(self._local, "cursor", None)
        if cursor is None:
            with self._cursors_lock:
                self._check_open()
                cursor = self._connection.cursor()
                self._cursors.add(cursor)
            self._local.cursor = cursor
        with self._reading_errors():
            yield cursor

    @contextlib.contextmanager
    def _reading_errors(self) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            self._check_open()
            raise StoreError(
                f"The store could not be read: {_reason(error)}.",
                hint="Look at the disk's free space, then start again.",
            ) from error
        except RuntimeError as error:
            _let_ctrl_c_be(error)
            raise

    def rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Answer one question as of the last commit."""
        with self.reading() as cursor:
            return cursor.execute(query, list(values)).fetchall()

    def batches(self, query: str, size: int = 10_000) -> Iterator[pa.RecordBatch]:
        """Answer one question in record batches, at least one, each worked out when it is asked for.

        Values are part of the query's text: DuckDB keeps the whole answer to a prepared one.
        """
        with self._cursors_lock:
            self._check_open()
            cursor = self._connection.cursor()  # of its own: the thread's may be asked other questions meanwhile
            self._cursors.add(cursor)
        try:
            with self._reading_errors():
                relation = cursor.sql(query)
                # Before DuckDB 1.5 it has the other name.
                reader = (getattr(relation, "to_arrow_reader", None) or relation.fetch_arrow_reader)(size)
                batch = None
                for batch in reader:
                    yield batch
                if batch is None:
                    yield pa.RecordBatch.from_pylist([], schema=reader.schema)
        finally:
            cursor.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """One writer at a time: what is looked up inside still holds when it is written."""
        with self._writer_lock:
            self._check_open()
            try:
                yield
            except duckdb.Error as error:
                reason = _reason(error)
                kind = DiskFull if os.strerror(errno.ENOSPC) in reason else StoreError
                raise kind(
                    f"The store could not be written: {reason}.",
                    hint="Free some space on the disk, then start again: what was acknowledged is safe.",
                ) from error
            except RuntimeError as error:
                _let_ctrl_c_be(error)
                raise

    @contextlib.contextmanager
    def transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """What is done with the cursor given is committed together, or not at all. To be used inside `writing`."""
        self._writer.execute("BEGIN")
        try:
            yield self._writer
            self._writer.execute("COMMIT")
            with contextlib.suppress(OSError):  # It is committed, whatever comes of this.
                self._log.chmod(0o600)  # DuckDB makes it anew after each checkpoint
        except BaseException:
            with contextlib.suppress(duckdb.Error):
                self._writer.execute("ROLLBACK")
            raise

    def checkpoint(self) -> bool:
        """Fold the write-ahead log into the file; False when DuckDB is busy, which nothing depends on."""
        try:
            self._writer.execute("CHECKPOINT")
        except duckdb.Error as error:
            logger.info("Checkpoint postponed: %s", error)
            return False
        return True

    def copy_to(self, path: Path) -> None:
        """A consistent copy by SQL: reading the live file's bytes would drop DuckDB's lock on it."""
        _copy(self._writer, path)

    def differences(self, path: Path) -> list[TableDifference]:
        """Where another file of this schema that nobody has open holds other rows. How far each has come is no row."""
        found = []
        with self.reading() as cursor:
            here = cursor.execute("SELECT current_database()").fetchall()[0][0]
            cursor.execute(f"ATTACH {_quoted(path)} AS other_store (READ_ONLY)")
            try:
                for (table,) in cursor.execute(_TABLES_OF_FACTS).fetchall():
                    ours, theirs = f'"{here}".main."{table}"', f'other_store.main."{table}"'
                    only_here, first_here = _rows_of_one_alone(cursor, ours, theirs)
                    only_there, first_there = _rows_of_one_alone(cursor, theirs, ours)
                    if only_here or only_there:
                        found.append(
                            TableDifference(
                                table=table,
                                here=only_here,
                                there=only_there,
                                first_here=first_here,
                                first_there=first_there,
                            )
                        )
            finally:
                cursor.execute("DETACH other_store")
        return found

    def counts(self) -> dict[str, int]:
        """How many rows each table of facts has."""
        with self.reading() as cursor:
            tables = [table for (table,) in cursor.execute(_TABLES_OF_FACTS).fetchall()]
            return {table: cursor.execute(f'SELECT count(*) FROM "{table}"').fetchall()[0][0] for table in tables}

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreError("The store is closed.", hint="Open it again.")


_TABLES_OF_FACTS = """
    SELECT table_name FROM duckdb_tables()
    WHERE database_name = current_database() AND NOT internal AND table_name <> 'store_state' ORDER BY table_name
"""


def _rows_of_one_alone(cursor: duckdb.DuckDBPyConnection, one: str, other: str) -> tuple[int, str]:
    """How many rows of one table are not in the other, all columns counted; and the least of their first column."""
    key = cursor.execute(f"SELECT * FROM {one} LIMIT 0").description[0][0]
    query = f'SELECT count(*), min("{key}")::VARCHAR FROM (FROM {one} EXCEPT ALL FROM {other})'
    count, first = cursor.execute(query).fetchall()[0]
    return count, first or ""


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def write_ahead_log(path: Path) -> Path:
    """The file beside a database that holds the commits since its last checkpoint."""
    return path.with_name(f"{path.name}.wal")


def _connect(path: Path) -> duckdb.DuckDBPyConnection:
    """Open the file; a write-ahead log that cannot be replayed is set aside, for the journal has all that was in it."""
    config: dict[str, Any] = {"storage_compatibility_version": STORAGE_VERSION, "threads": _THREADS}
    try:
        try:
            return duckdb.connect(str(path), config=config)
        except duckdb.Error as error:
            log = write_ahead_log(path)
            if "replaying WAL" not in str(error) or not log.exists():
                raise
            aside = log.with_name(f"{log.name}.damaged")
            os.replace(log, aside)
            logger.warning("The write-ahead log was damaged. Set aside as %s; the journal fills the gap.", aside)
            return duckdb.connect(str(path), config=config)
    except duckdb.Error as error:
        reason = _reason(error)
        if "set lock" in reason:
            hint = "Another program has the file open (a DuckDB shell?): close it there, then try again."
        else:
            hint = f"Move {path.name} and {path.name}.wal away and try again: the store is made anew from the journal."
        raise StoreError(f"{path} cannot be opened: {reason}.", hint=hint) from error


def _copy(connection: duckdb.DuckDBPyConnection, path: Path, *further: str) -> None:
    """Copy all to a new file, there do what the further statements say, and let go of it."""
    source = connection.execute("SELECT current_database()").fetchall()[0][0]
    connection.execute(f"ATTACH {_quoted(path)} AS store_copy (STORAGE_VERSION '{STORAGE_VERSION}')")
    try:
        connection.execute(f'COPY FROM DATABASE "{source}" TO store_copy')
        for statement in further:
            connection.execute(statement)
    except BaseException:
        connection.execute("DETACH store_copy")
        for partial in (path, write_ahead_log(path)):
            partial.unlink(missing_ok=True)
        raise
    connection.execute("DETACH store_copy")


def _drop_old_bytes(connection: duckdb.DuckDBPyConnection, path: Path) -> duckdb.DuckDBPyConnection:
    """Put a fresh copy in the file's place and open that: what was erased still lies in blocks that are free by now."""
    fresh = path.with_name(f"{path.name}.new")
    for leftover in (fresh, write_ahead_log(fresh)):
        leftover.unlink(missing_ok=True)
    try:
        _copy(connection, fresh, "UPDATE store_copy.store_state SET has_erased = FALSE")
        connection.execute("CHECKPOINT")  # beside a new file, an old log would be replayed into it
    except duckdb.Error as error:
        logger.warning("Erased names are still in free parts of %s; the next start tries again: %s", path, error)
        return connection
    fresh.chmod(0o600)
    connection.close()
    write_ahead_log(path).unlink(missing_ok=True)
    os.replace(fresh, path)
    return _connect(path)


def _let_ctrl_c_be(error: RuntimeError) -> None:
    """DuckDB turns the signal that meets it in a query into an error of its own."""
    if str(error) == "Query interrupted":
        raise KeyboardInterrupt from error


def _unreadable(path: Path, error: duckdb.Error) -> StoreError:
    return StoreError(f"{path} cannot be read: {_reason(error)}.", hint="Make a new copy of the store.")


def _reason(error: duckdb.Error) -> str:
    return str(error).split("See also")[0].strip().rstrip(".")


def _schema_version(connection: duckdb.DuckDBPyConnection) -> int:
    found = connection.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'store_state'").fetchall()
    if not found[0][0]:
        return 0
    return connection.execute("SELECT schema_version FROM store_state").fetchall()[0][0]


def _migrate(connection: duckdb.DuckDBPyConnection) -> None:
    version = _schema_version(connection)
    if version > LATEST:
        raise StoreError(
            f"The store has schema version {version}; this version of hitl knows versions up to {LATEST}.",
            hint="The workspace was used with a newer version of hitl: upgrade, then try again.",
        )
    for number, statements in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.execute("BEGIN")
        for statement in statements:
            connection.execute(statement)
        connection.execute("UPDATE store_state SET schema_version = ?", [number])
        connection.execute("COMMIT")
