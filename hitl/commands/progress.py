"""Progress on stderr: a live line on a terminal, one line per stage elsewhere."""

import threading
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from hitl.core.live import Live, LiveStatus


class Display:
    """Follows a `Live` from a thread of its own until it is closed."""

    def __init__(self, live: Live, url: str) -> None:
        self._live = live
        self._url = url
        self._console = Console(stderr=True)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "Display":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        if self._console.is_terminal:
            self._draw_bars()
        else:
            self._print_lines()

    def _draw_bars(self) -> None:
        columns = [
            TextColumn("{task.fields[where]}"),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
        ]
        with Progress(*columns, console=self._console) as bars:
            row, key = None, None
            while not self._stop.wait(0.2):
                status = self._live.view()
                if (status.round, status.stage) != key:
                    key = (status.round, status.stage)
                    if row is not None:
                        bars.stop_task(row)
                    row = bars.add_task(status.message, total=None, where=_where(status), count="", left="")
                    if status.stage == "rate":
                        self._console.print(f"Rate at {self._url}")
                assert row is not None
                left = "" if status.eta_s is None else f"~{_minutes(status.eta_s)} left"
                count = f"{status.done}/{status.total}" if status.total else ""
                bars.update(row, completed=status.done, total=status.total or None, count=count, left=left)

    def _print_lines(self) -> None:
        key, printed = None, 0.0
        while not self._stop.wait(0.2):
            status = self._live.view()
            if (status.round, status.stage) != key:
                key, printed = (status.round, status.stage), time.monotonic()
                self._say(status, status.message)
            elif status.total and time.monotonic() - printed > 15:
                printed = time.monotonic()
                self._say(status, f"{status.done}/{status.total}")

    def _say(self, status: LiveStatus, text: str) -> None:
        print(f"{_where(status)} {text}", file=self._console.file, flush=True)


def _where(status: LiveStatus) -> str:
    return f"round {status.round}/{status.rounds}" if status.round else "hitl"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
