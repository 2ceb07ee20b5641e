"""Several processes that share a training: equal to one process on the union, and a round through a launcher."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data.workspace import Workspace
from tests.fixtures.shared_training import ALGORITHMS
from tests.integration.rounds import finish, start_rounds

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
LORA_FILE = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By one process and by two, of the same start."""
    folder = tmp_path_factory.mktemp("ranks")
    script = ["-m", "tests.fixtures.shared_training"]
    for launcher, where in ([], "one"), (["-m", "torch.distributed.run", "--nproc-per-node", "2"], "two"):
        (folder / where).mkdir()
        command = [sys.executable, *launcher, *script, str(folder / where)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize("name", ALGORITHMS)
def test_two_processes_end_with_identical_weights_equal_to_one_process_on_the_union(trained: Path, name: str):
    """Identical to the bit between the two; to one process, but for the order in which gradients are summed."""
    first, second = (load_file(trained / "two" / f"{name}-{rank}-of-2.safetensors") for rank in (0, 1))
    alone = load_file(trained / "one" / f"{name}-0-of-1.safetensors")
    assert first.keys() == second.keys() == alone.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    moved = [key for key in alone if name == "full" or "lora_B" in key]  # they start at 0
    assert all(float(alone[key].abs().max()) > 1e-4 for key in moved)
    for key in moved:  # a number whose gradient is next to nothing may go the other way under Adam
        # Sums in another order: below 1 % on one processor, 1.4 % on another.
        assert float((first[key] - alone[key]).norm() / alone[key].norm()) < 0.03


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_first_process_tells_the_metrics_of_all(trained: Path, name: str):
    together, alone = (
        json.loads((trained / where).read_text()) for where in (f"two/{name}-2.json", f"one/{name}-1.json")
    )
    assert len(together) == (1 if name == "watched" else 2)
    for one, other in zip(together, alone, strict=True):
        assert one.keys() == other.keys()
        shared = [key for key in one if not key.startswith(("seconds", "first_pass"))]
        # The loss is a mean over batches, which two processes cut otherwise.
        shared = [key for key in shared if key != "loss" or name not in ("dpok", "full", "watched")]
        assert {key: one[key] for key in shared} == pytest.approx(
            {key: other[key] for key in shared}, rel=0.05, abs=1e-4
        )


@pytest.mark.parametrize(
    "launcher",
    [
        "torchrun --nproc-per-node 2 -m",
        "accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no -m",
    ],
    ids=["torchrun", "accelerate"],  # whose --multi_gpu starts processes on a CPU as well
)
def test_a_round_is_trained_by_the_processes_that_a_launcher_starts(tmp_path: Path, launcher: str):
    root = tmp_path / "workspace"
    settings = (f"train.launcher={launcher}", "train.epochs=2", "reward.jpeg_size=-0.1")
    code, _, err = finish(start_rounds(root, *(word for each in settings for word in ("--set", each))))
    assert code == 0, err
    workspace = Workspace(root)
    assert json.loads((workspace.stage_dir(1, "train") / "reward.json").read_text())["scales"]["jpeg_size"] > 0
    rows = [json.loads(line) for line in (workspace.round_dir(1) / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["stage"] == "train"] == [1, 2]
    assert (workspace.stage_dir(1, "train") / "policy" / LORA_FILE).exists()


def test_what_cannot_be_shared_or_launched_is_said_in_one_sentence(tmp_path: Path):
    settings = ["--set", "train.launcher=torchrun --nproc-per-node 2 -m", "--set", "train.prompts_per_epoch=3"]
    code, _, err = finish(start_rounds(tmp_path / "workspace", *settings))
    assert code == 2
    assert "train.prompts_per_epoch is 3, which 2 processes cannot share" in err
    code, _, err = finish(start_rounds(tmp_path / "workspace", "--set", "train.launcher=no-such-launcher -m"))
    assert code == 2
    assert "train.launcher cannot be run: there is no 'no-such-launcher'" in err
    assert "Traceback" not in err
    code, _, err = finish(start_rounds(tmp_path / "workspace", "--set", 'train.launcher="torchrun \'-m"'))
    assert code == 2
    assert "no closing quotation" in err


def test_a_process_that_dies_is_replaced_with_all_the_others(tmp_path: Path):
    """The launcher takes down the rest; the hub starts it again, and the training goes on from its last epoch."""
    died = tmp_path / "died"
    launcher = tmp_path / "launcher"
    launcher.write_text(
        f"""#!/bin/sh
echo a launcher that talks
if [ ! -e {died} ]; then
    touch {died}
    (sleep 25; pkill -9 -f -n "hitl.stages {tmp_path}") &
fi
exec torchrun --nproc-per-node 2 -m "$@"
"""
    )
    launcher.chmod(0o755)
    settings = ["--set", f"train.launcher={launcher}", "--set", "train.epochs=40"]
    code, _, err = finish(start_rounds(tmp_path / "workspace", *settings))
    assert code == 0, err
    assert "Starting another one" in err
