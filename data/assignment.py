"""Who rates what next: leases, so that no two raters get one task beyond its overlap, and how far a round is.

All in memory and without SQL, because every key press asks. Answers come from the store; leases are no facts: when the
process ends they are gone, and the worst that follows is one rating more than was asked for.

A skipped task counts as seen by that rater and leaves its slot to the others.

Checks of the raters (repeats and gold) and judgements of the models come between the tasks of the round: never after a
rater's last one, so that a round ends with its last task, and what becomes of the round depends on none of them. Tasks
of a study come when a rater has nothing else to rate.
"""

import hashlib
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice, pairwise

from data.records import Progress, Task

ACTIVE_S = 600
"""A rater who gave no answer for so long, and holds no lease, is not waited for to fill a skipped slot."""
PACE_OVER = 20
"""Ratings that the pace is worked out from."""
REPEAT_AFTER = 10
"""Screens between a task and its repeat, at least: enough to have forgotten the answer, if not the images."""
_LONGEST_PAUSE_S = 120
_SLACK = timedelta(seconds=60)
"""So far ahead is not yet the future: threads that ask at once get their turns in another order than their times."""


def displayed_order(task: Task, rater_id: str) -> tuple[str, ...]:
    """The images of a task as this rater sees them: random, and the same whenever it is asked for."""
    salt = f"{task.task_id}{rater_id}"
    return tuple(sorted(task.image_ids, key=lambda image_id: hashlib.sha256(f"{salt}{image_id}".encode()).digest()))


