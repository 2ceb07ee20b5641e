"""What is exported, as streams: two images that were compared, images that were ranked or graded, and image files."""

import functools
import io
import json
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from PIL import Image

from data.records import OVERALL
from data.store import Store
from data.streams import Selection
from data.workspace import Workspace
from hitl.core.errors import ConfigError

Ties = Literal["keep", "drop", "half"]
ImageFormat = Literal["png", "jpeg"]

JPEG_QUALITY = 95
_CACHED_IMAGES = 64
"""Ratings of one task follow each other, so that an image is often wanted again at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How it is exported, whatever the format."""

    format: str
    ties: Ties
    by_split: bool = False
    """Held-out prompts are kept apart, by the format's own names."""
    image_format: ImageFormat = "png"
    license: str = ""
    splits: tuple[str, str, str] = ("train", "validation", "test")
    """What the format calls the parts for training, validation and testing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One answer of one rater, and what it is about."""

    rating_id: str
    round: int
    task_id: str
    prompt_id: str
    prompt: str
    task: str
    split: str
    """Where the format puts it."""
    rater: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote(Said):
    """What one rater said of two images, in the order in which they were displayed."""

    rater_number: int
    """From 1, in the order of joining."""
    images: tuple[str, str]
    """Ids: displayed on the left (or first), and on the right."""
    label: float
    """Of the first: 1 where it won, 0 where it lost, 0.5 for a tie."""
    both_bad: bool
    propensity: float
    server_time: datetime
    models: tuple[str, str] = ("", "")
    """What drew them; empty unless it was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group(Said):
    """What one rater said of the images of one task."""

    images: tuple[str, ...]
    """Ids, in the task's order."""
    ranks: tuple[int, ...]
    """By the overall judgement: 1 is best, equal is a tie, without gaps. Empty where nothing was said overall."""
    grades: dict[str, tuple[int, ...]]
    """By axis; empty where images were not graded."""
    levels: int
    """Grades that an image could get, from 1; 0 where images were not graded."""

    def is_all_tied(self) -> bool:
        return len(self.images) > 1 and len(set(self.ranks)) == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PairVotes:
    """What all raters together said of two images."""

    prompt_id: str
    prompt: str
    split: str
    chosen: str
    rejected: str
    votes: int
    share: float
    """Of the votes, for the chosen one; over one half."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a format says of the files that it wrote, for the card."""

    rows: dict[str, int]
    """How many of its rows are in which part."""
    load: str
    """Python that loads it elsewhere; FOLDER stands for where it is."""
    configs: tuple[tuple[str, dict[str, str]], ...] = ()
    """For `datasets`: the name of a configuration, and the files of each of its splits."""
    notes: tuple[str, ...] = ()
    """What a reader has to know, one sentence each."""


@dataclass(slots=True)
class Tally:
    """What is there to be exported, counted before anything is written."""

    ratings: int = 0
    """Answers that stand."""
    comparisons: int = 0
    ties: int = 0
    """Of the comparisons, `both bad` included."""
    lost: int = 0
    """Comparisons left out, because an image was withdrawn or its file is missing or damaged."""
    lost_images: int = 0
    raters: set[str] = field(default_factory=set)
    prompts: set[str] = field(default_factory=set)
    by_prompt: Counter[str] = field(default_factory=Counter)
    """Comparisons without ties and lost images, by the prompt's id."""
    ties_by_prompt: Counter[str] = field(default_factory=Counter)


