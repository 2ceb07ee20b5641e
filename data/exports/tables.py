"""All facts as they are, as tables: one row to a rating, task, prompt, image and rater, and the comparisons from them.

What is read back from `ratings`, `tasks`, `prompts`, `images` and `raters` is the same store, with raters under their
pseudonyms. `comparisons` is derived and is there to be used.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from data.exports.source import Source, Ties, Written

TIES: tuple[Ties, ...] = ("keep", "drop")
SPLITS = ("train", "train", "train")
ENDINGS = ("parquet", "csv", "jsonl")

_UTC = pa.timestamp("us", tz="UTC")

LOAD = {
    "parquet": """\
import pyarrow.parquet
comparisons = pyarrow.parquet.read_table("FOLDER/comparisons.parquet").to_pandas()
print(comparisons[["prompt", "image_a", "image_b", "outcome", "rater"]].head())""",
    "csv": """\
import pandas
comparisons = pandas.read_csv("FOLDER/comparisons.csv", keep_default_na=False)
print(comparisons[["prompt", "image_a", "image_b", "outcome", "rater"]].head())""",
    "jsonl": """\
import json
with open("FOLDER/comparisons.jsonl", encoding="utf-8") as file:
    comparisons = [json.loads(line) for line in file]
print(comparisons[0]["prompt"], comparisons[0]["outcome"], comparisons[0]["rater"])""",
}


def write(source: Source, folder: Path) -> Written:
    ending, streams = source.options.format, source.streams
    tables: dict[str, Iterable[pa.RecordBatch]] = {
        "prompts": streams.prompts(),
        "images": _with_files(source, folder),
        "tasks": streams.tasks(),
        "raters": streams.raters(),
        "ratings": streams.ratings(),
        "comparisons": comparisons(source, lambda image_id: f"images/{image_id}.{source.ending}"),
    }
    rows = {name: write_table(batches, folder / f"{name}.{ending}") for name, batches in tables.items()}
    notes = [
        "`ratings` has every row: skips, checks of the rater, undos and what they took back. `payload` and "
        "`provenance` are JSON, and `server_time` is UTC.",
        "`comparisons` is derived: the pairs that were asked about, and any two images of a ranking or of overall "
        "grades, from answers that stand, without skips and checks. `left` says which image was displayed first.",
    ]
    if ending == "csv":
        notes.append(
            "Texts are in quotes and as they were given. A prompt that begins with `=`, `+`, `-` or `@` would run as a "
            "formula in a spreadsheet: import the columns as text. Lists are JSON."
        )
    configs = (("default", {"train": f"comparisons.{ending}"}),)
    return Written(rows=rows, load=LOAD[ending], configs=configs, notes=tuple(notes))


def comparisons(source: Source, path_of: Callable[[str], str]) -> Iterator[pa.RecordBatch]:
    """Comparisons with the images' files as paths, from wherever the table stands, beside their ids."""
    for batch in source.comparisons():
        batch = batch.drop_columns(["half", "rater_number", "is_lost"])
        for side in ("image_a", "image_b"):
            ids = batch[side]
            paths = pa.array([path_of(image_id) for image_id in ids.to_pylist()], pa.string())
            batch = batch.set_column(batch.schema.get_field_index(side), side, paths)
            batch = batch.append_column(f"{side}_id", ids)
        yield batch


def _with_files(source: Source, folder: Path) -> Iterator[pa.RecordBatch]:
    """The rows of images, each file put in its place; null for a file that cannot be had."""
    lost = set(source.selection.lost)
    for batch in source.streams.images():
        files = []
        for row in batch.select(["image_id", "withdrawn"]).to_pylist():
            can_be_had = row["image_id"] not in lost and not source.workspace.read_image(row["image_id"])[1]
            files.append(f"images/{source.place(row['image_id'], folder / 'images')}" if can_be_had else None)
        yield batch.append_column("file", pa.array(files, pa.string()))


def write_table(batches: Iterable[pa.RecordBatch], path: Path) -> int:
    """Write record batches as the file's ending says; how many rows there were. At least one batch must come."""
    timed = (_with_utc(batch) for batch in batches)
    return {".parquet": _write_parquet, ".csv": _write_csv, ".jsonl": _write_json_lines}[path.suffix](timed, path)


def _with_utc(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Times as what they are: the database keeps them in UTC without saying so."""
    for place, column in enumerate(batch.schema):
        if pa.types.is_timestamp(column.type):
            batch = batch.set_column(place, column.name, batch[column.name].cast(_UTC))
    return batch


def _write_parquet(batches: Iterator[pa.RecordBatch], path: Path) -> int:
    first = next(batches)
    rows = 0
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        for batch in itertools.chain([first], batches):
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def _write_csv(batches: Iterator[pa.RecordBatch], path: Path) -> int:
    first = _flat(next(batches))
    rows = 0
    with csv.CSVWriter(path, first.schema) as writer:
        for batch in itertools.chain([first], map(_flat, batches)):
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def _flat(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A cell of CSV is a text or a number: lists become JSON, times ISO 8601, truth `true` and `false`."""
    for place, column in enumerate(batch.schema):
        if pa.types.is_list(column.type) or pa.types.is_timestamp(column.type):
            cells = [_plain(value) for value in batch[column.name].to_pylist()]
            texts = [json.dumps(cell) if isinstance(cell, list) else cell for cell in cells]
            batch = batch.set_column(place, column.name, pa.array(texts, pa.string()))
    return batch


def _write_json_lines(batches: Iterator[pa.RecordBatch], path: Path) -> int:
    rows = 0
    with path.open("wb") as file:
        for batch in batches:
            file.writelines(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in batch.to_pylist())
            rows += batch.num_rows
    return rows


def _plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value
