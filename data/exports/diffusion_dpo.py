"""Pick-a-Pic's columns for Diffusion-DPO's trainers (Salesforce's and diffusers'), which take a tie for a win.

Salesforce's drops ties by itself, but only of a dataset with `pickapic` in its path; diffusers' never does.
"""

from pathlib import Path

from data.exports.pickapic import write_parquet
from data.exports.source import Source, Ties, Written

TIES: tuple[Ties, ...] = ("drop", "half", "keep")
SPLITS = ("train", "validation", "test")

LOAD = """\
from datasets import load_dataset
rows = load_dataset("FOLDER", split="train")
print(rows[0]["caption"], rows[0]["label_0"], len(rows[0]["jpg_0"]))"""


def write(source: Source, folder: Path) -> Written:
    rows, configs = write_parquet(source, folder)
    ties = (
        "There are no ties: both trainers would learn from one that the image with label_0 won."
        if source.options.ties == "drop"
        else "There are ties, with 0.5 in both labels. diffusers' trainer, and Salesforce's unless the path has "
        "`pickapic` in it, learn from one that image 0 won."
    )
    return Written(
        rows=rows,
        load=LOAD,
        configs=configs,
        notes=(
            ties,
            "The image columns are bytes and no `Image()`: both trainers open them by `io.BytesIO`.",
            "`image_0` was displayed on the left (or first).",
        ),
    )
