"""Whole rounds of the real command on the starter model: they finish, resume, and survive kill -9 without a trace."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.workspace import STAGES, Workspace
from tests.integration.rounds import finish, outcome, start_rounds

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("undisturbed") / "workspace"
    code, out, err = finish(start_rounds(root))
    assert code == 0, err
    assert "report.html" in out
    return root


def test_a_round_leaves_every_stage_a_report_and_no_hub(undisturbed: Path):
    workspace = Workspace(undisturbed)
    assert all(workspace.is_done(1, stage) for stage in STAGES)
    assert "<svg" in (workspace.round_dir(1) / "report.html").read_text()
    assert not workspace.hub_path.exists()
    summary = workspace.manifest(1, "evaluate")
    assert summary is not None
    assert set(summary["summary"]["subjects"]) == {"reference", "policy", "best_of_2"}


def test_the_first_pass_ratio_is_one_and_the_policy_moved(undisturbed: Path):
    rows = [
        json.loads(line) for line in (Workspace(undisturbed).round_dir(1) / "metrics.jsonl").read_text().splitlines()
    ]
    trained = [row["metrics"] for row in rows if row["stage"] == "train"]
    assert len(trained) == 3
    assert all(row["first_pass_log_ratio"] < 1e-2 for row in trained)
    assert trained[0]["kl_per_step"] == 0.0
    assert trained[-1]["kl_per_step"] > 0.0


def test_a_finished_round_is_not_run_again(undisturbed: Path):
    before = outcome(undisturbed)
    answer = subprocess.run(
        [sys.executable, "-m", "hitl.cli", "status", "--json", "-w", str(undisturbed)],
        capture_output=True,
        text=True,
        check=True,
    )
    status = json.loads(answer.stdout)
    assert [entry["number"] for entry in status["rounds"] if entry["finished"]] == [1]
    assert outcome(undisturbed) == before


def test_ten_kills_at_random_moments_leave_the_same_store_and_weights(undisturbed: Path, tmp_path: Path):
    """kill -9 of the hub (the worker dies with it); what an undisturbed run made is what comes out in the end."""
    moments = random.Random(7)
    root = tmp_path / "workspace"
    kills = 0
    while kills < 10:
        process = start_rounds(root)
        time.sleep(moments.uniform(3.0, 14.0))
        if process.poll() is not None:
            break  # the round is done already
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        kills += 1
    if kills == 10:
        code, _, err = finish(start_rounds(root))
        assert code == 0, err
    assert kills >= 3
    assert outcome(root) == outcome(undisturbed)


def test_a_killed_worker_is_replaced_and_the_run_goes_on(undisturbed: Path, tmp_path: Path):
    root = tmp_path / "workspace"
    process = start_rounds(root)
    metrics = Workspace(root).round_dir(1) / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.exists() and '"train"' in metrics.read_text()):
        time.sleep(0.1)
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(children[0]), signal.SIGKILL)
    code, _, err = finish(process)
    assert code == 0, err
    assert "Starting another one" in err
    assert outcome(root) == outcome(undisturbed)


def test_two_at_once_are_told_who_holds_the_store(tmp_path: Path):
    root = tmp_path / "workspace"
    first = start_rounds(root, count=9)  # long enough to be still there when the second has come and gone
    while not Workspace(root).hub_path.exists():
        time.sleep(0.1)
        assert first.poll() is None
    code, _, err = finish(start_rounds(root))
    assert code == 1
    assert str(first.pid) in err
    assert "Traceback" not in err
    first.send_signal(signal.SIGINT)
    code, _, err = finish(first)
    assert code == 130
    assert "To go on: hitl round" in err
