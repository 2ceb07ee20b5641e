"""Our own exports: the complete form with every column of a rating, its task, prompt, images and rater; or one table of
comparisons.

The complete form keeps ids: what is here already is not taken again. Everything comes into round 0, since the rounds of
another workspace are not rounds of this one; a task's id of the form `r0003-00017`, which a round here may give itself,
is replaced by one made from it. Tasks, prompts and images of the export are held in memory, about 1 KB each.
"""

import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from data.imports.files import Files, Row, is_image_id, moment, taken
from data.imports.records import Item, Judged, NotTaken, Picture, PromptAlone, Refused, Shown, Whole, preference
from data.prompt_list import SPLITS, split_of_text
from data.records import FROM_FOLDER, IMPORTED, Prompt, Rater, Rating, Task
from hitl.core.errors import HitlError

_OF_A_ROUND = re.compile(r"r\d{4,}-\d{5,}")
_SPACE = uuid.UUID("b1d5bf6f-0f6c-4d5e-8a5a-6f5d2a8f1f3c")


def read(files: Files) -> Iterator[Item]:
    by_name = {path.stem: path for path in files.tables}
    if "ratings" not in by_name:
        yield from taken(files.rows(), lambda row: [_compared(files, row)])
        return
    beside = _Beside.read(files, by_name)
    yield from beside.refused
    yield from (PromptAlone(row=f"prompt {prompt_id}", prompt=prompt) for prompt_id, prompt in beside.prompts.items())
    yield from taken(
        files.rows([by_name["images"]] if "images" in by_name else []), lambda row: [_shown(files, row, beside)]
    )
    yield from taken(files.rows([by_name["ratings"]]), lambda row: [_whole(files, row, beside)])


# -- one table of comparisons ---------------------------------------------------------------------------------------


def _compared(files: Files, row: Row) -> Judged:
    outcome = row.need("outcome")
    if outcome not in ("a", "b", "tie"):
        raise NotTaken(f"has the outcome {outcome!r:.40}; a, b or tie is expected")
    left = row.get("left") or "a"
    names = ("image_a", "image_b") if left == "a" else ("image_b", "image_a")
    choice = "tie" if outcome == "tie" else "left" if outcome == left else "right"
    both_bad = _flag(row.get("both_bad"))
    return preference(
        "both_bad" if both_bad else choice,
        row=row.place,
        prompt=row.text("prompt"),
        task=str(row.get("task") or ""),
        split=str(row.get("split") or row.split),
        pictures=tuple(_known_picture(files, row, str(row.need(name))) for name in names),
        rater=str(row.get("rater", "rater_id") or ""),
        is_order_known=row.get("left") is not None,
        task_id=str(row.get("task_id") or ""),
    )


def _known_picture(files: Files, row: Row, name: str) -> Picture:
    """By its file where that is beside the table, else by its id, which this workspace may know."""
    image_id = PurePosixPath(name).stem
    if not is_image_id(image_id):
        return files.picture(name, row)
    return _find(files, row, image_id, name, f"{image_id}.png")


# -- the complete form ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Beside:
    """The tables beside the ratings, by their ids."""

    prompts: dict[str, Prompt]
    tasks: dict[str, dict[str, Any]]
    raters: dict[str, dict[str, Any]]
    images: dict[str, dict[str, Any]]
    refused: list[Refused]

    @classmethod
    def read(cls, files: Files, by_name: dict[str, Path]) -> "_Beside":
        refused: list[Refused] = []
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for name, key in (
            ("prompts", "prompt_id"),
            ("tasks", "task_id"),
            ("raters", "rater_id"),
            ("images", "image_id"),
        ):
            found[name] = {}
            for row in files.rows([by_name[name]] if name in by_name else []):
                if isinstance(row, Refused):
                    refused.append(row)
                else:
                    found[name].setdefault(str(row.get(key, "rater")), row.values)
        prompts = {}
        for prompt_id, values in found["prompts"].items():
            try:
                text, split = values["text"], str(values.get("split") or "train")
                prompts[prompt_id] = Prompt.of(
                    text, task=str(values.get("task") or ""), split=SPLITS.get(split.lower()) or split_of_text(text)
                )
            except (HitlError, KeyError, TypeError, AttributeError) as error:
                refused.append(Refused(row=f"prompt {prompt_id}", reason=str(error)))
        return cls(prompts, found["tasks"], found["raters"], found["images"], refused)


def _shown(files: Files, row: Row, beside: _Beside) -> Shown:
    """An image, whether or not anybody rated it."""
    image_id, prompt = str(row.need("image_id")), beside.prompts.get(str(row.get("prompt_id")))
    if prompt is None:
        raise NotTaken(f"is of prompt {row.get('prompt_id')!r}, which is not among the prompts")
    return Shown(
        row=row.place,
        prompt=prompt.text,
        task=prompt.task,
        split=prompt.split,
        picture=_picture_of(files, row, image_id, row.values),
        provenance=_dict(row.get("provenance")),
    )


