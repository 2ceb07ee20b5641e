"""Whoever works with the files of rounds and fits says so, and nobody changes these under them.

A stage reads its snapshot and writes what it learned from that; an erasure takes a person out of both. Between the two
either could bring back what the other took. So those that work hold a lock together, in any number, and an erasure
holds it alone. The kernel releases it however a process dies.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator

from data.workspace import Workspace, disk_errors


class Files:
    """The files of one workspace, as one thread uses them."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._descriptor: int | None = None

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, no erasure changes a file. Waits for one that is at it."""
        self._descriptor = _lock(self._workspace, fcntl.LOCK_SH)
        try:
            yield
        finally:
            self._leave()

    @contextlib.contextmanager
    def left(self) -> Iterator[None]:
        """Inside `in_use`: let erasures have them meanwhile. Outside of it this does nothing."""
        was_in_use = self._descriptor is not None
        self._leave()
        try:
            yield
        finally:
            if was_in_use:
                self._descriptor = _lock(self._workspace, fcntl.LOCK_SH)

    def _leave(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@contextlib.contextmanager
def files_alone(workspace: Workspace, *, wait: bool) -> Iterator[bool]:
    """Have the files for oneself; False when others use them and it is not waited for them."""
    try:
        descriptor = _lock(workspace, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        os.close(descriptor)


def _lock(workspace: Workspace, kind: int) -> int:
    path = workspace.files_lock_path
    with disk_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, kind)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
