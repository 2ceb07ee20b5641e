"""Named, lazily imported entries: the four doors for extension (rewards, algorithms, rating kinds, model families)."""

import difflib
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from hitl.core.errors import UnknownName


def closest(name: str, known: list[str]) -> str:
    """A sentence with the known names most like `name`, and all of them where they are few."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    sentences = [f"Did you mean {' or '.join(near)}?"] if near else []
    if len(known) <= 12 or not near:
        sentences.append(f"Known: {', '.join(sorted(known))}.")
    return " ".join(sentences)


class Registry:
    """Name -> `module:attribute`. Listing names imports nothing; other packages add theirs by entry points."""

    def __init__(self, what: str, entries: Mapping[str, str], *, group: str) -> None:
        self._what = what
        self._entries = dict(entries)
        self._group = group

    def names(self) -> list[str]:
        return sorted({*self._entries, *(point.name for point in entry_points(group=self._group))})

    def load(self, name: str) -> Any:
        """The object of that name.

        Raises:
            UnknownName: no entry has it.
        """
        for point in entry_points(group=self._group):
            if point.name == name:
                return point.load()
        if name not in self._entries:
            raise UnknownName(f"There is no {self._what} called {name!r}.", hint=closest(name, self.names()))
        module, attribute = self._entries[name].split(":")
        return getattr(import_module(module), attribute)
