"""Where prompts come from: the starter world's own, or a person's file."""

import json
from pathlib import Path

from data.records import Prompt
from data.world.captions import TASKS, prompts, split_of
from hitl.core.errors import ConfigError


def starter_prompts(per_task: int, held_out_per_task: int) -> list[Prompt]:
    """The first prompts of every task of the starter world, trained-on ones first."""
    return [
        Prompt.of(prompt.text, task=prompt.task, split=prompt.split)
        for split, limit in (("train", per_task), ("held_out", held_out_per_task))
        for task in TASKS
        for prompt in prompts(task, split, limit)
    ]


def read_prompts(path: Path) -> list[Prompt]:
    """Prompts of a text file, one to a line, or of JSON lines with `text` and optional `task` and `split`.

    Without a split, a third is held out, chosen by a hash of the text: adding prompts never moves one.

    Raises:
        ConfigError: the file cannot be read, a line is not what it should be, or one split is empty.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The prompts file {path} cannot be read: {error}.", hint="Set prompts.file to a UTF-8 text file."
        ) from error
    found = [_parse(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    unique = list({prompt.prompt_id: prompt for prompt in found}.values())
    for split in ("train", "held_out"):
        if not any(prompt.split == split for prompt in unique):
            raise ConfigError(
                f"{path.name} has {len(unique)} prompts and none of them is {split.replace('_', ' ')}.",
                hint='Add prompts, or use JSON lines such as {"text": "a red fox", "split": "held_out"}.',
            )
    return unique


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
