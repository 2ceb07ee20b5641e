"""What the tests of the import share: small pictures, a workspace, and what is in it in words that compare."""

import hashlib
import importlib
import io
from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image

from data.imports import FORMATS
from data.imports.files import Files
from data.imports.guess import format_of
from data.imports.records import Refused
from data.imports.take import Taken, take
from data.store import Store
from data.workspace import Workspace


def png(number: int, size: tuple[int, int] = (2, 2)) -> bytes:
    """A picture of one colour, another for each number."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (number % 256, number // 256 % 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def png_id(number: int) -> str:
    return hashlib.sha256(png(number)).hexdigest()


def write_pngs(folder: Path, *numbers: int, ending: str = "png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / f"{number}.{ending}").write_bytes(png(number))


def a_workspace(folder: Path) -> tuple[Workspace, Store]:
    workspace = Workspace(folder)
    return workspace, Store.open(workspace, create=True)


def bring_in(
    store: Store, workspace: Workspace, path: Path, *, format: str = "", source: str = "src", **options: Any
) -> tuple[Taken, list[Refused]]:
    """Import a path, its format guessed unless it is given; what was taken and what was refused."""
    files = Files(path, options.pop("split", ""))
    module = importlib.import_module(f"data.imports.{FORMATS[format_of(files, format)][1]}")
    refused: list[Refused] = []
    taken = take(store, workspace, module.read(files), source=source, on_refused=refused.append, **options)
    return taken, refused


def said(store: Store) -> Counter[tuple[Any, ...]]:
    """Every comparison of two images: prompt, winner, loser (in order of ids for a tie), what it is, who said it."""
    names = {rater.rater_id: rater.name for rater in store.raters()}
    found: Counter[tuple[Any, ...]] = Counter()
    for each in store.comparisons():
        pair = (each.image_a, each.image_b) if each.outcome != "b" else (each.image_b, each.image_a)
        pair = tuple(sorted(pair)) if each.outcome == "tie" else pair
        what = "both bad" if each.both_bad else "tie" if each.outcome == "tie" else "better"
        found[(each.prompt, *pair, what, names[each.rater_id])] += 1
    return found


def values(store: Store) -> list[tuple[Any, ...]]:
    """Every ranking and all grades: prompt, each image's number by `write_pngs` with its value, and who said it."""
    names = {rater.rater_id: rater.name for rater in store.raters()}
    texts = {prompt.prompt_id: prompt.text for prompt in store.prompts()}
    tasks = {task.task_id: task for task in store.tasks()}
    found = []
    for rating in store.ratings():
        given = rating.payload.get("ranks") or rating.payload.get("grades", {}).get("overall")
        if given:
            by_image = dict(sorted(zip(rating.image_ids, given, strict=True)))
            found.append((texts[tasks[rating.task_id].prompt_id], by_image, names[rating.rater_id]))
    return found
