"""The store: every fact of a workspace, in one DuckDB file that one process owns, and in the journal."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from data import events, rows, snapshot, validation
from data.database import Database
from data.erasure import Fate
from data.journal import Journal, canonical_json
from data.lock import StoreLock
from data.people import People
from data.questions import Questions
from data.records import (
    Comparison,
    GoldAnswer,
    Judgement,
    Metric,
    Offer,
    Progress,
    Purpose,
    Rater,
    Rating,
    Repeat,
    Snapshot,
)
from data.streams import Selection, Streams
from data.together import Together
from hitl.core.errors import ConfigError

_RATINGS_PER_COMMIT = 1000


class Store(Questions, People):
    """Made by `open` or `open_snapshot`; methods are named after the questions we ask. Safe in many threads."""

    def __init__(self, database: Database, *, journal: Journal | None = None, lock: StoreLock | None = None) -> None:
        super().__init__(database, journal=journal, lock=lock)
        self._arrivals = Together(self._keep)

    # -- who rates what -------------------------------------------------------------------------------------------

    def lease(
        self,
        rater_id: str,
        *,
        limit: int,
        lease_s: float = 300,
        now: datetime | None = None,
        studies_only: bool = False,
    ) -> list[Offer]:
        """Tasks for this rater alone, as `OpenRound.lease`."""
        return self._open_round.lease(rater_id, limit=limit, lease_s=lease_s, now=now, studies_only=studies_only)

    def release(self, rater_id: str, task_ids: Iterable[str]) -> None:
        """Give tasks back unrated."""
        self._open_round.release(rater_id, task_ids)

    def progress(self, round: int, *, now: datetime | None = None) -> Progress:
        """How far the rating of a round is."""
        return self._open_round.progress(round, now=now)

    def answered(self, rater_id: str, round: int) -> int:
        """How many tasks of a round this rater answered, as `OpenRound.answered`."""
        return self._open_round.answered(rater_id, round)

    def erase_rater(self, rater_id: str, *, ratings: Fate = "keep", new_id: str = "") -> Rater:
        """As `People.erase_rater`; and their leases end."""
        with self._writing():
            erased = super().erase_rater(rater_id, ratings=ratings, new_id=new_id)
            self._open_round.forget_rater(rater_id)
        return erased

    # -- ratings --------------------------------------------------------------------------------------------------

    def add_rating(self, rating: Rating) -> bool:
        """Keep a rating. Durable, in the journal and in the store, when this returns.

        Late is not wrong: a rating is kept even when its lease has run out or the task has enough already.

        Returns:
            False when it changes nothing: its id is there already, this rater's answer to this task stands already, or
            it undoes what is undone already.

        Raises:
            ConfigError: it does not fit its task, its kind, or what it voids.
        """
        canonical_json(_as_told(rating))
        return self._arrivals.do(rating)

    def add_ratings(self, ratings: Iterable[Rating]) -> list[bool | Exception]:
        """Keep many ratings, each as `add_rating` does, by one commit for some hundreds of them.

        Returns:
            For each what `add_rating` returns, or the error that it raises.
        """
        outcomes: list[bool | Exception] = []
        rest = iter(ratings)
        while some := list(islice(rest, _RATINGS_PER_COMMIT)):
            with self._writing():
                before = self._tasks.keys() & {rating.task_id for rating in some}
                self._read_tasks({rating.task_id for rating in some} - before)
                outcomes += self._keep(some)
                for task_id in {rating.task_id for rating in some} - before:  # not all tasks of a million ratings
                    self._tasks.pop(task_id, None)
        return outcomes

    def rating_ids(self, ids: Iterable[str]) -> set[str]:
        """Which of these ids are of ratings that are here."""
        query = "SELECT rating_id FROM ratings WHERE rating_id IN (SELECT unnest($1::VARCHAR[]))"
        return {row[0] for row in self._rows(query, [list(ids)])}

    def _read_tasks(self, task_ids: set[str]) -> None:
        query = f"SELECT {rows.TASK} FROM tasks WHERE task_id IN (SELECT unnest($1::VARCHAR[]))"
        self._tasks.update((row[0], rows.task(row)) for row in self._rows(query, [list(task_ids)]))

    def _keep(self, arrived: Sequence[Rating]) -> list[bool | Exception]:
        """Keep some ratings by one commit. What each changes is judged after those before it."""
        with self._writing():
            beside = _Beside(self._rows_beside(arrived))
            outcomes: list[bool | Exception] = []
            kept: list[Rating] = []
            for rating in arrived:
                try:
                    is_news = self._is_to_be_kept(rating, beside)
                except ConfigError as error:
                    outcomes.append(error)
                    continue
                outcomes.append(is_news)
                if is_news:
                    kept.append(rating)
                    beside.add(rating.rating_id, rating.task_id, rating.rater_id, rating.voids, not rating.payload)
            if kept:
                self._record("rating_added", *map(self._as_fact, kept))
                for rating in kept:
                    self._open_round.note(rating)
                self._checkpoint_after(len(kept))
        return outcomes

    def _rows_beside(self, arrived: Sequence[Rating]) -> list[tuple[Any, ...]]:
        """All that is there of these ratings, and of answers by their raters to their tasks."""
        columns = "SELECT rating_id, task_id, rater_id, voids, is_undo FROM ratings"
        if len(arrived) == 1:  # The usual one, in a third of the time.
            rating = arrived[0]
            by_id = self._rows(f"{columns} WHERE rating_id = ?", [rating.rating_id])
            if by_id or self._open_round.is_unrated(rating.task_id, rating.rater_id):
                return by_id
            return self._rows(f"{columns} WHERE task_id = ? AND rater_id = ?", [rating.task_id, rating.rater_id])
        # Joined with the lists: among a million ratings that takes 3 ms, where conditions with OR take 24.
        return self._rows(
            f"""
            {columns} WHERE rating_id IN (SELECT unnest($1::VARCHAR[]))
            UNION
            {columns} WHERE task_id IN (SELECT unnest($2::VARCHAR[])) AND rater_id IN (SELECT unnest($3::VARCHAR[]))
            """,
            [
                [each.rating_id for each in arrived],
                [each.task_id for each in arrived],
                [each.rater_id for each in arrived],
            ],
        )

    def _is_to_be_kept(self, rating: Rating, beside: "_Beside") -> bool:
        """Whether it changes anything, given what is there.

        Raises:
            ConfigError: it does not fit its task, its kind, or what it voids.
        """
        if rating.rating_id in beside.ids:
            return False
        related = beside.related[rating.task_id, rating.rater_id]
        task = self.task(rating.task_id)
        if task is None:
            raise ConfigError(f"There is no task {rating.task_id!r}.", hint="Ask for tasks again and rate those.")
        if self.rater(rating.rater_id) is None:
            raise ConfigError(f"There is no rater {rating.rater_id!r}.", hint="Join with a name first.")
        validation.check_rating(rating, task)
        answers = {rating_id for rating_id, _, is_undo in related if not is_undo}
        return _is_news(rating, answers, standing=answers - {voids for _, voids, _ in related})

    def _as_fact(self, rating: Rating) -> dict[str, Any]:
        return _as_told(rating) | {"task_image_ids": list(self._tasks[rating.task_id].image_ids)}

    def ratings(
        self, round: int | None = None, rater_id: str | None = None, purpose: Purpose | None = None
    ) -> list[Rating]:
        """All rows in order of arrival, voided ones and undos included; of tasks of one purpose or of every."""
        found = self._rows(
            f"""
            SELECT {rows.RATING} FROM ratings JOIN tasks USING (task_id)
            WHERE ($1 IS NULL OR tasks.round = $1) AND ($2 IS NULL OR rater_id = $2)
                AND ($3 IS NULL OR tasks.purpose = $3)
            ORDER BY ratings.position
            """,
            [round, rater_id, purpose],
        )
        return [rows.rating(row) for row in found]

    def rating(self, rating_id: str) -> Rating | None:
        found = self._rows(f"SELECT {rows.RATING} FROM ratings WHERE rating_id = ?", [rating_id])
        return rows.rating(found[0]) if found else None

    def ratings_of(self, task_ids: Sequence[str]) -> list[Rating]:
        """All rows of some tasks in order of arrival, voided ones and undos included."""
        query = f"""
            SELECT {rows.RATING} FROM ratings WHERE task_id IN (SELECT unnest($1::VARCHAR[])) ORDER BY position
        """
        return [rows.rating(row) for row in self._rows(query, [list(task_ids)])]

    def has_ratings(self, round: int) -> bool:
        """Whether anybody rated or skipped anything in a round."""
        query = "SELECT EXISTS (FROM ratings JOIN tasks USING (task_id) WHERE tasks.round = ?)"
        return self._rows(query, [round])[0][0]

    def comparisons(self, round: int | None = None) -> list[Comparison]:
        """What the ratings that stand say, without skips and checks, by round, task and rater."""
        query = f"SELECT {rows.COMPARISON} FROM comparisons WHERE $1 IS NULL OR round = $1 {_COMPARISON_ORDER}"
        return [rows.comparison(row) for row in self._rows(query, [round])]

    def answers(self, round: int | None = None) -> int:
        """How many ratings stand that can be learned from, whatever was asked: no skips, no undos, no lost pictures."""
        query = f"SELECT count(*) FROM answers WHERE ($1 IS NULL OR round = $1) AND {_CAN_BE_SHOWN}"
        return self._rows(query, [round])[0][0]

    def judgements(self, round: int | None = None, *, study: str | None = None) -> list[Judgement]:
        """What the ratings that stand say of two models, without skips, by round, task and rater. Of those that were
        mixed into rounds, not the imported ones of other policies in round 0; or of a study.
        """
        found = self._rows(
            f"""
            SELECT {rows.JUDGEMENT}
            FROM standing_ratings AS standing
            JOIN outcomes USING (rating_id)
            JOIN tasks ON tasks.task_id = standing.task_id
            WHERE
                tasks.purpose = 'judge' AND ($1 IS NULL OR tasks.round = $1) AND tasks.study IS NOT DISTINCT FROM $2
                AND (tasks.round > 0 OR tasks.study IS NOT NULL)
            ORDER BY tasks.round, standing.task_id, standing.rater_id
            """,
            [round, study],
        )
        return [rows.judgement(row) for row in found]

    def repeats(self, round: int | None = None) -> list[Repeat]:
        """Screens that a rater answered twice and took back neither time, by round, rater and rating."""
        query = f"SELECT {rows.REPEAT} FROM repeats WHERE $1 IS NULL OR round = $1 ORDER BY round, rater_id, rating_id"
        return [rows.repeat(row) for row in self._rows(query, [round])]

    def gold_answers(self, round: int | None = None) -> list[GoldAnswer]:
        """What raters said where it is known which image is worse or better, by round, rater and task."""
        query = f"""
            SELECT {rows.GOLD_ANSWER} FROM gold_answers
            WHERE $1 IS NULL OR round = $1 ORDER BY round, rater_id, task_id
        """
        return [rows.gold_answer(row) for row in self._rows(query, [round])]

    # -- metrics --------------------------------------------------------------------------------------------------

    def add_metrics(self, round: int, stage: str, rows: Iterable[dict[str, Any]]) -> None:
        """Keep rows of `step`, `name`, `value`. The same step and name again replaces the value."""
        kept = [
            {"step": int(row["step"]), "name": str(row["name"]), "value": events.finite_or_none(row["value"])}
            for row in rows
        ]
        if kept:
            with self._writing():
                self._record("metrics_added", {"round": round, "stage": stage, "rows": kept})

    def metrics(self, round: int, stage: str | None = None) -> list[Metric]:
        found = self._rows(
            f"""
            SELECT {rows.METRIC} FROM metrics
            WHERE round = $1 AND ($2 IS NULL OR stage = $2) ORDER BY stage, name, step
            """,
            [round, stage],
        )
        return [rows.metric(row) for row in found]

    # -- all answers at once --------------------------------------------------------------------------------------

    def write_snapshot(self, path: Path, up_to_round: int) -> Snapshot:
        """The answers of all rounds up to this one as Parquet; the same ratings give the same bytes."""
        which = f"round <= {up_to_round:d} AND {_CAN_BE_SHOWN}"
        query = f"SELECT {rows.SNAPSHOT} FROM answers WHERE {which} {_COMPARISON_ORDER}"
        return snapshot.write(path, self._database.batches(query))

    def streams(self, selection: Selection) -> Streams:
        """What may be too much to be held at once."""
        return Streams(self._database, selection)


_CAN_BE_SHOWN = """
    NOT EXISTS (
        FROM withdrawn_images AS lost
        WHERE lost.image_id IN (image_a, image_b) OR list_contains(images, lost.image_id)
    )
