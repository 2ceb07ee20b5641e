"""Follows a workspace's files and logs what is new through accelerate's trackers, until its standard input ends.

What was logged is written down before it is sent: killed between the two, a point is missing and never there twice.
"""

import fcntl
import json
import re
import select
import sys
import tomllib
import uuid
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.tracking import GeneralTracker, TensorBoardTracker, TrackioTracker, WandBTracker

from data.workspace import Workspace, write_atomically
from hitl.tracking import FOLDER, READY
from hitl.tracking.points import Point, points

_PAUSE_S = 1.0


def main(root: str, *names: str) -> None:
    """Log with these trackers."""
    hub, sys.stdout = sys.stdout, sys.stderr  # trackers greet people
    PartialState(cpu=True)  # accelerate asks for it; the devices are the worker's
    workspace = Workspace(Path(root))
    folder = workspace.root / FOLDER
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the last run's may still be sending
        state = _read(folder / "logged.json")
        _write(folder / "logged.json", state)
        trackers = {name: _opened(name, workspace, folder, state["run"]) for name in names}
        print(READY, end="", file=hub, flush=True)
        is_last = False
        while not is_last:
            is_last = bool(select.select([sys.stdin], [], [], _PAUSE_S)[0])
            for name, tracker in trackers.items():
                logged = state["logged"].setdefault(name, [])
                for point in points(workspace, set(logged)):
                    logged.append(point.key)
                    _write(folder / "logged.json", state)
                    _log(name, tracker, point)
        for tracker in trackers.values():
            tracker.finish()


def _read(path: Path) -> dict[str, Any]:
    """The run's id, by which it is continued, and the keys of the points that each tracker has."""
    if path.exists():
        return json.loads(path.read_text())
    return {"run": uuid.uuid4().hex[:8], "logged": {}}


def _write(path: Path, state: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(state, indent=1).encode())


def _opened(name: str, workspace: Workspace, folder: Path, run: str) -> GeneralTracker:
    """A tracker that goes on with the run of this workspace."""
    project = re.sub(r"[^\w.-]+", "-", workspace.root.name)  # W&B takes no others
    shown = f"{project}-{run}"
    settings = _settings(workspace)
    tracker: Any
    if name == "tensorboard":
        tracker = TensorBoardTracker("", folder / "tensorboard")
    elif name == "wandb":
        tracker = WandBTracker(project, id=run, name=shown, resume="allow", dir=str(folder), config=settings)
    else:
        tracker = TrackioTracker(project, name=shown, resume="allow", embed=False, config=settings)
    tracker.start()
    if name == "tensorboard":
        tracker.tracker.add_text("settings", "\n".join(f"    {key} = {value}" for key, value in settings.items()))
    if name == "wandb":  # its own axis counts calls, and must not go back
        groups = {"epoch": ("train", "guard"), "round": ("fit", "evaluate", "cost")}
        for axis, group in ((axis, group) for axis, names in groups.items() for group in names):
            tracker.tracker.define_metric(f"{group}/*", step_metric=axis)
    return tracker


def _settings(workspace: Workspace) -> dict[str, Any]:
    """Those of hitl.toml by their dotted names, but for where the rating app is."""
    tree = tomllib.loads(workspace.config_path.read_text()) if workspace.config_path.exists() else {}
    return {
        f"{section}.{key}": value
        for section, entries in tree.items()
        if section != "server"
        for key, value in entries.items()
    }


def _log(name: str, tracker: GeneralTracker, point: Point) -> None:
    if name == "tensorboard":
        tracker.log(dict(point.values), step=point.at)
    else:
        tracker.log({**point.values, point.axis: point.at})


if __name__ == "__main__":
    main(*sys.argv[1:])
