"""ImageReward's trainer files: a ranking of the images of one prompt, one to each answer."""

from pathlib import Path

from data.exports.json_list import JsonLists
from data.exports.source import Source, Ties, Written

TIES: tuple[Ties, ...] = ("keep", "drop")
SPLITS = ("train", "valid", "test")

LOAD = """\
import json
from pathlib import Path
rows = json.loads((Path("FOLDER") / "train.json").read_text(encoding="utf-8"))
print(rows[0]["prompt"], rows[0]["generations"], rows[0]["ranking"])"""


def write(source: Source, folder: Path) -> Written:
    lists = JsonLists(folder)
    for group in source.groups():
        if len(group.images) < 2 or not group.ranks:
            source.left_out["an answer that compares no images"] += 1
            continue
        item = {
            "id": group.rating_id,
            "prompt": group.prompt,
            "generations": [f"images/{source.place(image_id, folder / 'images')}" for image_id in group.images],
            "ranking": list(group.ranks),
            "classification": group.task,
            "rater": group.rater,
        }
        lists.add(group.split, item)
    return Written(
        rows=lists.close(),
        load=LOAD,
        notes=(
            "1 is the best place and equal places are a tie, which the trainer skips; two images are a ranking of two.",
            "Grades became places: the highest grade has place 1. What was graded on other axes is not in it.",
            "The trainer makes all pairs of a ranking: one of nine images weighs 36 times as much as a pair.",
            "`image_base` in the trainer's configuration is this folder. `classification` and `rater` are additions.",
        ),
    )
