"""prompt, chosen and rejected, a row for each two images with the votes of all raters: shaped as TRL's preferences.

TRL itself has no preference format in which the answers are images; scripts for Diffusion-DPO take this one.
"""

from pathlib import Path

import pyarrow as pa

from data.exports.source import Source, Ties, Written
from data.exports.splits import ParquetSplits

TIES: tuple[Ties, ...] = ("half", "drop")
SPLITS = ("train", "validation", "test")

LOAD = """\
from datasets import load_dataset
rows = load_dataset("FOLDER", split="train")
print(rows[0]["prompt"], rows[0]["chosen"].size, rows[0]["p_win"])"""


def write(source: Source, folder: Path) -> Written:
    files = ParquetSplits(folder / "data", _schema())
    for pair in source.pair_votes():
        row = {
            "prompt": pair.prompt,
            "chosen": {"bytes": source.image(pair.chosen), "path": None},
            "rejected": {"bytes": source.image(pair.rejected), "path": None},
            "margin": 2 * pair.share - 1,
            "n_votes": pair.votes,
            "p_win": pair.share,
            "prompt_id": pair.prompt_id,
            "chosen_id": pair.chosen,
            "rejected_id": pair.rejected,
        }
        files.add(pair.split, row)
    rows = files.close()
    ties = "counts half for each" if source.options.ties == "half" else "is not counted"
    return Written(
        rows=rows,
        load=LOAD,
        configs=(("default", {split: files.pattern(split) for split in rows}),),
        notes=(
            "A row is two images with the votes of all raters: `n_votes` of them, a share of `p_win` for the chosen "
            f"one, and `margin` = 2 p_win − 1. A tie {ties}.",
            "This is TRL-shaped: TRL's own trainers take no images as answers, scripts for Diffusion-DPO do.",
            "Who voted is not in it.",
        ),
    )


def _schema() -> pa.Schema:
    from datasets import Features, Image, Value

    text = Value("string")
    return Features(
        {
            "prompt": text,
            "chosen": Image(),
            "rejected": Image(),
            "margin": Value("float64"),
            "n_votes": Value("int64"),
            "p_win": Value("float64"),
            "prompt_id": text,
            "chosen_id": text,
            "rejected_id": text,
        }
    ).arrow_schema
