"""The command line with wrong input: one sentence, what to do, exit code 1 or 2, no traceback."""

import json
import re
import socket
from pathlib import Path

import duckdb
import pytest

from data.workspace import Workspace
from hitl.commands.round import parse_duration, parse_raters
from hitl.core.errors import ConfigError
from tests.command import run_hitl


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HITL_WORKSPACE", raising=False)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("round --n 0", 2, "--n is 0, but must be 1 or more"),
        ("round --n -3", 2, "--n is -3"),
        ("round --n five", 2, "valid integer"),
        ("round --raters robots", 2, "--raters is 'robots'"),
        ("round --raters simulated:0", 2, "--raters is 'simulated:0'"),
        ("round --after soon", 2, "--after is 'soon'"),
        ("round --set train.epoch=3", 2, "train.epochs"),
        ("round --set draw.batch_size=0", 2, "draw.batch_size is 0"),
        ("round --raters simulated --set rate.overlap=2 --set server.port=0", 2, "rate.overlap wants 2 raters"),
        ("status", 1, "There is no workspace here"),
        ("report", 1, "There is no workspace here"),
        ("export out.parquet", 1, "There is no workspace here"),
        ("fit", 1, "There is no workspace here"),
        ("serve", 1, "There is no workspace here"),
        ("status -w nowhere", 1, "There is no store in"),
        ("pretrain out --part head", 2, "--part"),
        ("rounds", 2, "No such command 'rounds'"),
    ],
)
def test_wrong_use_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: str, code: int, message: str
):
    found, out, err = run_hitl(capsys, monkeypatch, *words.split())
    assert (found, out) == (code, "")
    assert message in re.sub(r"[\s│]+", " ", err)
    assert "Traceback" not in err
    if err.startswith("error:"):
        assert "hint:  " in err.splitlines()[-1]


def test_init_makes_a_workspace_once_where_it_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    assert run_hitl(capsys, monkeypatch, "init", "-w", "mine", "--set", "train.epochs=3")[0] == 0
    assert "epochs = 3" in (tmp_path / "mine" / "hitl.toml").read_text()
    code, _, err = run_hitl(capsys, monkeypatch, "init", "-w", "mine")
    assert (code, "is a workspace already" in err) == (1, True)
    monkeypatch.setenv("HITL_WORKSPACE", str(tmp_path / "named"))
    assert run_hitl(capsys, monkeypatch, "init")[0] == 0
    assert (tmp_path / "named" / "hitl.toml").exists()
    assert not (tmp_path / "hitl.toml").exists()


def test_status_of_a_new_workspace(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    run_hitl(capsys, monkeypatch, "init", "-w", "mine")
    code, out, _ = run_hitl(capsys, monkeypatch, "status", "--json", "-w", "mine")
    assert (code, json.loads(out)["rounds"]) == (0, [])
    code, out, _ = run_hitl(capsys, monkeypatch, "status", "-w", "mine")
    assert "Next: hitl round -w" in out


def test_a_workspace_of_a_newer_version_is_left_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    run_hitl(capsys, monkeypatch, "init", "-w", "mine")
    store = Workspace(tmp_path / "mine").store_path
    with duckdb.connect(str(store)) as connection:
        connection.execute("UPDATE store_state SET schema_version = 99")
    before = store.read_bytes()
    code, _, err = run_hitl(capsys, monkeypatch, "round", "-w", "mine", "--set", "server.port=0")
    assert (code, "99" in err) == (1, True)
    assert store.read_bytes() == before


def test_a_port_that_is_taken_names_the_setting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = run_hitl(capsys, monkeypatch, "round", "--set", f"server.port={port}")
    assert (code, f"{port}" in err, "--set server.port=0" in err) == (2, True, True)
    assert not Workspace(tmp_path / "workspace").hub_path.exists()


def test_raters_and_durations():
    assert [parse_raters(text) for text in ("human", "simulated", "simulated:3")] == [0, 1, 3]
    assert [parse_duration(text) for text in ("90s", "30m", "1.5h")] == [90, 1800, 5400]
    for text in ("", "30", "m", "-1m", "1d"):
        with pytest.raises(ConfigError):
            parse_duration(text)


def test_a_fit_without_ratings_or_of_a_missing_file_says_so(capsys, monkeypatch):
    run_hitl(capsys, monkeypatch, "init", "-w", "here")
    code, _, err = run_hitl(capsys, monkeypatch, "fit", "-w", "here")
    assert code == 1
    assert "There are no ratings to fit on." in err
    code, _, err = run_hitl(capsys, monkeypatch, "fit", "-w", "here", "--snapshot", "nothing.parquet")
    assert code == 1
    assert "nothing.parquet cannot be read: No such file" in err
    Path("junk.parquet").write_text("junk")
    code, _, err = run_hitl(capsys, monkeypatch, "fit", "-w", "here", "--snapshot", "junk.parquet")
    assert code == 1
    assert "The snapshot junk.parquet cannot be read" in err
    assert not Path("here/fits").exists()


def test_a_setting_that_its_section_refuses_is_named_alone(capsys, monkeypatch):
    code, _, err = run_hitl(capsys, monkeypatch, "init", "-w", "here", "--set", 'fit.heads=["forest"]')
    assert code == 2
    assert err.startswith("error: fit.heads is ['forest'], but must name some of linear, mlp")
