"""Which format a file or folder is, by what is in it. Where that does not decide, the person is asked."""

import tarfile
from pathlib import Path

from data.imports import FORMATS
from data.imports.files import Files, columns_of
from data.imports.folder import FILE_COLUMNS, PROMPT_COLUMNS
from hitl.core.errors import ConfigError, UnknownName
from hitl.core.registry import closest

_SIGNS: tuple[tuple[str, frozenset[str]], ...] = (
    ("complete", frozenset({"rating_id", "task_id", "payload"})),
    ("complete", frozenset({"outcome", "image_a", "image_b"})),
    ("pickapic", frozenset({"jpg_0", "jpg_1", "label_0", "caption", "user_id"})),
    ("diffusion-dpo", frozenset({"jpg_0", "jpg_1", "label_0", "caption"})),
    ("imagefolder", frozenset({"chosen_file_name", "rejected_file_name"})),
    ("trl", frozenset({"prompt", "chosen", "rejected"})),
    ("imagereward", frozenset({"generations", "ranking"})),
    ("imagerewarddb", frozenset({"img_better", "img_worse"})),
    ("imagerewarddb", frozenset({"image", "rank", "prompt_id"})),
    ("imagerewarddb", frozenset({"image_path", "rank", "prompt_id"})),
    ("hpdv2", frozenset({"human_preference", "file_path"})),
    ("hpdv2", frozenset({"image_path", "rank", "prompt"})),
    ("hpdv2", frozenset({"image_path", "raw_annotations"})),
    ("arena", frozenset({"model_a", "model_b", "winner"})),
    ("label-studio", frozenset({"data", "annotations"})),
    ("label-studio", frozenset({"data", "completions"})),
    ("label-studio", frozenset({"annotator", "annotation_id"})),
    ("argilla", frozenset({"fields", "responses"})),
)
"""Columns of one table that only one format has, the more telling ones first."""


def format_of(files: Files, named: str = "") -> str:
    """The name of the format: the one that is named, else what the files say.

    Raises:
        UnknownName: there is no format of that name.
        ConfigError: nothing there says which it is.
    """
    if named:
        if named not in FORMATS:
            raise UnknownName(f"There is no format {named!r} to import.", hint=closest(named, [*FORMATS]))
        return named
    if files.manifest.get("format") in FORMATS:
        return files.manifest["format"]
    found = _by_names(files) or _by_columns(files)
    if found is None:
        seen = ", ".join(sorted({path.suffix for path in files.tables})) or "no table that is known"
        raise ConfigError(
            f"What {files.path} is cannot be told from what is in it ({seen}).",
            hint=f"Name it with --format: {', '.join(FORMATS)}.",
        )
    return found


def _by_names(files: Files) -> str | None:
    if files.find("human_prefer.json"):
        return "d3po"
    if any(path.parent.name == "w" and (path.parent.parent / "l").is_dir() for path in files.find(".caption", ".txt")):
        return "kohya-pairs"
    if any(map(_is_shard, files.find(".tar")[:1])):
        return "webdataset"
    return None


def _is_shard(path: Path) -> bool:
    """Whether a tar's first files are those of one sample: a .json and others of its name."""
    try:
        with tarfile.open(path) as shard:
            names = [member.name for _, member in zip(range(4), shard, strict=False) if member.isfile()]
    except (tarfile.TarError, OSError, EOFError):
        return False
    stems = {name.partition(".")[0] for name in names}
    return len(names) > 1 and len(stems) < len(names) and any(name.endswith(".json") for name in names)


def _by_columns(files: Files) -> str | None:
    for path in sorted(files.tables, key=lambda path: path.stem != "ratings")[:20]:
        columns = columns_of(path)
        for name, needed in _SIGNS:
            if needed <= columns:
                return _by_ending(path) if name == "complete" else name
        if any(column.endswith((".responses", "-suggestion-metadata")) for column in columns):
            return "argilla"
        if columns & {*FILE_COLUMNS} and columns & {*PROMPT_COLUMNS} and path.suffix in (".csv", ".tsv"):
            return "folder"
    return None


def _by_ending(path: Path) -> str:
    """The three endings of our own tables are three names of one format."""
    ending = path.suffix.lower().lstrip(".")
    return ending if ending in ("parquet", "csv") else "jsonl"
