"""To forget a rater: their name, password and notes leave the journal and the store; their ratings keep a pseudonym.

The journal is a chain of hashes, so nothing leaves it unnoticed. It is written again instead, from the first line that
speaks of the rater on, and its new last line says so, with the hash that the chain ended in before: whoever has an old
copy can take the same things out of it and must come to the same chain. The id goes too, for an id may have been made
from the name (`apps.session`); nothing that is kept leads from the new one to the old.
"""

import json
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from data.events import Connection

Fate = Literal["keep", "void"]
"""What becomes of an erased rater's ratings: they stay and count, or they stay and count no more."""

NOTE = "note"
"""What a rater wrote in their own words, in a rating's payload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """One rater to be forgotten, and who stands in their place."""

    rater_id: str
    new_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def new_name(self) -> str:
        return f"erased {self.new_id[:8]}"

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

    def apply(self, connection: Connection) -> None:
        """The same in the store. Every table that names raters is found by its column, so that none is forgotten."""
        self._blank_notes(connection)
        connection.execute("UPDATE raters SET name = ? WHERE rater_id = ?", [self.new_name, self.rater_id])
        connection.execute(
            "UPDATE accounts SET password_hash = '' WHERE rater_id = ? AND password_hash IS NOT NULL", [self.rater_id]
        )
        for table, column in _columns_with_raters(connection):
            query = f'UPDATE "{table}" SET "{column}" = $1 WHERE "{column}" = $2'
            connection.execute(query, [self.new_id, self.rater_id])

    def rows_left(self, connection: Connection) -> dict[str, int]:
        """How many rows of each table have the new id; those that only void others are not the rater's own."""
        own = {"ratings": "AND NOT (is_undo AND rating_id = md5(voids || 'void'))"}
        counted = {}
        for table, column in _columns_with_raters(connection):
            query = f'SELECT count(*) FROM "{table}" WHERE "{column}" = ? {own.get(table, "")}'
            counted[table] = counted.get(table, 0) + connection.execute(query, [self.new_id]).fetchall()[0][0]
        return {table: count for table, count in sorted(counted.items()) if count}

    def event(self, *, ratings: Fate, before: str) -> dict[str, Any]:
        """What the new last line says. `before` is the hash that the chain ended in."""
        return {
            "rater_id": self.new_id,
            "ratings": ratings,
            "erased_at": datetime.now(UTC).isoformat(),
            "hash_before": before,
        }

    def _blank_notes(self, connection: Connection) -> None:
        query = "SELECT rating_id, payload FROM ratings WHERE rater_id = ? AND contains(payload, ?)"
        for rating_id, payload in connection.execute(query, [self.rater_id, f'"{NOTE}"']).fetchall():
            kept = json.dumps(_without_note(json.loads(payload)), sort_keys=True, ensure_ascii=False)
            connection.execute("UPDATE ratings SET payload = ? WHERE rating_id = ?", [kept, rating_id])


def _columns_with_raters(connection: Connection) -> list[tuple[str, str]]:
    return connection.execute(
        """
        SELECT table_name, column_name
        FROM information_schema.columns
        JOIN information_schema.tables USING (table_catalog, table_schema, table_name)
        WHERE table_catalog = current_database() AND table_type = 'BASE TABLE'
        AND column_name IN ('rater_id', 'used_by')
        """
    ).fetchall()


def _without_note(payload: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in payload.items() if key != NOTE}