def _whole(files: Files, row: Row, beside: _Beside) -> Whole:
    told = beside.tasks.get(str(row.need("task_id")))
    if told is None:
        raise NotTaken(f"is of task {row.get('task_id')!r}, which is not among the tasks")
    prompt = beside.prompts.get(str(told.get("prompt_id")))
    if prompt is None:
        raise NotTaken(f"is of prompt {told.get('prompt_id')!r}, which is not among the prompts")
    task = _task(told, prompt)
    rater = _rater(row, beside.raters)
    image_ids = tuple(_list(row.need("image_ids")))
    images = {image_id: beside.images.get(image_id, {}) for image_id in task.image_ids}
    return Whole(
        row=row.place,
        prompt=prompt,
        task=task,
        rater=rater,
        rating=_rating(row, task, rater, image_ids),
        pictures={name: _picture_of(files, row, name, images[name]) for name in task.image_ids},
    )


def _task(told: dict[str, Any], prompt: Prompt) -> Task:
    image_ids = tuple(_list(told.get("image_ids")))
    policy = str(told.get("policy") or IMPORTED)
    repeats = told.get("repeats") or None
    models, study = _list(told.get("models") or []), _text(told.get("study"))
    return Task(
        task_id=_id_here(str(told["task_id"]), prompt, image_ids),
        round=0,
        kind=str(told.get("kind")),
        prompt_id=prompt.prompt_id,
        image_ids=image_ids,
        overlap=int(told.get("overlap") or 1),
        policy=IMPORTED if policy == FROM_FOLDER or study else policy,  # its people were asked, ours are not
        propensity=float(told.get("propensity") or 1.0),
        purpose=_text(told.get("purpose")) or "learn",
        repeats=_id_here(str(repeats), prompt, image_ids) if repeats else None,
        worse=_text(told.get("worse")),
        better=_text(told.get("better")),
        models=(models[0], models[1]) if len(models) == 2 else None,
        study=study,
    )


def _id_here(task_id: str, prompt: Prompt, image_ids: tuple[str, ...]) -> str:
    """The same id, unless a round of this workspace may give it to a task of its own."""
    if not _OF_A_ROUND.fullmatch(task_id):
        return task_id
    return str(uuid.uuid5(_SPACE, "\n".join([task_id, prompt.prompt_id, *sorted(image_ids)])))


def _rater(row: Row, raters: dict[str, dict[str, Any]]) -> Rater:
    key = str(row.need("rater_id", "rater"))
    told = raters.get(key, {})
    return Rater(
        rater_id=key,
        name=str(told.get("name") or told.get("rater") or row.get("rater") or key),
        kind="simulated" if told.get("kind") == "simulated" else "human",
        created_at=moment(told.get("created_at")) or datetime.now(UTC),
    )


def _rating(row: Row, task: Task, rater: Rater, image_ids: tuple[str, ...]) -> Rating:
    at = moment(row.need("server_time"))
    try:
        return Rating(
            rating_id=str(row.need("rating_id")),
            task_id=task.task_id,
            rater_id=rater.rater_id,
            kind=str(row.need("kind")),
            payload=_dict(row.get("payload")),
            image_ids=image_ids,
            dwell_ms=int(row.get("dwell_ms") or 0),
            client_time=str(row.get("client_time") or ""),
            server_time=at or datetime.now(UTC),
            app_version=str(row.get("app_version") or ""),
            voids=_text(row.get("voids")),
            decide_ms=None if row.get("decide_ms") in (None, "") else int(row.need("decide_ms")),
            input_device=_text(row.get("input_device")),
            screen_size=_text(row.get("screen_size")),
            shown_as=_text(row.get("shown_as")),
        )
    except (TypeError, ValueError) as error:
        raise NotTaken(f"has a number that is none: {error}") from error


def _picture_of(files: Files, row: Row, image_id: str, told: dict[str, Any]) -> Picture:
    return _find(files, row, image_id, told.get("file"), f"images/{image_id}.png")


def _find(files: Files, row: Row, image_id: str, *names: Any) -> Picture:
    """The first of these files that is there; else the image by its id alone."""
    for name in names:
        if isinstance(name, str) and name and (image_id, name) not in files.missing:
            try:
                return Picture(path=files.picture(name, row).path, image_id=image_id)
            except NotTaken:
                files.missing.add((image_id, name))
    return Picture(image_id=image_id)


def _text(value: Any) -> Any:
    """What should be a text, as one, so that what is none is refused by what it says; CSV has an empty one for none."""
    return str(value) if value else None


def _dict(value: Any) -> dict[str, Any]:
    found = _parsed(value) if value else {}
    if not isinstance(found, dict):
        raise NotTaken(f"has {value!r:.60} where a JSON object should be")
    return found


def _list(value: Any) -> list[str]:
    found = _parsed(value)
    if not isinstance(found, list):
        raise NotTaken(f"has {value!r:.60} where a list should be")
    return [str(each) for each in found]


def _parsed(value: Any) -> Any:
    """CSV has text where the other forms have lists and objects."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise NotTaken(f"has {value[:60]!r}, which is not valid JSON") from error


def _flag(value: Any) -> bool:
    return value.strip().lower() in ("true", "1", "t") if isinstance(value, str) else bool(value)
