"""`hitl round`: the hub runs rounds while people, or simulated raters, rate at its app."""

import os
import re
import select
import shlex
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from apps.simulated import crew
from apps.simulated import run as rate
from hitl.commands.hub import Served, running_hub
from hitl.commands.progress import Display
from hitl.core.errors import ConfigError
from hitl.rounds import Hub, guard_says, run_rounds
from hitl.tracking import trackers_of, tracking

_UNITS = {"s": 1, "m": 60, "h": 3600}
_FAREWELL_S = 3.0
"""The server stays so long after the last round: open pages, which ask every second, learn that all is done."""


def run(
    count: int, raters: str, after: str, log_with: Sequence[str], workspace: Path | None, settings: list[str]
) -> None:
    if count < 1:
        raise ConfigError(f"--n is {count}, but must be 1 or more.", hint="For example: hitl round --n 5")
    simulated, trackers = parse_raters(raters), trackers_of(log_with)
    start = ["hitl", "round", "--raters", raters, *(["--after", after] if after else [])]
    start += ["--log-with", ",".join(trackers)] if trackers else []
    start += [part for setting in settings for part in ("--set", setting)]
    wait_s = parse_duration(after) if after else None
    # A polite kill stops as cleanly as Ctrl-C. Set for both: a shell starts background jobs with SIGINT ignored.
    for polite in (signal.SIGINT, signal.SIGTERM):
        signal.signal(polite, signal.default_int_handler)
    with running_hub(workspace, settings, create=True) as served:
        served.hub.wait_s = wait_s
        overlap = served.hub.config.rate.overlap
        if 0 < simulated < overlap:
            raise ConfigError(
                f"--raters {raters} are {simulated}, but rate.overlap wants {overlap} raters for each task.",
                hint=f"Use --raters simulated:{overlap}, or --set rate.overlap={simulated}.",
            )
        served.hub.worker.start()
        try:
            with tracking(served.hub.workspace, trackers):
                numbers = _run_with_raters(served, count, simulated)
        except KeyboardInterrupt:
            status = served.hub.live.view()
            left = status.rounds - status.round + 1 if status.round else count
            again = shlex.join([*start, "--n", str(left), "-w", str(served.hub.workspace.root)])
            where = f" in round {status.round}, stage {status.stage}" if status.round else ""
            print(f"Stopped{where}. All ratings and finished work are kept.\nTo go on: {again}", file=sys.stderr)
            raise
        reports = served.hub.workspace.round_dir(numbers[-1]) / "report.html"
        if not simulated:
            time.sleep(_FAREWELL_S)
    done = f"Round {numbers[0]} is" if len(numbers) == 1 else f"Rounds {numbers[0]} to {numbers[-1]} are"
    for number in numbers:
        if words := guard_says(served.hub.workspace, number):
            print(f"Round {number}: {words}")
    print(f"{done} done. Report: {reports}")
    if len(numbers) < count:
        print(f"The other {count - len(numbers)} were not begun (guard.on_stop). Look at the pictures, then decide.")
    if simulated:
        print(f"Now rate yourself: hitl round -w {served.hub.workspace.root}")


def parse_raters(text: str) -> int:
    """How many simulated raters; 0 for people.

    Raises:
        ConfigError: neither `human` nor `simulated[:K]`.
    """
    if text == "human":
        return 0
    match = re.fullmatch(r"simulated(?::(\d+))?", text)
    if not match or match[1] == "0":
        raise ConfigError(f"--raters is {text!r}.", hint="Use human, simulated, or simulated:3 for three of them.")
    return int(match[1] or 1)


def parse_duration(text: str) -> float:
    """Seconds in 90s, 30m or 2h.

    Raises:
        ConfigError: anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not match:
        raise ConfigError(f"--after is {text!r}.", hint="Use a number and a unit: 90s, 30m or 2h.")
    return float(match[1]) * _UNITS[match[2]]


def _run_with_raters(served: Served, count: int, simulated: int) -> list[int]:
    hub, stop = served.hub, threading.Event()
    helpers = []
    if simulated:
        config = hub.config.simulated
        raters = crew(
            simulated,
            seed=hub.config.project.seed,
            taste_weight=config.taste_weight,
            careless=config.careless,
            adversarial=config.adversarial,
        )

        def rate_all() -> None:
            try:
                rate(served.server.url, raters, stop, token=served.token)
            except Exception as error:
                hub.failure = error

        helpers.append(threading.Thread(target=rate_all, daemon=True))
    else:
        print(
            f"Rate at {served.public_url}  (researcher's page: {served.public_url}/board?key={served.token})",
            file=sys.stderr,
        )
        if sys.stdin.isatty():
            print("Press Enter to go on with the ratings there are.", file=sys.stderr)
            helpers.append(threading.Thread(target=_watch_keys, args=(hub, stop), daemon=True))
    for helper in helpers:
        helper.start()
    try:
        with Display(hub.live, served.public_url):
            return run_rounds(hub, count)
    finally:
        stop.set()


def _watch_keys(hub: Hub, stop: threading.Event) -> None:
    """Enter means: do not wait for more ratings. In the background what is typed is meant for the shell."""
    while not stop.wait(0.1):
        if os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp() and select.select([sys.stdin], [], [], 0.5)[0]:
            if not sys.stdin.readline():
                return
            hub.go_on.set()
