"""`hitl init`: make a workspace."""

import os
from pathlib import Path

from data.store import Store
from data.workspace import Workspace, write_atomically
from hitl.config import load_config, to_toml
from hitl.core.errors import WorkspaceError


def run(workspace: Path | None, settings: list[str]) -> None:
    named = workspace or os.environ.get("HITL_WORKSPACE")
    folder = Workspace.find(workspace if named else Path.cwd())
    if folder.config_path.exists():
        raise WorkspaceError(
            f"{folder.root} is a workspace already.", hint="Edit its hitl.toml, or make another one with -w DIR."
        )
    make_workspace(folder, settings)
    print(f"Made {folder.config_path}\nNext: hitl round -w {folder.root}")


def make_workspace(folder: Workspace, settings: list[str]) -> None:
    """Write a commented configuration and an empty store."""
    config = load_config(folder.config_path, settings)
    write_atomically(folder.config_path, to_toml(config).encode())
    Store.open(folder, create=True).close()
