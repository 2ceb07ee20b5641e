"""The hub's web server: the rating API, the image route, the Gradio pages, and who may use which of them."""

import asyncio
import ipaddress
import logging
import os
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, RedirectResponse, Response
from itsdangerous import TimestampSigner
from starlette.exceptions import HTTPException
from starlette.middleware.sessions import SessionMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apps.account_routes import add_administration, add_entrance
from apps.accounts import Accounts
from apps.answers import error_response
from apps.door import RESEARCHER_ONLY, Doorkeeper, PageGate, log_refusal
from apps.live_report import add_live_report
from apps.lost_images import lost_in_words, original
from apps.proxy import ProxyGate, local_path
from apps.rater_routes import add_introduction, add_own_data
from apps.session import RatingDesk, Receipt, Refused, Submission, Withdrawal
from apps.welcome import Welcome
from data.display_copies import DisplayCopies
from data.erasing import Erasures
from data.records import Rater
from data.store import Store
from data.study_tasks import take_in
from data.workspace import Workspace
from hitl.config import RateConfig
from hitl.core.errors import ConfigError, DiskFull, HitlError
from hitl.core.live import Live
from hitl.report import build_report

logger = logging.getLogger(__name__)

_LARGEST_BODY = 64 * 1024
_SESSION_DAYS = 30
_MISUSE = (401, 403, 429)
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_OWN_NAMES = ("127.0.0.1", "localhost", "[::1]")

_GRADIO_NEEDS = ("/gradio_api/heartbeat/", "/gradio_api/startup-events", "/gradio_api/theme.css")
"""All that the rating page asks of Gradio's own API. It has no Gradio events, so the rest (upload, run, …) is shut."""

