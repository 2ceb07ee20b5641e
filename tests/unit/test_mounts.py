"""Which file system a folder lies on, by the text that Linux gives; over a network it is warned about."""

import logging
from pathlib import Path

import pytest

import data.mounts
from data.mounts import file_system_of, is_network
from data.store import Store
from data.workspace import Workspace

MOUNTS = r"""
sysfs /sys sysfs rw,nosuid 0 0
/dev/sda1 / ext4 rw,relatime 0 0
server:/export /home nfs4 rw,vers=4.2 0 0
//nas/share /home/ann/my\040pictures cifs rw 0 0
/dev/sdb1 /home/ann/local btrfs rw 0 0
me@far:/ /mnt/far fuse.sshfs rw 0 0
systemd-1 /data autofs rw 0 0
cluster:/data /data lustre rw 0 0
host /mnt/host 9p rw 0 0
""".lstrip()


@pytest.mark.parametrize(
    ("path", "kind", "over_network"),
    [
        ("/", "ext4", False),
        ("/homes/x", "ext4", False),
        ("/home", "nfs4", True),
        ("/home/bob/hitl", "nfs4", True),
        ("/home/ann/my pictures/w", "cifs", True),
        ("/home/ann/my", "nfs4", True),
        ("/home/ann/local/w", "btrfs", False),
        ("/mnt/far/w", "fuse.sshfs", True),
        ("/data/w", "lustre", True),
        ("/mnt/host", "9p", True),
    ],
)
def test_the_innermost_mount_counts_and_of_two_on_one_folder_the_later(path: str, kind: str, over_network: bool):
    assert file_system_of(Path(path), MOUNTS) == kind
    assert is_network(kind) is over_network


@pytest.mark.parametrize("kind", "nfs nfs4 cifs smb3 9p fuse.sshfs lustre ceph fuse.glusterfs afs".split())
def test_file_systems_over_a_network_are_known(kind: str):
    assert is_network(kind)


@pytest.mark.parametrize("kind", [*"ext4 xfs btrfs zfs tmpfs overlay fuse.mergerfs fuseblk apfs".split(), ""])
def test_local_ones_are_let_be(kind: str):
    assert not is_network(kind)


@pytest.mark.parametrize("text", ["", "nonsense\n\n / \n"])
def test_a_system_that_says_nothing_is_not_guessed_at(text: str):
    assert file_system_of(Path("/home"), text) == ""


@pytest.mark.parametrize("kind", ["nfs4", "ext4"])
def test_opening_a_store_over_a_network_is_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str
):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda1 / xfs rw 0 0\nserver:/x {tmp_path.resolve()} {kind} rw 0 0\n")
    monkeypatch.setattr(data.mounts, "_MOUNTS", mounts)
    with caplog.at_level(logging.WARNING), Store.open(Workspace(tmp_path), create=True):
        pass
    assert ("network file system (nfs4)" in caplog.text) == (kind == "nfs4")
    assert bool(caplog.records) == (kind == "nfs4")


def test_no_proc_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(data.mounts, "_MOUNTS", tmp_path / "none")
    assert data.mounts.network_file_system(tmp_path) == ""
