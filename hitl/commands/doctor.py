"""`hitl doctor`: what this machine has and what a run needs, without changing anything."""

import json
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from data.lock import holder
from data.mounts import network_file_system
from data.workspace import Workspace
from hitl.config import load_config
from hitl.core.errors import ConfigError, HitlError

PACKAGES = ("hitl", "torch", "diffusers", "transformers", "peft", "open-clip-torch", "duckdb", "gradio")
LEAST_FREE_BYTES = 2 * 2**30


def run(workspace: Path | None, as_json: bool) -> None:
    found = examine(workspace)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        for name, value in found.items():
            if name != "problems":
                print(f"{name:12} {value}")
        for problem in found["problems"]:
            print(f"problem      {problem}")
    if found["problems"]:
        raise ConfigError(
            f"{len(found['problems'])} problem(s) found.", hint="They are listed above, each with its cure."
        )


def examine(workspace: Path | None) -> dict[str, Any]:
    """Versions, devices, disk, lock owner and model of a workspace (or of the current folder)."""
    import torch

    try:
        folder = Workspace.find(workspace)
    except HitlError:
        folder = Workspace(Path.cwd())
    config = load_config(folder.config_path, [])
    problems = []
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            problems.append(f"{package} is not installed: pip install {package}")
    nearest = next(parent for parent in (folder.root, *folder.root.parents) if parent.exists())
    free = shutil.disk_usage(nearest).free
    if free < LEAST_FREE_BYTES:
        problems.append(f"only {free / 2**30:.1f} GiB of disk are free: make room for at least 2 GiB")
    network = network_file_system(nearest)
    if network:
        problems.append(
            f"{nearest} lies on a network file system ({network}), where locks and syncs may not hold: put the"
            " workspace on a local disk"
        )
    held_by = holder(folder.lock_path) if folder.root.exists() else None
    devices = [f"cpu ({os.cpu_count()} cores)"]
    devices += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if config.model.device.startswith("cuda") and len(devices) == 1:
        problems.append(f"model.device is {config.model.device!r}, but there is no GPU: set it to auto")
    return {
        "python": platform.python_version(),
        "versions": versions,
        "devices": devices,
        "workspace": str(folder.root) if folder.config_path.exists() else "none here; `hitl init` makes one",
        "free_disk": f"{free / 2**30:.1f} GiB",
        "file_system": f"{network}, over a network" if network else "local",
        "store": f"held by process {held_by.pid} ({held_by.command})" if held_by else "free",
        "model": _model(config.model.name, config.model.config, problems),
        "problems": problems,
    }


def _model(name: str, config: str, problems: list[str]) -> str:
    """What the model needs before it can be loaded."""
    from rl.families.loading import STARTER_FOLDER

    folder = STARTER_FOLDER if name == "starter" else Path(name)
    if folder.is_file():
        return f"{name}, on this disk; {config or 'the hub'} for its tokenizers and settings"
    if folder.exists() or name == "starter":
        missing = [part for part in ("model_index.json", "vae") if not (folder / part).exists()]
        missing += [] if (folder / "unet").exists() or (folder / "transformer").exists() else ["unet or transformer"]
        if missing:
            problems.append(f"the model folder of {name!r} lacks {', '.join(missing)}: install hitl again or mend it")
        return f"{name}, on this disk"
    return f"{name}, from the Hugging Face hub (a download of some GB, or its cache)"
