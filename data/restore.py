"""A workspace from a backup (`data.backup`): unpacked beside its place, verified, and only then put there.

A backup may come from anywhere. Nothing but plain files of names that a backup holds is unpacked, each must be what the
manifest says, the manifest must name each, and the store must be what the journal tells.
"""

import hashlib
import itertools
import json
import os
import secrets
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from data.backup import FORMAT, JOURNAL, MANIFEST, STORE, belongs, forget_members, manifest_line
from data.copies import Copy, copies, note_copy
from data.integrity import Difference, check
from data.journal import last_seq
from data.lock import StoreLock
from data.store import Store
from data.workspace import Workspace, disk_errors, fsync_dir
from hitl.core.errors import ConfigError, DiskFull, StoreError, WorkspaceError

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What is there now."""

    made_at: str
    """When the backup was made."""
    events: int
    counts: dict[str, int]
    faults: list[Difference]
    """Lost or damaged images and snapshots, which were so when the backup was made."""
    kept: Path | None
    """Where the workspace is that was there before."""


def restore_backup(file: Path, workspace: Workspace, *, replace: bool = False) -> Restored:
    """Put what a backup holds in a workspace's place. Until all of it is verified, nothing that is there is touched.

    Raises:
        ConfigError: there is something in its place, and `replace` was not said.
        StoreError: a process holds the workspace that is there.
        WorkspaceError: not a backup, not a whole one, or one that was changed; or the disk is full.
    """
    place = Workspace(Path(os.path.realpath(workspace.root)))
    is_taken = place.root.exists() and (not place.root.is_dir() or any(place.root.iterdir()))
    if is_taken and not (replace and place.root.is_dir()):
        raise ConfigError(
            f"There is something in {place.root} already.",
            hint="Name an empty folder with -w, or say --replace: the workspace that is there is then kept beside it.",
        )
    with _locked(place) if is_taken else nullcontext(), _beside(place.root) as fresh:
        _require_room(file, fresh.root)
        header = _unpack(file, fresh.root)
        events, counts, faults = _verify(file, fresh)
        made_at = datetime.fromisoformat(header["made_at"])
        _note(fresh, Copy(kind="backup", path=file, made_at=made_at, seq=events, has_names=True))
        kept = _kept_name(place.root) if is_taken else None
        if kept is not None:
            seq = last_seq(place.journal_path)
            _note(fresh, Copy(kind="backup", path=kept, made_at=datetime.now(UTC), seq=seq, has_names=True))
        os.sync()  # all that was unpacked is on the disk before it counts
        _take_place(fresh.root, place.root, kept)
    return Restored(made_at=header["made_at"], events=events, counts=counts, faults=faults, kept=kept)


@contextmanager
def _locked(place: Workspace) -> Iterator[None]:
    lock = StoreLock.acquire(place.lock_path)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _beside(root: Path) -> Iterator[Workspace]:
    """A new folder on the same disk; gone when what is done with it does not end well."""
    fresh = root.with_name(f".{root.name}.restoring-{secrets.token_hex(4)}")
    with disk_errors(root):
        fresh.mkdir(parents=True)
    try:
        yield Workspace(fresh)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _require_room(file: Path, folder: Path) -> None:
    try:
        needed, free = file.stat().st_size, shutil.disk_usage(folder).free
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}.", hint="Name a file of `hitl backup`.") from error
    if needed > free:
        raise DiskFull(
            f"{file} holds {needed / 2**20:.0f} MiB, but {free / 2**20:.0f} MiB are free for {folder.parent}.",
            hint="Free some space, or name a folder on another disk with -w.",
        )


def _note(workspace: Workspace, copy: Copy) -> None:
    if (copy.kind, copy.made_at) not in {(known.kind, known.made_at) for known in copies(workspace)}:
        note_copy(workspace, copy)


# -- unpacking --------------------------------------------------------------------------------------------------------


def _unpack(file: Path, folder: Path) -> dict[str, Any]:
    """Unpack all members, each compared with the manifest; return what that says of the whole.

    Raises:
        WorkspaceError: a member that no backup holds, one that is not what the manifest says, or no manifest.
    """
    try:
        with file.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:") as tar, tempfile.TemporaryFile() as lines:
            while (info := tar.next()) is not None:
                forget_members(tar)
                if info.name == MANIFEST and _is_plain(info):
                    lines.seek(0)
                    header = _compare(file, _content(tar, info), lines)
                    if tar.next() is not None:
                        raise _changed(file, "there is more after its manifest")
                    return header
                lines.write(_unpack_one(file, tar, info, folder))
    except tarfile.TarError as error:
        raise _no_backup(file, f"{error}") from error
    except OSError as error:
        raise WorkspaceError(f"{file} cannot be read: {error.strerror}.", hint="Look at the disk it is on.") from error
    raise _no_backup(file, "it has no manifest at its end, so it was cut short or is something else")


def _unpack_one(file: Path, tar: tarfile.TarFile, info: tarfile.TarInfo, folder: Path) -> bytes:
    """Write one member's file; return the line that the manifest must have of it."""
    if not _is_plain(info) or not belongs(info.name) or tarfile.data_filter(info, str(folder)).name != info.name:
        raise _changed(file, f"no backup holds a {_kind(info)} called {info.name[:200]!r}")
    path = folder / info.name
    digest = hashlib.sha256()
    with disk_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644 if info.mode & 0o044 else 0o600)
        except (FileExistsError, NotADirectoryError) as error:
            raise _changed(file, f"{info.name!r} is in it twice") from error
        with os.fdopen(descriptor, "wb") as written:
            content = _content(tar, info)
            while chunk := content.read(_CHUNK):
                digest.update(chunk)
                written.write(chunk)
    return manifest_line({"path": info.name, "size": info.size, "sha256": digest.hexdigest()})


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> BinaryIO:
    content = tar.extractfile(info)
    assert content is not None  # it is a plain file
    return content  # pyright: ignore[reportReturnType]  # an IO[bytes], which has all that is read by


