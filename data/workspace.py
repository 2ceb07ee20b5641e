"""The folder that holds everything of one project: where files are, which stage of a round is done."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path
from typing import Any

from hitl.core.errors import ConfigError, DiskFull, WorkspaceError

STAGES = ("draw", "rate", "fit", "train", "evaluate")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_IMAGE_ID = re.compile(r"[0-9a-f]{64}")
_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a missing permission while writing `path` into an error that says what to do.

    Raises:
        WorkspaceError: the disk is full, or the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(
                f"The disk is full: {path} could not be written{_free_space(path)}.",
                hint="Free some space (old rounds hold the most), then run the same command again: it goes on.",
            ) from error
        if error.errno in _FORBIDDEN:
            raise WorkspaceError(
                f"{path} cannot be written: {error.strerror}.",
                hint="Give yourself write permission to the workspace, or choose another one with -w.",
            ) from error
        raise


def _free_space(path: Path) -> str:
    try:
        return f" ({shutil.disk_usage(path.parent).free / 2**20:.0f} MiB free)"
    except OSError:
        return ""


def fsync_dir(folder: Path) -> None:
    """Make a new name in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes | memoryview, *, mode: int = 0o644) -> None:
    """Write a file that is either there in full or not there at all, whatever dies meanwhile.

    Raises:
        WorkspaceError: the disk is full, or the folder cannot be written.
    """
    with replacing(path, mode=mode) as file:
        file.write(content)


