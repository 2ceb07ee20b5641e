"""There and back: what `hitl export` writes, `hitl import` reads into another workspace, and it says the same.

Of the complete form that is every column; of the others the same comparisons of two images (rankings and grades counted
as the pairs that follow from them), with the same raters where the format knows any.
"""

import itertools
import re
import uuid
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from data.events import rating_kind
from data.records import Image, Prompt, Rater, Rating, Task, standing_ratings
from data.store import Store
from data.workspace import Workspace
from hitl.commands import export, import_
from tests.imported import png

pytestmark = pytest.mark.long

WHEN = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
PROMPTS = [
    Prompt.of("a green heart", task="colour"),
    Prompt.of('=cmd() "quoted", with\na second line 🦊', task="", split="train"),
    Prompt.of("ein süßer Hund", task="animals", split="held_out"),
    Prompt.of("x" * 10_000, split="held_out"),
    Prompt.of("nothing was drawn for this one"),
]
NOBODY = ("diffusion-dpo", "imagerewarddb", "kohya-pairs", "d3po")
"""Formats that have no raters."""


def fill(workspace: Workspace, store: Store) -> None:
    """Pairs with every answer, an undo, a skip, a repeat and gold; a ranking with ties; grades; three raters."""
    store.add_prompts(PROMPTS)
    ids = [workspace.add_image(png(number)) for number in range(16)]
    store.start_round(1, "sha")
    store.add_images(
        Image(
            image_id=image_id,
            prompt_id=PROMPTS[number // 4].prompt_id,
            round=1,
            width=2,
            height=2,
            provenance={"model": "starter", "seed": number},
        )
        for number, image_id in enumerate(ids)
    )
    for number, name in enumerate(("Zoë", "bob", "Ann")):
        store.add_rater(
            Rater(rater_id=uuid.uuid4().hex, name=name, kind="human", created_at=WHEN.replace(minute=number))
        )
    zoe, bob, ann = (rater.rater_id for rater in store.raters())

    def ask(name: str, *shown: int, kind: str = "pairwise", of: int | None = None, **more: Any) -> Task:
        prompt = PROMPTS[shown[0] // 4 if of is None else of]
        about: dict[str, Any] = {"round": 1, "kind": kind, "overlap": 2, "policy": "uncertain", "propensity": 0.25}
        task = Task(
            task_id=f"r0001-{name}", prompt_id=prompt.prompt_id, image_ids=tuple(ids[n] for n in shown), **about, **more
        )
        store.add_tasks([task])
        return task

    def say(task: Task, rater_id: str, payload: dict[str, Any], *, turned: bool = False, **more: Any) -> Rating:
        rating = Rating(
            rating_id=str(uuid.uuid4()),
            task_id=task.task_id,
            rater_id=rater_id,
            kind=task.kind,
            payload=payload,
            image_ids=task.image_ids[::-1] if turned else task.image_ids,
            dwell_ms=1234,
            client_time="2026-11-20T13:00:00+01:00",
            server_time=WHEN,
            app_version="0.1.0",
            **{"decide_ms": 800, "input_device": "keyboard", "screen_size": "large", "shown_as": "display", **more},
        )
        assert store.add_rating(rating)
        return rating

    pairs = [ask(f"{number:05d}", *shown) for number, shown in enumerate(((0, 1), (4, 5), (8, 9), (12, 13), (2, 3)))]
    for task, choice in zip(pairs, ("left", "right", "tie", "both_bad", "left"), strict=True):
        say(task, zoe, {"choice": choice, "flags": [["hands"], []], "note": 'two "left" hands\n'})
        say(task, bob, {"choice": "right"}, turned=True, input_device=None, decide_ms=None)
    first = say(pairs[0], ann, {"choice": "right"})
    say(pairs[0], ann, {}, voids=first.rating_id)
    say(pairs[0], ann, {"choice": "tie"})
    say(pairs[1], ann, {"choice": "skip", "reason": "broken"})
    say(ask("00010", 0, 1, purpose="repeat", repeats=pairs[0].task_id), zoe, {"choice": "left"}, turned=True)
    say(ask("00011", 0, 4, of=0, purpose="gold", worse=ids[4]), zoe, {"choice": "left"})
    say(ask("00012", 4, 5, 6, 7, kind="ranking"), zoe, {"ranks": [2, 1, 1, 4]})
    say(ask("00013", 8, 9, 10, 11, kind="ranking"), ann, {"ranks": [1, 2, 3, 4]}, turned=True)
    say(ask("00014", 12, 13, kind="grades"), bob, {"grades": {"overall": [2, 5], "alignment": [3, 3]}})
    say(ask("00015", 2, 3, kind="grades"), ann, {"grades": {"overall": [3, 3]}})


def compared(store: Store, *, has_raters: bool = True) -> Counter[tuple[Any, ...]]:
    """Every two images that somebody compared: prompt, better and worse (or both, for a tie), the rater's number."""
    last_words = {rater.rater_id: rater.name.rpartition(" ")[2] for rater in store.raters()}
    numbers = {rater_id: re.sub("^rater-0*", "", word) for rater_id, word in last_words.items()}
    if "Zoë" in {rater.name for rater in store.raters()}:
        numbers = {rater.rater_id: str(number) for number, rater in enumerate(store.raters(), 1)}
    texts = {prompt.prompt_id: prompt.text for prompt in store.prompts()}
    tasks = {task.task_id: task for task in store.tasks()}
    found: Counter[tuple[Any, ...]] = Counter()
    for rating in standing_ratings(store.ratings()):
        task = tasks[rating.task_id]
        if task.purpose != "learn" or rating_kind(task.kind).is_skip(rating.payload):
            continue
        who = numbers[rating.rater_id] if has_raters else ""
        for better, worse, is_tie in _pairs_of(rating):
            pair = tuple(sorted((better, worse))) if is_tie else (better, worse)
            found[(texts[task.prompt_id], *pair, is_tie, who)] += 1
    return found


def _pairs_of(rating: Rating) -> list[tuple[str, str, bool]]:
    said = rating.payload
    if "choice" in said:
        places = {"left": [1, 2], "right": [2, 1]}.get(said["choice"], [1, 1])
    else:
        places = said.get("ranks") or [-grade for grade in said["grades"]["overall"]]
    shown = sorted(zip(places, rating.image_ids, strict=True))
    return [(one, other, a == b) for (a, one), (b, other) in itertools.combinations(shown, 2)]


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("exchange") / "origin")
    with Store.open(workspace, create=True) as store:
        fill(workspace, store)
    return workspace


def there_and_back(origin: Workspace, tmp_path: Path, format: str, **asked: Any) -> tuple[Path, Workspace]:
    out = tmp_path / "out"
    export.run(out, export.Asked(format=format, **asked), origin.root)
    target = Workspace(tmp_path / "target")
    Store.open(target, create=True).close()
    bring_in(out, target)
    return out, target


def bring_in(path: Path, target: Workspace, *, format: str = "") -> None:
    import_.run(path, format, "", "", 0, False, target.root, False)


TIES = {"kohya-pairs": "drop", "imagefolder": "drop", "pickapic": "half", "webdataset": "half", "hpdv2": "half"}


@pytest.mark.parametrize(
    "format",
    ["pickapic", "diffusion-dpo", "imagereward", "imagerewarddb", "hpdv2", "imagefolder", "webdataset", "kohya-pairs",
     "d3po", "arena"],
)  # fmt: skip
@pytest.mark.parametrize("split", ["", pytest.param("by-prompt", marks=pytest.mark.slow)])
def test_every_format_says_the_same_when_it_comes_back(origin: Workspace, tmp_path: Path, format: str, split: str):
    ties = TIES.get(format, "keep")
    out, target = there_and_back(origin, tmp_path, format, ties=ties, split=split)
    has_raters = format not in NOBODY
    with Store.open(origin) as store:
        wanted = compared(store, has_raters=has_raters)
    if ties == "drop":
        wanted = Counter({key: count for key, count in wanted.items() if not key[3]})
    with Store.open(target) as store:
        assert compared(store, has_raters=has_raters) == wanted
        position = store.position
    assert not (target.root / "imports").exists()
    bring_in(out, target)
    with Store.open(target) as store:
        assert store.position == position


def test_trl_says_what_most_said(origin: Workspace, tmp_path: Path):
    _, target = there_and_back(origin, tmp_path, "trl")
    with Store.open(origin) as store:
        votes: Counter[tuple[str, str, str]] = Counter()
        for (text, one, other, is_tie, _), count in compared(store).items():
            votes[text, one, other] += count if is_tie else 2 * count
            votes[text, other, one] += count if is_tie else 0
        wanted = {(text, one, other) for (text, one, other), count in votes.items() if count > votes[text, other, one]}
    with Store.open(target) as store:
        assert {key[:3] for key in compared(store)} == wanted


def facts(store: Store) -> dict[str, Any]:
    """All that comes back: raters by the order in which they joined, tasks that nobody answered left out."""
    number = {rater.rater_id: n for n, rater in enumerate(store.raters(), 1)}
    tasks = {task.task_id: task for task in store.tasks()}
    names = {
        task.task_id: (task.kind, task.purpose, task.prompt_id, tuple(sorted(task.image_ids)))
        for task in tasks.values()
    }
    answered = {rating.task_id for rating in store.ratings()}
    return {
        "prompts": sorted(store.prompts(), key=lambda prompt: prompt.prompt_id),
        "images": sorted(
            (i.image_id, i.prompt_id, i.width, i.height, i.provenance["model"], i.provenance["seed"])
            for i in store.images()
        ),
        "tasks": sorted(
            repr(replace(task, task_id=repr(names[name]), round=0, repeats=repr(names.get(task.repeats or ""))))
            for name, task in tasks.items()
            if name in answered
        ),
        "raters": [(number[rater.rater_id], rater.kind, rater.created_at) for rater in store.raters()],
        "ratings": [
            replace(rating, task_id=repr(names[rating.task_id]), rater_id=str(number[rating.rater_id]))
            for rating in store.ratings()
        ],
        "comparisons": Counter(
            (c.rating_id, c.prompt, c.image_a, c.image_b, c.outcome, c.both_bad, c.left) for c in store.comparisons()
        ),
        "repeats": [(each.rating_id, each.agreement, each.is_swapped) for each in store.repeats()],
        "gold": [(each.rating_id, each.correct) for each in store.gold_answers()],
    }


@pytest.mark.parametrize("format", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("names", [False, True])
def test_the_complete_form_comes_back_equal(origin: Workspace, tmp_path: Path, format: str, names: bool):
    out, target = there_and_back(origin, tmp_path, format, names=names)
    with Store.open(origin) as store:
        wanted, position = facts(store), store.position
    with Store.open(target) as store:
        found = facts(store)
        assert {key: found[key] == wanted[key] for key in wanted} == dict.fromkeys(wanted, True)
        assert {task.round for task in store.tasks()} == {0}
        who = {rater.name for rater in store.raters()}
        assert who == ({"Zoë", "bob", "Ann"} if names else {f"hitl rater-00{n}" for n in (1, 2, 3)})
    bring_in(out, target)
    bring_in(out, origin)  # what it came from: all of it is there
    with Store.open(target) as store:
        assert facts(store) == found
    with Store.open(origin) as store:
        assert store.position == position


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_one_table_comes_back_where_the_images_are(origin: Workspace, tmp_path: Path, ending: str):
    table = tmp_path / f"votes.{ending}"
    export.run(table, export.Asked(), origin.root)
    target = Workspace(tmp_path / "target")
    with Store.open(target, create=True) as store:
        for number in range(16):
            target.add_image(png(number))
    bring_in(table, target)
    with Store.open(origin) as store:
        wanted, position = compared(store), store.position
    with Store.open(target) as store:
        assert compared(store) == wanted
    bring_in(table, origin)
    with Store.open(origin) as store:
        assert store.position == position  # the pairs, and those of rankings, are known by their tasks


def test_a_next_round_goes_on_beside_what_was_imported(origin: Workspace, tmp_path: Path):
    """The ids that a round gives its tasks are free, whatever was imported."""
    _, target = there_and_back(origin, tmp_path, "jsonl")
    with Store.open(target) as store:
        some = store.tasks()[0]
        task = replace(some, task_id="r0001-00000", round=1, policy="random", purpose="learn", repeats=None)
        assert store.add_tasks([task]) == 1
