"""Blind comparisons of a policy, which a round mixes into the tasks of the next: what is compared, and which tasks.

Each shows what two models drew for one held-out prompt from one seed: the last round's policy, and the reference or the
policy before it. The pictures are those that the round was judged by.
"""

import io
import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image as Picture

from data.bootstrap import Interval
from data.evaluation import POLICY, PREVIOUS, REFERENCE, REWARD, read_scores
from data.judged_images import JudgedImages
from data.ordering import share_right
from data.records import Image, Task
from data.store import Store
from data.task_policies import Candidate, RandomTasks, choose
from data.win_rates import policy_name
from data.workspace import Workspace

FOR_JUDGING = {"drawn_for": "judging"}
"""Among the provenance of an image that is there to be judged alone."""


def blind_tasks(
    workspace: Workspace,
    judged: int,
    *,
    held_out: set[str],
    share: float,
    tasks: int,
    overlap: int,
    chance: random.Random,
) -> tuple[list[Image], list[Task]]:
    """Images and tasks for the round after `judged`: this share of its `tasks`, half of them against the reference and
    half against the policy before. None where the round was not judged, or its pictures are not there.

    Args:
        judged: the round whose policy is judged.
        held_out: ids of the prompts that were never trained on; only these are asked about.
        chance: the same gives the same tasks. Their ids are no ids yet.
    """
    told = (workspace.manifest(judged, "evaluate") or {}) if judged else {}
    drawn = {subject: JudgedImages.read(workspace.root / path) for subject, path in told.get("drawn", {}).items()}
    policy = drawn.get(POLICY)
    opponents = {REFERENCE: 0, PREVIOUS: judged - 1} if judged > 1 else {REFERENCE: 0}
    images: list[Image] = []
    made: list[Task] = []
    for subject, opponent in opponents.items():
        other = drawn.get(subject)
        if policy is None or other is None:
            continue
        pairs = _pairs(policy, other, held_out)
        candidates = [Candidate(prompt_id=prompt_id, image_ids=(str(index),)) for prompt_id, index in pairs]
        count = math.floor(share * tasks / len(opponents) + chance.random())
        for chosen in choose(RandomTasks(), candidates, count, chance):
            prompt_id, index = chosen.candidate.prompt_id, int(chosen.candidate.image_ids[0])
            two = []
            for found, number, row in zip((policy, other), (judged, opponent), pairs[prompt_id, index], strict=True):
                how = told.get("provenance", {}) | {"policy_round": number, "checkpoint": found.checkpoint}
                how["seed"] = str(how.get("seed")).replace("PROMPT_ID", prompt_id).replace("INDEX", str(index))
                how["index"] = index
                two.append(keep_judged_image(workspace, found.images[row], prompt_id, judged + 1, how))
            images += two
            made.append(
                Task(
                    task_id=f"blind {len(made)}",
                    round=judged + 1,
                    kind="pairwise",
                    prompt_id=prompt_id,
                    image_ids=(two[0].image_id, two[1].image_id),
                    overlap=overlap,
                    policy=chosen.policy,
                    propensity=chosen.propensity,
                    purpose="judge",
                    models=(policy_name(judged), policy_name(opponent)),
                )
            )
    return images, made


def _pairs(policy: JudgedImages, other: JudgedImages, held_out: set[str]) -> dict[tuple[str, int], tuple[int, int]]:
    """By prompt and index: the rows of the two pictures, where they are two."""
    rows = [
        {place: row for row, place in enumerate(zip(found.prompt_ids, found.indices, strict=True))}
        for found in (policy, other)
    ]
    both = {place: (row, rows[1][place]) for place, row in rows[0].items() if place in rows[1] and place[0] in held_out}
    return {
        place: (mine, theirs)
        for place, (mine, theirs) in both.items()
        if not np.array_equal(policy.images[mine], other.images[theirs])
    }


def reward_agreement(workspace: Workspace, store: Store, number: int) -> Interval | None:
    """How far the reward model of the round before `number` orders what people compared blind in it as they did.

    The share of the votes for one of two pictures, over prompts. None where nobody decided, or that round has no scores
    of its pictures.
    """
    judged = number - 1
    subjects = {policy_name(judged - 1): PREVIOUS, policy_name(0): REFERENCE, policy_name(judged): POLICY}
    try:
        scores = read_scores(workspace.stage_dir(judged, "evaluate") / "scores.parquet")
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException):
        return None
    rewards: dict[tuple[Any, ...], float | None] = {
        (score.subject, score.prompt_id, score.index): score.values.get(REWARD) for score in scores
    }
    index = {(image.prompt_id, image.image_id): image.provenance.get("index") for image in store.images(number)}
    shown = {task.task_id: task.image_ids[0] for task in store.tasks(number)}
    found = []
    for vote in store.judgements(number):
        which = index.get((vote.prompt_id, shown[vote.task_id]))
        ours, theirs = (rewards.get((subjects.get(model), vote.prompt_id, which)) for model in (vote.model, vote.other))
        if ours is not None and theirs is not None:
            found.append((ours - theirs, {"a": 1, "b": -1, "tie": 0}[vote.outcome], vote.prompt_id))
    if not found:
        return None
    difference, outcome, prompts = (np.array(column) for column in zip(*found, strict=True))
    return share_right(difference, outcome, prompts)


def keep_judged_image(
    workspace: Workspace, pixels: np.ndarray, prompt_id: str, round: int, provenance: Mapping[str, Any]
) -> Image:
    """Keep a picture, uint8 (3, height, width), as an image of a round that people are asked about to judge models."""
    buffer = io.BytesIO()
    Picture.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(buffer, format="PNG")
    return Image(
        image_id=workspace.add_image(buffer.getvalue()),
        prompt_id=prompt_id,
        round=round,
        width=pixels.shape[2],
        height=pixels.shape[1],
        provenance={**provenance, **FOR_JUDGING},
    )


def is_for_judging(image: Image) -> bool:
    """Whether it is there to be judged alone: no stage learns from it."""
    return image.provenance.items() >= FOR_JUDGING.items()
