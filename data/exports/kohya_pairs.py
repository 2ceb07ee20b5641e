"""Folders of winners and losers with captions, `<repeats>_<name>/{w,l}/`, for kohya's Diffusion-DPO."""

from collections import Counter
from pathlib import Path

from data.exports.source import Source, Ties, Written

TIES: tuple[Ties, ...] = ("drop",)
SPLITS = ("train", "validation", "test")
REPEATS = "1_pairs"

LOAD = """\
from pathlib import Path
winners = sorted(Path("FOLDER").glob("train/*/w/*.caption"))
print(winners[0].read_text(encoding="utf-8"), winners[0].parent.parent / "l" / f"{winners[0].stem}.png")"""


def write(source: Source, folder: Path) -> Written:
    rows: Counter[str] = Counter()
    for number, vote in enumerate(source.votes()):
        chosen, rejected = vote.images if vote.label == 1 else vote.images[::-1]
        for side, image_id in (("w", chosen), ("l", rejected)):
            place = folder / vote.split / REPEATS / side
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number:08d}.{source.ending}").write_bytes(source.image(image_id))
            (place / f"{number:08d}.caption").write_text(vote.prompt, encoding="utf-8", newline="")
        rows[vote.split] += 1
    return Written(
        rows=dict(rows),
        load=LOAD.replace(".png", f".{source.ending}"),
        notes=(
            "`train_data_dir` is the folder `train` in here: the winner in `w/` and the loser in `l/` have one name.",
            "Captions are the prompts as they are; kohya reads no further than the first line of one.",
            "An image is there as often as it was compared. Who said it is not in it.",
        ),
    )
