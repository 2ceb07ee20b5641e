"""Keeps the pictures of an import as files of the workspace, each read and converted once however often it is named."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from data.imports.pictures import to_png
from data.imports.records import NotTaken, Picture
from data.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Kept:
    """A picture that is in the workspace (or would be)."""

    image_id: str
    width: int
    height: int
    changes: tuple[str, ...] = ()


class Keeper:
    """For one import. Of a trial nothing is written."""

    def __init__(self, workspace: Workspace, *, is_trial: bool) -> None:
        self.converted = 0
        """Pictures that were written anew, for they were no 8-bit RGB PNG."""
        self._workspace = workspace
        self._is_trial = is_trial
        self._pictures: dict[bytes, Kept | str] = {}
        """By the sha256 of what was given: the picture, or why it is none."""
        self._files: dict[Path | str | None, Kept] = {}
        """By path or id: those that were read."""

    def keep(self, picture: Picture) -> Kept:
        """The picture as a file of the workspace.

        Raises:
            NotTaken: it is none, or is neither here nor there.
        """
        content, place = picture.content, picture.path or picture.image_id
        if content is None and (known := self._files.get(place)) is not None:
            return known
        if content is None and picture.path is not None:
            try:
                content = picture.path.read_bytes()
            except OSError as error:
                raise NotTaken(
                    f"names the image {picture.path.name!r}, which cannot be read: {error.strerror}"
                ) from error
        if content is None:
            content, fault = self._workspace.read_image(picture.image_id or "")
            if fault:
                raise NotTaken(f"shows the image {picture.image_id}, which is neither beside it nor in this workspace")
        digest = hashlib.sha256(content).digest()
        known = self._pictures.get(digest)
        if known is None:
            known = self._pictures[digest] = self._convert(content)
        if isinstance(known, str):
            raise NotTaken(known)
        if picture.content is None:
            self._files[place] = known
        return known

    def _convert(self, content: bytes) -> Kept | str:
        try:
            png = to_png(content)
        except NotTaken as error:
            return str(error)
        image_id = hashlib.sha256(png.content).hexdigest()
        if not self._is_trial:
            self._workspace.add_image(png.content)
        self.converted += bool(png.changes)
        return Kept(image_id, png.width, png.height, png.changes)
