"""The complete form: every column of every fact, in three spellings that say the same; and prompts of any sort."""

import csv
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data.exports import load_format
from data.exports.folder import write_folder
from data.exports.source import Options, Source, ranks_of
from data.records import Image, Prompt
from data.store import Store
from data.streams import Selection
from data.workspace import Workspace
from tests.facts import a_rater, a_rating, a_task
from tests.fixtures.rated import COMPARISONS, PROMPTS, TIES, Rated, in_order, png

pytestmark = pytest.mark.long

TABLES = ("prompts", "images", "tasks", "raters", "ratings", "comparisons")


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Rated:
    return Rated(tmp_path_factory.mktemp("rated"))


def export(workspace: Workspace, target: Path, format: str, **selection: Any) -> Path:
    found = load_format(format)
    with Store.open(workspace) as store:
        options = Options(format=format, ties=found.TIES[0], splits=found.SPLITS)
        source = Source(store, workspace, Selection(**selection), options)
        source.find_lost_images()
        source.count()
        write_folder(source, target)
    return target


def parquet_rows(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def csv_rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def json_rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]


READERS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    "parquet": parquet_rows,
    "csv": csv_rows,
    "jsonl": json_rows,
}


def test_every_column_of_a_rating_is_there_as_it_was_given(rated: Rated, tmp_path: Path):
    folder = export(rated.workspace, tmp_path / "out", "parquet", has_names=True)
    with Store.open(rated.workspace) as store:
        ratings, tasks, prompts, images = store.ratings(), store.tasks(), store.prompts(), store.images()
    rows = parquet_rows(folder / "ratings.parquet")
    assert len(rows) == len(ratings) == 15
    for row, rating in zip(rows, ratings, strict=True):
        for name in rating.__dataclass_fields__:
            value = json.loads(row[name]) if name == "payload" else row[name]
            wanted = getattr(rating, name)
            assert value == (list(wanted) if name == "image_ids" else wanted), name
    for name, facts in (("tasks", tasks), ("prompts", prompts), ("images", images)):
        rows = parquet_rows(folder / f"{name}.parquet")
        for row, fact in zip(rows, facts, strict=True):
            for column in fact.__dataclass_fields__:
                value = json.loads(row[column]) if column == "provenance" else row[column]
                wanted = getattr(fact, column)
                assert value == (list(wanted) if column == "image_ids" else wanted), column


def test_the_three_spellings_say_the_same(rated: Rated, tmp_path: Path):
    found = {
        ending: {name: read(export_once / f"{name}.{ending}") for name in TABLES}
        for ending, read in READERS.items()
        for export_once in [export(rated.workspace, tmp_path / ending, ending)]
    }

    def spelled(value: Any) -> Any:
        if isinstance(value, datetime):
            return value.isoformat()
        return value

    for name in TABLES:
        parquet = [{key: spelled(value) for key, value in row.items()} for row in found["parquet"][name]]
        assert found["jsonl"][name] == parquet

        def flat(value: Any) -> str:
            if value is None:
                return ""
            if isinstance(value, bool):
                return str(value).lower()
            return json.dumps(value) if isinstance(value, list) else str(value)

        # Of a number CSV keeps the value and not how it was spelled.
        rows = [{key: flat(value) for key, value in row.items()} for row in parquet]
        assert found["csv"][name] == rows


def test_raters_are_pseudonyms_everywhere_and_images_are_the_very_files(rated: Rated, tmp_path: Path):
    folder = export(rated.workspace, tmp_path / "out", "jsonl")
    assert {row["rater_id"] for row in json_rows(folder / "ratings.jsonl")} == {"rater-001", "rater-002"}
    assert [row["name"] for row in json_rows(folder / "raters.jsonl")] == ["rater-001", "rater-002"]
    for row in json_rows(folder / "images.jsonl"):
        assert (folder / row["file"]).read_bytes() == rated.workspace.image_path(row["image_id"]).read_bytes()


def test_comparisons_are_what_was_said_with_the_side(rated: Rated, tmp_path: Path):
    folder = export(rated.workspace, tmp_path / "out", "jsonl")
    rows = json_rows(folder / "comparisons.jsonl")
    labels = {"a": 1.0, "b": 0.0, "tie": 0.5}
    said = [in_order(r["prompt"], r["image_a_id"], r["image_b_id"], labels[r["outcome"]]) for r in rows]
    assert sorted(said) == rated.pairs()
    assert all((folder / row["image_a"]).exists() and Path(row["image_a"]).stem == row["image_a_id"] for row in rows)
    heart = [(row["rater"], row["left"], row["outcome"]) for row in rows if row["task_id"] == "heart-1"]
    assert heart == [("rater-001", "a", "a"), ("rater-002", "b", "b")]
    ranked = [row for row in rows if row["task_id"] == "rank"]
    assert (len(ranked), {row["left"] for row in ranked}) == (6, {"b"})  # displayed the other way round
    assert {row["flags"] for row in rows} == {None, '[["hands"],[]]'}
    assert {row["propensity"] for row in rows} == {0.25}
    assert sum(row["outcome"] == "tie" for row in rows) == TIES
    assert sum(row["both_bad"] for row in rows) == 1