def _is_plain(info: tarfile.TarInfo) -> bool:
    """A file that takes as much room unpacked as it does in the archive: one with holes need not."""
    return info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and info.sparse is None


def _kind(info: tarfile.TarInfo) -> str:
    if info.issym() or info.islnk():
        return "link"
    if info.isdir():
        return "folder"
    return "file" if _is_plain(info) else "device or special file"


def _compare(file: Path, manifest: BinaryIO, unpacked: BinaryIO) -> dict[str, Any]:
    """The manifest's lines and those of what was unpacked are the same, in the same order."""
    try:
        header = json.loads(manifest.readline())
        if header["format"] != FORMAT:
            raise WorkspaceError(
                f"{file} has format {header['format']}; this version of hitl reads {FORMAT}.",
                hint=f"It was made by hitl {header['app_version']}: restore it with that version or a newer one.",
            )
        datetime.fromisoformat(header["made_at"])
        for said, found in itertools.zip_longest(manifest, unpacked):
            if said != found:
                name = json.loads(found or said)["path"]
                raise _changed(file, f"{name!r} is not what the manifest says")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _changed(file, "its manifest cannot be read") from error
    return header


def _no_backup(file: Path, reason: str) -> WorkspaceError:
    return WorkspaceError(
        f"{file} is not a whole backup: {reason}.", hint="Name a file that `hitl backup` wrote to its end."
    )


def _changed(file: Path, reason: str) -> WorkspaceError:
    return WorkspaceError(
        f"{file} was damaged or changed, or is no backup: {reason}.",
        hint="Use another backup. Nothing was replaced.",
    )


# -- verifying --------------------------------------------------------------------------------------------------------


def _verify(file: Path, fresh: Workspace) -> tuple[int, dict[str, int], list[Difference]]:
    """Number of the last event, rows by table, and what is wrong with images and snapshots.

    Raises:
        WorkspaceError: the store is not what the journal tells.
    """
    for name in (STORE, JOURNAL):
        if not (fresh.root / name).is_file():
            raise _no_backup(file, f"it holds no {name}")
    try:
        with Store.open(fresh) as store:
            found = check(fresh, store)
            events, counts = store.position, store.counts()
    except DiskFull:
        raise
    except StoreError as error:
        raise _does_not_hold(file, error.message.replace(str(fresh.root), str(file))) from error
    faults = [each for each in found.differences if each.kind in ("image", "snapshot")]
    if first := next((each for each in found.differences if each not in faults), None):
        raise _does_not_hold(file, first.what.replace(str(fresh.root), str(file)))
    return events, counts, faults


def _does_not_hold(file: Path, reason: str) -> WorkspaceError:
    return WorkspaceError(
        f"The store in {file} cannot be used: {reason}",
        hint="Use another backup; or unpack this one with `tar -xf` into an empty folder, and try `hitl db rebuild`"
        " there. Nothing was replaced.",
    )


# -- taking the place -------------------------------------------------------------------------------------------------


def _kept_name(root: Path) -> Path:
    """Where what is there goes: a name that nothing has."""
    names = itertools.chain([".before-restore"], (f".before-restore-{number}" for number in itertools.count(2)))
    return next(path for name in names if not (path := root.with_name(root.name + name)).exists())


def _take_place(fresh: Path, root: Path, kept: Path | None) -> None:
    """By renaming: whatever dies in between, both workspaces are whole, under one name or another."""
    with disk_errors(root):
        try:
            if kept is not None:
                os.rename(root, kept)
            try:
                os.rename(fresh, root)
            except BaseException:
                if kept is not None:
                    os.rename(kept, root)
                raise
        except OSError as error:
            raise WorkspaceError(
                f"{root} cannot be replaced: {error.strerror}.",
                hint="Is it a mounted disk, or did something else appear there? Restore into another folder with -w.",
            ) from error
        fsync_dir(root.parent)
