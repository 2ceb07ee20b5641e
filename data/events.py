"""What each event does to the database. The live store and a rebuild from the journal run the same functions.

An event's data is what the journal's JSON gives back, never the caller's own object: so a replay cannot differ. Events
of one name that follow each other are applied together, which makes a rebuild many times faster than one by one.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import groupby, islice
from typing import Any, Protocol

import pyarrow as pa

from data import RATING_KINDS
from data.rating_kinds import RatingKind
from data.records import FINISHED
from hitl.core.errors import StoreError

Data = dict[str, Any]
_BATCH = 2000
_ROWS_PER_EVENT = 2**32


class Connection(Protocol):
    """The little of a DuckDB connection that is needed here; only `data.database` imports the real one."""

    def execute(self, query: str, parameters: Any = ..., /) -> Any: ...

    def register(self, view_name: str, python_object: object) -> Any: ...

    def unregister(self, view_name: str) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened, as the journal has it."""

    seq: int
    name: str
    data: Data


@cache
def rating_kind(name: str) -> RatingKind:
    """The rating kind of that name; UnknownName when there is none."""
    return RATING_KINDS.load(name)


def is_skip(kind: str, payload: Data) -> bool:
    """Whether somebody else should be asked. An undo, which has no payload, is no skip."""
    return bool(payload) and rating_kind(kind).is_skip(payload)


def to_naive_utc(moment: datetime) -> datetime:
    """As the database keeps it."""
    return moment.astimezone(UTC).replace(tzinfo=None)


def finite_or_none(value: float) -> float | None:
    """JSON has no NaN: a number that is not finite is kept as nothing and read back as NaN."""
    return float(value) if math.isfinite(value) else None


def apply(connection: Connection, events: Iterable[Event]) -> None:
    """Write the rows of some events, oldest first. The caller holds the transaction.

    Raises:
        StoreError: an event that this version does not know.
    """
    for name, group in groupby(events, key=lambda event: event.name):
        action = _ACTIONS.get(name)
        if action is None:
            raise StoreError(
                f"The journal holds an event {name!r} that this version does not know.",
                hint="The workspace was used with a newer version of hitl: upgrade, then try again.",
            )
        while batch := list(islice(group, _BATCH)):
            action(connection, batch)


def move_up(connection: Connection, left_out: Sequence[int]) -> None:
    """Give all rows the positions that they would have if the journal never had had the lines of these numbers."""
    tables = connection.execute(
        """
        SELECT table_name FROM duckdb_columns()
        JOIN duckdb_tables() USING (database_name, schema_name, table_name)
        WHERE database_name = current_database() AND column_name = 'position' ORDER BY table_name
        """
    ).fetchall()
    for (table,) in tables if left_out else []:
        connection.execute(
            f"""
            UPDATE "{table}" SET position = moved.now
            FROM (
                SELECT position AS before, position - gone.lines * {_ROWS_PER_EVENT} AS now
                FROM "{table}" ASOF JOIN (
                    SELECT seq * {_ROWS_PER_EVENT} AS since, row_number() OVER (ORDER BY seq) AS lines
                    FROM (SELECT unnest($1::BIGINT[]) AS seq)
                ) AS gone ON "{table}".position >= gone.since
            ) AS moved
            WHERE position = moved.before
            """,
            [list(left_out)],
        )


def _insert(
    connection: Connection, table: str, types: dict[str, str], columns: Mapping[str, Sequence[object]], known: str = ""
) -> None:
    """Insert rows by one statement. Many go through Arrow: as lists of Python objects they take five times as long.

    DuckDB takes a number for a text, and Arrow does not. What was taken by itself has to be taken among others as well,
    or no store could be made again from its journal.
    """
    names, count = ", ".join(types), len(next(iter(columns.values())))
    if count == 1:  # A rating: half the work for the planner.
        values, row = ", ".join("?" * len(types)), [columns[name][0] for name in types]
        connection.execute(f"INSERT INTO {table} ({names}) VALUES ({values}) {known}", row)
    elif count:
        try:
            added = pa.table({name: pa.array(columns[name], _ARROW[kind]) for name, kind in types.items()})
        except (pa.ArrowException, OverflowError):
            for place in range(count):
                _insert(connection, table, types, {name: [columns[name][place]] for name in types}, known)
            return
        connection.register("added", added)
        connection.execute(f"INSERT INTO {table} ({names}) SELECT * FROM added {known}")
        connection.unregister("added")


def _insert_rows(
    connection: Connection, table: str, types: dict[str, str], rows: Sequence[Sequence[object]], known: str = ""
) -> None:
    if rows:
        _insert(connection, table, types, dict(zip(types, zip(*rows, strict=True), strict=True)), known)


