"""ImageReward's trainer files: train.json, valid.json and test.json, a ranking of the images of each prompt.

Places: 1 is best, equal ones are a tie. Two images are a pair and four to nine a ranking; of other numbers every pair
becomes a comparison of its own. Raters are in it where hitl wrote it.
"""

import math
from collections.abc import Iterator

from data.imports.files import Files, Row, taken
from data.imports.records import Item, NotTaken, ranked


def read(files: Files) -> Iterator[Item]:
    yield from taken(files.rows(), lambda row: _judged(files, row))


def _judged(files: Files, row: Row) -> list[Item]:
    names, ranks = row.need("generations"), row.need("ranking")
    if not isinstance(names, list) or not isinstance(ranks, list):
        raise NotTaken("has generations and ranking that are not both lists")
    return [
        *ranked(
            numbers(ranks),
            row=row.place,
            prompt=row.text("prompt"),
            split=row.split,
            pictures=tuple(files.picture(name, row) for name in names),
            task=str(row.get("classification") or ""),
            rater=str(row.get("rater") or ""),
        )
    ]


def numbers(values: list[object]) -> list[float]:
    """The values as numbers.

    Raises:
        NotTaken: one is none.
    """
    found = [float(each) for each in values if isinstance(each, int | float) and not isinstance(each, bool)]
    if len(found) != len(values) or not all(map(math.isfinite, found)):
        raise NotTaken(f"has the ranks {values!r:.60}, which are not all numbers")
    return found
