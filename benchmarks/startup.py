"""How long `hitl --help` takes, beside an empty Python process: the wait before every command.

python -m benchmarks.startup --output benchmarks/results/startup.json
"""

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import describe

BUDGET_S = 0.3


def _processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _seconds(command: list[str], runs: int) -> dict[str, float | int]:
    """Seconds of a whole process, from an empty folder. The first run only warms the file cache.

    Processor time is told beside the clock's because other work on the machine stretches it far less.
    """
    clock: list[float] = []
    processor: list[float] = []
    with tempfile.TemporaryDirectory() as empty:
        for _ in range(runs + 1):
            start, used = time.perf_counter(), _processor_s()
            subprocess.run(command, cwd=empty, check=True, stdout=subprocess.DEVNULL)
            clock.append(time.perf_counter() - start)
            processor.append(_processor_s() - used)
    warm = clock[1:]
    return {
        "runs": runs,
        "median_s": round(statistics.median(warm), 4),
        "fastest_s": round(min(warm), 4),
        "slowest_s": round(max(warm), 4),
        "first_s": round(clock[0], 4),
        "processor_median_s": round(statistics.median(processor[1:]), 4),
    }


def measure(runs: int) -> dict[str, object]:
    """Both times and their ratios, which travel better between machines than seconds."""
    script = shutil.which("hitl", path=str(Path(sys.executable).parent)) or shutil.which("hitl")
    if script is None:
        raise SystemExit(
            "error: there is no `hitl` command.\nhint:  Install the project first: pip install -e '.[dev]'"
        )
    empty = _seconds([sys.executable, "-c", "pass"], runs)
    help_ = _seconds([script, "--help"], runs)
    return {
        "what": "hitl --help",
        "command": "python -m benchmarks.startup",
        "machine": describe(),
        "help": help_,
        "python_pass": empty,
        "ratio": round(help_["median_s"] / empty["median_s"], 1),
        "processor_ratio": round(help_["processor_median_s"] / empty["processor_median_s"], 1),
        "budget_s": BUDGET_S,
        "within_budget": help_["median_s"] <= BUDGET_S,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the start-up time of the command line.")
    parser.add_argument("--runs", type=int, default=20, help="measured runs of each command")
    parser.add_argument("--output", type=Path, help="write the JSON here too")
    arguments = parser.parse_args()
    text = json.dumps(measure(arguments.runs), indent=2) + "\n"
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