_ARROW: dict[str, pa.DataType] = {
    "VARCHAR": pa.string(),
    "VARCHAR[]": pa.list_(pa.string()),
    "BOOLEAN": pa.bool_(),
    "INTEGER": pa.int32(),
    "INTEGER[]": pa.list_(pa.int32()),
    "BIGINT": pa.int64(),
    "DOUBLE": pa.float64(),
    "TIMESTAMP": pa.timestamp("us"),
}


def _columns(types: dict[str, str], rows: Sequence[Data]) -> dict[str, list[Any]]:
    """What an earlier version did not write yet is empty."""
    return {name: [row.get(name) for row in rows] for name in types}


def _insert_items(
    connection: Connection, table: str, types: dict[str, str], batch: Sequence[Event], key: str, **columns: list[Any]
) -> None:
    """The items of list events, each with a position that keeps the order of arrival. Columns that are not in the items
    as they are to be are given.
    """
    positions = [event.seq * _ROWS_PER_EVENT + i for event in batch for i in range(len(event.data[key]))]
    as_told = _columns(types, [item for event in batch for item in event.data[key]])
    _insert(connection, table, _POSITION | types, {"position": positions, **as_told, **columns})


def _insert_facts(
    connection: Connection, table: str, types: dict[str, str], batch: Sequence[Event], **columns: list[Any]
) -> None:
    """One row for each event; see `_insert_items`."""
    positions = [event.seq * _ROWS_PER_EVENT for event in batch]
    as_told = _columns(types, [event.data for event in batch])
    _insert(connection, table, _POSITION | types, {"position": positions, **as_told, **columns})


_POSITION = {"position": "BIGINT"}


def _prompts_added(connection: Connection, batch: Sequence[Event]) -> None:
    types = {"prompt_id": "VARCHAR", "text": "VARCHAR", "task": "VARCHAR", "split": "VARCHAR"}
    _insert_items(connection, "prompts", types, batch, "prompts")


def _images_added(connection: Connection, batch: Sequence[Event]) -> None:
    types = {
        "image_id": "VARCHAR",
        "prompt_id": "VARCHAR",
        "round": "INTEGER",
        "width": "INTEGER",
        "height": "INTEGER",
        "provenance": "VARCHAR",
    }
    provenance = [_json(image["provenance"]) for event in batch for image in event.data["images"]]
    _insert_items(connection, "images", types, batch, "images", provenance=provenance)


def _tasks_added(connection: Connection, batch: Sequence[Event]) -> None:
    types = {
        "task_id": "VARCHAR",
        "round": "INTEGER",
        "kind": "VARCHAR",
        "prompt_id": "VARCHAR",
        "image_ids": "VARCHAR[]",
        "overlap": "INTEGER",
        "policy": "VARCHAR",
        "propensity": "DOUBLE",
        "purpose": "VARCHAR",
        "repeats": "VARCHAR",
        "worse": "VARCHAR",
        "better": "VARCHAR",
        "models": "VARCHAR[]",
        "study": "VARCHAR",
    }
    purpose = [task.get("purpose", "learn") for event in batch for task in event.data["tasks"]]
    _insert_items(connection, "tasks", types, batch, "tasks", purpose=purpose)


def _raters_added(connection: Connection, batch: Sequence[Event]) -> None:
    types = {"rater_id": "VARCHAR", "name": "VARCHAR", "kind": "VARCHAR", "created_at": "TIMESTAMP"}
    columns = _columns(types, [event.data for event in batch])
    _insert(connection, "raters", types, columns | {"created_at": _times(columns["created_at"])})


def _ratings_added(connection: Connection, batch: Sequence[Event]) -> None:
    types = {
        "rating_id": "VARCHAR",
        "task_id": "VARCHAR",
        "rater_id": "VARCHAR",
        "kind": "VARCHAR",
        "payload": "VARCHAR",
        "image_ids": "VARCHAR[]",
        "dwell_ms": "BIGINT",
        "client_time": "VARCHAR",
        "server_time": "TIMESTAMP",
        "app_version": "VARCHAR",
        "voids": "VARCHAR",
        "decide_ms": "BIGINT",
        "input_device": "VARCHAR",
        "screen_size": "VARCHAR",
        "shown_as": "VARCHAR",
        "is_skip": "BOOLEAN",
        "is_undo": "BOOLEAN",
    }
    facts = [event.data for event in batch]
    _insert_facts(
        connection,
        "ratings",
        types,
        batch,
        payload=[_json(fact["payload"]) for fact in facts],
        server_time=_times(fact["server_time"] for fact in facts),
        is_skip=[is_skip(fact["kind"], fact["payload"]) for fact in facts],
        is_undo=[not fact["payload"] for fact in facts],
    )
    answered = [fact for fact in facts if fact["payload"]]
    _insert_outcomes(connection, answered)
    _insert_image_values(connection, answered)