_HEADERS = (
    # One's own server only: no font, script, picture or message can come from or go to anywhere else.
    (
        b"content-security-policy",
        b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        b"img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
        b"frame-ancestors 'none'; base-uri 'self'; form-action 'self'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
)


class HostGate:
    """Refuses every request for another host than this machine, or the name that a proxy gives it.

    A site can let its own name point to 127.0.0.1 once its page is open; to the browser this app is then that site's.
    """

    def __init__(self, app: ASGIApp, *, names: Collection[str]) -> None:
        self.app = app
        self.names = frozenset(name.lower() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        host = request.headers.get("host", "")
        if re.sub(r":\d*$", "", host).lower() in self.names:
            await self.app(scope, receive, send)
            return
        log_refusal(request, f"it asks for the host {host[:80]!r}.")
        refuse = error_response(
            request,
            403,
            f"The rating app answers to {', '.join(sorted(self.names))} here, not to {host[:80] or 'no name at all'}.",
            "Open the link that hitl printed; behind a proxy set server.public_url, for raters on other machines"
            " server.host.",
        )
        await refuse(scope, receive, _with_headers(send))


class Gatekeeper:
    """Refuses, before anything is parsed: requests from other sites' pages, large bodies, Gradio routes not needed."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        refusal = _refusal(request)
        if refusal is None:
            await self.app(scope, receive, _with_headers(send, is_secure=scope["scheme"] == "https"))
            return
        log_refusal(request, refusal.message)
        refuse = error_response(request, refusal.status, refusal.message, refusal.hint)
        await refuse(scope, receive, _with_headers(send))


def _with_headers(send: Send, *, is_secure: bool = False) -> Send:
    """Adds our headers; where the browser speaks https, its cookies are never to travel otherwise."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [_secured(*pair) for pair in message["headers"]] if is_secure else message["headers"]
            sent = {name.lower() for name, _ in headers}
            message["headers"] = [*headers, *(pair for pair in _HEADERS if pair[0] not in sent)]
        await send(message)

    return send_with_headers


def _secured(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    is_bare_cookie = name.lower() == b"set-cookie" and b"; secure" not in value.lower()
    return name, value + b"; secure" if is_bare_cookie else value


def _refusal(request: Request) -> Refused | None:
    path = local_path(request.scope)
    if path.startswith("/gradio_api") and not path.startswith(_GRADIO_NEEDS):
        return Refused("There is nothing here.", hint="Go to the first page.", status=404)
    if request.method in _SAFE_METHODS:
        return None
    if _is_from_elsewhere(request):
        return Refused(
            "This came from a page of another site.",
            hint="Open the link of the rating app itself; behind a proxy set server.proxies.",
            status=403,
        )
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        return Refused("The request does not say how long it is.", hint="Send a Content-Length.", status=411)
    if int(length) > _LARGEST_BODY and not path.startswith("/board/"):
        return Refused(f"The request has {length} bytes; {_LARGEST_BODY} are allowed.", hint="Send less.", status=413)
    return None


def _is_from_elsewhere(request: Request) -> bool:
    """By what the browser says of the page that asks. Programs say nothing; they hold no session to be misused."""
    origin = request.headers.get("origin")
    if (
        origin is not None
        and origin.lower() != f"{request.scope['scheme']}://{request.headers.get('host', '')}".lower()
    ):
        return True
    return request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none")


class Sessions(SessionMiddleware):
    """Signed sessions that a clock which is set back does not end."""

    def __init__(self, app: ASGIApp, *, secret_key: str, **settings: Any) -> None:
        super().__init__(app, secret_key=secret_key, **settings)
        self.signer = _ForwardSigner(secret_key)


class _ForwardSigner(TimestampSigner):
    """Its time never goes back: the sessions opened before would be of the future then, which counts as forged."""

    _latest = 0

    def get_timestamp(self) -> int:
        self._latest = max(self._latest, super().get_timestamp())
        return self._latest


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeStudy:
    """A study that was made, by its name."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Tasks that a closing page will not rate."""

    task_ids: list[str]


def build_server(
    store: Store,
    workspace: Workspace,
    live: Live,
    *,
    token: str,
    secret: str,
    rate: RateConfig,
    accounts: Accounts | None = None,
    root_path: str = "",
) -> FastAPI:
    """The whole app over an open store. Nothing is global: two servers in one process do not know of each other.

    Without `accounts` a name is enough to come in until somebody has an account of their own.
    """
    app = FastAPI(title="hitl", docs_url=None, redoc_url=None, openapi_url=None)
    copies = DisplayCopies(workspace)
    desk = RatingDesk(store, live, rate, copies if rate.display_copies else None)
    welcome = Welcome.of(store, rate, workspace.root)
    # From the secret, because it is the workspace's own and outlasts a restart. So short a hash gives nothing away.
    workspace_id = sha256(secret.encode()).hexdigest()[:8]
    accounts = accounts or Accounts(store)
    app.state.door = door = Doorkeeper(store, accounts, welcome, token, workspace_id)
    _answer_errors_in_words(app)
    add_entrance(app, desk, accounts, door)
    erasures = Erasures(store=store, workspace=workspace, write_report=build_report)
    add_administration(app, accounts, erasures, door)
    add_introduction(app, desk, welcome, door)
    _add_rating_routes(app, desk, door)
    add_own_data(app, desk, erasures, door)
    _add_image_routes(app, workspace, copies, door)
    _add_hub_routes(app, desk, workspace, door)
    add_live_report(app, store, workspace, door)
    # Within a running loop: outside of one Gradio makes a new event loop for every lock and leaves it open. In a thread
    # of its own, because the caller's may have one running already.
    with ThreadPoolExecutor(max_workers=1) as builder:
        builder.submit(lambda: asyncio.run(_mount_pages(app, desk, door))).result()
    app.add_middleware(PageGate, door=door)
    app.add_middleware(
        Sessions,
        secret_key=secret,
        session_cookie=door.cookie,
        max_age=_SESSION_DAYS * 24 * 3600,
        path=root_path or "/",
        same_site="lax",
    )
    app.add_middleware(Gatekeeper)
    return app


def _add_rating_routes(app: FastAPI, desk: RatingDesk, door: Doorkeeper) -> None:
    # Plain functions, not coroutines: FastAPI runs them in threads, so one fsync never holds up the others.
    known = Depends(door.rater_at_work)
    agreed = Depends(door.rater_who_agreed)

    @app.get("/api/me")
    def me(rater: Rater = known) -> dict[str, Any]:
        return door.describe(rater)

    @app.get("/api/tasks")
    def tasks(limit: int = 3, rater: Rater = agreed) -> dict[str, Any]:
        return desk.next_tasks(rater.rater_id, limit)

    @app.post("/api/ratings")
    def ratings(sent: Submission, rater: Rater = agreed) -> Receipt:
        return desk.accept(rater.rater_id, sent)

    @app.post("/api/undo")
    def undo(sent: Withdrawal, rater: Rater = known) -> Receipt:
        return desk.undo(rater.rater_id, sent)

    @app.post("/api/release")
    def release(given_back: Release, rater: Rater = known) -> dict[str, Any]:
        desk.release(rater.rater_id, given_back.task_ids)
        return {"released": len(given_back.task_ids)}


def _add_image_routes(app: FastAPI, workspace: Workspace, copies: DisplayCopies, door: Doorkeeper) -> None:
    # The name is the hash of the original's content, so the browser never needs to ask again.
    kept = {"Cache-Control": "private, max-age=31536000, immutable"}

    def read(request: Request, image_id: str) -> bytes:
        """The original, for whoever may see it."""
        if not door.is_researcher(request):
            door.rater(request)
        return original(door.store, workspace, image_id)

    @app.get("/image/{image_id}")
    def image(request: Request, image_id: str) -> Response:
        return Response(read(request, image_id), media_type="image/png", headers=kept)

    @app.get("/image/{image_id}/display")
    def display_copy(request: Request, image_id: str) -> FileResponse:
        read(request, image_id)  # of a picture that is damaged no copy is shown
        copy = copies.path(image_id)
        if copy is None:
            raise Refused("There is no such image.", hint="Skip this task.", status=404)
        return FileResponse(copy, media_type="image/webp", headers=kept)


def _add_hub_routes(app: FastAPI, desk: RatingDesk, workspace: Workspace, door: Doorkeeper) -> None:
    def authorise(request: Request) -> None:
        if not door.has_token(request):
            raise Refused(
                "This is for the commands of hitl only.", hint="Send the token that hub.json holds.", status=403
            )

    @app.get("/api/status")
    def status(request: Request) -> dict[str, Any]:
        if not door.is_researcher(request):
            authorise(request)
        now = desk.live.view()
        return {
            "round": now.round,
            "rounds": now.rounds,
            "stage": now.stage,
            "message": now.message,
            "done": now.done,
            "total": now.total,
            "eta_s": now.eta_s,
            "progress": desk.progress(),
            "raters": len(desk.store.raters()),
            "lost": lost_in_words(desk.store),
        }

    @app.post("/api/snapshot")
    def snapshot(request: Request) -> dict[str, str]:
        """A consistent copy of the store, in a folder only this user can read. Whoever asks deletes it."""
        authorise(request)
        path = Path(tempfile.mkdtemp(prefix="hitl-snapshot-")) / "store.duckdb"
        desk.store.copy_to(path)
        return {"path": str(path)}

    @app.post("/api/studies", dependencies=[Depends(authorise)])
    def studies(made: MadeStudy) -> dict[str, str]:
        """Ask people for a study that `hitl study new` has made in the workspace."""
        take_in(workspace, desk.store, made.name)
        return {"study": made.name}


async def _mount_pages(app: FastAPI, desk: RatingDesk, door: Doorkeeper) -> None:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before the import: Gradio would send home what runs where
    import gradio as gr

    from apps.board.page import build_board
    from apps.rate import build_rate_page

    @app.get("/board", response_model=None)
    def board(request: Request, key: str | None = None) -> Response:
        """The researcher comes with the key in the link once; then the session knows them and the link is clean."""
        if key is not None and door.is_token(key):
            request.session["researcher"] = True
        if not door.is_researcher(request):
            message, hint = RESEARCHER_ONLY
            raise Refused(message, hint=hint, status=403)
        return RedirectResponse("board/", status_code=303)

    shut: dict[str, Any] = {
        "footer_links": [],
        "run_history": False,
        "allowed_paths": [],
        "ssr_mode": False,
        "show_error": False,
        "max_file_size": "1kb",
        "app_kwargs": {"openapi_url": None, "exception_handlers": {HTTPException: _in_plain_words}},
    }
    board_page, board_look = build_board(desk, door.is_researcher)
    rate_page, rate_look = build_rate_page()
    gr.mount_gradio_app(
        app,
        board_page,
        path="/board",
        auth_dependency=lambda request: "researcher" if door.is_researcher(request) else None,
        **board_look,
        **shut,
    )
    gr.mount_gradio_app(app, rate_page, path="/", **rate_look, **shut)


def _answer_errors_in_words(app: FastAPI) -> None:
    @app.exception_handler(HitlError)
    def expected(request: Request, error: HitlError) -> Response:
        if isinstance(error, Refused):
            status = error.status
            if status in _MISUSE and (status != 401 or request.cookies):  # whoever comes first has no session yet
                log_refusal(request, error.message)
        elif isinstance(error, ConfigError):
            status = 400
        else:  # the disk is full, the store is shut: the browser keeps the rating and tries again
            logger.error("%s %s failed: %s", request.method, request.url.path, error.message)
            # The log tells paths and reasons; a rater cannot do anything with them, and they are none of theirs.
            told = (
                "The server’s disk is full." if isinstance(error, DiskFull) else "The server cannot store anything now."
            )
            return error_response(request, 503, told, "Tell whoever runs the project; nothing that you did is lost.")
        return error_response(
            request, status, error.message, error.hint, wait_s=error.wait_s if isinstance(error, Refused) else None
        )

    app.add_exception_handler(HTTPException, _in_plain_words)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:]) or "The request"
        return error_response(request, 422, f"{field}: {first['msg']}.", "Reload the page.")


def _in_plain_words(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = {404: "There is nothing here.", 405: "That cannot be done here.", 401: "Please say who you are first."}
    return error_response(request, error.status_code, known.get(error.status_code, str(error.detail)), "")


@dataclass(slots=True)
class RunningServer:
    """A server in a thread of this process."""

    url: str
    _server: uvicorn.Server
    _thread: threading.Thread
    _socket: socket.socket

    def stop(self, timeout_s: float = 10.0) -> None:
        """Finish the requests under way and go. Safe to call twice."""
        self._server.should_exit = True
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._server.force_exit = True
            self._thread.join(timeout_s)
        self._socket.close()


def serve(
    app: Callable[..., Any],
    host: str,
    port: int,
    *,
    names: Sequence[str] = (),
    proxies: Sequence[str] = (),
    root_path: str = "",
) -> RunningServer:
    """Serve the app until `stop`; port 0 takes any that is free. On a loopback address, for this machine's names only.

    `names` are further hosts that it goes by; `proxies` are the addresses whose `X-Forwarded-*` are believed.

    Raises:
        ConfigError: the address cannot be had, usually because another program listens there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Inherited by what it accepts. asyncio sets it only where the socket names its protocol, and without it the body of
    # an answer, written after the head, waits 40 ms for the client's delayed acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(
            f"The rating app cannot listen on {host}, port {port}: {getattr(error, 'strerror', None) or error}.",
            hint="Stop the program that uses the port, or choose another one with --set server.port=0 (any free port).",
        ) from error
    shown = "127.0.0.1" if host in ("0.0.0.0", "") else host
    shown = f"[{shown}]" if ":" in shown else shown
    if names or ipaddress.ip_address(listener.getsockname()[0]).is_loopback:
        app = HostGate(app, names=(*_OWN_NAMES, shown, *names))
    app = ProxyGate(app, proxies=proxies, root_path=root_path)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        proxy_headers=False,  # uvicorn believes them from this machine; `ProxyGate` from whom we were told to
        server_header=False,
        timeout_keep_alive=60,  # a person thinks for longer than uvicorn's 5 s, and a new connection costs time
        timeout_graceful_shutdown=2,  # an open page holds a heartbeat stream that never ends by itself
        ws="none",
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="rating-app", daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            listener.close()
            raise ConfigError("The rating app did not start.", hint="The log says why; `hitl doctor` checks the rest.")
        time.sleep(0.01)
    return RunningServer(f"http://{shown}:{listener.getsockname()[1]}", server, thread, listener)