@contextlib.contextmanager
def replacing(path: Path, *, mode: int = 0o644) -> Iterator[BufferedRandom]:
    """The same for a file that is written piece by piece: it takes its name when all of it is on the disk.

    Raises:
        WorkspaceError: the disk is full, or the folder cannot be written.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w+b") as file:
                yield file
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
        fsync_dir(path.parent)


def sha256_of_file(path: Path) -> str:
    """Of its bytes, in hex.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class Workspace:
    """Paths and stage manifests. Knows nothing of what is inside the files."""

    root: Path

    @classmethod
    def find(cls, given: Path | None = None) -> "Workspace":
        """The folder given, else `$HITL_WORKSPACE`, else the nearest one upwards that holds a `hitl.toml`.

        A folder that is named need not exist yet: `hitl init` and `hitl round` make it.

        Raises:
            WorkspaceError: none was named and none is found.
        """
        if given is not None:
            return cls(given.expanduser().absolute())
        if named := os.environ.get("HITL_WORKSPACE"):
            return cls(Path(named).expanduser().absolute())
        here = Path.cwd()
        for folder in (here, *here.parents):
            if (folder / "hitl.toml").is_file():
                return cls(folder)
        raise WorkspaceError(
            f"There is no workspace here: neither {here} nor a folder above it holds a hitl.toml.",
            hint="Make one with `hitl init -w DIR`, or name one with -w DIR or $HITL_WORKSPACE.",
        )

    @property
    def config_path(self) -> Path:
        return self.root / "hitl.toml"

    @property
    def store_path(self) -> Path:
        return self.root / "store.duckdb"

    @property
    def journal_path(self) -> Path:
        return self.root / "journal.jsonl"

    @property
    def lock_path(self) -> Path:
        return self.root / "store.lock"

    @property
    def files_lock_path(self) -> Path:
        """Held by whoever works with the files of rounds and fits: see `data.at_work`."""
        return self.root / "files.lock"

    @property
    def erasures_dir(self) -> Path:
        """Receipts of erasures, and what is not finished of one."""
        return self.root / "erasures"

    @property
    def hub_path(self) -> Path:
        return self.root / "hub.json"

    @property
    def copies_path(self) -> Path:
        """Says which backups and exports were made: see `data.copies`."""
        return self.root / "copies.jsonl"

    @property
    def images_dir(self) -> Path:
        return self.root / "images"

    @property
    def display_dir(self) -> Path:
        """Copies of images, made to be shown. May be deleted at any time."""
        return self.root / "cache" / "display"

    def round_dir(self, number: int) -> Path:
        return self.root / "rounds" / f"{number:04d}"

    def stage_dir(self, number: int, stage: str) -> Path:
        if stage not in STAGES:
            raise ValueError(f"There is no stage {stage!r}; the stages are {', '.join(STAGES)}.")
        return self.round_dir(number) / stage

    def policy_dir(self, number: int) -> Path:
        """Of the policy that round `number` trained."""
        return self.stage_dir(number, "train") / "policy"

    def reward_dir(self, number: int) -> Path:
        """Of the reward model that round `number` fitted."""
        return self.stage_dir(number, "fit") / "reward"

    # -- stages ---------------------------------------------------------------------------------------------------

    def manifest(self, number: int, stage: str) -> dict[str, Any] | None:
        """What a finished stage left behind; None while it is not finished.

        Raises:
            WorkspaceError: the manifest is there but is not readable JSON, which no interrupted write can cause.
        """
        path = self.stage_dir(number, stage) / "manifest.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise WorkspaceError(
                f"{path} is not valid JSON: {error}.",
                hint=f"Delete that file to run the {stage} stage of round {number} again.",
            ) from error
        if not isinstance(found, dict):
            raise WorkspaceError(
                f"{path} holds a {type(found).__name__}, but should hold an object.",
                hint=f"Delete that file to run the {stage} stage of round {number} again.",
            )
        return found

    def is_done(self, number: int, stage: str) -> bool:
        return self.manifest(number, stage) is not None

    def write_manifest(self, number: int, stage: str, payload: dict[str, Any]) -> None:
        """Declare a stage finished. Call it last: the file's existence is the declaration."""
        text = json.dumps(payload, indent=2, sort_keys=True, ensure_ascii=False)
        write_atomically(self.stage_dir(number, stage) / "manifest.json", f"{text}\n".encode())

    def reopen(self, number: int, stage: str) -> None:
        """Take back that a stage is finished."""
        (self.stage_dir(number, stage) / "manifest.json").unlink(missing_ok=True)

    # -- images ---------------------------------------------------------------------------------------------------

    def image_path(self, image_id: str) -> Path:
        """Where the picture of that id is (or would be).

        Raises:
            ConfigError: not an id, so that no path can be smuggled in.
        """
        if not _IMAGE_ID.fullmatch(image_id):
            raise ConfigError(
                f"{image_id[:80]!r} is not an image id.", hint="An image id is the 64 hex digits of a sha256."
            )
        return self.images_dir / image_id[:2] / f"{image_id}.png"

    def read_image(self, image_id: str) -> tuple[bytes, str]:
        """What the image's file holds, and what is wrong with it, after the words "its file"; empty when nothing is.

        Raises:
            ConfigError: not an id.
            OSError: the disk does not answer, which says nothing about the file.
        """
        path = self.image_path(image_id)
        if path.is_symlink() or (path.exists() and not path.is_file()):
            return b"", "is not a file of its own"
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return b"", "is missing"
        is_whole = hashlib.sha256(content).hexdigest() == image_id
        return content, "" if is_whole else "is damaged: it does not hold what its name says"

    def add_image(self, png: bytes | Path) -> str:
        """Keep a PNG file under the hash of its bytes and return that hash. Adding it again changes nothing.

        Raises:
            WorkspaceError: not a PNG file, or the disk is full.
        """
        content = png if isinstance(png, bytes) else png.read_bytes()
        if not content.startswith(PNG_SIGNATURE):
            source = "The picture" if isinstance(png, bytes) else str(png)
            raise WorkspaceError(f"{source} is not a PNG file.", hint="Save it as PNG first.")
        image_id = hashlib.sha256(content).hexdigest()
        path = self.image_path(image_id)
        if not path.exists():
            write_atomically(path, content)
        return image_id
