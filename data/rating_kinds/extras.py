"""What a rater may add to an answer of any kind: flags, points on artefacts, a note, the reason of a skip.

    {"flags": [["hands"], []], "points": [[[0.31, 0.72]], []], "note": "two left hands", "reason": "broken"}

Flags and points are lists for each image, in the order in which they were shown. A point is a share of the image's
width and height, from its upper left corner. All are optional, and nothing is learned from them.
"""

from collections.abc import Mapping
from typing import Any

from hitl.core.errors import ConfigError

FLAGS = ("artefact", "text", "hands", "mismatch", "unsafe")
"""Unless the project has its own list in `rate.flags`."""
_LONGEST_FLAG, _MOST_FLAGS = 40, 20
_MOST_POINTS = 50
_LONGEST_NOTE = 1000


def check_extras(payload: Mapping[str, Any], images: int) -> None:
    """Raise ConfigError when something was added that cannot be."""
    _check_lists("flags", payload.get("flags"), images, _MOST_FLAGS, _is_flag, f"names of 1 to {_LONGEST_FLAG} letters")
    _check_lists("points", payload.get("points"), images, _MOST_POINTS, _is_point, "pairs [x, y] from 0 to 1")
    for name in ("note", "reason"):
        text = payload.get(name, "")
        if not isinstance(text, str) or len(text) > _LONGEST_NOTE:
            raise ConfigError(
                f"{name} is {str(text)[:60]!r}….", hint=f"Send a text of at most {_LONGEST_NOTE} characters."
            )


def _check_lists(name: str, given: object, images: int, most: int, fits: Any, what: str) -> None:
    if given is None:
        return
    lists = given if isinstance(given, list) else []
    if len(lists) == images and all(
        isinstance(each, list) and len(each) <= most and all(map(fits, each)) for each in lists
    ):
        return
    raise ConfigError(
        f"{name} is {str(given)[:60]}.", hint=f"Send a list for each of {images} images, with at most {most} {what}."
    )


def _is_flag(each: object) -> bool:
    return isinstance(each, str) and 0 < len(each) <= _LONGEST_FLAG


def _is_point(each: object) -> bool:
    return (
        isinstance(each, list)
        and len(each) == 2
        and all(type(share) in (int, float) and 0 <= share <= 1 for share in each)
    )
