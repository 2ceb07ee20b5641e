"""The files that are imported: which tables are among them, their rows one by one, and the pictures they speak of.

Everything streams: a table of a million rows is read a few rows at a time.
"""

import base64
import binascii
import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

from data.imports.records import Item, NotTaken, Picture, Refused
from data.prompt_list import SPLITS
from hitl.core.errors import ConfigError

TABLES = (".parquet", ".arrow", ".jsonl", ".ndjson", ".json", ".csv", ".tsv")
NOT_TABLES = {"manifest.json", "dataset_info.json", "dataset_dict.json", "state.json", "sizes.json", "croissant.json"}
"""Files beside the tables that describe them."""
_ROWS = 64
_CHUNK = 1 << 20
_LONGEST_FIELD = 1 << 30
_BETWEEN = re.compile(r"[ \t\r\n,]*")
_OF_ANOTHER_TYPE = (TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError)
"""What a reader meets in a row whose values are of other types than its format says."""
_ID = re.compile(r"[0-9a-f]{64}")
_IMG = re.compile(r"""<img\s[^>]*?src=(["'])(.*?)\1""", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table."""

    place: str
    """`data/train.parquet row 17`."""
    split: str
    """That of the file's name; empty where it says none."""
    values: dict[str, Any]
    folder: Path
    """Where its table lies."""

    def get(self, *names: str) -> Any:
        """The first of these columns that is there and not null."""
        return next((self.values[name] for name in names if self.values.get(name) is not None), None)

    def need(self, *names: str) -> Any:
        """The same.

        Raises:
            NotTaken: none is.
        """
        found = self.get(*names)
        if found is None:
            raise NotTaken(f"has no {' or '.join(names)}")
        return found

    def text(self, *names: str) -> str:
        found = self.need(*names)
        if not isinstance(found, str) or not found.strip():
            raise NotTaken(f"has the {names[0]} {found!r:.60}, which is no text")
        return found


@dataclass(frozen=True)
class Files:
    """A file or a folder to be imported."""

    path: Path
    split: str = ""
    """Only what its source calls so; empty: all."""

    @cached_property
    def root(self) -> Path:
        """What no picture may lie outside of."""
        return (self.path if self.path.is_dir() else self.path.parent).resolve()

    @cached_property
    def _found(self) -> dict[tuple[str | Path, ...], Path]:
        """The files that were looked for: an image is named by many rows."""
        return {}

    @cached_property
    def missing(self) -> set[tuple[str, str]]:
        """Images and files of them that are not here, to be asked for no more."""
        return set()

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What an export of hitl says of itself; empty where this is none."""
        try:
            found = json.loads((self.root / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) and "hitl" in found and "format" in found else {}

    @property
    def is_ours(self) -> bool:
        """Whether hitl wrote it: its first image is then the one that stood on the left."""
        return bool(self.manifest)

    def find(self, *endings: str) -> list[Path]:
        """The files with one of these endings, by name; hidden ones left out."""
        if self.path.is_file():
            return [self.path] if self.path.name.lower().endswith(endings) else []
        found = (path for path in self.path.rglob("*") if path.is_file() and path.name.lower().endswith(endings))
        return sorted(path for path in found if not any(part.startswith(".") for part in self._parts(path)))

    def _parts(self, path: Path) -> tuple[str, ...]:
        return path.relative_to(self.path).parts

    @cached_property
    def tables(self) -> list[Path]:
        """Tables by name, those of the split that is asked for."""
        found = [path for path in self.find(*TABLES) if path.name not in NOT_TABLES]
        return [path for path in found if not self.split or split_in_name(path) == self.split]

    def name(self, path: Path) -> str:
        """How a file is called when we speak of it."""
        try:
            return path.resolve().relative_to(self.root).as_posix()
        except ValueError:
            return path.name

    def rows(self, paths: Iterable[Path] | None = None) -> Iterator[Row | Refused]:
        """The rows of some tables, or of all; a line that is no row is refused and the next one read."""
        for path in self.tables if paths is None else paths:
            name, split = self.name(path), split_in_name(path)
            try:
                for number, values in enumerate(read_table(path), 1):
                    place = f"{name} row {number}"
                    if isinstance(values, dict):
                        yield Row(place, split, values, path.parent)
                    else:
                        yield Refused(row=place, reason=str(values))
            except (OSError, ValueError, EOFError) as error:  # pyarrow's errors are ValueErrors too
                if isinstance(error, ConfigError):
                    raise
                yield Refused(row=name, reason=f"cannot be read on from here: {error}")

    def picture(self, value: Any, row: Row | None = None, *, model: object = None) -> Picture:
        """The picture that a column holds: bytes, `{"bytes", "path"}`, a data URL, or the path of a file in here.

        Raises:
            NotTaken: it is none of these, there is no such file, or its path leads out of what is imported.
        """
        drawn_by = "" if model is None else str(model)
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path") or value.get("file_name")
        if isinstance(value, list) and value and all(type(each) is int for each in value):
            value = bytes(value)
        if isinstance(value, bytes | bytearray | memoryview):
            return Picture(content=bytes(value), model=drawn_by)
        if not isinstance(value, str) or not value.strip():
            raise NotTaken(f"has {value!r:.60} where an image should be")
        if value.startswith("data:"):
            return Picture(content=_of_data_url(value), model=drawn_by)
        folders = [self.root] if row is None else [self.root, row.folder]
        return Picture(path=self.inside(value, folders), model=drawn_by)

    def inside(self, name: str, folders: Sequence[Path] = ()) -> Path:
        """The file of that relative path, looked for in some folders and in their `images/`.

        Raises:
            NotTaken: there is none, or it lies outside of what is imported.
        """
        if re.match(r"[a-z][a-z0-9+.-]*://", name, re.IGNORECASE):
            raise NotTaken(f"has the address {name[:80]!r} for an image; download it and name the file")
        searched = (name, *folders)
        if (known := self._found.get(searched)) is not None:
            return known
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or PureWindowsPath(name).drive or ".." in path.parts or "\0" in name:
            raise NotTaken(f"names the image {name[:80]!r}, which is not in the folder that is imported")
        for folder in dict.fromkeys(folders or [self.root]):
            for found in (folder / path, folder / "images" / path):
                if found.is_file():
                    if not found.resolve().is_relative_to(self.root):
                        raise NotTaken(f"names the image {name[:80]!r}, a link that leads out of the folder")
                    self._found[searched] = found
                    return found
        raise NotTaken(f"names the image {name[:80]!r}, and there is no such file")


def taken(rows: Iterable[Row | Refused], make: Callable[[Row], Iterable[Item]]) -> Iterator[Item]:
    """What `make` makes of each row; a row that it does not take is refused with its reason."""
    for row in rows:
        if isinstance(row, Refused):
            yield row
            continue
        try:
            items = list(make(row))
        except NotTaken as error:
            yield Refused(row=row.place, reason=str(error))
            continue
        except _OF_ANOTHER_TYPE as error:
            yield Refused(row=row.place, reason=f"has a value that this format has not: {error}")
            continue
        yield from items


def split_in_name(path: Path) -> str:
    """The split that a file's name says, or its folder's; empty where neither does."""
    stem = re.split(r"[-.]\d{3,}", path.name.rsplit(".", 1)[0])[0].lower()
    for word in (stem, path.parent.name.lower(), re.split(r"[-_.]", stem)[-1], re.split(r"[-_.]", stem)[0]):
        if word in SPLITS:
            return word
    return ""


def read_table(path: Path) -> Iterator[dict[str, Any] | str]:
    """The rows of a table, or words for a line that is none.

    Raises:
        OSError, ValueError: the file cannot be read (on).
    """
    ending = path.suffix.lower()
    if ending == ".parquet":
        yield from _parquet(path)
    elif ending == ".arrow":
        yield from _arrow(path)
    elif ending in (".csv", ".tsv"):
        yield from _csv(path, "\t" if ending == ".tsv" else ",")
    elif ending in (".jsonl", ".ndjson"):
        yield from _json_lines(path)
    else:
        yield from json_list(path)


def columns_of(path: Path) -> set[str]:
    """The columns of a table, or those of its first row; empty where it cannot be read."""
    try:
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq

            return set(pq.read_schema(path).names)
        first = next(read_table(path), {})
    except (OSError, ValueError, EOFError):
        return set()
    return set(first) if isinstance(first, dict) else set()


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS):
            yield from batch.to_pylist()


def _arrow(path: Path) -> Iterator[dict[str, Any]]:
    """Both of Arrow's file forms; `save_to_disk` writes the stream."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        try:
            batches: Iterable[Any] = pa.ipc.open_stream(source)
        except pa.ArrowInvalid:
            file = pa.ipc.open_file(source)
            batches = (file.get_batch(i) for i in range(file.num_record_batches))
        for batch in batches:
            for start in range(0, batch.num_rows, _ROWS):
                yield from batch.slice(start, _ROWS).to_pylist()


def _csv(path: Path, delimiter: str) -> Iterator[dict[str, Any] | str]:
    csv.field_size_limit(_LONGEST_FIELD)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise ValueError(f"line {reader.line_num}: {error}") from error
            if None in row or None in row.values():
                yield f"has {'more' if None in row else 'fewer'} fields than the header"
            else:
                yield dict(row)


def _json_lines(path: Path) -> Iterator[dict[str, Any] | str]:
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            if not line.strip():
                continue
            try:
                found = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield f"is not valid JSON: {error}"
                continue
            yield found if isinstance(found, dict) else f"is {line.strip()[:60]!r}, not an object"


def json_list(path: Path) -> Iterator[dict[str, Any] | str]:
    """The objects of a JSON list, and words for an item that is none."""
    for each in json_values(path):
        yield each if isinstance(each, dict) else f"is {each!r:.60}, not an object"


def json_values(path: Path) -> Iterator[Any]:
    """The items of a JSON list, read one by one; of an object the items of its first list, or the object itself."""
    with path.open(encoding="utf-8-sig") as file:
        items = _items(file)
        first = next(items, None)
        if first is None:
            return
        if first != "[":
            file.seek(0)
            whole = json.loads(file.read().lstrip("\ufeff"))
            if not isinstance(whole, dict):
                raise ValueError("it holds neither a list nor an object")
            yield from next((each for each in whole.values() if isinstance(each, list)), [whole])
            return
        yield from items


def _items(file: IO[str]) -> Iterator[Any]:
    """`"["` and then the items where the text is a list; else its first character alone."""
    decoder, text, at = json.JSONDecoder(), "", 0
    while not text and (chunk := file.read(_CHUNK)):
        text = chunk.lstrip()
    if not text:
        return
    yield text[0]
    at, is_whole = 1, False
    while True:
        between = _BETWEEN.match(text, at)
        at = between.end() if between else at
        if text.startswith("]", at):
            return
        try:
            item, end = decoder.raw_decode(text, at)
            if end == len(text) and not is_whole:
                raise ValueError("a number may go on after what was read")
        except ValueError as error:
            if is_whole:
                raise ValueError(f"the list is damaged or cut short: {error}") from error
            chunk = file.read(max(_CHUNK, len(text) - at))
            text, at, is_whole = text[at:] + chunk, 0, not chunk
            continue
        yield item
        at = end


def _of_data_url(value: str) -> bytes:
    header, _, data = value.partition(",")
    if ";base64" not in header:
        raise NotTaken("has an image as a data URL that is not base64")
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise NotTaken(f"has an image as a damaged data URL: {error}") from error


def image_in_html(text: str) -> str:
    """What the first `<img src="…">` of a text shows; empty where there is none."""
    found = _IMG.search(text)
    return found[2] if found else ""


def moment(value: object) -> datetime | None:
    """A time of a table, in UTC; None where it says none that we understand."""
    if isinstance(value, datetime):
        found = value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            found = datetime.fromtimestamp(value, UTC)
        except (ValueError, OverflowError, OSError):
            return None
    else:
        try:
            found = datetime.fromisoformat(str(value))
        except ValueError:
            return None
    return (found.replace(tzinfo=UTC) if found.tzinfo is None else found).astimezone(UTC)


def is_image_id(value: object) -> bool:
    return isinstance(value, str) and _ID.fullmatch(value) is not None
