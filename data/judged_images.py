"""The pictures that a round was judged by, in one file for each model, with what lasting judges said of them."""

import io
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from data.workspace import write_atomically

_VALUE = "value:"
_DAMAGED = (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error, tokenize.TokenError)
"""What numpy raises over a file that it cannot read, by where the damage is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedImages:
    """Pictures of one model, in the order of their prompts and, within a prompt, of their index."""

    images: UInt8[np.ndarray, "batch 3 height width"]
    prompt_ids: tuple[str, ...]
    """Of each picture."""
    indices: tuple[int, ...]
    """Which of its prompt's pictures each one is; the same index is the same seed for every model."""
    checkpoint: str
    """Hash of the policy that drew them; empty for the reference."""
    judges: str = ""
    """Stands for the judges whose values these are; others' would be other values."""
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    """By measure, of each picture; float (batch,), nan where the measure has nothing to say."""

    def save(self, path: Path) -> None:
        """Write all of it, or nothing.

        Raises:
            WorkspaceError: the disk is full, or the folder cannot be written.
        """
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            images=self.images,
            prompt_ids=np.array(self.prompt_ids),
            indices=np.array(self.indices),
            checkpoint=np.array(self.checkpoint),
            judges=np.array(self.judges),
            **{f"{_VALUE}{name}": value for name, value in self.values.items()},  # type: ignore[arg-type]
        )
        write_atomically(path, buffer.getvalue())

    @classmethod
    def read(cls, path: Path) -> "JudgedImages | None":
        """What `save` wrote; None where there is no such file, or an earlier version's or a damaged one."""
        try:
            with path.open("rb") as file, np.load(file) as arrays:  # numpy leaves a file open that it cannot read
                return cls(
                    images=arrays["images"],
                    prompt_ids=tuple(arrays["prompt_ids"].tolist()),
                    indices=tuple(arrays["indices"].tolist()),
                    checkpoint=str(arrays["checkpoint"]),
                    judges=str(arrays["judges"]),
                    values={name.removeprefix(_VALUE): arrays[name] for name in arrays if name.startswith(_VALUE)},
                )
        except _DAMAGED:
            return None
