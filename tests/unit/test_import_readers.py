"""Each format, on a sample written by hand from its description: what is taken of it, and what is refused."""

import base64
import csv
import io
import json
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.imports.files import Files
from data.imports.guess import format_of
from data.store import Store
from data.workspace import Workspace
from hitl.core.errors import ConfigError, UnknownName
from tests.imported import a_workspace, bring_in, png, png_id, said, values, write_pngs

A, B, C, D = map(png_id, (1, 2, 3, 4))


@pytest.fixture
def here(tmp_path: Path) -> Iterator[tuple[Workspace, Store]]:
    workspace, store = a_workspace(tmp_path / "here")
    with store:
        yield workspace, store


def dump(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def pick_row(first: int, second: int, labels: tuple[float, float], **more: Any) -> dict[str, Any]:
    return {
        "caption": "a fox",
        "jpg_0": png(first),
        "jpg_1": png(second),
        "label_0": labels[0],
        "label_1": labels[1],
        "has_label": True,
        "user_id": 17,
        "model_0": "sdxl",
        "model_1": "sd15",
        "created_at": datetime(2023, 4, 5, 6, 7, tzinfo=UTC),
        **more,
    }


PICKED = [
    pick_row(1, 2, (1.0, 0.0)),
    pick_row(1, 2, (0.0, 1.0), user_id=18),
    pick_row(1, 3, (0.5, 0.5)),
    pick_row(1, 3, (0.0, 0.0)),
    pick_row(2, 3, (1.0, 0.0), has_label=False),
    pick_row(2, 2, (1.0, 0.0)),
    pick_row(2, 3, (1.0, 0.0), jpg_1=b"broken"),
]


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def check_picked(store: Store, refused: list[Any], *names: str) -> None:
    assert said(store) == {
        ("a fox", A, B, "better", names[0]): 1,
        ("a fox", B, A, "better", names[1]): 1,
        ("a fox", *sorted([A, C]), "tie", names[0]): 1,
    }
    assert [each.reason.split(";")[0] for each in refused] == [
        "has the labels 0.0 and 0.0",
        "was not rated (has_label is false)",
        "shows the same image twice",
        refused[3].reason,
    ]
    assert "no picture that can be opened" in refused[3].reason


def test_pickapic_as_parquet(here: tuple[Workspace, Store], tmp_path: Path):
    write_parquet(tmp_path / "set/data/train-00000-of-00001.parquet", PICKED)
    workspace, store = here
    taken, refused = bring_in(store, workspace, tmp_path / "set")
    check_picked(store, refused, "src 17", "src 18")
    assert refused[0].row == "data/train-00000-of-00001.parquet row 4"
    assert (taken.rows, taken.ratings, taken.refused, taken.raters, taken.images) == (7, 3, 4, 2, 3)
    assert store.ratings()[0].server_time == datetime(2023, 4, 5, 6, 7, tzinfo=UTC)
    assert {image.provenance["model"] for image in store.images() if image.image_id == A} == {"sdxl"}
    assert {prompt.split for prompt in store.prompts()} == {"train"}


def test_pickapic_as_save_to_disk_and_as_image_columns(here: tuple[Workspace, Store], tmp_path: Path):
    import datasets

    rows = [{**row, "jpg_0": {"bytes": row["jpg_0"], "path": None}} for row in PICKED]
    datasets.DatasetDict({"validation_unique": datasets.Dataset.from_list(rows)}).save_to_disk(tmp_path / "set")
    workspace, store = here
    _, refused = bring_in(store, workspace, tmp_path / "set")
    check_picked(store, refused, "src 17", "src 18")
    assert {prompt.split for prompt in store.prompts()} == {"held_out"}


def test_a_split_may_be_taken_alone(here: tuple[Workspace, Store], tmp_path: Path):
    write_parquet(tmp_path / "set/data/train-00000-of-00001.parquet", PICKED[:1])
    write_parquet(tmp_path / "set/data/test-00000-of-00001.parquet", PICKED[2:3])
    workspace, store = here
    bring_in(store, workspace, tmp_path / "set", split="test")
    assert [key[3] for key in said(store)] == ["tie"]


def test_diffusion_dpo_has_no_raters_and_each_row_counts(here: tuple[Workspace, Store], tmp_path: Path):
    rows = [{key: row[key] for key in ("caption", "jpg_0", "jpg_1", "label_0")} for row in [*PICKED[:2], PICKED[0]]]
    write_parquet(tmp_path / "set/train.parquet", rows)
    workspace, store = here
    assert format_of(Files(tmp_path / "set")) == "diffusion-dpo"
    bring_in(store, workspace, tmp_path / "set")
    assert said(store) == {
        ("a fox", A, B, "better", "src unknown"): 2,
        ("a fox", B, A, "better", "src unknown"): 1,
    }


def test_sides_that_a_format_does_not_tell_are_drawn_by_chance(here: tuple[Workspace, Store], tmp_path: Path):
    """Else the winner would always stand on the left, and every rater would seem to prefer that side."""
    rows = [pick_row(2 * n, 2 * n + 1, (1.0, 0.0), caption=f"prompt {n}") for n in range(40)]
    write_parquet(tmp_path / "set/train.parquet", rows)
    workspace, store = here
    bring_in(store, workspace, tmp_path / "set")
    left = sum(each.outcome == each.left for each in store.comparisons())
    assert len(store.comparisons()) == 40
    assert 8 < left < 32


def test_imagereward(here: tuple[Workspace, Store], tmp_path: Path):
    write_pngs(tmp_path / "set/images", 1, 2, 3, 4)
    names = [f"images/{number}.png" for number in (1, 2, 3, 4)]
    rows = [
        {"id": "x-1", "prompt": "a fox", "generations": names, "ranking": [3, 1, 1, 5]},
        {"id": "x-2", "prompt": "a dog", "generations": names[:2], "ranking": [2, 1]},
        {"id": "x-3", "prompt": "a cat", "generations": names[:3], "ranking": [1, 2, 2]},
        {"id": "x-4", "prompt": "a cow", "generations": names[:2], "ranking": [1]},
        {"id": "x-5", "prompt": "a cow", "generations": ["../secret.png", "images/1.png"], "ranking": [1, 2]},
        {"id": "x-6", "prompt": "a cow", "generations": ["/etc/passwd", "images/1.png"], "ranking": [1, 2]},
        {"id": "x-7", "prompt": "a cow", "generations": ["images/9.png", "images/1.png"], "ranking": [1, 2]},
    ]
    dump(tmp_path / "set/train.json", rows)
    (tmp_path / "secret.png").write_bytes(png(9))
    workspace, store = here
    _, refused = bring_in(store, workspace, tmp_path / "set")
    assert values(store) == [("a fox", dict(sorted([(A, 2), (B, 1), (C, 1), (D, 3)])), "src unknown")]
    assert said(store) == {
        ("a dog", B, A, "better", "src unknown"): 1,
        ("a cat", A, B, "better", "src unknown"): 1,
        ("a cat", A, C, "better", "src unknown"): 1,
        ("a cat", *sorted([B, C]), "tie", "src unknown"): 1,
    }
    reasons = [each.reason for each in refused]
    assert "1 ranks for 2 images" in reasons[0]
    assert all("is not in the folder" in reason for reason in reasons[1:3])
    assert "no such file" in reasons[3]


def test_a_link_out_of_the_folder_is_not_followed(here: tuple[Workspace, Store], tmp_path: Path):
    write_pngs(tmp_path / "set", 1)
    (tmp_path / "secret.png").write_bytes(png(9))
    (tmp_path / "set/9.png").symlink_to(tmp_path / "secret.png")
    dump(tmp_path / "set/train.json", [{"prompt": "x", "generations": ["1.png", "9.png"], "ranking": [1, 2]}])
    workspace, store = here
    _, refused = bring_in(store, workspace, tmp_path / "set")
    assert "a link that leads out of the folder" in refused[0].reason


GROUP = {"prompt_id": "p1", "prompt": "a fox", "classification": "animals"}


def reward_rows() -> list[dict[str, Any]]:
    return [
        {
            "image": {"bytes": png(n), "path": None},
            **GROUP,
            "image_amount_in_total": 4,
            "rank": rank,
            "overall_rating": 7,
        }
        for n, rank in zip((1, 2, 3, 4), (2, 1, 4, 4), strict=True)
    ]


def test_imagerewarddb_in_its_three_forms_says_one_thing(here: tuple[Workspace, Store], tmp_path: Path):
    images = [row["image"] for row in reward_rows()]
    write_parquet(tmp_path / "rows/8k/train-00000-of-00001.parquet", reward_rows())
    group = [{**GROUP, "image": images, "rank": [2, 1, 4, 4]}]
    write_parquet(tmp_path / "groups/8k_group/train-00000-of-00001.parquet", group)
    write_parquet(
        tmp_path / "pairs/8k_pair/train.parquet", [{**GROUP, "img_better": images[1], "img_worse": images[0]}]
    )
    workspace, store = here
    for form in ("rows", "groups"):
        bring_in(store, workspace, tmp_path / form, source=form)
    places = dict(sorted([(A, 2), (B, 1), (C, 3), (D, 3)]))
    assert values(store) == [("a fox", places, "rows unknown"), ("a fox", places, "groups unknown")]
    assert {prompt.task for prompt in store.prompts()} == {"animals"}
    bring_in(store, workspace, tmp_path / "pairs", source="pairs")
    assert said(store) == {("a fox", B, A, "better", "pairs unknown"): 1}


def test_imagerewarddb_with_all_forms_in_one_folder_is_taken_once(here: tuple[Workspace, Store], tmp_path: Path):
    images = [row["image"] for row in reward_rows()]
    write_parquet(tmp_path / "set/row/train.parquet", reward_rows())
    write_parquet(tmp_path / "set/group/train.parquet", [{**GROUP, "image": images, "rank": [2, 1, 4, 4]}])
    write_parquet(tmp_path / "set/pair/train.parquet", [{**GROUP, "img_better": images[1], "img_worse": images[0]}])
    workspace, store = here
    taken, _ = bring_in(store, workspace, tmp_path / "set")
    assert (taken.ratings, store.comparisons()) == (1, [])


def test_imagerewarddb_as_its_repository_has_it(here: tuple[Workspace, Store], tmp_path: Path):
    """A JSON file in each unpacked archive, and Parquet files of all archives, those that are not here too."""
    ratings = {"overall_rating": 7, "image_text_alignment_rating": 7, "fidelity_rating": 6}
    rows = [
        {"image_path": f"images/train/train_1/{n}.png", **GROUP, "image_amount_in_total": 4, "rank": rank, **ratings}
        for n, rank in zip((1, 2, 3, 4), (2, 1, 4, 4), strict=True)
    ]
    write_pngs(tmp_path / "set/images/train/train_1", 1, 2, 3, 4)
    dump(tmp_path / "set/images/train/train_1/train_1.json", rows)
    write_parquet(
        tmp_path / "set/metadata-train.parquet", [*rows, {**rows[0], "image_path": "images/train/train_2/9.png"}]
    )
    write_pngs(tmp_path / "one", 1, 2, 3, 4)  # an archive by itself
    dump(tmp_path / "one/train_1.json", rows)
    workspace, store = here
    places = dict(sorted([(A, 2), (B, 1), (C, 3), (D, 3)]))
    for name in ("set", "one"):
        assert format_of(Files(tmp_path / name)) == "imagerewarddb"
        _, refused = bring_in(store, workspace, tmp_path / name, source=name)
        assert refused == []
    assert values(store) == [("a fox", places, "set unknown"), ("a fox", places, "one unknown")]
    (tmp_path / "set/images/train/train_1/train_1.json").unlink()
    _, refused = bring_in(store, workspace, tmp_path / "set", source="parquet", is_trial=True)
    assert [each.reason for each in refused] == [
        "names the image 'images/train/train_2/9.png', and there is no such file"
    ]


def test_hpdv2(here: tuple[Workspace, Store], tmp_path: Path):
    write_pngs(tmp_path / "set/train", 1, 2)
    write_pngs(tmp_path / "set/test", 1, 2, 3, 4)
    names = ["1.png", "2.png", "3.png", "4.png"]
    dump(
        tmp_path / "set/train.json",
        [
            {"human_preference": [0, 1], "prompt": "a fox", "file_path": names[:2]},
            {"human_preference": [0.5, 0.5], "prompt": "a dog", "file_path": names[:2]},
            {"human_preference": [1, 1], "prompt": "a dog", "file_path": names[:2]},
        ],
    )
    annotations = [{"rank": [1, 2, 3, 4], "user_hash": "abc"}, {"rank": [4, 3, 2, 1], "user_hash": "def"}]
    dump(
        tmp_path / "set/test.json",
        [
            {"prompt": "a cat", "image_path": names, "rank": [2.5] * 4, "raw_annotations": annotations},
            {"prompt": "a cow", "image_path": names, "rank": [1.5, 1.2, 3.0, 3.9], "raw_annotations": []},
            {"prompt": "a hen", "image_path": names, "rank": [2.5] * 4, "raw_annotation": annotations[:1]},
        ],
    )
    workspace, store = here
    _, refused = bring_in(store, workspace, tmp_path / "set")
    assert said(store) == {
        ("a fox", B, A, "better", "src unknown"): 1,
        ("a dog", *sorted([A, B]), "tie", "src unknown"): 1,
    }
    in_order = [A, B, C, D]
    assert values(store) == [
        ("a cat", dict(sorted(zip(in_order, (1, 2, 3, 4), strict=True))), "src abc"),
        ("a cat", dict(sorted(zip(in_order, (4, 3, 2, 1), strict=True))), "src def"),
        ("a cow", dict(sorted(zip(in_order, (2, 1, 3, 4), strict=True))), "src unknown"),
        ("a hen", dict(sorted(zip(in_order, (1, 2, 3, 4), strict=True))), "src abc"),
    ]
    assert [each.row for each in refused] == ["train.json row 3"]
    ranked = [task for task in store.tasks() if task.kind == "ranking"]
    assert [task.overlap for task in ranked] == [2, 1, 1]
    assert {prompt.text: prompt.split for prompt in store.prompts()}["a cat"] == "held_out"


def test_trl_and_imagefolder(here: tuple[Workspace, Store], tmp_path: Path):
    pair = {"chosen": {"bytes": png(1), "path": None}, "rejected": {"bytes": png(2), "path": None}}
    conversation = [{"role": "system", "content": "draw"}, {"role": "user", "content": "a dog"}]
    write_parquet(tmp_path / "trl/train.parquet", [{"prompt": "a fox", **pair}])
    write_parquet(tmp_path / "chat/train.parquet", [{"prompt": conversation, **pair}])
    write_pngs(tmp_path / "set/train/images", 1, 2)
    names = {"chosen_file_name": "images/2.png", "rejected_file_name": "images/1.png"}
    (tmp_path / "set/train/metadata.jsonl").write_text(
        json.dumps({**names, "prompt": "a cat"})
        + "\n"
        + "not json\n"
        + json.dumps({**names, "prompt": " "})
        + "\n[1]\n"
    )
    workspace, store = here
    bring_in(store, workspace, tmp_path / "trl")
    bring_in(store, workspace, tmp_path / "chat")
    _, refused = bring_in(store, workspace, tmp_path / "set")
    assert said(store) == {
        ("a fox", A, B, "better", "src unknown"): 1,
        ("a dog", A, B, "better", "src unknown"): 1,
        ("a cat", B, A, "better", "src unknown"): 1,
    }
    assert [each.row for each in refused] == [f"train/metadata.jsonl row {n}" for n in (2, 3, 4)]
    assert refused[0].reason.startswith("is not valid JSON")
    assert refused[1].reason == "has the prompt ' ', which is no text"
    assert refused[2].reason == "is '[1]', not an object"


def test_webdataset(here: tuple[Workspace, Store], tmp_path: Path):
    (tmp_path / "set").mkdir()
    with tarfile.open(tmp_path / "set/train-000000.tar", "w") as shard:

        def add(name: str, content: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))

        for key, told in (("0001", {"label_0": 0, "label_1": 1, "user_id": 3}), ("0002", {"label_0": 1})):
            add(f"{key}.0.png", png(1))
            add(f"{key}.1.png", png(2))
            add(f"{key}.json", json.dumps(told).encode())
            add(f"{key}.txt", "ein süßer Hund".encode())
        add("0003.0.png", png(1))
        add("0003.json", b"{}")
        add("0004.json", b"{")
    workspace, store = here
    _, refused = bring_in(store, workspace, tmp_path / "set")
    assert said(store) == {
        ("ein süßer Hund", B, A, "better", "src 3"): 1,
        ("ein süßer Hund", A, B, "better", "src unknown"): 1,
    }
    assert [each.row for each in refused] == ["train-000000.tar 0003", "train-000000.tar 0004"]
    assert "cannot be read" in refused[1].reason


