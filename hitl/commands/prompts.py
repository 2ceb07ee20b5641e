"""`hitl prompts`: what would be read of a file of prompts, before a round is drawn of it."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from data.prompt_list import Columns, PromptList, survey
from hitl.core.errors import ConfigError

_FIRST = 5
_SHOWN = 20


def run(path: Path, column: str, task_column: str, split_column: str, limit: int, as_json: bool) -> None:
    if not path.exists():
        raise ConfigError(f"There is no {path}.", hint="Name a file of prompts, or a folder of captions.")
    if limit < 0:
        raise ConfigError(f"--limit is {limit}, but must be 0 or more.", hint="0 reads all.")
    found = survey(path, Columns(text=column, task=task_column, split=split_column), limit)
    told = _told(found)
    print(json.dumps(told, indent=2, ensure_ascii=False) if as_json else describe(path, found, told))


def _told(found: PromptList) -> dict[str, Any]:
    counts = Counter((prompt.task, prompt.split) for prompt in found.prompts)
    tasks = sorted({task for task, _ in counts})
    return {
        "form": found.form,
        "prompts": len(found.prompts),
        "train": sum(prompt.split == "train" for prompt in found.prompts),
        "held_out": sum(prompt.split == "held_out" for prompt in found.prompts),
        "duplicates": found.duplicates,
        "left_out": found.left_out,
        "tasks": {task: {split: counts[task, split] for split in ("train", "held_out")} for task in tasks},
        "first": [
            {"text": prompt.text, "task": prompt.task, "split": prompt.split} for prompt in found.prompts[:_FIRST]
        ],
        "refused": [error.message for error in found.refused],
    }


def describe(path: Path, found: PromptList, told: dict[str, Any]) -> str:
    """The same for people."""
    lines = [
        f"{path}: {told['prompts']:,} prompts ({found.form}), {told['train']:,} to train on and "
        f"{told['held_out']:,} held out"
    ]
    if found.duplicates:
        lines.append(f"  {found.duplicates:,} were there before and count once")
    if found.left_out:
        lines.append(f"  {found.left_out:,} are over the limit and left out")
    if [*told["tasks"]] != [""]:
        lines += [
            f"  {task or '(no task)'}: {counts['train']:,} + {counts['held_out']:,}"
            for task, counts in told["tasks"].items()
        ]
    lines += [f"  {each['split']:8} {each['text'][:100]!r}" for each in told["first"]]
    if found.refused:
        lines.append(f"{len(found.refused):,} cannot be read, and a round would refuse the file:")
        lines += [f"  {error.message}" for error in found.refused[:_SHOWN]]
    for split in ("train", "held_out"):
        if not told[split]:
            lines.append(f"None is {split.replace('_', ' ')}: a round needs both.")
    return "\n".join(lines)
