"""Votes of an arena: model_a, model_b, winner, judge, tstamp, with columns that an arena's own file has not.

A vote says which model won and not what it drew, so there is nothing to learn from it without the prompt and the two
images: columns `prompt`, `image_a` and `image_b`. A file without them is refused as a whole.
"""

from collections.abc import Iterator

from data.imports.files import Files, Row, columns_of, moment, taken
from data.imports.records import Item, NotTaken, preference
from hitl.core.errors import ConfigError

_CHOICES = {
    "model_a": "left",
    "model_b": "right",
    "tie": "tie",
    "tie (bothbad)": "both_bad",
    "bothbad": "both_bad",
    "both_bad": "both_bad",
}
_NEEDED = ("prompt", "image_a", "image_b")


def read(files: Files) -> Iterator[Item]:
    for path in files.tables:
        if lacking := [name for name in _NEEDED if name not in columns_of(path)]:
            raise ConfigError(
                f"{files.name(path)} has votes, but not what was voted on: it lacks {', '.join(lacking)}.",
                hint="Add the columns prompt, image_a and image_b: the text, and each image's file beside the table.",
            )
    yield from taken(files.rows(), lambda row: [_judged(files, row)])


def _judged(files: Files, row: Row) -> Item:
    winner = row.need("winner")
    if winner not in _CHOICES:
        raise NotTaken(f"has the winner {winner!r:.40}; model_a, model_b, tie or tie (bothbad) is expected")
    return preference(
        _CHOICES[winner],
        row=row.place,
        prompt=row.text("prompt"),
        split=str(row.get("split") or row.split),
        pictures=(
            files.picture(row.need("image_a"), row, model=row.get("model_a")),
            files.picture(row.need("image_b"), row, model=row.get("model_b")),
        ),
        rater=str(row.get("judge") or ""),
        is_order_known=True,
        at=moment(row.get("tstamp")),
    )
