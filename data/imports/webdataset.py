"""WebDataset shards: tar files in which the files of one sample follow each other and share a name up to the first dot.

A sample is two images (`0.png` and `1.png`, or `.jpg`, `.webp`) and a `.json` with the prompt and the labels: `label_0`
and `label_1` as in Pick-a-Pic. The prompt may be in a `.txt` of its own. Nothing is unpacked to the disk.
"""

import json
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath

from data.imports.files import Files, Row, moment, split_in_name, taken
from data.imports.pickapic import label
from data.imports.records import Item, NotTaken, Refused, preference

_LARGEST = 512 * 2**20
_PICTURES = ("png", "jpg", "jpeg", "webp")


def read(files: Files) -> Iterator[Item]:
    for path in files.find(".tar", ".tar.gz", ".tgz"):
        split = split_in_name(path)
        if files.split and split != files.split:
            continue
        yield from taken(_samples(files, path, split), lambda row: [_judged(files, row)])


def _samples(files: Files, path: Path, split: str) -> Iterator[Row | Refused]:
    """Each sample as a row, its columns the ends of its files' names."""
    name = files.name(path)
    try:
        with tarfile.open(path, "r|*") as shard:
            parts = ((member, _key(member.name)) for member in shard if member.isfile())
            for key, members in groupby(parts, key=lambda part: part[1][0]):
                values: dict[str, object] = {}
                for member, (_, ending) in members:
                    if member.size > _LARGEST:
                        yield Refused(row=f"{name} {key}", reason=f"has a file of {member.size} bytes, {member.name!r}")
                        continue
                    content = shard.extractfile(member)
                    values[ending] = content.read() if content is not None else b""
                yield Row(f"{name} {key}", split, values, path.parent)
    except (tarfile.TarError, OSError, EOFError) as error:
        yield Refused(row=name, reason=f"cannot be read on from here: {error}")


def _key(name: str) -> tuple[str, str]:
    """The sample's name, and which of its files it is."""
    path = PurePosixPath(name)
    stem, _, ending = path.name.partition(".")
    return str(path.parent / stem), ending.lower()


def _judged(files: Files, row: Row) -> Item:
    try:
        told = json.loads(row.need("json"))
        prompt = row.values["txt"].decode() if "txt" in row.values else None
    except ValueError as error:
        raise NotTaken(f"has a .json or .txt that cannot be read: {error}") from error
    if not isinstance(told, dict):
        raise NotTaken("has a .json that is no object")
    facts = Row(row.place, row.split, {"txt": prompt, **told}, row.folder)
    pictures = [row.need(*(f"{side}.{ending}" for ending in _PICTURES)) for side in (0, 1)]
    return preference(
        "both_bad" if facts.get("both_bad") is True else label(facts),
        row=row.place,
        prompt=facts.text("prompt", "caption", "txt"),
        split=row.split,
        pictures=(
            files.picture(pictures[0], model=facts.get("model_0")),
            files.picture(pictures[1], model=facts.get("model_1")),
        ),
        is_order_known=files.is_ours,
        task=str(facts.get("task") or ""),
        rater=str(facts.get("rater", "user_id") or ""),
        at=moment(facts.get("created_at")),
    )
