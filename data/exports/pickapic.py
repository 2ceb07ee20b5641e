"""Pick-a-Pic's columns: a row per rating of two images, image bytes included. As Parquet, and as `save_to_disk`.

PickScore reads the second; the columns that no loader needs are there because loaders drop them by name.
"""

import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa

from data.exports.source import Source, Ties, Vote, Written
from data.exports.splits import ParquetSplits

TIES: tuple[Ties, ...] = ("half", "keep", "drop")
SPLITS = ("train", "validation_unique", "test_unique")
ON_DISK = "save_to_disk"

SCHEMA = pa.schema(
    [
        ("are_different", pa.bool_()),
        ("best_image_uid", pa.string()),
        ("caption", pa.string()),
        ("created_at", pa.timestamp("ns")),
        ("has_label", pa.bool_()),
        ("image_0_uid", pa.string()),
        ("image_0_url", pa.string()),
        ("image_1_uid", pa.string()),
        ("image_1_url", pa.string()),
        ("jpg_0", pa.binary()),
        ("jpg_1", pa.binary()),
        ("label_0", pa.float64()),
        ("label_1", pa.float64()),
        ("model_0", pa.string()),
        ("model_1", pa.string()),
        ("ranking_id", pa.int64()),
        ("user_id", pa.int64()),
        ("num_example_per_prompt", pa.int64()),
        ("__index_level_0__", pa.int64()),
    ]
)

LOAD = """\
from datasets import load_dataset
rows = load_dataset("FOLDER", split="train")
print(rows[0]["caption"], rows[0]["label_0"], len(rows[0]["jpg_0"]))"""


def write(source: Source, folder: Path) -> Written:
    rows, configs = write_parquet(source, folder)
    save_to_disk(folder, rows)
    return Written(
        rows=rows,
        load=LOAD,
        configs=configs,
        notes=(
            f"`{ON_DISK}/` holds the same rows for `datasets.load_from_disk`, which PickScore's trainer wants "
            "(`dataset.from_disk=true`).",
            "A tie, or both bad, has 0.5 in both labels, and an empty `best_image_uid`.",
            "`image_0` was displayed on the left (or first).",
            f"`jpg_0` and `jpg_1` hold {source.options.image_format.upper()} files; the loaders look at the content.",
            "The same image is in the file as often as it was compared.",
        ),
    )


def write_parquet(source: Source, folder: Path) -> tuple[dict[str, int], tuple[tuple[str, dict[str, str]], ...]]:
    """The rows by split, and the card's configuration of them."""
    files = ParquetSplits(folder / "data", SCHEMA)
    for number, vote in enumerate(source.votes(with_models=True)):
        files.add(vote.split, _row(source, number, vote))
    rows = files.close()
    return rows, (("default", {split: files.pattern(split) for split in rows}),)


def _row(source: Source, number: int, vote: Vote) -> dict[str, Any]:
    first, second = vote.images
    best = {1.0: first, 0.0: second}.get(vote.label, "")
    return {
        "are_different": first != second,
        "best_image_uid": best,
        "caption": vote.prompt,
        "created_at": vote.server_time.replace(tzinfo=None),
        "has_label": True,
        "image_0_uid": first,
        "image_0_url": "",
        "image_1_uid": second,
        "image_1_url": "",
        "jpg_0": source.image(first),
        "jpg_1": source.image(second),
        "label_0": vote.label,
        "label_1": 1 - vote.label,
        "model_0": vote.models[0],
        "model_1": vote.models[1],
        "ranking_id": number,
        "user_id": vote.rater_number,
        "num_example_per_prompt": source.examples_of(vote.prompt_id),
        "__index_level_0__": number,
    }


def save_to_disk(folder: Path, splits: dict[str, int]) -> None:
    """The Parquet files again, as `datasets` keeps a dataset on the disk."""
    import datasets

    was_quiet = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with tempfile.TemporaryDirectory(prefix=".cache-", dir=folder) as cache:
            found: dict[str | datasets.NamedSplit, datasets.Dataset] = {
                split: datasets.Dataset.from_parquet(
                    [str(path) for path in sorted((folder / "data").glob(f"{split}-*.parquet"))],
                    split=datasets.NamedSplit(split),
                    cache_dir=cache,
                )
                for split in splits
            }
            datasets.DatasetDict(found).save_to_disk(folder / ON_DISK)
    finally:
        if not was_quiet:
            datasets.enable_progress_bars()
