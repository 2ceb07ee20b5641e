"""`hitl fit`: a reward model on all ratings so far, or on a file of answers, outside any round."""

import hashlib
import json
import shutil
import textwrap
from pathlib import Path
from typing import Any

from data.at_work import Files
from data.blind import is_for_judging
from data.records import Image
from data.store import Store
from data.workspace import Workspace, write_atomically
from hitl.commands.apart import new_folder, run_apart
from hitl.commands.reading import open_for_reading
from hitl.config import RunConfig, load_config
from hitl.core.errors import NotEnoughRatings, WorkspaceError
from hitl.report.files import interval
from hitl.report.reward_page import reward_answers, reward_warning
from reward_models.answers import answers_from_rows, read_snapshot

_WIDTH = 100


def run(snapshot: Path | None, out: Path | None, workspace: Path | None, settings: list[str], as_json: bool) -> None:
    folder = Workspace.find(workspace)
    config = load_config(folder.config_path, settings)
    with Files(folder).in_use():
        place, report = _fit_all(folder, config, snapshot, out)
    if as_json:
        print(json.dumps({"path": str(place / "reward"), "report": report}))
    else:
        print(told(report))
        print(f"\nThe reward model: {place / 'reward'}")


def _fit_all(
    folder: Workspace, config: RunConfig, snapshot: Path | None, out: Path | None
) -> tuple[Path, dict[str, Any]]:
    """Where the reward model is, and what its fit says of itself."""
    with open_for_reading(folder) as store:
        newest = max((found.number for found in store.rounds()), default=0)
        drawn = _things(store, store.images(newest))
        probe = _things(store, store.images(1))
        answers = _given(snapshot) if snapshot else _rated(store, folder, newest)
    sha = hashlib.sha256(answers).hexdigest()
    place = new_folder(out) if out else folder.root / "fits" / sha[:12]
    write_atomically(place / "snapshot.parquet", answers)
    inputs = {"drawn": drawn, "probe": probe, "snapshot": sha}
    try:
        found = run_apart("fit", folder, config, place, round=newest, inputs=inputs, doing="Reading images")
    finally:
        if not (place / "reward").exists():
            shutil.rmtree(place, ignore_errors=True)
    return place, found["report"]


def told(report: dict[str, Any]) -> str:
    """What a fit says of itself, in sentences."""
    accuracy = interval(report["accuracy"])
    assert accuracy is not None
    paragraphs = []
    for answer in reward_answers(report, accuracy):
        lines = textwrap.wrap(" ".join(answer.sentences), _WIDTH, initial_indent="  ", subsequent_indent="  ")
        paragraphs.append("\n".join([answer.question, *lines]))
    if warning := reward_warning(report, accuracy):
        paragraphs.append("\n".join(textwrap.wrap(f"Warning: {warning}", _WIDTH)))
    return "\n\n".join(paragraphs)


def _rated(store: Store, folder: Workspace, newest: int) -> bytes:
    if not store.answers():
        raise NotEnoughRatings("There are no ratings to fit on.", hint=f"Rate first: hitl round -w {folder.root}")
    path = folder.root / "fits" / "snapshot.parquet"
    store.write_snapshot(path, newest)
    content = path.read_bytes()
    path.unlink()
    return content


def _given(snapshot: Path) -> bytes:
    try:
        content = snapshot.read_bytes()
    except OSError as error:
        raise WorkspaceError(
            f"{snapshot} cannot be read: {error.strerror}.",
            hint="Name a snapshot.parquet of a round, or a file of its columns.",
        ) from error
    answers_from_rows(read_snapshot(snapshot))  # what is wrong with it is said of the file that was named
    return content


def _things(store: Store, images: list[Image]) -> list[dict[str, str]]:
    texts = {prompt.prompt_id: prompt.text for prompt in store.prompts()}
    return [
        {"image_id": image.image_id, "prompt": texts[image.prompt_id]} for image in images if not is_for_judging(image)
    ]
