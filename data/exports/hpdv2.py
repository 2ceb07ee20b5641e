"""HPDv2's files: train.json with a row for each pair, test.json with the places that all raters of a task gave.

Its loader skips a pair without a word when a file is missing or the two images differ in size; so such pairs are left
out here, and counted.
"""

import itertools
import statistics
from pathlib import Path
from typing import Any

from data.exports.json_list import JsonList
from data.exports.source import Group, Source, Ties, Vote, Written

TIES: tuple[Ties, ...] = ("half", "keep", "drop")
SPLITS = ("train", "test", "test")

LOAD = """\
import json
from pathlib import Path
rows = json.loads((Path("FOLDER") / "train.json").read_text(encoding="utf-8"))
print(rows[0]["prompt"], rows[0]["file_path"], rows[0]["human_preference"])"""


def write(source: Source, folder: Path) -> Written:
    train = JsonList(folder / "train.json")
    for vote in source.votes():
        if vote.split == SPLITS[0]:
            if source.size(vote.images[0]) != source.size(vote.images[1]):
                source.left_out["two images that differ in size"] += 1
                continue
            train.add(_pair(source, folder, vote))
    rows = {"train": train.close()}
    if source.options.by_split:
        rows["test"] = _write_test(source, folder)
    return Written(
        rows=rows,
        load=LOAD,
        notes=(
            "`human_preference` is [1, 0] or [0, 1], or [0.5, 0.5] for a tie; the first was displayed on the left.",
            "`test.json` has held-out prompts alone (`--split by-prompt`): `rank` is the mean place, `raw_annotations` "
            "says who gave which, with the rater as `user_hash`.",
            "The image folder of the trainer's configuration is this folder.",
        ),
    )


def _pair(source: Source, folder: Path, vote: Vote) -> dict[str, Any]:
    return {
        "human_preference": [_number(vote.label), _number(1 - vote.label)],
        "prompt": vote.prompt,
        "file_path": [f"images/{source.place(image_id, folder / 'images')}" for image_id in vote.images],
        "user_hash": vote.rater,
    }


def _number(label: float) -> float | int:
    return int(label) if label in (0, 1) else label


def _write_test(source: Source, folder: Path) -> int:
    """Answers to one task as one row. Held-out prompts are few, so their answers are held at once."""
    held_out = [group for group in source.groups() if group.split != SPLITS[0] and group.ranks]
    held_out.sort(key=lambda group: group.task_id)
    test = JsonList(folder / "test.json")
    for _, answers in itertools.groupby(held_out, key=lambda group: group.task_id):
        said = list(answers)
        if len(said[0].images) > 1:
            test.add(_task(source, folder, said))
    return test.close()


def _task(source: Source, folder: Path, said: list[Group]) -> dict[str, Any]:
    first = said[0]
    return {
        "prompt": first.prompt,
        "image_path": [f"images/{source.place(image_id, folder / 'images')}" for image_id in first.images],
        "rank": [statistics.fmean(places) for places in zip(*(group.ranks for group in said), strict=True)],
        "raw_annotations": [{"rank": list(group.ranks), "user_hash": group.rater} for group in said],
    }
