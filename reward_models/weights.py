"""Weights of published rewards: found on this disk or fetched from the Hugging Face hub, and read without pickle."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hitl.core.errors import ModelLoadError


def find_file(source: str | Path, file: str) -> Path:
    """The file that `source` names: itself, `file` in that folder, or `file` of that repository on the hub.

    Raises:
        ModelLoadError: it is in none of these places.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        if not (path / file).is_file():
            raise ModelLoadError(f"The folder {path} has no file {file!r}.", hint="Name the file itself.")
        return path / file
    try:
        return Path(hf_hub_download(str(source), file))
    except (OSError, HfHubHTTPError, ValueError) as error:  # offline, no such repository, or no repository's name
        raise ModelLoadError(
            f"{source}/{file} is not on this machine and could not be fetched: {_first_line(error)}",
            hint=f"Where there is a network: `hf download {source} {file}`. Or name a file that you have.",
        ) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a .safetensors file or in one of torch's, by name; of a checkpoint, its `state_dict`.

    Raises:
        ModelLoadError: the file is damaged, or holds more than tensors: code in it is never run.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        raise ModelLoadError(
            f"{path} cannot be read as weights: {_first_line(error)}",
            hint="Fetch it again from its authors. A file that holds more than tensors is refused: it could run code.",
        ) from error
    tensors = found.get("state_dict", found) if isinstance(found, dict) else {}
    if not tensors or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ModelLoadError(f"{path} holds no table of weights.", hint="Name the file with the model's state dict.")
    return tensors


def from_pretrained(load: Callable[..., Any], source: str | Path, *, needs_weights: bool = True, **options: Any) -> Any:
    """What `load` makes of a folder or a hub id; a tokenizer or a processor of pictures needs no weights.

    Raises:
        ModelLoadError: it is not here and cannot be fetched, or is of another kind.
    """
    try:
        return load(source, **options)
    except (OSError, HfHubHTTPError, ValueError, KeyError, RuntimeError, ImportError) as error:
        only = "" if needs_weights else ' --include "*.json" "*.txt"'
        raise ModelLoadError(
            f"{source} cannot be loaded: {_first_line(error)}",
            hint=f"Where there is a network: `hf download {source}{only}`. Or name a folder with the model.",
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]
