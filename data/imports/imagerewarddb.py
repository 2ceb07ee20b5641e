"""ImageRewardDB: a row for each image, a group for each prompt, or pairs.

As Parquet with the images inside, which the data set's loading script makes, or as the repository itself has it: rows
in a JSON file in each unpacked archive, with the images beside it. They say the same over and over, so of a folder that
holds several one is read: groups, else rows, else pairs.

What is taken is the place of each image. The three grades of 1 to 7 are left out: they are the same annotators'
judgement of the same images, which would count twice, and say less than the place.

Source: the data set's card and ImageRewardDB.py, of which `image_path` is the file's name in its archive's folder.
"""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath

from data.imports.files import Files, Row, columns_of, taken
from data.imports.imagereward import numbers
from data.imports.records import Item, NotTaken, Picture, Refused, preference, ranked


def read(files: Files) -> Iterator[Item]:
    forms: dict[str, list[Path]] = {"groups": [], "rows": [], "pairs": []}
    for path in files.tables:
        forms[_form(path)].append(path)
    form, paths = next((each for each in forms.items() if each[1]), ("rows", []))
    if form == "rows":
        yield from _read_rows(files, paths)
        return
    make = _judged_group if form == "groups" else _judged_pair
    yield from taken(files.rows(paths), lambda row: make(files, row))


def _form(path: Path) -> str:
    columns = columns_of(path)
    if "img_better" in columns:
        return "pairs"
    return "rows" if "image_amount_in_total" in columns else "groups"


def _read_rows(files: Files, paths: list[Path]) -> Iterator[Item]:
    """The images of one prompt follow each other. The JSON files are of the archives that are here, metadata-*.parquet
    is of all of them."""
    rows = files.rows([path for path in paths if path.suffix == ".json"] or paths)
    for (_, is_row), found in groupby(rows, key=_prompt_of):
        group = list(found)
        if not is_row:
            yield from (each for each in group if isinstance(each, Refused))
            continue
        members = [each for each in group if isinstance(each, Row)]
        yield from taken(members[:1], lambda first, members=members: _judged_rows(files, first, members))


def _prompt_of(row: Row | Refused) -> tuple[object, bool]:
    return ((row.split, row.get("prompt_id", "prompt")), True) if isinstance(row, Row) else (None, False)


def _judged_rows(files: Files, first: Row, members: list[Row]) -> list[Item]:
    pictures = tuple(_picture(files, each) for each in members)
    return _ranked(first, pictures, [each.need("rank") for each in members])


def _picture(files: Files, row: Row) -> Picture:
    value = row.need("image", "image_path")
    if row.get("image") is None:
        try:
            return files.picture(PurePosixPath(value).name, row)
        except NotTaken:
            pass  # not beside its table: where its path says
    return files.picture(value, row)


def _judged_group(files: Files, row: Row) -> list[Item]:
    images, ranks = row.need("image"), row.need("rank")
    if not isinstance(images, list) or not isinstance(ranks, list):
        raise NotTaken("has image and rank that are not both lists")
    return _ranked(row, tuple(files.picture(each, row) for each in images), ranks)


def _ranked(row: Row, pictures: tuple, ranks: list[object]) -> list[Item]:
    about = {"row": row.place, "prompt": row.text("prompt"), "split": row.split}
    task = str(row.get("classification") or "")
    return [*ranked(numbers(ranks), pictures=pictures, task=task, **about)]


def _judged_pair(files: Files, row: Row) -> list[Item]:
    return [
        preference(
            "left",
            row=row.place,
            prompt=row.text("prompt"),
            split=row.split,
            task=str(row.get("classification") or ""),
            pictures=tuple(files.picture(row.need(name), row) for name in ("img_better", "img_worse")),
        )
    ]
