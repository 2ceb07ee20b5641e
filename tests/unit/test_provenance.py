"""The chain from an image, a rating or a model back to prompts and raters, against facts that were put in by hand."""

import hashlib
import io
import json
import shutil
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Picture

from data.provenance import Provenance, pseudonyms
from data.records import Image, Rating, Task
from data.store import Store
from data.workspace import Workspace
from hitl.cli import main
from hitl.commands.show import find
from hitl.core.errors import ConfigError, HitlError, UnknownName
from tests.facts import PROMPT, a_rater, a_rating, a_task
from tests.finished import BASE, VERSIONS, checkpoint_of, drawn_with, finish_round, fit_outside


class World:
    """Two finished rounds and a third that is drawn; Ann and Bob rated."""

    def __init__(self, root: Path) -> None:
        self.workspace = Workspace(root)
        self.store = Store.open(self.workspace, create=True)
        self.store.add_prompts([PROMPT])
        for name in ("ann", "bob"):
            self.store.add_rater(a_rater(name))
        self.tasks: dict[int, Task] = {}
        self.ratings: dict[int, Rating] = {}
        self.snapshots: dict[int, str] = {}
        for number in (1, 2, 3):
            self.store.start_round(number, "sha")
            task = replace(a_task(f"task-{number}", round=number), image_ids=self.draw(number), propensity=0.25)
            self.store.add_tasks([task])
            rating = a_rating(task, "ann", image_ids=task.image_ids[::-1], rating_id=str(uuid.uuid4()), decide_ms=700)
            self.store.add_rating(rating)
            self.store.add_rating(a_rating(task, "bob", "right"))
            self.tasks[number], self.ratings[number] = task, rating
            if number < 3:
                self.snapshots[number] = finish_round(self.workspace, self.store, number)

    def draw(self, number: int) -> tuple[str, str]:
        ids = []
        for side in range(2):
            file = io.BytesIO()
            Picture.new("RGB", (8, 6), (number, side, 0)).save(file, "PNG")
            ids.append(self.workspace.add_image(file.getvalue()))
        provenance = drawn_with(number - 1)
        self.store.add_images(
            Image(image_id=each, prompt_id=PROMPT.prompt_id, round=number, width=8, height=6, provenance=provenance)
            for each in ids
        )
        return ids[0], ids[1]

    @property
    def provenance(self) -> Provenance:
        return Provenance(store=self.store, workspace=self.workspace, raters=pseudonyms(self.store))

    def find(self, *words: str) -> dict[str, Any]:
        kind, which = words if len(words) == 2 else ("", words[0])
        return find(self.provenance, kind, which)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("world"))
    yield made
    made.store.close()


def test_an_image_leads_through_both_policies_back_to_the_reference(world: World):
    image_id = world.tasks[3].image_ids[0]
    facts = world.find(image_id[:8])
    assert (facts["kind"], facts["image_id"], facts["width"], facts["height"]) == ("image", image_id, 8, 6)
    assert facts["prompt"]["text"] == PROMPT.text
    assert facts["provenance"] == drawn_with(2)
    assert facts["file"] == f"images/{image_id[:2]}/{image_id}.png"
    assert [(each["rater"], each["payload"]) for each in facts["ratings"]] == [
        ("rater-001", {"choice": "left"}),
        ("rater-002", {"choice": "right"}),
    ]
    second = facts["drawn_by"]
    assert (second["kind"], second["round"], second["checkpoint"]) == ("checkpoint", 2, checkpoint_of(2))
    first = second["began_from"]
    assert (first["round"], first["checkpoint"]) == (1, checkpoint_of(1))
    assert first["began_from"] == {"kind": "reference", **BASE, "unknown": []}
    for policy, number in ((second, 2), (first, 1)):
        reward = policy["reward"]
        assert reward["snapshot_sha"] == reward["snapshot"]["sha256"] == world.snapshots[number]
        assert reward["snapshot"]["comparisons"] == 2 * number
        assert reward["snapshot"]["raters"] == {"rater-001": number, "rater-002": number}
        assert reward["snapshot"]["prompts"] == {PROMPT.text: 2 * number}
        assert reward["versions"] == policy["origin"]["versions"] == VERSIONS
    assert unknowns(facts) == []