"""
"""Of an answer: all its pictures are there, so that it can be learned from."""
_COMPARISON_ORDER = "ORDER BY round, task_id, rater_id, image_a, image_b"


_FIELDS = tuple(each.name for each in fields(Rating))


def _as_told(rating: Rating) -> dict[str, Any]:
    """As JSON has it. Not by `asdict`, whose copies take as long as writing the journal."""
    told = {name: getattr(rating, name) for name in _FIELDS}
    return told | {"server_time": validation.iso(rating.server_time)}


class _Beside:
    """What is there of some ratings: their ids, and what their raters said of their tasks: id, voids, is it an undo."""

    def __init__(self, found: Iterable[tuple[Any, ...]]) -> None:
        self.ids: set[str] = set()
        self.related: dict[tuple[str, str], list[tuple[str, str | None, bool]]] = defaultdict(list)
        for row in found:
            self.add(*row)

    def add(self, rating_id: str, task_id: str, rater_id: str, voids: str | None, is_undo: bool) -> None:
        self.ids.add(rating_id)
        self.related[task_id, rater_id].append((rating_id, voids, is_undo))


def _is_news(rating: Rating, answers: set[str], *, standing: set[str]) -> bool:
    """Whether a rating changes anything, given the ids of this rater's answers to this task: all, and those that stand.

    Raises:
        ConfigError: it voids what it cannot void.
    """
    if rating.voids is None:
        return not standing
    if rating.voids not in answers:
        raise ConfigError(
            f"{rating.voids!r} is not an answer of this rater to task {rating.task_id}.",
            hint="Undo one of your own ratings, naming its task.",
        )
    if rating.voids not in standing and rating.payload:
        raise ConfigError(f"Rating {rating.voids!r} was undone already.", hint="Send the answer without `voids`.")
    return rating.voids in standing
