"""The same-seed pictures of a report, as PNG data URIs: before and after, and over the rounds."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.evaluation import ImageScore
from hitl.core.errors import ConfigError
from hitl.report.files import Grid, RoundFiles

LARGEST = 256
"""Larger pictures are scaled down to this side: the report stays a file that can be mailed."""

CRISP = 128
"""Pictures up to this side are shown in hard pixels; interpolation would invent what was not drawn."""

PER_GROUP = 24
COLUMNS = 6
"""Most pictures in one row over the rounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    uri: str
    alt: str
    caption: str
    is_exact: bool | None = None
    """The verifier's verdict; None where it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Pictures of one prompt from one seed."""

    prompt: str
    task: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    key: str
    title: str
    rows: tuple[Row, ...]
    left_out: int = 0


def uri(picture: np.ndarray) -> str:
    image = Image.fromarray(np.ascontiguousarray(picture))
    if max(image.size) > LARGEST:
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def is_crisp(rounds: Sequence[RoundFiles]) -> bool:
    """Whether the pictures are small enough to be shown in hard pixels."""
    return any(files.grid is not None and max(files.grid.reference.shape[1:3]) <= CRISP for files in rounds)


def before_and_after(files: RoundFiles) -> list[Group]:
    """Every pair of the grid: held-out prompts, trained-on ones, then those of the planted bias."""
    if files.grid is None:
        return []
    tasks, exact = _tasks(files), _verdicts(files)
    titles = {"held_out": "Held-out prompts", "train": "Trained-on prompts"}
    groups: dict[str, tuple[str, list[int]]] = {}
    for i, (prompt, split) in enumerate(zip(files.grid.prompts, files.grid.splits, strict=True)):
        is_bias = tasks.get(prompt) == "bias"
        title = "Planted bias" if is_bias else titles.get(split, split)
        groups.setdefault("bias" if is_bias else split, (title, []))[1].append(i)
    order = sorted(groups, key=lambda key: (key == "bias", key != "held_out", key != "train", key))
    found = []
    for key in order:
        title, rows = groups[key]
        pairs = tuple(_pair(files, files.grid, i, tasks, exact) for i in rows[:PER_GROUP])
        found.append(Group(key=key, title=title, rows=pairs, left_out=max(0, len(rows) - PER_GROUP)))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistakes:
    """Pairs of images on which the reward model was sure of the one that lost."""

    rows: tuple[Row, ...]
    left_out: int
    """Those whose pictures cannot be read."""
    is_crisp: bool


def mistakes(found: Sequence[Mapping[str, Any]], image_path: Callable[[str], Path]) -> Mistakes:
    """The mistakes of a fit report, the picture that was preferred on the left."""
    rows: list[Row] = []
    largest = 0
    for each in found:
        prompt = str(each["prompt"])
        captions = (f"{each['rater']}’s choice", f"model: {100 * float(each['probability']):.0f}\u202f%")
        try:
            pixels = [_read(image_path(str(each[which]))) for which in ("preferred", "other")]
        except (OSError, ConfigError):
            continue
        largest = max([largest, *(side for picture in pixels for side in picture.shape[:2])])
        pictures = tuple(_picture(*both, None) for both in zip(pixels, [prompt] * 2, captions, strict=True))
        rows.append(Row(prompt=prompt, task="", pictures=pictures))
    return Mistakes(rows=tuple(rows), left_out=len(found) - len(rows), is_crisp=largest <= CRISP)


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def first_of_each_task(files: RoundFiles) -> list[int]:
    """Places in the grid of the first prompt of each task, held-out ones where there are any. Not chosen by result."""
    if files.grid is None:
        return []
    splits = files.grid.splits
    split = "held_out" if "held_out" in splits else splits[0] if splits else ""
    tasks = _tasks(files)
    places: dict[str, int] = {}
    for i, prompt in enumerate(files.grid.prompts):
        if splits[i] == split:
            places.setdefault(tasks.get(prompt) or prompt, i)
    return list(places.values())[:6]


def highlights(files: RoundFiles) -> list[Row]:
    """One pair per task for the top of the page."""
    if files.grid is None:
        return []
    tasks, exact = _tasks(files), _verdicts(files)
    return [_pair(files, files.grid, i, tasks, exact) for i in first_of_each_task(files)]


def over_rounds(rounds: Sequence[RoundFiles]) -> list[Row]:
    """The same seeds through all rounds, for the prompts of the highlights."""
    latest = rounds[-1]
    drawn = [files for files in rounds if files.grid is not None]
    if latest.grid is None or len(drawn) < 2:
        return []
    shown = _spread(drawn, COLUMNS - 1)
    tasks = _tasks(latest)
    rows = []
    for i in first_of_each_task(latest):
        prompt, split = latest.grid.prompts[i], latest.grid.splits[i]
        pictures = [
            _picture(latest.grid.reference[i], prompt, "reference", _verdicts(latest).get(("reference", prompt)))
        ]
        for files in shown:
            place = _place(files.grid, prompt, split)
            if files.grid is not None and place is not None:
                verdict = _verdicts(files).get(("policy", prompt))
                pictures.append(_picture(files.grid.policy[place], prompt, f"round {files.number}", verdict))
        rows.append(Row(prompt=prompt, task=tasks.get(prompt, ""), pictures=tuple(pictures)))
    return rows


def _spread(drawn: Sequence[RoundFiles], most: int) -> list[RoundFiles]:
    """At most so many of the rounds, evenly spread, the last one always."""
    if len(drawn) <= most:
        return list(drawn)
    places = np.linspace(0, len(drawn) - 1, most).round().astype(int)
    return [drawn[i] for i in places]


def _place(grid: Grid | None, prompt: str, split: str) -> int | None:
    if grid is None:
        return None
    places = [i for i, found in enumerate(zip(grid.prompts, grid.splits, strict=True)) if found == (prompt, split)]
    return places[0] if places else None


def _pair(
    files: RoundFiles, grid: Grid, i: int, tasks: Mapping[str, str], exact: Mapping[tuple[str, str], bool]
) -> Row:
    prompt = grid.prompts[i]
    pictures = (
        _picture(grid.reference[i], prompt, "reference", exact.get(("reference", prompt))),
        _picture(grid.policy[i], prompt, f"round {files.number}", exact.get(("policy", prompt))),
    )
    return Row(prompt=prompt, task=tasks.get(prompt, ""), pictures=pictures)


def _picture(pixels: np.ndarray, prompt: str, caption: str, is_exact: bool | None) -> Picture:
    verdict = "" if is_exact is None else ", exactly right" if is_exact else ", not exactly right"
    return Picture(uri=uri(pixels), alt=f"{prompt}: {caption}{verdict}", caption=caption, is_exact=is_exact)


def _tasks(files: RoundFiles) -> dict[str, str]:
    return {score.prompt: score.task for score in files.scores}


def _verdicts(files: RoundFiles) -> dict[tuple[str, str], bool]:
    """Of the first image of each prompt, which is the one in the grid."""
    return {
        (score.subject, score.prompt): score.values["exact"] >= 0.5
        for score in _first_images(files.scores)
        if "exact" in score.values
    }


def _first_images(scores: Sequence[ImageScore]) -> list[ImageScore]:
    return [score for score in scores if score.index == 0 and not score.subject.startswith("best_of_")]
