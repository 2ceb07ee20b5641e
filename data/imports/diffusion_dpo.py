"""What Diffusion-DPO's trainers read: Pick-a-Pic's columns for images, labels and captions. No raters are in it."""

from collections.abc import Iterator

from data.imports.files import Files, taken
from data.imports.pickapic import judged, tables
from data.imports.records import Item


def read(files: Files) -> Iterator[Item]:
    yield from taken(files.rows(tables(files)), lambda row: [judged(files, row, has_raters=False)])
