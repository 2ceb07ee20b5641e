"""What a rater sees next, and what becomes of what they hand in. Knows neither HTTP nor Gradio."""

import logging
import re
import threading
import unicodedata
import uuid
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, get_args

from data import RATING_KINDS
from data.display_copies import DisplayCopies
from data.records import OVERALL, InputDevice, Offer, Rater, RaterKind, Rating, ScreenSize, ShownAs
from data.store import Store
from hitl.config import RateConfig
from hitl.core.errors import HitlError
from hitl.core.live import Live, LiveStatus

logger = logging.getLogger(__name__)

RATING_STAGES = ("idle", "rate")
"""Stages of the machine in which people are handed tasks: between rounds, and when nothing but the app runs."""

HEADLINES = {
    "idle": "The machine is getting ready …",
    "draw": "The machine is drawing new images …",
    "rate": "You have rated everything there is for now.",
    "fit": "The machine is learning what you prefer …",
    "train": "The machine is training …",
    "evaluate": "The machine is checking its work …",
    "report": "The machine is writing its report …",
    "finished": "All rounds are done. Thank you!",
}

MOST_TASKS = 10
"""Most tasks that one rater may hold at a time: what a fast hand needs, and no more than others can wait for."""

_RATERS = uuid.UUID("7f1c1c6e-6a0f-4c0e-9a5e-3f5f1d7b2a10")
_LONGEST_NAME = 60
_LONGEST_DWELL_MS = 24 * 60 * 60 * 1000


