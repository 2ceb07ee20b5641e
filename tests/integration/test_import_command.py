"""`hitl import` from the command line: what it says and leaves behind, and that a reward is fitted on the result."""

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data.store import Store
from data.workspace import Workspace
from data.world.captions import prompts as world_prompts
from hitl.commands import import_
from hitl.core.errors import HitlError
from tests.imported import png, write_pngs

pytestmark = pytest.mark.long


def hitl(*words: object, code: int = 0) -> tuple[str, str]:
    """Stdout and stderr of one command, in a process of its own."""
    command = [sys.executable, "-m", "hitl.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def picks(count: int) -> list[dict[str, Any]]:
    return [
        {
            "caption": f"p {n}",
            "jpg_0": png(2 * n),
            "jpg_1": png(2 * n + 1),
            "label_0": 1.0,
            "label_1": 0.0,
            "user_id": n,
        }
        for n in range(count)
    ]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    found = Workspace(tmp_path / "here")
    Store.open(found, create=True).close()
    return found


def test_from_a_zip_with_some_rows_refused(workspace: Workspace, tmp_path: Path):
    rows = [*picks(30), *({**row, "jpg_0": b"broken"} for row in picks(25))]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train-00000-of-00001.parquet")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as packed:
        packed.write(tmp_path / "train-00000-of-00001.parquet", "set/data/train-00000-of-00001.parquet")
    trial, _ = hitl("import", tmp_path / "set.zip", "-w", workspace.root, "--dry-run")
    assert "30 ratings would be taken" in trial
    assert not (workspace.root / "imports").exists()
    out, _ = hitl("import", tmp_path / "set.zip", "-w", workspace.root)
    assert "read as pickapic: 55 rows." in out
    assert "30 ratings taken; 0 were here already" in out
    assert "25 could not be taken:" in out
    assert out.count("data/train-00000-of-00001.parquet row") == 20
    (listed,) = (workspace.root / "imports").glob("*-refused.jsonl")
    assert str(listed) in out
    refused = [json.loads(line) for line in listed.read_text().splitlines()]
    assert [each["row"].rpartition(" ")[2] for each in refused] == [str(n) for n in range(31, 56)]
    told = json.loads(hitl("import", tmp_path / "set.zip", "-w", workspace.root, "--json")[0])
    assert (told["format"], told["ratings"], told["known"], told["refused"]) == ("pickapic", 0, 30, 25)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nowhere", "There is no nowhere"),
        ("here/hitl.txt", "cannot be told from what is in it"),
        ("here/hitl.txt --format hpd", "There is no format 'hpd'"),
        ("here/hitl.txt --format hpdv2", "There is nothing in here/hitl.txt that can be read as hpdv2"),
        ("here/hitl.txt --format hpdv2 --tasks 5", "--tasks makes tasks of pictures without ratings"),
        ("here/hitl.txt --tasks -1", "--tasks is -1"),
        ("bad.zip", "bad.zip cannot be unpacked"),
    ],
)
def test_wrong_use_is_one_sentence(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, message: str
):
    monkeypatch.chdir(tmp_path)
    (workspace.root / "hitl.txt").write_text("a\n")
    (tmp_path / "bad.zip").write_bytes(b"PK")
    path, *options = words.split()
    named = dict(zip(options[::2], options[1::2], strict=True))
    tasks, format = int(named.get("--tasks", 0)), named.get("--format", "")
    with pytest.raises(HitlError, match=message.replace("(", r"\(")) as error:
        import_.run(Path(path), format, "", "", tasks, False, workspace.root, False)
    assert error.value.hint


def test_while_a_hub_runs_it_says_who_has_the_store(workspace: Workspace, tmp_path: Path):
    pq.write_table(pa.Table.from_pylist(picks(1)), tmp_path / "train.parquet")
    with Store.open(workspace):
        _, err = hitl("import", tmp_path / "train.parquet", "-w", workspace.root, code=1)
    assert "is held by process" in err
    assert "hint:  Stop it" in err


def test_pictures_of_a_folder_become_tasks(workspace: Workspace, tmp_path: Path):
    write_pngs(tmp_path / "set", 1, 2, 3)
    (tmp_path / "set/prompts.csv").write_text("file,prompt\n1.png,a fox\n2.png,a fox\n3.png,a fox\n")
    out, _ = hitl("import", tmp_path / "set", "-w", workspace.root, "--tasks", 2)
    assert "2 tasks made for people here to rate" in out
    assert f"Next: hitl serve -w {workspace.root}" in out
    assert "0 tasks made" not in hitl("import", tmp_path / "set", "-w", workspace.root, "--tasks", 2)[0]
    status = json.loads(hitl("status", "-w", workspace.root, "--json")[0])
    assert (status["images"], status["prompts"], status["rounds"]) == (3, 1, [])


@pytest.mark.slow  # a worker imports torch
def test_a_reward_is_fitted_on_what_was_imported_alone(workspace: Workspace, tmp_path: Path):
    """Bright images win: learned from comparisons that nobody here made."""
    rng = np.random.default_rng(0)
    texts = [prompt.text for prompt in world_prompts("colour", "train", 30)]
    rows = []
    for number in range(150):
        dark, bright = (_noise(rng, level) for level in (60, 190))
        first_is_bright = bool(rng.integers(2))
        pair = (bright, dark) if first_is_bright else (dark, bright)
        label = float(first_is_bright)
        rows.append(
            {
                "caption": texts[number % len(texts)],
                "jpg_0": pair[0],
                "jpg_1": pair[1],
                "label_0": label,
                "label_1": 1 - label,
                "user_id": number % 3,
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    hitl("import", tmp_path / "train.parquet", "-w", workspace.root)
    told = json.loads(hitl("fit", "-w", workspace.root, "--json", "--set", 'fit.heads=["linear"]')[0])
    assert told["report"]["answers"]["pairs"] == 150
    assert told["report"]["accuracy"]["mean"] > 0.9


def _noise(rng: np.random.Generator, level: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(level - 50, level + 50, (64, 64, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
