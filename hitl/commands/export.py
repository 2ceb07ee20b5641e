"""`hitl export`: all comparisons as one table, or a round's policy as a LoRA for other programs."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load, save

from data.store import Store
from data.workspace import Workspace, write_atomically
from hitl.commands.reading import open_for_reading
from hitl.core.errors import ConfigError, NotEnoughRatings, UnknownName, WorkspaceError
from rl.kohya import to_kohya

FORMATS = ("parquet", "jsonl", "kohya")


def run(out: Path, format: str, number: int, workspace: Path | None) -> None:
    ending = out.suffix.lstrip(".")
    chosen = format or ("kohya" if ending == "safetensors" else ending)
    if chosen not in FORMATS:
        raise ConfigError(
            f"The format {chosen!r} is not known.", hint=f"Use --format with one of: {', '.join(FORMATS)}."
        )
    if out.is_dir():
        raise ConfigError(f"{out} is a folder.", hint="Name the file to write in it.")
    folder = Workspace.find(workspace)
    if chosen == "kohya":
        export_policy(folder, number, out)
        return
    with open_for_reading(folder) as store:
        rows = comparison_rows(folder, store, number or None)
    if not rows:
        raise NotEnoughRatings("There are no comparisons to export.", hint=f"Rate first: hitl round -w {folder.root}")
    write_atomically(out, to_parquet(rows) if chosen == "parquet" else to_jsonl(rows))
    print(f"{len(rows)} comparisons in {out}")


def export_policy(folder: Workspace, number: int, out: Path) -> None:
    """A policy is a file of a finished stage: no store is opened, and no hub is asked.

    Raises:
        WorkspaceError: no round is trained, or its file is missing or damaged.
        UnknownName: that round is not trained.
        ConfigError: the file's name or the kind of model is not for this format.
    """
    if out.suffix != ".safetensors":
        raise ConfigError(
            f"{out} does not end in .safetensors, by which other programs know what it is.",
            hint=f"Write {out.with_suffix('.safetensors')} instead.",
        )
    trained = [int(path.name) for path in (folder.root / "rounds").glob("[0-9]*") if path.name.isdigit()]
    trained = sorted(found for found in trained if folder.is_done(found, "train"))
    if not trained:
        raise WorkspaceError(f"No round in {folder.root} is trained yet.", hint=f"Run one: hitl round -w {folder.root}")
    number = number or trained[-1]
    if number not in trained:
        raise UnknownName(
            f"Round {number} is not trained.", hint=f"Trained are the rounds {', '.join(map(str, trained))}."
        )
    policy = folder.stage_dir(number, "train") / "policy"
    if whole := next(policy.glob("*/config.json"), None):
        raise ConfigError(
            f"The policy of round {number} is a whole {whole.parent.name} (train.weights = full), and kohya's is a "
            "layout for LoRAs.",
            hint=f"diffusers loads {whole.parent}, as {policy / 'README.md'} shows; only train.weights = lora, from a "
            "workspace's first round on, makes a LoRA.",
        )
    file = policy / "pytorch_lora_weights.safetensors"
    try:
        weights = load(file.read_bytes())
    except (OSError, SafetensorError) as error:
        raise WorkspaceError(
            f"The policy of round {number} cannot be read: {error}.",
            hint=f"Put {file} back from a backup, or export another round with --round.",
        ) from error
    if any(name.startswith("transformer.") for name in weights):
        raise ConfigError(
            f"The policy of round {number} is of a transformer, such as Stable Diffusion 3's, for which there is no "
            "kohya layout that all programs read.",
            hint=f"ComfyUI and diffusers load {file} as it is.",
        )
    write_atomically(out, save(to_kohya(weights)))
    print(f"The policy of round {number} in {out}")


def comparison_rows(folder: Workspace, store: Store, number: int | None) -> list[dict[str, Any]]:
    """One dict per comparison; raters are numbered, not named."""
    tags = {prompt.prompt_id: (prompt.task, prompt.split) for prompt in store.prompts()}
    raters = {rater.rater_id: f"rater-{i:03d}" for i, rater in enumerate(store.raters(), 1)}
    return [
        {
            "round": found.round,
            "task_id": found.task_id,
            "prompt": found.prompt,
            "task": tags[found.prompt_id][0],
            "split": tags[found.prompt_id][1],
            "rater": raters[found.rater_id],
            "image_a": str(folder.image_path(found.image_a).relative_to(folder.root)),
            "image_b": str(folder.image_path(found.image_b).relative_to(folder.root)),
            "outcome": found.outcome,
            "both_bad": found.both_bad,
            "left": found.left,
        }
        for found in store.comparisons(number)
    ]


def to_parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def to_jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
