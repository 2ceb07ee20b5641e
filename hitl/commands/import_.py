"""`hitl import`: preference data of other programs, or of other workspaces, into this one."""

import contextlib
import importlib
import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from data.imports import FORMATS
from data.imports.archives import is_archive, unpack
from data.imports.files import Files
from data.imports.guess import format_of
from data.imports.own_tasks import make_tasks
from data.imports.records import Item, Refused
from data.imports.take import Taken, take
from data.store import Store
from data.workspace import Workspace, disk_errors
from hitl.config import RunConfig, load_config
from hitl.core.errors import ConfigError

_SHOWN = 20
_OWN = ("parquet", "csv", "jsonl")


@dataclass(slots=True)
class _Refusals:
    """Keeps all rows that could not be taken in a file, and the first of them to be shown."""

    path: Path | None
    """None for a trial, which writes nothing."""
    first: list[Refused] = field(default_factory=list)
    _file: TextIO | None = None

    def add(self, refused: Refused) -> None:
        if len(self.first) < _SHOWN:
            self.first.append(refused)
        if self.path is None:
            return
        with disk_errors(self.path):
            if self._file is None:
                self.path.parent.mkdir(exist_ok=True)
                self._file = self.path.open("x", encoding="utf-8", errors="backslashreplace")
            self._file.write(json.dumps(asdict(refused), ensure_ascii=False) + "\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def run(
    path: Path,
    format: str,
    split: str,
    source: str,
    tasks: int,
    dry_run: bool,
    workspace: Path | None,
    as_json: bool,
) -> None:
    if not path.exists():
        raise ConfigError(f"There is no {path}.", hint="Name a file or a folder with what is to be imported.")
    if tasks < 0:
        raise ConfigError(f"--tasks is {tasks}, but must be 0 or more.", hint="For example: --tasks 100")
    folder = Workspace.find(workspace)
    config = load_config(folder.config_path, [])
    with _unpacked(path) as place:
        files = Files(place, split)
        name = format_of(files, format)
        if tasks and name != "folder":
            raise ConfigError(
                f"--tasks makes tasks of pictures without ratings, but {path} is {name}.", hint="Leave --tasks out."
            )
        read: Callable[[Files], Iterator[Item]] = importlib.import_module(f"data.imports.{FORMATS[name][1]}").read
        called = source or ("hitl" if name in _OWN else name)
        with Store.open(folder) as store:
            stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
            refusals = _Refusals(None if dry_run else folder.root / "imports" / f"{stamp}-refused.jsonl")
            try:
                taken = take(
                    store,
                    folder,
                    read(files),
                    source=called,
                    is_trial=dry_run,
                    on_refused=refusals.add,
                    on_progress=_show,
                )
            finally:
                refusals.close()
            made = _make_tasks(store, config, called, tasks) if tasks and not dry_run else 0
    told = _told(name, taken, refusals, made, dry_run)
    print(json.dumps(told, indent=2, ensure_ascii=False) if as_json else describe(path, folder, told, taken))
    if not taken.rows:
        raise ConfigError(f"There is nothing in {path} that can be read as {name}.", hint="Name another --format.")


@contextlib.contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """The path, or a temporary folder with what is in the archive. Shards of a WebDataset are read as they are."""
    if not is_archive(path) or (path.name.endswith(".tar") and _is_webdataset(path)):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="hitl-import-") as folder:
        unpack(path, Path(folder))
        inside = [each for each in Path(folder).iterdir() if not each.name.startswith((".", "__MACOSX"))]
        yield inside[0] if len(inside) == 1 and inside[0].is_dir() else Path(folder)


def _is_webdataset(path: Path) -> bool:
    try:
        return format_of(Files(path)) == "webdataset"
    except ConfigError:
        return False


def _make_tasks(store: Store, config: RunConfig, source: str, count: int) -> int:
    """Tasks of pictures that nobody rated, as the settings ask."""
    rate = config.rate
    made = make_tasks(
        store,
        count,
        source=source,
        kind=rate.kind,
        images=rate.images_per_task,
        overlap=rate.overlap,
        chance=random.Random(f"{config.project.seed}/tasks/0"),
    )
    return store.add_tasks(made)


def _told(format: str, taken: Taken, refusals: _Refusals, made: int, dry_run: bool) -> dict[str, Any]:
    kept_in = refusals.path if refusals.path is not None and taken.refused else None
    return {
        "format": format,
        "dry_run": dry_run,
        **asdict(taken),
        "tasks": made,
        "refused_rows": [asdict(each) for each in refusals.first],
        "refused_file": str(kept_in) if kept_in else None,
    }


def describe(path: Path, folder: Workspace, told: dict[str, Any], taken: Taken) -> str:
    """What became of the rows, for people."""
    would = "would be " if told["dry_run"] else ""
    lines = [
        f"{path} read as {told['format']}: {taken.rows:,} rows.",
        f"  {taken.ratings:,} ratings {would}taken; {taken.known:,} were here already",
        f"  {taken.prompts:,} prompts, {taken.images:,} images and {taken.raters:,} raters {would}new",
    ]
    if taken.converted:
        lines.append(f"  {taken.converted:,} images {would}written anew as 8-bit RGB PNG, without metadata")
    if taken.kept_prompts:
        lines.append(f"  {taken.kept_prompts:,} prompts were here under another task or split, and keep it")
    if told["tasks"]:
        lines.append(f"  {told['tasks']:,} tasks made for people here to rate")
    if taken.refused:
        lines.append(f"{taken.refused:,} could not be taken:")
        lines += [f"  {each['row']} {each['reason']}" for each in told["refused_rows"]]
        if told["refused_file"]:
            lines.append(f"All of them: {told['refused_file']}")
    if told["tasks"]:
        lines.append(f"Next: hitl serve -w {folder.root}")
    elif taken.ratings and not told["dry_run"]:
        lines.append(f"Next: hitl fit -w {folder.root}")
    return "\n".join(lines)


def _show(rows: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{rows:,} rows", end="", file=sys.stderr, flush=True)
