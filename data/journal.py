"""An append-only log of every fact, independent of the database, from which the database can be made again.

One JSON object per line: `{"at", "data", "event", "hash", "prev", "seq"}`. `hash` is the sha256 of the line's
canonical JSON without `hash`; `prev` is the hash of the line before, so that no line can be changed, lost or put in
without notice. A line counts once it is on the disk with its newline.

To forget a person (`data.erasure`) the log is written again, as a whole and into a second file. Which of the two counts
the store decides: it commits the end of the new one, and only then does the new one take the old one's name.
"""

import hashlib
import itertools
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from data.workspace import disk_errors, fsync_dir
from hitl.core.errors import ConfigError, StoreError

logger = logging.getLogger(__name__)

_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A point between two lines: what has been read up to here."""

    seq: int
    """Number of the last line; the first line is 1."""
    hash: str
    offset: int
    """Bytes up to and including the last line's newline."""


START = Position(seq=0, hash="0" * 64, offset=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line, read and checked."""

    event: str
    data: dict[str, Any]
    at: datetime
    end: Position


def canonical_json(value: object) -> bytes:
    """The one way in which we spell a JSON value.

    Raises:
        ConfigError: not a JSON value: NaN, an object of ours, half a Unicode character.
    """
    try:
        return _CANONICAL.encode(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"A value cannot be stored as JSON: {error}.", hint="Send text, finite numbers, lists and objects only."
        ) from error


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


class Journal:
    """The open log. One writer: whoever holds the store's lock."""

    def __init__(self, path: Path, descriptor: int, end: Position) -> None:
        self._path = path
        self._descriptor = descriptor
        self._end = end

    @classmethod
    def open(cls, path: Path, *, after: Position = START) -> "Journal":
        """Open or create the log, check every line after `after`, and cut a line that a crash left half written.

        Raises:
            StoreError: a line does not fit the one before it, or the log ends before `after`.
        """
        is_new = not path.exists()
        settle_rewriting(path, after)
        with disk_errors(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.fchmod(descriptor, 0o600)  # it holds names and hashes of passwords; it was open to all once
            if is_new:
                fsync_dir(path.parent)
            _cut_torn_line(path, descriptor)
            _check_contains(path, descriptor, after)
            end = after
            with path.open("rb") as file:
                for line in _lines(file, after):
                    end = _check(path, line, end)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor, end)

    @property
    def end(self) -> Position:
        """After the last line."""
        return self._end

    def read(self, after: Position) -> Iterator[Entry]:
        """The lines after `after`, oldest first. They were checked when the log was opened, or are ours."""
        with self._path.open("rb") as file:
            for line in _lines(file, after):
                entry = _parse(line, after)
                after = entry.end
                yield entry

    def append(self, event: str, data: dict[str, Any], at: datetime) -> Position:
        """Write one line; it is on the disk when this returns. When it fails, nothing of it is left.

        Raises:
            WorkspaceError: the disk is full.
        """
        return self.append_all(event, [data], at)

    def append_all(self, event: str, facts: Sequence[dict[str, Any]], at: datetime) -> Position:
        """Write a line for each fact; all are on the disk when this returns. When it fails, nothing of them is left.

        Raises:
            WorkspaceError: the disk is full.
        """
        lines, end = b"", self._end
        for data in facts:
            one, end = _line(end, event, data, at)
            lines += one
        with disk_errors(self._path):
            try:
                os.ftruncate(self._descriptor, self._end.offset)  # In case clearing up after a failure failed too.
                written = 0
                while written < len(lines):
                    written += os.pwrite(self._descriptor, lines[written:], self._end.offset + written)
                os.fsync(self._descriptor)
            except BaseException:
                os.ftruncate(self._descriptor, self._end.offset)
                raise
        self._end = end
        return self._end

    def write_again(
        self,
        change: Callable[[str, dict[str, Any]], dict[str, Any] | None],
        event: str,
        last: Callable[[Sequence[int]], dict[str, Any]],
        at: datetime,
    ) -> tuple[Position, list[int]]:
        """All lines with their data changed, and one more, in a second file.

        Args:
            change: the data of a line as it is to be, given its event and data; None leaves the line out.
            last: the data of the line more, given the numbers of those that were left out.

        Returns:
            The end of the second file, for `adopt` once that is kept; and the numbers of the lines that were left out.

        Raises:
            StoreError: a line was changed, lost or put in: the new chain would hide it.
            WorkspaceError: the disk is full.
        """
        end, left_out = START, []
        with disk_errors(self._path), self._path.open("rb") as old, open(rewriting(self._path), "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            for entry in entries_up_to(old, self._path, self._end):
                if (changed := change(entry.event, entry.data)) is None:
                    left_out.append(entry.end.seq)
                    continue
                line, end = _line(end, entry.event, changed, entry.at)
                file.write(line)
            line, end = _line(end, event, last(left_out), at)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        return end, left_out

    def adopt(self, end: Position) -> None:
        """The second file takes the first one's place."""
        with disk_errors(self._path):
            os.replace(rewriting(self._path), self._path)
            fsync_dir(self._path.parent)
            fresh = os.open(self._path, os.O_RDWR)
        os.close(self._descriptor)
        self._descriptor, self._end = fresh, end

    def close(self) -> None:
        os.close(self._descriptor)


def read_entries(path: Path, *, after: Position = START) -> Iterator[Entry]:
    """The lines after `after`, each checked against the one before. A last line without newline is not there yet.

    Raises:
        StoreError: a line was changed, lost or put in.
    """
    with path.open("rb") as file:
        yield from _entries(file, path, after)


def entries_up_to(file: BinaryIO, path: Path, until: Position) -> Iterator[Entry]:
    """The lines of an open log up to `until` and not beyond, each checked against the one before.

    Raises:
        StoreError: a line was changed, lost or put in, or `until` is not in this log.
    """
    last = START
    entries = _entries(file, path, START)
    while last.seq < until.seq:
        entry = next(entries, None)
        if entry is None:
            break
        last = entry.end
        yield entry
    if last != until:
        raise _of_different_ages(path, until, last.offset)


def last_seq(path: Path) -> int:
    """Number of the last whole line; 0 where there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return 0
    try:
        end = _end_of_last_line(descriptor, os.fstat(descriptor).st_size)
        start = _end_of_last_line(descriptor, max(0, end - 1))
        return int(json.loads(os.pread(descriptor, end - start, start))["seq"])
    except (ValueError, KeyError, TypeError):
        return 0
    finally:
        os.close(descriptor)


def _entries(file: BinaryIO, path: Path, after: Position) -> Iterator[Entry]:
    last = after
    for line in _lines(file, after):
        end = _check(path, line, last)
        yield _parse(line, last)
        last = end


def _lines(file: BinaryIO, after: Position) -> Iterator[bytes]:
    """The whole ones."""
    file.seek(after.offset)
    return itertools.takewhile(lambda line: line.endswith(b"\n"), file)


def _line(before: Position, event: str, data: Any, at: datetime) -> tuple[bytes, Position]:
    """The line that follows `before`, and the position after it."""
    body = canonical_json(
        {"seq": before.seq + 1, "at": at.isoformat(), "event": event, "data": data, "prev": before.hash}
    )
    digest = hashlib.sha256(body).hexdigest()
    place = body.rindex(b',"prev":')  # where `hash` comes among the sorted keys; after it are a hash and a number alone
    line = b"".join((body[:place], b',"hash":"', digest.encode(), b'"', body[place:], b"\n"))
    return line, Position(seq=before.seq + 1, hash=digest, offset=before.offset + len(line))


def rewriting(path: Path) -> Path:
    """The second file."""
    return path.with_name(f"{path.name}.again")


def settle_rewriting(path: Path, after: Position) -> None:
    """After a crash: the second file is the log when the store has seen its end; else nobody was told of it."""
    again = rewriting(path)
    if not again.exists():
        return
    size = again.stat().st_size
    with again.open("rb") as file:
        file.seek(max(0, size - _CHUNK))
        tail = file.read()
    with disk_errors(path):
        if after.seq and size == after.offset and f'"hash":"{after.hash}"'.encode() in tail:
            logger.warning("Finishing the erasure of a rater that was interrupted: %s replaces %s.", again, path)
            os.replace(again, path)
        else:
            again.unlink()
        fsync_dir(path.parent)


def _parse(line: bytes, last: Position) -> Entry:
    """A line that was checked."""
    found = json.loads(line)
    end = Position(seq=found["seq"], hash=found["hash"], offset=last.offset + len(line))
    return Entry(event=found["event"], data=found["data"], at=datetime.fromisoformat(found["at"]), end=end)


def _check(path: Path, line: bytes, last: Position) -> Position:
    """The position after a line, if it is one of ours and follows the one before. Its bytes are checked as they are:
    spelling its JSON again would take longer than all else.
    """
    found = _LINKS.search(line, max(0, len(line) - _LINKS_AT_MOST))
    if found is not None:
        digest, before, seq = found.groups()
        spelled = line[: found.start()] + line[found.end(1) + 1 : -1]
        if (
            int(seq) == last.seq + 1
            and before.decode() == last.hash
            and hashlib.sha256(spelled).hexdigest() == digest.decode()
        ):
            return Position(seq=last.seq + 1, hash=digest.decode(), offset=last.offset + len(line))
    raise StoreError(
        f"The journal {path} was changed or damaged: line {last.seq + 1} does not follow from line {last.seq}.",
        hint="Put back a copy of journal.jsonl from a backup. The store itself was not touched.",
    )


_LINKS = re.compile(rb',"hash":"([0-9a-f]{64})","prev":"([0-9a-f]{64})","seq":([0-9]+)}\n$')
"""How a line ends: keys are sorted, so `data` comes before, and whatever is in it."""
_LINKS_AT_MOST = 200
"""Bytes of a line's end that hold its links."""


def _cut_torn_line(path: Path, descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    whole = _end_of_last_line(descriptor, size)
    if whole < size:
        logger.warning(
            "%s: the last line was half written when the program stopped; cut its %d bytes. It was never acknowledged.",
            path,
            size - whole,
        )
        os.ftruncate(descriptor, whole)
        os.fsync(descriptor)


def _end_of_last_line(descriptor: int, size: int) -> int:
    """Bytes up to and including the last newline before `size`."""
    end = size
    while end > 0:
        start = max(0, end - _CHUNK)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _check_contains(path: Path, descriptor: int, after: Position) -> None:
    """The line that ends at `after` must be the one the store has seen last."""
    if after.seq == 0:
        return
    size = os.fstat(descriptor).st_size
    if size >= after.offset:
        start = _end_of_last_line(descriptor, after.offset - 1)
        line = os.pread(descriptor, after.offset - start, start)
        if line.endswith(b"\n") and f'"hash":"{after.hash}"'.encode() in line:
            return
    raise _of_different_ages(path, after, size)


def _of_different_ages(path: Path, after: Position, size: int) -> StoreError:
    return StoreError(
        f"The journal {path} does not hold what the store has seen: {after.seq} events, {after.offset} bytes"
        f" (the file has {size}). Store and journal are of different ages.",
        hint="Put back store.duckdb and journal.jsonl from the same backup; or move store.duckdb away,"
        " and it is made again from the journal.",
    )
