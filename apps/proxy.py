"""What lies between the browser and this server: reverse proxies, a sub-path, and the names that the app goes by."""

import ipaddress
from collections.abc import Collection, Sequence

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

_FORWARDED = b"x-forwarded-"


class ProxyGate:
    """Takes the word of the proxies that are configured, and of nobody else, for who asks what and how.

    `X-Forwarded-For`, `-Proto` and `-Host` become the request's own address, scheme and host, and are then removed:
    Gradio would believe them from anyone. The path is put under `root_path`, whether the proxy has cut it off or not.
    """

    def __init__(self, app: ASGIApp, *, proxies: Sequence[str] = (), root_path: str = "") -> None:
        self.root_path = root_path
        self.networks = [ipaddress.ip_network(proxy) for proxy in proxies]
        self.direct = _WithoutForwarded(app)
        self.by_proxy = ProxyHeadersMiddleware(self.direct, trusted_hosts=list(proxies))  # pyright: ignore[reportArgumentType]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.direct.app(scope, receive, send)
            return
        path = scope["path"]
        if self.root_path:
            is_under = path == self.root_path or path.startswith(f"{self.root_path}/")
            path = path if is_under else self.root_path + path
        scope = {**scope, "path": path, "root_path": self.root_path}
        if self._is_proxy(scope):
            scope["headers"] = _with_forwarded_host(scope["headers"])
            await self.by_proxy(scope, receive, send)  # pyright: ignore[reportArgumentType]
        else:
            await self.direct(scope, receive, send)

    def _is_proxy(self, scope: Scope) -> bool:
        try:
            address = ipaddress.ip_address((scope.get("client") or ("",))[0])
        except ValueError:
            return False
        return any(address in network for network in self.networks)


class _WithoutForwarded:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kept = [
            (name, value)
            for name, value in scope["headers"]
            if not name.startswith(_FORWARDED) and name not in (b"forwarded", b"x-real-ip")
        ]
        await self.app({**scope, "headers": kept}, receive, send)


def _with_forwarded_host(headers: Collection[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The host that the nearest proxy was asked for, as the request's own."""
    forwarded = [value for name, value in headers if name == b"x-forwarded-host"]
    if not forwarded:
        return list(headers)
    host = forwarded[-1].rpartition(b",")[2].strip()
    return [*((name, value) for name, value in headers if name != b"host"), (b"host", host)]


def local_path(scope: Scope) -> str:
    """The path within the app, whatever path a proxy serves the app under."""
    path, root_path = scope["path"], scope.get("root_path", "")
    if root_path and (path == root_path or path.startswith(f"{root_path}/")):
        return path[len(root_path) :] or "/"
    return path


def address_of(scope: Scope) -> str:
    """Where the request comes from, for the log and for counting tries."""
    client = scope.get("client")
    return client[0] if client else "unknown"
