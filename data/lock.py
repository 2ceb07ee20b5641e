"""One process owns the store, and the others are told which.

DuckDB's own lock is not enough: it is a POSIX record lock, which the kernel drops as soon as the owning process closes
*any* descriptor of that file (a copy, a hash, a cache), after which a second writer gets in and rows vanish. So the
owner also holds `flock` on a side-car file for its whole life. The kernel releases it however the process dies.
"""

import errno
import fcntl
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from data.workspace import disk_errors
from hitl.core.errors import StoreError

_ATTEMPTS = 6
_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The process that holds a store."""

    pid: int
    command: str


class StoreLock:
    """An exclusive lock on a side-car file, held until `release`. A forked child would share it: spawn instead."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    @classmethod
    def acquire(cls, path: Path) -> "StoreLock":
        """Take the lock, or say who has it.

        A holder that is just leaving is waited for, for a quarter of a second.

        Raises:
            StoreError: another process holds it.
        """
        with disk_errors(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            for attempt in range(_ATTEMPTS):
                if attempt:
                    time.sleep(_PAUSE_S)
                if _try_lock(descriptor, fcntl.LOCK_EX, path):
                    _write_holder(descriptor)
                    return cls(descriptor)
            raise _held(path, _read_holder(descriptor))
        except BaseException:
            os.close(descriptor)
            raise

    def release(self) -> None:
        """Give the lock back. The file stays: deleting it would let two processes lock two files of one name."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None


def holder(path: Path) -> Holder | None:
    """Who holds the lock right now; None when it is free."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return None if _try_lock(descriptor, fcntl.LOCK_SH, path) else _read_holder(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, kind: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in {errno.ENOLCK, errno.ENOTSUP}:
            raise StoreError(
                f"The file system of {path} cannot lock files, so two programs could spoil the store.",
                hint="Put the workspace on a local disk.",
            ) from error
        raise
    return True


def _write_holder(descriptor: int) -> None:
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]) if sys.argv and sys.argv[0] else "python"
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "command": command[:200]}).encode(), 0)


def _read_holder(descriptor: int) -> Holder:
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
        return Holder(pid=int(found["pid"]), command=str(found["command"]))
    except (ValueError, KeyError, TypeError):
        return Holder(pid=0, command="a process that did not say its name")


def _held(path: Path, by: Holder) -> StoreError:
    who = f"process {by.pid} (`{by.command}`)" if by.pid else by.command
    return StoreError(
        f"The store in {path.parent} is held by {who}.",
        hint="Stop it (Ctrl-C in its window"
        + (f", or `kill {by.pid}`" if by.pid else "")
        + "), then try again. Ratings that it has acknowledged are safe.",
    )
