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
    ]
)


def write(path: Path, rows: Sequence[tuple[object, ...]]) -> Snapshot:
    """Write rows (columns in the order of `SCHEMA`) and return what was written."""
    columns = list(zip(*rows, strict=True)) or [()] * len(SCHEMA)
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), buffer, compression="zstd")
    content = buffer.getvalue()
    write_atomically(path, content)
    return Snapshot(sha256=hashlib.sha256(content).hexdigest(), path=path, comparisons=len(rows))
