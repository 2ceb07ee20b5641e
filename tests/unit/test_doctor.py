"""What `hitl doctor` says: whether the model on this disk can be loaded, and on what kind of disk the workspace is."""

from pathlib import Path

import pytest

import data.mounts
from hitl.commands.doctor import examine


def told(root: Path, model: str) -> tuple[str, list[str]]:
    (root / "hitl.toml").write_text(f'[model]\nname = "{model}"\n')
    found = examine(root)
    return found["model"], [problem for problem in found["problems"] if "model" in problem]


@pytest.mark.parametrize("denoiser", ["unet", "transformer"])
def test_a_folder_is_whole_with_either_kind_of_denoiser(tmp_path: Path, denoiser: str):
    for part in ("vae", denoiser):
        (tmp_path / "model" / part).mkdir(parents=True)
    (tmp_path / "model" / "model_index.json").touch()
    text, problems = told(tmp_path, str(tmp_path / "model"))
    assert text.endswith("on this disk")
    assert problems == []
    (tmp_path / "model" / denoiser).rmdir()
    _, (problem,) = told(tmp_path, str(tmp_path / "model"))
    assert "lacks unet or transformer" in problem


def test_a_single_file_has_no_folders_to_lack(tmp_path: Path):
    (tmp_path / "model.safetensors").touch()
    text, problems = told(tmp_path, str(tmp_path / "model.safetensors"))
    assert "the hub for its tokenizers" in text
    assert problems == []


@pytest.mark.parametrize("kind", ["nfs4", "ext4"])
def test_a_network_file_system_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda1 / xfs rw 0 0\nserver:/x {tmp_path.resolve()} {kind} rw 0 0\n")
    monkeypatch.setattr(data.mounts, "_MOUNTS", mounts)
    found = examine(tmp_path)
    problems = [problem for problem in found["problems"] if "network file system" in problem]
    assert found["file_system"] == ("nfs4, over a network" if kind == "nfs4" else "local")
    assert ["local disk" in problem for problem in problems] == [True] * (kind == "nfs4")
