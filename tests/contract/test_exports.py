"""Every export is read as the trainers read it (their access pattern, written anew), and by the real loaders."""

import dataclasses
import functools
import hashlib
import io
import itertools
import json
import tarfile
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import evalica
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from webdataset.compat import WebDataset

from data.exports import FORMATS, load_format
from data.exports.folder import write_folder
from data.exports.source import Options, Source, Ties, Written
from data.store import Store
from data.streams import Selection
from tests.facts import a_rating
from tests.fixtures.rated import COMPARISONS, HEART, HELD, HELD_TOO, ODD, RATINGS, TIES, Rated, in_order, png

Export = Callable[..., Path]
DOCS = Path(__file__).parents[2] / "docs" / "data.md"


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Rated:
    return Rated(tmp_path_factory.mktemp("rated"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.EXTRACTED_DATASETS_PATH", str(tmp_path / "cache" / "extracted"))


def exported(rated: Rated, target: Path, format: str, *, ties: Ties | None = None, **changes: Any) -> Written:
    found = load_format(format)
    chosen: dict[str, Any] = {"round": None, "rater_ids": None, "has_names": False}
    selection = Selection(**chosen | {name: changes.pop(name) for name in chosen.keys() & changes.keys()})
    with Store.open(rated.workspace) as store:
        options = Options(format=format, ties=ties or found.TIES[0], splits=found.SPLITS, **changes)
        source = Source(store, rated.workspace, selection, options)
        source.find_lost_images()
        source.count()
        return write_folder(source, target)


@pytest.fixture(scope="module")
def export(rated: Rated, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Export in a format; the folder. The same is made once."""

    @functools.cache
    def make(format: str, **options: Any) -> Path:
        folder = tmp_path_factory.mktemp("exports") / format
        exported(rated, folder, format, **options)
        return folder

    return make


def load_dataset(*words: str, **options: Any) -> Any:
    return datasets.load_dataset(*words, **options)


def load_from_disk(folder: Path) -> Any:
    return datasets.load_from_disk(str(folder))


def image_id(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read_lines(path: Path) -> list[Any]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


# -- Pick-a-Pic and Diffusion-DPO -----------------------------------------------------------------------------------


def labelled(rows: Any) -> list[tuple[str, str, str, float]]:
    return sorted(in_order(r["caption"], image_id(r["jpg_0"]), image_id(r["jpg_1"]), r["label_0"]) for r in rows)


def test_pickapic_says_of_every_pair_what_the_raters_said(rated: Rated, export: Export):
    folder = export("pickapic")
    rows = load_dataset(str(folder), split="train")
    assert labelled(rows) == rated.pairs()
    assert rows.features["jpg_0"] == datasets.Value("binary")
    for row in rows:
        assert row["label_0"] + row["label_1"] == 1
        assert (row["image_0_uid"], row["image_1_uid"]) == (image_id(row["jpg_0"]), image_id(row["jpg_1"]))
        best = {1.0: row["image_0_uid"], 0.0: row["image_1_uid"], 0.5: ""}[row["label_0"]]
        assert (row["best_image_uid"], row["are_different"], row["has_label"]) == (best, True, True)
        assert row["user_id"] in (1, 2)
    counted = Counter(row["caption"] for row in rows)
    assert {row["caption"]: row["num_example_per_prompt"] for row in rows} == counted
    assert {row["model_0"] for row in rows} == {"starter", "starter round 1"}
    turned = [row for row in rows if row["caption"] == HEART.text and row["user_id"] == 2 and row["label_0"] == 1]
    assert [row["image_0_uid"] for row in turned] == [rated.images[HEART.prompt_id][1]]  # on bob's left


def test_pickscores_trainer_finds_its_splits_and_columns_on_the_disk(export: Export):
    """`dataset.from_disk=true`, a filter on has_label and are_different, and `__index_level_0__` dropped by name."""
    found = load_from_disk(export("pickapic", by_split=True) / "save_to_disk")
    assert set(found) == {"train", "validation_unique", "test_unique"}
    prompts = {name: set(split["caption"]) for name, split in found.items()}
    assert prompts["train"] == {HEART.text, ODD.text}
    assert {*prompts["validation_unique"], *prompts["test_unique"]} == {HELD.text, HELD_TOO.text}
    assert len(prompts["test_unique"]) == 1
    for name, split in found.items():
        if name != "train":
            split = split.filter(lambda each: each["has_label"])
        split = split.filter(lambda each: each["are_different"])
        split = split.remove_columns(["__index_level_0__"])
        for row in split:
            for side in "01":
                content = row[f"jpg_{side}"]
                if isinstance(content, dict):
                    content = content["bytes"]
                assert Image.open(io.BytesIO(content)).convert("RGB").size == (12, 12)
            assert torch.tensor([row["label_0"], row["label_1"]]).sum() == 1
            assert row["num_example_per_prompt"] >= 1


def test_what_is_on_the_disk_is_what_is_in_the_parquet_files(export: Export):
    folder = export("pickapic")
    one = load_dataset(str(folder), split="train")
    other = load_from_disk(folder / "save_to_disk")["train"]
    assert one.to_list() == other.to_list()
    assert one.features == other.features


def train_batches(rows: Any) -> list[tuple[str, bytes, bytes]]:
    """What both trainers of Diffusion-DPO do with a row: chosen first, and anything but a label of 0 is a win."""
    batches = []
    for caption, first, second, label in zip(
        rows["caption"], rows["jpg_0"], rows["jpg_1"], rows["label_0"], strict=True
    ):
        pictures = [Image.open(io.BytesIO(content)).convert("RGB").tobytes() for content in (first, second)]
        if label == 0:
            pictures.reverse()
        batches.append((caption, *pictures))
    return batches


def test_diffusion_dpo_trains_on_the_winner_first_and_on_no_tie(rated: Rated, export: Export):
    rows = load_dataset(str(export("diffusion-dpo")), split="train")
    won = [each for each in rated.pairs() if each[3] != 0.5]
    assert labelled(rows) == won
    assert set(rows["label_0"]) == {0.0, 1.0}  # what its supervised fine-tuning asserts

    def pixels(image_id: str) -> bytes:
        return Image.open(rated.workspace.image_path(image_id)).convert("RGB").tobytes()

    wanted = [(text, *(map(pixels, (one, other) if label else (other, one)))) for text, one, other, label in won]
    assert sorted(train_batches(rows)) == sorted(wanted)


def test_ties_are_in_diffusion_dpo_only_when_asked_for_and_the_card_warns(export: Export):
    folder = export("diffusion-dpo", ties="half")
    rows = load_dataset(str(folder), split="train")
    assert rows["label_0"][:].count(0.5) == TIES
    assert "learn from one that image 0 won" in (folder / "README.md").read_text()


def test_image_columns_would_break_these_trainers(export: Export):
    """The trap that the binary columns avoid."""
    rows = load_dataset(str(export("diffusion-dpo")), split="train").cast_column("jpg_0", datasets.Image())
    with pytest.raises(TypeError):
        io.BytesIO(rows[0]["jpg_0"])


# -- ImageReward ----------------------------------------------------------------------------------------------------


def ranked_pairs(items: list[dict[str, Any]], base: Path) -> list[tuple[str, str, str, float]]:
    """ImageReward's `rank_pair_dataset`: all pairs of an item, ties skipped, the better one first."""
    found = []
    for item in items:
        for i, j in itertools.combinations(range(len(item["generations"])), 2):
            if item["ranking"][i] == item["ranking"][j]:
                continue
            better, worse = (i, j) if item["ranking"][i] < item["ranking"][j] else (j, i)
            first, second = ((base / item["generations"][place]).read_bytes() for place in (better, worse))
            found.append(in_order(item["prompt"], image_id(first), image_id(second), 1.0))
    return sorted(found)


def test_imagerewards_trainer_makes_the_pairs_that_were_said(rated: Rated, export: Export):
    folder = export("imagereward")
    items = read_json(folder / "train.json")
    assert len(items) == RATINGS
    assert len({item["id"] for item in items}) == RATINGS
    assert ranked_pairs(items, folder) == [each for each in rated.pairs() if each[3] != 0.5]
    (ranking,) = (item["ranking"] for item in items if len(item["generations"]) == 4)
    assert ranking == [3, 2, 2, 1]
    assert sum(len(set(item["ranking"])) == 1 for item in items) == 2


def test_imagereward_keeps_held_out_prompts_apart(export: Export):
    folder = export("imagereward", by_split=True)
    parts = {
        name: {item["prompt"] for item in read_json(folder / f"{name}.json")} for name in ("train", "valid", "test")
    }
    assert parts["train"] == {HEART.text, ODD.text}
    assert sorted(parts["valid"] | parts["test"]) == sorted((HELD.text, HELD_TOO.text))


def test_imagerewarddb_is_loaded_in_its_three_configurations(rated: Rated, export: Export):
    folder = str(export("imagerewarddb"))
    rows = load_dataset(folder, "row", split="train")
    groups = load_dataset(folder, "group", split="train")
    pairs = load_dataset(folder, "pair", split="train")
    assert (len(rows), len(groups)) == (2 * 10 + 4, RATINGS)
    assert rows.features["image"] == datasets.Image()
    assert rows.features["rank"] == datasets.Value("int8")
    by_group = defaultdict(list)
    for row in rows:
        assert row["image"].size == (12, 12)
        by_group[row["prompt_id"]].append(row["rank"])
    assert by_group == {group["prompt_id"]: group["rank"] for group in groups}
    (graded,) = (group for group in groups if group["overall_rating"])
    assert (graded["overall_rating"], graded["image_text_alignment_rating"]) == ([4, 2], [3, 5])
    assert (graded["fidelity_rating"], graded["rank"], graded["classification"]) == (None, [1, 2], "count")
    raw = pairs.cast_column("img_better", datasets.Image(decode=False)).cast_column(
        "img_worse", datasets.Image(decode=False)
    )
    found = [
        in_order(r["prompt"], image_id(r["img_better"]["bytes"]), image_id(r["img_worse"]["bytes"]), 1.0) for r in raw
    ]
    assert sorted(found) == [each for each in rated.pairs() if each[3] != 0.5]


# -- HPDv2 ----------------------------------------------------------------------------------------------------------


def hpd_pairs(folder: Path) -> list[tuple[str, str, str, float]]:
    """`HPDDataset`: two files of one size, or the row is skipped without a word."""
    found = []
    for item in read_json(folder / "train.json"):
        first, second = ((folder / name).read_bytes() for name in item["file_path"])
        assert Image.open(io.BytesIO(first)).size == Image.open(io.BytesIO(second)).size
        label = torch.tensor(item["human_preference"])
        assert label.sum() == 1
        found.append(in_order(item["prompt"], image_id(first), image_id(second), float(label[0])))
    return sorted(found)


def test_hpdv2s_trainer_reads_every_pair(rated: Rated, export: Export):
    assert hpd_pairs(export("hpdv2")) == rated.pairs()


def test_hpdv2s_test_file_ranks_held_out_prompts_by_all_raters(rated: Rated, export: Export):
    folder = export("hpdv2", by_split=True)
    assert {item["prompt"] for item in read_json(folder / "train.json")} == {HEART.text, ODD.text}
    test = {item["prompt"]: item for item in read_json(folder / "test.json")}
    assert set(test) == {HELD.text, HELD_TOO.text}
    item = test[HELD.text]
    names = [f"images/{rated.images[HELD.prompt_id][place]}.png" for place in (0, 2)]
    assert (item["image_path"], item["rank"]) == (names, [1, 2])
    said = [{"rank": [1, 2], "user_hash": "rater-001"}, {"rank": [1, 2], "user_hash": "rater-002"}]
    assert item["raw_annotations"] == said
    assert all((folder / name).exists() for each in test.values() for name in each["image_path"])


def test_hpdv2_leaves_out_images_of_two_sizes_and_says_so(tmp_path: Path):
    rated = Rated(tmp_path / "workspace")
    with Store.open(rated.workspace) as store:
        wide = rated.workspace.add_image(png(7, side=20))
        first = store.image(rated.images[HEART.prompt_id][0])
        assert first is not None
        store.add_images([dataclasses.replace(first, image_id=wide, width=20, height=20)])
        task = dataclasses.replace(rated.tasks["heart-1"], task_id="wide", image_ids=(first.image_id, wide))
        store.add_tasks([task])
        store.add_rating(a_rating(task, "ann"))
    exported(rated, tmp_path / "hpd", "hpdv2")
    assert hpd_pairs(tmp_path / "hpd") == rated.pairs()
    assert "Left out: 1 with two images that differ in size." in (tmp_path / "hpd" / "README.md").read_text()


UNCLOSED = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""webdataset leaves its shards open for the garbage collector to close."""


# -- TRL, imagefolder, webdataset -----------------------------------------------------------------------------------


def test_trl_has_each_pair_once_with_the_votes_of_all(rated: Rated, export: Export):
    rows = load_dataset(str(export("trl")), split="train")
    assert rows.features["chosen"] == rows.features["rejected"] == datasets.Image()
    votes: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for prompt, one, other, label in rated.pairs():
        votes[prompt, one, other].append(label)
    wanted = []
    for (prompt, one, other), labels in votes.items():
        share = sum(labels) / len(labels)
        if share != 0.5:
            names = (one, other) if share > 0.5 else (other, one)
            wanted.append((prompt, *names, len(labels), max(share, 1 - share)))
    found = [(r["prompt"], r["chosen_id"], r["rejected_id"], r["n_votes"], r["p_win"]) for r in rows]
    assert sorted(found) == sorted(wanted)
    assert all(row["margin"] == pytest.approx(2 * row["p_win"] - 1) for row in rows)
    raw = rows.cast_column("chosen", datasets.Image(decode=False))
    assert all(image_id(row["chosen"]["bytes"]) == row["chosen_id"] for row in raw)


def test_trl_without_ties_counts_only_votes_for_one(rated: Rated, export: Export):
    rows = load_dataset(str(export("trl", ties="drop")), split="train")
    heart = rated.images[HEART.prompt_id]
    (row,) = (row for row in rows if {row["chosen_id"], row["rejected_id"]} == {heart[2], heart[3]})
    assert (row["chosen_id"], row["n_votes"], row["p_win"]) == (heart[3], 1, 1.0)  # of the ranking alone


def test_imagefolder_is_loaded_with_two_images_to_a_row(rated: Rated, export: Export):
    folder = export("imagefolder", by_split=True)
    found = load_dataset("imagefolder", data_dir=str(folder))
    assert set(found) == {"train", "validation", "test"}
    rows = [row for split in found.values() for row in split]
    assert rows[0]["chosen"].size == rows[0]["rejected"].size == (12, 12)
    lines = [line for path in folder.glob("*/metadata.jsonl") for line in read_lines(path)]
    said = [
        in_order(line["prompt"], Path(line["chosen_file_name"]).stem, Path(line["rejected_file_name"]).stem, 1.0)
        for line in lines
    ]
    assert sorted(said) == [each for each in rated.pairs() if each[3] != 0.5]
    assert Counter(row["prompt"] for row in rows) == Counter(line["prompt"] for line in lines)


@UNCLOSED
def test_webdataset_reads_whole_pairs_in_order(rated: Rated, export: Export):
    folder = export("webdataset")
    shards: Any = WebDataset(str(folder / "train" / "000000.tar"), shardshuffle=False)
    samples = list(shards.decode())
    said = [
        in_order(s["json"]["prompt"], s["json"]["image_0_uid"], s["json"]["image_1_uid"], s["json"]["label_0"])
        for s in samples
    ]
    assert sorted(said) == rated.pairs()
    assert [sample["__key__"] for sample in samples] == [f"{number:08d}" for number in range(COMPARISONS)]
    assert all(sample["txt"] == sample["json"]["prompt"] for sample in samples)
    raw: Any = WebDataset(str(folder / "train" / "000000.tar"), shardshuffle=False)
    assert all(image_id(s["0.png"]) == json.loads(s["json"])["image_0_uid"] for s in raw)
    assert read_json(folder / "train" / "sizes.json") == {"000000.tar": COMPARISONS}
    assert (folder / "train" / "__len__").read_text() == str(COMPARISONS)


def test_webdataset_is_loaded_by_datasets_too(export: Export):
    rows = load_dataset(str(export("webdataset")), split="train")
    assert {"0.png", "1.png", "json", "txt"} <= set(rows.column_names)
    assert rows[0]["0.png"].size == (12, 12)


def test_a_shard_is_full_at_its_size_and_keeps_pairs_whole(
    rated: Rated, export: Export, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("data.exports.webdataset.SHARD_BYTES", 4000)
    folder = export("webdataset", ties="keep") / "train"
    sizes = read_json(folder / "sizes.json")
    assert len(sizes) > 2
    assert sum(sizes.values()) == COMPARISONS
    for name, size in sizes.items():
        with tarfile.open(folder / name) as shard:
            keys = Counter(member.name.partition(".")[0] for member in shard)
        assert (len(keys), set(keys.values())) == (size, {4})


# -- kohya, D3PO, arena ---------------------------------------------------------------------------------------------


def test_kohya_finds_a_loser_and_a_caption_for_every_winner(rated: Rated, export: Export):
    folder = export("kohya-pairs")
    found = []
    for place in (folder / "train").iterdir():
        repeats, _, name = place.name.partition("_")
        assert (int(repeats), bool(name)) == (1, True)
        for winner in sorted((place / "w").glob("*.png")):
            loser = place / "l" / winner.name
            caption = winner.with_suffix(".caption").read_bytes().decode()
            assert loser.with_suffix(".caption").read_bytes().decode() == caption
            found.append(in_order(caption, image_id(winner.read_bytes()), image_id(loser.read_bytes()), 1.0))
    assert sorted(found) == [each for each in rated.pairs() if each[3] != 0.5]


def test_d3pos_preferences_are_a_tensor_beside_what_they_are_about(rated: Rated, export: Export):
    folder = export("d3po")
    human_prefer = torch.tensor(read_json(folder / "train" / "human_prefer.json"))
    assert human_prefer.shape == (COMPARISONS, 2)
    prompts, images = (read_json(folder / "train" / f"{name}.json") for name in ("prompts", "images"))
    said = []
    for (first, second), prompt, (one, other) in zip(human_prefer.tolist(), prompts, images, strict=True):
        label = 0.5 if first == second else float(first > second)
        ids = image_id((folder / one).read_bytes()), image_id((folder / other).read_bytes())
        said.append(in_order(prompt, ids[0], ids[1], label))
    assert sorted(said) == rated.pairs()


def test_arena_votes_are_what_an_elo_notebook_reads(rated: Rated, export: Export):
    """Which of two models won, by evalica, with the known answer: the reference won both votes on another model."""
    folder = export("arena")
    votes = read_lines(folder / "votes.jsonl")
    assert len(votes) == COMPARISONS
    assert Counter(vote["winner"] for vote in votes)["tie (bothbad)"] == 1
    between = [vote for vote in votes if vote["model_a"] != vote["model_b"] and vote["prompt"] == HELD.text]
    kinds = {"model_a": evalica.Winner.X, "model_b": evalica.Winner.Y}
    found = evalica.counting(
        [vote["model_a"] for vote in between],
        [vote["model_b"] for vote in between],
        [kinds[vote["winner"]] for vote in between],
    )
    assert found.scores.to_dict() == {"starter": 2.0, "starter round 1": 0.0}
    labels = {"model_a": 1.0, "model_b": 0.0}
    said = [
        in_order(v["prompt"], Path(v["image_a"]).stem, Path(v["image_b"]).stem, labels.get(v["winner"], 0.5))
        for v in votes
    ]
    assert sorted(said) == rated.pairs()


# -- every format ---------------------------------------------------------------------------------------------------


@UNCLOSED
@pytest.mark.parametrize("format", FORMATS)
def test_the_three_lines_of_the_card_load_it(
    format: str, export: Export, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = export(format)
    card = (folder / "README.md").read_text(encoding="utf-8")
    code = card.split("```python\n")[1].split("\n```")[0]
    monkeypatch.chdir(folder.parent)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


@UNCLOSED
@pytest.mark.parametrize("format", FORMATS)
def test_the_lines_of_the_documentation_load_it(
    format: str, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    section = DOCS.read_text(encoding="utf-8").split(f"\n### `{format}`\n")[1].split("\n### ")[0]
    (tmp_path / f"my-{format}").symlink_to(export(format))
    monkeypatch.chdir(tmp_path)
    exec(compile(section.split("```python\n")[1].split("\n```")[0], "data.md", "exec"), {})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("format", FORMATS)
def test_the_manifest_has_every_file_with_its_checksum(format: str, export: Export):
    folder = export(format)
    told = read_json(folder / "manifest.json")
    there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert set(told["files"]) == set(there) - {"manifest.json"}
    for name, entry in told["files"].items():
        assert entry == {"bytes": there[name].stat().st_size, "sha256": image_id(there[name].read_bytes())}
    counts = told["counts"]
    assert (counts["ratings"], counts["comparisons"], counts["ties"]) == (RATINGS, COMPARISONS, TIES)
    assert (counts["raters"], counts["prompts"], counts["lost_images"]) == (2, 4, 0)


@pytest.mark.parametrize("format", FORMATS)
def test_names_are_in_no_export_that_was_not_asked_for_them(format: str, export: Export):
    content = b"".join(path.read_bytes() for path in export(format).rglob("*") if path.suffix in TEXTS)
    assert content
    assert b"Ann" not in content
    assert b"ann" not in content.replace(b"annotat", b"")


TEXTS = {".json", ".jsonl", ".csv", ".md", ".caption"}


@pytest.mark.parametrize("format", ["pickapic", "imagereward", "webdataset", "kohya-pairs", "trl", "arena"])
def test_images_are_exported_as_jpeg_when_asked_for(format: str, rated: Rated, export: Export):
    folder = export(format, image_format="jpeg")
    if format in ("pickapic", "trl"):
        (path,) = (folder / "data").glob("*.parquet")
        row = pq.read_table(path).to_pylist()[0]
        content = row["jpg_0"] if format == "pickapic" else row["chosen"]["bytes"]
    elif format == "webdataset":
        with tarfile.open(folder / "train" / "000000.tar") as shard:
            file = shard.extractfile("00000000.0.jpg")
            assert file is not None
            content = file.read()
    else:
        content = next(folder.rglob("*.jpg")).read_bytes()
        assert not list(folder.rglob("*.png"))
    picture = Image.open(io.BytesIO(content))
    assert (picture.format, picture.size, picture.mode) == ("JPEG", (12, 12), "RGB")
