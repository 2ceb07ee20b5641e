"""A command of hitl as a person types it, in this process."""

import sys
from collections.abc import Callable

import pytest

from hitl.cli import main

Hitl = Callable[..., tuple[int, str, str]]


def run_hitl(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command."""
    monkeypatch.setattr(sys, "argv", ["hitl", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        main()
    captured = capsys.readouterr()
    code = caught.value.code
    return int(code) if isinstance(code, int | str) else 0, captured.out, captured.err
