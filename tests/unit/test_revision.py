"""Which version of a base model was loaded, against sha256 by hand and a cache laid out as the hub's own."""

import hashlib
from pathlib import Path

import huggingface_hub.constants
import pytest

from rl.families.loading import STARTER_FOLDER
from rl.families.revision import base_model, revision_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_folder_has_the_hash_of_its_files_whatever_it_is_called(tmp_path: Path):
    for name in ("one", "two"):
        (tmp_path / name / "unet").mkdir(parents=True)
        (tmp_path / name / "model_index.json").write_text("{}")
        (tmp_path / name / "unet" / "weights").write_bytes(b"w")
        (tmp_path / name / ".git").mkdir()
        (tmp_path / name / ".git" / "HEAD").write_text(name)
    lines = f"{sha256(b'{}')}  model_index.json\n{sha256(b'w')}  unet/weights\n"
    wanted = f"sha256:{sha256(lines.encode())}"
    assert revision_of(str(tmp_path / "one")) == revision_of(str(tmp_path / "two")) == wanted
    (tmp_path / "two" / "unet" / "weights").write_bytes(b"v")
    assert revision_of(str(tmp_path / "two")) != wanted


def test_a_single_file_has_its_own_hash_and_that_of_its_config(tmp_path: Path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"w")
    assert base_model(str(file)) == {"model": str(file), "revision": f"sha256:{sha256(b'w')}"}
    of_config = base_model(str(file), str(STARTER_FOLDER))
    assert of_config["model_config_revision"] == revision_of("starter")
    assert revision_of("starter").startswith("sha256:")


def test_a_hub_id_has_the_commit_that_its_cache_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    place = tmp_path / "models--somebody--model"
    for part in ("refs", f"snapshots/{COMMIT}", "snapshots/older"):
        (place / part).mkdir(parents=True)
    for commit in (COMMIT, "older"):
        (place / "snapshots" / commit / "model_index.json").write_text("{}")
    (place / "refs" / "main").write_text(COMMIT)
    assert revision_of("somebody/model") == f"commit:{COMMIT}"
    assert revision_of("somebody/another") == ""
