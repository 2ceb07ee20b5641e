"""Rounds as the stages leave them, written by hand: small files with real snapshots, and no model behind them."""

import hashlib
import json
from pathlib import Path
from typing import Any

from data.round_agreement import round_agreement
from data.store import Store
from data.workspace import Workspace

VERSIONS = {"python": "3.11.2", "hitl": "0.1.0", "torch": "2.14.0", "diffusers": "0.42.1"}
BASE = {"model": "starter", "revision": "sha256:" + "5" * 64}
INTERVAL = {"mean": 0.75, "low": 0.5, "high": 0.9, "n": 4, "clusters": 4}


def drawn_with(policy_round: int) -> dict[str, Any]:
    """What is recorded of an image."""
    return BASE | {
        "seed": f"0/round/{policy_round + 1}/draw/x/0",
        "index": 0,
        "policy_round": policy_round,
        "checkpoint": checkpoint_of(policy_round) if policy_round else "",
        "sampler": "ddim",
        "sampler_settings": {"prediction_type": "epsilon"},
        "steps": 20,
        "eta": 1.0,
        "window": 8,
        "guidance": 5.0,
        "batch_size": 8,
        "device": "cpu",
        "dtype": "float32",
        "versions": VERSIONS,
    }


def checkpoint_of(number: int) -> str:
    """The hash of the weights that `finish_round` writes."""
    return hashlib.sha256(f"weights {number}".encode()).hexdigest()


def finish_round(workspace: Workspace, store: Store, number: int) -> str:
    """All that names raters or a snapshot in a finished round's folder; the snapshot's hash."""
    folder = workspace.round_dir(number)
    snapshot = store.write_snapshot(folder / "snapshot.parquet", number)
    raters = sorted({found.rater_id for found in store.comparisons() if found.round <= number})
    report = fit_report(raters, snapshot.sha256, snapshot.comparisons)
    answered: dict[str, Any] = {
        "ratings": snapshot.comparisons,
        "comparisons": snapshot.comparisons,
        "raters": len(raters),
    }
    answered["agreement"] = round_agreement(store, number)
    workspace.write_manifest(number, "rate", {"snapshot": snapshot.sha256, **answered})
    _reward(workspace.stage_dir(number, "fit") / "reward", report)
    fitted = {"report": report, "reward": "6" * 64, "snapshot": snapshot.sha256, "versions": VERSIONS}
    _write(workspace.stage_dir(number, "fit") / "result.json", fitted)
    workspace.write_manifest(number, "fit", fitted)
    policy = workspace.stage_dir(number, "train") / "policy"
    origin = BASE | {
        "snapshot": snapshot.sha256,
        "began_from": checkpoint_of(number - 1) if number > 1 else "",
        "algorithm": "dpok",
        "rewards": {"clip_head": 1.0},
        "reward": "6" * 64,
        "device": "cpu",
        "versions": VERSIONS,
    }
    _write(policy / "policy.json", {"round": number} | origin)
    (policy / "pytorch_lora_weights.safetensors").write_bytes(f"weights {number}".encode())
    (policy / "README.md").write_text(f"| comparisons | snapshot `{snapshot.sha256}` |\n")
    trained = {"epochs": 3, "images": 12, "checkpoint": checkpoint_of(number), "origin": origin}
    workspace.write_manifest(number, "train", trained)
    workspace.write_manifest(number, "evaluate", {"summary": {}})
    (folder / "report.html").write_text("a page")
    return snapshot.sha256


def fit_outside(workspace: Workspace, store: Store, newest: int) -> str:
    """What `hitl fit` leaves; its folder's name."""
    place = workspace.root / "fits" / "outside"
    snapshot = store.write_snapshot(place / "snapshot.parquet", newest)
    raters = sorted({found.rater_id for found in store.comparisons()})
    _reward(place / "reward", fit_report(raters, snapshot.sha256, snapshot.comparisons))
    return "fits/outside"


def fit_report(raters: list[str], sha256: str, comparisons: int) -> dict[str, Any]:
    """What a fit says of itself, as far as it names raters or is shown."""
    return {
        "head": "linear",
        "backbone": "ViT",
        "pretrained": "starter",
        "fingerprint": "f",
        "snapshot_sha": sha256,
        "accuracy": INTERVAL,
        "comparisons": comparisons,
        "prompts": 1,
        "raters": len(raters),
        "raters_fitted": {rater: {"reliability": 1.0} for rater in raters},
        "judgement": {"by_rater": {rater: INTERVAL for rater in raters}},
        "mistakes": [{"rater": rater, "image": "a"} for rater in raters],
    }


def _reward(folder: Path, report: dict[str, Any]) -> None:
    _write(folder / "fit.json", report)
    (folder / "head.safetensors").write_bytes(b"head")


def _write(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
