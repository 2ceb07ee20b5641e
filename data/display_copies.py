"""Copies of large images that the rating page shows: made once, kept in the workspace's cache, safe to delete."""

import logging
import threading
from collections.abc import Iterable
from pathlib import Path

from data.pictures import LARGEST_SHOWN, encode_display_copy
from data.workspace import Workspace, write_atomically

logger = logging.getLogger(__name__)

_LOCKS = 16


class DisplayCopies:
    """The copies of one workspace. Safe in many threads: of two that ask for a copy at once, one makes it."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        # Few locks for many images: two images that share one wait for each other, which costs a tenth of a second.
        self._making = tuple(threading.Lock() for _ in range(_LOCKS))

    def are_wanted(self, image_ids: Iterable[str]) -> bool:
        """Whether one of the images is so large that all are to be shown as copies.

        All: beside an original, a copy would not be judged on equal terms.
        """
        return any(map(self._is_large, image_ids))

    def _is_large(self, image_id: str) -> bool:
        try:
            return self._workspace.image_path(image_id).stat().st_size > LARGEST_SHOWN
        except FileNotFoundError:
            return False

    def path(self, image_id: str) -> Path | None:
        """The file of the copy, made now if it is not there; None when none can be made of the image.

        Raises:
            ConfigError: not an image id.
            WorkspaceError: the disk is full, or the folder cannot be written.
        """
        original = self._workspace.image_path(image_id)
        copy = self._workspace.display_dir / image_id[:2] / f"{image_id}.webp"
        with self._making[int(image_id[:2], 16) % _LOCKS]:
            if copy.is_symlink():
                logger.error("%s is a link, and was to be a file made here.", copy)
                return None
            if not copy.is_file():
                try:
                    content = encode_display_copy(original)
                except OSError as error:
                    logger.error("There is no copy to show of the image %s: %s", original, error)
                    return None
                write_atomically(copy, content)
        return copy
