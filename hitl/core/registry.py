"""Named, lazily imported entries: the four doors for extension (rewards, algorithms, rating kinds, model families)."""

import difflib
from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
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

    @cached_property
    def _points(self) -> Mapping[str, EntryPoint]:
        """Of other packages. Looked up once: it reads the metadata of all that is installed, which takes 10 ms."""
        return {point.name: point for point in entry_points(group=self._group)}

    def names(self) -> list[str]:
        return sorted({*self._entries, *self._points})

    def load(self, name: str) -> Any:
        """The object of that name.

        Raises:
            UnknownName: no entry has it.
        """
        if name in self._points:
            return self._points[name].load()
        if name not in self._entries:
            raise UnknownName(f"There is no {self._what} called {name!r}.", hint=closest(name, self.names()))
        module, attribute = self._entries[name].split(":")
        return getattr(import_module(module), attribute)
