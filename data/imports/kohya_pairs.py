"""Pairs for kohya's Diffusion-DPO: folders `<repeats>_<name>/w` and `/l`, the winner and the loser under one name.

The prompt is in the winner's `.caption` (or `.txt`) file, else the loser's. Neither ties nor raters can be in it.
"""

from collections.abc import Iterator
from pathlib import Path

from data.imports.files import Files, Row, split_in_name, taken
from data.imports.records import Item, NotTaken, Picture, preference

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_CAPTIONS = (".caption", ".txt")


def read(files: Files) -> Iterator[Item]:
    winners = [path for path in files.find(*PICTURES) if path.parent.name == "w"]
    rows = (Row(files.name(path), _split(path), {"winner": path}, path.parent) for path in winners)
    wanted = (row for row in rows if not files.split or row.split == files.split)
    yield from taken(wanted, lambda row: [_judged(files, row)])


def _split(path: Path) -> str:
    return next(filter(None, (split_in_name(parent / "x") for parent in path.parents[:3])), "")


def _judged(files: Files, row: Row) -> Item:
    winner: Path = row.values["winner"]
    loser_dir = winner.parent.parent / "l"
    found = [loser_dir / f"{winner.stem}{ending}" for ending in (winner.suffix, *PICTURES)]
    loser = next((path for path in found if path.is_file()), None)
    if loser is None:
        raise NotTaken(f"has no loser of the same name in {files.name(loser_dir)}")
    captions = [place.with_suffix(ending) for place in (winner, loser) for ending in _CAPTIONS]
    caption = next((path for path in captions if path.is_file()), None)
    if caption is None:
        raise NotTaken("has no .caption file beside it")
    try:
        prompt = caption.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise NotTaken(f"has a caption that is not UTF-8: {error}") from error
    names = [path.relative_to(files.path).as_posix() for path in (winner, loser)]
    pictures = tuple(Picture(path=files.inside(name, [files.root])) for name in names)
    return preference("left", row=row.place, prompt=prompt, split=row.split, pictures=pictures)
