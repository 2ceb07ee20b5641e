"""Where files are, which stage is done, and writing that is whole or not at all."""

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from data.workspace import PNG_SIGNATURE, STAGES, Workspace, disk_errors, write_atomically
from hitl.core.errors import ConfigError, WorkspaceError

PNG = PNG_SIGNATURE + b"the rest"


def test_a_workspace_is_found_by_name_then_by_variable_then_upwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    inner = tmp_path / "project" / "deep" / "down"
    inner.mkdir(parents=True)
    (tmp_path / "project" / "hitl.toml").touch()
    monkeypatch.chdir(inner)
    assert Workspace.find(None).root == tmp_path / "project"
    monkeypatch.setenv("HITL_WORKSPACE", str(tmp_path / "other"))
    assert Workspace.find(None).root == tmp_path / "other"
    assert Workspace.find(Path("named")).root == inner / "named"


def test_no_workspace_anywhere_says_how_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HITL_WORKSPACE", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WorkspaceError) as caught:
        Workspace.find(None)
    assert "hitl init" in caught.value.hint


def test_a_stage_is_done_when_its_manifest_is_there(tmp_path: Path):
    workspace = Workspace(tmp_path)
    assert workspace.stage_dir(3, "draw") == tmp_path / "rounds" / "0003" / "draw"
    assert not workspace.is_done(3, "draw")
    assert workspace.manifest(3, "draw") is None
    workspace.write_manifest(3, "draw", {"images": 64, "prompt": "ein Wörtchen"})
    assert workspace.is_done(3, "draw")
    assert workspace.manifest(3, "draw") == {"images": 64, "prompt": "ein Wörtchen"}
    assert not any(workspace.is_done(3, stage) for stage in STAGES if stage != "draw")


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_a_spoilt_manifest_is_named(tmp_path: Path, content: str):
    workspace = Workspace(tmp_path)
    workspace.write_manifest(1, "fit", {})
    path = workspace.stage_dir(1, "fit") / "manifest.json"
    path.write_text(content)
    with pytest.raises(WorkspaceError, match=r"manifest\.json"):
        workspace.is_done(1, "fit")


def test_a_stage_that_does_not_exist_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="draw, rate"):
        Workspace(tmp_path).stage_dir(1, "drawing")


def test_images_are_kept_once_under_the_hash_of_their_bytes(tmp_path: Path):
    workspace = Workspace(tmp_path)
    digest = hashlib.sha256(PNG).hexdigest()
    source = tmp_path / "picture.png"
    source.write_bytes(PNG)
    assert workspace.add_image(PNG) == digest
    path = tmp_path / "images" / digest[:2] / f"{digest}.png"
    before = path.stat()
    assert workspace.add_image(source) == digest
    assert path.read_bytes() == PNG
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_ino == before.st_ino


def test_only_png_is_kept(tmp_path: Path):
    with pytest.raises(WorkspaceError, match="not a PNG"):
        Workspace(tmp_path).add_image(b"GIF89a")


@pytest.mark.parametrize("smuggled", ["../../etc/passwd", "", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_no_path_can_be_smuggled_in_as_an_image_id(tmp_path: Path, smuggled: str):
    with pytest.raises(ConfigError):
        Workspace(tmp_path).image_path(smuggled)


def test_writing_replaces_the_whole_file_and_leaves_no_other(tmp_path: Path):
    path = tmp_path / "hub.json"
    write_atomically(path, b"first, and longer")
    write_atomically(path, b"second", mode=0o600)
    assert path.read_bytes() == b"second"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["hub.json"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "inside").touch()
    with pytest.raises(OSError, match="irectory"):
        write_atomically(tmp_path / "taken", b"content")
    assert os.listdir(tmp_path) == ["taken"]


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "cannot be written"), (errno.EACCES, "cannot")],
)
def test_a_full_disk_becomes_a_sentence(tmp_path: Path, number: int, message: str):
    with pytest.raises(WorkspaceError, match=message) as caught, disk_errors(tmp_path / "x"):
        raise OSError(number, os.strerror(number))
    assert caught.value.hint


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_really_full_becomes_a_sentence():
    with pytest.raises(WorkspaceError, match="disk is full"), disk_errors(Path("/dev/full")):
        Path("/dev/full").write_bytes(json.dumps({"a": 1}).encode())