class Refused(HitlError):
    """A request that cannot be granted; `status` is what HTTP calls the reason, `wait_s` when it can be tried again."""

    def __init__(self, message: str, *, hint: str, status: int, wait_s: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One rating as the browser sends it."""

    rating_id: str
    task_id: str
    kind: str
    payload: dict[str, Any]
    image_ids: list[str]
    """In the order in which they were shown."""
    dwell_ms: int
    client_time: str
    rater_id: str | None = None
    """Whom the page believes it rates for: a second tab may have signed in as somebody else meanwhile."""
    decide_ms: int | None = None
    input_device: str | None = None
    screen_size: str | None = None
    shown_as: str | None = None
    """How the task was shown; `Rating` says what each means. A word that is not known there is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawal:
    """An undo: a new row, made by the client too, that voids an earlier rating of the same rater."""

    rating_id: str
    voids: str
    client_time: str = ""
    rater_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Sent when the rating is on the disk. `stored` is False when it changed nothing: this answer was there already."""

    rating_id: str
    stored: bool


@dataclass(slots=True)
class RatingDesk:
    """Hands out tasks and takes in ratings, for every rater of one store. The store counts no answer twice."""

    store: Store
    live: Live
    asked: RateConfig = field(default_factory=RateConfig)
    """What the project asks of its raters."""
    copies: DisplayCopies | None = None
    """Where large images are shown as copies; None shows the originals alone."""
    _joining: threading.Lock = field(default_factory=threading.Lock)

    def join(self, name: str, kind: str = "human") -> Rater:
        """The rater of that name, made on first sight. A simulated rater cannot take a person's name.

        Raises:
            Refused: the name is none, somebody else's, or of one whom the name alone does not let in.
        """
        clean = clean_name(name)
        if kind not in ("human", "simulated"):
            raise Refused(f"There is no kind of rater called {kind!r}.", hint="Use human or simulated.", status=400)
        with self._joining:  # two pages that give one name are one rater
            known = self.store.rater_by_name(clean)
            if known is not None:
                if known.kind != kind:
                    raise Refused(
                        f"The name {clean!r} belongs to a {known.kind} rater.", hint="Choose another name.", status=409
                    )
                account = self.store.account(known.rater_id)
                if account.is_disabled or account.may("researcher"):
                    raise Refused("This name alone lets nobody in.", hint="Choose another name.", status=409)
                return known
            rater = new_rater(clean, kind)
            self.store.add_rater(rater)
            return rater

    def next_tasks(self, rater_id: str, limit: int) -> dict[str, Any]:
        """What the rater's page shows now: tasks to rate, or what everyone is waiting for."""
        status = self.live.view()
        offers: list[Offer] = []
        if status.stage != "finished":  # a study does not wait for the machine
            offers = self.store.lease(
                rater_id,
                limit=min(max(limit, 1), MOST_TASKS),
                lease_s=self.asked.lease_s,
                studies_only=status.stage not in RATING_STAGES,
            )
        progress = self.progress()
        # Which tasks are checks or judge a model is not told: their answers move the count as all answers do.
        progress["done"] += progress["checks"]
        progress["needed"] += progress.pop("checks")
        studied, to_study = progress.pop("studied"), progress.pop("to_study")
        if offers and all(offer.task.study for offer in offers):
            progress["done"] += studied
            progress["needed"] += to_study
        if offers:
            state = "rating"
        else:
            state = "finished" if status.stage == "finished" else "machine"
            progress["mine"] = self.store.answered(rater_id, progress["round"])
        return {
            "state": state,
            "tasks": [describe(offer, progress["round"], self.asked, self.copies) for offer in offers],
            "progress": progress,
            "live": describe_live(status, waiting_for_others=progress["done"] < progress["needed"]),
            "lease_s": self.asked.lease_s,
        }

    def progress(self) -> dict[str, Any]:
        """How far the newest round is."""
        number = self.store.newest_round()
        if number is None:
            return {
                "round": 0,
                "done": 0,
                "needed": 0,
                "skipped": 0,
                "checks": 0,
                "studied": 0,
                "to_study": 0,
                "eta_s": None,
            }
        now = self.store.progress(number)
        left = max(now.needed - now.done, 0)
        return {
            "round": number,
            "done": now.done,
            "needed": now.needed,
            "skipped": now.skipped,
            "checks": now.checks,
            "studied": now.studied,
            "to_study": now.to_study,
            "eta_s": round(left / now.per_minute * 60) if now.per_minute else None,
        }

    def accept(self, rater_id: str, sent: Submission) -> Receipt:
        """Store one rating. Sending it again changes nothing, and a task counts once per rater.

        Raises:
            Refused: the rating is not one of this rater, or does not fit its task.
            ConfigError: the payload is none that its kind knows.
        """
        check_same_rater(rater_id, sent.rater_id)
        _check_uuid(sent.rating_id)
        if not sent.payload:  # to the store an empty answer is an undo, which has a way of its own
            raise Refused("The rating holds no answer.", hint="Send a payload.", status=400)
        rating = Rating(
            rating_id=sent.rating_id,
            task_id=sent.task_id,
            rater_id=rater_id,
            kind=sent.kind,
            payload=sent.payload,
            image_ids=tuple(sent.image_ids),
            dwell_ms=_milliseconds(sent.dwell_ms),
            client_time=_check_time(sent.client_time),
            server_time=datetime.now(UTC),
            app_version=app_version(),
            decide_ms=None if sent.decide_ms is None else _milliseconds(sent.decide_ms),
            input_device=_known(sent.input_device, InputDevice),
            screen_size=_known(sent.screen_size, ScreenSize),
            shown_as=_known(sent.shown_as, ShownAs),
        )
        return Receipt(rating_id=rating.rating_id, stored=self.store.add_rating(rating))

    def undo(self, rater_id: str, sent: Withdrawal) -> Receipt:
        """Void one of the rater's own ratings; its task is open to them again."""
        check_same_rater(rater_id, sent.rater_id)
        _check_uuid(sent.rating_id)
        own = reversed(self.store.ratings(rater_id=rater_id))  # nearly always one of the last
        voided = next((rating for rating in own if rating.rating_id == sent.voids), None)
        if voided is None or not voided.payload:
            raise Refused("You have no such rating to undo.", hint="Reload the page.", status=404)
        row = Rating(
            rating_id=sent.rating_id,
            task_id=voided.task_id,
            rater_id=rater_id,
            kind=voided.kind,
            payload={},
            image_ids=voided.image_ids,
            dwell_ms=0,
            client_time=_check_time(sent.client_time),
            server_time=datetime.now(UTC),
            app_version=app_version(),
            voids=voided.rating_id,
        )
        return Receipt(rating_id=row.rating_id, stored=self.store.add_rating(row))

    def release(self, rater_id: str, task_ids: list[str]) -> None:
        """Give tasks back that the rater will not rate: their page was closed."""
        self.store.release(rater_id, task_ids)


def new_rater(name: str, kind: RaterKind = "human") -> Rater:
    """A rater of a name that is free. A person's id is random: in files of finished rounds it outlasts their name."""
    # A simulated one's is made from the name: a run from the same seed then shows the same sides everywhere.
    made = uuid.uuid4() if kind == "human" else uuid.uuid5(_RATERS, f"{kind}/{name.casefold()}")
    return Rater(rater_id=made.hex, name=name, kind=kind, created_at=datetime.now(UTC))


def clean_name(name: str) -> str:
    """The name without surplus blanks and control characters.

    Raises:
        Refused: nothing is left, or too much.
    """
    printable = "".join(" " if unicodedata.category(letter)[0] in "CZ" else letter for letter in name)
    clean = re.sub(r"\s+", " ", unicodedata.normalize("NFC", printable)).strip()
    if not 0 < len(clean) <= _LONGEST_NAME:
        raise Refused(
            "Please give a name." if not clean else f"That name has {len(clean)} characters.",
            hint=f"Any name of 1 to {_LONGEST_NAME} characters will do.",
            status=400,
        )
    return clean


def describe(offer: Offer, round: int, asked: RateConfig, copies: DisplayCopies | None = None) -> dict[str, Any]:
    """A task as it travels: nothing in it tells which model or seed drew which image. `round` is the newest, also for a
    task of a study that began before it.
    """
    has_copies = copies is not None and copies.are_wanted(offer.image_ids)
    return {
        "task_id": offer.task.task_id,
        "round": round,
        **describe_kind(offer.task.kind, asked),
        "prompt": offer.prompt,
        "image_ids": list(offer.image_ids),
        "images": [f"image/{image_id}" for image_id in offer.image_ids],
        "display_copies": [f"image/{image_id}/display" for image_id in offer.image_ids] if has_copies else None,
    }


def describe_kind(name: str, asked: RateConfig) -> dict[str, Any]:
    """How tasks of that kind are asked about."""
    kind = RATING_KINDS.load(name)
    return {
        "kind": kind.name,
        "screen": kind.screen,
        "levels": kind.levels,
        "controls": [asdict(control) for control in kind.controls],
        "axes": list(asked.axes) if kind.name == "grades" else [OVERALL],
        "flags": list(asked.flags),
    }


def describe_live(status: LiveStatus, *, waiting_for_others: bool) -> dict[str, Any]:
    """What the machine is doing, in words for a rater."""
    detail = ""
    if status.stage == "rate" and waiting_for_others:
        detail = "The other raters are not done yet."
    return {
        "round": status.round,
        "rounds": status.rounds,
        "stage": status.stage,
        "headline": HEADLINES.get(status.stage, HEADLINES["idle"]),
        "detail": detail,
        "done": status.done,
        "total": status.total,
        "eta_s": status.eta_s,
    }


@cache
def app_version() -> str:
    """Looked up once: where the package is not installed, all that are installed are read for it."""
    try:
        return version("hitl")
    except PackageNotFoundError:
        return "unknown"


def check_same_rater(rater_id: str, believed: str | None) -> None:
    """Raise Refused when the page believes that it rates for somebody else."""
    if believed is not None and believed != rater_id:
        raise Refused(
            "This browser is now signed in as somebody else.", hint="Reload the page to see as whom.", status=409
        )


def _check_uuid(text: str) -> None:
    try:
        uuid.UUID(text)
    except ValueError:
        raise Refused("A rating's id must be a UUID.", hint="Reload the page.", status=400) from None


def _milliseconds(sent: int) -> int:
    """Within a day: a page left open for days, or an odd clock, is no reason to refuse a rating."""
    return min(max(sent, 0), _LONGEST_DWELL_MS)


def _known(word: str | None, words: Any) -> Any:
    """The word if it is one of these; else None: what only describes a rating is no reason to refuse it."""
    return word if word in get_args(words) else None


def _check_time(text: str) -> str:
    """The browser's clock as it was, or now: a rating is never refused because a clock is odd."""
    try:
        stamp = datetime.fromisoformat(text)
    except ValueError:
        return datetime.now(UTC).isoformat()
    if stamp.tzinfo is None:
        stamp = stamp.replace(tzinfo=UTC)
    if abs(stamp - datetime.now(UTC)) > timedelta(days=365):
        logger.warning("A rating came with the odd client time %s.", text)
    return text
