"""The routes by which people come in, and those by which an admin or `hitl raters` says who may."""

from dataclasses import dataclass
from typing import Any

from fastapi import Depends, FastAPI, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from apps.accounts import INVITE_DAYS, Accounts
from apps.answers import STATIC
from apps.door import Doorkeeper
from apps.proxy import address_of
from apps.session import RatingDesk, Refused
from data.erasure import Fate
from data.records import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """A rater introduces themselves."""

    name: str
    kind: str = "human"


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
        page = (STATIC / "join.html").read_text(encoding="utf-8")
        return HTMLResponse(page, headers={"Cache-Control": "no-store"})

    @app.post("/api/join")
    def join(request: Request, joining: Joining) -> dict[str, str]:
        # Simulated raters are programs of ours and bring the token.
        if not accounts.is_open and not (joining.kind == "simulated" and door.has_token(request)):
            raise Refused(
                "A name alone lets nobody in here.",
                hint="Reload the page to sign in, or open the invite that was sent to you.",
                status=403,
            )
        rater = desk.join(joining.name, joining.kind)
        door.let_in(request, rater)
        return door.describe(rater)

    @app.post("/api/login")
    def login(request: Request, sent: Login) -> dict[str, str]:
        rater = accounts.login(sent.name, sent.password, address=address_of(request.scope))
        door.let_in(request, rater)
        return _described(door, accounts, rater)

    @app.post("/api/invite/look")
    def look(request: Request, sent: Token) -> dict[str, Any]:
        return accounts.look(sent.token, address=address_of(request.scope))

    @app.post("/api/invite")
    def redeem(request: Request, sent: Redeeming) -> dict[str, str]:
        rater = accounts.redeem(sent.token, name=sent.name, password=sent.password, address=address_of(request.scope))
        door.let_in(request, rater)
        return _described(door, accounts, rater)

    @app.post("/api/leave")
    def leave(request: Request) -> dict[str, Any]:
        for key in ("rater", "number"):
            request.session.pop(key, None)
        return {"left": True}


def add_administration(app: FastAPI, accounts: Accounts, door: Doorkeeper) -> None:
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
        return accounts.erase(sent.name, ratings=sent.ratings)


def _described(door: Doorkeeper, accounts: Accounts, rater: Any) -> dict[str, str]:
    """As for the rating page, with the role: a researcher's first page is the board."""
    return {**door.describe(rater), "role": accounts.store.account(rater.rater_id).role}
