"""The routes by which people come in, and those by which an admin or `hitl raters` says who may."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fastapi import Depends, FastAPI, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from apps.accounts import INVITE_DAYS, Accounts
from apps.answers import spoken_page
from apps.door import Doorkeeper
from apps.proxy import address_of
from apps.session import RatingDesk, Refused
from data.erasing import Erasures
from data.erasure import Fate
from data.records import Rater, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """A rater introduces themselves."""

    name: str
    kind: str = "human"
    consent: str = ""
    """The version of the text that the page showed and they agreed to, and its language."""
    language: str = "en"


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Somebody who has a password."""

    name: str
    password: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """An invite's token. It comes in a body, never in an address: those end up in logs."""

    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Redeeming:
    """Somebody who comes with an invite."""

    token: str
    name: str = ""
    password: str = ""
    consent: str = ""
    language: str = "en"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRater:
    name: str
    role: Role = "rater"
    password: str = ""
    days: float = INVITE_DAYS


@dataclass(frozen=True, slots=True, kw_only=True)
class NewInvites:
    name: str | None = None
    role: Role | None = None
    days: float = INVITE_DAYS
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Disabling:
    name: str
    undo: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasing:
    name: str
    ratings: Fate = "keep"


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoking:
    invite_id: str


def add_entrance(app: FastAPI, desk: RatingDesk, accounts: Accounts, door: Doorkeeper) -> None:
    """Coming in: by a name alone, by a password, by an invite."""

    @app.get("/join", response_model=None)
    def join_page() -> Response:
        if accounts.is_open:
            return RedirectResponse("./", status_code=303)
        return HTMLResponse(spoken_page("join.html"), headers={"Cache-Control": "no-store"})

    @app.post("/api/join")
    def join(request: Request, joining: Joining) -> dict[str, Any]:
        # Simulated raters are programs of ours and bring the token.
        if not accounts.is_open and not (joining.kind == "simulated" and door.has_token(request)):
            raise Refused(
                "A name alone lets nobody in here.",
                hint="Reload the page to sign in, or open the invite that was sent to you.",
                status=403,
            )
        rater = desk.join(joining.name, joining.kind)
        _let_in(door, request, rater, joining)
        return door.describe(rater)

    @app.post("/api/login")
    def login(request: Request, sent: Login) -> dict[str, Any]:
        rater = accounts.login(sent.name, sent.password, address=address_of(request.scope))
        door.let_in(request, rater)
        return _described(door, accounts, rater)

    @app.post("/api/invite/look")
    def look(request: Request, sent: Token) -> dict[str, Any]:
        return accounts.look(sent.token, address=address_of(request.scope))

    @app.post("/api/invite")
    def redeem(request: Request, sent: Redeeming) -> dict[str, Any]:
        rater = accounts.redeem(sent.token, name=sent.name, password=sent.password, address=address_of(request.scope))
        _let_in(door, request, rater, sent)
        return _described(door, accounts, rater)

    @app.post("/api/leave")
    def leave(request: Request) -> dict[str, Any]:
        door.let_out(request)
        return {"left": True}


def add_administration(app: FastAPI, accounts: Accounts, erasures: Erasures, door: Doorkeeper) -> None:
    """What `hitl raters` asks a running hub for. Each route names the function of `Accounts` that it is."""
    admins = [Depends(door.require_admin)]

    @app.get("/api/raters", dependencies=admins)
    def overview() -> dict[str, Any]:
        return accounts.overview()

    @app.post("/api/raters/add", dependencies=admins)
    def add(sent: NewRater) -> dict[str, Any]:
        return accounts.add(sent.name, role=sent.role, password=sent.password, days=sent.days)

    @app.post("/api/raters/invite", dependencies=admins)
    def invite(sent: NewInvites) -> dict[str, Any]:
        return accounts.invite(sent.name, role=sent.role, days=sent.days, count=sent.count)

    @app.post("/api/raters/revoke", dependencies=admins)
    def revoke(sent: Revoking) -> dict[str, Any]:
        return accounts.revoke(sent.invite_id)

    @app.post("/api/raters/disable", dependencies=admins)
    def disable(sent: Disabling) -> dict[str, Any]:
        return accounts.disable(sent.name, undo=sent.undo)

    @app.post("/api/raters/erase", dependencies=admins)
    def erase(sent: Erasing) -> dict[str, Any]:
        told = accounts.erase(sent.name, erasures, ratings=sent.ratings)
        erasures.finish_later()
        return told


def _let_in(door: Doorkeeper, request: Request, rater: Rater, sent: Joining | Redeeming) -> None:
    """With their consent, if the text is still the one that they saw; else the rating page asks."""
    door.let_in(request, rater)
    if sent.consent:
        with suppress(Refused):
            door.welcome.agree(rater, sent.consent, sent.language)


def _described(door: Doorkeeper, accounts: Accounts, rater: Rater) -> dict[str, Any]:
    """As for the rating page, with the role: a researcher's first page is the board."""
    return {**door.describe(rater), "role": accounts.store.account(rater.rater_id).role}