def other_order(displayed: Sequence[str]) -> tuple[str, ...]:
    """Every image where it was not before, and as many pairs as can be the other way round. A single image stays."""
    back = [*reversed(displayed)]
    if len(back) % 2 and len(back) > 1:  # the one in the middle would stay: it changes places with the next
        middle = len(back) // 2
        back[middle], back[middle + 1] = back[middle + 1], back[middle]
    return tuple(back)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A rating that stands, as far as assignment needs to know it."""

    is_skip: bool
    at: datetime
    displayed: tuple[str, ...]
    """The images in the order in which the rater saw them."""


class Leases:
    """Who is looking at which task, from when until when. A lease from the future is none: the clock was set back.

    Else whoever left would keep their tasks from the others for as long as it was set back by.
    """

    def __init__(self) -> None:
        self._held: dict[str, dict[str, tuple[datetime, datetime]]] = {}
        self._tasks_of: dict[str, set[str]] = {}
        """By rater: the tasks for which there is a lease, in time or not."""

    def holders(self, task_id: str, now: datetime) -> set[str]:
        held = self._held.get(task_id)
        return (
            {rater_id for rater_id, (since, until) in held.items() if since <= now + _SLACK and now < until}
            if held
            else set()
        )

    def held_by(self, rater_id: str, now: datetime) -> set[str]:
        """The ids of the tasks that this rater holds."""
        return {task_id for task_id in self._tasks_of.get(rater_id, ()) if rater_id in self.holders(task_id, now)}

    def all_holders(self, now: datetime) -> set[str]:
        return {rater_id for rater_id in self._tasks_of if self.held_by(rater_id, now)}

    def hold(self, task_id: str, rater_id: str, now: datetime, lease_s: float) -> None:
        self._held.setdefault(task_id, {})[rater_id] = (now, now + timedelta(seconds=lease_s))
        self._tasks_of.setdefault(rater_id, set()).add(task_id)

    def drop(self, task_id: str, rater_id: str) -> None:
        held = self._held.get(task_id, {})
        held.pop(rater_id, None)
        if not held:
            self._held.pop(task_id, None)
        self._tasks_of.get(rater_id, set()).discard(task_id)

    def drop_all(self, rater_id: str) -> None:
        """Of a rater who is not there any more."""
        for task_id in list(self._tasks_of.get(rater_id, ())):
            self.drop(task_id, rater_id)


@dataclass(slots=True, kw_only=True)
class RoundQueue:
    """The tasks of one round in order, and those of the studies, with the answers that stand."""

    round: int
    tasks: Sequence[Task]
    answers: dict[str, dict[str, Answer]] = field(default_factory=dict)
    """By task and rater."""
    rated: set[tuple[str, str]] = field(default_factory=set)
    """Task and rater of all that was ever answered, whether it stands or was taken back."""
    withdrawn: Set[str] = frozenset()
    """Tasks that show a lost image: nobody is asked, and the round waits for no more answers than there are."""
    _counted: list[Task] = field(init=False)
    """Tasks whose answers the round waits for: those that it learns from."""
    _asked: list[Task] = field(init=False)
    """Tasks that so many raters are asked about as their overlap says: the counted ones and the judgements."""
    _place: dict[str, int] = field(init=False)
    """Of the asked tasks in order, by their ids."""
    _checks: dict[str, Task] = field(init=False)
    _gold: dict[str, Task] = field(init=False)
    """Of the checks, by their ids."""
    _answered: dict[str, list[str]] = field(init=False, default_factory=dict)
    """By rater: the tasks that they answered or skipped, in the order in which they did."""
    # What follows is counted as answers come, for every page asks for it all the time.
    _open: dict[str, Task] = field(init=False)
    """Asked tasks that want more answers, in order."""
    _slots: int = field(init=False, default=0)
    _done: int = field(init=False, default=0)
    _to_study: int = field(init=False, default=0)
    _studied: int = field(init=False, default=0)
    _checks_done: int = field(init=False, default=0)
    _with_skips: dict[str, Task] = field(init=False, default_factory=dict)
    """Counted tasks that somebody skipped."""
    _times: dict[tuple[str, str], datetime] = field(init=False, default_factory=dict)
    """When each answer to a counted task was given, by task and rater, in order of arrival."""
    _last_at: dict[str, datetime] = field(init=False, default_factory=dict)
    """When each rater last did something."""

    def __post_init__(self) -> None:
        self._counted = [task for task in self.tasks if task.purpose == "learn"]
        self._asked = [task for task in self.tasks if task.purpose in ("learn", "judge")]
        self._place = {task.task_id: place for place, task in enumerate(self._asked)}
        self._checks = {task.task_id: task for task in self.tasks if task.purpose in ("repeat", "gold")}
        self._gold = {task_id: task for task_id, task in self._checks.items() if task.purpose == "gold"}
        self._open = self._find_open()
        self._slots = sum(map(self._slots_of, self._counted))
        self._to_study = sum(self._slots_of(task) for task in self._asked if task.study)

    def asks(self, task_id: str) -> bool:
        """Whether the task is one of these: round 0 has imported tasks too, about which nobody is asked."""
        return task_id in self._place or task_id in self._checks

    def note(self, task_id: str, rater_id: str, answer: Answer | None) -> None:
        """An answer was given, or (None) taken back."""
        self.rated.add((task_id, rater_id))
        given = self.answers.setdefault(task_id, {})
        answered = self._answered.setdefault(rater_id, [])
        place = self._place.get(task_id)
        task = None if place is None else self._asked[place]
        self._count(task_id, task, -1)
        if given.pop(rater_id, None) is not None:
            answered.remove(task_id)
            self._times.pop((task_id, rater_id), None)
        if answer is not None:
            given[rater_id] = answer
            answered.append(task_id)
            self._last_at[rater_id] = answer.at
            if task is not None and task.purpose == "learn":
                self._times[task_id, rater_id] = answer.at
        self._count(task_id, task, +1)
        if task is not None:
            self._settle(task, given)

    def _count(self, task_id: str, task: Task | None, sign: int) -> None:
        """Add a task to the sums, or take it out of them."""
        if task is not None and task.purpose == "learn":
            self._done += sign * min(self._answers_to(task_id), task.overlap)
            self._slots += sign * self._slots_of(task)
        elif task is not None and task.study:
            self._studied += sign * min(self._answers_to(task_id), task.overlap)
            self._to_study += sign * self._slots_of(task)
        elif task is not None or task_id in self._checks:
            self._checks_done += sign * self._answers_to(task_id)

    def _settle(self, task: Task, given: dict[str, Answer]) -> None:
        """Put an asked task where its answers say that it belongs."""
        if _skips(given) and task.purpose == "learn":
            self._with_skips[task.task_id] = task
        else:
            self._with_skips.pop(task.task_id, None)
        if not self._is_open(task):
            self._open.pop(task.task_id, None)
        elif task.task_id not in self._open:  # an answer was taken back
            self._open = self._find_open()

    def _find_open(self) -> dict[str, Task]:
        return {task.task_id: task for task in self._asked if self._is_open(task)}

    def _is_open(self, task: Task) -> bool:
        return task.task_id not in self.withdrawn and self._answers_to(task.task_id) < task.overlap

    def _slots_of(self, task: Task) -> int:
        """How many answers the round waits for: of a withdrawn task those that are there."""
        is_withdrawn = task.task_id in self.withdrawn
        return min(self._answers_to(task.task_id), task.overlap) if is_withdrawn else task.overlap

    def _answers_to(self, task_id: str) -> int:
        """Skips not counted."""
        given = self.answers.get(task_id)
        return len(given) - _skips(given) if given else 0

    def open_to(
        self, rater_id: str, leases: Leases, *, limit: int, now: datetime, studies_only: bool = False
    ) -> list[Task]:
        """Up to `limit` tasks: those that this rater holds first, then a check that is due, then free ones in order,
        then those of studies; or of studies alone.
        """
        if studies_only:
            return self._studies_open_to(rater_id, leases, limit=limit, now=now)
        mine = leases.held_by(rater_id, now)
        held = [self._checks[task_id] for task_id in self._checks if task_id in mine] if mine else []
        held = [task for task in held if self._can_be_checked(task, rater_id)]
        due = self._due(rater_id, held)
        held += [
            self._open[task_id]
            for task_id in sorted(mine & self._open.keys(), key=self._place.__getitem__)
            if rater_id not in self.answers.get(task_id, ())
        ]
        free: list[Task] = []
        between: list[Task] = []
        """Judgements before the next task that the round waits for: without such a one they are not asked."""
        for task in self._open.values():
            if len(free) >= limit:
                break
            if task.study or not self._is_free_to(task, rater_id, leases, now):
                continue
            between.append(task)
            if task.purpose == "learn":
                free += between
                between = []
        found = [*held, *(due if free else []), *free][:limit]
        if len(found) < limit:
            found += self._studies_open_to(rater_id, leases, limit=limit - len(found), now=now, but=found)
        return found

    def _studies_open_to(
        self, rater_id: str, leases: Leases, *, limit: int, now: datetime, but: Sequence[Task] = ()
    ) -> list[Task]:
        """Tasks of studies: those that this rater holds first, then free ones in order."""
        if self._studied >= self._to_study:  # every page asks all the time, and mostly there is none
            return []
        mine, known = leases.held_by(rater_id, now), {task.task_id for task in but}
        open_ = [task for task in self._open.values() if task.study and task.task_id not in known]
        held = [task for task in open_ if task.task_id in mine and rater_id not in self.answers.get(task.task_id, ())]
        free = (task for task in open_ if task.task_id not in mine and self._is_free_to(task, rater_id, leases, now))
        return [*held, *islice(free, max(limit - len(held), 0))][:limit]

    def _is_free_to(self, task: Task, rater_id: str, leases: Leases, now: datetime) -> bool:
        """Whether this rater neither answered nor holds it, and answers and other holders leave a slot for them."""
        given = self.answers.get(task.task_id) or {}
        holders = leases.holders(task.task_id, now)
        if rater_id in given or rater_id in holders:
            return False
        return self._answers_to(task.task_id) + len(holders - given.keys()) < task.overlap

    def displayed(self, task: Task, rater_id: str) -> tuple[str, ...]:
        """The images in the order in which this rater is to see them: of a repeat, none where it was before."""
        before = self._answer(task.repeats, rater_id)
        return other_order(before.displayed) if before else displayed_order(task, rater_id)

    def answered_by(self, rater_id: str) -> int:
        """How many tasks this rater answered, checks counted and skips not."""
        return sum(not self.answers[task_id][rater_id].is_skip for task_id in self._answered.get(rater_id, ()))

    def progress(self, leases: Leases, *, now: datetime) -> Progress:
        """How many slots are filled, needed and given up, and how fast it goes."""
        latest = sorted(islice(reversed(self._times.values()), PACE_OVER))
        return Progress(
            done=self._done,
            needed=self._slots - (skipped := self._given_up(leases, now)),
            skipped=skipped,
            checks=self._checks_done,
            last_rating_at=latest[-1] if latest else None,
            per_minute=_pace(latest),
            studied=self._studied,
            to_study=self._to_study,
        )

    def _given_up(self, leases: Leases, now: datetime) -> int:
        """Slots of tasks that were skipped, for which no active rater is left."""
        waiting = [task for task_id, task in self._with_skips.items() if task_id in self._open]
        if not waiting:
            return 0
        active, given_up = self._active(leases, now), 0
        for task in waiting:
            given = self.answers[task.task_id]
            unfilled = task.overlap - self._answers_to(task.task_id) - len(active - given.keys())
            given_up += min(_skips(given), max(0, unfilled))
        return given_up

    def _active(self, leases: Leases, now: datetime) -> set[str]:
        since = now - timedelta(seconds=ACTIVE_S)
        # Not those who did something tomorrow, after a clock was set back.
        return {rater_id for rater_id, at in self._last_at.items() if since < at <= now + _SLACK} | leases.all_holders(
            now
        )

    def _answer(self, task_id: str | None, rater_id: str) -> Answer | None:
        return self.answers.get(task_id, {}).get(rater_id) if task_id else None

    def _can_be_checked(self, task: Task, rater_id: str) -> bool:
        """Whether a check is still to be answered by this rater. What they skipped is not shown to them again."""
        if self._answer(task.task_id, rater_id) or task.task_id in self.withdrawn:
            return False
        before = self._answer(task.repeats, rater_id)
        return task.repeats is None or (before is not None and not before.is_skip)

    def _due(self, rater_id: str, held: Sequence[Task]) -> list[Task]:
        """The check that comes before this rater's next task, if any; of several the oldest repeat.

        A check is every rater's own: the overlap does not bound it.
        """
        answered = self._answered.get(rater_id, [])
        long_ago: dict[str | None, int] = {task_id: n for n, task_id in enumerate(answered[:-REPEAT_AFTER])}
        taken = {task.task_id for task in held}
        repeats = [
            task
            for task_id, task in self._checks.items()
            if task.repeats in long_ago and task_id not in taken and self._can_be_checked(task, rater_id)
        ]
        if repeats:
            return [min(repeats, key=lambda task: long_ago[task.repeats])]
        if not self._wants_gold(answered, rater_id, taken):
            return []
        gold = self._gold.keys() - taken - set(answered) - self.withdrawn
        if not gold:
            return []
        return [self._gold[min(gold, key=lambda task_id: _draw(task_id, rater_id))]]

    def _is_counted(self, task_id: str) -> bool:
        place = self._place.get(task_id)
        return place is not None and self._asked[place].purpose == "learn"

    def _wants_gold(self, answered: Sequence[str], rater_id: str, taken: set[str]) -> bool:
        """Whether this rater has had fewer gold tasks than their share: as many as the round has for each task.

        One comes in each stretch of so many tasks, at a place in it that nobody can foresee; in the mean, and however
        few tasks somebody rates, their share is the round's.
        """
        seen = len(self._gold.keys() & {*answered, *taken})
        counted = sum(self._is_counted(task_id) for task_id in answered)
        due = counted * len(self._gold) >= (seen + _draw(str(seen), rater_id)) * len(self._counted)
        return due and seen < len(self._gold)


def _draw(name: str, rater_id: str) -> float:
    """A number in [0, 1) that is this rater's alone, and the same after a restart."""
    return int.from_bytes(hashlib.sha256(f"{name}\n{rater_id}".encode()).digest()[:7]) / 2**56


def _skips(given: dict[str, Answer]) -> int:
    return sum(answer.is_skip for answer in given.values()) if given else 0


def _pace(times: Iterable[datetime]) -> float:
    """Ratings per minute; a long pause counts as a short one, or the night would be in tomorrow's forecast."""
    gaps = [min((after - before).total_seconds(), _LONGEST_PAUSE_S) for before, after in pairwise(times)]
    return 60 * len(gaps) / sum(gaps) if sum(gaps) > 0 else 0.0
