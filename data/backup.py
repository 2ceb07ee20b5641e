"""A workspace in one file, made while its hub runs and its raters rate.

The file is an uncompressed tar (images do not get smaller), so that any tar program opens it. What goes in is of one
moment: a copy of the store, the journal up to the last line that the copy has seen, the images that it knows, and the
files of stages that were finished before the copy was made, whose facts it therefore has.

The last member is the manifest, a line of JSON about the whole and one for each member, with size and sha256. It is
last as a stage's manifest is: everything is read once, and a file that was cut short has none.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from data.at_work import Files
from data.copies import Copy, note_copy
from data.journal import Position, entries_up_to
from data.store import Store
from data.workspace import STAGES, Workspace, disk_errors, fsync_dir
from hitl.core.errors import ConfigError, StoreError, WorkspaceError

FORMAT = 1
MANIFEST = "manifest.jsonl"
STORE, JOURNAL = "store.duckdb", "journal.jsonl"
_FOLDERS = frozenset({"images", "rounds", "fits", "erasures", "imports", "studies"})
_PRIVATE = frozenset({STORE, JOURNAL, "session.key", "copies.jsonl"})
_TEXTS = frozenset({".toml", ".txt", ".csv", ".tsv", ".json", ".jsonl", ".md"})
"""Of files directly in the workspace: the configuration, lists of prompts, notes."""
_NOT_KEPT = frozenset({"hub.json", MANIFEST})


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """What was written."""

    events: int
    """Number of the last line of the journal in it."""
    files: int
    bytes: int
    missing: tuple[str, ...]
    """Ids of images that the store knows and whose files were not there."""


def belongs(name: str) -> bool:
    """Whether a backup may hold a file of this name, relative to the workspace."""
    path = PurePosixPath(name)
    if "\0" in name or not _is_unicode(name) or str(path) != name or path.is_absolute():
        return False
    if any(part.startswith(".") for part in path.parts):
        return False
    if len(path.parts) > 1:
        return path.parts[0] in _FOLDERS
    return name in _PRIVATE or (name not in _NOT_KEPT and path.suffix in _TEXTS)


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def manifest_line(told: dict[str, object]) -> bytes:
    return json.dumps(told, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def forget_members(tar: tarfile.TarFile) -> None:
    """Python keeps a list of all that passed (before 3.13 always): of a million images that is a gigabyte."""
    tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  # not in the type stubs


def write_backup(
    workspace: Workspace,
    out: Path,
    copied_store: Callable[[], AbstractContextManager[Path]],
    *,
    app_version: str,
    made_at: datetime,
) -> Backup:
    """Write all of a workspace into a new file that only its owner can read; it has its name when it is whole.

    Args:
        copied_store: makes a consistent copy of the store, and deletes it afterwards.

    Raises:
        ConfigError: there is such a file already.
        StoreError: the store cannot be copied, or its journal is damaged.
        WorkspaceError: the disk is full, a file cannot be read, or one was changed meanwhile.
    """
    _require_new(out)
    finished = _finished_stages(workspace)  # before the copy, which so knows all that they are made of
    # No erasure changes a file meanwhile; one that is not finished goes along, and is finished where it is restored.
    with Files(workspace).in_use(), copied_store() as copy, _new_file(out) as file, _Archive(file, out) as archive:
        with copy.open("rb") as source:
            archive.add(STORE, source)
        with Store.open_snapshot(copy) as store:
            position = store.journal_position
            _add_journal(workspace, archive, position)
            for path in _files(workspace, finished):
                archive.add_path(path, workspace.root)
            missing = _add_images(workspace, store, archive)
        for path, content in finished.items():
            _require_unchanged(path, content)
        archive.finish(
            {
                "format": FORMAT,
                "app_version": app_version,
                "made_at": made_at.isoformat(),
                "journal": asdict(position),
                "missing": missing,
            }
        )
        # Noted before it has its name: a backup that an erasure does not know of would be worse than one that is not.
        note_copy(workspace, Copy(kind="backup", path=out, made_at=made_at, seq=position.seq, has_names=True))
        _require_new(out)
    return Backup(events=position.seq, files=archive.files, bytes=out.stat().st_size, missing=tuple(missing))


def _require_new(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise ConfigError(f"{out} is there already.", hint="Name a file that is not: a backup replaces nothing.")
    if not out.parent.is_dir():
        raise ConfigError(f"There is no folder {out.parent}.", hint="Make it first, or name another file.")


@contextlib.contextmanager
def _new_file(out: Path) -> Iterator[BinaryIO]:
    """A file that takes its name when the block has ended well, and is gone when it has not."""
    with disk_errors(out):
        descriptor, name = tempfile.mkstemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent)  # mode 0600
    file = os.fdopen(descriptor, "wb")
    try:
        yield file
        with disk_errors(out):
            file.flush()
            os.fsync(descriptor)
            file.close()
            os.rename(name, out)
            fsync_dir(out.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        with contextlib.suppress(OSError):  # of what is still to be written on a full disk
            file.close()
        raise


class _Archive:
    """The tar that is being written, and its manifest, which grows beside it."""

    def __init__(self, file: BinaryIO, out: Path) -> None:
        self._out = out
        with disk_errors(out):
            self._tar = tarfile.TarFile(fileobj=file, mode="w", format=tarfile.PAX_FORMAT)
        self._lines = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `__exit__`
        self.files = 0

    def __enter__(self) -> "_Archive":
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()

    def add_path(self, path: Path, root: Path) -> None:
        """A file as it is when it is opened; what is appended to it afterwards is left out."""
        with _reading(path), path.open("rb") as source:
            self.add(path.relative_to(root).as_posix(), source)

    def add(self, name: str, source: BinaryIO, size: int | None = None) -> None:
        """A file from where it is open, or its first `size` bytes."""
        about = os.fstat(source.fileno())
        info = tarfile.TarInfo(name)
        info.size = about.st_size if size is None else size
        info.mode = 0o600 if name in _PRIVATE else 0o644
        info.mtime = int(about.st_mtime)
        hashed = _Hashed(source, Path(source.name))
        self._write(info, hashed)
        line = manifest_line({"path": name, "size": info.size, "sha256": hashed.digest.hexdigest()})
        with disk_errors(Path(tempfile.gettempdir())):
            self._lines.write(line)
        self.files += 1

    def finish(self, header: dict[str, object]) -> None:
        """Add the manifest and end the archive."""
        with tempfile.TemporaryFile() as whole:
            with disk_errors(Path(tempfile.gettempdir())):
                whole.write(manifest_line(header))
                self._lines.seek(0)
                shutil.copyfileobj(self._lines, whole)
            info = tarfile.TarInfo(MANIFEST)
            info.size, info.mode = whole.tell(), 0o600
            whole.seek(0)
            self._write(info, whole)
        with disk_errors(self._out):
            self._tar.close()

    def _write(self, info: tarfile.TarInfo, source: "BinaryIO | _Hashed") -> None:
        try:
            with disk_errors(self._out):
                self._tar.addfile(info, source)  # pyright: ignore[reportArgumentType]  # it only calls `read`
        except OSError as error:
            if error.errno is not None:
                raise
            raise WorkspaceError(
                f"{info.name} became shorter while it was backed up.", hint="Make the backup again."
            ) from error
        forget_members(self._tar)


class _Hashed:
    """Reads a file and hashes what it reads."""

    def __init__(self, source: BinaryIO, path: Path) -> None:
        self._source, self._path = source, path
        self.digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        with _reading(self._path):
            content = self._source.read(size)
        self.digest.update(content)
        return content


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WorkspaceError(
            f"{path} cannot be read: {error.strerror}.",
            hint="Give yourself permission to read it, or look at the disk; then make the backup again.",
        ) from error


# -- what goes in -----------------------------------------------------------------------------------------------------


def _add_journal(workspace: Workspace, archive: _Archive, position: Position) -> None:
    """Its lines up to what the store's copy has seen, from one open file: an erasure puts another in its place."""
    with _reading(workspace.journal_path), workspace.journal_path.open("rb") as source:
        try:
            for _ in entries_up_to(source, workspace.journal_path, position):
                pass
        except StoreError as error:
            raise StoreError(
                f"The backup was not made. {error.message}",
                hint="Run it again: a rater may have been erased meanwhile. If it says so again, `hitl db check` tells"
                " more, and the workspace's folder can be copied by hand while no hub runs.",
            ) from error
        source.seek(0)
        archive.add(JOURNAL, source, position.offset)


