"""What the board shows, worked out from the store in a thread of its own, at most every 15 s and when it changed."""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime

from data.aggregation import aggregate
from data.agreement import Agreement
from data.answered import Answered, agreements, answered, votes_of
from data.blind import is_for_judging
from data.journal import Position
from data.quality import RaterQuality, raters_quality, slopes_of
from data.store import Store
from data.win_rates import model_name

logger = logging.getLogger(__name__)

EVERY_S = 15.0
"""Least time between two findings of one round."""
_REST = 10
"""And at least so many times what they took: of a hundred thousand ratings they take seconds."""
_WAIT_S = 0.6
"""How long a page waits for the first findings before it says that they are being worked out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How many answers show an image of each prompt by each model."""

    models: tuple[str, ...]
    prompts: tuple[str, ...]
    """Their texts, in order of arrival."""
    answers: tuple[tuple[int | None, ...], ...]
    """For each model, by prompt; None where that model drew nothing for that prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """The state of one round, or of all, at one position of the journal."""

    round: int | None
    position: Position
    erasures: int
    """How many raters the store had erased when this was begun; after one more it is not to be shown."""
    given: tuple[datetime, ...]
    """When each answer came; skips left out, checks not."""
    agreements: Mapping[str, Agreement]
    raters: Sequence[RaterQuality]
    coverage: Coverage


def find(store: Store, round: int | None) -> Findings:
    """All of it, now. `round` is a number, or None for every round."""
    erasures, position = store.erasures, store.journal_position
    said = answered(store, round)
    return Findings(
        round=round,
        position=position,
        erasures=erasures,
        given=tuple(each.rating.server_time for each in said if not each.is_skip),
        agreements=agreements(said),
        raters=raters_quality(store, said, slopes_of(aggregate(votes_of(said))), round),
        coverage=_coverage(store, said, round),
    )


def _coverage(store: Store, said: Sequence[Answered], round: int | None) -> Coverage:
    texts = {prompt.prompt_id: prompt.text for prompt in store.prompts()}
    model_of: dict[tuple[str, int], str] = {}
    drawn: set[tuple[str, str]] = set()
    for image in store.images(round):
        if is_for_judging(image):
            continue
        name = model_name(image)
        model_of[image.image_id, image.round] = name
        drawn.add((name, image.prompt_id))
    counted: dict[tuple[str, str], int] = defaultdict(int)
    for each in said:
        if each.is_skip or each.task.purpose != "learn":
            continue
        for place in {(image_id, each.task.round) for image_id in each.task.image_ids} - model_of.keys():
            image = store.image(place[0])  # drawn in another round than the one it was asked about in
            assert image is not None, "A task's images are in the store."
            model_of[place] = model_name(image)
            drawn.add((model_of[place], image.prompt_id))
        for name in {model_of[image_id, each.task.round] for image_id in each.task.image_ids}:
            counted[name, each.task.prompt_id] += 1
    models = list(dict.fromkeys(model_of.values()))  # in order of the rounds
    prompts = [prompt_id for prompt_id in texts if any((name, prompt_id) in drawn for name in models)]
    return Coverage(
        models=tuple(models),
        prompts=tuple(texts[prompt_id] for prompt_id in prompts),
        answers=tuple(
            tuple(counted[name, prompt_id] if (name, prompt_id) in drawn else None for prompt_id in prompts)
            for name in models
        ),
    )


@dataclass(slots=True)
class _Kept:
    """The last findings of a round, and those on their way."""

    findings: Findings | None = None
    next_at: float = 0.0
    """When they may be renewed; monotonic seconds."""
    coming: "Future[Findings] | None" = None


@dataclass(slots=True)
class Finder:
    """Findings for any number of open pages: worked out once for all of them, and never while a page waits for long."""

    store: Store
    _kept: dict[int | None, _Kept] = field(default_factory=lambda: defaultdict(_Kept))
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _worker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="findings"))

    def latest(self, round: int | None) -> Findings | None:
        """The newest there are, perhaps of some seconds ago; None while the first are being worked out, or the first
        after an erasure.
        """
        with self._lock:
            kept = self._kept[round]
            if kept.findings is not None and kept.findings.erasures != self.store.erasures:
                kept.findings = None
            is_old = kept.findings is None or (
                kept.findings.position != self.store.journal_position and time.monotonic() >= kept.next_at
            )
            if kept.coming is None and is_old:
                kept.coming = self._worker.submit(self._renew, round)
            coming, findings = kept.coming, kept.findings
        if findings is not None or coming is None:
            return findings
        try:
            found = coming.result(timeout=_WAIT_S)
        except TimeoutError:
            return None
        return found if found.erasures == self.store.erasures else None

    def _renew(self, round: int | None) -> Findings:
        started = time.monotonic()
        found: Findings | None = None
        try:
            found = find(self.store, round)
            return found
        except Exception:
            logger.exception("What the board shows could not be worked out.")
            raise
        finally:
            now = time.monotonic()
            with self._lock:
                kept = self._kept[round]
                kept.findings, kept.coming = found or kept.findings, None
                kept.next_at = now + max(EVERY_S, _REST * (now - started))
