"""`hitl serve`: the rating app alone."""

import signal
import sys
import threading
from pathlib import Path

from hitl.commands.hub import running_hub


def run(workspace: Path | None, settings: list[str]) -> None:
    with running_hub(workspace, settings, create=False) as served:
        served.hub.live.enter("rate", "Waiting for ratings")
        print(f"Rate at {served.public_url}", file=sys.stderr)
        print(f"Researcher's page: {served.public_url}/board?key={served.token}", file=sys.stderr)
        print("Stop with Ctrl-C.", file=sys.stderr)
        stop = threading.Event()
        for polite in (signal.SIGINT, signal.SIGTERM):
            signal.signal(polite, lambda *_: stop.set())
        while not stop.wait(1):
            pass
        print("Stopped. All ratings are kept.", file=sys.stderr)