def test_a_round_or_a_rater_alone(rated: Rated, tmp_path: Path):
    folder = export(rated.workspace, tmp_path / "bob", "jsonl", rater_ids=("bob",))
    assert {row["rater_id"] for row in json_rows(folder / "ratings.jsonl")} == {"rater-002"}
    assert len(json_rows(folder / "ratings.jsonl")) == 6
    assert len(json_rows(folder / "comparisons.jsonl")) == 5
    assert [row["rater_id"] for row in json_rows(folder / "raters.jsonl")] == ["rater-002"]
    whole = export(rated.workspace, tmp_path / "one", "jsonl", round=1)
    assert len(json_rows(whole / "comparisons.jsonl")) == COMPARISONS


def test_lost_and_withdrawn_images_leave_their_comparisons_out_and_are_counted(tmp_path: Path):
    rated = Rated(tmp_path / "workspace")
    heart, held = (rated.images[prompt.prompt_id] for prompt in (PROMPTS[0], PROMPTS[2]))
    rated.workspace.image_path(held[0]).unlink()
    with Store.open(rated.workspace) as store:
        assert store.withdraw_image(heart[3], "is ugly")
    folder = export(rated.workspace, tmp_path / "out", "jsonl")
    lost = [each for each in rated.pairs() if {held[0], heart[3]} & {*each[1:3]}]
    assert len(lost) == 7
    assert len(json_rows(folder / "comparisons.jsonl")) == COMPARISONS - len(lost)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "| comparisons left out for a lost or withdrawn image | 7 |" in card
    assert "| lost or withdrawn images | 2 |" in card
    assert len(json_rows(folder / "ratings.jsonl")) == 15  # nothing that a person gave is lost
    images = {row["image_id"]: row for row in json_rows(folder / "images.jsonl")}
    assert (images[held[0]]["file"], images[held[0]]["withdrawn"]) == (None, None)
    assert images[heart[3]]["withdrawn"] == "is ugly"
    groups = export(rated.workspace, tmp_path / "groups", "imagereward")
    items = json.loads((groups / "train.json").read_text(encoding="utf-8"))
    names = {Path(name).stem for item in items for name in item["generations"]}
    assert not names & {held[0], heart[3]}
    assert "Left out: 5 with an image that is lost or withdrawn." in (groups / "README.md").read_text()


def test_places_without_gaps():
    assert ranks_of([1, 2, 2, 4], None) == (1, 2, 2, 3)
    assert ranks_of([None, 1, None], None) == (2, 1, 2)
    assert ranks_of([4, 5, 4, 1], 5) == (2, 1, 2, 3)


ODD_TEXTS = [
    'say "hi", then; leave\n',
    "two\r\nlines\rand\u2028more",
    "\ufeffbegins with a byte order mark",
    "=cmd()",
    "@SUM(A1)",
    "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301",
    "x" * 10_000,
    "\x00 and \x1a",
    "null",
    "---\nlicense: mit\n---",
    "'; DROP TABLE ratings",
]


def asked_about(place: Path, texts: list[str]) -> Workspace:
    """A workspace in which one rater preferred the first of two images, for each of these prompts."""
    workspace = Workspace(place)
    ids = tuple(workspace.add_image(png(seed)) for seed in (1, 2))
    with Store.open(workspace, create=True) as store:
        prompts = [Prompt.of(text) for text in texts]
        store.add_prompts(prompts)
        store.add_images(
            Image(image_id=image_id, prompt_id=prompt.prompt_id, round=1, width=12, height=12)
            for prompt in prompts
            for image_id in ids
        )
        tasks = [replace(a_task(prompt.prompt_id, prompt=prompt), image_ids=ids) for prompt in prompts]
        store.add_tasks(tasks)
        store.add_rater(a_rater("ann"))
        for task in tasks:
            store.add_rating(a_rating(task, "ann"))
    return workspace


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(min_size=1, max_size=60).filter(str.strip), min_size=1, max_size=12, unique=True))
@example(texts=ODD_TEXTS)
def test_prompts_of_any_sort_come_out_as_they_went_in(texts: list[str], tmp_path: Path):
    with tempfile.TemporaryDirectory(dir=tmp_path) as name:
        place = Path(name)
        workspace = asked_about(place / "workspace", texts)
        for format, read in READERS.items():
            folder = export(workspace, place / format, format)
            assert [row["text"] for row in read(folder / f"prompts.{format}")] == texts
            assert [row["prompt"] for row in read(folder / f"comparisons.{format}")] == texts
        folder = export(workspace, place / "arena", "arena")
        assert [vote["prompt"] for vote in json_rows(folder / "votes.jsonl")] == texts
        folder = export(workspace, place / "imagereward", "imagereward")
        assert [item["prompt"] for item in json.loads((folder / "train.json").read_text("utf-8"))] == texts
        folder = export(workspace, place / "kohya", "kohya-pairs")
        assert [path.read_bytes().decode() for path in sorted(folder.glob("train/*/w/*.caption"))] == texts
        folder = export(workspace, place / "diffusion-dpo", "diffusion-dpo")
        (path,) = (folder / "data").glob("*.parquet")
        assert [row["caption"] for row in parquet_rows(path)] == texts
