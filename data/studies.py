"""Blind studies of two sides, A and B, each a model or a folder of pictures: what is compared, and what is told of it.

A study's tasks (`data.study_tasks`) are in the store, and through the journal in every rebuild of it: they say by
themselves which image is whose (the first is B's), what is asked, and for which study. What else is told of it stands
in `studies/NAME/`.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from data.checkpoints import sha256_of_weights
from data.imports.files import Files
from data.imports.folder import read as read_folder
from data.imports.records import Refused, Shown
from data.records import Prompt, prompt_id_of
from data.study_tasks import folder_of
from data.win_rates import policy_name
from data.workspace import Workspace, write_atomically
from hitl.core.errors import ConfigError, UnknownName

LORA = "pytorch_lora_weights.safetensors"
"""How diffusers calls the weights of a LoRA."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two that a study compares."""

    kind: Literal["model", "images"]
    name: str
    round: int | None = None
    """Whose policy it is; 0 is the reference, None another checkpoint or no model."""
    path: Path | None = None
    """The folder of the checkpoint or of the pictures, or the checkpoint's one file; None for the reference."""
    checkpoint: str = ""
    """Of a model: what its weights hash to; empty for the reference."""

    def is_same_as(self, other: "Side") -> bool:
        """Whether the two would show the same: then it is an A/A study."""
        if self.kind == other.kind == "model":
            return self.checkpoint == other.checkpoint
        return self.kind == other.kind and self.path == other.path


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What is told of a study beside its tasks."""

    name: str
    a: str
    b: str
    is_same: bool
    """An A/A study: both sides are one, drawn from different seeds."""
    votes: int
    """On each question."""
    raters: int
    """Of each pair."""
    pairs: int
    prompts: int
    alike: int
    """Pairs that were left out, because the two pictures are the same."""
    detectable: float
    """The least difference from one half that is found in 80 of 100 studies, as told in advance."""
    people_agree: float | None
    """How often two people were taken to agree on a pair for that; None where earlier votes here told."""
    made_at: str
    """ISO 8601, UTC."""


def write_study(workspace: Workspace, study: Study) -> None:
    text = json.dumps(asdict(study), indent=2, ensure_ascii=False)
    write_atomically(folder_of(workspace, study.name) / "study.json", f"{text}\n".encode())


def read_study(workspace: Workspace, name: str) -> dict[str, Any]:
    """What `write_study` wrote, as plain values; empty where the file is gone, on which no result depends."""
    try:
        found = json.loads((folder_of(workspace, name) / "study.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


# -- the two sides ----------------------------------------------------------------------------------------------------


def sides_of(workspace: Workspace, a: str, b: str) -> tuple[Side, Side]:
    """The two by what was named: a round's number, `reference` (or 0), a checkpoint, or a folder of pictures.

    Raises:
        UnknownName: there is no such thing.
    """
    first, second = _side(workspace, a), _side(workspace, b)
    if first.name == second.name and not first.is_same_as(second) and first.path and second.path:
        first, second = (replace(each, name="/".join(each.path.parts[-2:])) for each in (first, second) if each.path)
    return first, second


def _side(workspace: Workspace, told: str) -> Side:
    if told == "reference" or told == "0":
        return Side(kind="model", name=policy_name(0), round=0)
    if told.isdecimal():
        return _policy(workspace, int(told))
    path = Path(told).expanduser().absolute()
    if path.is_file() and path.suffix == ".safetensors":
        return Side(kind="model", name=path.stem, path=path, checkpoint=sha256_of_weights(path))
    if path.is_dir() and any(path.rglob("*.safetensors")):
        return Side(kind="model", name=path.name, path=path, checkpoint=sha256_of_weights(path))
    if path.is_dir() and Files(path).tables:
        return Side(kind="images", name=path.name, path=path)
    raise UnknownName(
        f"{told} is nothing that can be compared.",
        hint="Name a round by its number, `reference`, a checkpoint (a folder with .safetensors, or such a file), or a "
        "folder of pictures with a table of file and prompt (metadata.csv, metadata.jsonl).",
    )


def _policy(workspace: Workspace, number: int) -> Side:
    manifest = workspace.manifest(number, "train")
    folder = workspace.policy_dir(number)
    if manifest is None or not folder.is_dir():
        rounds = sorted(int(path.name) for path in (workspace.root / "rounds").glob("[0-9]*") if path.name.isdigit())
        there = [str(each) for each in rounds if workspace.is_done(each, "train")]
        raise UnknownName(
            f"Round {number} has no trained policy.",
            hint=f"There are those of {', '.join(there)}, and `reference`." if there else "No round is trained yet.",
        )
    return Side(
        kind="model", name=policy_name(number), round=number, path=folder, checkpoint=manifest.get("checkpoint", "")
    )


def pictures_in(side: Side) -> dict[str, list[Shown]]:
    """By prompt: the pictures of a folder, in the order of its table.

    Raises:
        ConfigError: a row of the table has no picture or no prompt.
    """
    assert side.path is not None
    found: dict[str, list[Shown]] = {}
    for item in read_folder(Files(side.path)):
        if isinstance(item, Refused):
            raise ConfigError(
                f"{side.path}: {item.row} {item.reason}.", hint="A row names a file and its prompt; mend it."
            )
        if isinstance(item, Shown):
            found.setdefault(item.prompt, []).append(item)
    return found


# -- pairs --------------------------------------------------------------------------------------------------


def pairs_of(available: Mapping[str, int | None], count: int, chance: random.Random) -> list[tuple[str, int]]:
    """`count` pairs as prompt and index, spread over the prompts as evenly as their pictures allow; fewer where there
    are no more.

    Args:
        available: by prompt how many pairs of pictures there are; None: as many as are drawn.
    """
    order = chance.sample([*available], len(available))
    found: list[tuple[str, int]] = []
    index = 0
    while len(found) < count:
        level = [(text, index) for text in order if (most := available[text]) is None or index < most]
        if not level:
            break
        found += level[: count - len(found)]
        index += 1
    return found


def prompts_by_text(prompts: Sequence[Prompt]) -> dict[str, Prompt]:
    return {prompt.text: prompt for prompt in prompts}


def as_prompt(text: str, known: Mapping[str, Prompt], shown: Shown | None = None) -> Prompt:
    """The prompt that is known, else one of that text, held out: nothing was trained on it here."""
    if text in known:
        return known[text]
    return Prompt(prompt_id=prompt_id_of(text), text=text, task=shown.task if shown else "", split="held_out")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
