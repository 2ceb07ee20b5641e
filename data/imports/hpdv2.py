"""HPDv2: train.json with pairs, test.json with the rankings of several people.

A pair's `human_preference` is [1, 0], [0, 1] or a half each. Of a ranking every annotator's is taken by itself, by the
`user_hash`; where there are none, the mean places as one answer. Places: the lowest is best.

Source: the card of the data set ymhao/HPDv2 and the README of tgxs002/HPSv2.
"""

from collections.abc import Iterator

from data.imports.files import Files, Row, taken
from data.imports.imagereward import numbers
from data.imports.records import Item, NotTaken, Picture, preference, ranked

_CHOICES: dict[tuple[float, ...], str] = {(1.0, 0.0): "left", (0.0, 1.0): "right", (0.5, 0.5): "tie"}


def read(files: Files) -> Iterator[Item]:
    yield from taken(files.rows(), lambda row: _judged(files, row))


def _judged(files: Files, row: Row) -> list[Item]:
    names = row.need("file_path", "image_path")
    if not isinstance(names, list) or len(names) < 2:
        raise NotTaken(f"names the images {names!r:.60}; a list of two or more is needed")
    pictures = tuple(_picture(files, row, name) for name in names)
    about = {"row": row.place, "prompt": row.text("prompt"), "split": row.split, "pictures": pictures}
    wanted = row.get("human_preference")
    if wanted is not None:
        choice = _CHOICES.get((*numbers(list(wanted)),))
        if choice is None or len(pictures) != 2:
            raise NotTaken(f"has the human_preference {wanted!r:.60} for {len(pictures)} images")
        rater = str(row.get("user_hash") or "")
        return [preference(choice, rater=rater, is_order_known=files.is_ours, **about)]
    annotations = row.get("raw_annotations", "raw_annotation") or []  # the card's name, and the repository's
    if not annotations:
        return [*ranked(numbers(list(row.need("rank"))), **about)]
    found: list[Item] = []
    for each in annotations:
        ranks = numbers(list(each.get("rank") or []))
        found += ranked(ranks, rater=str(each.get("user_hash") or ""), **about)
    return found


def _picture(files: Files, row: Row, name: object) -> Picture:
    """The files lie beside the JSON, or in a folder of the split's name."""
    if isinstance(name, str):
        folders = [files.root, row.folder, *(files.root / split for split in ("train", "test"))]
        return Picture(path=files.inside(name, folders))
    return files.picture(name, row)
