"""The hubs that `benchmarks.rating` measures: real processes over workspaces that are ready to be rated."""

import contextlib
import io
import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as Picture

from data.records import Image, Prompt, Rating, Task
from data.store import Store
from data.workspace import Workspace

_PATIENCE_S = 900.0


@dataclass(frozen=True, slots=True)
class Hub:
    """`hitl serve` in a process of its own."""

    url: str
    pid: int
    workspace: Workspace

    def memory_mib(self) -> float:
        """Resident."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    def cpu_s(self) -> float:
        """Processor time so far, of all its threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100


def make_workspace(folder: Path, *, tasks: int, pictures: int = 80, pixels: int = 512, overlap: int = 1) -> Workspace:
    """A round of different pairs of photograph-like pictures; at 512 x 512 a PNG of them has some 300 kB."""
    workspace = Workspace(folder)
    rng = np.random.default_rng(0)
    with Store.open(workspace, create=True) as store:
        prompt = Prompt.of("a benchmark in soft light")
        ids = [workspace.add_image(_picture(rng, pixels)) for _ in range(pictures)]
        store.add_prompts([prompt])
        store.start_round(1, "benchmark")
        store.add_images(
            Image(image_id=image_id, prompt_id=prompt.prompt_id, round=1, width=pixels, height=pixels)
            for image_id in ids
        )
        pairs = list(itertools.islice(itertools.combinations(ids, 2), None))
        pairs = [pairs[number] for number in rng.permutation(len(pairs))]
        if len(pairs) < tasks:
            raise SystemExit(f"error: {pictures} pictures make {len(pairs)} pairs.\nhint:  Ask for fewer tasks.")
        store.add_tasks(
            Task(
                task_id=f"r0001-{number:05d}",
                round=1,
                kind="pairwise",
                prompt_id=prompt.prompt_id,
                image_ids=pair,
                overlap=overlap,
            )
            for number, pair in enumerate(pairs[:tasks])
        )
    # What stands between a rater and their pairs is not what is measured.
    (folder / "hitl.toml").write_text("[rate]\npractice = 0\nbreak_every = 0\n")
    return workspace


def _picture(rng: np.random.Generator, pixels: int) -> bytes:
    """Smooth colours with some grain, which PNG can squeeze about as well as what a diffusion model draws."""
    coarse = Picture.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((pixels, pixels), Picture.Resampling.BICUBIC), dtype=np.int16)
    grained = smooth + rng.integers(-2, 3, smooth.shape)
    file = io.BytesIO()
    Picture.fromarray(grained.clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


@contextlib.contextmanager
def a_hub(workspace: Workspace, *settings: str) -> Iterator[Hub]:
    with _running("serve", workspace, settings) as process:
        wait_until(workspace.hub_path.exists)
        yield Hub(json.loads(workspace.hub_path.read_text())["url"], process.pid, workspace)


@contextlib.contextmanager
def training(folder: Path) -> Iterator[Callable[[], bool]]:
    """Another workspace's round, from its first training step on; what it gives says whether it still trains."""
    workspace = Workspace(folder)
    arguments = ("--set", "train.epochs=100000", "--set", "rate.ratings_per_round=24", "--set", "fit.force=true")
    with _running("round", workspace, ("--n", "1", "--raters", "simulated:2", *arguments)):
        wait_until(lambda: _is_training(workspace))
        yield lambda: _is_training(workspace)


@contextlib.contextmanager
def _running(command: str, workspace: Workspace, arguments: tuple[str, ...]) -> Iterator[subprocess.Popen[bytes]]:
    line = [sys.executable, "-m", "hitl.cli", command, "-w", str(workspace.root), "--set", "server.port=0", *arguments]
    process = subprocess.Popen(line, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)


def _is_training(workspace: Workspace) -> bool:
    """Between the first epoch and the end of the stage."""
    metrics = workspace.round_dir(1) / "metrics.jsonl"
    return metrics.exists() and '"stage": "train"' in metrics.read_text() and workspace.manifest(1, "train") is None


def wait_until(claim: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not claim():
        if time.monotonic() > deadline:
            raise SystemExit("error: the hub did not get there.\nhint:  Run `hitl round --n 1` by hand and look.")
        time.sleep(0.2)


def stored(workspace: Workspace) -> list[Rating]:
    """All ratings of a workspace whose hub has gone."""
    with Store.open(workspace) as store:
        return store.ratings()
