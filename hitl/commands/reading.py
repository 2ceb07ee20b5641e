"""Read a workspace's store from another process: through the running hub when there is one, else from the file."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from data.lock import holder
from data.store import Store
from data.workspace import Workspace
from hitl.core.errors import ConfigError, StoreError

_COPYING_S = 600
"""A copy of ten million ratings takes minutes on a slow disk."""


@contextlib.contextmanager
def open_for_reading(workspace: Workspace) -> Iterator[Store]:
    """The store, or a consistent copy that the hub made for us.

    Raises:
        StoreError: another process holds the store and does not answer.
    """
    if holder(workspace.lock_path) is None:
        with Store.open(workspace) as store:
            yield store
        return
    with copy_of_store(workspace) as path, Store.open_snapshot(path) as store:
        yield store


@contextlib.contextmanager
def copy_of_store(workspace: Workspace) -> Iterator[Path]:
    """The file of a consistent copy of the store, made by whoever owns it and deleted afterwards.

    Raises:
        StoreError: another process holds the store and does not answer.
    """
    if holder(workspace.lock_path) is None:
        with tempfile.TemporaryDirectory(prefix="hitl-snapshot-") as folder:
            path = Path(folder) / "store.duckdb"
            with Store.open(workspace) as store:
                store.copy_to(path)
            yield path
        return
    path = Path(ask_hub(workspace, "POST", "/api/snapshot", timeout_s=_COPYING_S)["path"])
    try:
        yield path
    finally:
        shutil.rmtree(path.parent, ignore_errors=True)


def ask_hub(
    workspace: Workspace, method: str, path: str, body: dict[str, Any] | None = None, *, timeout_s: float = 30
) -> dict[str, Any]:
    """One call of the running hub's API.

    Raises:
        ConfigError: it refused what was asked, in its own words.
        StoreError: there is a holder of the store that does not answer.
    """
    held_by = holder(workspace.lock_path)
    try:
        hub = json.loads(workspace.hub_path.read_text())
        body = (body or {}) if method == "POST" else None
        headers = {"Authorization": f"Bearer {hub['token']}"}
        # The hub is on this machine: the environment's proxy must not see the token.
        answer = httpx.request(
            method, hub["url"] + path, headers=headers, json=body, timeout=timeout_s, trust_env=False
        )
        told = answer.json()
        refusal = ConfigError(told["error"], hint=told["hint"]) if answer.is_client_error else None
        if refusal is None:
            answer.raise_for_status()
            return told
    except (OSError, ValueError, KeyError, httpx.HTTPError) as error:
        who = f"process {held_by.pid} ({held_by.command})" if held_by else "another process"
        raise StoreError(
            f"The store is held by {who}, and it does not answer: {error}.",
            hint="Wait until it has started, or stop it and try again.",
        ) from error
    raise refusal
