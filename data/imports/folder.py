"""Pictures that nobody rated yet, and a table of their prompts: columns file, prompt and, where wanted, task and split.

They become images of round 0. With tasks made of them (`hitl import --tasks N`), people here rate them under
`hitl serve`.
"""

from collections.abc import Iterator

from data.imports.files import Files, Row, taken
from data.imports.records import Item, Shown

FILE_COLUMNS = ("file", "file_name", "filename", "image", "path", "image_path")
PROMPT_COLUMNS = ("prompt", "caption", "text")


def read(files: Files) -> Iterator[Item]:
    yield from taken(files.rows(), lambda row: [_shown(files, row)])


def _shown(files: Files, row: Row) -> Item:
    split = row.get("split") or row.split
    return Shown(
        row=row.place,
        prompt=row.text(*PROMPT_COLUMNS),
        picture=files.picture(row.need(*FILE_COLUMNS), row, model=row.get("model")),
        task=str(row.get("task", "category") or ""),
        split=str(split),
    )
