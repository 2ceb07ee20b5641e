"""`hitl status`: where the rounds stand."""

import json
from pathlib import Path
from typing import Any

from apps.lost_images import lost_in_words
from data.lock import holder
from data.workspace import STAGES, Workspace
from hitl.commands.reading import ask_hub, open_for_reading
from hitl.core.words import counted
from hitl.report.page import plain
from hitl.rounds import guard_says, is_finished


def run(workspace: Path | None, as_json: bool) -> None:
    status = collect(Workspace.find(workspace))
    print(json.dumps(plain(status), indent=2) if as_json else describe(status))


def collect(folder: Workspace) -> dict[str, Any]:
    """Counts, rounds and their results, and what the hub is doing when one runs."""
    held_by = holder(folder.lock_path)
    with open_for_reading(folder) as store:
        rounds = [_round(folder, number) for number in sorted(round.number for round in store.rounds())]
        status: dict[str, Any] = {
            "workspace": str(folder.root),
            "prompts": len(store.prompts()),
            "images": len(store.images()),
            "ratings": len(store.ratings()),
            "comparisons": len(store.comparisons()),
            "answers": store.answers(),
            "raters": len(store.raters()),
            "rounds": rounds,
            "lost": lost_in_words(store),
            "hub": None,
        }
    if held_by is not None:
        status["hub"] = {"pid": held_by.pid, **ask_hub(folder, "GET", "/api/status")}
    return status


def describe(status: dict[str, Any]) -> str:
    """The same for people."""
    lines = [
        f"{status['workspace']}: {counted(status['prompts'], 'prompt')}, {counted(status['images'], 'image')}, "
        f"{counted(status['ratings'], 'rating')} by {counted(status['raters'], 'rater')}"
    ]
    for entry in status["rounds"]:
        if entry["finished"]:
            lines.append(f"round {entry['number']}: done, {_results(entry)}")
        else:
            lines.append(f"round {entry['number']}: next is {entry['next_stage']}")
        if entry["guard"]:
            lines.append(f"  {entry['guard']}")
    if status["lost"]:
        lines.append(status["lost"])
    if hub := status["hub"]:
        count = f" {hub['done']}/{hub['total']}" if hub["total"] else ""
        lines.append(f"running now (process {hub['pid']}): round {hub['round']}, {hub['message']}{count}")
    elif not status["rounds"]:
        lines.append(f"Next: hitl round -w {status['workspace']}")
    return "\n".join(lines)


def _round(folder: Workspace, number: int) -> dict[str, Any]:
    done = [stage for stage in STAGES if folder.is_done(number, stage)]
    entry: dict[str, Any] = {
        "number": number,
        "finished": is_finished(folder, number),
        "done_stages": done,
        "next_stage": next((stage for stage in STAGES if stage not in done), "report"),
        "results": None,
        "guard": guard_says(folder, number),
    }
    manifest = folder.manifest(number, "evaluate")
    if manifest is not None:
        entry["results"] = {split: gains["all"] for split, gains in manifest["summary"]["gains"].items()}
    return entry


def _results(entry: dict[str, Any]) -> str:
    parts = []
    for split, gains in (entry["results"] or {}).items():
        for measure in ("reward", "exact", "taste"):
            if measure in gains:
                gain = gains[measure]
                parts.append(
                    f"{split.replace('_', '-')} {measure} {gain['mean']:+.2f} [{gain['low']:+.2f}, {gain['high']:+.2f}]"
                )
    return "; ".join(parts)
