"""To take a rater out of the files of a workspace: snapshots, what was made of them, and copies that were set aside.

The store and the journal are `data.erasure`'s. Here is what lies beside them: a snapshot has the rater's id in its
rows, a reward model their reliability under it, and manifests name the snapshot by its hash, which changes with it.
"""

import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.erasure import Fate
from data.workspace import Workspace, sha256_of_file, write_atomically

_ORDER = ("round", "task_id", "rater_id", "image_a", "image_b")
"""Of a snapshot's rows, as the store writes them."""
_NAMES_SNAPSHOT = ("snapshot", "snapshot_sha")
"""Keys under which a file has the hash of the snapshot that it was made of."""
_NAMES_RATER = ("rater", "rater_name")
"""Keys under which a list of what was imported may have a rater's name."""
_REPORTS = ("report.html", "report.json")
"""Written again from the other files."""
_WITHOUT_RATERS = ("images", "cache", "journal.jsonl", "copies.jsonl")
"""Places in a workspace that hold no rater, or that are written again elsewhere."""
_HALF_MADE = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")
"""Names that `tempfile` gives to what will be called otherwise when it is whole."""
_NOT_TEXT = {".png", ".npz", ".pt", ".safetensors", ".parquet", ".tmp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of a snapshot before it is changed."""

    sha256: str
    rows: int
    """The rater's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Who is to be forgotten, and who stands in their place."""

    rater_id: str
    name: str
    new_id: str
    new_name: str
    ratings: Fate
    erased_at: str


def snapshots_with(workspace: Workspace, person: Person) -> tuple[dict[str, Known], list[str]]:
    """The snapshots that hold answers of the person, by their path in the workspace; and those that cannot be read."""
    import pyarrow as pa  # here and below, where a snapshot is touched: no command line waits for it
    import pyarrow.parquet as pq

    found, unreadable = {}, []
    for path in sorted([*workspace.root.glob("rounds/*/*.parquet"), *workspace.root.glob("fits/**/*.parquet")]):
        name = str(path.relative_to(workspace.root))
        try:
            raters = pq.read_table(path, columns=["rater_id"])
        except pa.ArrowException:
            unreadable.append(name)
            continue
        rows = raters["rater_id"].to_pylist().count(person.rater_id) if raters.num_columns else 0
        if rows:
            found[name] = Known(sha256=sha256_of_file(path), rows=rows)
    return found, unreadable


def change_snapshot(path: Path, known: Known, person: Person) -> str:
    """Write a snapshot without the person, unless that is done; its hash now.

    With `keep` their rows have the new id, in the order that the store would write. Otherwise they are left out.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if sha256_of_file(path) == known.sha256:
        table = pq.read_table(path)
        place, raters = table.schema.get_field_index("rater_id"), table["rater_id"].to_pylist()
        if person.ratings != "keep":
            table = table.filter(pa.array([rater != person.rater_id for rater in raters]))
        else:
            renamed = [person.new_id if rater == person.rater_id else rater for rater in raters]
            column = table.schema.field(place)
            table = table.set_column(place, column, pa.array(renamed, type=column.type))
            order = [(name, "ascending") for name in _ORDER if name in table.schema.names]
            table = table.sort_by(order).combine_chunks()
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        write_atomically(path, buffer.getbuffer())
    return sha256_of_file(path)


def files_to_change(workspace: Workspace, person: Person, snapshots: Mapping[str, Known]) -> Iterator[Path]:
    """Text files that name the person, or a snapshot that they were in."""
    words = [word.encode() for word in (person.rater_id, *(known.sha256 for known in snapshots.values()))]
    for path in _texts(workspace):
        content = path.read_bytes()
        is_import = path.is_relative_to(workspace.root / "imports")
        if any(word in content for word in words) or (is_import and person.name.encode() in content):
            yield path


def change_file(path: Path, person: Person, snapshots: Mapping[str, tuple[Known, str]]) -> bool:
    """Write a text file without the person, and with the snapshots' new hashes; False where that changes nothing.

    `snapshots` have what was known of each, and its hash now.
    """
    text = path.read_text(encoding="utf-8")
    hashes = {known.sha256: (known, now) for known, now in snapshots.values()}
    if path.suffix == ".json":
        changed = _json_without(text, person, hashes)
    elif path.suffix == ".jsonl":
        changed = "".join(_json_without(line, person, hashes) for line in text.splitlines(keepends=True))
    else:
        changed = text.replace(person.rater_id, person.new_id)
        for before, (_, now) in hashes.items():
            if now not in changed:
                changed = changed.replace(before, f"{now}, before an erasure {before}")
    if changed == text:
        return False
    write_atomically(path, changed.encode(), mode=path.stat().st_mode & 0o777)
    return True


def copies_set_aside(workspace: Workspace) -> list[Path]:
    """Old stores that were kept when the store was mended. All that is in them is in the journal too."""
    kept = [*workspace.root.glob("store.duckdb*.before-rebuild"), *workspace.root.glob("store.duckdb*.damaged")]
    return sorted(path for path in kept if path.is_file())


def half_written(workspace: Workspace, person: Person) -> list[Path]:
    """What names the person, or may, and whose writer was killed: files, and folders of exports. Nobody else is at
    work, so nobody ends them.
    """
    places = ("rounds", "fits", "erasures", "imports")
    words = person.rater_id.encode(), person.name.encode()  # an import's lists know names alone
    copies = set(_half_made_copies(workspace))
    return sorted(copies) + sorted(
        path
        for place in places
        for path in (workspace.root / place).rglob(".*.tmp")
        if copies.isdisjoint([path, *path.parents])
        and (".parquet." in path.name or any(word in path.read_bytes() for word in words))
    )


def _half_made_copies(workspace: Workspace) -> Iterator[Path]:
    """Folders in which an export was made, and archives of backups, wherever in the workspace they were to be.

    Those of another workspace inside this one are left: its own lock says whether somebody is at them.
    """
    for place, folders, names in os.walk(workspace.root):
        folder = Path(place)
        if folder == workspace.root:
            folders[:] = [name for name in folders if name not in _WITHOUT_RATERS]
        elif workspace.config_path.name in names:
            folders.clear()
            continue
        found = {name for name in [*folders, *names] if _HALF_MADE.fullmatch(name)}
        folders[:] = [name for name in folders if name not in found]
        for path in sorted(folder / name for name in found):
            if (path.is_dir() and not path.is_symlink()) or (path.is_file() and _is_backup(path)):
                yield path


def _is_backup(path: Path) -> bool:
    """By the name of the first file in it."""
    try:
        with path.open("rb") as file:
            return file.read(13) == b"store.duckdb\0"
    except FileNotFoundError:  # somebody else's, and it has its name by now
        return False


def files_with(workspace: Workspace, person: Person) -> list[str]:
    """Text files anywhere in the workspace that name the person by their id still."""
    word = person.rater_id.encode()
    return [
        str(path.relative_to(workspace.root))
        for place in sorted(workspace.root.iterdir())
        if place.name not in _WITHOUT_RATERS and not place.name.startswith("store.duckdb")
        for path in sorted([place, *place.rglob("*")])
        if path.is_file()
        and not path.is_symlink()
        and path.suffix not in _NOT_TEXT
        and not path.name.startswith("unfinished-")
        and word in path.read_bytes()
    ]


def _texts(workspace: Workspace) -> list[Path]:
    found: set[Path] = set()
    for folder in ("rounds", "fits", "imports"):
        for ending in ("json", "jsonl", "md"):
            found |= set((workspace.root / folder).rglob(f"*.{ending}"))
    return sorted(path for path in found if path.is_file() and path.name not in _REPORTS)


def _json_without(text: str, person: Person, hashes: Mapping[str, tuple[Known, str]]) -> str:
    """A file or a line of JSON. What a full disk cut short is none, and stays as it is but for the id."""
    try:
        found = json.loads(text)
    except ValueError:
        return text.replace(person.rater_id, person.new_id)
    changed = _without(found, person, hashes)
    if changed == found:
        return text
    indent = 2 if text.startswith("{\n") else None
    return json.dumps(changed, indent=indent, ensure_ascii=False) + ("\n" if text.endswith("\n") else "")


def _without(value: Any, person: Person, hashes: Mapping[str, tuple[Known, str]]) -> Any:
    """A JSON value without the person: what was said of them alone goes too, but with `keep` it has the new id."""
    is_kept = person.ratings == "keep"
    if isinstance(value, list):
        return [
            _without(item, person, hashes)
            for item in value
            if is_kept or not (isinstance(item, dict) and item.get("rater") == person.rater_id)
        ]
    if not isinstance(value, dict):
        return person.new_id if value == person.rater_id else value
    kept: dict[str, Any] = {}
    notes = list(value.get("erasures", []))
    for key, item in value.items():
        if key == "erasures":
            continue
        if key == person.rater_id:
            if is_kept:
                kept[person.new_id] = _without(item, person, hashes)
        elif key in _NAMES_RATER and item == person.name:
            kept[key] = person.new_name
        elif key in _NAMES_SNAPSHOT and item in hashes:
            known, kept[key] = hashes[item]
            notes.append(_note(person, known))
        else:
            kept[key] = _without(item, person, hashes)
    return kept | ({"erasures": notes} if notes else {})


def _note(person: Person, known: Known) -> dict[str, Any]:
    """Beside a snapshot's new hash: the one before, and why it is another."""
    return {
        "pseudonym": person.new_name,
        "ratings": person.ratings,
        "rows": known.rows,
        "snapshot": known.sha256,
        "erased_at": person.erased_at,
    }
