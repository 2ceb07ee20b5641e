"""Takes what the readers yield into the store, some rows at a time. Interrupted and run again it gives the same.

Ids follow from content, so that importing twice changes nothing: a task's from its source, prompt, images and kind; a
rater's from the source and its name or number there; a rating's from both. Where a source says the same again of one
rater (or of raters that it does not tell apart), each time is a task of its own, by its number.

Raters of a source are people of this store whom nobody can be: their accounts are shut, so that no one comes in under
such a name, and a name that somebody here has already gets "(imported)" behind it.
"""

import hashlib
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from data import validation
from data.assignment import displayed_order
from data.imports.keeping import Keeper, Kept
from data.imports.records import Item, Judged, NotTaken, PromptAlone, Refused, Shown, Whole
from data.journal import canonical_json
from data.prompt_list import SPLITS, split_of_text
from data.records import IMPORTED, Image, Prompt, Rater, Rating, Task
from data.store import Store
from data.workspace import Workspace
from hitl.core.errors import HitlError

_BATCH = 1000
_SPACE = uuid.UUID("5c7a4a7e-1d7e-4b54-9d0b-6a1c7c0f9e21")
_LONGEST_NAME = 80
_UNKNOWN = "unknown"
_SWAPPED = {"left": "right", "right": "left"}


@dataclass(slots=True)
class Taken:
    """What became of the rows."""

    rows: int = 0
    ratings: int = 0
    known: int = 0
    """Ratings that were here already."""
    prompts: int = 0
    images: int = 0
    raters: int = 0
    converted: int = 0
    """Images that were written anew, for they were no 8-bit RGB PNG."""
    refused: int = 0
    kept_prompts: int = 0
    """Prompts that are here under another task or split, which they keep."""


@dataclass(slots=True)
class _Batch:
    """Facts of some rows, in the order in which they came."""

    prompts: dict[str, Prompt] = field(default_factory=dict)
    images: dict[tuple[str, str], Image] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    raters: dict[str, Rater] = field(default_factory=dict)
    ratings: list[tuple[str, Rating]] = field(default_factory=list)
    """With the row that each is of."""
    shown: set[tuple[str, str]] = field(default_factory=set)
    """Of the images: those that are to be taken whether they are rated or not."""
    prompts_alone: set[str] = field(default_factory=set)
    """Of the prompts: those that are to be taken whether there is an image or not."""


def take(
    store: Store,
    workspace: Workspace,
    items: Iterable[Item],
    *,
    source: str,
    is_trial: bool = False,
    on_refused: Callable[[Refused], None] = lambda refused: None,
    on_progress: Callable[[int], None] = lambda rows: None,
) -> Taken:
    """Take all items into the store; `source` names them, and tells its raters from those of others.

    Nothing is written for a trial. `on_refused` hears of every row that cannot be taken, `on_progress` of how many rows
    were read.

    Raises:
        StoreError: the store cannot be written.
        WorkspaceError: the disk is full.
    """
    taker = _Taker(store, workspace, source, is_trial=is_trial, on_refused=on_refused)
    for some in _batches(items, _BATCH):
        taker.take(some)
        on_progress(taker.taken.rows)
    return taker.taken


def _batches(items: Iterable[Item], size: int) -> Iterator[Iterator[Item]]:
    """Lazily, so that the bytes of one row's pictures are let go before the next row is read."""
    rest = iter(items)
    while True:
        first = next(rest, None)
        if first is None:
            return
        yield (each for part in ([first], islice(rest, size - 1)) for each in part)


