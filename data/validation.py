"""What must hold of a fact by itself, before it is recorded; in the journal there is no taking back.

What it must hold of other facts (that a task exists) the store checks.
"""

from datetime import UTC, datetime
from typing import get_args

from data.events import rating_kind
from data.rating_kinds.extras import check_extras
from data.records import InputDevice, Rater, Rating, ScreenSize, ShownAs, Task
from hitl.core.errors import ConfigError

_LONGEST_NAME = 80
_LONGEST_DWELL_MS = 2**53


def check_rater(rater: Rater) -> None:
    if not rater.name.strip() or len(rater.name) > _LONGEST_NAME:
        raise ConfigError(
            f"{rater.name[:_LONGEST_NAME]!r} cannot be a rater's name.", hint=f"Use 1 to {_LONGEST_NAME} characters."
        )


def check_task(task: Task) -> None:
    """Refuse a task that nobody could rate."""
    kind = rating_kind(task.kind)
    different = len(set(task.image_ids))
    if different not in kind.images or len(task.image_ids) != different:
        few, most = kind.images[0], kind.images[-1]
        raise ConfigError(
            f"Task {task.task_id} has {different} different images; {task.kind} shows {few}"
            + (f" to {most}." if most > few else "."),
            hint="Draw the images with different seeds, and put different ones into a task.",
        )
    if not 1 <= task.overlap < 2**31 or not 0 < task.propensity <= 1:
        raise ConfigError(
            f"Task {task.task_id} has overlap {task.overlap} and propensity {task.propensity}.",
            hint="Use an overlap of 1 or more and a propensity in (0, 1].",
        )
    known = [image_id for image_id in (task.worse, task.better) if image_id is not None]
    is_whole = {
        "learn": task.repeats is None and not known,
        "repeat": task.repeats is not None and not known,
        "gold": task.repeats is None and len(known) == 1 and known[0] in task.image_ids,
        "judge": task.repeats is None and not known,
    }
    is_judged = task.models is not None and len(task.models) == len(task.image_ids) == 2 and all(task.models)
    if is_judged != (task.purpose == "judge") or (task.study is not None and not is_judged):
        raise ConfigError(
            f"Task {task.task_id} is for {task.purpose!r} and has images of the models {task.models!r} and the study "
            f"{task.study!r}.",
            hint="A judge task names the models of its two images, and perhaps a study; others name neither.",
        )
    if not is_whole.get(task.purpose):
        raise ConfigError(
            f"Task {task.task_id} is for {task.purpose!r}, repeats {task.repeats!r} and has the worse image "
            f"{task.worse!r} and the better image {task.better!r}.",
            hint="A repeat names the task that it repeats, a gold task which of its images is worse or which is better,"
            " others neither.",
        )


def check_rating(rating: Rating, task: Task) -> None:
    """Refuse a rating that does not fit its task or is no answer of its kind."""
    if rating.kind != task.kind:
        raise ConfigError(f"Task {task.task_id} is {task.kind}, not {rating.kind}.", hint=f"Send kind {task.kind!r}.")
    if sorted(rating.image_ids) != sorted(task.image_ids):
        raise ConfigError(
            f"The images of the rating are not those of task {task.task_id}.",
            hint="Send the task's images in the order in which they were shown.",
        )
    if not _is_time(rating.dwell_ms):
        raise ConfigError(
            f"dwell_ms is {rating.dwell_ms!r}.", hint="Send for how many whole milliseconds the task was shown."
        )
    _check_presentation(rating)
    if rating.payload:
        rating_kind(rating.kind).validate(rating.payload, len(task.image_ids))
        check_extras(rating.payload, len(task.image_ids))
    elif rating.voids is None:
        raise ConfigError("The rating holds no answer.", hint="Send a payload, or the id of the rating to undo.")


def _check_presentation(rating: Rating) -> None:
    if rating.decide_ms is not None and not _is_time(rating.decide_ms):
        raise ConfigError(
            f"decide_ms is {rating.decide_ms!r}.",
            hint="Send the whole milliseconds from the images being painted to the key.",
        )
    for name, known in (("input_device", InputDevice), ("screen_size", ScreenSize), ("shown_as", ShownAs)):
        value = getattr(rating, name)
        if value is not None and value not in get_args(known):
            raise ConfigError(
                f"{name} is {value!r}.", hint=f"Send one of: {', '.join(get_args(known))}; or leave it out."
            )


def _is_time(ms: object) -> bool:
    """Whole milliseconds: a fraction is rounded in a row that is written alone, and cut in one among many."""
    return type(ms) is int and 0 <= ms <= _LONGEST_DWELL_MS


def iso(moment: datetime) -> str:
    """A time as the journal has it."""
    if moment.tzinfo is None:
        raise ConfigError(f"The time {moment} has no time zone.", hint="Use datetime.now(UTC).")
    return moment.astimezone(UTC).isoformat()
