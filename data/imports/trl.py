"""Columns prompt, chosen and rejected, the latter two images: the form of TRL's preference data. No raters in it."""

from collections.abc import Iterator
from typing import Any

from data.imports.files import Files, Row, taken
from data.imports.pickapic import tables
from data.imports.records import Item, preference


def read(files: Files) -> Iterator[Item]:
    yield from taken(files.rows(tables(files)), lambda row: [_judged(files, row)])


def _judged(files: Files, row: Row) -> Item:
    values = row.values
    if isinstance(values.get("prompt"), list):
        row = Row(row.place, row.split, values | {"prompt": _last_words(values["prompt"])}, row.folder)
    return preference(
        "tie" if is_even(row) else "left",
        row=row.place,
        prompt=row.text("prompt"),
        split=row.split,
        pictures=tuple(files.picture(row.need(name), row) for name in ("chosen", "rejected")),
    )


def is_even(row: Row) -> bool:
    """Whether as many people preferred the one as the other."""
    return row.get("p_win") is not None and float(row.need("p_win")) == 0.5


def _last_words(messages: list[Any]) -> str | None:
    """Of a conversation: what the user asked for last."""
    texts = [each.get("content") for each in messages if isinstance(each, dict) and each.get("role", "user") == "user"]
    return texts[-1] if texts and isinstance(texts[-1], str) else None
