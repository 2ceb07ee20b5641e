"""Metrics go to TensorBoard, Weights & Biases or trackio when asked: a process of its own follows the rounds' files."""

import contextlib
import importlib.util
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from data.workspace import Workspace
from hitl.core.errors import ConfigError, HitlError

logger = logging.getLogger(__name__)

TRACKERS = ("tensorboard", "wandb", "trackio")
FOLDER = "log"
"""Of a workspace: what was logged already, and what the trackers say and write themselves."""
_PATIENCE_S = 120.0
"""So long a tracker may take to send the last of it."""
READY = "ready\n"


def trackers_of(given: Sequence[str]) -> tuple[str, ...]:
    """The trackers that `--log-with` names, repeated or with commas between them.

    Raises:
        ConfigError: there is no such tracker, or its package is not installed.
    """
    names = tuple(dict.fromkeys(name for text in given for name in re.split(r"[,\s]+", text.strip()) if name))
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"--log-with is {name!r}.", hint=f"Use {', '.join(TRACKERS[:-1])} or {TRACKERS[-1]}.")
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"--log-with {name} needs the package {name}, which is not installed.",
                hint=f"Install it with `pip install {name}`, or leave --log-with out: the report needs none.",
            )
    return names


class Tracking:
    """The process that logs. It imports torch, through accelerate, and so is never the hub."""

    def __init__(self, workspace: Workspace, names: Sequence[str]) -> None:
        """Start it, and wait until every tracker takes values.

        Raises:
            HitlError: one of them does not.
        """
        self._log = workspace.root / FOLDER / "tracking.log"
        self._log.parent.mkdir(exist_ok=True)
        with self._log.open("wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "hitl.tracking", str(workspace.root), *names],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                start_new_session=True,  # Ctrl-C reaches the hub alone: what was done until then is logged
                env=os.environ | {"TOKENIZERS_PARALLELISM": "false"},
            )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != READY:
            self._end()
            raise HitlError(
                f"Cannot log with {', '.join(names)}: {_last_line(self._log)}",
                hint=f"Its own words are in {self._log}. W&B offline: WANDB_MODE=offline.",
            )

    def stop(self) -> None:
        """Let it log what there is, and end it."""
        code = self._end()
        if code:
            logger.warning(
                "Not everything was logged (%s). The next run with --log-with goes on where it ended.",
                _last_line(self._log),
            )

    def _end(self) -> int:
        """Its exit code; the end of its standard input tells it to leave."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.communicate(timeout=_PATIENCE_S)
        self._process.kill()  # does nothing to one that has ended
        with self._process:
            return self._process.wait()


@contextlib.contextmanager
def tracking(workspace: Workspace, names: Sequence[str]) -> Iterator[None]:
    """Logs with these trackers, if any, as long as the rounds run."""
    following = Tracking(workspace, names) if names else None
    try:
        yield
    finally:
        if following is not None:
            following.stop()


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it ended without a word"
