"""On which kind of file system a folder lies: over a network, locks and syncs may not hold."""

import os
import re
from pathlib import Path

_MOUNTS = Path("/proc/self/mounts")
_NETWORK = frozenset(
    "9p afs beegfs ceph cifs coda davfs fhgfs gcsfuse glusterfs gpfs juicefs lustre ncpfs nfs nfs4 orangefs panfs"
    " pvfs2 rclone s3fs smb3 smbfs sshfs".split()
)
_ESCAPED = re.compile(r"\\([0-7]{3})")


def file_system_of(path: Path, mounts: str) -> str:
    """The type of the file system that holds an absolute path, by the text of /proc/self/mounts; empty when unknown."""
    found, longest = "", -1
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = Path(_ESCAPED.sub(lambda escaped: chr(int(escaped[1], 8)), fields[1]))
        # Of two on one folder the later one is seen.
        if path.is_relative_to(point) and len(point.parts) >= longest:
            found, longest = fields[2], len(point.parts)
    return found


def is_network(file_system: str) -> bool:
    return file_system.removeprefix("fuse.") in _NETWORK


def network_file_system(path: Path) -> str:
    """The type of the network file system that holds a path; empty when none does, or when the system does not say."""
    try:
        mounts = os.fsdecode(_MOUNTS.read_bytes())
    except OSError:
        return ""
    found = file_system_of(Path(os.path.realpath(path)), mounts)
    return found if is_network(found) else ""
