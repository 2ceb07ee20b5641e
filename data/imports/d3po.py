"""D3PO's preferences: human_prefer.json, a list of [1, -1], [-1, 1] or [0, 0], one for each two images.

D3PO lines that list up with its own latents and keeps no picture of what it was about, so two lists of the same length
must lie beside it: prompts.json (texts) and images.json (the two files of each). `hitl export` writes them.
"""

import json
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from data.imports.files import Files, Row, json_values, split_in_name, taken
from data.imports.records import Item, NotTaken, Refused, preference
from hitl.core.errors import ConfigError

_CHOICES = {(1, -1): "left", (1, 0): "left", (-1, 1): "right", (0, 1): "right", (0, 0): "tie"}


def read(files: Files) -> Iterator[Item]:
    for path in files.find("human_prefer.json"):
        split = split_in_name(path)
        if not files.split or split == files.split:
            yield from taken(_rows(files, path, split), lambda row: [_judged(files, row)])


def _rows(files: Files, path: Path, split: str) -> Iterator[Row | Refused]:
    beside = [path.with_name("prompts.json"), path.with_name("images.json")]
    for lacking in (each for each in beside if not each.is_file()):
        raise ConfigError(
            f"{files.name(path)} says what was preferred, but not of what: there is no {lacking.name} beside it.",
            hint="Put beside it prompts.json, a list of texts, and images.json, a list of two file names each.",
        )
    name = files.name(path)
    try:
        for number, values in enumerate(zip_longest(*map(json_values, (path, *beside))), 1):
            prefer, prompt, images = values
            told = {"prefer": prefer, "prompt": prompt, "images": images}
            yield Row(f"{name} row {number}", split, told, path.parent)
    except ValueError as error:
        yield Refused(row=name, reason=f"cannot be read on from here: {error}")


def _judged(files: Files, row: Row) -> Item:
    said, names = row.need("prefer"), row.need("images")
    choice = _CHOICES.get(tuple(said)) if _is_pair(said) else None
    if choice is None:
        raise NotTaken(f"has the preference {json.dumps(said)[:60]}; two of 1, 0 and -1 are expected")
    if not _is_pair(names):
        raise NotTaken(f"names the images {json.dumps(names)[:60]}; two are expected")
    return preference(
        choice,
        row=row.place,
        prompt=row.text("prompt"),
        split=row.split,
        pictures=tuple(files.picture(name, row) for name in names),
        is_order_known=files.is_ours,
    )


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2
