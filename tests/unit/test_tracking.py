"""What goes to a tracker: which points, once each, in which order; read back with TensorBoard's own reader."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from data.workspace import Workspace
from hitl.core.errors import ConfigError, HitlError
from hitl.tracking import Tracking, trackers_of, tracking
from hitl.tracking.points import points
from tests.fixtures.judged import make_scores, write_round


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


def a_round(workspace: Workspace, number: int, *, epochs: int = 2) -> Path:
    folder = write_round(workspace, number, make_scores("better", prompts=3, splits=("held_out",), seed=number))
    rows = [
        {"stage": "train", "step": step, "total": epochs, "metrics": {"reward_mean": number + step / 10}, "time": 0.0}
        for step in range(1, epochs + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    manifest = workspace.manifest(number, "train")
    assert manifest is not None
    workspace.write_manifest(number, "train", manifest | {"epochs": epochs})
    return folder


def test_epochs_are_counted_over_the_rounds_and_judgements_stand_at_their_round(workspace: Workspace):
    """Three epochs, then two: the second round's are the fourth and the fifth."""
    a_round(workspace, 1, epochs=3)
    a_round(workspace, 2)
    found = list(points(workspace))
    trained = [(each.at, each.values["train/reward_mean"]) for each in found if each.axis == "epoch"]
    assert trained == [(1, 1.1), (2, 1.2), (3, 1.3), (4, 2.1), (5, 2.2)]
    [judged] = [each for each in found if each.key == "2/evaluate"]
    summary = (workspace.manifest(2, "evaluate") or {})["summary"]
    gain = summary["gains"]["held_out"]["all"]["correctness"]
    assert judged.at == 2
    assert [judged.values[f"evaluate/held_out/correctness/gain{end}"] for end in ("", "_low", "_high")] == [
        gain["mean"],
        gain["low"],
        gain["high"],
    ]
    assert "evaluate/held_out/correctness/best_of_4" in judged.values
    costs = {name: value for each in found if each.key.startswith("2/cost") for name, value in each.values.items()}
    assert (costs["cost/seconds_train"], costs["cost/ratings"], costs["cost/reward_queries"]) == (60.0, 48.0, 256.0)
    assert len({each.key for each in found}) == len(found)
    assert list(points(workspace, {each.key for each in found})) == []


def test_a_round_that_its_guard_stopped_early_counts_the_epochs_that_it_had(workspace: Workspace):
    folder = a_round(workspace, 1, epochs=9)
    rows = [
        {"stage": stage, "step": step, "total": 9, "metrics": {"seen": step}, "time": 0.0}
        for stage, step in (("guard", 0), ("train", 1), ("train", 2), ("guard", 2), ("train", 3))
    ]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    a_round(workspace, 2, epochs=1)
    found = [(each.at, name) for each in points(workspace) if each.axis == "epoch" for name in each.values]
    expected = [(1, "train/seen"), (2, "train/seen"), (2, "guard/seen"), (3, "train/seen"), (4, "train/reward_mean")]
    assert found == expected


def test_a_round_in_progress_gives_what_there_is_and_a_step_that_was_run_again_counts_once(workspace: Workspace):
    folder = a_round(workspace, 1)
    for stage in ("train", "evaluate"):
        (folder / stage / "manifest.json").unlink()
    row = {"stage": "train", "step": 2, "total": 2, "metrics": {"reward_mean": 7.0, "kl": float("nan")}, "time": 1.0}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(f'{json.dumps(row)}\n{{"stage": "tra')
    found = {each.key: each.values for each in points(workspace)}
    assert [key for key in found if "train" in key] == ["1/train/1", "1/train/2"]
    assert found["1/train/2"] == {"train/reward_mean": 7.0}
    assert "1/evaluate" not in found


def test_names_are_repeated_or_have_commas_and_an_unknown_one_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert trackers_of([]) == ()
    assert trackers_of(["wandb,tensorboard", "wandb", " trackio "]) == ("wandb", "tensorboard", "trackio")
    with pytest.raises(ConfigError, match="--log-with is 'mlflow'") as raised:
        trackers_of(["tensorboard", "mlflow"])
    assert raised.value.hint == "Use tensorboard, wandb or trackio."


def test_a_package_that_is_not_installed_is_refused_with_the_way_to_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="needs the package wandb, which is not installed") as raised:
        trackers_of(["wandb"])
    assert "pip install wandb" in raised.value.hint


def test_the_hub_imports_neither_torch_nor_accelerate_for_it():
    code = (
        "import sys, hitl.tracking, hitl.tracking.points;"
        "assert {'torch', 'accelerate', 'tensorboard', 'wandb'}.isdisjoint(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# -- the process ------------------------------------------------------------------------------------------------------


def logged(workspace: Workspace) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value) of every event, as TensorBoard reads them."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(workspace.root / "log" / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.long
def test_tensorboard_has_every_point_once_after_a_run_that_was_continued_and_one_that_was_killed(workspace: Workspace):
    pytest.importorskip("tensorboard")
    a_round(workspace, 1)
    with tracking(workspace, ["tensorboard"]):
        pass
    a_round(workspace, 2)
    killed = Tracking(workspace, ["tensorboard"])
    wait_for(lambda: {len(each) for tag, each in logged(workspace).items() if not tag.startswith("train/")} == {2})
    killed._process.kill()
    killed.stop()
    a_round(workspace, 3)
    with tracking(workspace, ["tensorboard"]):
        pass
    found = logged(workspace)
    assert [step for step, _ in found["train/reward_mean"]] == [1, 2, 3, 4, 5, 6]
    assert [value for _, value in found["train/reward_mean"]] == pytest.approx([1.1, 1.2, 2.1, 2.2, 3.1, 3.2])
    for tag in ("evaluate/held_out/correctness/gain_low", "cost/seconds_evaluate", "fit/accuracy"):
        assert [step for step, _ in found[tag]] == [1, 2, 3]


@pytest.mark.long
def test_a_tracker_that_does_not_start_stops_the_run_before_it_begins(workspace: Workspace):
    pytest.importorskip("tensorboard")
    (workspace.root / "log").mkdir(parents=True)
    (workspace.root / "log" / "tensorboard").write_text("a file where a folder should be")
    with pytest.raises(HitlError, match="Cannot log with tensorboard: "):
        Tracking(workspace, ["tensorboard"])


def wait_for(is_true: Any) -> None:
    deadline = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.1)
