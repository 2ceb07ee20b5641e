"""The receipt of an erasure: what was erased where, what was kept and under which pseudonym, what was not reached.

One JSON file for each under `erasures/`. It does not name the person, so that it may be kept and shown.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from data.erased_files import copies_set_aside
from data.erasure import Fate
from data.workspace import Workspace, write_atomically


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedFrom:
    """A model that learned from the person's answers: it cannot forget them."""

    what: str
    path: str
    is_there: bool = True
    """False for a policy that the round is still to train, against a reward model that learned from them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What became of one person. Paths are those within the workspace, but for copies."""

    pseudonym: str
    ratings: Fate
    asked_at: str
    finished_at: str | None
    """None while files wait to be changed: until a stage, or `hitl fit`, that works with them is over."""
    rows: Mapping[str, int] = field(default_factory=dict)
    """By table of the store: rows that were theirs. With `keep` they have the pseudonym's id, else they are gone."""
    journal_lines: int = 0
    """The same of the journal."""
    snapshots: Mapping[str, int] = field(default_factory=dict)
    """The same of each snapshot."""
    files: tuple[str, ...] = ()
    """Others that were written again without them."""
    reports: tuple[str, ...] = ()
    """Made again from the changed files."""
    removed: tuple[str, ...] = ()
    """Old copies of the store that a repair had set aside, and what was half written when its writer was killed."""
    copies: tuple[Mapping[str, Any], ...] = ()
    """Backups and exports made before, with what they know of them: they are not reached."""
    free_blocks: Literal["held", "written anew"] = "held"
    """Whether the store's file holds old bytes in free parts, or was written anew since."""
    learned_from: tuple[LearnedFrom, ...] = ()
    still_named: tuple[str, ...] = ()
    """Files that could not be changed, or name them still."""

    @property
    def file_name(self) -> str:
        """The same for a receipt that is written again when the erasure is finished."""
        asked = datetime.fromisoformat(self.asked_at)
        return f"{asked:%Y%m%dT%H%M%SZ}-{self.pseudonym.replace(' ', '-')}.json"


def write_receipt(workspace: Workspace, receipt: Receipt) -> Path:
    path = workspace.erasures_dir / receipt.file_name
    write_atomically(path, (json.dumps(asdict(receipt), indent=2, ensure_ascii=False) + "\n").encode(), mode=0o600)
    return path


def read_receipts(workspace: Workspace) -> list[Receipt]:
    """All, oldest first."""
    found = []
    for path in workspace.erasures_dir.glob("*-erased-*.json"):
        told = json.loads(path.read_text(encoding="utf-8"))
        learned = tuple(LearnedFrom(**each) for each in told.pop("learned_from"))
        lists = {key: tuple(value) for key, value in told.items() if isinstance(value, list)}
        found.append(Receipt(**told | lists, learned_from=learned))
    return sorted(found, key=lambda receipt: datetime.fromisoformat(receipt.asked_at))


def note_written_anew(workspace: Workspace) -> None:
    """Say in the receipts that the store's file was written anew: nothing of what was erased is in it any more.

    A rebuild writes it anew too, and sets the old file aside with its free parts.
    """
    held = [receipt for receipt in read_receipts(workspace) if receipt.free_blocks == "held"]
    aside = copies_set_aside(workspace) if held else []
    for path in aside:
        path.unlink(missing_ok=True)
    for receipt in held:
        removed = (*receipt.removed, *(path.name for path in aside))
        write_receipt(workspace, replace(receipt, free_blocks="written anew", removed=removed))


def in_words(receipt: Receipt, path: Path) -> str:
    """For people."""
    is_kept = receipt.ratings == "keep"
    fate = "stay under that name" if is_kept else "are deleted; the receipt goes by the name"
    state = "Erased" if receipt.finished_at else "Erased from store and journal; files follow"
    lines = [f"{state}. The ratings {fate}: {receipt.pseudonym}"]
    rows = ", ".join(f"{table} {count}" for table, count in receipt.rows.items())
    lines += _line("store", rows if is_kept else f"deleted {rows}")
    changed = f"{'' if is_kept else 'deleted '}{receipt.journal_lines} lines"
    lines += _line("journal", f"{changed}, and the chain is written again")
    verb = "renamed in" if is_kept else "deleted from"
    lines += [
        line
        for name, count in receipt.snapshots.items()
        for line in _line("snapshot", f"{count} answers {verb} {name}")
    ]
    lines += _line("files", _some(receipt.files))
    lines += _line("reports", _some(receipt.reports))
    lines += _line("removed", ", ".join(receipt.removed))
    if not receipt.finished_at:
        lines.append("Snapshots and what was made of them are in use; they are changed as soon as that work is over.")
    lines += _not_reached(receipt)
    return "\n".join([*lines, f"The receipt: {path}"])


def _not_reached(receipt: Receipt) -> list[str]:
    lines = []
    for copy in receipt.copies:
        names = "with names" if copy["has_names"] else "without names"
        lines += _line(copy["kind"], f"{copy['path']} of {copy['made_at'][:16]}, {names}")
    if receipt.free_blocks == "held":
        lines += _line("store", "free parts of store.duckdb hold the name until the hub is started again")
    lines += [line for name in receipt.still_named for line in _line("file", f"{name}: change or delete it by hand")]
    if lines:
        lines.insert(0, "Not reached, and to be deleted by hand:" if receipt.copies else "Not reached:")
    if receipt.learned_from:
        lines.append("Learned from their answers, which they cannot forget:")
        for each in receipt.learned_from:
            lines += _line("model", each.path + ("" if each.is_there else " (still to be trained)"))
        lines.append("To fit a reward model anew: hitl fit. docs/provenance.md says how to train a policy anew.")
    return lines


def _line(name: str, text: str) -> list[str]:
    return [f"  {name:9} {text}"] if text else []


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
