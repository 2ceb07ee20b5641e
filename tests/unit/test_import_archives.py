"""Archives: good ones are unpacked, hostile ones refused as a whole, in words, with nothing outside of the folder."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from data.imports import archives
from data.imports.archives import unpack
from hitl.core.errors import ConfigError


def a_tar(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as packed:  # pyright: ignore[reportArgumentType, reportCallIssue]
        for member, content in members:
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def test_zip_and_tar_give_the_same_files(tmp_path: Path):
    (tmp_path / "zip").mkdir()
    (tmp_path / "tar").mkdir()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("images/ü 1.png", b"one")
        packed.writestr("train.json", b"[]")
    files = [("./images/ü 1.png", b"one"), ("train.json", b"[]")]
    folder = tarfile.TarInfo("./")
    folder.type = tarfile.DIRTYPE
    members = [(folder, b""), *((tarfile.TarInfo(name), content) for name, content in files)]
    unpack(tmp_path / "a.zip", tmp_path / "zip")
    unpack(a_tar(tmp_path / "a.tar.gz", *members, mode="w:gz"), tmp_path / "tar")
    for kind in ("zip", "tar"):
        assert (tmp_path / kind / "images" / "ü 1.png").read_bytes() == b"one"
        assert (tmp_path / kind / "train.json").read_bytes() == b"[]"


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/tmp/evil", "C:\\evil", "..\\evil", "a\\..\\..\\evil"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str, kind: str):
    inside = tmp_path / "inside"
    inside.mkdir()
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
            packed.writestr("good", b"x")
            packed.writestr(name, b"x")
    else:
        a_tar(tmp_path / "a.tar", (tarfile.TarInfo(name), b"x"))
    with pytest.raises(ConfigError, match="would lie outside of the folder"):
        unpack(tmp_path / f"a.{kind}", inside)
    assert {path.name for path in tmp_path.rglob("*")} <= {"inside", "good", f"a.{kind}"}


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (link("images", "/etc"), "holds a link"),
        (link("a", "b"), "holds a link"),
        (link("a", "/etc/passwd", tarfile.LNKTYPE), "holds a link"),
        (link("a", "", tarfile.CHRTYPE), "a device or pipe"),
        (link("a", "", tarfile.FIFOTYPE), "a device or pipe"),
    ],
)
def test_links_and_devices_are_refused(tmp_path: Path, member: tarfile.TarInfo, reason: str):
    (tmp_path / "inside").mkdir()
    with pytest.raises(ConfigError, match=reason):
        unpack(a_tar(tmp_path / "a.tar", (member, b"")), tmp_path / "inside")
    assert not any((tmp_path / "inside").iterdir())


def test_a_link_in_a_zip_is_refused(tmp_path: Path):
    (tmp_path / "inside").mkdir()
    entry = zipfile.ZipInfo("images")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr(entry, "/etc")
    with pytest.raises(ConfigError, match="holds a link"):
        unpack(tmp_path / "a.zip", tmp_path / "inside")


def test_a_name_that_comes_twice_is_refused(tmp_path: Path):
    (tmp_path / "inside").mkdir()
    path = a_tar(tmp_path / "a.tar", (tarfile.TarInfo("a"), b"1"), (tarfile.TarInfo("A"), b"2"))
    with pytest.raises(ConfigError, match="holds 'A' twice"):
        unpack(path, tmp_path / "inside")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_bomb_is_refused_before_it_fills_the_disk(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archives, "_FREE_OF_RATIO", 1 << 20)
    (tmp_path / "inside").mkdir()
    blanks = bytes(8 << 20)
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("a", blanks)
    else:
        a_tar(tmp_path / "a.tar.gz", (tarfile.TarInfo("a"), blanks), mode="w:gz")
    with pytest.raises(ConfigError, match="decompression bomb"):
        unpack(tmp_path / f"a.{kind}", tmp_path / "inside")
    assert sum(path.stat().st_size for path in (tmp_path / "inside").rglob("*")) <= 2 << 20


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archives, "MOST_FILES", 3)
    (tmp_path / "inside").mkdir()
    path = a_tar(tmp_path / "a.tar", *((tarfile.TarInfo(str(n)), b"") for n in range(5)))
    with pytest.raises(ConfigError, match="more than 3 files"):
        unpack(path, tmp_path / "inside")


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"PK\x05\x06" + bytes(10), b"\x1f\x8b\x08" + bytes(20)])
def test_what_is_no_archive_is_said(tmp_path: Path, content: bytes):
    (tmp_path / "inside").mkdir()
    (tmp_path / "a.tar.gz").write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be unpacked"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "inside")
