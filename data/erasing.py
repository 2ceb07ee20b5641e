"""An erasure from its beginning to its receipt, finished whatever dies on the way.

What is to be done is written down first (`erasures/unfinished-….json`, for the owner alone: it has to name the person)
and removed last. Store and journal come next, at once and together; then the files, when nobody works with them. Every
step can be done again. So it is finished by whoever is first: the thread that began it, the next stage of the round,
`hitl raters erase`, or the hub when it starts.
"""

import json
import logging
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data.at_work import files_alone
from data.copies import copies
from data.erased_files import (
    Known,
    Person,
    change_file,
    change_snapshot,
    copies_set_aside,
    files_to_change,
    files_with,
    half_written,
    snapshots_with,
)
from data.erasure import Erasure, Fate
from data.receipts import LearnedFrom, Receipt, note_written_anew, write_receipt
from data.store import Store
from data.workspace import Workspace, fsync_dir, write_atomically
from hitl.core.errors import ConfigError, HitlError

logger = logging.getLogger(__name__)

WriteReport = Callable[[Workspace, int], Path]
"""Writes the report of a round again. Reports are made above `data`."""


def any_left(workspace: Workspace) -> bool:
    """Whether an erasure is not finished."""
    return any(workspace.erasures_dir.glob("unfinished-*.json"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Intent:
    """What is to be done, and what was found before anything was changed."""

    person: Person
    snapshots: dict[str, Known] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasures:
    """Those of one workspace whose store is open."""

    store: Store
    workspace: Workspace
    write_report: WriteReport

    def begin(self, rater_id: str, ratings: Fate) -> Receipt:
        """Take a rater out of store and journal. `finish` does the rest; the receipt says what that is about.

        Raises:
            ConfigError: there is no such rater.
        """
        rater = self.store.rater(rater_id)
        erasure = Erasure(rater_id=rater_id)
        intent = _Intent(
            person=Person(
                rater_id=rater_id,
                name=rater.name if rater else "",
                new_id=erasure.new_id,
                new_name=erasure.new_name,
                ratings=ratings,
                erased_at=datetime.now(UTC).isoformat(),
            )
        )
        self._keep(intent)
        try:
            self.store.erase_rater(rater_id, ratings=ratings, new_id=erasure.new_id)
        except BaseException as error:
            # Who is gone is erased, and only the rest was hindered; but for who was not there to be erased.
            if isinstance(error, ConfigError) or self._is_there(rater_id):
                self._path(intent).unlink()
                raise
        receipt = self._receipt(intent)
        write_receipt(self.workspace, receipt)
        return receipt

    def finish(self, *, wait: bool = False) -> list[Receipt]:
        """Do what is left to do of every erasure; those that it finished.

        Others may be at work with the files: a stage of a round, `hitl fit`, an export. With `wait` until they are
        done; else nothing is finished then.
        """
        finished: list[Receipt] = []
        if any_left(self.workspace):
            with files_alone(self.workspace, wait=wait) as is_alone:
                if not is_alone:
                    return []
                finished = [self._finish(path) for path in self._unfinished()]
        if not self.store.holds_erased_bytes:  # asked last: an erasure that is not finished writes its receipt again
            note_written_anew(self.workspace)
        return finished

    def finish_later(self) -> None:
        """In a thread, as soon as nobody works with the files. What dies before that is finished at the next start."""
        if any_left(self.workspace):
            threading.Thread(target=self._finish_in_a_thread, daemon=True, name="erasure").start()

    def _finish_in_a_thread(self) -> None:
        try:
            self.finish(wait=True)
        except HitlError as error:
            logger.warning("An erasure is not finished yet; the hub's next start goes on with it: %s", error)

    def _finish(self, path: Path) -> Receipt:
        intent = _read(path)
        person = intent.person
        if self._is_there(person.rater_id):
            self.store.erase_rater(person.rater_id, ratings=person.ratings, new_id=person.new_id)
        found, unreadable = snapshots_with(self.workspace, person)
        intent = replace(intent, snapshots=intent.snapshots | found)
        self._keep(intent)
        root = self.workspace.root
        changed = {name: (known, change_snapshot(root / name, known, person)) for name, known in self._there(intent)}
        for file in files_to_change(self.workspace, person, intent.snapshots):
            intent = self._noted(intent, files=file)
            change_file(file, person, changed)
        for file in [*copies_set_aside(self.workspace), *half_written(self.workspace, person)]:
            intent = self._noted(intent, removed=file)
            if file.is_dir():
                shutil.rmtree(file)
            else:
                file.unlink()
        reports, failed = self._write_reports(intent)
        receipt = replace(
            self._receipt(intent),
            finished_at=datetime.now(UTC).isoformat(),
            reports=reports,
            still_named=tuple([*unreadable, *failed, *files_with(self.workspace, person)]),
        )
        write_receipt(self.workspace, receipt)
        path.unlink()
        fsync_dir(path.parent)
        return receipt

    def _is_there(self, rater_id: str) -> bool:
        """By the store itself: what it remembers of raters may be older than a commit that failed halfway."""
        return any(rater.rater_id == rater_id for rater in self.store.raters())

    def _there(self, intent: _Intent) -> list[tuple[str, Known]]:
        return [(name, known) for name, known in intent.snapshots.items() if (self.workspace.root / name).exists()]

    def _noted(self, intent: _Intent, **changed: Path) -> _Intent:
        """With a file that is about to be changed: who goes on from here says so in the receipt too."""
        for kind, path in changed.items():
            name, known = str(path.relative_to(self.workspace.root)), getattr(intent, kind)
            if name not in known:
                intent = replace(intent, **{kind: (*known, name)})
                self._keep(intent)
        return intent

    def _write_reports(self, intent: _Intent) -> tuple[tuple[str, ...], list[str]]:
        """Those of every round from the first that the person was in: a report tells of the rounds before it."""
        first = min((number for name in intent.snapshots if (number := _round_of(name))), default=None)
        written, failed = [], []
        for page in sorted(self.workspace.root.glob("rounds/[0-9]*/report.html")) if first else []:
            name = str(page.relative_to(self.workspace.root))
            if (number := _round_of(name)) and first and number >= first:
                try:
                    self.write_report(self.workspace, number)
                    written.append(name)
                except HitlError:
                    failed.append(name)
        return tuple(written), failed

    # -- the receipt ----------------------------------------------------------------------------------------------

    def _receipt(self, intent: _Intent) -> Receipt:
        person = intent.person
        lines, first, deleted = self._in_journal(person.new_id)
        before = [each for each in copies(self.workspace) if each.seq >= first]
        return Receipt(
            pseudonym=person.new_name,
            ratings=person.ratings,
            asked_at=person.erased_at,
            finished_at=None,
            rows=deleted.get("rows") or self.store.rows_of_erased(person.new_id),
            journal_lines=lines,
            snapshots={name: known.rows for name, known in intent.snapshots.items()},
            files=intent.files,
            removed=intent.removed,
            copies=tuple(
                {
                    "kind": each.kind,
                    "path": str(each.path),
                    "made_at": each.made_at.isoformat(),
                    "has_names": each.has_names,
                }
                for each in before
                if each.made_at.isoformat() <= person.erased_at
            ),
            free_blocks="held" if self.store.holds_erased_bytes else "written anew",
            learned_from=tuple(self._learned_from(intent)),
        )

    def _in_journal(self, new_id: str) -> tuple[int, int, Mapping[str, Any]]:
        """How many lines spoke of the person, the number of the first, and what the journal says of a deletion.

        Of who was deleted the journal says it; else the lines are those of who stands in their place.
        """
        word, lines, first = f'"{new_id}"'.encode(), 0, 0
        deleted: Mapping[str, Any] = {}
        with self.workspace.journal_path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if word in line and b'"event":"rater_erased"' in line:
                    deleted = json.loads(line)["data"].get("deleted", {})
                elif word in line:
                    lines += 1
                    first = first or number
        return deleted.get("lines", lines), deleted.get("first_line", first), deleted

    def _learned_from(self, intent: _Intent) -> list[LearnedFrom]:
        found, rounds = [], []
        for name in sorted(intent.snapshots):
            folder = (self.workspace.root / name).parent
            if number := _round_of(name):
                if self.workspace.is_done(number, "fit"):
                    rounds.append(number)
            elif (folder / "reward").is_dir():
                found.append(LearnedFrom(what="a reward model outside any round", path=f"{Path(name).parent}/reward"))
        first = min(rounds, default=None)
        for number in range(first, max([*rounds, *self._trained()]) + 1) if first else []:
            if number in rounds:
                path = f"rounds/{number:04d}/fit/reward"
                found.append(LearnedFrom(what=f"the reward model of round {number}", path=path))
            is_there = number in self._trained()
            path = f"rounds/{number:04d}/train/policy"
            found.append(LearnedFrom(what=f"the policy of round {number}", path=path, is_there=is_there))
        return found

    def _trained(self) -> list[int]:
        numbers = [int(path.name) for path in self.workspace.root.glob("rounds/[0-9]*") if path.name.isdigit()]
        return [number for number in numbers if self.workspace.is_done(number, "train")]

    # -- what is not finished -------------------------------------------------------------------------------------

    def _unfinished(self) -> list[Path]:
        """Oldest first. To be asked by who has the files alone: nobody else ends one then."""
        found = self.workspace.erasures_dir.glob("unfinished-*.json")
        return sorted(found, key=lambda path: _read(path).person.erased_at)

    def _keep(self, intent: _Intent) -> None:
        self.workspace.erasures_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(self._path(intent), json.dumps(asdict(intent)).encode(), mode=0o600)

    def _path(self, intent: _Intent) -> Path:
        return self.workspace.erasures_dir / f"unfinished-{intent.person.new_id[:8]}.json"


def _read(path: Path) -> _Intent:
    told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return _Intent(
        person=Person(**told["person"]),
        snapshots={name: Known(**known) for name, known in told["snapshots"].items()},
        files=tuple(told["files"]),
        removed=tuple(told["removed"]),
    )


def _round_of(name: str) -> int:
    """The number of the round whose folder a file lies in; 0 for none."""
    parts = Path(name).parts
    return int(parts[1]) if parts[0] == "rounds" and parts[1].isdigit() else 0
