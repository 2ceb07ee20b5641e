"""Pictures whose files are gone or damaged: nobody is asked about them any more, and the researcher is told."""

import logging

from apps.session import Refused
from data.store import Store
from data.workspace import Workspace
from hitl.core.errors import ConfigError

logger = logging.getLogger(__name__)

_WHAT_HELPS = "Put the file back from a backup, then start hitl again: its tasks come back."


def original(store: Store, workspace: Workspace, image_id: str) -> bytes:
    """The file of a picture, which is as it was drawn; when it is not the picture is withdrawn.

    Raises:
        Refused: there is no such picture, or not any more.
    """
    try:
        content, fault = workspace.read_image(image_id)
    except ConfigError:
        raise _missing() from None
    if not fault:
        return content
    if store.withdraw_image(image_id, fault):
        logger.error(
            "The picture %s cannot be shown: its file %s. The tasks that show it are asked no more, and the round ends"
            " without them. %s",
            workspace.image_path(image_id),
            fault,
            _WHAT_HELPS,
        )
    raise _missing()


def restore_images(store: Store, workspace: Workspace) -> None:
    """Ask again about those pictures whose files are back."""
    for image in store.withdrawn_images():
        _, fault = workspace.read_image(image.image_id)
        if not fault:
            store.restore_image(image.image_id)
            logger.warning("The picture %s is back; its tasks are asked again.", workspace.image_path(image.image_id))


def lost_in_words(store: Store) -> str:
    """For the board and `hitl status`: which pictures are lost, and what helps; empty where none is."""
    lost = store.withdrawn_images()
    if not lost:
        return ""
    first, more = lost[0], len(lost) - 1
    told = f"A picture cannot be shown: the file of {first.image_id[:12]}… {first.reason}"
    others = f", and {more} more like it" if more else ""
    return f"{told}{others}. The tasks that show it are asked no more. {_WHAT_HELPS}"


def _missing() -> Refused:
    return Refused("There is no such image.", hint="Skip this task.", status=404)