def test_a_rating_tells_all_that_was_recorded(world: World):
    given = world.ratings[2]
    facts = world.find("rating", given.rating_id[:6])
    assert {name: facts[name] for name in ("payload", "dwell_ms", "decide_ms", "client_time", "app_version")} == {
        "payload": {"choice": "left"},
        "dwell_ms": 900,
        "decide_ms": 700,
        "client_time": given.client_time,
        "app_version": "0.1.0",
    }
    assert (facts["rater"], facts["rating_kind"], facts["stands"]) == ("rater-001", "pairwise", True)
    assert facts["server_time"] == given.server_time.isoformat()
    assert [each["image_id"] for each in facts["images"]] == list(given.image_ids)
    assert (facts["task"]["propensity"], facts["task"]["policy"]) == (0.25, "random")
    assert facts["snapshots"] == [2]
    assert world.find(world.ratings[1].rating_id)["snapshots"] == [1, 2]
    assert facts["drawn_by"]["round"] == 1


def test_a_task_tells_who_was_asked_and_what_they_said(world: World):
    facts = world.find("task", "task-2")
    assert [each["rater"] for each in facts["ratings"]] == ["rater-001", "rater-002"]
    assert [each["image_id"] for each in facts["images"]] == list(world.tasks[2].image_ids)


def test_a_rating_that_was_taken_back_says_by_what(tmp_path: Path):
    world = World(tmp_path)
    with world.store:
        undo = a_rating(world.tasks[3], "ann", None, voids=world.ratings[3].rating_id)
        world.store.add_rating(undo)
        facts = world.find(world.ratings[3].rating_id)
    assert (facts["stands"], facts["voided_by"]) == (False, undo.rating_id)


def test_files_and_folders_are_names_too(world: World, tmp_path: Path):
    image_id = world.tasks[1].image_ids[0]
    copy = tmp_path / "saved as.png"
    shutil.copy(world.workspace.image_path(image_id), copy)
    assert world.find(str(copy))["image_id"] == image_id
    policy = world.workspace.stage_dir(2, "train") / "policy"
    assert world.find(str(policy)) == world.find("checkpoint", "2")
    moved = shutil.copytree(policy, tmp_path / "policy")
    assert world.find("checkpoint", str(moved)) == world.find("checkpoint", "2")
    assert world.find(str(world.workspace.stage_dir(1, "fit") / "reward"))["reward"] == hash_of(b"head")
    outside = world.find(str(world.workspace.root / fit_outside(world.workspace, world.store, 2)))
    assert (outside["round"], outside["snapshot"]["comparisons"]) == (None, 4)


def test_what_is_not_there_is_said_and_nothing_is_made_up(world: World, tmp_path: Path):
    root = shutil.copytree(world.workspace.root, tmp_path / "copy", ignore=shutil.ignore_patterns("store*"))
    workspace = Workspace(root)
    old = json.loads((workspace.stage_dir(1, "train") / "manifest.json").read_text())
    snapshot = old.pop("origin")["snapshot"]
    workspace.write_manifest(1, "train", old)  # as rounds were recorded before
    before = {"model": "starter", "round": 1, "snapshot": snapshot}
    (workspace.stage_dir(1, "train") / "policy" / "policy.json").write_text(json.dumps(before))
    (workspace.round_dir(1) / "snapshot.parquet").unlink()
    workspace.reopen(2, "fit")
    provenance = Provenance(store=world.store, workspace=workspace, raters={})
    facts = provenance.checkpoint(2)
    told = "\n".join(unknowns(facts))
    assert "Round 2 has no fitted reward model, or its folder is gone." in told
    assert "this is not recorded: revision, algorithm, began_from, versions." in told
    assert "rounds/0001/snapshot.parquet cannot be read" in told
    assert facts["began_from"]["began_from"]["revision"] is None
    assert provenance.checkpoint(7)["unknown"] == ["Round 7 is not trained, or its folder is gone."]


