"""ImageRewardDB's columns as Parquet: a row for each image, a group for each answer, and pairs of better and worse.

The data set itself is loaded by a script, which `datasets` has refused to run since version 4.
"""

from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa

from data.exports.source import Group, Source, Ties, Written
from data.exports.splits import ParquetSplits
from data.records import ALIGNMENT, OVERALL

TIES: tuple[Ties, ...] = ("keep", "drop")
SPLITS = ("train", "validation", "test")

GRADES = {"overall_rating": OVERALL, "image_text_alignment_rating": ALIGNMENT, "fidelity_rating": "fidelity"}
"""Its columns of grades, and our axes."""

LOAD = """\
from datasets import load_dataset
rows = load_dataset("FOLDER", "row", split="train")
print(rows[0]["prompt"], rows[0]["rank"], rows[0]["image"].size)"""


def write(source: Source, folder: Path) -> Written:
    forms = {name: ParquetSplits(folder / name, schema) for name, schema in _schemas().items()}
    for group in source.groups():
        if not group.ranks:
            source.left_out["an answer without an overall judgement"] += 1
            continue
        images = [{"bytes": source.image(image_id), "path": None} for image_id in group.images]
        about = {
            "prompt_id": f"{group.prompt_id}-{group.rating_id}",
            "prompt": group.prompt,
            "classification": group.task,
        }
        for row in _rows(group, images):
            forms["row"].add(group.split, about | row)
        forms["group"].add(group.split, about | _lists(group, images))
        for better, worse in _pairs(group, images):
            forms["pair"].add(group.split, about | {"img_better": better, "img_worse": worse})
    rows = {name: files.close() for name, files in forms.items()}
    return Written(
        rows={f"{name} {split}": count for name, found in rows.items() for split, count in found.items()},
        load=LOAD,
        configs=tuple(
            (name, {split: files.pattern(split) for split in rows[name]}) for name, files in forms.items() if rows[name]
        ),
        notes=(
            "The same three times: `row` has one image to a row, `group` one answer, `pair` two images without ties.",
            "`prompt_id` is the prompt's and the rating's, so that one id is one group: a prompt may be rated often.",
            f"Grades go from 1 to the rating kind's highest, not to 7; the axes are {', '.join(GRADES.values())}. "
            "They are null where nobody was asked for them.",
            "`rank` 1 is the best; of grades it is worked out from the overall one.",
        ),
    )


def _schemas() -> dict[str, pa.Schema]:
    from datasets import Features, Image, List, Value

    about = {name: Value("string") for name in ("prompt_id", "prompt", "classification")}
    number = Value("int8")
    return {
        "row": Features(
            {
                "image": Image(),
                **about,
                "image_amount_in_total": number,
                "rank": number,
                **dict.fromkeys(GRADES, number),
            }
        ).arrow_schema,
        "group": Features(
            {**about, "image": List(Image()), "rank": List(number), **{name: List(number) for name in GRADES}}
        ).arrow_schema,
        "pair": Features({**about, "img_better": Image(), "img_worse": Image()}).arrow_schema,
    }


def _rows(group: Group, images: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "image": image,
            "image_amount_in_total": len(images),
            "rank": group.ranks[place],
            **{name: group.grades[axis][place] if axis in group.grades else None for name, axis in GRADES.items()},
        }
        for place, image in enumerate(images)
    ]


def _lists(group: Group, images: list[dict[str, Any]]) -> dict[str, Any]:
    grades = {name: list(group.grades[axis]) if axis in group.grades else None for name, axis in GRADES.items()}
    return {"image": images, "rank": list(group.ranks), **grades}


def _pairs(group: Group, images: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    ranked = sorted(zip(group.ranks, images, strict=True), key=lambda each: each[0])
    return [(better, worse) for (first, better), (last, worse) in combinations(ranked, 2) if first < last]
