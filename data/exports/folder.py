"""Makes the folder of an export, with card and checksums: beside its place first, so that half of it is never there."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data.exports import load_format
from data.exports.card import write_card
from data.exports.source import Source, Written
from data.workspace import disk_errors, fsync_dir, sha256_of_file
from hitl.core.errors import ConfigError, NotEnoughRatings


def require_free(target: Path) -> None:
    """Raise ConfigError when something is there, for an export overwrites nothing, or when nothing can be."""
    for parent in target.absolute().parents:
        if parent.exists() and not parent.is_dir():
            raise ConfigError(f"{parent} is no folder, so that {target} cannot be in it.", hint="Choose another place.")
    if target.exists() or target.is_symlink():
        raise ConfigError(f"{target} is there already.", hint="Choose a name that is not taken, or move it away.")


def write_folder(source: Source, target: Path) -> Written:
    """Write an export with its card and checksums; it is there in full, or not at all.

    Raises:
        ConfigError: the target is taken.
        NotEnoughRatings: there is nothing to be exported in this format.
        WorkspaceError: the disk is full, or the folder cannot be written.
    """
    require_free(target)
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
        try:
            written = load_format(source.options.format).write(source, fresh)
            if not any(written.rows.values()):
                raise NotEnoughRatings(
                    f"There is nothing to export as {source.options.format}{_because(source)}.",
                    hint="Rate more, or choose other --round, --rater or --ties.",
                )
            write_card(source, written, fresh / "README.md", name=target.name)
            _write_manifest(source, written, fresh)
            fresh.chmod(0o755)
            require_free(target)
            os.rename(fresh, target)
            fsync_dir(target.parent)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
    return written


def _because(source: Source) -> str:
    reasons = [f"{count} had {reason}" for reason, count in source.left_out.items()]
    if source.options.ties == "drop" and source.tally.ties:
        reasons.append(f"{source.tally.ties} were ties")
    return f": {', '.join(reasons)}" if reasons else ""


def _write_manifest(source: Source, written: Written, folder: Path) -> None:
    """What was exported, and each file's size and SHA-256. Written file by file: there may be a million."""
    tally = source.tally
    told = {
        "format": source.options.format,
        "made_at": datetime.now(UTC).isoformat(),
        "hitl": version("hitl"),
        "journal_position": source.store.position,
        "options": {**asdict(source.options), "round": source.selection.round, "names": source.selection.has_names},
        "counts": {
            "prompts": len(tally.prompts),
            "raters": len(tally.raters),
            "ratings": tally.ratings,
            "comparisons": tally.comparisons,
            "ties": tally.ties,
            "comparisons_of_lost_images": tally.lost,
            "lost_images": tally.lost_images,
        },
        "rows": written.rows,
        "left_out": dict(source.left_out),
    }
    head = json.dumps(told, indent=2, ensure_ascii=False)
    with (folder / "manifest.json").open("w", encoding="utf-8") as file:
        file.write(head[: head.rindex("\n}")] + ',\n  "files": {')
        for number, path in enumerate(_files(folder)):
            entry: dict[str, Any] = {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
            name = json.dumps(path.relative_to(folder).as_posix())
            file.write(f"{',' if number else ''}\n    {name}: {json.dumps(entry)}")
        file.write("\n  }\n}\n")


def _files(folder: Path) -> Iterator[Path]:
    """All but the manifest, folder by folder."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(place, name) for name in sorted(names) if (place, name) != (str(folder), "manifest.json"))
