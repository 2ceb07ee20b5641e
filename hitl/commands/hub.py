"""Start and stop the hub: the store's one owner, with the rating app in a thread of it."""

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from apps.server import RunningServer, build_server, serve
from data.store import Store
from data.workspace import Workspace, write_atomically
from hitl.commands.init import make_workspace
from hitl.config import load_config
from hitl.core.errors import WorkspaceError
from hitl.rounds import Hub


@dataclass(frozen=True, slots=True)
class Served:
    hub: Hub
    server: RunningServer
    token: str


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
        app = build_server(store, folder, hub.live, rate=config.rate, token=token, secret=_session_secret(folder))
        server = serve(app, config.server.host, config.server.port)
        announcement = {"pid": os.getpid(), "url": server.url, "token": token}
        write_atomically(folder.hub_path, json.dumps(announcement).encode(), mode=0o600)
        try:
            yield Served(hub, server, token)
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


def _session_secret(folder: Workspace) -> str:
    """Signs the raters' sessions; kept in the workspace, so that a restart logs nobody out."""
    path = folder.root / "session.key"
    if not path.exists():
        write_atomically(path, secrets.token_urlsafe(32).encode(), mode=0o600)
    return path.read_text()