def test_kohya_pairs(here: tuple[Workspace, Store], tmp_path: Path):
    for side, number in (("w", 1), ("l", 2)):
        place = tmp_path / "set/1_foxes" / side
        place.mkdir(parents=True)
        (place / "x.png").write_bytes(png(number))
    (tmp_path / "set/1_foxes/w/x.caption").write_text("a fox\n")
    (tmp_path / "set/1_foxes/w/lone.png").write_bytes(png(3))
    workspace, store = here
    _, refused = bring_in(store, workspace, tmp_path / "set")
    assert said(store) == {("a fox\n", A, B, "better", "src unknown"): 1}
    assert refused[0].reason == "has no loser of the same name in 1_foxes/l"


def test_d3po(here: tuple[Workspace, Store], tmp_path: Path):
    write_pngs(tmp_path / "set/images", 1, 2)
    names = ["images/1.png", "images/2.png"]
    dump(tmp_path / "set/human_prefer.json", [[1, -1], [-1, 1], [0, 0], [1, 1], 7])
    dump(tmp_path / "set/prompts.json", ["a fox"] * 5)
    with pytest.raises(ConfigError, match=r"not of what: there is no images\.json"):
        bring_in(here[1], here[0], tmp_path / "set")
    dump(tmp_path / "set/images.json", [names] * 5)
    workspace, store = here
    _, refused = bring_in(store, workspace, tmp_path / "set")
    assert [(key[1:4], count) for key, count in sorted(said(store).items())] == sorted(
        [((A, B, "better"), 1), ((B, A, "better"), 1), ((*sorted([A, B]), "tie"), 1)]
    )
    assert [each.row for each in refused] == ["human_prefer.json row 4", "human_prefer.json row 5"]


