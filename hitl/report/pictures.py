"""The same-seed pictures of a report, as data URIs: of the reference, and of each round."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hitl.core.errors import ConfigError
from hitl.report.files import Grid, RoundFiles

LARGEST = 256
"""Larger pictures are scaled down to this side: the report stays a file that can be mailed."""

CRISP = 128
"""Pictures up to this side are shown in hard pixels; interpolation would invent what was not drawn."""

QUALITY = 85
"""Of the JPEG that a larger picture becomes; a smaller one is a PNG and loses nothing."""

PER_GROUP = 24
MOST_ROUNDS = 8
"""Most rounds whose pictures are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    uri: str
    alt: str
    caption: str
    is_exact: bool | None = None
    """The verifier's verdict; None where it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Pictures of one prompt from one seed: the reference's, then those of the rounds."""

    prompt: str
    task: str
    pictures: tuple[Picture | None, ...]
    """None where a round did not draw this prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    key: str
    title: str
    rows: tuple[Row, ...]
    left_out: int = 0


def uri(picture: np.ndarray) -> str:
    image = Image.fromarray(np.ascontiguousarray(picture))
    buffer = io.BytesIO()
    if max(image.size) <= CRISP:
        image.save(buffer, format="PNG", optimize=True)
    else:
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS, reducing_gap=2.0)
        image.save(buffer, format="JPEG", quality=QUALITY)  # as small as WebP here, in a tenth of the time
    kind = "png" if max(image.size) <= CRISP else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def is_crisp(rounds: Sequence[RoundFiles]) -> bool:
    """Whether the pictures are small enough to be shown in hard pixels."""
    return any(files.grid is not None and max(files.grid.reference.shape[1:3]) <= CRISP for files in rounds)


def rounds_shown(rounds: Sequence[RoundFiles]) -> list[RoundFiles]:
    """The rounds whose pictures are there; of more than fit, an even choice with the last one."""
    drawn = [files for files in rounds if files.grid is not None]
    if len(drawn) <= MOST_ROUNDS:
        return drawn
    places = np.linspace(0, len(drawn) - 1, MOST_ROUNDS).round().astype(int)
    return [drawn[i] for i in places]


def through_rounds(rounds: Sequence[RoundFiles]) -> list[Group]:
    """Every prompt of the last round's grid: held-out prompts, trained-on ones, then, in the same order, those of the
    planted bias.
    """
    latest = rounds[-1]
    if latest.grid is None:
        return []
    tasks, shown = _tasks(latest), rounds_shown(rounds)
    titles = {"held_out": "Held-out prompts", "train": "Trained-on prompts"}
    groups: dict[str, tuple[str, list[int]]] = {}
    for i, (prompt, split) in enumerate(zip(latest.grid.prompts, latest.grid.splits, strict=True)):
        is_bias, name = tasks.get(prompt) == "bias", titles.get(split, split)
        title = f"Planted bias, {name[:1].lower()}{name[1:]}" if is_bias else name
        groups.setdefault(f"bias-{split}" if is_bias else split, (title, []))[1].append(i)
    order = sorted(groups, key=lambda key: (key.startswith("bias"), "held_out" not in key, "train" not in key, key))
    found = []
    for key in order:
        title, places = groups[key]
        rows = tuple(_row(latest, latest.grid, shown, i, tasks) for i in places[:PER_GROUP])
        found.append(Group(key=key, title=title, rows=rows, left_out=max(0, len(places) - PER_GROUP)))
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
    return [_row(files, files.grid, [files], i, _tasks(files)) for i in first_of_each_task(files)]


def _place(grid: Grid | None, prompt: str, split: str) -> int | None:
    if grid is None:
        return None
    places = [i for i, found in enumerate(zip(grid.prompts, grid.splits, strict=True)) if found == (prompt, split)]
    return places[0] if places else None


def _row(latest: RoundFiles, grid: Grid, shown: Sequence[RoundFiles], i: int, tasks: Mapping[str, str]) -> Row:
    prompt, split = grid.prompts[i], grid.splits[i]
    pictures: list[Picture | None] = [
        _picture(grid.reference[i], prompt, "reference", latest.first_verdicts.get(("reference", prompt)))
    ]
    for files in shown:
        place = _place(files.grid, prompt, split)
        if files.grid is None or place is None:
            pictures.append(None)
        else:
            verdict = files.first_verdicts.get(("policy", prompt))
            pictures.append(_picture(files.grid.policy[place], prompt, f"round {files.number}", verdict))
    return Row(prompt=prompt, task=tasks.get(prompt, ""), pictures=tuple(pictures))


def _picture(pixels: np.ndarray, prompt: str, caption: str, is_exact: bool | None) -> Picture:
    verdict = "" if is_exact is None else ", exactly right" if is_exact else ", not exactly right"
    return Picture(uri=uri(pixels), alt=f"{prompt}: {caption}{verdict}", caption=caption, is_exact=is_exact)


def _tasks(files: RoundFiles) -> dict[str, str]:
    return {score.prompt: score.task for score in files.scores}
