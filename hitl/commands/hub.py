"""Start and stop the hub: the store's one owner, with the rating app in a thread of it."""

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import FastAPI

from apps.accounts import Accounts
from apps.lost_images import restore_images
from apps.server import RunningServer, build_server, serve
from data.erasing import Erasures
from data.store import Store
from data.workspace import Workspace, write_atomically
from hitl.commands.init import make_workspace
from hitl.config import ServerConfig, load_config
from hitl.core.errors import ConfigError, WorkspaceError
from hitl.report import build_report
from hitl.rounds import Hub


@dataclass(frozen=True, slots=True)
class Served:
    hub: Hub
    server: RunningServer
    token: str
    public_url: str
    """Where people reach the app: through the proxy, where there is one."""


@contextlib.contextmanager
def running_hub(workspace: Path | None, settings: list[str], *, create: bool) -> Iterator[Served]:
    """The hub of a workspace, its app served and announced in hub.json; all of it ends with the block."""
    folder = _find(workspace, create)
    if create and not folder.config_path.exists():
        make_workspace(folder, settings)
    config = load_config(folder.config_path, settings)
    with Store.open(folder, create=create) as store:
        hub = Hub(workspace=folder, store=store, config=config, settings=settings)
        token = secrets.token_urlsafe(24)
        erasures = Erasures(store=store, workspace=folder, write_report=build_report)
        erasures.finish()
        erasures.finish_later()
        _require_accounts(store, config.server, folder)
        restore_images(store, folder)
        app = build_server(
            store,
            folder,
            hub.live,
            token=token,
            secret=_session_secret(folder),
            rate=config.rate,
            accounts=Accounts(store, open_join=config.server.open_join and config.server.is_local),
            root_path=config.server.root_path,
        )
        server = _serve(app, config.server)
        public_url = config.server.public_url.rstrip("/") or f"{server.url}{config.server.root_path}"
        announcement = {"pid": os.getpid(), "url": server.url, "token": token, "public_url": public_url}
        write_atomically(folder.hub_path, json.dumps(announcement).encode(), mode=0o600)
        try:
            yield Served(hub, server, token, public_url)
        finally:
            folder.hub_path.unlink(missing_ok=True)
            hub.worker.stop()
            server.stop()


def _find(workspace: Path | None, create: bool) -> Workspace:
    """The workspace that was named or found; where none is and one may be made, `./workspace`."""
    try:
        return Workspace.find(workspace)
    except WorkspaceError:
        if not create:
            raise
        return Workspace.find(Path("workspace"))


def _require_accounts(store: Store, server: ServerConfig, folder: Workspace) -> None:
    """Raise a ConfigError where other machines could ask and nobody would have to say who they are."""
    if not server.is_local and not store.has_accounts():
        where = server.public_url or server.host
        raise ConfigError(
            f"Other machines could reach the rating app at {where}, but nobody has an account yet.",
            hint=f"Make one first: hitl raters add NAME --role admin -w {folder.root}",
        )


def _serve(app: FastAPI, server: ServerConfig) -> RunningServer:
    public_host = urlsplit(server.public_url).hostname
    return serve(
        app,
        server.host,
        server.port,
        names=[public_host] if public_host else [],
        proxies=server.proxies,
        root_path=server.root_path,
    )


def _session_secret(folder: Workspace) -> str:
    """Signs the raters' sessions; kept in the workspace, so that a restart logs nobody out."""
    path = folder.root / "session.key"
    if not path.exists():
        write_atomically(path, secrets.token_urlsafe(32).encode(), mode=0o600)
    return path.read_text()
