"""Whether a workspace still holds together: its journal, its store, its images and its snapshots.

The journal is applied to a fresh store, whose tables are compared with those of the store row by row; so neither is
taken at its word. What differs is said in one sentence, with what to do about it.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from data.database import Database, TableDifference
from data.erasing import any_left
from data.fact_log import apply_entries
from data.journal import Position, entries_up_to, read_entries
from data.store import Store
from data.workspace import Workspace, sha256_of_file
from hitl.core.errors import DiskFull, StoreError, WorkspaceError

_MOST_NAMED = 100
"""Images that are named one by one; a disk that lost a folder is told in one more line."""
_FROM_A_BACKUP = "Put it back from a backup."


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that is not as it should be."""

    kind: Literal["journal", "store", "image", "snapshot"]
    what: str
    hint: str


@dataclass(slots=True, kw_only=True)
class Findings:
    """What was looked at, and what differs."""

    events: int = 0
    """Lines of the journal whose facts were compared."""
    images: int = 0
    snapshots: int = 0
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is worth knowing and no fault: files that belong to no image, images that are withdrawn already."""

    def differs(self, kind: Literal["journal", "store", "image", "snapshot"], what: str, hint: str) -> None:
        self.differences.append(Difference(kind=kind, what=what, hint=hint))


def check(workspace: Workspace, store: Store, *, quick: bool = False) -> Findings:
    """Compare what is written down twice; when `quick`, of images only see whether their files are there.

    The store may be a copy that the hub made: lines of the journal that came later are read and not compared.
    """
    found = Findings()
    _check_facts(workspace, store, found)
    _check_images(workspace, store, found, quick=quick)
    _check_snapshots(workspace, store, found)
    if any_left(workspace):
        found.notes.append(
            "An erasure is not finished, and a snapshot that it changed differs until it is: start a hub here, or say"
            " `hitl raters erase` again; then check again."
        )
    return found


def replay(journal: Path, fresh: Path, until: Position) -> None:
    """Make a store's file from the journal's lines up to `until`.

    Raises:
        StoreError: there is no journal, a line of it was changed, or it does not hold `until`.
    """
    database = Database.open(fresh)
    try:
        with database.writing(), _open(journal) as file:
            apply_entries(database, entries_up_to(file, journal, until))
            database.checkpoint()
    finally:
        database.close()


def _open(journal: Path) -> BinaryIO:
    try:
        return journal.open("rb")
    except OSError as error:
        raise StoreError(
            f"The journal {journal} cannot be read: {error.strerror}.",
            hint="Put back journal.jsonl from a backup.",
        ) from error


def _check_facts(workspace: Workspace, store: Store, found: Findings) -> None:
    until = store.journal_position
    with tempfile.TemporaryDirectory(prefix="hitl-check-") as folder:
        fresh = Path(folder) / "journal.duckdb"
        try:
            replay(workspace.journal_path, fresh, until)
            for _ in read_entries(workspace.journal_path, after=until):
                pass  # what came after the copy was made: its chain alone
        except DiskFull:
            raise
        except StoreError as error:
            found.differs("journal", error.message, error.hint)
            return
        found.events = until.seq
        for table in store.differences(fresh):
            found.differs("store", _in_words(table), _REBUILD)


_REBUILD = (
    "The journal is what people did: `hitl db rebuild` makes the store again from it and keeps the old file aside."
)


def _in_words(found: TableDifference) -> str:
    parts = []
    for count, where, first in (
        (found.here, "the store", found.first_here),
        (found.there, "the journal", found.first_there),
    ):
        if count:
            parts.append(f"{count} row{'s' if count > 1 else ''} in {where} alone (the first: {first})")
    return f"The table {found.table} has {' and '.join(parts)}."


# -- images -----------------------------------------------------------------------------------------------------------


def _check_images(workspace: Workspace, store: Store, found: Findings, *, quick: bool) -> None:
    withdrawn = {image.image_id for image in store.withdrawn_images()}
    unknown, lost, gone = 0, 0, 0
    for prefix in _prefixes():
        known = store.image_ids(prefix)
        unknown += len(_names(workspace.images_dir / prefix) - {f"{image_id}.png" for image_id in known})
        found.images += len(known)
        for image_id in known:
            fault = _fault(workspace, image_id, quick=quick)
            if fault and image_id in withdrawn:
                gone += 1
            elif fault:
                lost += 1
                if lost <= _MOST_NAMED:
                    found.differs("image", f"The image {image_id}: its file {fault}.", _FROM_A_BACKUP)
    unknown += len(_names(workspace.images_dir) - {*_prefixes()})
    if lost > _MOST_NAMED:
        found.differs("image", f"{lost - _MOST_NAMED} more images are missing or damaged.", "Put them back as well.")
    if gone:
        found.notes.append(f"{gone} images are withdrawn: their files cannot be shown, and nobody is asked about them.")
    if unknown:
        found.notes.append(
            f"{unknown} files under images/ belong to no image of the store; a draw that is at work or was interrupted"
            " leaves such, and they harm nothing."
        )


def _prefixes() -> Iterator[str]:
    """Names of the folders under images/."""
    return (f"{number:02x}" for number in range(256))


def _names(folder: Path) -> set[str]:
    try:
        return {path.name for path in folder.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _fault(workspace: Workspace, image_id: str, *, quick: bool) -> str:
    """What is wrong with an image's file, after the words "its file"; empty when nothing is."""
    if quick:
        return "" if workspace.image_path(image_id).is_file() else "is missing"
    try:
        return workspace.read_image(image_id)[1]
    except OSError as error:
        return f"cannot be read ({error.strerror})"


# -- snapshots --------------------------------------------------------------------------------------------------------


def _check_snapshots(workspace: Workspace, store: Store, found: Findings) -> None:
    """The file that a round learned from is the one its `rate` stage froze."""
    for number in sorted(known.number for known in store.rounds()):
        path = workspace.round_dir(number) / "snapshot.parquet"
        try:
            manifest = workspace.manifest(number, "rate")
        except WorkspaceError as error:
            found.differs("snapshot", error.message, error.hint)
            continue
        if manifest is None:
            continue
        found.snapshots += 1
        fault = _fault_of_snapshot(path, manifest.get("snapshot"))
        if fault:
            found.differs("snapshot", f"The snapshot of round {number}, {path}, {fault}.", _FROM_A_BACKUP)


def _fault_of_snapshot(path: Path, expected: object) -> str:
    try:
        digest = sha256_of_file(path)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "" if digest == expected else "is not the one that the round's ratings were frozen in"
