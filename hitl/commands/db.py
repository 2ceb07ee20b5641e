"""`hitl db`: whether journal, store, images and snapshots agree; and the store made again from the journal."""

import json
from dataclasses import asdict
from pathlib import Path

from data.integrity import Findings, check
from data.store import Store
from data.workspace import Workspace
from hitl.commands.reading import open_for_reading
from hitl.core.errors import StoreError
from hitl.core.words import counted


def run(action: str, workspace: Path | None, *, as_json: bool, quick: bool = False) -> None:
    folder = Workspace.find(workspace)
    if action == "rebuild":
        rebuild(folder, as_json)
        return
    with open_for_reading(folder) as store:
        found = check(folder, store, quick=quick)
    print(json.dumps({"workspace": str(folder.root), **asdict(found)}, indent=2) if as_json else describe(found, quick))
    if found.differences:
        raise StoreError(
            f"{len(found.differences)} difference(s) found in {folder.root}.",
            hint="They are listed above, each with what to do.",
        )


def describe(found: Findings, quick: bool) -> str:
    """What was compared, what is worth knowing, and what differs, a line for each."""
    kinds = {each.kind for each in found.differences}
    lines = []
    if "journal" not in kinds:
        same = "differ from" if "store" in kinds else "are"
        lines.append(f"journal     {found.events} events, whose facts {same} those of the store")
    files = "files that are there" if quick else "files that hold what their names say"
    lines.append(f"images      {found.images}" + ("" if "image" in kinds else f", all with {files}"))
    lines.append(f"snapshots   {found.snapshots}" + ("" if "snapshot" in kinds else ", all as their rounds left them"))
    lines += [f"note        {note}" for note in found.notes]
    lines += [f"differs     {each.what} {each.hint}" for each in found.differences]
    return "\n".join(lines)


def rebuild(folder: Workspace, as_json: bool) -> None:
    """Make the store again from the journal, and say what it holds and where the old one is."""
    had_one = folder.store_path.exists()
    with Store.rebuild(folder) as store:
        events, counts = store.position, store.counts()
    kept = str(folder.store_path.with_name(f"{folder.store_path.name}.before-rebuild")) if had_one else None
    if as_json:
        print(json.dumps({"workspace": str(folder.root), "events": events, "tables": counts, "kept": kept}, indent=2))
        return
    print(f"{folder.store_path} was made again from the journal's {events} events: {in_words(counts)}.")
    if kept:
        print(f"The old one is kept as {kept}.")


def in_words(counts: dict[str, int]) -> str:
    """How many of what a workspace is about."""
    return ", ".join(counted(counts[f"{thing}s"], thing) for thing in ("prompt", "image", "task", "rating", "rater"))
