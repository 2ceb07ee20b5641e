"""What the machine is doing right now: written by the round loop, read by the rating app and the progress bars."""

import threading
import time
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveStatus:
    round: int = 0
    """Number of the current round; 0 before the first."""
    rounds: int = 0
    """Number of the last round of this run."""
    stage: str = "idle"
    """`idle`, `draw`, `rate`, `fit`, `train`, `evaluate`, `report` or `finished`."""
    message: str = "Starting"
    done: int = 0
    total: int = 0
    stage_started: float = 0.0
    """Unix time."""

    @property
    def eta_s(self) -> float | None:
        """Seconds left in this stage at the pace so far; None while there is no pace."""
        if not self.done or not self.total:
            return None
        return (time.time() - self.stage_started) / self.done * (self.total - self.done)


class Live:
    """The latest status. One thread sets it, any thread reads it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._status = LiveStatus(stage_started=time.time())

    def view(self) -> LiveStatus:
        with self._lock:
            return self._status

    def enter(
        self, stage: str, message: str, *, round: int | None = None, rounds: int | None = None, total: int = 0
    ) -> None:
        """A new stage begins."""
        with self._lock:
            self._status = replace(
                self._status,
                stage=stage,
                message=message,
                round=self._status.round if round is None else round,
                rounds=self._status.rounds if rounds is None else rounds,
                done=0,
                total=total,
                stage_started=time.time(),
            )

    def advance(self, done: int, total: int | None = None) -> None:
        with self._lock:
            self._status = replace(self._status, done=done, total=self._status.total if total is None else total)
