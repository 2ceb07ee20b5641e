"""`hitl export` as a command: what it writes, what it refuses, what is left when it is killed, and the hub."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq
import pytest

from data.copies import copies
from data.exports import FORMATS, load_format
from data.store import Store
from data.workspace import Workspace
from hitl.cli import main
from tests.fixtures.rated import COMPARISONS, TIES, Rated

pytestmark = pytest.mark.long

Command = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Rated:
    return Rated(tmp_path_factory.mktemp("rated"))


@pytest.fixture
def export(rated: Rated, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """`hitl export`: exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hitl", "export", *map(str, words), "-w", str(rated.workspace.root)])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return run


def test_a_folder_is_written_once_and_noted(rated: Rated, tmp_path: Path, export: Command):
    out = tmp_path / "deeper" / "mine"
    code, told, err = export(out, "--format", "pickapic", "--license", "cc-by-4.0", "--names")
    assert (code, told, err) == (0, f"{out}: {COMPARISONS} in train\n", "")
    assert "license: cc-by-4.0" in (out / "README.md").read_text()
    noted = copies(rated.workspace)[-1]
    assert (noted.kind, noted.path, noted.has_names) == ("export", out, True)
    with Store.open(rated.workspace) as store:
        assert noted.seq == store.position
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    code, _, err = export(out, "--format", "pickapic")
    assert (code, "is there already" in err) == (2, True)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert [path.name for path in out.parent.iterdir()] == ["mine"]


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_a_single_file_is_a_table_of_comparisons(ending: str, rated: Rated, tmp_path: Path, export: Command):
    out = tmp_path / f"mine.{ending}"
    assert export(out) == (0, f"{COMPARISONS} comparisons in {out}\n", "")
    if ending == "parquet":
        rows = pq.read_table(out).to_pylist()
        assert {row["rater"] for row in rows} == {"rater-001", "rater-002"}
        assert all((rated.workspace.root / row["image_a"]).is_file() for row in rows)
    assert export(out)[0] == 2
    dropped = tmp_path / f"dropped.{ending}"
    assert export(dropped, "--ties", "drop")[1].startswith(f"{COMPARISONS - TIES} comparisons")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"dropped.{ending}", f"mine.{ending}"]


def test_raters_are_chosen_by_name_or_pseudonym(tmp_path: Path, export: Command):
    counts = [export(tmp_path / f"{i}.jsonl", "--rater", name)[1] for i, name in enumerate(("Bob", "rater-002", "bob"))]
    assert [told.split()[0] for told in counts] == ["5", "5", "5"]
    both = export(tmp_path / "both.jsonl", "--rater", "Bob", "--rater", "Ann")[1]
    assert both.startswith(f"{COMPARISONS} ")
    code, _, err = export(tmp_path / "none.jsonl", "--rater", "Eve")
    assert (code, "There is no rater 'Eve'" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("out", "--format", "webp"), 2, "'webp' is not known"),
        (("out",), 2, "is not known"),
        (("out", "--format", "kohya-pairs", "--ties", "half"), 2, "kohya-pairs has no way to say"),
        (("out", "--format", "trl", "--ties", "maybe"), 2, "--ties is 'maybe'"),
        (("out", "--format", "trl", "--split", "by-rater"), 2, "--split is 'by-rater'"),
        (("out", "--format", "csv", "--split", "by-prompt"), 2, "Its column `split`"),
        (("out", "--format", "csv", "--image-format", "jpeg"), 2, "keep the very files"),
        (("out", "--format", "trl", "--image-format", "gif"), 2, "Use png or jpeg"),
        (("out", "--format", "trl", "--round", "7"), 1, "There is nothing to export as trl"),
        (("out.parquet", "--round", "7"), 1, "There are no comparisons to export"),
        (("out.parquet", "--round", "0"), 1, "There are no comparisons to export"),
        (("out.parquet", "--push-to-hub", "me/it"), 2, "The hub takes a folder"),
        (("out.safetensors", "--names"), 2, "kohya takes --round alone"),
    ],
)
def test_wrong_use_is_said_and_writes_nothing(
    words: tuple[str, ...], code: int, message: str, tmp_path: Path, export: Command
):
    found, out, err = export(tmp_path / words[0], *words[1:])
    assert (found, out) == (code, "")
    assert message in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", FORMATS)
