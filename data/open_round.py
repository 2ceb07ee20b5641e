"""The round that is being rated: its queue and its leases, in memory, because every page asks all the time."""

import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from data import events, rows
from data.assignment import Answer, Leases, RoundQueue
from data.records import FROM_FOLDER, IMPORTED, Offer, Progress, Rating, Task

_AFTER_UNDO_S = 300
"""How long a task that was undone is kept for the rater who undid it."""


class OpenRound:
    """Loaded when it is asked for. Safe in many threads."""

    def __init__(self, read: Callable[..., list[tuple[Any, ...]]], tasks: dict[str, Task]) -> None:
        """`read` answers SQL; `tasks` is told of every task that is loaded."""
        self._rows = read
        self._tasks = tasks
        self._texts: dict[str, str] = {}
        self._newest_round: int | None = None
        self._leases = Leases()
        self._queue: RoundQueue | None = None
        self._lock = threading.Lock()

    def newest_round(self) -> int | None:
        """The number of the last round that was started; 0 before, where there are tasks of a folder's pictures or of a
        study.

        Every page asks, so it is not looked up each time.
        """
        with self._lock:  # or what was read before a round began could be kept after it
            if self._newest_round is None:
                query = (
                    "SELECT coalesce((SELECT max(number) FROM rounds),"
                    f" (SELECT 0 FROM tasks WHERE {_IS_ASKED} OR {_IS_STUDY} LIMIT 1))"
                )
                self._newest_round = self._rows(query, [FROM_FOLDER])[0][0]
            return self._newest_round

    def lease(
        self,
        rater_id: str,
        *,
        limit: int,
        lease_s: float = 300,
        now: datetime | None = None,
        studies_only: bool = False,
    ) -> list[Offer]:
        """Up to `limit` tasks of the newest round for this rater alone: those already leased first, then open ones,
        then tasks of studies; or these alone.

        Never a task that this rater has rated or skipped; never more raters on a task than its overlap. Between them
        come the repeats and gold tasks that are due, which are every rater's own.
        """
        now = now or datetime.now(UTC)
        with self._lock:
            queue = self._newest_queue()
            found = (
                queue.open_to(rater_id, self._leases, limit=limit, now=now, studies_only=studies_only) if queue else []
            )
            shown = [queue.displayed(task, rater_id) for task in found] if queue else []
            for task in found:
                self._leases.hold(task.task_id, rater_id, now, lease_s)
        prompts = self._prompt_texts({task.prompt_id for task in found})
        return [
            Offer(task=task, prompt=prompts[task.prompt_id], image_ids=image_ids)
            for task, image_ids in zip(found, shown, strict=True)
        ]

    def release(self, rater_id: str, task_ids: Iterable[str]) -> None:
        """Give tasks back unrated."""
        with self._lock:
            for task_id in task_ids:
                self._leases.drop(task_id, rater_id)

    def progress(self, round: int, *, now: datetime | None = None) -> Progress:
        """How far the rating of a round is."""
        with self._lock:
            return self._queue_of(round).progress(self._leases, now=now or datetime.now(UTC))

    def answered(self, rater_id: str, round: int) -> int:
        """How many tasks of a round this rater answered, checks counted and skips not. Every page that waits asks each
        second.
        """
        with self._lock:
            return self._queue_of(round).answered_by(rater_id)

    def is_unrated(self, task_id: str, rater_id: str) -> bool:
        """Whether this rater is known never to have answered this task. No is no answer: it may be of another round."""
        with self._lock:
            queue = self._queue
            return queue is not None and queue.asks(task_id) and (task_id, rater_id) not in queue.rated

    def _queue_of(self, round: int) -> RoundQueue:
        """The queue of any round. The caller holds the lock."""
        queue = self._newest_queue()
        return queue if queue is not None and queue.round == round else self._load_queue(round)

    def _newest_queue(self) -> RoundQueue | None:
        """The queue of the newest round that has tasks. The caller holds the lock."""
        if self._queue is None:
            query = f"SELECT max(round) FROM tasks WHERE {_IS_ASKED} OR {_IS_STUDY}"
            newest = self._rows(query, [FROM_FOLDER])[0][0]
            self._queue = None if newest is None else self._load_queue(newest)
        return self._queue

    def _load_queue(self, round: int) -> RoundQueue:
        query = f"SELECT {rows.TASK} FROM tasks WHERE ({_IS_ASKED} AND round = $2) OR {_IS_STUDY} ORDER BY position"
        tasks = [rows.task(row) for row in self._rows(query, [FROM_FOLDER, round])]
        self._tasks.update((task.task_id, task) for task in tasks)
        lost = {image_id for (image_id,) in self._rows("SELECT image_id FROM withdrawn_images")}
        withdrawn = {task.task_id for task in tasks if lost.intersection(task.image_ids)}
        query = f"""
            SELECT DISTINCT task_id, rater_id FROM ratings JOIN tasks USING (task_id)
            WHERE (({_IS_ASKED} AND tasks.round = $2) OR {_IS_STUDY}) AND voids IS NOT NULL
        """
        taken_back = {(task_id, rater_id) for task_id, rater_id in self._rows(query, [FROM_FOLDER, round])}
        queue = RoundQueue(round=round, tasks=tasks, rated=taken_back, withdrawn=withdrawn)
        query = f"""
            SELECT task_id, rater_id, is_skip, server_time, standing.image_ids
            FROM standing_ratings AS standing JOIN tasks USING (task_id)
            WHERE ({_IS_ASKED} AND tasks.round = $2) OR {_IS_STUDY} ORDER BY standing.position
        """
        for task_id, rater_id, is_skip, server_time, displayed in self._rows(query, [FROM_FOLDER, round]):
            answer = Answer(is_skip=is_skip, at=server_time.replace(tzinfo=UTC), displayed=tuple(displayed))
            queue.note(task_id, rater_id, answer)
        return queue

    def forget(self) -> None:
        """It is loaded again when somebody asks: what is to be rated has changed."""
        with self._lock:
            self._queue = self._newest_round = None

    def forget_round(self) -> None:
        """Which is the newest is looked up again."""
        with self._lock:
            self._newest_round = None

    def forget_rater(self, rater_id: str) -> None:
        """They are not there any more."""
        with self._lock:
            self._queue = None
            self._leases.drop_all(rater_id)

    def note(self, rating: Rating) -> None:
        """Tell the queue of a rating that was recorded. What was undone is what this rater wants to see next."""
        with self._lock:
            if rating.payload:
                is_skip = events.is_skip(rating.kind, rating.payload)
                answer = Answer(is_skip=is_skip, at=rating.server_time, displayed=rating.image_ids)
                self._leases.drop(rating.task_id, rating.rater_id)
            else:
                answer = None
                self._leases.hold(rating.task_id, rating.rater_id, datetime.now(UTC), _AFTER_UNDO_S)
            if self._queue is not None and self._queue.asks(rating.task_id):
                self._queue.note(rating.task_id, rating.rater_id, answer)

    def _prompt_texts(self, prompt_ids: set[str]) -> dict[str, str]:
        for prompt_id in prompt_ids - self._texts.keys():
            for row in self._rows("SELECT text FROM prompts WHERE prompt_id = ?", [prompt_id]):
                self._texts[prompt_id] = row[0]
        return self._texts


_IS_ASKED = "(tasks.round > 0 OR tasks.policy = $1)"
"""Of a task: people here are asked. Imported ones, in round 0, were asked elsewhere; pictures of a folder are not."""
_IS_STUDY = f"(tasks.study IS NOT NULL AND tasks.policy <> '{IMPORTED}')"
"""Of a task: people here are asked for a study, whatever round it was when it was made."""
