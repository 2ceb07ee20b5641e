"""Comparisons as a Parquet file: the only thing that training reads.

No clock time and no random id is in it and the rows are in a fixed order, so the same ratings give the same bytes.
"""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data.records import Snapshot
from data.workspace import write_atomically

SCHEMA = pa.schema(
    [
        ("round", pa.int32()),
        ("task_id", pa.string()),
        ("prompt_id", pa.string()),
        ("prompt", pa.string()),
        ("task", pa.string()),
        ("split", pa.string()),
        ("rater_id", pa.string()),
        ("image_a", pa.string()),
        ("image_b", pa.string()),
        ("outcome", pa.string()),
        ("both_bad", pa.bool_()),
        ("left", pa.string()),
        ("images", pa.list_(pa.string())),
        ("values", pa.list_(pa.int32())),
        ("levels", pa.int32()),
        ("propensity", pa.float64()),
    ]
)
"""A row is a pair of images, up to `left`; or a ranking or grades, with null in image_a, image_b and outcome:

`images` with their `values`, which are ranks (1 is best, equal is a tie, null is worse than all that are ranked) or,
where `levels` is set, grades from 1 to `levels`. The store writes pairs, which is what its rating kinds ask for.
`propensity` is the task's: with what probability its images were chosen in that round; null is 1.
"""


def write(path: Path, rows: Sequence[tuple[object, ...]]) -> Snapshot:
    """Write rows (columns in the order of `SCHEMA`, missing ones at the end null) and return what was written."""
    columns = list(zip(*((*row, *[None] * (len(SCHEMA) - len(row))) for row in rows), strict=True)) or [()] * len(
        SCHEMA
    )
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), buffer, compression="zstd")
    content = buffer.getvalue()
    write_atomically(path, content)
    return Snapshot(sha256=hashlib.sha256(content).hexdigest(), path=path, comparisons=len(rows))