def test_every_way_with_ties_that_a_format_offers_is_told_in_its_card(format: str, tmp_path: Path, export: Command):
    for ties in load_format(format).TIES:
        code, _, err = export(tmp_path / ties, "--format", format, "--ties", ties)
        assert (code, err) == (0, "")
        card = (tmp_path / ties / "README.md").read_text(encoding="utf-8")
        said = {"keep": "Ties are kept", "drop": f"Ties are dropped ({TIES})", "half": "A tie counts half"}
        assert said[ties] in card
        assert json.loads((tmp_path / ties / "manifest.json").read_text())["options"]["ties"] == ties


def test_the_card_says_what_a_stranger_has_to_know(rated: Rated, tmp_path: Path, export: Command):
    export(tmp_path / "out", "--format", "imagereward", "--split", "by-prompt")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "license: unknown" in card
    assert "Licence: not stated." in card
    assert "1 of 2 raters agreed to the text of version `v1`" in card
    assert "Raters go by pseudonyms" in card
    assert "Split by prompt" in card
    # Of 4 pairs 2 were answered alike; of 8 answers 3 are a, 3 are b, one is a tie and one both bad:
    # 1 - 4 / ((8² - 3² - 3² - 1 - 1) / 7) = 1 - 28 / 44.
    assert re.search(r"- Pairs: 0\.36 \[.*\], from 4 things that two or more raters judged", card)


def test_the_workspaces_own_licence_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, export: Command):
    workspace = Rated(tmp_path / "workspace").workspace
    workspace.config_path.write_text('[export]\nlicense = "cc0-1.0"\n')
    for name, words in (("one", ()), ("other", ("--license", "mit"))):
        monkeypatch.setattr(
            sys,
            "argv",
            ["hitl", "export", str(tmp_path / name), "--format", "arena", *words, "-w", str(workspace.root)],
        )
        with pytest.raises(SystemExit):
            main()
    assert "Licence: cc0-1.0." in (tmp_path / "one" / "README.md").read_text()
    assert "Licence: mit." in (tmp_path / "other" / "README.md").read_text()


_KILLED_WHILE_WRITING = """
import os, signal, sys
import data.exports.folder as folder
def kill(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
folder.write_card = kill
from hitl.cli import main
sys.argv = ["hitl", "export", *sys.argv[1:]]
main()
"""


def test_killed_halfway_nothing_has_the_name(rated: Rated, tmp_path: Path, export: Command):
    out = tmp_path / "out"
    words = [str(out), "--format", "trl", "-w", str(rated.workspace.root)]
    run = subprocess.run([sys.executable, "-c", _KILLED_WHILE_WRITING, *words], cwd=ROOT, check=False, timeout=60)
    assert run.returncode == -signal.SIGKILL
    assert not out.exists()
    assert export(out, "--format", "trl")[0] == 0
    assert (out / "manifest.json").exists()


def test_a_place_where_nothing_can_be_is_said(tmp_path: Path, export: Command):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "out", tmp_path / "file" / "out.csv"):
        code, _, err = export(out, "--format", "csv")
        assert (code, "is no folder" in err) == (2, True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, export: Command):
    tmp_path.chmod(0o500)
    code, _, err = export(tmp_path / "out", "--format", "trl")
    assert (code, "cannot be written" in err) == (1, True)