def _finished_stages(workspace: Workspace) -> dict[Path, bytes]:
    """The manifests of all finished stages, and what they say."""
    found = {}
    for path in sorted((workspace.root / "rounds").glob("*/*/manifest.json")):
        with contextlib.suppress(FileNotFoundError):
            found[path] = path.read_bytes()
    return found


def _require_unchanged(manifest: Path, content: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        if manifest.read_bytes() == content:
            return
    raise WorkspaceError(
        f"The stage in {manifest.parent} was begun again while the backup was made.", hint="Make the backup again."
    )


def _files(workspace: Workspace, finished: dict[Path, bytes]) -> Iterator[Path]:
    """All files but the store, the journal and the images. A stage that is not finished is left out: it runs again."""
    for path in _plain_files(workspace.root, deep=False):
        if path.name not in (STORE, JOURNAL) and belongs(path.name):
            yield path
    for folder in sorted((workspace.root / "rounds").glob("*")):
        yield from _plain_files(folder, deep=False)
        for inner in sorted(folder.glob("*/")):
            if inner.name not in STAGES or inner / "manifest.json" in finished:
                yield from _plain_files(inner, deep=True)
    for folder in sorted((workspace.root / "fits").glob("*/")):
        if (folder / "reward").exists() and not (folder / "spec.json").exists():
            yield from _plain_files(folder, deep=True)
    for name in ("erasures", "imports"):
        yield from _plain_files(workspace.root / name, deep=True)
    # What else there is in a study's folder is of one that is being made: it is made again.
    yield from sorted((workspace.root / "studies").glob("*/study.json"))


def _plain_files(folder: Path, *, deep: bool) -> Iterator[Path]:
    """Files that are no links and not hidden: what is being written has a hidden name."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if deep and not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            if not name.startswith(".") and path.is_file() and not path.is_symlink():
                yield path


def _add_images(workspace: Workspace, store: Store, archive: _Archive) -> list[str]:
    """All that the store knows; return the ids of those that are not there."""
    missing = []
    for number in range(256):
        for image_id in store.image_ids(f"{number:02x}"):
            path = workspace.image_path(image_id)
            if path.is_file() and not path.is_symlink():
                archive.add_path(path, workspace.root)
            else:
                missing.append(image_id)
    return missing