def _insert_outcomes(connection: Connection, ratings: Sequence[Data]) -> None:
    """What the rating kinds derive from the answers. A rating's event carries its task's images in canonical order."""
    types = {
        "rating_id": "VARCHAR",
        "image_a": "VARCHAR",
        "image_b": "VARCHAR",
        "outcome": "VARCHAR",
        "both_bad": "BOOLEAN",
        "left_side": "VARCHAR",
    }
    rows = [
        (rating["rating_id"], found.image_a, found.image_b, found.outcome, found.both_bad, found.left)
        for rating in ratings
        for found in rating_kind(rating["kind"]).outcomes(
            rating["payload"], image_ids=rating["task_image_ids"], displayed=rating["image_ids"]
        )
    ]
    _insert_rows(connection, "outcomes", types, rows)


def _insert_image_values(connection: Connection, ratings: Sequence[Data]) -> None:
    types = {
        "rating_id": "VARCHAR",
        "axis": "VARCHAR",
        "image_ids": "VARCHAR[]",
        '"values"': "INTEGER[]",
        "levels": "INTEGER",
    }
    rows = [
        (rating["rating_id"], found.axis, list(found.image_ids), list(found.values), found.levels)
        for rating in ratings
        for found in rating_kind(rating["kind"]).values(
            rating["payload"], image_ids=rating["task_image_ids"], displayed=rating["image_ids"]
        )
    ]
    _insert_rows(connection, "image_values", types, rows)


def _rounds_started(connection: Connection, batch: Sequence[Event]) -> None:
    """A round that is there already only takes the new configuration: it is being continued."""
    for event in batch:
        number, config_sha = event.data["number"], event.data["config_sha"]
        known = connection.execute("SELECT count(*) FROM rounds WHERE number = ?", [number]).fetchone()[0]
        if known:
            connection.execute("UPDATE rounds SET config_sha = ? WHERE number = ?", [config_sha, number])
        else:
            connection.execute(
                "INSERT INTO rounds (number, state, started_at, config_sha) VALUES (?, 'started', ?, ?)",
                [number, _time(event.data["started_at"]), config_sha],
            )


def _round_states_set(connection: Connection, batch: Sequence[Event]) -> None:
    for event in batch:
        state = event.data["state"]
        finished_at = _time(event.data["changed_at"]) if state == FINISHED else None
        connection.execute(
            "UPDATE rounds SET state = ?, finished_at = ? WHERE number = ?", [state, finished_at, event.data["number"]]
        )


def _metrics_added(connection: Connection, batch: Sequence[Event]) -> None:
    """Written again (by a stage that was resumed), a number replaces the one before."""
    latest = {
        (event.data["round"], event.data["stage"], row["step"], row["name"]): row["value"]
        for event in batch
        for row in event.data["rows"]
    }
    types = {"round": "INTEGER", "stage": "VARCHAR", "step": "BIGINT", "name": "VARCHAR", "value": "DOUBLE"}
    rows = [(*key, value) for key, value in latest.items()]
    _insert_rows(connection, "metrics", types, rows, known="ON CONFLICT DO UPDATE SET value = excluded.value")


def _accounts_set(connection: Connection, batch: Sequence[Event]) -> None:
    _write_accounts(connection, [event.data for event in batch])


def _write_accounts(connection: Connection, accounts: Sequence[Data]) -> None:
    """The latest of a rater counts. Deleted and inserted: a password hash of before is not to be found in the table."""
    types = {
        "rater_id": "VARCHAR",
        "role": "VARCHAR",
        "is_disabled": "BOOLEAN",
        "password_hash": "VARCHAR",
        "sessions": "INTEGER",
    }
    latest = {account["rater_id"]: account for account in accounts}
    connection.execute("DELETE FROM accounts WHERE rater_id IN (SELECT unnest($1::VARCHAR[]))", [list(latest)])
    _insert(connection, "accounts", types, _columns(types, [*latest.values()]))


def _invites_added(connection: Connection, batch: Sequence[Event]) -> None:
    types = {
        "invite_id": "VARCHAR",
        "token_hash": "VARCHAR",
        "role": "VARCHAR",
        "rater_id": "VARCHAR",
        "created_at": "TIMESTAMP",
        "expires_at": "TIMESTAMP",
    }
    created_at, expires_at = (_times(event.data[name] for event in batch) for name in ("created_at", "expires_at"))
    _insert_facts(connection, "invites", types, batch, created_at=created_at, expires_at=expires_at)


def _invites_used(connection: Connection, batch: Sequence[Event]) -> None:
    """One event for all that an invite brings, so that none is used up without letting anybody in."""
    for event in batch:
        if event.data["rater"] is not None:
            _raters_added(connection, [Event(seq=event.seq, name="rater_added", data=event.data["rater"])])
        _write_accounts(connection, [event.data["account"]])
        connection.execute(
            "UPDATE invites SET used_at = ?, used_by = ? WHERE invite_id = ?",
            [_time(event.data["used_at"]), event.data["account"]["rater_id"], event.data["invite_id"]],
        )