def test_other_weights_or_answers_than_those_recorded_are_noticed(world: World, tmp_path: Path):
    root = shutil.copytree(world.workspace.root, tmp_path / "copy", ignore=shutil.ignore_patterns("store*"))
    workspace = Workspace(root)
    manifest = json.loads((workspace.stage_dir(1, "train") / "manifest.json").read_text())
    workspace.write_manifest(1, "train", manifest | {"checkpoint": "0" * 64})
    world.store.write_snapshot(workspace.round_dir(1) / "snapshot.parquet", 3)
    provenance = Provenance(store=world.store, workspace=workspace, raters={})
    assert "It was drawn by weights" in "\n".join(unknowns(provenance.image(world.tasks[2].image_ids[0])))
    told = "\n".join(unknowns(provenance.checkpoint(2)))
    assert "It began from other weights than those that round 1 holds today." in told
    assert "snapshot.parquet is not the file that the round learned from" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["3"], "may be the number of a round"),
        (["ask-1"], "no image, rating or task whose id begins with 'ask-1'"),
        (["task-"], "'task-' are too few letters"),
        (["image", "task-1"], "no image whose id begins with 'task-1'"),
        (["checkpoint", "somewhere"], "There is no checkpoint 'somewhere'"),
    ],
)
def test_what_is_not_named_clearly_is_one_sentence(world: World, words: list[str], message: str):
    with pytest.raises(HitlError, match=message):
        world.find(*words)


def test_letters_that_begin_several_ids_list_them(tmp_path: Path):
    world = World(tmp_path)
    with world.store:
        more = [replace(world.tasks[3], task_id=f"r0003-0000{number}") for number in (1, 2)]
        world.store.add_tasks(more)
        with pytest.raises(UnknownName, match=r"begins several ids: task r0003-00001, task r0003-00002\."):
            world.find("r0003-0")
        assert world.find("r0003-00002")["task_id"] == "r0003-00002"
        file = tmp_path / "other.png"
        file.write_bytes(b"other")
        with pytest.raises(UnknownName, match="none has these bytes"):
            world.find(str(file))


def test_the_command_prints_the_chain_in_order_and_names_only_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    world = World(tmp_path)
    world.store.close()
    image_id = world.tasks[3].image_ids[0]

    def show(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["hitl", "show", *words, "-w", str(tmp_path)])
        with pytest.raises(SystemExit) as caught:
            main()
        assert not caught.value.code
        return capsys.readouterr().out

    told = show(image_id[:10])
    heads = [line for line in told.splitlines() if not line.startswith(" ")]
    assert heads == [
        f"image {image_id}",
        "policy of round 2",
        "reward model of round 2",
        f"answers {world.snapshots[2]}",
        "policy of round 1",
        "reward model of round 1",
        f"answers {world.snapshots[1]}",
        "the reference model",
    ]
    for word in (PROMPT.text, drawn_with(2)["seed"], "20 steps", "guidance 5", "diffusers 0.42.1", "rater-002 2"):
        assert word in told
    assert "Ann" not in told
    assert "Ann 2, Bob 2" in show("image", image_id, "--names")
    assert json.loads(show("reward", "1", "--json"))["snapshot"]["raters"] == {"rater-001": 1, "rater-002": 1}
    assert "probability 0.25" in show("rating", world.ratings[1].rating_id)
    assert "asks" in show("task-1")


def test_words_that_name_no_thing_are_refused(monkeypatch: pytest.MonkeyPatch):
    from hitl.commands.show import run

    with pytest.raises(ConfigError, match="names no thing"):
        run(["house", "3"], names=False, workspace=None, as_json=False)


def unknowns(facts: Any) -> list[str]:
    """Every sentence under `unknown`, however deep."""
    if isinstance(facts, list):
        return [found for each in facts for found in unknowns(each)]
    if not isinstance(facts, dict):
        return []
    return [*facts.get("unknown", []), *(found for each in facts.values() for found in unknowns(each))]


def hash_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