class Source:
    """One export's view of a workspace. `report` is told, now and then, how many rows have been read."""

    def __init__(
        self,
        store: Store,
        workspace: Workspace,
        selection: Selection,
        options: Options,
        *,
        report: Callable[[int], None] = lambda rows: None,
    ) -> None:
        self.store = store
        self.workspace = workspace
        self.options = options
        self.selection = selection
        self.left_out: Counter[str] = Counter()
        """Rows that the format could not hold, by the reason."""
        self._report = report
        self._encoded = functools.lru_cache(_CACHED_IMAGES)(self._encode)
        self.streams = store.streams(selection)
        self.tally = Tally()

    # -- before anything is written -------------------------------------------------------------------------------

    def find_lost_images(self) -> None:
        """Read every image, and leave out what shows one that is missing or damaged, in streams asked for later."""
        lost: dict[str, None] = {}
        withdrawn = 0
        for batch in self.streams.images():
            for row in batch.select(["image_id", "withdrawn"]).to_pylist():
                withdrawn += row["withdrawn"] is not None
                if row["withdrawn"] is None and self.workspace.read_image(row["image_id"])[1]:
                    lost[row["image_id"]] = None
            self._report(batch.num_rows)
        chosen = self.selection
        self.selection = Selection(
            round=chosen.round, rater_ids=chosen.rater_ids, has_names=chosen.has_names, lost=tuple(lost)
        )
        self.streams = self.store.streams(self.selection)
        self.tally.lost_images = len(lost) + withdrawn

    def count(self) -> Tally:
        """Count what there is."""
        tally = self.tally
        for batch in self.streams.answers():
            tally.ratings += batch.num_rows
            tally.raters.update(batch["rater"].unique().to_pylist())
            tally.prompts.update(batch["prompt_id"].unique().to_pylist())
        for batch in self.streams.pairs():
            columns = batch.select(["prompt_id", "outcome", "is_lost"]).to_pydict()
            for prompt_id, outcome, is_lost in zip(*columns.values(), strict=True):
                if is_lost:
                    tally.lost += 1
                    continue
                tally.comparisons += 1
                tally.ties += outcome == "tie"
                (tally.ties_by_prompt if outcome == "tie" else tally.by_prompt)[prompt_id] += 1
            self._report(batch.num_rows)
        return tally

    def examples_of(self, prompt_id: str) -> int:
        """How many votes of a prompt are exported."""
        ties = 0 if self.options.ties == "drop" else self.tally.ties_by_prompt[prompt_id]
        return self.tally.by_prompt[prompt_id] + ties

    # -- streams --------------------------------------------------------------------------------------------------

    def comparisons(self) -> Iterator[pa.RecordBatch]:
        """Record batches of comparisons, without those of lost images, and without ties where these are dropped."""
        for batch in self._reported(self.streams.pairs()):
            keep = ~batch["is_lost"].to_numpy(zero_copy_only=False)
            if self.options.ties == "drop":
                keep &= batch["outcome"].to_numpy(zero_copy_only=False) != "tie"
            yield batch.filter(pa.array(keep))

    def votes(self, *, with_models: bool = False) -> Iterator[Vote]:
        """Comparisons one by one, in order of arrival."""
        for batch in self.comparisons():
            rows = batch.to_pylist()
            shown = {row[side] for row in rows for side in ("image_a", "image_b")} if with_models else set()
            models = {image_id: model_name(told) for image_id, told in self.streams.provenance(shown).items()}
            for row in rows:
                yield self._vote(row, models)

    def _vote(self, row: dict[str, Any], models: dict[str, str]) -> Vote:
        label = {"a": 1.0, "b": 0.0, "tie": 0.5}[row["outcome"]]
        images = row["image_a"], row["image_b"]
        if row["left"] == "b":
            images, label = images[::-1], 1 - label
        return Vote(
            **self._about(row),
            rater_number=row["rater_number"],
            images=images,
            label=label,
            both_bad=row["both_bad"],
            propensity=row["propensity"],
            server_time=row["server_time"].replace(tzinfo=UTC),
            models=(models.get(images[0], ""), models.get(images[1], "")),
        )

    def groups(self) -> Iterator[Group]:
        """Answers one by one, in order of arrival, without those of lost images."""
        for batch in self._reported(self.streams.groups()):
            for row in batch.to_pylist():
                if row["is_lost"]:
                    self.left_out["an image that is lost or withdrawn"] += 1
                    continue
                group = self._group(row)
                if self.options.ties == "drop" and group.is_all_tied():
                    self.left_out["a tie of all images"] += 1
                    continue
                yield group

    def _group(self, row: dict[str, Any]) -> Group:
        judged = {each["axis"]: each for each in row["judged"]}
        overall = judged.get(OVERALL)
        graded = {axis: tuple(each["values"]) for axis, each in judged.items() if each["levels"]}
        levels = max((each["levels"] or 0 for each in judged.values()), default=0)
        return Group(
            **self._about(row),
            images=tuple(row["images"]),
            ranks=ranks_of(overall["values"], overall["levels"]) if overall else (),
            grades=graded,
            levels=levels,
        )

    def _about(self, row: dict[str, Any]) -> dict[str, Any]:
        same = ("rating_id", "round", "task_id", "prompt_id", "prompt", "task", "rater")
        return {name: row[name] for name in same} | {"split": self.split_of(row["split"], row["half"])}

    def pair_votes(self) -> Iterator[PairVotes]:
        """Every two images that were compared, once, with the votes of all; those that are even are left out."""
        for batch in self._reported(self.streams.votes(count_ties=self.options.ties != "drop")):
            for row in batch.to_pylist():
                share = row["won"] / row["n_votes"]
                if row["is_lost"]:
                    self.left_out["an image that is lost or withdrawn"] += 1
                elif share == 0.5:
                    self.left_out["as many votes for the one as for the other"] += 1
                else:
                    chosen, rejected = (row["one"], row["other"]) if share > 0.5 else (row["other"], row["one"])
                    yield PairVotes(
                        prompt_id=row["prompt_id"],
                        prompt=row["prompt"],
                        split=self.split_of(row["split"], row["half"]),
                        chosen=chosen,
                        rejected=rejected,
                        votes=row["n_votes"],
                        share=max(share, 1 - share),
                    )

    def split_of(self, split: str, half: int) -> str:
        """What the format calls the part of a prompt: held-out ones are halved between validation and test."""
        if not self.options.by_split or split == "train":
            return self.options.splits[0]
        return self.options.splits[1 if half else 2]

    def _reported(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield batch
            self._report(batch.num_rows)

    # -- image files ----------------------------------------------------------------------------------------------

    @property
    def ending(self) -> str:
        return {"png": "png", "jpeg": "jpg"}[self.options.image_format]

    def image(self, image_id: str) -> bytes:
        """The image as it is exported: the workspace's own bytes, or as JPEG of quality 95.

        Raises:
            ConfigError: its file was lost while the export was running.
        """
        return self._encoded(image_id)

    def _encode(self, image_id: str) -> bytes:
        content, fault = self.workspace.read_image(image_id)
        if fault:
            raise ConfigError(f"The image {image_id} was just lost: its file {fault}.", hint="Export again.")
        if self.options.image_format == "png":
            return content
        buffer = io.BytesIO()
        with Image.open(io.BytesIO(content)) as picture:
            picture.convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY)
        return buffer.getvalue()

    def size(self, image_id: str) -> tuple[int, int]:
        """Width and height in pixels, by the head of the PNG file."""
        with self.workspace.image_path(image_id).open("rb") as file:
            return struct.unpack(">II", file.read(24)[16:24])

    def place(self, image_id: str, folder: Path) -> str:
        """Write the image's file into the folder, unless it is there, and return its name."""
        path = folder / f"{image_id}.{self.ending}"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.image(image_id))
        return path.name


def ranks_of(values: Sequence[int | None], levels: int | None) -> tuple[int, ...]:
    """Places without gaps, 1 for the best; an image without a place comes after all that have one."""
    places = [(value is None, -value if levels and value is not None else value or 0) for value in values]
    order = {place: rank for rank, place in enumerate(sorted(set(places)), start=1)}
    return tuple(order[place] for place in places)


def model_name(provenance: str) -> str:
    """What drew an image, in few words: the model, and after which round's training."""
    told = json.loads(provenance)
    name, number = told.get("model") or "unknown", told.get("policy_round")
    return f"{name} round {number}" if number else str(name)