def _invites_revoked(connection: Connection, batch: Sequence[Event]) -> None:
    for event in batch:
        connection.execute(
            "UPDATE invites SET revoked_at = ? WHERE invite_id = ?",
            [_time(event.data["revoked_at"]), event.data["invite_id"]],
        )


def _consents_given(connection: Connection, batch: Sequence[Event]) -> None:
    types = {
        "rater_id": "VARCHAR",
        "version": "VARCHAR",
        "language": "VARCHAR",
        "text": "VARCHAR",
        "given_at": "TIMESTAMP",
    }
    _insert_facts(connection, "consents", types, batch, given_at=_times(event.data["given_at"] for event in batch))


def _practices_ended(connection: Connection, batch: Sequence[Event]) -> None:
    types = {"rater_id": "VARCHAR", "outcome": "VARCHAR", "ended_at": "TIMESTAMP"}
    rows = [(event.data["rater_id"], event.data["outcome"], _time(event.data["ended_at"])) for event in batch]
    _insert_rows(connection, "practices", types, rows)


def _raters_erased(connection: Connection, batch: Sequence[Event]) -> None:
    """Names and ids are replaced already, here and in the journal (`data.erasure`). Nobody comes in as them again.

    Of who is not there any more, since or before their rows were deleted, nothing is left to be shut.
    """
    for event in batch:
        rater_id = event.data["rater_id"]
        shut = {"rater_id": rater_id, "role": "rater", "is_disabled": True, "sessions": 0}
        if event.data.get("has_accounts"):
            _write_accounts(connection, [{**shut, "password_hash": ""}])
        if not connection.execute("SELECT 1 FROM raters WHERE rater_id = ?", [rater_id]).fetchall():
            continue
        known = connection.execute("SELECT password_hash FROM accounts WHERE rater_id = ?", [rater_id]).fetchall()
        _write_accounts(connection, [{**shut, "password_hash": known[0][0] if known else None}])
        connection.execute(
            "UPDATE invites SET revoked_at = ? WHERE rater_id = ? AND used_at IS NULL AND revoked_at IS NULL",
            [_time(event.data["erased_at"]), rater_id],
        )
        if event.data["ratings"] == "void":  # as it was before ratings could be deleted
            # Whatever other columns a rating has are copied, so that this need not know them.
            connection.execute(
                """
                INSERT INTO ratings BY NAME
                SELECT * REPLACE (
                    md5(rating_id || 'void') AS rating_id, $1 + row_number() OVER (ORDER BY position) AS position,
                    '{}' AS payload, 0 AS dwell_ms, $2 AS server_time, rating_id AS voids,
                    FALSE AS is_skip, TRUE AS is_undo
                )
                FROM ratings
                WHERE rating_id IN (SELECT rating_id FROM standing_ratings WHERE rater_id = $3)
                """,
                [event.seq * _ROWS_PER_EVENT, _time(event.data["erased_at"]), rater_id],
            )


def _images_withdrawn(connection: Connection, batch: Sequence[Event]) -> None:
    types = {"image_id": "VARCHAR", "reason": "VARCHAR", "withdrawn_at": "TIMESTAMP"}
    rows = [(event.data["image_id"], event.data["reason"], _time(event.data["withdrawn_at"])) for event in batch]
    _insert_rows(connection, "withdrawn_images", types, rows)


def _images_restored(connection: Connection, batch: Sequence[Event]) -> None:
    found = [event.data["image_id"] for event in batch]
    connection.execute("DELETE FROM withdrawn_images WHERE image_id IN (SELECT unnest($1::VARCHAR[]))", [found])


_json = json.JSONEncoder(sort_keys=True, ensure_ascii=False).encode


def _time(text: str) -> datetime:
    return to_naive_utc(datetime.fromisoformat(text))


def _times(texts: Iterable[str]) -> list[datetime]:
    return [_time(text) for text in texts]


_ACTIONS: dict[str, Callable[[Connection, Sequence[Event]], None]] = {
    "prompts_added": _prompts_added,
    "images_added": _images_added,
    "tasks_added": _tasks_added,
    "image_withdrawn": _images_withdrawn,
    "image_restored": _images_restored,
    "rater_added": _raters_added,
    "rating_added": _ratings_added,
    "round_started": _rounds_started,
    "round_state_set": _round_states_set,
    "metrics_added": _metrics_added,
    "account_set": _accounts_set,
    "invite_added": _invites_added,
    "invite_used": _invites_used,
    "invite_revoked": _invites_revoked,
    "rater_erased": _raters_erased,
    "consent_given": _consents_given,
    "practice_ended": _practices_ended,
}
