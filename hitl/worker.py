"""The hub's side of the worker process: start it, hand it one stage at a time, follow it, survive its death."""

import contextlib
import json
import os
import queue
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hitl.core import errors
from hitl.core.errors import SMALLER_BATCHES, HitlError, WorkerError

Progress = Callable[[dict[str, Any]], None]


class Worker:
    """One child process for a whole run. It never opens the store; it reads specs and writes into its round."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str | None] = queue.Queue()

    def start(self) -> None:
        """Start the process; its imports go on while the hub does other things. Does nothing when it runs."""
        if self._process is not None and self._process.poll() is None:
            return
        self._launch([sys.executable, "-m", "hitl.stages"])

    def _launch(self, command: list[str]) -> None:
        self._answers = queue.Queue()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C reaches the hub alone: it decides when the worker stops.
            start_new_session=True,
            env=os.environ
            | {
                "PATH": _path(),
                "TOKENIZERS_PARALLELISM": "false",
                "HF_HUB_DISABLE_PROGRESS_BARS": "1",
                "HITL_HUB": "1",  # the end of standard input is then the hub's end
            },
        )
        threading.Thread(target=_listen, args=(self._process, self._answers), daemon=True).start()

    def run(self, spec: Path, metrics: Path, on_progress: Progress, launcher: str = "") -> None:
        """Run the stage of a spec to its end, passing on each new line of `metrics`.

        Args:
            launcher: a command that starts several processes for this stage alone, in place of the one worker.

        Raises:
            HitlError: what the stage raised, or a WorkerError when the process died.
        """
        follower = _Follower(metrics, on_progress)
        if launcher:
            require_launcher(launcher)
            self.stop()  # its model would take memory beside the others'
            self._launch([*shlex.split(launcher), "hitl.stages", str(spec)])
        else:
            self.start()
            assert self._process is not None
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(f"{spec}\n")
                self._process.stdin.flush()
            except BrokenPipeError:
                self._answers.put(None)
        while True:
            try:
                answer = self._answers.get(timeout=0.2)
            except queue.Empty:
                follower.catch_up()
                continue
            follower.catch_up()
            break
        if answer is None:
            raise self._death(spec)
        if launcher:
            self.stop()
        _raise_error(json.loads(answer))

    def stop(self) -> None:
        """End the process; a stage in progress resumes from its last checkpoint the next time."""
        if self._process is None:
            return
        with contextlib.suppress(BrokenPipeError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _death(self, spec: Path) -> WorkerError:
        assert self._process is not None
        code = self._process.wait()
        cause = f"exit code {code}"
        hint = "Run the same command again: it goes on from the last checkpoint."
        if code == -signal.SIGKILL:
            cause = "killed; when nobody did it by hand, the machine ran out of memory"
            hint += f" If memory was short, {SMALLER_BATCHES}"
        elif code < 0:
            cause = signal.Signals(-code).name
        return WorkerError(f"The worker died in the {spec.parent.name} stage ({cause}).", hint=hint)


def require_launcher(launcher: str) -> None:
    """Raise a ConfigError for a command that cannot be run."""
    try:
        words = shlex.split(launcher)
    except ValueError as error:
        raise errors.ConfigError(
            f"train.launcher is {launcher!r}: {str(error).lower()}.", hint="Mend the quotes."
        ) from error
    if words and shutil.which(words[0], path=_path()) is None:
        raise errors.ConfigError(
            f"train.launcher cannot be run: there is no {words[0]!r}.",
            hint="Give a command that is installed, such as `torchrun --nproc-per-node 2 -m`.",
        )


def _path() -> str:
    """A launcher such as torchrun stands beside this Python, which need not be the first on the path."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


class _Follower:
    """Reads what is appended to a file after now, whole lines only."""

    def __init__(self, path: Path, on_line: Progress) -> None:
        self._path = path
        self._on_line = on_line
        self._offset = path.stat().st_size if path.exists() else 0

    def catch_up(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        for row in _rows(whole):
            self._on_line(row)


def read_report(path: Path) -> list[dict[str, Any]]:
    """All rows of a `metrics.jsonl`; none where there is no such file."""
    return _rows(path.read_bytes()) if path.exists() else []


def _rows(lines: bytes) -> list[dict[str, Any]]:
    """The lines as JSON; one that was torn by a kill or a full disk is left out."""
    found = []
    for line in lines.splitlines():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def _listen(process: subprocess.Popen[str], answers: "queue.Queue[str | None]") -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            if line.startswith(('{"done"', '{"error"', '{"bug"')):  # a launcher may have words of its own
                answers.put(line)
    answers.put(None)


def _raise_error(answer: dict[str, Any]) -> None:
    if "bug" in answer:
        raise RuntimeError(f"The worker met a bug:\n{answer['bug']}")
    if "error" in answer:
        kind = getattr(errors, answer["error"], HitlError)
        raise kind(answer["message"], hint=answer["hint"])
