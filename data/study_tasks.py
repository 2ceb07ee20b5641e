"""The tasks of a blind study, from their making to the store: which may be that of a hub while people rate.

Who makes a study writes all of it into `studies/NAME/made.json`; who owns the store takes it in from there.
"""

import contextlib
import fcntl
import json
import os
import random
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from data.records import Image, Prompt, Task
from data.store import Store
from data.workspace import Workspace, disk_errors, write_atomically
from hitl.core.errors import ConfigError, WorkspaceError

QUESTIONS = ("alignment", "quality")
"""Rating kinds: asked apart, each on a screen of its own."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")
_SPACE = uuid.UUID("7f1c1f0e-6c0b-4c8e-9a53-5f0f7f6a2d11")
_MADE = "made.json"


def folder_of(workspace: Workspace, name: str) -> Path:
    return workspace.root / "studies" / name


@contextlib.contextmanager
def making_alone(workspace: Workspace) -> Iterator[None]:
    """Inside, nobody else makes a study here: two could choose one name.

    Raises:
        WorkspaceError: somebody does.
    """
    path = workspace.root / "studies" / ".lock"
    with disk_errors(path):
        path.parent.mkdir(exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise WorkspaceError(
            "Another `hitl study new` is at work in this workspace.", hint="Wait until it is done, then try again."
        ) from error
    finally:
        os.close(descriptor)


def require_new(store: Store, name: str) -> str:
    """The name, or of none the first free of study-1, study-2 …

    Raises:
        ConfigError: it is no name, or there is a study of that name.
    """
    known = {task.study for task in store.study_tasks()}
    if not name:
        return next(each for number in range(1, len(known) + 2) if (each := f"study-{number}") not in known)
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name[:60]!r} cannot be a study's name.", hint="Use up to 40 letters, digits, dots, - and _."
        )
    if name in known:
        raise ConfigError(f"There is a study {name!r} already.", hint="Choose another --name.")
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two images of one prompt."""

    prompt_id: str
    a: str
    b: str


def tasks_of(name: str, pairs: Sequence[Pair], *, a: str, b: str, raters: int, chance: random.Random) -> list[Task]:
    """Of each pair a task for each question, in random order: the first image is B's, which is judged by A's. They are
    of no round yet, and their ids are none that a round gives.
    """
    asked = [(pair, question) for pair in pairs for question in QUESTIONS]
    return [
        Task(
            task_id=str(uuid.uuid5(_SPACE, f"{name}/{number}")),
            round=0,
            kind=question,
            prompt_id=pair.prompt_id,
            image_ids=(pair.b, pair.a),
            overlap=raters,
            purpose="judge",
            models=(b, a),
            study=name,
        )
        for number, (pair, question) in enumerate(chance.sample(asked, len(asked)))
    ]


def write_made(
    workspace: Workspace, name: str, prompts: Sequence[Prompt], images: Sequence[Image], tasks: Sequence[Task]
) -> None:
    """Leave a study for the owner of the store, who `take_in`s it. The files of its images are in the workspace."""
    made = {
        "prompts": [asdict(prompt) for prompt in prompts],
        "images": [asdict(image) for image in images],
        "tasks": [asdict(task) for task in tasks],
    }
    write_atomically(folder_of(workspace, name) / _MADE, json.dumps(made).encode())


def take_in(workspace: Workspace, store: Store, name: str) -> None:
    """Put into the store what `write_made` left there, as of the newest round that has tasks: people are asked from
    now on. A kill in between asks nobody, and it can be done again.

    Raises:
        ConfigError: there is a study of that name, or none was left there.
    """
    require_new(store, name)
    path = folder_of(workspace, name) / _MADE
    try:
        made = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"No study {name!r} is made: {path} cannot be read.", hint="Begin it with `hitl study new`."
        ) from error
    # Not one that is begun and not drawn yet: it would seem to have its images.
    newest = next((each.number for each in reversed(store.rounds()) if store.tasks(each.number)), 0)
    store.add_prompts(Prompt(**row) for row in made["prompts"])
    store.add_images(replace(Image(**row), round=newest) for row in made["images"])
    store.add_tasks(_task(row | {"round": newest}) for row in made["tasks"])
    path.unlink(missing_ok=True)


def _task(row: dict[str, object]) -> Task:
    """Whose tuples JSON made lists."""
    return Task(**{key: tuple(value) if isinstance(value, list) else value for key, value in row.items()})  # type: ignore[arg-type]
