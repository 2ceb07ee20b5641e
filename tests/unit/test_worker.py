"""The worker's side of a stage: whose policy it takes, and what it says when memory runs out."""

import importlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from data.workspace import Workspace
from hitl.config import load_config
from hitl.core.errors import ConfigError, WorkerError
from hitl.stages.__main__ import _run
from hitl.stages.stage import Desk, Stage
from hitl.worker import _raise_error


def a_spec(folder: Path, stage: str, *settings: str, round: int = 1) -> Path:
    """What the hub hands to the worker for one stage."""
    workspace = Workspace(folder)
    spec = {
        "stage": stage,
        "workspace": str(folder),
        "round": round,
        "config": asdict(load_config(workspace.config_path, list(settings))),
        "inputs": {},
    }
    path = workspace.stage_dir(round, stage) / "spec.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(spec))
    return path


# -- whose policy it takes --------------------------------------------------------------------------------------------


def a_policy(folder: Path, model: str) -> Path:
    """Round 1's policy, as far as it says whose it is."""
    policy = Workspace(folder).stage_dir(1, "train") / "policy"
    policy.mkdir(parents=True)
    (policy / "policy.json").write_text(json.dumps({"model": model, "round": 1, "snapshot": "sha"}))
    return policy


def test_a_policy_made_by_another_model_is_refused_by_name(tmp_path: Path):
    a_policy(tmp_path, "somebody/model")
    stage = Stage.read(a_spec(tmp_path, "draw", round=2))
    with pytest.raises(ConfigError) as caught:
        stage.checkpoint(1)
    assert caught.value.message == "model.name is 'starter', but round 1's policy is one of 'somebody/model'."
    assert "'somebody/model' again" in caught.value.hint


def test_a_policy_made_by_the_same_model_is_taken(tmp_path: Path):
    policy = a_policy(tmp_path, "somebody/model")
    stage = Stage.read(a_spec(tmp_path, "draw", "model.name=somebody/model", round=2))
    assert stage.checkpoint(1) == policy


# -- when memory runs out ---------------------------------------------------------------------------------------------


def on_the_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def in_numpy() -> None:
    np.empty(10**14)


def in_torch() -> None:
    torch.empty(10**14)  # no OutOfMemoryError but a bare RuntimeError of its allocator


def in_onednn() -> None:
    raise RuntimeError("could not create a primitive")  # met where a convolution's own buffers found no room


@pytest.mark.parametrize("run_out", [on_the_gpu, in_numpy, in_torch, in_onednn])
def test_a_stage_without_memory_is_no_bug_and_names_settings_that_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_out: Callable[[], None]
):
    spec = a_spec(tmp_path, "train")
    monkeypatch.setattr(importlib.import_module("hitl.stages.train"), "run", lambda stage, desk: run_out())
    answer = _run(spec, Desk())
    with pytest.raises(WorkerError) as caught:  # a WorkerError is what makes the hub take a fresh worker
        _raise_error(json.loads(json.dumps(answer)))
    assert caught.value.message == "The worker ran out of memory in train."
    settings = re.findall(r"--set (\S+=\d+)", caught.value.hint)
    usual, smaller = (load_config(tmp_path / "hitl.toml", given) for given in ([], settings))
    for setting in settings:
        section, key = setting.partition("=")[0].split(".")
        assert getattr(getattr(smaller, section), key) < getattr(getattr(usual, section), key)
    assert {setting.partition(".")[0] for setting in settings} == {"draw", "sample", "train"}


def test_any_other_error_of_a_stage_stays_a_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def multiply(stage: Stage, desk: Desk) -> None:
        torch.mm(torch.ones(2, 3), torch.ones(2, 3))

    spec = a_spec(tmp_path, "train")
    monkeypatch.setattr(importlib.import_module("hitl.stages.train"), "run", multiply)
    with pytest.raises(RuntimeError, match=r"The worker met a bug:[\s\S]*cannot be multiplied"):
        _raise_error(_run(spec, Desk()))
