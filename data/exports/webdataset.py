"""Tar shards of about 1 GB: each pair is two image files, its prompt as text, and all else as JSON, under one key."""

import io
import json
import tarfile
from pathlib import Path

from data.exports.source import Source, Ties, Vote, Written

TIES: tuple[Ties, ...] = ("half", "keep", "drop")
SPLITS = ("train", "validation", "test")
SHARD_BYTES = 10**9

LOAD = """\
import webdataset
pairs = webdataset.WebDataset("FOLDER/train/000000.tar", shardshuffle=False).decode("pil")
for left, right, told in pairs.to_tuple("0.png", "1.png", "json"):
    print(told["prompt"], told["label_0"], left.size, right.size)"""


def write(source: Source, folder: Path) -> Written:
    splits: dict[str, _Shards] = {}
    for number, vote in enumerate(source.votes(with_models=True)):
        if vote.split not in splits:
            splits[vote.split] = _Shards(folder / vote.split)
        files = {
            f"0.{source.ending}": source.image(vote.images[0]),
            f"1.{source.ending}": source.image(vote.images[1]),
            "json": json.dumps(_facts(vote), ensure_ascii=False).encode(),
            "txt": vote.prompt.encode(),
        }
        splits[vote.split].add(f"{number:08d}", files)
    rows = {split: shards.close() for split, shards in splits.items()}
    return Written(
        rows=rows,
        load=LOAD.replace('.png"', f'.{source.ending}"'),
        configs=(("default", {split: f"{split}/*.tar" for split in rows}),),
        notes=(
            "A key has `0.png` and `1.png` (`.jpg` with `--image-format jpeg`), `txt` (the prompt) and `json`; "
            "`0` was displayed on the left (or first).",
            "`label_0` and `label_1` in the JSON are 1 and 0, 0 and 1, or 0.5 each for a tie.",
            "`sizes.json` says how many pairs are in each shard, and `__len__` how many in all.",
        ),
    )


def _facts(vote: Vote) -> dict[str, object]:
    return {
        "prompt": vote.prompt,
        "label_0": vote.label,
        "label_1": 1 - vote.label,
        "both_bad": vote.both_bad,
        "image_0_uid": vote.images[0],
        "image_1_uid": vote.images[1],
        "model_0": vote.models[0],
        "model_1": vote.models[1],
        "rater": vote.rater,
        "task": vote.task,
        "round": vote.round,
        "propensity": vote.propensity,
        "created_at": vote.server_time.isoformat(),
    }


class _Shards:
    """The shards of one split. A file in them has no time and no owner, so the same ratings give the same bytes."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._sizes: dict[str, int] = {}
        self._shard: tarfile.TarFile | None = None
        self._bytes = 0

    def add(self, key: str, files: dict[str, bytes]) -> None:
        if self._shard is None:
            name = f"{len(self._sizes):06d}.tar"
            self._sizes[name] = self._bytes = 0
            self._shard = tarfile.open(self._folder / name, "w")  # noqa: SIM115 closed by _end_shard
        for ending, content in files.items():
            member = tarfile.TarInfo(f"{key}.{ending}")
            member.size = len(content)
            self._shard.addfile(member, io.BytesIO(content))
            self._bytes += len(content)
        self._sizes[[*self._sizes][-1]] += 1
        if self._bytes >= SHARD_BYTES:
            self._end_shard()

    def close(self) -> int:
        self._end_shard()
        total = sum(self._sizes.values())
        (self._folder / "sizes.json").write_text(json.dumps(self._sizes))
        (self._folder / "__len__").write_text(str(total))
        return total

    def _end_shard(self) -> None:
        if self._shard is not None:
            self._shard.close()
            self._shard = None
