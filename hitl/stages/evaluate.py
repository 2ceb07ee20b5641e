"""Evaluate: reference, policy and best-of-N of the reference, from the same seeds, by learned reward and by gold."""

import hashlib
import io
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from data.evaluation import ImageScore, best_of, summarise
from data.workspace import write_atomically
from data.world.taste import taste
from data.world.verifier import judge
from hitl.stages.stage import Desk, Stage
from reward_models.rewards.clip_head import ClipHead
from rl.families.family import Family
from rl.rollout import draw

GRID_PROMPTS_PER_TASK = 3


def run(stage: Stage, desk: Desk) -> None:
    """Score everything; the reference's images are drawn in the first round and read again in later ones."""
    reward = ClipHead.load(
        stage.workspace.stage_dir(stage.round, "fit") / "reward",
        device=desk.device(stage.config),
        chunk=stage.config.fit.batch_size,
    )
    family = desk.family(stage.config)
    reference = _reference_images(stage, family)
    stage.report(1, 3)
    family.load_policy(stage.checkpoint(stage.round))
    policy = _draw(stage, family)
    family.drop_policy()
    stage.report(2, 3)
    scores = [*_score(stage, "reference", reference, reward), *_score(stage, "policy", policy, reward)]
    best = best_of([score for score in scores if score.subject == "reference"], stage.config.evaluate.best_of)
    everything = [*scores, *best]
    table = pa.Table.from_pylist([asdict(score) for score in everything])
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    write_atomically(stage.folder / "scores.parquet", buffer.getvalue())
    _save_grid(stage, reference, policy)
    stage.report(3, 3)
    stage.finish({"summary": summarise(everything), "provenance": _provenance(stage, desk, family, policy)})


def _provenance(stage: Stage, desk: Desk, family: Family, images: torch.Tensor) -> dict[str, object]:
    """How both were drawn; the reference's images may be an earlier round's, of the same settings."""
    config = stage.config
    trained = stage.workspace.manifest(stage.round, "train") or {}
    return desk.origin(config, family.process) | {
        "policy_round": stage.round,
        "checkpoint": trained.get("checkpoint", ""),
        "seed": f"{config.project.seed}/evaluate/PROMPT_ID/INDEX",
        "steps": config.evaluate.steps,
        "eta": 0.0,
        "guidance": config.sample.guidance,
        "width": images.shape[3],
        "height": images.shape[2],
        "batch_size": config.draw.batch_size,
    }


def _draw(stage: Stage, family: Family) -> torch.Tensor:
    """Images of every prompt, index by index; the seed of an image does not depend on the round or the model."""
    config = stage.config
    wanted = [
        (p["prompt_id"], p["text"], i)
        for p in stage.inputs["prompts"]
        for i in range(config.evaluate.images_per_prompt)
    ]
    return draw(
        family,
        [text for _, text, _ in wanted],
        steps=config.evaluate.steps,
        guidance=config.sample.guidance,
        seeds=[(config.project.seed, "evaluate", prompt_id, index) for prompt_id, _, index in wanted],
        batch_size=config.draw.batch_size,
    )


def _reference_images(stage: Stage, family: Family) -> torch.Tensor:
    """The reference's images; the same in every round, so drawn once and kept under a hash of what they depend on."""
    config = stage.config
    depends_on = [
        asdict(config.evaluate),
        asdict(config.model),
        config.project.seed,
        config.sample.guidance,
        config.draw.batch_size,
        stage.inputs["prompts"],
    ]
    key = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:16]
    for number in range(1, stage.round + 1):
        path = _reference_path(stage, number, key)
        if path.exists():
            return torch.from_numpy(np.load(path)["images"])
    images = _draw(stage, family)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=images.numpy())
    write_atomically(_reference_path(stage, stage.round, key), buffer.getvalue())
    return images


def _reference_path(stage: Stage, number: int, key: str) -> Path:
    return stage.workspace.stage_dir(number, "evaluate") / f"reference-{key}.npz"


def _score(stage: Stage, subject: str, images: torch.Tensor, reward: ClipHead) -> list[ImageScore]:
    per_prompt = stage.config.evaluate.images_per_prompt
    rows = [(prompt, index) for prompt in stage.inputs["prompts"] for index in range(per_prompt)]
    learned = reward(images, [prompt["text"] for prompt, _ in rows])
    scores = []
    for (prompt, index), image, value in zip(rows, images.permute(0, 2, 3, 1).numpy(), learned.tolist(), strict=True):
        verdict = judge(image, prompt["text"])
        scores.append(
            ImageScore(
                subject=subject,
                prompt_id=prompt["prompt_id"],
                prompt=prompt["text"],
                task=prompt["task"],
                split=prompt["split"],
                index=index,
                reward=value,
                correctness=None if verdict is None else verdict.score,
                exact=None if verdict is None else float(verdict.exact),
                taste=None if verdict is None else taste(image),
            )
        )
    return scores


def _save_grid(stage: Stage, reference: torch.Tensor, policy: torch.Tensor) -> None:
    """The first image of some prompts of each task and split, before and after."""
    taken: dict[tuple[str, str], int] = {}
    rows = []
    for i, prompt in enumerate(stage.inputs["prompts"]):
        key = (prompt["split"], prompt["task"])
        if taken.setdefault(key, 0) < GRID_PROMPTS_PER_TASK:
            taken[key] += 1
            rows.append(i)
    first = [i * stage.config.evaluate.images_per_prompt for i in rows]
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        reference=reference[first].permute(0, 2, 3, 1).numpy(),
        policy=policy[first].permute(0, 2, 3, 1).numpy(),
        prompts=np.array([stage.inputs["prompts"][i]["text"] for i in rows]),
        splits=np.array([stage.inputs["prompts"][i]["split"] for i in rows]),
    )
    write_atomically(stage.folder / "grid.npz", buffer.getvalue())
