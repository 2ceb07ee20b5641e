"""A fitted head on disk: `head.safetensors` and, written last, `fit.json`."""

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hitl.core.errors import ModelLoadError
from reward_models.backbone import Backbone
from reward_models.heads import HEADS, Head

HEAD_FILE, FIT_FILE = "head.safetensors", "fit.json"


@runtime_checkable
class Adapting(Protocol):
    """A head that reads the features of another backbone than the one it was fitted on: of what it made of it."""

    def adapt(self, backbone: Backbone) -> Backbone: ...


def backbone_for(head: Head, backbone: Backbone) -> Backbone:
    """The backbone whose features the head reads: the passed one itself, but for a head that adapts it."""
    return head.adapt(backbone) if isinstance(head, Adapting) else backbone


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedHead:
    """A head as `fit_reward` saved it, and what its `fit.json` says."""

    head: Head
    fit: dict[str, Any]

    @property
    def mean(self) -> float:
        return float(self.fit["mean"])

    @property
    def std(self) -> float:
        return float(self.fit["std"])

    def scores(self, features: Float[Tensor, "batch features"]) -> Float[np.ndarray, "batch"]:
        with torch.no_grad():
            return ((self.head.predict(features)[0].double() - self.mean) / self.std).numpy()


def read_head(folder: Path) -> SavedHead:
    """The head in a folder.

    Raises:
        ModelLoadError: files are missing or damaged.
    """
    try:
        fit = json.loads((folder / FIT_FILE).read_text())
        module, attribute = HEADS[fit["head"]].split(":")
        head = getattr(importlib.import_module(module), attribute).from_tensors(load_file(folder / HEAD_FILE))
        found = SavedHead(head=head, fit=fit)
        _ = found.mean, found.std, fit["backbone"], fit["pretrained"], fit["fingerprint"]
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelLoadError(
            f"The reward model in {folder} cannot be loaded: {error!r}",
            hint="Fit the reward model again; its ratings are all still there.",
        ) from error
    return found


def load_head(folder: Path, fingerprint: str) -> SavedHead | None:
    """The head in a folder, if there is one that was fitted on the same backbone."""
    if not (folder / FIT_FILE).exists():
        return None
    found = read_head(folder)
    return found if found.fit["fingerprint"] == fingerprint else None
