"""Image files with metadata.jsonl, whose chosen_file_name and rejected_file_name `datasets` turns into images."""

import contextlib
import json
from collections import Counter
from pathlib import Path
from typing import TextIO

from data.exports.source import Source, Ties, Written

TIES: tuple[Ties, ...] = ("drop",)
SPLITS = ("train", "validation", "test")

LOAD = """\
from datasets import load_dataset
rows = load_dataset("imagefolder", data_dir="FOLDER", split="train")
print(rows[0]["prompt"], rows[0]["chosen"].size, rows[0]["rejected"].size)"""


def write(source: Source, folder: Path) -> Written:
    rows: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        files: dict[str, TextIO] = {}
        for vote in source.votes():
            place = folder / vote.split
            if vote.split not in files:
                place.mkdir(parents=True)
                files[vote.split] = stack.enter_context((place / "metadata.jsonl").open("w", encoding="utf-8"))
            chosen, rejected = vote.images if vote.label == 1 else vote.images[::-1]
            row = {
                "chosen_file_name": f"images/{source.place(chosen, place / 'images')}",
                "rejected_file_name": f"images/{source.place(rejected, place / 'images')}",
                "prompt": vote.prompt,
                "task": vote.task,
                "rater": vote.rater,
                "round": vote.round,
            }
            files[vote.split].write(json.dumps(row, ensure_ascii=False) + "\n")
            rows[vote.split] += 1
    return Written(
        rows=dict(rows),
        load=LOAD,
        notes=("A row is what one rater said of two images; an image that was compared often is one file.",),
    )
