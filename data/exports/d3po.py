"""D3PO's preferences: a JSON list with 1 for the better image of each two, −1 for the worse, and 0 for both in a tie.

Its trainer lines the list up with the latents that its own sampling kept. We have images and no latents of theirs, so
`prompts.json` and `images.json` say, line by line, what each preference is about.
"""

from pathlib import Path

from data.exports.json_list import JsonLists
from data.exports.source import Source, Ties, Written

TIES: tuple[Ties, ...] = ("keep", "drop")
SPLITS = ("train", "validation", "test")

LOAD = """\
import json
from pathlib import Path
human_prefer, prompts, images = (
    json.loads((Path("FOLDER") / "train" / f"{name}.json").read_text(encoding="utf-8"))
    for name in ("human_prefer", "prompts", "images")
)
print(prompts[0], images[0], human_prefer[0])"""


def write(source: Source, folder: Path) -> Written:
    lists = JsonLists(folder)
    for vote in source.votes():
        preference = {1.0: [1, -1], 0.0: [-1, 1]}.get(vote.label, [0, 0])
        lists.add(f"{vote.split}/human_prefer", preference)
        lists.add(f"{vote.split}/prompts", vote.prompt)
        names = [f"images/{source.place(image_id, folder / 'images')}" for image_id in vote.images]
        lists.add(f"{vote.split}/images", names)
    counts = lists.close()
    return Written(
        rows={name.removesuffix("/prompts"): count for name, count in counts.items() if name.endswith("/prompts")},
        load=LOAD,
        notes=(
            "D3PO's `scripts/train.py` compares the numbers of any two of seven images of a prompt; here there are "
            "two to a prompt, so its `range(7)` is to be `range(2)`.",
            "It learns from latents that its `scripts/sample.py` kept. Those of our images are not in this export: "
            "`images.json` and `prompts.json` name, row by row, what was preferred. `hitl round` itself trains D3PO.",
            "The first image was displayed on the left (or first). Who said it is not in it.",
        ),
    )
