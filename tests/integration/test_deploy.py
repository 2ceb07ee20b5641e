"""The proxies of docs/deploy.md, run as they stand there but for ports and certificates."""

import contextlib
import logging
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from apps.accounts import Accounts
from apps.server import RunningServer, build_server, serve
from data.store import Store
from data.workspace import Workspace
from hitl.config import RateConfig, load_config
from hitl.core.live import Live

DEPLOY = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text(encoding="utf-8")
PASSWORD = "four words that rhyme"
NGINX = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    {server}
}}
"""


def block(language: str) -> str:
    """The one code block of that language in the document."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", DEPLOY, re.DOTALL)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The hub's server as the document's hitl.toml sets it up."""
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "hitl.toml").write_text(block("toml"), encoding="utf-8")
    settings = load_config(folder / "hitl.toml", []).server
    assert not settings.is_local
    workspace = Workspace(folder)
    with Store.open(workspace, create=True) as store:
        Accounts(store).add("Boss", role="admin", password=PASSWORD)
        built = build_server(
            store, workspace, Live(), token="t", secret="s", rate=RateConfig(), root_path=settings.root_path
        )
        server = serve(
            built, "127.0.0.1", 0, names=["lab.example"], proxies=settings.proxies, root_path=settings.root_path
        )
        yield server
        server.stop()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("certificate")
    pem, key = folder / "lab.pem", folder / "lab.key"
    subject = ["-subj", "/CN=lab.example", "-addext", "subjectAltName=DNS:lab.example", "-days", "2"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", pem, *subject],
        check=True,
        capture_output=True,
    )
    return pem, key


@contextlib.contextmanager
def running(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None:
                raise AssertionError(process.stdout.read() if process.stdout else "")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture(params=["nginx", "caddy"])
def outside(
    request: pytest.FixtureRequest, app: RunningServer, certificate: tuple[Path, Path], tmp_path: Path
) -> Iterator[httpx.Client]:
    """A browser's view: https, the proxy's name, nothing of the hub."""
    program = shutil.which(request.param)
    if program is None:
        pytest.skip(f"needs {request.param}")
    port, (pem, key) = free_port(), certificate
    config = block(request.param).replace("127.0.0.1:7860", app.url.removeprefix("http://"))
    path = tmp_path / "proxy.conf"
    if request.param == "nginx":
        config = config.replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
        config = config.replace("/etc/ssl/lab.example.pem", str(pem)).replace("/etc/ssl/lab.example.key", str(key))
        path.write_text(NGINX.format(folder=tmp_path, server=config))
        command = [program, "-e", str(tmp_path / "nginx.log"), "-p", str(tmp_path), "-c", str(path)]
    else:
        config = config.replace("lab.example {", f"https://lab.example:{port} {{\n    tls {pem} {key}")
        path.write_text(f"{{\n    admin off\n    auto_https disable_redirects\n}}\n{config}")
        command = [program, "run", "--adapter", "caddyfile", "--config", str(path)]
    with (
        running(command, port),
        httpx.Client(
            base_url=f"https://127.0.0.1:{port}",
            verify=False,
            trust_env=False,
            timeout=30,
            headers={"Host": f"lab.example:{port}"},
        ) as client,
    ):
        yield client


def test_the_app_works_under_the_proxys_path(outside: httpx.Client, caplog: pytest.LogCaptureFixture):
    name = {"sni_hostname": "lab.example"}
    own = f"https://{outside.headers['host']}"
    assert outside.get("/rate", extensions=name).headers["location"].endswith("/rate/")
    assert outside.get("/rate/", extensions=name).headers["location"] == "join"
    assert "api/login" in outside.get("/rate/join", extensions=name).text
    login = {"name": "Boss", "password": PASSWORD}
    reply = outside.post("/rate/api/login", json=login, headers={"Origin": own}, extensions=name)
    assert reply.status_code == 200, reply.text
    assert {"secure", "path=/rate"} <= set(reply.headers["set-cookie"].lower().split("; "))
    session = {"Cookie": reply.headers["set-cookie"].partition(";")[0]}
    assert outside.get("/rate/api/me", headers=session, extensions=name).json()["name"] == "Boss"
    for path in ("/rate/", "/rate/board/"):
        page = outside.get(path, headers=session, extensions=name).text
        assert set(re.findall(r'"root":"([^"]*)"', page)) == {f"{own}{path.rstrip('/')}"}
    script = re.findall(r'src="\./(assets/[^"]*\.js)"', page)[0]
    assert outside.get(f"/rate/board/{script}", headers=session, extensions=name).status_code == 200
    call = {"data": [], "fn_index": 0, "session_hash": "abc"}
    asked = outside.post(
        "/rate/board/gradio_api/queue/join", json=call, headers={**session, "Origin": own}, extensions=name
    )
    assert asked.status_code == 200, asked.text
    news = "/rate/board/gradio_api/queue/data?session_hash=abc"
    with outside.stream("GET", news, headers=session, extensions=name) as stream:
        assert any("process_completed" in line for line in stream.iter_lines())


def test_nobody_outside_makes_the_app_believe_another_address_or_scheme(
    outside: httpx.Client, caplog: pytest.LogCaptureFixture
):
    name = {"sni_hostname": "lab.example"}
    lies = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "evil.example"}
    with caplog.at_level(logging.WARNING):
        reply = outside.post(
            "/rate/api/login", json={"name": "Boss", "password": "wrong"}, headers=lies, extensions=name
        )
    assert reply.status_code == 403
    assert "fit each other" in reply.text
    assert "203.0.113.9" not in caplog.text
    assert "127.0.0.1" in caplog.text
    evil = {"Origin": "https://evil.example", **lies}
    assert outside.post("/rate/api/login", json={}, headers=evil, extensions=name).status_code == 403
