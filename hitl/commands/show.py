"""`hitl show`: where an image, a rating or a model comes from, back to its prompts and raters."""

import hashlib
import json
import re
from pathlib import Path

from data.provenance import Facts, Provenance, pseudonyms
from data.store import Store
from data.workspace import Workspace
from hitl.commands.chains import told
from hitl.commands.reading import open_for_reading
from hitl.core.errors import ConfigError, UnknownName
from hitl.report.page import plain

KINDS = ("image", "rating", "task", "checkpoint", "reward")
_SHORTEST = 6
"""Letters of an id that are taken for it."""
_MOST_CANDIDATES = 10


def run(words: list[str], names: bool, workspace: Path | None, as_json: bool) -> None:
    kind, which = _kind_and_which(words)
    folder = Workspace.find(workspace)
    with open_for_reading(folder) as store:
        raters = {rater.rater_id: rater.name for rater in store.raters()} if names else pseudonyms(store)
        facts = find(Provenance(store=store, workspace=folder, raters=raters), kind, which)
    print(json.dumps(plain(facts), indent=2, ensure_ascii=False) if as_json else told(facts))


def find(provenance: Provenance, kind: str, which: str) -> Facts:
    """The chain of what was named, by a round's number, a path, or the first letters of an id.

    Raises:
        UnknownName: there is nothing of that name, or it may be several things.
    """
    path = Path(which).expanduser()
    if kind in ("checkpoint", "reward"):
        if which.isdecimal():
            return provenance.checkpoint(int(which)) if kind == "checkpoint" else provenance.reward(int(which))
        return _of_folder(provenance, kind, path)
    if which.isdecimal() and not kind and len(which) < _SHORTEST:
        raise ConfigError(
            f"{which} may be the number of a round.", hint=f"Say `hitl show checkpoint {which}` or `reward {which}`."
        )
    if not kind and path.is_dir():
        return _of_folder(provenance, "reward" if _is_reward(path) else "checkpoint", path)
    if kind in ("", "image") and path.is_file():
        return provenance.image(_image_in(provenance.store, path))
    kind, found = _by_letters(provenance.store, kind, which)
    return getattr(provenance, kind)(found)


def _kind_and_which(words: list[str]) -> tuple[str, str]:
    if len(words) == 1:
        return "", words[0]
    if len(words) == 2 and words[0] in KINDS:
        return words[0], words[1]
    raise ConfigError(
        f"`hitl show {' '.join(words)}` names no thing.",
        hint=f"Name one: an id, a file or a folder; or a kind ({', '.join(KINDS)}) and its id or round.",
    )


def _of_folder(provenance: Provenance, kind: str, path: Path) -> Facts:
    if not path.is_dir():
        raise UnknownName(f"There is no {kind} {str(path)!r}.", hint="Name a round by its number, or the folder.")
    return provenance.checkpoint_in(path) if kind == "checkpoint" else provenance.reward_in(path.absolute())


def _is_reward(folder: Path) -> bool:
    return (folder / "fit.json").exists() or (folder / "reward" / "fit.json").exists()


def _image_in(store: Store, path: Path) -> str:
    """The image whose very bytes the file holds: its name may be another's."""
    image_id = hashlib.sha256(path.read_bytes()).hexdigest()
    if store.image(image_id) is None:
        raise UnknownName(
            f"{path} is no image of this workspace: none has these bytes.",
            hint="A copy that was saved by another program is another file. Name the image by its id.",
        )
    return image_id


def _by_letters(store: Store, kind: str, letters: str) -> tuple[str, str]:
    found = store.ids_beginning(letters, limit=10_000)
    found = [(each, name) for each, name in found if kind in ("", each)]
    if found and len(letters) < _SHORTEST and found[0][1] != letters:
        raise ConfigError(
            f"{letters!r} are too few letters of an id.", hint=f"Give {_SHORTEST} at least; `hitl show` takes the rest."
        )
    if not found:
        what = kind or "image, rating or task"
        raise UnknownName(f"There is no {what} whose id begins with {letters!r}.", hint=_hint(letters))
    if len(found) > 1:
        listed = ", ".join(f"{each} {name}" for each, name in found[:_MOST_CANDIDATES])
        more = f" and {len(found) - _MOST_CANDIDATES} more" if len(found) > _MOST_CANDIDATES else ""
        raise UnknownName(f"{letters!r} begins several ids: {listed}{more}.", hint="Give more letters, or the kind.")
    return found[0]


def _hint(letters: str) -> str:
    if re.search(r"[/.]", letters):
        return "There is no such file either. Check the path."
    return "`hitl export` and the report's pages name ids; a round's models go by `hitl show checkpoint 1`."
