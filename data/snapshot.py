"""Comparisons as a Parquet file: the only thing that training reads.

No clock time and no random id is in it and the rows are in a fixed order, so the same ratings give the same bytes.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data.records import Snapshot
from data.workspace import replacing

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


_ROWS = 100_000
"""In a row group, which is what is held in memory."""


def write(path: Path, batches: Iterable[pa.RecordBatch]) -> Snapshot:
    """Write rows, their columns in the order of `SCHEMA`, and return what was written."""
    count = 0
    with replacing(path) as file:
        with pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
            for table in _of_equal_size(batches):
                writer.write_table(table)
                count += len(table)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Snapshot(sha256=digest, path=path, comparisons=count)


def _of_equal_size(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """However the rows come, the file is the same."""
    held = SCHEMA.empty_table()
    for batch in batches:
        columns = [column.cast(field.type) for column, field in zip(batch.columns, SCHEMA, strict=True)]
        held = pa.concat_tables([held, pa.Table.from_arrays(columns, schema=SCHEMA)])
        while len(held) >= _ROWS:
            yield held.slice(0, _ROWS).combine_chunks()
            held = held.slice(_ROWS)
    yield held.combine_chunks()
