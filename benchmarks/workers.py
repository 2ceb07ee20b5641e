"""Processes that measure: each does one job, given as one JSON object, and says what it found in its last line, as one.

Needs the standard library alone: TRL's environment, which has none of our packages, imports it, too.
"""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def run_worker(command: Sequence[str], job: Mapping[str, Any]) -> dict[str, Any]:
    """Raises SystemExit, with what the worker said last, where it ends badly."""
    run = subprocess.run([*command, json.dumps(job)], env=variables(job["threads"]), capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(f"{shlex.join(command)} ended with {run.returncode}; it said last:\n{run.stderr[-3000:]}")
    return json.loads(run.stdout.splitlines()[-1])


def variables(threads: int) -> dict[str, str]:
    """The environment's, of a worker with so many threads, in whose Python our packages need not be installed."""
    count = str(threads)
    ours = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
    return {**os.environ, **ours}


def peak_memory() -> float:
    """Largest resident size of this process so far, in MiB. Unlike getrusage's it begins at 0 when a program starts."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None, "The kernel's /proc/self/status has no VmHWM: this benchmark needs Linux."
    return round(int(found.group(1)) / 1024, 1)