# -- the hub --------------------------------------------------------------------------------------------------------


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload of small files asks for."""

    token: ClassVar[str] = "hf_test"
    made: ClassVar[list[dict[str, Any]]] = []
    cards: ClassVar[list[str]] = []
    files: ClassVar[dict[str, str]] = {}

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, status: int, told: Any) -> None:
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _is_known(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {self.token}":
            return True
        self._answer(401, {"error": "Invalid credentials"})
        return False

    def do_GET(self) -> None:
        if self._is_known():
            self._answer(200, {"name": "me", "type": "user", "auth": {"accessToken": {"role": "write"}}})

    def do_POST(self) -> None:
        body = self._body()
        if not self._is_known():
            return
        if self.path == "/api/repos/create" and self.made:
            self._answer(409, {"error": "You already created this dataset repo"})
        elif self.path == "/api/repos/create":
            self.made.append(json.loads(body))
            self._answer(200, {"url": f"http://{self.headers['Host']}/datasets/me/ratings"})
        elif self.path == "/api/validate-yaml":
            self.cards.append(json.loads(body)["content"])
            self._answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            names = [each["path"] for each in json.loads(body)["files"]]
            answers = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            self._answer(200, {"files": answers})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = line["value"]["content"]
            address = f"http://{self.headers['Host']}/datasets/me/ratings"
            self._answer(200, {"commitUrl": f"{address}/commit/1", "commitOid": "1" * 40, "success": True})
        else:
            self._answer(404, {"error": self.path})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    Hub.made.clear()
    Hub.files.clear()
    Hub.cards.clear()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def pushed(
    hub: ThreadingHTTPServer | None, workspace: Workspace, out: Path, **environment: str
) -> tuple[int, str, str]:
    """In a process of its own: where the hub is and whether it may be asked is read once, when it is imported."""
    endpoint = f"http://127.0.0.1:{hub.server_address[1] if hub else 9}"
    words = [str(out), "--format", "arena", "--push-to-hub", "me/ratings", "-w", str(workspace.root)]
    run = subprocess.run(
        [sys.executable, "-m", "hitl.cli", "export", *words],
        cwd=ROOT,
        env=os.environ
        | {
            "HF_ENDPOINT": endpoint,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(out.parent / "home"),
        }
        | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return run.returncode, run.stdout, run.stderr


def test_the_folder_is_sent_to_the_hub_as_a_private_data_set(hub: ThreadingHTTPServer, rated: Rated, tmp_path: Path):
    code, told, err = pushed(hub, rated.workspace, tmp_path / "out", HF_TOKEN=Hub.token)
    assert code == 0, err
    assert "Sent to http://127.0.0.1" in told
    assert (Hub.made[0]["name"], Hub.made[0]["type"], Hub.made[0]["visibility"]) == ("ratings", "dataset", "private")
    wanted = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert set(Hub.files) == wanted
    assert set(Hub.cards) == {(tmp_path / "out" / "README.md").read_text(encoding="utf-8")}


def test_a_data_set_that_is_on_the_hub_already_is_left_alone(hub: ThreadingHTTPServer, rated: Rated, tmp_path: Path):
    """It may be public, and the names of raters in the export."""
    Hub.made.append({"name": "ratings"})
    code, _, err = pushed(hub, rated.workspace, tmp_path / "out", HF_TOKEN=Hub.token)
    assert (code, "me/ratings is on the hub already" in err, "Traceback" in err) == (2, True, False), err
    assert not Hub.files


def test_without_a_token_or_the_right_one_the_export_stays_and_the_reason_is_said(
    hub: ThreadingHTTPServer, rated: Rated, tmp_path: Path
):
    for name, token, message in (("none", "", "There is no token"), ("wrong", "hf_wrong", "does not let this token")):
        code, told, err = pushed(hub, rated.workspace, tmp_path / name, HF_TOKEN=token)
        assert (code, "Traceback" in err) == (2, False), err
        assert message in err
        assert str(tmp_path / name) in err
        assert told.startswith(str(tmp_path / name))
        assert (tmp_path / name / "README.md").exists()


def test_a_hub_that_does_not_answer_is_said(rated: Rated, tmp_path: Path):
    code, _, err = pushed(None, rated.workspace, tmp_path / "out", HF_TOKEN=Hub.token)
    assert (code, "The hub does not answer" in err, "Traceback" in err) == (1, True, False), err
    code, _, err = pushed(None, rated.workspace, tmp_path / "off", HF_TOKEN=Hub.token, HF_HUB_OFFLINE="1")
    assert (code, "The hub does not answer" in err, "Traceback" in err) == (1, True, False), err
