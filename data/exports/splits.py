"""Rows in Parquet files as `datasets` lays them out: `data/train-00000-of-00002.parquet`, and so on for each split."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_ROWS_AT_ONCE = 100
"""Of a row group. With images in them, more would not fit into a reader's memory."""
_SHARD_BYTES = 500 * 2**20


class ParquetSplits:
    """Takes rows one by one, and keeps no more than a row group of each split in memory."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self._folder = folder
        self._schema = schema
        self._splits: dict[str, _Shards] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, split: str, row: dict[str, Any]) -> None:
        if split not in self._splits:
            self._splits[split] = _Shards(self._folder, split, self._schema)
        self._splits[split].add(row)

    def close(self) -> dict[str, int]:
        """Finish the files; how many rows each split has."""
        return {split: shards.close() for split, shards in self._splits.items()}

    def pattern(self, split: str) -> str:
        """The files of a split as a pattern, in the folder's parent."""
        return f"{self._folder.name}/{split}-*.parquet"


class _Shards:
    def __init__(self, folder: Path, split: str, schema: pa.Schema) -> None:
        self._folder, self._split, self._schema = folder, split, schema
        self._waiting: list[dict[str, Any]] = []
        self._paths: list[Path] = []
        self._writer: pq.ParquetWriter | None = None
        self._bytes = self._rows = 0

    def add(self, row: dict[str, Any]) -> None:
        self._waiting.append(row)
        self._rows += 1
        if len(self._waiting) >= _ROWS_AT_ONCE:
            self._write()

    def close(self) -> int:
        self._write()
        self._end_shard()
        for number, path in enumerate(self._paths):
            path.rename(self._folder / f"{self._split}-{number:05d}-of-{len(self._paths):05d}.parquet")
        return self._rows

    def _write(self) -> None:
        table = pa.Table.from_pylist(self._waiting, schema=self._schema)
        self._waiting.clear()
        if self._writer is None:
            path = self._folder / f"{self._split}-{len(self._paths):05d}.parquet"
            self._paths.append(path)
            self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._writer.write_table(table)
        self._bytes += table.nbytes
        if self._bytes >= _SHARD_BYTES:
            self._end_shard()

    def _end_shard(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer, self._bytes = None, 0
