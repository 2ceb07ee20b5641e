"""Formats that preference data leaves in: one module each, loaded when it is asked for.

A module has `TIES` (what may become of ties, the usual first), `SPLITS` (what it calls the parts for training,
validation and testing) and `write(source, folder)`, which writes the files and returns what the card says of them.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, cast

from data.exports.source import Source, Ties, Written
from hitl.core.errors import UnknownName

FORMATS: Mapping[str, tuple[str, str]] = {
    "parquet": ("all facts as they are, as Parquet tables with the images beside", "tables"),
    "csv": ("all facts as they are, as CSV tables with the images beside", "tables"),
    "jsonl": ("all facts as they are, as JSON lines with the images beside", "tables"),
    "pickapic": ("pairs in Pick-a-Pic's columns, as Parquet and as save_to_disk", "pickapic"),
    "diffusion-dpo": ("pairs in Pick-a-Pic's columns without ties, for Diffusion-DPO's trainers", "diffusion_dpo"),
    "imagereward": ("rankings for ImageReward's trainer: {train,valid,test}.json and images", "imagereward"),
    "imagerewarddb": ("ImageRewardDB's rows, groups and pairs as Parquet", "imagerewarddb"),
    "hpdv2": ("HPDv2's train.json and test.json with images", "hpdv2"),
    "trl": ("prompt, chosen and rejected with the votes of all raters, shaped as TRL's preferences", "trl"),
    "imagefolder": ("chosen and rejected image files with metadata.jsonl", "imagefolder"),
    "webdataset": ("pairs in tar shards of about 1 GB", "webdataset"),
    "kohya-pairs": ("folders of winners and losers with captions, for kohya's Diffusion-DPO", "kohya_pairs"),
    "d3po": ("JSON lists of preferences for D3PO", "d3po"),
    "arena": ("votes of arena style, as JSON lines", "arena"),
}
"""Name: what it is in one line, and its module."""


class Format(Protocol):
    """What a format's module has."""

    TIES: tuple[Ties, ...]
    SPLITS: tuple[str, str, str]

    def write(self, source: Source, folder: Path) -> Written: ...


def load_format(name: str) -> Format:
    """The module of that format.

    Raises:
        UnknownName: there is none of that name.
    """
    if name not in FORMATS:
        raise UnknownName(
            f"The format {name!r} is not known.", hint=f"Use --format with one of: {', '.join(FORMATS)}, kohya."
        )
    return cast(Format, importlib.import_module(f"data.exports.{FORMATS[name][1]}"))
