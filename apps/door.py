"""Who is asking, and whether they may: sessions, roles, the token of hub.json, and how often a rater may ask."""

import hmac
import logging
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from apps.accounts import Accounts
from apps.answers import error_response
from apps.limits import RateLimit, whole_seconds
from apps.proxy import address_of, local_path
from apps.session import Refused, check_same_rater
from apps.welcome import Welcome
from data.records import Rater, Role
from data.store import Store

logger = logging.getLogger(__name__)

RESEARCHER_ONLY = ("This page is for the researcher.", "Open the link to the board that hitl printed.")

_PAGE_HEADER = "x-hitl-page"
"""`WORKSPACE.RATER`: whom a page was opened for. A second tab, or another hub on this port, may have changed that."""

_PER_SECOND, _BURST = 40, 400
"""Who rates 5 pairs a second asks some 10 times a second; a browser that was offline sends all it has at once."""


@dataclass(frozen=True, slots=True)
class Doorkeeper:
    """Who is asking. Raters are known by their signed session, programs of this project by the token in hub.json."""

    store: Store
    accounts: Accounts
    welcome: Welcome
    token: str
    workspace_id: str
    limit: RateLimit = field(default_factory=lambda: RateLimit(_PER_SECOND, _BURST))

    @property
    def cookie(self) -> str:
        """Cookies do not know ports: two hubs on one host need cookies of different names."""
        return f"hitl_{self.workspace_id}"

    def let_in(self, request: Request, rater: Rater) -> None:
        """Open a session. It ends when the account's number changes: a new password, or the rater was disabled."""
        request.session["rater"] = rater.rater_id
        request.session["number"] = self.store.account(rater.rater_id).sessions

    def let_out(self, request: Request) -> None:
        """End the session of a rater; who came by the board's link stays a researcher."""
        for key in ("rater", "number"):
            request.session.pop(key, None)

    def known(self, request: Request) -> Rater | None:
        """The rater of the request's session, if it is one and they may still come in."""
        rater_id = request.session.get("rater")
        if not isinstance(rater_id, str):
            return None
        account = self.store.account(rater_id)
        if account.is_disabled or request.session.get("number", 0) != account.sessions:
            return None
        return self.store.rater(rater_id)

    def rater(self, request: Request) -> Rater:
        """The rater of the request's session.

        Raises:
            Refused: there is none, or the page was opened for another rater or workspace.
        """
        known = self.known(request)
        if known is None:
            if self.cookie in request.cookies:
                raise Refused("Your session has ended.", hint="Reload the page to come in again.", status=401)
            raise Refused("Please say who you are first.", hint="Open the first page and give a name.", status=401)
        page = request.headers.get(_PAGE_HEADER)
        if page is not None:
            workspace_id, _, believed = page.partition(".")
            if workspace_id != self.workspace_id:
                raise Refused("This page was opened for another workspace.", hint="Reload the page.", status=409)
            check_same_rater(known.rater_id, believed)
        return known

    def rater_at_work(self, request: Request) -> Rater:
        """The same, counted: one page gone wild must not take the server from the others.

        Raises:
            Refused: nobody, the wrong one, or too often. Simulated raters are programs of ours and as fast as they can.
        """
        known = self.rater(request)
        wait_s = self.limit.take(known.rater_id) if known.kind == "human" else 0
        if wait_s > 0:
            raise Refused(
                f"More than {_PER_SECOND} requests a second came from you.",
                hint="Nothing is lost: the page sends it again.",
                status=429,
                wait_s=whole_seconds(wait_s),
            )
        return known

    def rater_who_agreed(self, request: Request) -> Rater:
        """The same, who agreed to what is kept of them.

        Raises:
            Refused: they did not.
        """
        rater = self.rater_at_work(request)
        self.welcome.require_consent(rater)
        return rater

    def describe(self, rater: Rater) -> dict[str, Any]:
        """A rater for their page, which keeps what is not sent yet under these two ids, and what comes first."""
        return {
            "rater_id": rater.rater_id,
            "name": rater.name,
            "workspace_id": self.workspace_id,
            "needs": self.welcome.needs(rater),
            "break_every": self.welcome.asked.break_every,
        }

    def may(self, request: Request, role: Role) -> bool:
        """Whether the request's session is of somebody with that role, asked of the store each time."""
        known = self.known(request)
        return known is not None and self.store.account(known.rater_id).may(role)

    def is_researcher(self, request: Request) -> bool:
        return request.session.get("researcher") is True or self.may(request, "researcher")

    def require_admin(self, request: Request) -> None:
        """Raise Refused for whoever is neither an admin nor a command of this project."""
        if not self.has_token(request) and not self.may(request, "admin"):
            raise Refused("This is for admins.", hint="Use `hitl raters` where the workspace is.", status=403)

    def has_token(self, request: Request) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self.is_token(given)

    def is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())


class PageGate:
    """Lets only the researcher under /board/, and sends who is not known to /join where a name is not enough.

    Runs inside the session's middleware, so that it knows the session.
    """

    def __init__(self, app: ASGIApp, *, door: Doorkeeper) -> None:
        self.app = app
        self.door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        if scope["type"] == "http":
            path, request = local_path(scope), Request(scope)
            if path.startswith("/board/") and not self.door.is_researcher(request):
                log_refusal(request, RESEARCHER_ONLY[0])
                app = error_response(request, 403, *RESEARCHER_ONLY)
            elif (
                path == "/"
                and scope["path"].endswith("/")
                and not self.door.accounts.is_open
                and self.door.known(request) is None
            ):
                app = RedirectResponse("join", status_code=303)
        await app(scope, receive, send)


def log_refusal(request: Request, message: str) -> None:
    """One line for each. No names: a log outlives an erasure."""
    logger.warning(
        "Refused %s %r from %s: %s", request.method, local_path(request.scope), address_of(request.scope), message
    )
