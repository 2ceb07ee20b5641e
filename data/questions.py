"""What is asked: prompts, the images drawn for them, the rounds, and the tasks that show images to raters."""

import logging
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime

from data import rows, validation
from data.database import Database
from data.fact_log import FactLog
from data.journal import Journal
from data.lock import StoreLock
from data.open_round import OpenRound
from data.records import Image, Prompt, Round, Task, WithdrawnImage
from hitl.core.errors import StoreError

logger = logging.getLogger(__name__)


class Questions(FactLog):
    """The store's part that knows what is asked."""

    def __init__(self, database: Database, *, journal: Journal | None = None, lock: StoreLock | None = None) -> None:
        super().__init__(database, journal=journal, lock=lock)
        self._tasks: dict[str, Task] = {}
        """Facts that never change once they are there, so that a rating asks the database as little as possible."""
        self._open_round = OpenRound(self._rows, self._tasks)

    def _forget(self) -> None:
        super()._forget()
        self._open_round.forget()

    def add_prompts(self, prompts: Iterable[Prompt]) -> int:
        """Add the prompts that are not there yet; return how many. A known text keeps its first task and split."""
        given = {prompt.prompt_id: prompt for prompt in prompts}
        with self._writing():
            query = f"SELECT {rows.PROMPT} FROM prompts WHERE prompt_id IN (SELECT unnest($1::VARCHAR[]))"
            known = {row[0]: rows.prompt(row) for row in self._rows(query, [list(given)])}
            for prompt_id in given.keys() & known.keys():
                if given[prompt_id] != known[prompt_id]:
                    logger.warning("The prompt %r stays what it was: %s.", given[prompt_id].text, known[prompt_id])
            new = [asdict(prompt) for prompt_id, prompt in given.items() if prompt_id not in known]
            if new:
                self._record("prompts_added", {"prompts": new})
        return len(new)

    def prompts(self, split: str | None = None, task: str | None = None) -> list[Prompt]:
        """Prompts in order of arrival."""
        found = self._rows(
            f"""
            SELECT {rows.PROMPT} FROM prompts
            WHERE ($1 IS NULL OR split = $1) AND ($2 IS NULL OR task = $2) ORDER BY position
            """,
            [split, task],
        )
        return [rows.prompt(row) for row in found]

    def add_images(self, images: Iterable[Image]) -> int:
        """Add the images that are not there yet for their round and prompt; return how many.

        Raises:
            StoreError: a prompt is unknown.
        """
        given = {(image.image_id, image.round, image.prompt_id): image for image in images}
        with self._writing():
            self._check_known("prompt", "prompts", "prompt_id", {image.prompt_id for image in given.values()})
            known = self.image_keys(image.image_id for image in given.values())
            new = [asdict(image) for key, image in given.items() if key not in known]
            if new:
                self._record("images_added", {"images": new})
        return len(new)

    def image_keys(self, image_ids: Iterable[str]) -> set[tuple[str, int, str]]:
        """Of these ids: where each is known, as image id, round and prompt id."""
        query = "SELECT image_id, round, prompt_id FROM images WHERE image_id IN (SELECT unnest($1::VARCHAR[]))"
        return set(self._rows(query, [list(image_ids)]))

    def image_ids(self, prefix: str) -> list[str]:
        """Ids of images that begin so, in order, each once."""
        query = "SELECT DISTINCT image_id FROM images WHERE starts_with(image_id, ?) ORDER BY image_id"
        return [row[0] for row in self._rows(query, [prefix])]

    def image(self, image_id: str) -> Image | None:
        """The image of that id as it was first drawn; None when there is none."""
        found = self._rows(f"SELECT {rows.IMAGE} FROM images WHERE image_id = ? ORDER BY position LIMIT 1", [image_id])
        return rows.image(found[0]) if found else None

    def images(self, round: int | None = None) -> list[Image]:
        """Images in order of arrival."""
        query = f"SELECT {rows.IMAGE} FROM images WHERE $1 IS NULL OR round = $1 ORDER BY position"
        return [rows.image(row) for row in self._rows(query, [round])]

    def withdraw_image(self, image_id: str, reason: str) -> bool:
        """Ask about this image no more: its file cannot be shown. Answers to it stay, but are not learned from.

        Returns:
            False when it changes nothing: it is withdrawn already, or no image of the store.
        """
        with self._writing():
            is_known = any(withdrawn.image_id == image_id for withdrawn in self.withdrawn_images())
            if is_known or self.image(image_id) is None:
                return False
            now = datetime.now(UTC).isoformat()
            self._record("image_withdrawn", {"image_id": image_id, "reason": reason, "withdrawn_at": now})
            self._open_round.forget()
        return True

    def restore_image(self, image_id: str) -> None:
        """Ask about a withdrawn image again."""
        with self._writing():
            if any(withdrawn.image_id == image_id for withdrawn in self.withdrawn_images()):
                self._record("image_restored", {"image_id": image_id})
                self._open_round.forget()

    def withdrawn_images(self) -> list[WithdrawnImage]:
        """Images that cannot be shown, by the time they were withdrawn."""
        query = f"SELECT {rows.WITHDRAWN_IMAGE} FROM withdrawn_images ORDER BY withdrawn_at, image_id"
        return [rows.withdrawn_image(row) for row in self._rows(query)]

    def usable_images(self, round: int | None = None) -> list[Image]:
        """Images in order of arrival, without those that were withdrawn."""
        withdrawn = {image.image_id for image in self.withdrawn_images()}
        return [image for image in self.images(round) if image.image_id not in withdrawn]

    def start_round(self, number: int, config_sha: str) -> None:
        """Begin a round, or note that one that is there goes on (with this configuration)."""
        with self._writing():
            if any(found.number == number and found.config_sha == config_sha for found in self.rounds()):
                return
            now = datetime.now(UTC).isoformat()
            self._record("round_started", {"number": number, "config_sha": config_sha, "started_at": now})
            self._open_round.forget_round()

    def set_round_state(self, number: int, state: str) -> None:
        """Say where a round is; `records.FINISHED` also notes when.

        Raises:
            StoreError: the round was never started.
        """
        with self._writing():
            found = next((found for found in self.rounds() if found.number == number), None)
            if found is None:
                raise StoreError(f"Round {number} was never started.", hint="Call start_round first.")
            if found.state != state:
                now = datetime.now(UTC).isoformat()
                self._record("round_state_set", {"number": number, "state": state, "changed_at": now})

    def newest_round(self) -> int | None:
        """As `OpenRound.newest_round`."""
        return self._open_round.newest_round()

    def rounds(self) -> list[Round]:
        """Rounds by number."""
        return [rows.round_(row) for row in self._rows(f"SELECT {rows.ROUND} FROM rounds ORDER BY number")]

    def add_tasks(self, tasks: Iterable[Task]) -> int:
        """Add the tasks that are not there yet; return how many.

        Raises:
            ConfigError: a task that nobody could rate: a wrong number of images, the same image twice, no overlap.
            StoreError: a prompt, an image or the task that a repeat repeats is unknown.
        """
        given = {task.task_id: task for task in tasks}
        for task in given.values():
            validation.check_task(task)
        with self._writing():
            self._check_known("prompt", "prompts", "prompt_id", {task.prompt_id for task in given.values()})
            shown = {image_id for task in given.values() for image_id in task.image_ids}
            self._check_known("image", "images", "image_id", shown)
            named = [*given, *(task.repeats for task in given.values() if task.repeats)]
            query = "SELECT task_id FROM tasks WHERE task_id IN (SELECT unnest($1::VARCHAR[]))"
            known = {row[0] for row in self._rows(query, [named])}
            if missing := sorted({task.repeats for task in given.values() if task.repeats} - known - given.keys()):
                raise StoreError(f"There is no task {missing[0]!r} to repeat.", hint="Add that task first.")
            new = [asdict(task) for task_id, task in given.items() if task_id not in known]
            if new:
                self._record("tasks_added", {"tasks": new})
                self._open_round.forget()
        return len(new)

    def tasks(self, round: int | None = None) -> list[Task]:
        """Tasks in order of arrival."""
        query = f"SELECT {rows.TASK} FROM tasks WHERE $1 IS NULL OR round = $1 ORDER BY position"
        return [rows.task(row) for row in self._rows(query, [round])]

    def study_tasks(self, study: str | None = None) -> list[Task]:
        """Tasks that ask for a study, or for any, in order of arrival."""
        query = f"""
            SELECT {rows.TASK} FROM tasks
            WHERE study IS NOT NULL AND ($1 IS NULL OR study = $1) ORDER BY position
        """
        return [rows.task(row) for row in self._rows(query, [study])]

    def task(self, task_id: str) -> Task | None:
        known = self._tasks.get(task_id)
        if known is None:
            for row in self._rows(f"SELECT {rows.TASK} FROM tasks WHERE task_id = ?", [task_id]):
                known = self._tasks[task_id] = rows.task(row)
        return known  # not looked up again: another thread that keeps many ratings may have let it go

    def tasks_showing(self, image_id: str) -> list[Task]:
        """Tasks that ask about this image, in order of arrival."""
        query = f"SELECT {rows.TASK} FROM tasks WHERE list_contains(tasks.image_ids, ?) ORDER BY position"
        return [rows.task(row) for row in self._rows(query, [image_id])]

    def ids_beginning(self, letters: str, *, limit: int) -> list[tuple[str, str]]:
        """Kind and id of images, ratings and tasks whose id begins so; an id that is just that alone."""
        query = """
            WITH ids AS (
                SELECT 'image' AS kind, image_id AS id FROM images WHERE starts_with(image_id, $1)
                UNION SELECT 'rating', rating_id FROM ratings WHERE starts_with(rating_id, $1)
                UNION SELECT 'task', task_id FROM tasks WHERE starts_with(task_id, $1)
            )
            SELECT kind, id FROM ids WHERE id = $1 OR NOT EXISTS (FROM ids WHERE id = $1) ORDER BY kind, id LIMIT $2
        """
        return [(kind, found) for kind, found in self._rows(query, [letters, limit])]
