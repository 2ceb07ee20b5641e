"""The papers' experiments on the starter model.

    python -m benchmarks.papers dpok_tasks --small
    python -m benchmarks.papers render

An experiment writes benchmarks/results/papers/NAME.json and docs/images/papers/NAME.png; what it has trained is kept in
`--work`, so that a run that was killed goes on, and experiments share trainings. `render` writes the tables of the
pages in docs/experiments from the JSON. Every training is of one seed; intervals are over seeds and, within a seed,
over prompts.
"""

import argparse
import json
import logging
import os
import shlex
import sys
from pathlib import Path

from benchmarks.papers.experiments import EXPERIMENTS

RESULTS, PAGES, IMAGES = Path("benchmarks/results/papers"), Path("docs/experiments"), Path("docs/images/papers")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.papers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=[*EXPERIMENTS, "all", "render"])
    parser.add_argument("--small", action="store_true", help="minutes on two cores instead of a night or a GPU")
    parser.add_argument("--smallest", action="store_true", help=argparse.SUPPRESS)  # that it runs, for the tests
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("workspace/papers"), help="what has been trained so far")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON files")
    parser.add_argument("--images", type=Path, default=IMAGES, help="folder of the pictures")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=1, help="trainings beside each other, of one thread each")
    arguments = parser.parse_args()
    if arguments.what == "render":
        render(arguments.out)
        return
    from benchmarks.papers.experiment import run  # it imports torch

    logging.getLogger("hitl").setLevel(logging.ERROR)
    names = [*EXPERIMENTS] if arguments.what == "all" else [arguments.what]
    for name in names:
        size = "smallest" if arguments.smallest else "small" if arguments.small else "full"
        flags = [each for each in sys.argv[2:] if each != "--smallest"]
        run(
            EXPERIMENTS[name],
            size,
            seeds=arguments.seeds,
            work=arguments.work,
            out=arguments.out / f"{name}.json",
            images=arguments.images,
            command=shlex.join(["python", "-m", "benchmarks.papers", name, *flags]),
            device=arguments.device,
            processes=arguments.processes,
        )


def render(results: Path = RESULTS, pages: Path = PAGES) -> None:
    """Write the tables of every page anew."""
    from benchmarks.papers.pages import rendered

    for name, experiment in EXPERIMENTS.items():
        result = json.loads((results / f"{name}.json").read_text())
        page = pages / f"{name}.md"
        page.write_text(rendered(page.read_text(encoding="utf-8"), experiment.tables(result)), encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