def test_arena_votes_need_what_was_voted_on(here: tuple[Workspace, Store], tmp_path: Path):
    vote = {"question_id": "q", "model_a": "x", "model_b": "y", "winner": "model_b", "judge": "j1", "tstamp": 1.7e9}
    bare = tmp_path / "bare.jsonl"
    bare.write_text(json.dumps(vote))
    workspace, store = here
    with pytest.raises(ConfigError, match="it lacks prompt, image_a, image_b"):
        bring_in(store, workspace, bare)
    write_pngs(tmp_path / "set", 1, 2)
    full = {**vote, "prompt": "a fox", "image_a": "1.png", "image_b": "2.png"}
    rows = [full, {**full, "winner": "tie (bothbad)", "judge": "j2"}, {**full, "winner": "nobody"}]
    (tmp_path / "set/votes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    _, refused = bring_in(store, workspace, tmp_path / "set")
    assert said(store) == {
        ("a fox", B, A, "better", "src j1"): 1,
        ("a fox", *sorted([A, B]), "both bad", "src j2"): 1,
    }
    assert len(refused) == 1
    assert store.ratings()[0].image_ids == (A, B)  # model_a is the one on the left


def label_studio_task(result: list[dict[str, Any]], data: dict[str, Any], **annotation: Any) -> dict[str, Any]:
    said = {
        "id": 5,
        "completed_by": 3,
        "created_at": "2024-03-29T05:39:54.721157Z",
        "lead_time": 4.288,
        "result": result,
    }
    return {"id": 1, "data": {"prompt": "a fox", **data}, "annotations": [{**said, **annotation}]}


def test_label_studio(here: tuple[Workspace, Store], tmp_path: Path):
    write_pngs(tmp_path / "set/upload/1", 1, 2, 3, 4)
    pair = {"img1": "/data/upload/1/1.png", "img2": "/data/local-files/?d=media/2.png"}
    choice = {"from_name": "pw", "to_name": "pw", "type": "pairwise", "value": {"selected": "right"}}
    tie = {"from_name": "c", "to_name": "img1", "type": "choices", "value": {"choices": ["Tie"]}}
    items = [{"id": f"i{n}", "html": f'<img src="/data/upload/1/{n}.png">'} for n in (1, 2, 3, 4)]
    order = {"type": "ranker", "to_name": "list", "value": {"ranker": {"rank": ["i3", "i1", "i4", "i2"]}}}
    stars = {"type": "rating", "to_name": "img", "value": {"rating": 4}}
    tasks = [
        label_studio_task([choice], pair),
        label_studio_task([tie], pair, completed_by={"id": 9, "email": "x@example.org"}),
        label_studio_task([order], {"items": items}),
        label_studio_task([stars], {"image": "/data/upload/1/1.png"}),
        label_studio_task([choice], pair, was_cancelled=True),
        label_studio_task([], pair),
        label_studio_task([choice], {"img1": "https://example.org/1.png", "img2": "https://example.org/2.png"}),
        {"id": 2, "data": {"prompt": "a fox"}, "annotations": []},
    ]
    (tmp_path / "set/media").mkdir()
    (tmp_path / "set/upload/1/2.png").rename(tmp_path / "set/media/2.png")
    dump(tmp_path / "set/project-1.json", tasks[:2] + tasks[3:])
    workspace, store = here
    _, refused = bring_in(store, workspace, tmp_path / "set")
    assert said(store) == {
        ("a fox", B, A, "better", "src 3"): 1,
        ("a fox", *sorted([A, B]), "tie", "src 9"): 1,
    }
    assert values(store) == [("a fox", {A: 4}, "src 3")]
    first = store.ratings()[0]
    assert (first.dwell_ms, first.image_ids) == (4288, (A, B))
    assert first.server_time == datetime(2024, 3, 29, 5, 39, 54, 721157, tzinfo=UTC)
    assert ["cancelled" in refused[0].reason, "answers nothing" in refused[1].reason] == [True, True]
    assert "download it" in refused[2].reason
    assert refused[3].reason == "has no annotation"

    (tmp_path / "set/media/2.png").rename(tmp_path / "set/upload/1/2.png")
    dump(tmp_path / "set/project-1.json", tasks[2:3])
    bring_in(store, workspace, tmp_path / "set")
    assert values(store)[1] == ("a fox", dict(sorted([(C, 1), (A, 2), (D, 3), (B, 4)])), "src 3")


def configuration(folder: Path, tags: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.xml").write_text(f"<View><Style>.x {{ color: red }}</Style>{tags}</View>")


def test_label_studios_configuration_says_which_image_was_on_the_left(here: tuple[Workspace, Store], tmp_path: Path):
    """The export does not: `to_name` is the Pairwise tag, and a database may have sorted the columns."""
    write_pngs(tmp_path / "set", 1, 2)
    pair = {"after": "2.png", "before": "1.png"}
    choice = {"from_name": "pw", "to_name": "pw", "type": "pairwise", "value": {"selected": "left"}}
    dump(tmp_path / "set/p.json", [label_studio_task([choice], pair)])
    workspace, store = here
    _, refused = bring_in(store, workspace, tmp_path / "set")
    assert refused[0].reason.startswith(
        "does not say which of after and before was on the left; save the labelling conf"
    )
    tags = '<Pairwise name="pw" toName="x, y"/><Image name="y" value="$after"/><Image name="x" value="$before"/>'
    configuration(tmp_path / "set", tags)
    for path in ("set", "set/p.json"):
        bring_in(store, workspace, tmp_path / path)
    assert said(store) == {("a fox", A, B, "better", "src 3"): 1}
    assert store.ratings()[0].image_ids == (A, B)
    (tmp_path / "set/config.xml").write_text("<View>")
    with pytest.raises(ConfigError, match=r"config\.xml cannot be read"):
        bring_in(store, workspace, tmp_path / "set")


@pytest.mark.parametrize(
    ("first", "second", "is_pair"),
    [
        ("right", "left", True),
        ("image_b", "image_a", True),
        ("imageB", "imageA", True),
        ("url2", "url1", True),
        ("second_img", "first_img", True),
        ("real", "drawn", False),
        ("img1", "img3", False),
    ],
)
def test_names_of_columns_that_say_left_and_right(
    here: tuple[Workspace, Store], tmp_path: Path, first: str, second: str, is_pair: bool
):
    write_pngs(tmp_path / "set", 1, 2)
    choice = {"from_name": "pw", "to_name": "pw", "type": "pairwise", "value": {"selected": "left"}}
    dump(tmp_path / "set/p.json", [label_studio_task([choice], {first: "1.png", second: "2.png"})])
    workspace, store = here
    bring_in(store, workspace, tmp_path / "set")
    assert said(store) == ({("a fox", B, A, "better", "src 3"): 1} if is_pair else {})


def test_label_studios_buckets_are_places_with_ties(here: tuple[Workspace, Store], tmp_path: Path):
    write_pngs(tmp_path / "set", 1, 2, 3, 4, 5)
    items = [{"id": f"i{n}", "image": f"{n}.png"} for n in (1, 2, 3, 4, 5)]
    sorted_by_name = {"_": ["i5"], "fair": ["i1", "i4"], "good": ["i2"], "poor": ["i3"]}
    buckets = {"from_name": "r", "to_name": "l", "type": "ranker", "value": {"ranker": sorted_by_name}}
    dump(tmp_path / "set/p.json", [label_studio_task([buckets], {"others": ["x"], "items": items})])
    workspace, store = here
    _, refused = bring_in(store, workspace, tmp_path / "set")
    assert refused[0].reason.startswith("sorts into _, fair, good, poor without saying which is the best; save")
    names = "".join(f'<Bucket name="{name}"/>' for name in ("good", "fair", "poor"))
    configuration(tmp_path / "set", f'<List name="l" value="$items"/><Ranker name="r" toName="l">{names}</Ranker>')
    bring_in(store, workspace, tmp_path / "set")
    assert values(store) == [("a fox", dict(sorted([(B, 1), (A, 2), (D, 2), (C, 3)])), "src 3")]


def test_label_studios_ratings_name_tags_and_may_be_several(here: tuple[Workspace, Store], tmp_path: Path):
    write_pngs(tmp_path / "set", 1, 2)

    def stars(asked: str, tag: str, rating: int) -> dict[str, Any]:
        return {"from_name": asked, "to_name": tag, "type": "rating", "value": {"rating": rating}}

    pair, one = {"image_a": "1.png", "image_b": "2.png"}, {"image": "1.png"}
    tasks = [
        label_studio_task([stars("of_x", "x", 4), stars("of_y", "y", 2)], pair),
        label_studio_task([stars("Overall", "img", 3), stars("fidelity", "img", 5)], one, completed_by=4),
        label_studio_task([stars("fidelity", "img", 5), stars("alignment", "img", 1)], one, completed_by=5),
        label_studio_task([stars("ten", "img", 4)], one, completed_by=6),
    ]
    dump(tmp_path / "set/p.json", tasks)
    columns = {"x": "image_a", "y": "image_b", "img": "image"}
    images = "".join(f'<Image name="{tag}" value="${column}"/>' for tag, column in columns.items())
    configuration(tmp_path / "set", f'{images}<Rating name="ten" toName="img" maxRating="10"/>')
    workspace, store = here
    _, refused = bring_in(store, workspace, tmp_path / "set")
    assert values(store) == [("a fox", dict(sorted([(A, 4), (B, 2)])), "src 3"), ("a fox", {A: 3}, "src 4")]
    assert store.ratings()[1].payload == {"grades": {"overall": [3], "fidelity": [5]}}
    assert "grades by fidelity, alignment; one question called overall" in refused[0].reason
    assert refused[1].reason == "rates from 1 to 10; 1 to 5 is expected"


def test_label_studios_json_min_and_what_an_old_version_skipped(here: tuple[Workspace, Store], tmp_path: Path):
    about = {"id": 1, "annotator": 4, "annotation_id": 7, "created_at": "2024-03-29T05:39:54Z", "lead_time": 37.4}
    dump(tmp_path / "min.json", [{"prompt": "a fox", "img1": "1.png", "pw": [{"selected": "left"}], **about}])
    workspace, store = here
    _, refused = bring_in(store, workspace, tmp_path / "min.json")
    assert refused[0].reason == "has no data and annotations; export the project as JSON, not as JSON-MIN or CSV"
    dump(
        tmp_path / "old.json",
        [{"data": {"prompt": "a fox"}, "completions": [{"id": 1, "skipped": True, "result": []}]}],
    )
    _, refused = bring_in(store, workspace, tmp_path / "old.json")
    assert "was cancelled" in refused[0].reason


def test_of_two_pairwise_tags_the_first_counts(here: tuple[Workspace, Store], tmp_path: Path):
    write_pngs(tmp_path / "set", 1, 2)
    answers = [
        {"from_name": name, "to_name": name, "type": "pairwise", "value": {"selected": side}}
        for name, side in (("quality", "left"), ("safety", "right"))
    ]
    dump(tmp_path / "set/p.json", [label_studio_task(answers, {"img1": "1.png", "img2": "2.png"})])
    workspace, store = here
    bring_in(store, workspace, tmp_path / "set")
    assert said(store) == {("a fox", A, B, "better", "src 3"): 1}


def test_argilla_records_in_both_forms(here: tuple[Workspace, Store], tmp_path: Path):
    fields = {
        "prompt": "a fox",
        "image_1": f"data:image/png;base64,{base64.b64encode(png(1)).decode()}",
        "image_2": "2.png",
    }
    write_pngs(tmp_path / "json", 2)
    answers = [
        {"value": "image_2", "user_id": "u1", "status": "submitted"},
        {"value": "image_1", "user_id": "u2", "status": "draft"},
        {"value": "both bad", "user_id": "u3"},
        {"value": "who knows", "user_id": "u4"},
    ]
    record = {"id": "r1", "fields": fields, "responses": {"better": answers}, "metadata": {}, "status": "completed"}
    dump(tmp_path / "json/records.json", [record, {**record, "responses": {}}])
    workspace, store = here
    _, refused = bring_in(store, workspace, tmp_path / "json")
    assert said(store) == {
        ("a fox", B, A, "better", "src u1"): 1,
        ("a fox", *sorted([A, B]), "both bad", "src u3"): 1,
    }
    assert ["draft" in refused[0].reason, "nothing that compares" in refused[1].reason] == [True, True]
    assert refused[2].reason == "has no response"

    images = {f"image_{n}": {"bytes": png(n), "path": None} for n in (1, 2, 3, 4)}
    order = [{"value": f"image_{n}", "rank": rank} for n, rank in zip((1, 2, 3, 4), (2, 1, 2, 4), strict=True)]
    row = {
        "id": "r2",
        "prompt": "a dog",
        **images,
        "rank.responses": [order],
        "rank.responses.users": ["u5"],
        "rank.responses.status": ["submitted"],
    }
    write_parquet(tmp_path / "hub/train.parquet", [row])
    bring_in(store, workspace, tmp_path / "hub")
    assert values(store) == [("a dog", dict(sorted([(A, 2), (B, 1), (C, 2), (D, 3)])), "src u5")]

    row = {"prompt": "a cat", "image": images["image_1"], "stars.responses": [5], "stars.responses.users": ["u6"]}
    write_parquet(tmp_path / "rated/train.parquet", [row])
    bring_in(store, workspace, tmp_path / "rated")
    assert values(store)[1] == ("a cat", {A: 5}, "src u6")


def argilla_fields(*numbers: int) -> dict[str, str]:
    images = {f"image_{n}": f"data:image/png;base64,{base64.b64encode(png(n)).decode()}" for n in numbers}
    return {"prompt": "a fox", **images}


def test_argillas_json_does_not_say_what_was_submitted(here: tuple[Workspace, Store], tmp_path: Path):
    """`records.to_json` of argilla 2.8.0: value and user_id alone; that a record is pending is all that is known."""
    about = {"fields": argilla_fields(1, 2), "metadata": {}, "suggestions": {}, "vectors": {}, "_server_id": "s"}
    records = [
        {"id": "1", **about, "status": "completed", "responses": {"better": [{"value": "image_1", "user_id": "u1"}]}},
        {"id": "2", **about, "status": "pending", "responses": {"better": [{"value": "image_2", "user_id": "u2"}]}},
    ]
    dump(tmp_path / "set/records.json", records)
    dump(tmp_path / "set/.argilla/settings.json", {"fields": [], "responses": []})
    workspace, store = here
    _, refused = bring_in(store, workspace, tmp_path / "set")
    assert said(store) == {("a fox", A, B, "better", "src u1"): 1}
    assert [(each.row, "its record is pending" in each.reason) for each in refused] == [
        ("records.json row 2 by u2", True)
    ]


def test_a_ranking_without_ranks_is_no_ranking(here: tuple[Workspace, Store], tmp_path: Path):
    """Argilla 2's client writes the options in the order of the question, whatever their ranks; the server has them."""
    names = [f"image_{n}" for n in (1, 2, 3, 4)]
    record = {"id": "1", "fields": argilla_fields(1, 2, 3, 4), "status": "completed"}
    dump(tmp_path / "a.json", [{**record, "responses": {"order": [{"value": names, "user_id": "u1"}]}}])
    workspace, store = here
    _, refused = bring_in(store, workspace, tmp_path / "a.json")
    assert refused[0].reason.startswith(
        "ranks by order without ranks, as Argilla 2's client writes it; save the server's"
    )

    order = [{"value": name, "rank": rank} for name, rank in zip(names, (2, 1, 4, 2), strict=True)]
    half = [{**order[0], "rank": None}, *order[1:]]
    responses = [
        {"id": "x", "user_id": "u1", "values": {"order": {"value": order}}, "status": "submitted"},
        {"id": "y", "user_id": "u2", "values": {"order": {"value": order}}, "status": "discarded"},
        {"id": "z", "user_id": "u3", "values": {"order": {"value": half}}, "status": "submitted"},
        {"id": "w", "user_id": "u4", "values": None, "status": "discarded"},
    ]
    dump(tmp_path / "b.json", {"items": [{**record, "responses": responses}], "total": 1})
    _, refused = bring_in(store, workspace, tmp_path / "b.json")
    assert values(store) == [("a fox", dict(sorted([(A, 2), (B, 1), (C, 3), (D, 2)])), "src u1")]
    assert ["was not submitted" in refused[0].reason, "without ranks" in refused[1].reason] == [True, True]


def test_argilla_1s_dataset(here: tuple[Workspace, Store], tmp_path: Path):
    """`format_as("datasets")` of argilla 1.29.1: a column to a question, and images as HTML in fields of text."""
    import datasets

    images = {f"image_{n}": f'<img src="data:image/png;base64,{base64.b64encode(png(n)).decode()}">' for n in (1, 2)}
    said_by = {
        "better": [
            {"user_id": "u1", "value": "image_2", "status": "submitted"},
            {"user_id": "u2", "value": "image_1", "status": "draft"},
        ],
        "order": [{"user_id": "u3", "value": {"rank": [1, 2], "value": ["image_1", "image_2"]}, "status": "submitted"}],
    }
    nothing = {f"{name}-suggestion-metadata": {"type": None, "score": None, "agent": None} for name in said_by}
    row = {"prompt": "a fox", **images, **said_by, **nothing, "external_id": None, "metadata": "{}"}
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_list([row]).to_parquet(tmp_path / "set/train.parquet")
    workspace, store = here
    _, refused = bring_in(store, workspace, tmp_path / "set")
    assert said(store) == {("a fox", B, A, "better", "src u1"): 1, ("a fox", A, B, "better", "src u3"): 1}
    assert [each.row for each in refused] == ["train.parquet row 1 by u2"]


def test_an_argilla_rating_is_of_the_image_whose_whole_name_is_in_the_question(
    here: tuple[Workspace, Store], tmp_path: Path
):
    fields = {**argilla_fields(1), "image_10": argilla_fields(2)["image_2"]}
    answers = {
        f"{name}_stars": [{"value": grade, "user_id": "u1"}] for name, grade in (("image_1", 5), ("image_10", 2))
    }
    dump(tmp_path / "a.json", [{"id": "1", "fields": fields, "responses": answers}])
    workspace, store = here
    bring_in(store, workspace, tmp_path / "a.json")
    assert values(store) == [("a fox", dict(sorted([(A, 5), (B, 2)])), "src u1")]


def test_a_folder_of_pictures(here: tuple[Workspace, Store], tmp_path: Path):
    write_pngs(tmp_path / "set", 1, 2)
    with (tmp_path / "set/prompts.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["file", "prompt", "task", "split"], ["1.png", "a fox", "animals", "held_out"]])
        writer.writerows([["2.png", 'a "dog",\nrunning', "", ""], ["3.png", "a cat", "", ""], ["short"]])
    workspace, store = here
    taken, refused = bring_in(store, workspace, tmp_path / "set")
    assert (taken.images, taken.prompts, taken.ratings, taken.raters) == (2, 2, 0, 0)
    assert [(image.image_id, image.round) for image in store.images()] == [(A, 0), (B, 0)]
    first, second = store.prompts()
    assert (first.task, first.split, second.text) == ("animals", "held_out", 'a "dog",\nrunning')
    assert [each.reason for each in refused] == [
        "names the image '3.png', and there is no such file",
        "has fewer fields than the header",
    ]


def test_one_table_of_comparisons(here: tuple[Workspace, Store], tmp_path: Path):
    """What `hitl export FILE` wrote before exports were folders: images by their path in the workspace they are of."""
    workspace, store = here
    for number in (1, 2):
        workspace.add_image(png(number))
    about = {
        "round": 1,
        "task_id": "r0001-00001",
        "prompt": "a fox",
        "task": "",
        "split": "train",
        "rater": "rater-001",
    }
    pair = {"image_a": f"images/{A[:2]}/{A}.png", "image_b": f"images/{B[:2]}/{B}.png", "both_bad": False}
    rows = [
        {**about, **pair, "outcome": "b", "left": "b"},
        {**about, **pair, "outcome": "tie", "left": "a", "both_bad": True, "rater": "rater-002"},
        {**about, **pair, "outcome": "a", "left": "a", "image_b": f"images/{C[:2]}/{C}.png"},
    ]
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    _, refused = bring_in(store, workspace, path)
    assert said(store) == {
        ("a fox", B, A, "better", "src rater-001"): 1,
        ("a fox", *sorted([A, B]), "both bad", "src rater-002"): 1,
    }
    assert store.ratings()[0].image_ids == (B, A)
    assert "neither beside it nor in this workspace" in refused[0].reason


def test_values_of_another_type_in_our_complete_form(here: tuple[Workspace, Store], tmp_path: Path):
    """A prompt's task that is a number is its name; a rating that says what it cannot is refused alone."""
    workspace, store = here
    folder = tmp_path / "set"
    write_pngs(folder / "images", 1, 2)
    prompts = [{"text": "a fox", "task": 7, "split": "train"}, {"text": "a hen", "split": "test"}]
    dump(folder / "prompts.json", [{"prompt_id": str(n)} | each for n, each in enumerate(prompts)])
    odd = [{}, {"purpose": {"learn": 1}}, {"overlap": 2**31}, {"repeats": [1]}, {"worse": {"a": 1}}]
    about = {"prompt_id": "0", "kind": "pairwise", "image_ids": [A, B]}
    dump(folder / "tasks.json", [{"task_id": f"t{n}"} | about | each for n, each in enumerate(odd)])
    dump(folder / "images.json", [{"image_id": png_id(n), "prompt_id": "0", "file": f"{n}.png"} for n in (1, 2)])
    rating = {"rater_id": "r", "kind": "pairwise", "payload": {"choice": "left"}, "image_ids": [A, B]}
    rating["server_time"] = "2026-11-20T12:00:00+00:00"
    rows = [{"task_id": f"t{n}"} for n in range(len(odd))]
    rows += [{"task_id": "t0", "voids": {"a": 1}}, {"task_id": "t0", "input_device": ["mouse"]}]
    dump(folder / "ratings.json", [{"rating_id": f"g{n}"} | rating | each for n, each in enumerate(rows)])
    for _ in range(2):
        taken, refused = bring_in(store, workspace, folder, format="jsonl")
        assert sorted(each.row for each in refused) == [f"ratings.json row {n}" for n in range(2, 8)]
        assert taken.kept_prompts == 0
        told = [(prompt.text, prompt.task, prompt.split) for prompt in store.prompts()]
        assert told == [("a fox", "7", "train"), ("a hen", "", "held_out")]
        assert [found.rating_id for found in store.ratings()] == ["g0"]


def test_a_damaged_table_gives_the_rows_before_the_damage(here: tuple[Workspace, Store], tmp_path: Path):
    write_pngs(tmp_path / "set", 1, 2)
    row = json.dumps({"prompt": "a fox", "generations": ["1.png", "2.png"], "ranking": [1, 2]})
    (tmp_path / "set/train.json").write_text(f"[{row}, {row[:20]}")
    workspace, store = here
    taken, refused = bring_in(store, workspace, tmp_path / "set", format="imagereward")
    assert (taken.ratings, refused[0].row) == (1, "train.json")
    assert "cannot be read on from here" in refused[0].reason


def test_a_long_json_list_is_read_item_by_item(tmp_path: Path):
    from data.imports.files import json_values

    items: list[Any] = [{"text": "ü" * 5000, "n": n} for n in range(300)] + [1.5, 12, "x,]", [], None, True]
    for written in (json.dumps(items), json.dumps(items, indent=3, ensure_ascii=False)):
        (tmp_path / "a.json").write_text(f"\n {written}\n", encoding="utf-8-sig")
        assert list(json_values(tmp_path / "a.json")) == items


COLUMNS = {
    "pickapic": "caption jpg_0 jpg_1 label_0 label_1 has_label user_id created_at model_0",
    "imagereward": "prompt generations ranking classification rater",
    "imagerewarddb": "prompt prompt_id image rank image_amount_in_total",
    "hpdv2": "prompt human_preference file_path image_path rank raw_annotations user_hash",
    "trl": "prompt chosen rejected p_win",
    "imagefolder": "prompt chosen_file_name rejected_file_name task p_win",
    "arena": "prompt image_a image_b winner judge tstamp model_a",
    "folder": "file prompt task split",
    "label-studio": "data annotations",
    "argilla": "fields responses prompt image x.responses x.responses.users",
    "jsonl": "outcome image_a image_b left both_bad prompt rater task_id",
}
SOME = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 9),
    st.floats(),
    st.text(max_size=9),
    st.sampled_from(
        ["1.png", "a fox", "left", "tie", "a", "../1.png", "/data/upload/1.png", "data:image/png;base64,AA", "\ud800"]
    ),
)
ANY_JSON = st.recursive(
    SOME,
    lambda part: (
        st.lists(part, max_size=4)
        | st.dictionaries(st.sampled_from("type value result id rank data image prompt bytes user_id".split()), part)
    ),
    max_leaves=12,
)


@pytest.mark.long
@pytest.mark.parametrize("format", COLUMNS)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_a_row_holds_it_is_taken_or_refused(
    here: tuple[Workspace, Store], tmp_path: Path, format: str, data: st.DataObject
):
    workspace, store = here
    write_pngs(tmp_path, 1)
    names = COLUMNS[format].split()
    given_rows = data.draw(st.lists(st.fixed_dictionaries({name: ANY_JSON for name in names}), min_size=1, max_size=3))
    (tmp_path / "rows.json").write_text(json.dumps(given_rows))
    _, refused = bring_in(store, workspace, tmp_path / "rows.json", format=format, is_trial=True)
    assert all(each.row.startswith("rows.json row") and each.reason for each in refused)


def test_what_cannot_be_told_is_asked_for(tmp_path: Path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.csv").write_text("x,y\n1,2\n")
    with pytest.raises(ConfigError, match=r"cannot be told from what is in it \(\.csv\)"):
        format_of(Files(tmp_path / "set"))
    with pytest.raises(UnknownName, match="no format 'pickapick'"):
        format_of(Files(tmp_path / "set"), "pickapick")
