"""What a rater asks for beside tasks: the first page's texts, practice, and what is stored about themselves."""

from dataclasses import asdict, dataclass
from datetime import datetime
from statistics import median
from typing import Any

from fastapi import Depends, FastAPI, Request
from starlette.responses import JSONResponse, Response

from apps.door import Doorkeeper
from apps.practice import practice_picture, practice_tasks
from apps.session import RatingDesk, Refused, check_same_rater
from apps.welcome import Welcome
from data import RATING_KINDS
from data.erasing import Erasures
from data.erasure import Fate
from data.records import PracticeOutcome, Rater, Rating, standing_ratings


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """A rater agrees to the text of that version, as it was shown in that language."""

    version: str
    language: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PracticeEnd:
    outcome: PracticeOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasingMyself:
    """A rater who asked for it twice. The name is typed by nobody: it says whom the page believes to erase."""

    rater_id: str
    ratings: Fate


def add_introduction(app: FastAPI, desk: RatingDesk, welcome: Welcome, door: Doorkeeper) -> None:
    """What comes before the first rating."""
    known = Depends(door.rater_at_work)

    @app.get("/api/welcome")
    def texts(language: str = "en") -> dict[str, Any]:
        return welcome.describe(language)

    @app.post("/api/consent")
    def consent(sent: Agreement, rater: Rater = known) -> dict[str, Any]:
        welcome.agree(rater, sent.version, sent.language)
        return {"needs": welcome.needs(rater)}

    @app.get("/api/practice")
    def practice(rater: Rater = known) -> dict[str, Any]:
        return {"guide": welcome.own_guide, "tasks": practice_tasks(desk.asked)}

    @app.post("/api/practice")
    def practised(sent: PracticeEnd, rater: Rater = known) -> dict[str, Any]:
        welcome.end_practice(rater, sent.outcome)
        return {"needs": welcome.needs(rater)}

    @app.get("/practice/{number}/{place}.png")
    def picture(number: int, place: int, rater: Rater = known) -> Response:
        images = desk.asked.images_per_task
        if not (0 <= number < desk.asked.practice and 0 <= place < images):
            raise Refused("There is no such image.", hint="Skip this task.", status=404)
        return Response(
            practice_picture(number, place, images),
            media_type="image/png",
            headers={"Cache-Control": "private, max-age=3600"},
        )


def add_own_data(app: FastAPI, desk: RatingDesk, erasures: Erasures, door: Doorkeeper) -> None:
    """What is stored about the rater who asks: to see it, to take it along, to have it erased."""
    known = Depends(door.rater_at_work)

    @app.get("/api/mine/summary")
    def summary(rater: Rater = known) -> dict[str, Any]:
        return own_summary(desk, rater)

    @app.get("/api/mine")
    def mine(rater: Rater = known) -> Response:
        return JSONResponse(
            own_data(desk, rater),
            headers={
                "Content-Disposition": 'attachment; filename="my-ratings.json"',
                "Cache-Control": "no-store",
            },
        )

    @app.post("/api/mine/erase")
    def erase(request: Request, sent: ErasingMyself, rater: Rater = known) -> dict[str, Any]:
        check_same_rater(rater.rater_id, sent.rater_id)
        if desk.store.account(rater.rater_id).may("researcher"):
            raise Refused(
                "Who runs the project is not erased from this page.",
                hint="Use `hitl raters erase` where the workspace is.",
                status=403,
            )
        receipt = erasures.begin(rater.rater_id, sent.ratings)
        erasures.finish_later()  # nobody waits at a page until all reports are written again
        door.let_out(request)
        return {"erased": True, "left_as": receipt.pseudonym, "ratings": sent.ratings}


def own_summary(desk: RatingDesk, rater: Rater) -> dict[str, Any]:
    """What a rater may know of how they rated: their own numbers, never what others chose."""
    answers = [
        rating
        for rating in standing_ratings(desk.store.ratings(rater_id=rater.rater_id))
        if not RATING_KINDS.load(rating.kind).is_skip(rating.payload)
    ]
    repeats = [found.agreement for found in desk.store.repeats() if found.rater_id == rater.rater_id]
    return {
        "answers": len(answers),
        "median_s": median(rating.dwell_ms for rating in answers) / 1000 if answers else None,
        "repeats": len(repeats),
        "repeats_alike": sum(share >= 0.5 for share in repeats),
    }


def own_data(desk: RatingDesk, rater: Rater) -> dict[str, Any]:
    """Everything stored about a rater, and nothing that lets anybody in."""
    store = desk.store
    account = store.account(rater.rater_id)
    ratings = store.ratings(rater_id=rater.rater_id)
    texts = {prompt.prompt_id: prompt.text for prompt in store.prompts()}
    return {
        "rater": {
            "rater_id": rater.rater_id,
            "name": rater.name,
            "kind": rater.kind,
            "joined_at": rater.created_at.isoformat(),
            "role": account.role,
            "has_password": bool(account.password_hash),
        },
        "consents": [
            {**_plain(asdict(consent)), "rater_id": rater.rater_id} for consent in store.consents(rater.rater_id)
        ],
        "practice": store.practice_outcome(rater.rater_id),
        "ratings": [_own_rating(desk, rating, texts) for rating in ratings],
    }


def _own_rating(desk: RatingDesk, rating: Rating, texts: dict[str, str]) -> dict[str, Any]:
    task = desk.store.task(rating.task_id)
    assert task is not None  # the store takes no rating of an unknown task
    return {**_plain(asdict(rating)), "round": task.round, "prompt": texts[task.prompt_id]}


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value.isoformat() if isinstance(value, datetime) else value for key, value in row.items()}
