"""The doors for extension: entries of ours and of other packages, looked up quickly."""

from importlib.metadata import EntryPoint, EntryPoints

import pytest

from hitl.core import registry
from hitl.core.errors import UnknownName
from hitl.core.registry import Registry


def test_what_is_installed_is_read_once_however_often_names_are_asked_for(monkeypatch: pytest.MonkeyPatch):
    """Reading it takes milliseconds, and every rating asks."""
    asked = []

    def entry_points(*, group: str) -> EntryPoints:
        asked.append(group)
        return EntryPoints([EntryPoint(name="theirs", value="math:pi", group=group)])

    monkeypatch.setattr(registry, "entry_points", entry_points)
    numbers = Registry("number", {"ours": "math:tau"}, group="hitl.numbers")
    assert asked == []  # nor before anybody asks
    assert [round(numbers.load(name), 2) for name in ("theirs", "ours", "theirs")] == [3.14, 6.28, 3.14]
    assert numbers.names() == ["ours", "theirs"]
    with pytest.raises(UnknownName, match="no number called 'thiers'") as error:
        numbers.load("thiers")
    assert "Did you mean theirs" in error.value.hint
    assert asked == ["hitl.numbers"]
