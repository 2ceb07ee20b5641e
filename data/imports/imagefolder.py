"""A folder of images whose metadata names, in each row, the chosen and the rejected file."""

from collections.abc import Iterator

from data.imports.files import Files, Row, taken
from data.imports.records import Item, preference
from data.imports.trl import is_even


def read(files: Files) -> Iterator[Item]:
    paths = [path for path in files.tables if path.name.startswith("metadata.")] or files.tables
    yield from taken(files.rows(paths), lambda row: [_judged(files, row)])


def _judged(files: Files, row: Row) -> Item:
    names = ("chosen_file_name", "chosen"), ("rejected_file_name", "rejected")
    return preference(
        "tie" if is_even(row) else "left",
        row=row.place,
        prompt=row.text("prompt", "caption", "text"),
        split=row.split,
        task=str(row.get("task") or ""),
        rater=str(row.get("rater") or ""),
        pictures=tuple(files.picture(row.need(*name), row) for name in names),
    )
