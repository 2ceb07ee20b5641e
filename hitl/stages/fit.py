"""Fit: a reward model on all comparisons so far, from the round's snapshot."""

import numpy as np

from data.workspace import Workspace
from hitl.stages.stage import Desk, Stage, read_images
from reward_models.comparisons import read_snapshot
from reward_models.fit import fit_reward, require_better_than_chance


def run(stage: Stage, desk: Desk) -> None:
    """Fit, save under `fit/reward`, and refuse a model at chance unless `fit.force`."""
    snapshot = stage.workspace.round_dir(stage.round) / "snapshot.parquet"
    report = fit_reward(
        read_snapshot(snapshot),
        lambda image_id: _read_image(stage.workspace, image_id),
        stage.config.fit,
        stage.workspace.root / "cache" / "features",
        stage.folder / "reward",
        reference_images=[(image_id, prompt) for image_id, prompt in stage.inputs["drawn"]],
        snapshot_sha=stage.inputs["snapshot"],
        device=desk.device(stage.config),
    )
    require_better_than_chance(report, stage.config.fit.force)
    stage.finish({"report": report.to_dict()})


def _read_image(workspace: Workspace, image_id: str) -> np.ndarray:
    return read_images(workspace, [image_id])[0].permute(1, 2, 0).numpy()
