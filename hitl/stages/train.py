"""Train: DPOK or another algorithm, against this round's reward model or straight from the comparisons."""

import json
from pathlib import Path
from typing import Any

import torch

from data.checkpoints import sha256_of_weights
from data.workspace import write_atomically
from hitl.config import CLIP_HEAD
from hitl.core.errors import NotEnoughRatings
from hitl.stages.guard import make_guard
from hitl.stages.model_card import model_card
from hitl.stages.reward import fitted_reward, training_reward
from hitl.stages.stage import Desk, Stage, device_name, read_images, versions
from reward_models.answers import answers_from_rows, compared, read_snapshot, things_of
from rl.algorithms.best_of_n import BestOfN
from rl.algorithms.contract import Algorithm, Preference
from rl.algorithms.make import make_algorithm
from rl.config import TrainConfig
from rl.families.family import Family
from rl.preferences import Comparisons, Traces, retrace
from rl.ranks import Ranks
from rl.train import train, train_on_comparisons


def run(stage: Stage, desk: Desk) -> None:
    """Train the policy; a run that was cut off goes on from its last finished epoch."""
    config = stage.config
    algorithm = make_algorithm(config.train.algorithm, config.algorithm)
    family = desk.family(config)
    policy = stage.checkpoint(stage.round)
    start_from = stage.checkpoint(stage.inputs["policy_round"]) if stage.inputs["policy_round"] else None

    def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
        stage.report(epoch, config.train.epochs, **metrics)

    guard = None
    if isinstance(algorithm, Preference):
        pairs, traces = comparisons_of(stage, family, algorithm, start_from)
        guard = make_guard(stage, desk, family, fitted_reward(stage, desk))
        train_on_comparisons(
            family,
            algorithm,
            pairs,
            traces,
            config.train,
            config.sample,
            folder=policy,
            place=stage.place,
            start_from=start_from,
            on_epoch=on_epoch,
            watch=guard,
        )
    else:
        reward = training_reward(stage, desk)
        if not isinstance(algorithm, BestOfN):
            guard = make_guard(stage, desk, family, reward)
        prompts = stage.inputs["prompts"]
        train(
            family,
            algorithm,
            reward,
            [prompt["text"] for prompt in prompts],
            config.train,
            config.sample,
            folder=policy,
            place=stage.place,
            tasks=[prompt["task"] for prompt in prompts] if config.train.balance_tasks else None,
            start_from=start_from,
            on_epoch=on_epoch,
            watch=guard,
        )
    if Ranks.here().rank:  # the first process writes for all
        return
    origin = _origin(stage, desk, algorithm)
    write_atomically(policy / "policy.json", json.dumps({"round": stage.round} | origin, indent=2).encode())
    write_atomically(policy / "README.md", model_card(stage, family).encode())
    seen = guard.result() if guard is not None else None
    checkpoint = sha256_of_weights(policy)
    is_stopped = seen is not None and bool(seen["reason"])
    epochs = seen["epoch"] if seen is not None and is_stopped else config.train.epochs
    stage.finish(
        {
            "epochs": epochs,
            "images": 0 if isinstance(algorithm, Preference | BestOfN) else _images(config.train, epochs),
            "checkpoint": checkpoint,
            "origin": origin,
            "guard": seen,
        }
    )
    if guard is not None:
        guard.tidy(checkpoint)


def _origin(stage: Stage, desk: Desk, algorithm: Algorithm) -> dict[str, Any]:
    """What the policy was made of: base model, policy it began from, reward model, answers, code."""
    config, workspace = stage.config, stage.workspace
    before = workspace.manifest(stage.inputs["policy_round"], "train") if stage.inputs["policy_round"] else None
    rewards = {name: weight for name, weight in config.reward.items() if weight}
    if isinstance(algorithm, Preference | BestOfN):
        rewards = {}
    fitted = workspace.reward_dir(stage.round)
    return desk.base_model(config) | {
        "snapshot": stage.inputs["snapshot"],
        "began_from": before["checkpoint"] if before else "",
        "algorithm": config.train.algorithm,
        "rewards": rewards,
        "reward": sha256_of_weights(fitted) if CLIP_HEAD in rewards else "",
        "device": device_name(desk.device(config)),
        "versions": versions(),
    }


def _images(config: TrainConfig, epochs: int) -> int:
    """Drawn while training."""
    return epochs * config.prompts_per_epoch * config.images_per_prompt


def comparisons_of(
    stage: Stage, family: Family, algorithm: Preference, start_from: Path | None
) -> tuple[Comparisons, Traces | None]:
    """The snapshot's comparisons; with the steps that drew the images, those of this round alone.

    Raises:
        NotEnoughRatings: there are none.
    """
    rows = read_snapshot(stage.snapshot)
    if algorithm.learns_from_steps:
        rows = [row for row in rows if row["round"] == stage.round]
    answers = answers_from_rows(rows)
    things = things_of(answers)
    pairs = compared(answers, things)
    if not len(pairs):
        raise NotEnoughRatings("There are no comparisons to learn from.", hint="Rate pairs of this round's images.")
    found = Comparisons(
        images=read_images(stage.workspace, [image_id for image_id, _ in things]),
        prompts=[prompt for _, prompt in things],
        first=torch.from_numpy(pairs.first),
        second=torch.from_numpy(pairs.second),
        outcome=torch.from_numpy(pairs.outcome),
    )
    if not algorithm.learns_from_steps:
        return found, None
    config = stage.config
    seeds = {(row["image_id"], row["prompt"]): row["seed"] for row in stage.inputs["drawn"]}
    if start_from is not None:
        family.load_policy(start_from)
    traces = retrace(
        family,
        found,
        family.process.schedule(config.draw.steps, eta=config.sample.eta, window=config.draw.window),
        guidance=config.sample.guidance,
        seeds=[tuple(seeds[thing].split("/")) for thing in things],
        batch_size=config.draw.batch_size,
    )
    return found, traces
