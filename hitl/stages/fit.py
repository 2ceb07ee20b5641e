"""Fit: a reward model on all comparisons so far, from the round's snapshot."""

import numpy as np

from data.workspace import Workspace
from hitl.stages.stage import Desk, Stage, read_images
from reward_models.comparisons import read_snapshot
from reward_models.fit import fit_reward, require_better_than_chance
from rl.algorithms.best_of_n import BestOfN
from rl.algorithms.contract import Preference
from rl.algorithms.make import make_algorithm


def run(stage: Stage, desk: Desk) -> None:
    """Fit, save under `fit/reward`, and refuse a model at chance, unless `fit.force` or nothing is trained on it."""
    snapshot = stage.workspace.round_dir(stage.round) / "snapshot.parquet"
    report = fit_reward(
        read_snapshot(snapshot),
        lambda image_id: _read_image(stage.workspace, image_id),
        stage.config.fit,
        stage.workspace.root / "cache" / "features",
        stage.folder / "reward",
        reference_images=[(row["image_id"], row["prompt"]) for row in stage.inputs["drawn"]],
        snapshot_sha=stage.inputs["snapshot"],
        device=desk.device(stage.config),
    )
    algorithm = make_algorithm(stage.config.train.algorithm, stage.config.algorithm)
    is_trained_on = not isinstance(algorithm, Preference | BestOfN)
    require_better_than_chance(report, stage.config.fit.force or not is_trained_on)
    stage.finish({"report": report.to_dict()})


def _read_image(workspace: Workspace, image_id: str) -> np.ndarray:
    return read_images(workspace, [image_id])[0].permute(1, 2, 0).numpy()
