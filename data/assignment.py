"""Who rates what next: leases, so that no two raters get one task beyond its overlap, and how far a round is.

All in memory and without SQL, because every key press asks. Answers come from the store; leases are no facts: when the
process ends they are gone, and the worst that follows is one rating more than was asked for.

A skipped task counts as seen by that rater and leaves its slot to the others.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise

from data.records import Progress, Task

ACTIVE_S = 600
"""A rater who gave no answer for so long, and holds no lease, is not waited for to fill a skipped slot."""
PACE_OVER = 20
"""Ratings that the pace is worked out from."""
_LONGEST_PAUSE_S = 120


def displayed_order(task: Task, rater_id: str) -> tuple[str, ...]:
    """The images of a task as this rater sees them: random, and the same whenever it is asked for."""
    salt = f"{task.task_id}{rater_id}"
    return tuple(sorted(task.image_ids, key=lambda image_id: hashlib.sha256(f"{salt}{image_id}".encode()).digest()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A rating that stands, as far as assignment needs to know it."""

    is_skip: bool
    at: datetime


class Leases:
    """Who is looking at which task, until when."""

    def __init__(self) -> None:
        self._until: dict[str, dict[str, datetime]] = {}

    def holders(self, task_id: str, now: datetime) -> set[str]:
        held = self._until.get(task_id)
        return {rater_id for rater_id, until in held.items() if until > now} if held else set()

    def all_holders(self, now: datetime) -> set[str]:
        return {rater_id for held in self._until.values() for rater_id, until in held.items() if until > now}

    def hold(self, task_id: str, rater_id: str, until: datetime) -> None:
        self._until.setdefault(task_id, {})[rater_id] = until

    def drop(self, task_id: str, rater_id: str) -> None:
        held = self._until.get(task_id, {})
        held.pop(rater_id, None)
        if not held:
            self._until.pop(task_id, None)


@dataclass(slots=True, kw_only=True)
class RoundQueue:
    """The tasks of one round in order, with the answers that stand."""

    round: int
    tasks: Sequence[Task]
    answers: dict[str, dict[str, Answer]] = field(default_factory=dict)
    """By task and rater."""

    def note(self, task_id: str, rater_id: str, answer: Answer | None) -> None:
        """An answer was given, or (None) taken back."""
        given = self.answers.setdefault(task_id, {})
        if answer is None:
            given.pop(rater_id, None)
        else:
            given[rater_id] = answer

    def open_to(self, rater_id: str, leases: Leases, *, limit: int, now: datetime) -> list[Task]:
        """Up to `limit` tasks: those that this rater holds first, then free ones, each in the round's order."""
        held: list[Task] = []
        free: list[Task] = []
        for task in self.tasks:
            given = self.answers.get(task.task_id) or {}
            answered = len(given) - _skips(given)
            if rater_id in given or answered >= task.overlap:
                continue
            holders = leases.holders(task.task_id, now)
            if rater_id in holders:
                held.append(task)
            elif len(free) < limit and answered + len(holders - given.keys()) < task.overlap:
                free.append(task)
        return [*held, *free][:limit]

    def answered_by(self, rater_id: str) -> int:
        """How many tasks this rater answered, skips not counted."""
        return sum(rater_id in given and not given[rater_id].is_skip for given in self.answers.values())

    def progress(self, leases: Leases, *, now: datetime) -> Progress:
        """How many slots are filled, needed and given up, and how fast it goes."""
        active = self._active(leases, now)
        done = slots = skipped = 0
        for task in self.tasks:
            given = self.answers.get(task.task_id) or {}
            skips = _skips(given)
            answered = len(given) - skips
            slots += task.overlap
            done += min(answered, task.overlap)
            if skips:
                could_still = len(active - given.keys())
                skipped += min(skips, max(0, task.overlap - answered - could_still))
        times = sorted(answer.at for given in self.answers.values() for answer in given.values())
        return Progress(
            done=done,
            needed=slots - skipped,
            skipped=skipped,
            last_rating_at=times[-1] if times else None,
            per_minute=_pace(times[-PACE_OVER:]),
        )

    def _active(self, leases: Leases, now: datetime) -> set[str]:
        since = now - timedelta(seconds=ACTIVE_S)
        answering = {
            rater_id for given in self.answers.values() for rater_id, answer in given.items() if answer.at > since
        }
        return answering | leases.all_holders(now)


def _skips(given: dict[str, Answer]) -> int:
    return sum(answer.is_skip for answer in given.values()) if given else 0


def _pace(times: Iterable[datetime]) -> float:
    """Ratings per minute; a long pause counts as a short one, or the night would be in tomorrow's forecast."""
    gaps = [min((after - before).total_seconds(), _LONGEST_PAUSE_S) for before, after in pairwise(times)]
    return 60 * len(gaps) / sum(gaps) if sum(gaps) > 0 else 0.0
