"""What every stage is told and may say: its spec (a JSON file) and its report (lines of `metrics.jsonl`)."""

import io
import json
import os
import platform
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.pictures import read_picture
from data.workspace import Workspace, write_atomically
from hitl.config import RunConfig, parse_config
from hitl.core.errors import ConfigError, WorkspaceError
from rl.families.family import Family, Process
from rl.families.loading import load_family
from rl.families.revision import base_model

_LIBRARIES = ("hitl", "torch", "diffusers", "transformers", "peft")


@dataclass(slots=True)
class Desk:
    """What a worker keeps between stages: the loaded model, so that it is loaded once in a run."""

    families: dict[tuple[str, ...], Family] = field(default_factory=dict)
    base_models: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)

    def device(self, config: RunConfig) -> str:
        """Where the configuration's models run."""
        device = config.model.device
        if "LOCAL_RANK" in os.environ and device.startswith("cuda:"):
            raise ConfigError(
                f"model.device is {device!r}, but train.launcher starts several processes.",
                hint="Set model.device = cuda: each process takes the GPU of its number.",
            )
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        # Of several processes that a launcher started, each has a GPU of its own.
        return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" and "LOCAL_RANK" in os.environ else device

    def family(self, config: RunConfig) -> Family:
        """The model of the configuration, without a policy."""
        device = self.device(config)
        key = (config.model.family, config.model.name, config.model.config, device, config.model.dtype)
        if key not in self.families:
            self.families[key] = load_family(
                config.model.name,
                family=config.model.family,
                config=config.model.config,
                device=device,
                dtype=getattr(torch, config.model.dtype),
            )
        self.families[key].drop_policy()
        return self.families[key]

    def base_model(self, config: RunConfig) -> dict[str, str]:
        """Name and revision of the configuration's model, which `family` has loaded. Hashing a large one takes time."""
        key = (config.model.name, config.model.config)
        if key not in self.base_models:
            self.base_models[key] = base_model(*key)
        return self.base_models[key]

    def origin(self, config: RunConfig, process: Process) -> dict[str, Any]:
        """Of what is drawn now: the base model, what samples from it, and the versions of all that has a part in it."""
        return self.base_model(config) | {
            "dtype": config.model.dtype,
            "device": device_name(self.device(config)),
            "sampler": process.sampler,
            "sampler_settings": process.settings,
            "versions": versions(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of one round, as its spec describes it."""

    name: str
    workspace: Workspace
    round: int
    config: RunConfig
    inputs: dict[str, Any]
    apart: Path | None = None
    """Where it works when it is no part of a round; `round` then says up to which one it knows."""

    @classmethod
    def read(cls, path: Path) -> "Stage":
        spec = json.loads(path.read_text())
        return cls(
            name=spec["stage"],
            workspace=Workspace(Path(spec["workspace"])),
            round=spec["round"],
            config=parse_config(spec["config"]),
            inputs=spec["inputs"],
            apart=Path(spec["apart"]) if "apart" in spec else None,
        )

    @property
    def folder(self) -> Path:
        return self.apart or self.workspace.stage_dir(self.round, self.name)

    @property
    def snapshot(self) -> Path:
        """The answers that it may learn from."""
        return (self.apart or self.workspace.round_dir(self.round)) / "snapshot.parquet"

    @property
    def place(self) -> tuple[object, ...]:
        """Names this stage's randomness."""
        return (self.config.project.seed, "round", self.round, self.name)

    def checkpoint(self, number: int) -> Path:
        """The folder with round `number`'s policy.

        Raises:
            ConfigError: it was trained for another model.
        """
        return self.of_this_model(self.workspace.policy_dir(number), f"round {number}'s policy")

    def of_this_model(self, policy: Path, name: str) -> Path:
        """The folder again, which an error would call by that name.

        Raises:
            ConfigError: that policy was trained for another model.
        """
        if (policy / "policy.json").exists():
            model = json.loads((policy / "policy.json").read_text())["model"]
            if model != self.config.model.name:
                raise ConfigError(
                    f"model.name is {self.config.model.name!r}, but {name} is one of {model!r}.",
                    hint=f"Set model.name to {model!r} again, or begin a new workspace for the other model.",
                )
        return policy

    def report(self, step: int, total: int, name: str = "", /, **metrics: float) -> None:
        """Append one line of progress, of the stage or of something in it that has a name; the hub follows the file."""
        row = {"stage": name or self.name, "step": step, "total": total, "metrics": metrics, "time": time.time()}
        with ((self.apart or self.workspace.round_dir(self.round)) / "metrics.jsonl").open("a+b") as file:
            file.seek(0, io.SEEK_END)
            if file.tell():
                file.seek(-1, io.SEEK_END)
                if file.read(1) != b"\n":  # the last line was torn
                    file.write(b"\n")
            file.write(json.dumps(row).encode() + b"\n")

    def finish(self, result: dict[str, Any]) -> None:
        """Hand the result to the hub, which takes it in and then declares the stage done."""
        write_atomically(self.folder / "result.json", json.dumps(result).encode())


def versions() -> dict[str, str]:
    """Of Python and the libraries that a picture or a weight may depend on."""
    return {"python": platform.python_version()} | {library: version(library) for library in _LIBRARIES}


def device_name(device: str) -> str:
    """`cpu`, or what kind of GPU: another kind rounds otherwise."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.startswith("cuda") else device


def read_images(workspace: Workspace, image_ids: list[str]) -> torch.Tensor:
    """Images as uint8 (n, 3, height, width).

    Raises:
        WorkspaceError: a file is missing or is not a picture.
    """
    pictures = []
    for image_id in image_ids:
        path = workspace.image_path(image_id)
        try:
            pictures.append(read_picture(path))
        except OSError as error:
            raise WorkspaceError(
                f"The image file {path.relative_to(workspace.root)} is missing or damaged.",
                hint="Put it back from a backup; ratings refer to it by its hash.",
            ) from error
    if len(sizes := {picture.shape[:2] for picture in pictures}) > 1:
        told = ", ".join(f"{width} x {height}" for height, width in sorted(sizes))
        raise WorkspaceError(
            f"The images to learn from are of several sizes: {told}.",
            hint="Learn from rounds of one model: begin another workspace for another size.",
        )
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
