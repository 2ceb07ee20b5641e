"""Fit: a reward model on all answers so far, from the round's snapshot."""

import numpy as np

from data.checkpoints import sha256_of_weights
from data.workspace import Workspace
from hitl.stages.stage import Desk, Stage, read_images, versions
from reward_models.answers import read_snapshot
from reward_models.fit import fit_reward
from reward_models.report import require_better_than_chance
from rl.algorithms.best_of_n import BestOfN
from rl.algorithms.contract import Preference
from rl.algorithms.make import make_algorithm


def run(stage: Stage, desk: Desk) -> None:
    """Fit, save under `reward`, and refuse a model at chance, unless `fit.force` or nothing is trained on it."""
    workspace = stage.workspace
    report = fit_reward(
        read_snapshot(stage.snapshot),
        lambda image_id: _read_image(workspace, image_id),
        stage.config.fit,
        workspace.root / "cache" / "features",
        stage.folder / "reward",
        reference_images=_things(stage.inputs["drawn"]),
        probe=_things(stage.inputs["probe"]),
        previous=workspace.reward_dir(stage.round - 1) if stage.round > 1 else None,
        snapshot_sha=stage.inputs["snapshot"],
        device=desk.device(stage.config),
        on_progress=lambda done, total: stage.report(done, total),
    )
    algorithm = make_algorithm(stage.config.train.algorithm, stage.config.algorithm)
    is_trained_on = stage.apart is None and not isinstance(algorithm, Preference | BestOfN)
    require_better_than_chance(report, stage.config.fit.force or not is_trained_on)
    stage.finish(
        {
            "report": report.to_dict(),
            "reward": sha256_of_weights(stage.folder / "reward"),
            "snapshot": stage.inputs["snapshot"],
            "versions": versions(),
        }
    )


def _things(drawn: list[dict[str, str]]) -> list[tuple[str, str]]:
    return [(row["image_id"], row["prompt"]) for row in drawn]


def _read_image(workspace: Workspace, image_id: str) -> np.ndarray:
    return read_images(workspace, [image_id])[0].permute(1, 2, 0).numpy()
