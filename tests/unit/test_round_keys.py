"""Enter at the terminal of `hitl round`: for us in the foreground, for the shell in the background."""

import os
import pty
import select
import signal
import sys
import time
from pathlib import Path

WATCHER = """
import sys, threading
from pathlib import Path
from data.store import Store
from data.workspace import Workspace
from hitl.commands.round import _watch_keys
from hitl.config import load_config
from hitl.rounds import Hub

workspace = Workspace(Path(sys.argv[1]))
with Store.open(workspace, create=True) as store:
    hub = Hub(workspace=workspace, store=store, config=load_config(workspace.config_path, []))
    threading.Thread(target=_watch_keys, args=(hub, threading.Event()), daemon=True).start()
    print("watching", flush=True)
    print("went on" if hub.go_on.wait(60) else "waited in vain", flush=True)
"""
SHELL = """
import os, signal, subprocess, sys

job = subprocess.Popen([sys.executable, *sys.argv[1:]], process_group=0)  # as `hitl round &` does
signal.signal(signal.SIGUSR1, lambda *_: os.tcsetpgrp(0, job.pid))  # as `fg` does
job.wait()
"""


def read_until(terminal: int, word: str, seconds: float) -> str:
    """What the terminal shows until this word, or until the time is over."""
    shown, end = "", time.monotonic() + seconds
    while word not in shown and select.select([terminal], [], [], max(0.0, end - time.monotonic()))[0]:
        try:
            shown += os.read(terminal, 1000).decode()
        except OSError:  # Linux' way to say that the other end was closed
            break
    return shown


def test_enter_in_the_background_is_the_shells_and_in_the_foreground_goes_on(tmp_path: Path):
    shell, terminal = pty.fork()
    if shell == 0:
        os.execv(sys.executable, [sys.executable, "-c", SHELL, "-c", WATCHER, str(tmp_path)])
    try:
        assert "watching" in read_until(terminal, "watching", 60)
        os.write(terminal, b"\n")
        assert "went on" not in read_until(terminal, "went on", 2)
        os.kill(shell, signal.SIGUSR1)
        assert "went on" in read_until(terminal, "went on", 10)  # the line was still there to be read
    finally:
        os.kill(shell, signal.SIGHUP)
        os.close(terminal)
        os.waitpid(shell, 0)
