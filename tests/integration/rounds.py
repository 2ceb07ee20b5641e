"""Runs of the real command line on a small budget, for the tests of whole rounds."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from data.store import Store
from data.workspace import Workspace

SMALL = (
    "prompts.per_task=1",
    "prompts.held_out_per_task=1",
    "draw.images_per_prompt=3",
    "draw.steps=4",
    "rate.ratings_per_round=15",
    "rate.gold=0.2",
    "fit.force=true",
    "fit.folds=2",
    "sample.steps=4",
    "sample.window=2",
    "train.epochs=3",
    "train.prompts_per_epoch=2",
    "train.images_per_prompt=2",
    "guard.every=2",
    "guard.on_stop=go_on",
    "evaluate.steps=4",
    "evaluate.images_per_prompt=2",
    "evaluate.best_of=2",
    "server.port=0",
)
"""Settings that make a round take seconds. A reward at chance is used all the same: the budget is too small for one."""


def start_rounds(workspace: Path, *more: str, count: int = 1, raters: str = "simulated:2") -> subprocess.Popen[str]:
    settings = [part for setting in SMALL for part in ("--set", setting)]
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "hitl.cli",
            "round",
            "--n",
            str(count),
            "--raters",
            raters,
            "-w",
            str(workspace),
            *settings,
            *more,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"HITL_THREADS": "1"},
    )


def finish(process: subprocess.Popen[str], *, timeout_s: float = 240) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    out, err = process.communicate(timeout=timeout_s)
    return process.returncode, out, err


def outcome(root: Path, rounds: int = 1) -> dict[str, object]:
    """All that must be the same after an interrupted run as after an undisturbed one."""
    workspace = Workspace(root)
    found: dict[str, object] = {}
    for number in range(1, rounds + 1):
        weights = workspace.stage_dir(number, "train") / "policy" / "pytorch_lora_weights.safetensors"
        found[f"weights {number}"] = hashlib.sha256(weights.read_bytes()).hexdigest()
        head = workspace.stage_dir(number, "fit") / "reward" / "head.safetensors"
        found[f"reward {number}"] = hashlib.sha256(head.read_bytes()).hexdigest()
        found[f"scores {number}"] = pq.read_table(
            workspace.stage_dir(number, "evaluate") / "scores.parquet"
        ).to_pylist()
    with Store.open(workspace) as store:
        found["ratings"] = sorted(
            (rating.rating_id, rating.task_id, rating.rater_id, str(rating.payload), rating.image_ids)
            for rating in store.ratings()
        )
        found["comparisons"] = sorted((each.task_id, each.outcome, each.left) for each in store.comparisons())
        found["images"] = sorted(image.image_id for image in store.images())
        found["tasks"] = [task.task_id for task in store.tasks()]
        found["rounds"] = [(round.number, round.state) for round in store.rounds()]
        found["metrics"] = [
            (metric.stage, metric.step, metric.name, None if metric.name.startswith("seconds") else repr(metric.value))
            for number in range(1, rounds + 1)
            for metric in store.metrics(number)
        ]
    return found
