"""A JSON file that is one list, written item by item: no trainer of old reads anything else."""

import json
from pathlib import Path
from typing import Any, TextIO


class JsonList:
    """One item to a line, so that people can look into it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = path.open("w", encoding="utf-8")
        self._file.write("[")
        self.length = 0

    def add(self, item: Any) -> None:
        self._file.write(",\n" if self.length else "\n")
        self._file.write(json.dumps(item, ensure_ascii=False))
        self.length += 1

    def close(self) -> int:
        """Finish the file; how many items are in it."""
        self._file.write("\n]\n")
        self._file.close()
        return self.length


class JsonLists:
    """Lists by name, each made when its first item comes: `NAME.json`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lists: dict[str, JsonList] = {}

    def add(self, name: str, item: Any) -> None:
        if name not in self._lists:
            self._lists[name] = JsonList(self._folder / f"{name}.json")
        self._lists[name].add(item)

    def close(self) -> dict[str, int]:
        """Finish the files; how many items are in each."""
        return {name: found.close() for name, found in self._lists.items()}
