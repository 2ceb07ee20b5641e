"""Do something once when nothing has happened for a while."""

import threading
import time
from collections.abc import Callable


class IdleTimer:
    """Calls what `action` gives, once, `after_s` seconds after the last `note`; its thread keeps no process alive.

    The thread begins with the first note: what is only read needs none. `action` is a weak reference, or anything else
    that gives what is to be called, so that the thread does not keep alive an owner that everybody else forgot.
    """

    def __init__(self, after_s: float, action: Callable[[], Callable[[], object] | None]) -> None:
        self._after_s = after_s
        self._action = action
        self._changed = threading.Condition()
        self._due: float | None = None
        self._is_stopped = False
        self._thread: threading.Thread | None = None

    def note(self) -> None:
        """Something happened: wait again."""
        with self._changed:
            is_waiting, self._due = self._due is not None, time.monotonic() + self._after_s
            if self._thread is None and not self._is_stopped:
                self._thread = threading.Thread(target=self._run, name="idle-timer", daemon=True)
                self._thread.start()
            if not is_waiting:
                self._changed.notify()

    def stop(self) -> None:
        """No call begins after this returns. One under way is not waited for: whoever stops may hold what it needs."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify()

    def _run(self) -> None:
        while self._wait_until_due():
            if (action := self._action()) is None:
                return
            action()
            del action  # or the thread would keep its owner while it waits

    def _wait_until_due(self) -> bool:
        """False when there is nothing more to wait for."""
        with self._changed:
            while not self._is_stopped:
                left = None if self._due is None else self._due - time.monotonic()
                if left is not None and left <= 0:
                    self._due = None
                    return True
                self._changed.wait(left)
            return False
