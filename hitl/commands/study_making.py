"""Makes a blind study: its pictures, from folders or drawn by the worker, and its tasks."""

import hashlib
import json
import logging
import math
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data.at_work import Files
from data.blind import FOR_JUDGING
from data.imports.keeping import Keeper
from data.imports.records import NotTaken, Picture, Shown
from data.lock import holder
from data.prompt_list import read_prompts
from data.records import Image, Judgement, Prompt
from data.store import Store
from data.studies import (
    LORA,
    Side,
    Study,
    as_prompt,
    now,
    pairs_of,
    pictures_in,
    prompts_by_text,
    sides_of,
    write_study,
)
from data.study_results import AGREE, Alike, alike, detectable
from data.study_tasks import Pair, folder_of, making_alone, require_new, take_in, tasks_of, write_made
from data.workspace import Workspace
from hitl.commands.apart import run_apart
from hitl.commands.reading import ask_hub, open_for_reading
from hitl.config import RunConfig
from hitl.core.errors import ConfigError
from hitl.rounds import named_prompts

logger = logging.getLogger(__name__)

_TAKING_IN_S = 600
"""Of a study of many thousand tasks, by a hub that is busy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What `hitl study new` was told."""

    a: str
    b: str
    prompts: str
    votes: int
    raters: int
    name: str


def make(folder: Workspace, config: RunConfig, asked: Asked) -> Study:
    """Draw what is missing of a study's pictures, and have them and the tasks taken into the store: by the hub, where
    one runs. What was drawn when this was cut off is used when it is asked for again.

    Raises:
        HitlError: a side is nothing that can be compared, or the two share too little.
    """
    a, b = sides_of(folder, asked.a, asked.b)
    with making_alone(folder), Files(folder).in_use():
        with open_for_reading(folder) as store:  # and not for as long as it is drawn
            name, known, shared = require_new(store, asked.name), store.prompts(), _known_alike(store)
        making = _Making(folder=folder, config=config, name=name, sides={"a": a, "b": b}, known=prompts_by_text(known))
        study = _make(making, asked, shared)
        if holder(folder.lock_path) is None:
            with Store.open(folder) as store:
                take_in(folder, store, name)
        else:
            ask_hub(folder, "POST", "/api/studies", {"name": name}, timeout_s=_TAKING_IN_S)
        making.tidy()
    return study


def _make(making: "_Making", asked: Asked, shared: Alike | None) -> Study:
    folder, config, name, (a, b) = making.folder, making.config, making.name, making.sides.values()
    chance = random.Random(f"{config.project.seed}/study/{name}")
    places = making.places(making.prompts(asked.prompts), asked.votes, asked.raters, chance)
    images = making.images(places)
    pairs = [
        Pair(prompt_id=prompt.prompt_id, a=first.image_id, b=second.image_id)
        for (prompt, _, _), first, second in zip(places, images["a"], images["b"], strict=True)
        if first.image_id != second.image_id
    ]
    if not pairs:
        making.tidy()
        raise ConfigError(
            f"All {len(places)} pictures of {a.name} and {b.name} are the same: there is nothing to compare.",
            hint="Compare two models that differ.",
        )
    if len({(image.width, image.height) for each in images.values() for image in each}) > 1:
        logger.warning("The pictures are of several sizes, by which raters may tell whose they are.")
    votes, prompts = len(pairs) * asked.raters, len({pair.prompt_id for pair in pairs})
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
    tasks = tasks_of(name, pairs, a=a.name, b=b.name, raters=asked.raters, chance=chance)
    write_made(folder, name, [prompt for prompt, _, _ in places], [*images["a"], *images["b"]], tasks)
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
    config: RunConfig
    name: str
    sides: Mapping[str, Side]
    """By `a` and `b`."""
    known: Mapping[str, Prompt]
    """Those of the store, by text."""
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
        if named and named != "held_out":
            found = prompts_by_text(read_prompts(Path(named), self.config.prompts.columns))
        elif self.pictures:
            found = {
                text: as_prompt(text, self.known, shown[0])
                for by_prompt in self.pictures.values()
                for text, shown in by_prompt.items()
            }
        else:
            given = [self.known.get(each.text, each) for each in named_prompts(self.folder, self.config)]
            wanted = [prompt for prompt in given if prompt.split == "held_out"]
            if not wanted:
                raise ConfigError(
                    "There are no held-out prompts to compare on.", hint="Name a file of prompts: --prompts FILE."
                )
            found = prompts_by_text(wanted)
        shared = {
            text: self.known.get(text, prompt)
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
            round=0,  # until it is taken in
            width=width,
            height=height,
            provenance={**told, "study": self.name, **FOR_JUDGING},
        )

    def _drawn(self, wanted: Mapping[str, Sequence[tuple[Prompt, int]]]) -> dict[str, list[Image]]:
        """What the worker draws, or drew before it was cut off."""
        place = self._place(wanted)
        self.tidy(but=place)
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
        result = run_apart(
            "study", self.folder, self.config, place, round=0, inputs={"sides": sides}, doing="Drawing images"
        )
        for row in result["images"]:
            side = self.sides[row["side"]]
            told = result["provenance"] | {"checkpoint": side.checkpoint, "seed": row["seed"]}
            told |= {"index": row["index"]} | ({} if side.round is None else {"policy_round": side.round})
            kept = keeper.keep(Picture(path=place / row["file"]))
            image = self._image(kept.image_id, kept.width, kept.height, texts[row["prompt_id"]], told)
            found[row["side"]][row["prompt_id"], row["index"]] = image
        return {key: [found[key][prompt.prompt_id, index] for prompt, index in pairs] for key, pairs in wanted.items()}

    def _place(self, wanted: Mapping[str, Sequence[tuple[Prompt, int]]]) -> Path:
        """The folder of what is drawn, named by all that the pictures depend on."""
        depends_on = [
            [
                [key, self.sides[key].checkpoint, [[prompt.text, index] for prompt, index in pairs]]
                for key, pairs in wanted.items()
            ],
            asdict(self.config.model),
            self.config.project.seed,
            self.config.evaluate.steps,
            self.config.sample.guidance,
            self.config.draw.batch_size,
        ]
        key = hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:16]
        return folder_of(self.folder, self.name) / f"drawn-{key}"

    def tidy(self, but: Path | None = None) -> None:
        """Let go of what was drawn for this study, or for another that was to have its name."""
        for path in folder_of(self.folder, self.name).glob("drawn-*"):
            if path != but:
                shutil.rmtree(path, ignore_errors=True)

    def _checkpoint(self, key: str, place: Path) -> str:
        """The folder of a side's policy; empty for the reference. A file is put into one, as diffusers has it."""
        path = self.sides[key].path
        if path is None or path.is_dir():
            return str(path or "")
        own = place / f"checkpoint-{key}"
        own.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, own / LORA)
        return str(own)