class _Taker:
    """One import at work."""

    def __init__(
        self, store: Store, workspace: Workspace, source: str, *, is_trial: bool, on_refused: Callable[[Refused], None]
    ) -> None:
        self.taken = Taken()
        self._store = store
        self._keeper = Keeper(workspace, is_trial=is_trial)
        self._source = source
        self._is_trial = is_trial
        self._on_refused = on_refused
        self._prompts = {prompt.prompt_id: prompt for prompt in store.prompts()}
        self._shown: set[str] = set()
        """Images that were taken, or are to be with these rows, by themselves."""
        self._said: Counter[bytes] = Counter()
        """How often a rater said something of a set of images, by a hash of both."""
        self._differing: set[str] = set()
        """Prompts that are here under another task or split."""
        self._tasks: set[str] = set()
        """Of a trial: the tasks that would be in the store by now."""
        self._new_raters: set[str] = set()
        self._new_images: set[bytes] = set()
        self._new_ratings: set[bytes] = set()

    def take(self, items: Iterable[Item]) -> None:
        """Take some rows by a few commits: what the ratings need first, then the ratings."""
        batch = _Batch()
        for item in items:
            self.taken.rows += 1
            if isinstance(item, Refused):
                self._refuse(item.row, item.reason)
                continue
            try:
                match item:
                    case Judged():
                        self._add_judged(batch, item)
                    case Whole():
                        self._add_whole(batch, item)
                    case Shown():
                        self._add_shown(batch, item)
                    case PromptAlone():
                        canonical_json(item.prompt.task)
                        batch.prompts.setdefault(item.prompt.prompt_id, item.prompt)
                        batch.prompts_alone.add(item.prompt.prompt_id)
            except (NotTaken, HitlError) as error:
                self._refuse(item.row, str(error))
            except UnicodeEncodeError as error:
                self._refuse(item.row, f"has text that is not valid Unicode: {error.object!a:.60}")
        self.taken.converted = self._keeper.converted
        self._without_known(batch)
        self._write(batch)

    def _refuse(self, row: str, reason: str) -> None:
        self.taken.refused += 1
        self._on_refused(Refused(row=row, reason=reason.rstrip(".")))

    # -- rows to facts --------------------------------------------------------------------------------------------

    def _add_judged(self, batch: _Batch, item: Judged) -> None:
        kept = [self._keeper.keep(picture) for picture in item.pictures]
        image_ids = tuple(each.image_id for each in kept)
        if len(set(image_ids)) < len(image_ids):
            raise NotTaken("shows the same image twice")
        if item.task_id and (here := self._store.task(item.task_id)) and {*image_ids} <= {*here.image_ids}:
            self.taken.known += 1
            return
        prompt = self._prompt(item.prompt, item.task, item.split)
        rater = self._rater(item.rater)
        in_order = tuple(sorted(image_ids))
        about = "\n".join([self._source, item.kind, prompt.prompt_id, *in_order])
        again = hashlib.sha256(f"{about}\n{rater.rater_id}".encode()).digest()[:16]
        self._said[again] += 1
        task = Task(
            task_id=str(uuid.uuid5(_SPACE, f"task\n{about}\n{self._said[again]}")),
            round=0,
            kind=item.kind,
            prompt_id=prompt.prompt_id,
            image_ids=in_order,
            policy=IMPORTED,
        )
        displayed = image_ids if item.is_order_known else displayed_order(task, rater.rater_id)
        rating = Rating(
            rating_id=str(uuid.uuid5(_SPACE, f"rating\n{task.task_id}\n{rater.rater_id}")),
            task_id=task.task_id,
            rater_id=rater.rater_id,
            kind=item.kind,
            payload=_as_displayed(item.payload, image_ids, displayed),
            image_ids=displayed,
            dwell_ms=item.dwell_ms,
            client_time=item.at.isoformat() if item.at else "",
            server_time=item.at or datetime.now(UTC),
            app_version=f"imported: {self._source}",
        )
        validation.check_task(task)
        validation.check_rating(rating, task)
        for picture, one in zip(item.pictures, kept, strict=True):
            self._add_image(batch, one, prompt, item.row, {"model": picture.model} if picture.model else {})
        self._add_facts(batch, prompt, task, rater, item.row, rating)

    def _add_whole(self, batch: _Batch, item: Whole) -> None:
        rater = self._rater_of_export(item.rater)
        rating = replace(item.rating, rater_id=rater.rater_id)
        validation.check_task(item.task)
        validation.check_rating(rating, item.task)
        kept = {image_id: self._keeper.keep(picture) for image_id, picture in item.pictures.items()}
        if wrong := next((image_id for image_id, one in kept.items() if one.image_id != image_id), None):
            raise NotTaken(f"shows the image {wrong}, whose file holds another one")
        lost = [each for each in kept if each not in self._shown and self._store.image(each) is None]
        if lost:
            raise NotTaken(f"shows the image {lost[0]}, which is not among the images")
        if item.task.purpose in ("learn", "judge"):  # of gold one image is another prompt's
            for one in kept.values():
                self._add_image(batch, one, item.prompt, item.row, {})
        self._add_facts(batch, item.prompt, item.task, rater, item.row, rating)

    def _add_shown(self, batch: _Batch, item: Shown) -> None:
        prompt = self._prompt(item.prompt, item.task, item.split)
        kept = self._keeper.keep(item.picture)
        drawn = item.provenance or ({"model": item.picture.model} if item.picture.model else {})
        self._add_image(batch, kept, prompt, item.row, drawn)
        batch.prompts.setdefault(prompt.prompt_id, prompt)
        batch.shown.add((kept.image_id, prompt.prompt_id))
        self._shown.add(kept.image_id)

    def _add_facts(self, batch: _Batch, prompt: Prompt, task: Task, rater: Rater, row: str, rating: Rating) -> None:
        # One value that the journal cannot hold would else refuse all rows that are written with it.
        texts = [prompt.task, task.task_id, rater.rater_id, rater.name, rating.rating_id, rating.voids]
        canonical_json([*texts, rating.payload, rating.client_time, rating.app_version])
        batch.prompts.setdefault(prompt.prompt_id, prompt)
        batch.tasks.setdefault(task.task_id, task)
        batch.raters.setdefault(rater.rater_id, rater)
        batch.ratings.append((row, rating))

    def _add_image(self, batch: _Batch, kept: Kept, prompt: Prompt, row: str, drawn: dict[str, Any]) -> None:
        told: dict[str, Any] = {"source": self._source, "row": row}
        if kept.changes:
            told["changes"] = list(kept.changes)
        image = Image(
            image_id=kept.image_id,
            prompt_id=prompt.prompt_id,
            round=0,
            width=kept.width,
            height=kept.height,
            provenance=drawn | {"imported": told},
        )
        canonical_json([prompt.task, image.provenance])
        batch.images.setdefault((image.image_id, image.prompt_id), image)

    def _prompt(self, text: str, task: str, split: str) -> Prompt:
        return Prompt.of(text, task=task, split=SPLITS.get(split.lower(), "") or split_of_text(text))

    def _rater(self, name: str) -> Rater:
        rater_id = uuid.uuid5(_SPACE, f"rater\n{self._source}\n{name}").hex
        name = " ".join(f"{self._source} {name.strip() or _UNKNOWN}".split())
        return Rater(rater_id=rater_id, name=name[:_LONGEST_NAME], kind="human", created_at=datetime.now(UTC))

    def _rater_of_export(self, rater: Rater) -> Rater:
        """An id that can only be that rater's stays; a pseudonym is another rater's in every export."""
        try:
            uuid.UUID(rater.rater_id)
        except ValueError:
            return replace(self._rater(rater.name), kind=rater.kind, created_at=rater.created_at)
        return rater

    # -- facts to the store ---------------------------------------------------------------------------------------

    def _without_known(self, batch: _Batch) -> None:
        """Leave out ratings and images that are here, and what only they need: they may be this store's own."""
        here = self._store.rating_ids(rating.rating_id for _, rating in batch.ratings)
        self.taken.known += sum(rating.rating_id in here for _, rating in batch.ratings)
        batch.ratings = [(row, rating) for row, rating in batch.ratings if rating.rating_id not in here]
        task_ids = {rating.task_id for _, rating in batch.ratings}
        rater_ids = {rating.rater_id for _, rating in batch.ratings}
        batch.tasks = {task_id: task for task_id, task in batch.tasks.items() if task_id in task_ids}
        batch.raters = {rater_id: rater for rater_id, rater in batch.raters.items() if rater_id in rater_ids}
        self._without_known_images(batch)
        prompt_ids = {task.prompt_id for task in batch.tasks.values()} | {prompt_id for _, prompt_id in batch.images}
        prompt_ids |= batch.prompts_alone
        batch.prompts = {prompt_id: prompt for prompt_id, prompt in batch.prompts.items() if prompt_id in prompt_ids}
        self._without_lone_repeats(batch)

    def _without_known_images(self, batch: _Batch) -> None:
        """An image that a task of round 0 shows is one of round 0; one by itself is new where no round has it."""
        keys = self._store.image_keys(image_id for image_id, _ in batch.images)
        anywhere = {(image_id, prompt_id) for image_id, _, prompt_id in keys}
        in_round = {(image_id, prompt_id) for image_id, round, prompt_id in keys if round == 0}
        of_tasks = {(image_id, task.prompt_id) for task in batch.tasks.values() for image_id in task.image_ids}
        wanted = (of_tasks - in_round) | (batch.shown - anywhere)
        batch.images = {key: image for key, image in batch.images.items() if key in wanted}

    def _without_lone_repeats(self, batch: _Batch) -> None:
        """A repeat whose first task has no rating here says nothing."""
        self._tasks |= batch.tasks.keys() if self._is_trial else set()
        lone = {
            task_id
            for task_id, task in batch.tasks.items()
            if task.repeats
            and task.repeats not in batch.tasks
            and task.repeats not in self._tasks
            and self._store.task(task.repeats) is None
        }
        for row, rating in batch.ratings:
            if rating.task_id in lone:
                self._refuse(row, "repeats a task of which no rating is here")
        batch.ratings = [(row, rating) for row, rating in batch.ratings if rating.task_id not in lone]
        batch.tasks = {task_id: task for task_id, task in batch.tasks.items() if task_id not in lone}

    def _write(self, batch: _Batch) -> None:
        prompts = self._new_prompts(batch.prompts.values())
        raters = self._named(batch.raters)
        raters_of = Counter(rating.task_id for _, rating in batch.ratings)
        tasks = [
            replace(task, overlap=max(task.overlap, raters_of[task.task_id])) if task.policy == IMPORTED else task
            for task in batch.tasks.values()
        ]
        ratings = [rating for _, rating in batch.ratings]
        if self._is_trial:
            self._count_trial(batch, prompts, raters)
            return
        self.taken.prompts += self._store.add_prompts(prompts)
        self.taken.images += self._store.add_images(batch.images.values())
        self._store.add_tasks(tasks)
        self.taken.raters += self._store.add_raters(raters, is_disabled=True)
        for (row, _), outcome in zip(batch.ratings, self._store.add_ratings(ratings), strict=True):
            if isinstance(outcome, Exception):
                self._refuse(row, str(outcome))
            else:
                self.taken.ratings += outcome
                self.taken.known += not outcome

    def _count_trial(self, batch: _Batch, prompts: list[Prompt], raters: list[Rater]) -> None:
        """The same counts without a store that holds what came before."""
        self.taken.prompts += len(prompts)
        self._new_raters.update(rater.rater_id for rater in raters)
        self._new_images.update(hashlib.sha256("\n".join(key).encode()).digest()[:16] for key in batch.images)
        ids = {uuid.uuid5(_SPACE, rating.rating_id).bytes for _, rating in batch.ratings}
        self._new_ratings |= ids
        self.taken.raters, self.taken.images = len(self._new_raters), len(self._new_images)
        self.taken.ratings = len(self._new_ratings)

    def _new_prompts(self, prompts: Iterable[Prompt]) -> list[Prompt]:
        new = []
        for prompt in prompts:
            known = self._prompts.setdefault(prompt.prompt_id, prompt)
            if known is prompt:
                new.append(prompt)
            else:
                self._differing.update([prompt.prompt_id] if known != prompt else [])
        self.taken.kept_prompts = len(self._differing)
        return new

    def _named(self, raters: dict[str, Rater]) -> list[Rater]:
        """Those that are not here yet, each under a name that nobody has."""
        new, taken_names = [], set[str]()
        for rater_id, rater in raters.items():
            if rater_id in self._new_raters or self._store.rater(rater_id) is not None:
                continue
            name, number = rater.name, 1
            while name.lower() in taken_names or self._store.rater_by_name(name) is not None:
                behind = " (imported)" if number == 1 else f" (imported {number})"
                name, number = rater.name[: _LONGEST_NAME - len(behind)] + behind, number + 1
            taken_names.add(name.lower())
            new.append(replace(rater, name=name))
        return new


def _as_displayed(payload: dict[str, Any], given: tuple[str, ...], displayed: tuple[str, ...]) -> dict[str, Any]:
    """A payload for images in the order given, for the same in the order displayed."""
    if given == displayed:
        return payload
    if "choice" in payload:
        return payload | {"choice": _SWAPPED.get(payload["choice"], payload["choice"])}
    places = [given.index(image_id) for image_id in displayed]
    if "ranks" in payload:
        return payload | {"ranks": [payload["ranks"][place] for place in places]}
    grades = {axis: [values[place] for place in places] for axis, values in payload["grades"].items()}
    return payload | {"grades": grades}
