"""What left the workspace: backups and exports, so that an erasure can name the copies that it does not reach."""

import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from data.workspace import Workspace, disk_errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A backup or an export, as it was made; it may have been moved or deleted since."""

    kind: Literal["backup", "export"]
    path: Path
    """Absolute."""
    made_at: datetime
    seq: int
    """Number of the last fact that it holds, as they were numbered then: a deletion moves later ones up. So a copy from
    before one may be named in the receipt of somebody who came after it; none that holds somebody is left out.
    """
    has_names: bool
    """Whether raters go by their own names in it."""


def note_copy(workspace: Workspace, copy: Copy) -> None:
    """Add a line. Many processes may: a line this short is written as one piece.

    Raises:
        WorkspaceError: the disk is full, or the folder cannot be written.
    """
    told = asdict(copy) | {"path": str(copy.path), "made_at": copy.made_at.isoformat()}
    line = json.dumps(told, ensure_ascii=False) + "\n"
    with disk_errors(workspace.copies_path):
        descriptor = os.open(workspace.copies_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, line.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def copies(workspace: Workspace) -> list[Copy]:
    """All that are known, oldest first. A line that a full disk cut short is passed over."""
    try:
        lines = workspace.copies_path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            told = json.loads(line)
        except ValueError:
            continue
        found.append(Copy(**told | {"path": Path(told["path"]), "made_at": datetime.fromisoformat(told["made_at"])}))
    return found
