"""Makes a blind study: its pictures, from folders or drawn by the worker, and its tasks."""

import logging
import math
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.blind import FOR_JUDGING
from data.imports.keeping import Keeper
from data.imports.records import NotTaken, Picture, Shown
from data.prompt_list import read_prompts
from data.records import Image, Judgement, Prompt
from data.store import Store
from data.studies import (
    LORA,
    Pair,
    Side,
    Study,
    as_prompt,
    folder_of,
    newest_drawn,
    now,
    pairs_of,
    pictures_in,
    prompts_by_text,
    require_new,
    sides_of,
    tasks_of,
    write_study,
)
from data.study_results import AGREE, Alike, alike, detectable
from data.workspace import Workspace
from hitl.commands.apart import run_apart
from hitl.config import RunConfig
from hitl.core.errors import ConfigError
from hitl.rounds import Hub, configured_prompts

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What `hitl study new` was told."""

    a: str
    b: str
    prompts: str
    votes: int
    raters: int
    name: str


def make(folder: Workspace, store: Store, config: RunConfig, asked: Asked) -> Study:
    """Draw what is missing of a study's pictures, and put them and the tasks into the store.

    Raises:
        HitlError: a side is nothing that can be compared, or the two share too little.
    """
    a, b = sides_of(folder, asked.a, asked.b)
    name = require_new(store, asked.name)
    making = _Making(
        folder=folder, store=store, config=config, name=name, sides={"a": a, "b": b}, round=newest_drawn(store)
    )
    chance = random.Random(f"{config.project.seed}/study/{name}")
    places = making.places(making.prompts(asked.prompts), asked.votes, asked.raters, chance)
    images = making.images(places)
    pairs = [
        Pair(prompt_id=prompt.prompt_id, a=first.image_id, b=second.image_id)
        for (prompt, _, _), first, second in zip(places, images["a"], images["b"], strict=True)
        if first.image_id != second.image_id
    ]
    if not pairs:
        raise ConfigError(
            f"All {len(places)} pictures of {a.name} and {b.name} are the same: there is nothing to compare.",
            hint="Compare two models that differ.",
        )
    if len({(image.width, image.height) for each in images.values() for image in each}) > 1:
        logger.warning("The pictures are of several sizes, by which raters may tell whose they are.")
    votes, prompts = len(pairs) * asked.raters, len({pair.prompt_id for pair in pairs})
    shared = _known_alike(store)
    study = Study(
        name=name,
        a=a.name,
        b=b.name,
        is_same=making.is_same,
        votes=votes,
        raters=asked.raters,
        pairs=len(pairs),
        prompts=prompts,
        alike=len(places) - len(pairs),
        detectable=detectable(votes, pairs=len(pairs), prompts=prompts, raters=asked.raters, shared=shared),
        people_agree=None if shared else AGREE,
        made_at=now(),
    )
    write_study(folder, study)
    store.add_prompts([prompt for prompt, _, _ in places])
    store.add_images([*images["a"], *images["b"]])
    store.add_tasks(
        tasks_of(store, name, pairs, round=making.round, a=a.name, b=b.name, raters=asked.raters, chance=chance)
    )
    return study


def _known_alike(store: Store) -> Alike | None:
    """How alike votes are, by the largest set of earlier ones on one question about two models."""
    groups: dict[tuple[str | None, str, str, str], list[Judgement]] = {}
    for study in [None, *{task.study for task in store.study_tasks()}]:
        for each in store.judgements(study=study):
            groups.setdefault((study, each.kind, each.model, each.other), []).append(each)
    return alike(max(groups.values(), key=len)) if groups else None


Place = tuple[Prompt, int, int]
"""A pair that is to be asked about: its prompt, and which of the prompt's pictures are A's and B's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Making:
    """A study that is being made: where its pictures come from."""

    folder: Workspace
    store: Store
    config: RunConfig
    name: str
    sides: Mapping[str, Side]
    """By `a` and `b`."""
    round: int
    """The newest that has tasks: what is made is of it."""
    pictures: dict[str, dict[str, list[Shown]]] = field(default_factory=dict)
    """Of sides that are folders, by prompt."""

    def __post_init__(self) -> None:
        self.pictures.update({key: pictures_in(side) for key, side in self.sides.items() if side.kind == "images"})

    @property
    def is_same(self) -> bool:
        return self.sides["a"].is_same_as(self.sides["b"])

    def prompts(self, named: str) -> dict[str, Prompt]:
        """By text: those of the file that is named, of the folders of pictures, or else the held-out ones.

        Raises:
            ConfigError: there are none, or folders and file share none.
        """
        known = prompts_by_text(self.store.prompts())
        if named and named != "held_out":
            found = prompts_by_text(read_prompts(Path(named), self.config.prompts.columns))
        elif self.pictures:
            found = {
                text: as_prompt(text, known, shown[0])
                for by_prompt in self.pictures.values()
                for text, shown in by_prompt.items()
            }
        else:
            hub = Hub(workspace=self.folder, store=self.store, config=self.config)
            wanted = [prompt for prompt in configured_prompts(hub, self.config) if prompt.split == "held_out"]
            if not wanted:
                raise ConfigError(
                    "There are no held-out prompts to compare on.", hint="Name a file of prompts: --prompts FILE."
                )
            found = prompts_by_text(wanted)
        shared = {
            text: known.get(text, prompt)
            for text, prompt in found.items()
            if all(text in by_prompt for by_prompt in self.pictures.values())
        }
        if not shared:
            first = next(iter(found), "")
            raise ConfigError(
                f"A and B share no prompt: of {len(found)}, such as {first[:60]!r}, none has a picture on both sides.",
                hint="The texts must be the same to the letter in both tables, and in the file of --prompts.",
            )
        return shared

    def places(self, prompts: Mapping[str, Prompt], votes: int, raters: int, chance: random.Random) -> list[Place]:
        """As many pairs as so many votes need.

        Raises:
            ConfigError: the folders have not so many.
        """
        parts = 2 if self.is_same else 1
        available = {
            text: min((len(shown[text]) // parts for shown in self.pictures.values()), default=None) for text in prompts
        }
        wanted = math.ceil(votes / raters)
        chosen = pairs_of(available, wanted, chance)
        if len(chosen) < wanted:
            raise ConfigError(
                f"A and B share {len(chosen)} pairs of pictures; {votes} votes by {raters} raters of each need "
                f"{wanted}.",
                hint=f"Ask for --votes {len(chosen) * raters}." if chosen else "An A/A study needs two of a prompt.",
            )
        # Of one side's pictures the second half are the other's: drawn from other seeds.
        drawn = max(index for _, index in chosen) + 1
        return [(prompts[text], index, index + (parts - 1) * (available[text] or drawn)) for text, index in chosen]

    def images(self, places: Sequence[Place]) -> dict[str, list[Image]]:
        """The images of each side, in the order of the places."""
        wanted = {
            "a": [(prompt, index) for prompt, index, _ in places],
            "b": [(prompt, index) for prompt, _, index in places],
        }
        found = {key: self._of_folder(key, wanted[key]) for key in self.pictures}
        models = {key: wanted[key] for key in self.sides if key not in found}
        return found | (self._drawn(models) if models else {})

    def _of_folder(self, key: str, wanted: Sequence[tuple[Prompt, int]]) -> list[Image]:
        keeper, found = Keeper(self.folder, is_trial=False), []
        for prompt, index in wanted:
            shown = self.pictures[key][prompt.text][index]
            try:
                kept = keeper.keep(shown.picture)
            except NotTaken as error:
                raise ConfigError(
                    f"{self.sides[key].path}: {shown.row} {error}.", hint="Mend the row, or take it out of the table."
                ) from error
            told = {"from": self.sides[key].name, "row": shown.row, "changes": list(kept.changes)}
            found.append(self._image(kept.image_id, kept.width, kept.height, prompt, told))
        return found

    def _image(self, image_id: str, width: int, height: int, prompt: Prompt, told: Mapping[str, Any]) -> Image:
        return Image(
            image_id=image_id,
            prompt_id=prompt.prompt_id,
            round=self.round,
            width=width,
            height=height,
            provenance={**told, "study": self.name, **FOR_JUDGING},
        )

    def _drawn(self, wanted: Mapping[str, Sequence[tuple[Prompt, int]]]) -> dict[str, list[Image]]:
        """What the worker draws."""
        place = folder_of(self.folder, self.name) / "drawn"
        shutil.rmtree(place, ignore_errors=True)  # of a study that was not finished
        sides = [
            {
                "side": key,
                "name": self.sides[key].name,
                "checkpoint": self._checkpoint(key, place),
                "wanted": [{"prompt_id": each.prompt_id, "text": each.text, "index": index} for each, index in pairs],
            }
            for key, pairs in wanted.items()
        ]
        texts = {prompt.prompt_id: prompt for pairs in wanted.values() for prompt, _ in pairs}
        found: dict[str, dict[tuple[str, int], Image]] = {key: {} for key in wanted}
        keeper = Keeper(self.folder, is_trial=False)
        try:
            result = run_apart(
                "study",
                self.folder,
                self.config,
                place,
                round=self.round,
                inputs={"sides": sides},
                doing="Drawing images",
            )
            for row in result["images"]:
                side = self.sides[row["side"]]
                told = result["provenance"] | {"checkpoint": side.checkpoint, "seed": row["seed"]}
                told |= {"index": row["index"]} | ({} if side.round is None else {"policy_round": side.round})
                kept = keeper.keep(Picture(path=place / row["file"]))
                image = self._image(kept.image_id, kept.width, kept.height, texts[row["prompt_id"]], told)
                found[row["side"]][row["prompt_id"], row["index"]] = image
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return {key: [found[key][prompt.prompt_id, index] for prompt, index in pairs] for key, pairs in wanted.items()}

    def _checkpoint(self, key: str, place: Path) -> str:
        """The folder of a side's policy; empty for the reference. A file is put into one, as diffusers has it."""
        path = self.sides[key].path
        if path is None or path.is_dir():
            return str(path or "")
        own = place / f"checkpoint-{key}"
        own.mkdir(parents=True)
        shutil.copyfile(path, own / LORA)
        return str(own)
