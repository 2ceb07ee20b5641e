"""The log that everything can be made again from: its chain, its torn tail, its refusals."""

import hashlib
import json
import logging
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from data.journal import START, Journal, canonical_json, read_entries
from hitl.core.errors import ConfigError, StoreError

AT = datetime(2026, 11, 20, tzinfo=UTC)


def _journal(path: Path, count: int) -> None:
    journal = Journal.open(path)
    for number in range(count):
        journal.append("counted", {"number": number, "text": "grün"}, AT)
    journal.close()


def test_lines_come_back_in_order_and_chain_as_documented(tmp_path: Path):
    """The oracle recomputes the hashes from the file with json and hashlib alone."""
    path = tmp_path / "journal.jsonl"
    _journal(path, 3)
    entries = list(read_entries(path))
    assert [(entry.event, entry.data["number"], entry.at) for entry in entries] == [
        ("counted", n, AT) for n in range(3)
    ]
    before = "0" * 64
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        found = json.loads(line)
        digest = found.pop("hash")
        text = json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert hashlib.sha256(text.encode()).hexdigest() == digest
        assert (found["seq"], found["prev"]) == (number, before)
        before = digest
    assert entries[-1].end.offset == path.stat().st_size


@pytest.mark.parametrize("kept", [1, 40, 150])
def test_a_torn_last_line_is_cut_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: int):
    path = tmp_path / "journal.jsonl"
    _journal(path, 3)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:kept])
    assert len(list(read_entries(path))) == 2
    with caplog.at_level(logging.WARNING):
        journal = Journal.open(path)
    assert f"cut its {kept} bytes" in caplog.text
    assert path.read_bytes() == b"".join(lines[:2])
    journal.append("counted", {"number": 7}, AT)
    journal.close()
    assert [entry.data["number"] for entry in read_entries(path)] == [0, 1, 7]


def test_a_line_without_its_newline_was_not_acknowledged(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    _journal(path, 2)
    path.write_bytes(path.read_bytes()[:-1])
    Journal.open(path).close()
    assert len(list(read_entries(path))) == 1


def test_a_torn_line_longer_than_a_read_is_cut_too(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    _journal(path, 1)
    whole = path.read_bytes()
    path.write_bytes(whole + b"x" * 200_000)
    Journal.open(path).close()
    assert path.read_bytes() == whole


def _change(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[1].replace(b'"number":1', b'"number":9'), *lines[2:]]


def _drop(lines: list[bytes]) -> list[bytes]:
    return [lines[0], *lines[2:]]


def _repeat(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[1], lines[1], *lines[2:]]


def _swap(lines: list[bytes]) -> list[bytes]:
    return [lines[1], lines[0], *lines[2:]]


def _garble(lines: list[bytes]) -> list[bytes]:
    return [lines[0], b"\0\0\0\n", *lines[2:]]


@pytest.mark.parametrize("spoil", [_change, _drop, _repeat, _swap, _garble])
def test_a_changed_lost_or_added_line_is_noticed(tmp_path: Path, spoil):
    path = tmp_path / "journal.jsonl"
    _journal(path, 4)
    path.write_bytes(b"".join(spoil(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(StoreError, match="changed or damaged"):
        Journal.open(path)


def test_opening_behind_a_position_reads_only_what_is_new(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    _journal(path, 5)
    entries = list(read_entries(path))
    journal = Journal.open(path, after=entries[2].end)
    assert [entry.data["number"] for entry in journal.read(entries[2].end)] == [3, 4]
    assert journal.end == entries[4].end
    journal.close()


def test_a_journal_that_lost_what_the_store_has_seen_is_refused(tmp_path: Path):
    """A journal put back from an older backup, and one of another workspace."""
    path, other = tmp_path / "journal.jsonl", tmp_path / "other.jsonl"
    _journal(path, 5)
    last = list(read_entries(path))[-1].end
    _journal(other, 4)
    with pytest.raises(StoreError, match="different ages"):
        Journal.open(other, after=last)
    journal = Journal.open(other)
    journal.append("counted", {"number": 5, "text": "grau"}, AT)
    journal.close()
    with pytest.raises(StoreError, match="different ages"):
        Journal.open(other, after=last)
    Journal.open(path, after=START).close()


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, "\ud800", object()])
def test_what_json_cannot_hold_is_refused(value: object):
    with pytest.raises(ConfigError):
        canonical_json({"value": value})


_LIMITED = """
import resource, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from data.journal import Journal
path = Path(sys.argv[1])
journal = Journal.open(path)
journal.append("small", {"text": "x"}, datetime.now(UTC))
size = path.stat().st_size
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, size + 100))
try:
    journal.append("large", {"text": "y" * 1000}, datetime.now(UTC))
except OSError as error:
    print("failed")
assert path.stat().st_size == size
"""


def test_an_append_that_fails_half_way_leaves_nothing_behind(tmp_path: Path):
    """A file size limit stands in for a full disk: the line is written in part, then refused."""
    path = tmp_path / "journal.jsonl"
    run = subprocess.run([sys.executable, "-c", _LIMITED, str(path)], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "failed\n"), run.stderr
    assert [entry.event for entry in read_entries(path)] == ["small"]
