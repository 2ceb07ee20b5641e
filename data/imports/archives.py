"""A zip or tar file unpacked into a folder of its own. What an archive may hold is decided here, not by the archive.

Only plain files and folders are unpacked. Anything that points out of the folder, links, devices, or that grows beyond
all measure refuses the whole archive: such a file was not made by accident, and nothing else in it is to be trusted.
"""

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from data.workspace import disk_errors
from hitl.core.errors import ConfigError, DiskFull

MOST_FILES = 2_000_000
MOST_BYTES = 2**40
LARGEST_RATIO = 100
"""Unpacked to packed bytes. Pictures do not shrink in an archive, text does by five to twenty."""
_FREE_OF_RATIO = 64 * 2**20
"""Bytes that may be unpacked at any ratio: a small file of blanks harms nobody."""
_CHUNK = 1 << 20
_ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".txz")


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    size: int
    kind: str
    """`file`, `folder`, or what it is instead."""
    source: zipfile.ZipInfo | tarfile.TarInfo


def is_archive(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(_ENDINGS)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack into an empty folder.

    Raises:
        ConfigError: it is no archive, is damaged, or holds what an archive of pictures has no reason to hold.
        WorkspaceError: the disk is full.
    """
    try:
        with disk_errors(folder):
            if zipfile.is_zipfile(archive):
                with zipfile.ZipFile(archive) as packed:
                    _unpack(archive, folder, _in_zip(packed), packed.open)
            else:
                with tarfile.open(archive) as packed:
                    _unpack(archive, folder, _in_tar(packed), packed.extractfile)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{archive} cannot be unpacked: {error}.", hint="Download or pack it again.") from error
    except RuntimeError as error:  # what zipfile says of a password
        raise ConfigError(f"{archive} cannot be unpacked: {error}.", hint="Pack it without a password.") from error


def _in_zip(packed: zipfile.ZipFile) -> Iterator[_Member]:
    for entry in packed.infolist():
        unix_type = (entry.external_attr >> 16) & 0o170000
        if unix_type not in (0, 0o100000, 0o040000):
            kind = "a link" if unix_type == 0o120000 else "a device or pipe"
        else:
            kind = "folder" if entry.is_dir() else "file"
        yield _Member(entry.filename, entry.file_size, kind, entry)


def _in_tar(packed: tarfile.TarFile) -> Iterator[_Member]:
    for entry in packed:
        if entry.isfile():
            kind = "file"
        elif entry.isdir():
            kind = "folder"
        else:
            kind = "a link" if entry.issym() or entry.islnk() else "a device or pipe"
        yield _Member(entry.name, entry.size, kind, entry)


def _unpack(archive: Path, folder: Path, members: Iterator[_Member], read: object) -> None:
    packed_bytes = archive.stat().st_size
    allowed = min(MOST_BYTES, max(_FREE_OF_RATIO, LARGEST_RATIO * packed_bytes))
    room = shutil.disk_usage(folder).free
    written, names = 0, set[str]()
    for count, member in enumerate(members, 1):
        place = _safe_name(archive, member)
        if count > MOST_FILES:
            raise _hostile(archive, f"it has more than {MOST_FILES:,} files")
        if member.kind == "folder":
            (folder / place).mkdir(parents=True, exist_ok=True)
            continue
        if str(place).casefold() in names:
            raise _hostile(archive, f"it holds {member.name!r} twice")
        names.add(str(place).casefold())
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        source = read(member.source)  # pyright: ignore[reportCallIssue]
        with source, (folder / place).open("xb") as target:
            written += _copy(archive, source, target, allowed=allowed - written, room=room - written)


def _copy(archive: Path, source: IO[bytes], target: IO[bytes], *, allowed: int, room: int) -> int:
    """Bytes copied: counted here, for the size that an archive states of a file need not be true."""
    copied = 0
    while chunk := source.read(_CHUNK):
        copied += len(chunk)
        if copied > allowed:
            raise _hostile(
                archive, f"it unpacks to more than {LARGEST_RATIO} times its size, which may be a decompression bomb"
            )
        if copied > room:
            raise DiskFull(f"There is no room to unpack {archive}.", hint="Free some space, or set TMPDIR elsewhere.")
        target.write(chunk)
    return copied


def _safe_name(archive: Path, member: _Member) -> PurePosixPath:
    if member.kind not in ("file", "folder"):
        raise _hostile(archive, f"it holds {member.kind}, {member.name!r}")
    name = member.name.replace("\\", "/")
    path = PurePosixPath(name)
    leads_out = path.is_absolute() or PureWindowsPath(name).drive or ".." in path.parts or "\0" in name
    if leads_out or (member.kind == "file" and not path.parts):
        raise _hostile(archive, f"its file {member.name!r} would lie outside of the folder")
    return path


def _hostile(archive: Path, why: str) -> ConfigError:
    return ConfigError(
        f"{archive} is not unpacked: {why}.", hint="If you trust it, unpack it yourself and import the folder."
    )
