"""Evaluate: reference, previous policy, policy and best-of-N of the reference, from the same seeds, by every judge."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from data.evaluation import POLICY, REFERENCE, REWARD, ImageScore, best_of, summarise, write_scores
from data.judged_images import JudgedImages
from data.workspace import write_atomically
from hitl.stages.judged import draw_with, drawn_before, forget_old_pictures, keep, models_of
from hitl.stages.judges import judges_of, with_values
from hitl.stages.stage import Desk, Stage
from reward_models.rewards.clip_head import ClipHead
from rl.families.family import Family

GRID_PROMPTS_PER_TASK = 3


def run(stage: Stage, desk: Desk) -> None:
    """Draw with every model, show each picture to every judge, and say what that comes to, with intervals."""
    config, prompts = stage.config, stage.inputs["prompts"]
    family, models = desk.family(config), models_of(stage)
    before, drawn = {}, {}
    for number, model in enumerate(models, 1):
        before[model.subject] = known = drawn_before(stage, model)
        drawn[model.subject] = known[1] if known else draw_with(stage, family, model)
        stage.report(number, len(models) + 1)
    judged = with_values(drawn, {prompt["prompt_id"]: prompt["text"] for prompt in prompts}, config, desk)
    files = {subject: keep(stage, subject, before[subject], found) for subject, found in judged.items()}
    scores = [each for subject, found in judged.items() for each in _scores(stage, subject, found)]
    if reward := _reward(stage, desk):
        scores = _with_reward(scores, judged, reward)
        scores += best_of([score for score in scores if score.subject == REFERENCE], config.evaluate.best_of)
    write_scores(stage.folder / "scores.parquet", scores)
    _save_grid(stage, judged)
    stage.report(len(models) + 1, len(models) + 1)
    trained_on = _trained_on(Path(stage.inputs["policy"]))
    stage.finish(
        {
            "summary": summarise(scores),
            "drawn": files,
            "judges": {name: {"is_trained_on": name in trained_on} for name in judges_of(config)},
            "provenance": _provenance(stage, desk, family, judged[POLICY]),
        }
    )
    forget_old_pictures(stage)


def _scores(stage: Stage, subject: str, found: JudgedImages) -> list[ImageScore]:
    prompts = {prompt["prompt_id"]: prompt for prompt in stage.inputs["prompts"]}
    scores = []
    for row, (prompt_id, index) in enumerate(zip(found.prompt_ids, found.indices, strict=True)):
        prompt = prompts[prompt_id]
        scores.append(
            ImageScore(
                subject=subject,
                prompt_id=prompt_id,
                prompt=prompt["text"],
                task=prompt["task"],
                split=prompt["split"],
                index=index,
                values={name: float(each[row]) for name, each in found.values.items() if np.isfinite(each[row])},
            )
        )
    return scores


def _with_reward(
    scores: Sequence[ImageScore], judged: Mapping[str, JudgedImages], reward: ClipHead
) -> list[ImageScore]:
    """The same scores, which are of these pictures in their order, with the learned reward first."""
    images = torch.from_numpy(np.concatenate([found.images for found in judged.values()]))
    learned = reward(images, [score.prompt for score in scores]).tolist()
    return [
        replace(score, values={REWARD: value, **score.values}) for score, value in zip(scores, learned, strict=True)
    ]


def _reward(stage: Stage, desk: Desk) -> ClipHead | None:
    """The reward model that this round fitted, or the one that is named; None where there is none."""
    if not stage.inputs["reward"]:
        return None
    return ClipHead.load(stage.inputs["reward"], device=desk.device(stage.config), chunk=stage.config.fit.batch_size)


def _trained_on(policy: Path) -> set[str]:
    """The rewards that a policy was trained on, as far as it says so."""
    path = policy / "policy.json"
    return set(json.loads(path.read_text()).get("rewards", {})) if path.exists() else set()


def _provenance(stage: Stage, desk: Desk, family: Family, found: JudgedImages) -> dict[str, object]:
    """How all were drawn; pictures of an earlier round are of the same settings."""
    config = stage.config
    return desk.origin(config, family.process) | {
        "policy_round": stage.round,
        "checkpoint": found.checkpoint,
        "seed": f"{config.project.seed}/evaluate/PROMPT_ID/INDEX",
        "steps": config.evaluate.steps,
        "eta": 0.0,
        "guidance": config.sample.guidance,
        "width": found.images.shape[3],
        "height": found.images.shape[2],
        "batch_size": config.draw.batch_size,
    }


def _save_grid(stage: Stage, judged: Mapping[str, JudgedImages]) -> None:
    """The first image of some prompts of each task and split, before and after."""
    taken: dict[tuple[str, str], int] = {}
    shown = []
    for prompt in stage.inputs["prompts"]:
        key = (prompt["split"], prompt["task"])
        if taken.setdefault(key, 0) < GRID_PROMPTS_PER_TASK:
            taken[key] += 1
            shown.append(prompt)
    pictures = {}
    for subject in (REFERENCE, POLICY):
        found = judged[subject]
        row = {place: row for row, place in enumerate(zip(found.prompt_ids, found.indices, strict=True))}
        first = [row[prompt["prompt_id"], 0] for prompt in shown]
        pictures[subject] = found.images[first].transpose(0, 2, 3, 1)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        **pictures,  # type: ignore[arg-type]
        prompts=np.array([prompt["text"] for prompt in shown]),
        splits=np.array([prompt["split"] for prompt in shown]),
    )
    write_atomically(stage.folder / "grid.npz", buffer.getvalue())
