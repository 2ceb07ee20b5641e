"""Work that many threads hand in one by one, and that costs as much for one as for many: a commit with its syncs.

Whoever has the turn does what was handed in until then, for all. While it works others hand in more, so that the busier
it is, the more is done at a time; with nobody else there, each does its own at once.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class _Handed(Generic[Item, Result]):
    item: Item
    outcome: list[Result | Exception] = field(default_factory=list)
    """One, once it is known."""


class Together(Generic[Item, Result]):
    """Made of a function that gives for each of some items a result, or the reason why there is none."""

    def __init__(self, work: Callable[[Sequence[Item]], Sequence[Result | Exception]], *, most: int = 100) -> None:
        """`most` is how many items are worked on at a time."""
        self._work = work
        self._most = most
        self._waiting: list[_Handed[Item, Result]] = []
        self._waiting_lock = threading.Lock()
        self._turn = threading.Lock()

    def do(self, item: Item) -> Result:
        """Have the item worked on, by this thread or another; its result when that is done.

        Raises:
            Exception: what the work gave in place of a result, or what went wrong.
        """
        handed: _Handed[Item, Result] = _Handed(item)
        with self._waiting_lock:
            self._waiting.append(handed)
        with self._turn:
            while not handed.outcome:
                with self._waiting_lock:
                    batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                self._do_all(batch)
        (outcome,) = handed.outcome
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _do_all(self, batch: list[_Handed[Item, Result]]) -> None:
        try:
            outcomes = self._work([handed.item for handed in batch])
            for handed, outcome in zip(batch, outcomes, strict=True):
                handed.outcome.append(outcome)
        except Exception as error:
            if len(batch) == 1:
                batch[0].outcome.append(error)
                return
            for handed in batch:  # one that cannot be done does not take the others along
                self._do_all([handed])
        except BaseException:  # Ctrl-C: nobody is to wait for what will not come
            for handed in batch:
                handed.outcome.append(InterruptedError("Interrupted while others' work was done."))
            raise
