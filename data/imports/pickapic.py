"""Pick-a-Pic, versions 1 and 2, and what is shaped like it: images as bytes in two columns, a label for each.

Parquet files, or what `save_to_disk` writes. Rows without a label are refused. The data set does not say which image a
rater saw on the left, so the sides are drawn by chance: a bias to one side cannot be found in what is imported.
"""

from collections.abc import Iterator
from pathlib import Path

from data.imports.files import Files, Row, moment, taken
from data.imports.records import Item, Judged, NotTaken, preference

_CHOICES = {(1.0, 0.0): "left", (0.0, 1.0): "right", (0.5, 0.5): "tie"}


def read(files: Files) -> Iterator[Item]:
    yield from taken(files.rows(tables(files)), lambda row: [judged(files, row, has_raters=True)])


def tables(files: Files) -> list[Path]:
    """A folder may hold the same rows in both forms: then the Parquet files alone."""
    parquet = [path for path in files.tables if path.suffix == ".parquet"]
    return parquet or files.tables


def judged(files: Files, row: Row, *, has_raters: bool) -> Judged:
    if row.get("has_label") is False:
        raise NotTaken("was not rated (has_label is false)")
    user = row.get("user_id") if has_raters else None
    return preference(
        label(row),
        row=row.place,
        prompt=row.text("caption", "prompt"),
        split=row.split,
        pictures=(
            files.picture(row.need("jpg_0", "image_0"), row, model=row.get("model_0")),
            files.picture(row.need("jpg_1", "image_1"), row, model=row.get("model_1")),
        ),
        rater="" if user is None else str(user),
        is_order_known=files.is_ours,
        at=moment(row.get("created_at")),
    )


def label(row: Row) -> str:
    """The choice that two labels say.

    Raises:
        NotTaken: they are not 1 and 0, or a half each.
    """
    labels = row.need("label_0"), row.get("label_1")
    try:
        first = float(labels[0])
        second = 1.0 - first if labels[1] is None else float(labels[1])
        return _CHOICES[first, second]
    except (TypeError, ValueError, KeyError) as error:
        raise NotTaken(f"has the labels {labels[0]!r} and {labels[1]!r}; 1 and 0, or 0.5 each, are expected") from error
