"""Where prompts come from: the starter world's own, or a person's file, in whatever form prompts are published in."""

import csv
import json
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from data.records import Prompt
from data.world.captions import TASKS, prompts, split_of
from hitl.core.errors import ConfigError

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(
        ("held_out", "held-out", "valid", "validation", "val", "dev", "test", "validation_unique", "test_unique"),
        "held_out",
    ),
}
"""What others call our two splits."""
_TEXT_COLUMNS = ("prompt", "prompts", "caption", "text")
_TASK_COLUMNS = ("task", "category")
_SPLIT_COLUMNS = ("split", "set")
_LONGEST_FIELD = 1 << 30


def starter_prompts(per_task: int, held_out_per_task: int) -> list[Prompt]:
    """The first prompts of every task of the starter world, trained-on ones first."""
    return [
        Prompt.of(prompt.text, task=prompt.task, split=prompt.split)
        for split, limit in (("train", per_task), ("held_out", held_out_per_task))
        for task in TASKS
        for prompt in prompts(task, split, limit)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which columns of a table are read; an empty name takes the usual ones."""

    text: str = ""
    task: str = ""
    split: str = ""


@dataclass(slots=True, kw_only=True)
class PromptList:
    """What a file of prompts holds."""

    form: str
    """`lines`, `table`, `JSON list`, `COCO captions`, `folder of captions`."""
    prompts: list[Prompt] = field(default_factory=list)
    duplicates: int = 0
    """Texts that were there before."""
    left_out: int = 0
    """Prompts over the limit."""
    refused: list[ConfigError] = field(default_factory=list)


def read_prompts(path: Path, columns: Columns | None = None, limit: int = 0) -> list[Prompt]:
    """The prompts of a file or a folder; `survey` says of which forms.

    Raises:
        ConfigError: it cannot be read, a row is not what it should be, or one split is empty.
    """
    found = survey(path, columns, limit)
    if found.refused:
        raise found.refused[0]
    for split in ("train", "held_out"):
        if not any(prompt.split == split for prompt in found.prompts):
            raise ConfigError(
                f"{path.name} has {len(found.prompts)} prompts and none of them is {split.replace('_', ' ')}.",
                hint='Add prompts, or use JSON lines such as {"text": "a red fox", "split": "held_out"}.',
            )
    return found.prompts


def survey(path: Path, columns: Columns | None = None, limit: int = 0) -> PromptList:
    """What is in a file of prompts, and what cannot be read of it and why.

    A text file, one prompt to a line, or JSON lines with `text` and optional `task` and `split`; a CSV or TSV file with
    a column for the prompt (DrawBench, PartiPrompts); a JSON list of texts or objects; COCO's captions; a folder of
    text files with a caption to a line, such as CUB's, whose folders' names become tasks.

    Without a split, a third is held out, chosen by a hash of the text: adding prompts never moves one. Captions of one
    picture are held out together. Of more than `limit` prompts of a split (0: no limit) those with the lowest hashes
    are kept, so that they come from all over the file.

    Raises:
        ConfigError: the file or folder as a whole cannot be read.
    """
    columns = columns or Columns()
    form, rows = _rows(path, columns)
    found = PromptList(form=form)
    unique: dict[str, Prompt] = {}
    for row in rows:
        try:
            prompt = row()
        except ConfigError as error:
            found.refused.append(error)
            continue
        found.duplicates += prompt.prompt_id in unique
        unique[prompt.prompt_id] = prompt
    found.prompts = _within(list(unique.values()), limit)
    found.left_out = len(unique) - len(found.prompts)
    return found


def _within(unique: list[Prompt], limit: int) -> list[Prompt]:
    if not limit:
        return unique
    kept = {
        prompt.prompt_id
        for split in ("train", "held_out")
        for prompt in sorted((each for each in unique if each.split == split), key=lambda each: each.prompt_id)[:limit]
    }
    return [prompt for prompt in unique if prompt.prompt_id in kept]


_Row = Callable[[], Prompt]
"""Gives the prompt of one row, or raises a ConfigError that says what is wrong with it."""


def _rows(path: Path, columns: Columns) -> tuple[str, Iterator[_Row]]:
    """The form of the file, and its rows."""
    if path.is_dir():
        return "folder of captions", _of_folder(path)
    ending = path.suffix.lower()
    if ending in (".csv", ".tsv"):
        return "table", _of_table(path, columns, "\t" if ending == ".tsv" else ",")
    text = _read(path)
    if ending == ".json":
        try:
            whole = json.loads(text)
        except ValueError:
            whole = None  # JSON lines under another name, or a mistake in one that is said with its line
        if isinstance(whole, dict) and isinstance(whole.get("annotations"), list):
            return "COCO captions", _of_coco(path, whole["annotations"])
        if isinstance(whole, list):
            return "JSON list", _of_list(path, whole, columns)
    return "lines", _of_lines(path, text)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The prompts file {path} cannot be read: {error}.", hint="Set prompts.file to a UTF-8 text file."
        ) from error


# -- lines ----------------------------------------------------------------------------------------------------------


def _of_lines(path: Path, text: str) -> Iterator[_Row]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield lambda number=number, line=line: _parse(path, number, line)


def _parse(path: Path, number: int, line: str) -> Prompt:
    if not line.lstrip().startswith("{"):
        return Prompt.of(line.strip(), split=split_of(line.strip()))
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{path.name} line {number} is not valid JSON: {error}.", hint="Mend that line.") from error
    text, split = row.get("text"), row.get("split", "")
    if not isinstance(text, str) or split not in ("", "train", "held_out"):
        raise ConfigError(
            f"{path.name} line {number} needs a text and a split of train or held_out, but is {line[:80]}.",
            hint='For example: {"text": "a red fox", "task": "animals", "split": "train"}',
        )
    return Prompt.of(text, task=str(row.get("task", "")), split=split or split_of(text))


# -- tables and lists -----------------------------------------------------------------------------------------------


def _of_table(path: Path, columns: Columns, delimiter: str) -> Iterator[_Row]:
    csv.field_size_limit(_LONGEST_FIELD)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter, quoting=_quoting(path, delimiter))
            chosen = _chosen(path, reader.fieldnames or [], columns)
            for number, row in enumerate(reader, 1):
                yield lambda number=number, row=row: _of_row(f"{path.name} row {number}", row, chosen)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(
            f"The prompts file {path} cannot be read: {error}.", hint="Save it as CSV or TSV in UTF-8."
        ) from error


def _quoting(path: Path, delimiter: str) -> Literal[0, 3]:
    """Whether a mark that begins a field is of the text: PartiPrompts quotes nothing, and has `"A" on a wall`."""
    if delimiter == "\t":
        with path.open(encoding="utf-8-sig", newline="") as file:
            try:
                deque(csv.reader(file, delimiter=delimiter, strict=True), maxlen=0)
            except csv.Error:
                return csv.QUOTE_NONE
    return csv.QUOTE_MINIMAL


def _chosen(path: Path, names: Sequence[str], columns: Columns) -> Columns:
    """The columns that are there; of those that are not named the usual ones, in upper or lower case."""
    by_name = {name.strip().lower(): name for name in reversed(names) if name}
    usual = {
        "column": (columns.text, _TEXT_COLUMNS),
        "task_column": (columns.task, _TASK_COLUMNS),
        "split_column": (columns.split, _SPLIT_COLUMNS),
    }
    found = {}
    for setting, (named, known) in usual.items():
        if named and named not in names:
            raise ConfigError(
                f"{path.name} has no column {named!r}.",
                hint=f"Set prompts.{setting} to one of: {', '.join(names)}.",
            )
        found[setting] = named or next((by_name[name] for name in known if name in by_name), "")
    if not found["column"]:
        raise ConfigError(
            f"{path.name} has the columns {', '.join(names) or '(none)'}, and none is called prompt, caption or text.",
            hint="Name the column of the prompts with prompts.column.",
        )
    return Columns(text=found["column"], task=found["task_column"], split=found["split_column"])


def _of_row(place: str, row: dict[str, Any], columns: Columns) -> Prompt:
    text = row.get(columns.text)
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(f"{place} has no text in {columns.text!r}.", hint="Fill it, or take the row out.")
    text = text.strip()
    said = str(row.get(columns.split) or "").strip().lower() if columns.split else ""
    if said and said not in SPLITS:
        raise ConfigError(
            f"{place} has the split {said!r}.", hint=f"Use train or held_out; {', '.join(SPLITS)} are known too."
        )
    task = str(row.get(columns.task) or "").strip() if columns.task else ""
    return Prompt.of(text, task=task, split=SPLITS.get(said) or split_of_text(text))


def _of_list(path: Path, items: list[Any], columns: Columns) -> Iterator[_Row]:
    for number, item in enumerate(items, 1):
        yield lambda number=number, item=item: _of_item(path, f"{path.name} item {number}", item, columns)


def _of_item(path: Path, place: str, item: Any, columns: Columns) -> Prompt:
    if isinstance(item, str):
        return _of_row(place, {"text": item}, Columns(text="text"))
    if not isinstance(item, dict):
        raise ConfigError(f"{place} is {item!r:.60}.", hint="Use a list of texts, or of objects with a text.")
    return _of_row(place, item, _chosen(path, [*item], columns))


# -- captions of pictures -------------------------------------------------------------------------------------------


def _of_coco(path: Path, annotations: list[Any]) -> Iterator[_Row]:
    for number, annotation in enumerate(annotations, 1):
        yield lambda number=number, each=annotation: _of_annotation(f"{path.name} annotation {number}", each)


def _of_annotation(place: str, annotation: Any) -> Prompt:
    text = annotation.get("caption") if isinstance(annotation, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(
            f"{place} has no caption.", hint="COCO's captions_*.json have; its instances_*.json are of boxes."
        )
    return Prompt.of(text.strip(), split=_split_of_picture(annotation.get("image_id", text)))


def _of_folder(path: Path) -> Iterator[_Row]:
    files = sorted(file for file in path.rglob("*.txt") if not file.name.lower().startswith(("readme", "license")))
    if not files:
        raise ConfigError(
            f"The folder {path} has no text files.", hint="A folder of captions has a .txt file for each picture."
        )
    for file in files:
        place = file.relative_to(path)
        task = _in_words(place.parent.name) if len(place.parts) > 1 else ""
        split = _split_of_picture(place.with_suffix("").as_posix())
        for line in _read(file).splitlines():
            text = line.replace("\ufffd\ufffd", " ").strip()  # CUB was published with some characters lost
            if text:
                yield lambda text=text, task=task, split=split: Prompt.of(text, task=task, split=split)


def _in_words(name: str) -> str:
    """`001.Black_footed_Albatross` is the black footed albatross."""
    return re.sub(r"^\d+\.", "", name).replace("_", " ")


def _split_of_picture(picture: object) -> str:
    return "held_out" if zlib.crc32(str(picture).encode()) % 3 == 0 else "train"


def split_of_text(text: str) -> str:
    """The split of a prompt of which nothing is said, fixed by its text alone."""
    try:
        return split_of(text)
    except UnicodeEncodeError:
        return "train"  # it is no prompt, as `Prompt.of` says better
