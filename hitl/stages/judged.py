"""The pictures that the judges see: what each model draws of every prompt from the same seeds, or drew before."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from data.checkpoints import sha256_of_weights
from data.evaluation import KL, POLICY, PREVIOUS, REFERENCE
from data.judged_images import JudgedImages
from hitl.config import RunConfig
from hitl.stages.stage import Stage
from rl.divergence import kl_to_reference
from rl.families.family import Family
from rl.rollout import draw

_KL_PROMPTS = 32
"""Prompts, at most, whose trajectories the KL is measured on, one of each: it differs little between them."""

Prompt = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One of those that are judged."""

    subject: str
    checkpoint: Path | None
    """None is the reference."""
    sha256: str
    """Of the checkpoint's weights; empty for the reference."""


def models_of(stage: Stage) -> list[Model]:
    """The reference, the policy that this one started from where it is another, and the policy."""
    models = [Model(subject=REFERENCE, checkpoint=None, sha256="")]
    for subject in (PREVIOUS, POLICY):
        if folder := stage.inputs[subject]:
            policy = stage.of_this_model(Path(folder), f"the policy in {folder}")
            models.append(Model(subject=subject, checkpoint=policy, sha256=sha256_of_weights(policy)))
    return models


def drawn_before(stage: Stage, model: Model) -> tuple[Path, JudgedImages] | None:
    """Pictures by that very policy, of the same prompts, seeds and settings: an earlier round's, or a try's before."""
    rounds = {REFERENCE: range(1, stage.round + 1), PREVIOUS: [stage.round - 1], POLICY: [stage.round]}[model.subject]
    as_what = POLICY if model.subject == PREVIOUS else model.subject
    places = [stage.workspace.stage_dir(number, "evaluate") / _file(stage, as_what) for number in rounds]
    for path in [*places, stage.folder / _file(stage, model.subject)]:
        found = JudgedImages.read(path)
        if found is not None and found.checkpoint == model.sha256:
            return path, found
    return None


def _file(stage: Stage, subject: str) -> str:
    """Named by all that pictures depend on beside the policy."""
    config = stage.config
    depends_on = [
        config.evaluate.steps,
        config.evaluate.images_per_prompt,
        config.evaluate.images_per_trained_prompt,
        asdict(config.model),
        asdict(config.sample),
        config.project.seed,
        config.draw.batch_size,
        stage.inputs["prompts"],
    ]
    key = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:16]
    return f"{subject}-{key}.npz"


def draw_with(stage: Stage, family: Family, model: Model) -> JudgedImages:
    """Images of every prompt, index by index; the seed of an image does not depend on the round or the model."""
    config = stage.config
    wanted = [
        (prompt, index)
        for prompt in stage.inputs["prompts"]
        for index in range(_images_of(stage, prompt, model.subject))
    ]
    if model.checkpoint is not None:
        family.load_policy(model.checkpoint)
    images = draw(
        family,
        [prompt["text"] for prompt, _ in wanted],
        steps=config.evaluate.steps,
        guidance=config.sample.guidance,
        seeds=[_seed(config, prompt, index) for prompt, index in wanted],
        batch_size=config.draw.batch_size,
    )
    kl = _kl(stage, family, wanted, is_reference=model.checkpoint is None)
    family.drop_policy()
    return JudgedImages(
        images=np.ascontiguousarray(images.numpy()),  # as they come from their file: another layout rounds otherwise
        prompt_ids=tuple(prompt["prompt_id"] for prompt, _ in wanted),
        indices=tuple(index for _, index in wanted),
        checkpoint=model.sha256,
        values={KL: kl},
    )


def _seed(config: RunConfig, prompt: Prompt, index: int) -> tuple[object, ...]:
    return config.project.seed, "evaluate", prompt["prompt_id"], index


def _images_of(stage: Stage, prompt: Prompt, subject: str) -> int:
    """A policy's trained-on prompts prove little, and have fewer, where there are others; the best of N needs N."""
    settings = stage.config.evaluate
    if subject == REFERENCE or prompt["split"] != "train" or not _has_held_out(stage):
        return settings.images_per_prompt
    return min(settings.images_per_trained_prompt, settings.images_per_prompt)


def _has_held_out(stage: Stage) -> bool:
    return any(prompt["split"] != "train" for prompt in stage.inputs["prompts"])


def _kl(
    stage: Stage, family: Family, wanted: Sequence[tuple[Prompt, int]], *, is_reference: bool
) -> Float[np.ndarray, " batch"]:
    """Of some prompts, held-out ones where there are any, one trajectory each; nan elsewhere. The reference's is 0."""
    first = [
        row
        for row, (prompt, index) in enumerate(wanted)
        if index == 0 and (prompt["split"] != "train" or not _has_held_out(stage))
    ]
    rows = first[:: -(-len(first) // _KL_PROMPTS)]
    found = np.full(len(wanted), np.nan)
    if is_reference:
        found[rows] = 0.0
    else:
        seeds = [(*_seed(stage.config, *wanted[row]), "kl") for row in rows]
        texts = [wanted[row][0]["text"] for row in rows]
        found[rows] = kl_to_reference(family, texts, stage.config.sample, seeds=seeds).double().numpy()
    return found


def keep(stage: Stage, subject: str, before: tuple[Path, JudgedImages] | None, found: JudgedImages) -> str:
    """Where the pictures and their judgements are: a path in the workspace, or outside of it a whole one."""
    path = stage.folder / _file(stage, subject)
    if before is not None and before[1] is found:
        path = before[0]
    else:
        found.save(path)
    root = stage.workspace.root
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def forget_old_pictures(stage: Stage) -> None:
    """The policy of the round before the last is judged beside no later one."""
    if stage.apart is None and stage.round > 2:
        for path in stage.workspace.stage_dir(stage.round - 2, "evaluate").glob(f"{POLICY}-*.npz"):
            path.unlink(missing_ok=True)
