"""Tasks of pictures that were brought in without ratings, so that people here rate them under `hitl serve`.

They are in round 0, and people are asked until the first round begins. The sets are spread over the prompts at random,
as those of a round are, and say with what probability each was chosen.
"""

import random
import uuid
from collections import defaultdict

from data.records import FROM_FOLDER, Task
from data.store import Store
from data.task_policies import Candidate, RandomTasks, choose, sets_of
from hitl.core.errors import ConfigError

_SPACE = uuid.UUID("0d4b3a52-5a9c-4a0e-8f0c-1d2f6e8b7c55")


def make_tasks(
    store: Store, count: int, *, source: str, kind: str, images: int, overlap: int, chance: random.Random
) -> list[Task]:
    """As many tasks as `count` in all lacks, of `images` images each, of what was brought in as `source`.

    The same pictures and the same `chance` give the same tasks; sets that are tasks already are left out.

    Raises:
        ConfigError: no prompt has enough images.
    """
    by_prompt: dict[str, list[str]] = defaultdict(list)
    for image in store.usable_images(0):
        if image.provenance.get("imported", {}).get("source") != source:
            continue
        by_prompt[image.prompt_id].append(image.image_id)
    asked = {(task.prompt_id, frozenset(task.image_ids)) for task in store.tasks(0) if task.policy == FROM_FOLDER}
    candidates = []
    for prompt_id, image_ids in by_prompt.items():
        if len(image_ids) < images:
            continue
        sets, share = sets_of(image_ids, images, chance)
        candidates += [
            Candidate(prompt_id=prompt_id, image_ids=each, uncertainty=0.0, share=share)
            for each in sets
            if (prompt_id, frozenset(each)) not in asked
        ]
    if not candidates and not asked:
        raise ConfigError(
            f"No prompt has the {images} images that a task of kind {kind} shows.",
            hint="Bring in several images of a prompt, or set rate.kind = grades in hitl.toml to rate them singly.",
        )
    return [
        Task(
            task_id=_task_id(kind, chosen.candidate.prompt_id, chosen.candidate.image_ids),
            round=0,
            kind=kind,
            prompt_id=chosen.candidate.prompt_id,
            image_ids=tuple(sorted(chosen.candidate.image_ids)),
            overlap=overlap,
            policy=FROM_FOLDER,
            propensity=chosen.propensity,
        )
        for chosen in choose(RandomTasks(), candidates, max(0, count - len(asked)), chance)
    ]


def _task_id(kind: str, prompt_id: str, image_ids: tuple[str, ...]) -> str:
    return str(uuid.uuid5(_SPACE, "\n".join([kind, prompt_id, *sorted(image_ids)])))
