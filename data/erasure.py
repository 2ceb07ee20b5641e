"""To forget a rater: they leave the journal and the store with all that they rated, or their ratings keep a pseudonym.

The journal is a chain of hashes, so nothing leaves it unnoticed. It is written again instead, as a whole,
and its new last line says so, with the hash that the chain ended in before: whoever has an old
copy can take the same things out of it and must come to the same chain. The id goes too, for an id may have been made
from the name (`apps.session`); nothing that is kept leads from the new one to the old. Lines that are left out leave no
gap: those after them move up, and with them the positions of rows in the store (`events.move_up`).
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from data.events import Connection

Fate = Literal["keep", "delete"]
"""What becomes of an erased rater's ratings: they stay and count, or they go. What older versions wrote may say `void`:
they stayed, and counted no more."""

NOTE = "note"
"""What a rater wrote in their own words, in a rating's payload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """One rater to be forgotten, and who stands in their place: of who is deleted, only in what says so."""

    rater_id: str
    ratings: Fate = "keep"
    new_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    invites: frozenset[str] = frozenset()
    """Ids of the invites that were for the rater, or let them in."""

    @property
    def new_name(self) -> str:
        return f"erased {self.new_id[:8]}"

    def line(self, event: str, data: dict[str, Any]) -> dict[str, Any] | None:
        """A journal line's data as it is written again; None for a line that is left out.

        What says that they were erased once before stays: it holds the hash that the chain ended in then.
        """
        if self.ratings != "keep" and event != "rater_erased" and self._is_theirs(data):
            return None
        return self.forget(data)

    def _is_theirs(self, data: dict[str, Any]) -> bool:
        let_in = data.get("account", {}).get("rater_id")
        return self.rater_id in (data.get("rater_id"), let_in) or data.get("invite_id") in self.invites

    def forget(self, value: Any) -> Any:
        """A journal line's data without what is to be forgotten, wherever in it the rater is spoken of."""
        if isinstance(value, list):
            return [self.forget(item) for item in value]
        if not isinstance(value, dict):
            return self.new_id if value == self.rater_id else value
        kept = {key: self.forget(item) for key, item in value.items()}
        if value.get("rater_id") == self.rater_id:
            if "name" in kept:
                kept["name"] = self.new_name
            if kept.get("password_hash") is not None:
                kept["password_hash"] = ""
            if isinstance(kept.get("payload"), dict):
                kept["payload"] = _without_note(kept["payload"])
        return kept

    def apply(self, connection: Connection) -> dict[str, int]:
        """The same in the store; how many rows of each table were deleted.

        Every table that names raters or ratings is found by its column, so that none is forgotten.
        """
        if self.ratings != "keep":
            return self._delete(connection)
        self._rename(connection)
        return {}

    def _delete(self, connection: Connection) -> dict[str, int]:
        """What was derived from ratings first, for it knows their ids alone."""
        of_ratings = "rating_id IN (SELECT rating_id FROM ratings WHERE rater_id = $1)"
        wheres = [(table, of_ratings) for table, _ in _columns(connection, "rating_id") if table != "ratings"]
        wheres += [(table, f'"{column}" = $1') for table, column in _columns_with_raters(connection)]
        counted: dict[str, int] = {}
        for table, where in wheres:
            count = connection.execute(f'DELETE FROM "{table}" WHERE {where}', [self.rater_id]).fetchall()[0][0]
            counted[table] = counted.get(table, 0) + count
        return {table: count for table, count in sorted(counted.items()) if count}

    def _rename(self, connection: Connection) -> None:
        self._blank_notes(connection)
        connection.execute("UPDATE raters SET name = ? WHERE rater_id = ?", [self.new_name, self.rater_id])
        connection.execute(
            "UPDATE accounts SET password_hash = '' WHERE rater_id = ? AND password_hash IS NOT NULL", [self.rater_id]
        )
        for table, column in _columns_with_raters(connection):
            query = f'UPDATE "{table}" SET "{column}" = $1 WHERE "{column}" = $2'
            connection.execute(query, [self.new_id, self.rater_id])

    def rows_left(self, connection: Connection) -> dict[str, int]:
        """How many rows of each table have the new id."""
        counted = {}
        for table, column in _columns_with_raters(connection):
            query = f'SELECT count(*) FROM "{table}" WHERE "{column}" = ?'
            counted[table] = counted.get(table, 0) + connection.execute(query, [self.new_id]).fetchall()[0][0]
        return {table: count for table, count in sorted(counted.items()) if count}

    def event(
        self, left_out: Sequence[int], *, at: datetime, before: str, rows: Mapping[str, int], has_accounts: bool
    ) -> dict[str, Any]:
        """What the new last line says.

        Args:
            left_out: numbers of the lines that are not in the journal any more.
            before: the hash that the chain ended in.
            rows: what `apply` deleted.
            has_accounts: whether anybody has an account. A name alone lets nobody in then, whoever is deleted.
        """
        told = {"rater_id": self.new_id, "ratings": "keep", "erased_at": at.isoformat(), "hash_before": before}
        if self.ratings == "keep":
            return told
        deleted = {"lines": len(left_out), "first_line": min(left_out), "rows": dict(rows)}
        return told | {"ratings": "delete", "deleted": deleted, "has_accounts": has_accounts}

    def _blank_notes(self, connection: Connection) -> None:
        query = "SELECT rating_id, payload FROM ratings WHERE rater_id = ? AND contains(payload, ?)"
        for rating_id, payload in connection.execute(query, [self.rater_id, f'"{NOTE}"']).fetchall():
            kept = json.dumps(_without_note(json.loads(payload)), sort_keys=True, ensure_ascii=False)
            connection.execute("UPDATE ratings SET payload = ? WHERE rating_id = ?", [kept, rating_id])


def _columns_with_raters(connection: Connection) -> list[tuple[str, str]]:
    return _columns(connection, "rater_id", "used_by")


def _columns(connection: Connection, *names: str) -> list[tuple[str, str]]:
    """Tables and their columns of these names."""
    return connection.execute(
        """
        SELECT table_name, column_name
        FROM information_schema.columns
        JOIN information_schema.tables USING (table_catalog, table_schema, table_name)
        WHERE table_catalog = current_database() AND table_type = 'BASE TABLE'
        AND column_name IN (SELECT unnest($1::VARCHAR[]))
        """,
        [list(names)],
    ).fetchall()


def _without_note(payload: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in payload.items() if key != NOTE}
