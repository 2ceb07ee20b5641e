"""What `hitl doctor` says of the model: whether what is on this disk can be loaded."""

from pathlib import Path

import pytest

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
