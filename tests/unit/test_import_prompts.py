"""Prompt sets in the forms they are published in: tables, lists, COCO, folders of captions; and `hitl prompts`."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.prompt_list import Columns, read_prompts, survey
from data.records import Prompt
from data.world.captions import split_of
from hitl.commands import prompts
from hitl.config import load_config, to_toml
from hitl.core.errors import ConfigError


def test_drawbench_and_partiprompts_by_column_name(tmp_path: Path):
    (tmp_path / "drawbench.csv").write_text('Prompts,Category\nA red car.,Colors\n"A ""quoted"", long\nprompt",Text\n')
    (tmp_path / "parti.tsv").write_text(
        "Prompt\tCategory\tChallenge\tNote\nbond\tAbstract\tBasic\tx\na car\tVehicles\t\t\n"
    )
    assert [(p.text, p.task, p.split) for p in survey(tmp_path / "drawbench.csv").prompts] == [
        ("A red car.", "Colors", split_of("A red car.")),
        ('A "quoted", long\nprompt', "Text", split_of('A "quoted", long\nprompt')),
    ]
    assert [(p.text, p.task) for p in survey(tmp_path / "parti.tsv").prompts] == [
        ("bond", "Abstract"),
        ("a car", "Vehicles"),
    ]


def test_a_quotation_mark_of_a_file_without_quoting_is_text(tmp_path: Path):
    """PartiPrompts quotes no field, and has one that begins with a quotation mark; a spreadsheet's TSV quotes."""
    path = tmp_path / "a.tsv"
    path.write_text('Prompt\tCategory\n"A B C" painted on a wall\tText\nthe word "X" on a mug\tText\n')
    assert [p.text for p in survey(path).prompts] == ['"A B C" painted on a wall', 'the word "X" on a mug']
    path.write_text('Prompt\tCategory\n"""A B C"" painted on a wall"\tText\n"two\nlines"\tText\n')
    assert [p.text for p in survey(path).prompts] == ['"A B C" painted on a wall', "two\nlines"]


def test_columns_may_be_named_and_splits_have_many_words(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text(
        "id,what,kind,part\n1,a fox,animals,training\n2,a dog,animals,TEST\n3,a cat,,val\n4,a cow,,someday\n5,,,train\n"
    )
    found = survey(path, Columns(text="what", task="kind", split="part"))
    assert [(p.text, p.task, p.split) for p in found.prompts] == [
        ("a fox", "animals", "train"),
        ("a dog", "animals", "held_out"),
        ("a cat", "", "held_out"),
    ]
    assert [error.message for error in found.refused] == [
        "a.csv row 4 has the split 'someday'.",
        "a.csv row 5 has no text in 'what'.",
    ]
    with pytest.raises(ConfigError, match="row 4 has the split"):
        read_prompts(path, Columns(text="what", split="part"))
    with pytest.raises(ConfigError, match=r"none is called prompt, caption or text"):
        survey(path)
    with pytest.raises(ConfigError, match="has no column 'why'") as error:
        survey(path, Columns(text="why"))
    assert error.value.hint == "Set prompts.column to one of: id, what, kind, part."


def test_json_lists_of_texts_and_of_objects(tmp_path: Path):
    (tmp_path / "a.json").write_text(json.dumps(["a fox", {"caption": "a dog", "category": "animals"}, 7, {"x": 1}]))
    found = survey(tmp_path / "a.json")
    assert [(p.text, p.task) for p in found.prompts] == [("a fox", ""), ("a dog", "animals")]
    assert [error.message[:13] for error in found.refused] == ["a.json item 3", "a.json has th"]


def test_json_lines_keep_their_old_name(tmp_path: Path):
    (tmp_path / "a.json").write_text('{"text": "a fox", "split": "train"}\n{"text": "a dog", "split": "held_out"}\n')
    assert [p.split for p in read_prompts(tmp_path / "a.json")] == ["train", "held_out"]


def test_captions_of_one_coco_picture_stay_together(tmp_path: Path):
    annotations: list[dict[str, Any]] = [
        {"id": n, "image_id": n // 5, "caption": f" caption {n}\n"} for n in range(300)
    ]
    (tmp_path / "captions_train2017.json").write_text(
        json.dumps({"images": [], "annotations": [*annotations, {"id": 9}]})
    )
    found = survey(tmp_path / "captions_train2017.json")
    splits = {int(p.text.split()[1]): p.split for p in found.prompts}
    assert len(splits) == 300
    assert all(len({splits[n] for n in range(5 * image, 5 * image + 5)}) == 1 for image in range(60))
    assert 0.2 < Counter(splits.values())["held_out"] / 300 < 0.5
    assert len(found.refused) == 1


def test_cubs_folders_become_tasks(tmp_path: Path):
    place = tmp_path / "text_c10" / "001.Black_footed_Albatross"
    place.mkdir(parents=True)
    (place / "bird_0001.txt").write_text("this bird is black\n\nthis bird is black\na large\ufffd\ufffdbird\n")
    (place / "bird_0002.txt").write_text("a bird with a long bill\n")
    (tmp_path / "README.txt").write_text("no caption\n")
    found = survey(tmp_path)
    assert [(p.text, p.task) for p in found.prompts] == [
        (text, "Black footed Albatross") for text in ("this bird is black", "a large bird", "a bird with a long bill")
    ]
    assert (found.duplicates, found.prompts[0].split) == (1, found.prompts[1].split)


def test_a_limit_takes_prompts_from_all_over_and_always_the_same(tmp_path: Path):
    texts = [f"prompt {n}" for n in range(200)]
    (tmp_path / "a.txt").write_text("\n".join(texts))
    found = survey(tmp_path / "a.txt", limit=10)
    assert Counter(p.split for p in found.prompts) == {"train": 10, "held_out": 10}
    assert found.left_out == 180
    numbers = [int(p.text.split()[1]) for p in found.prompts]
    assert numbers == sorted(numbers)
    assert max(numbers) > 150
    (tmp_path / "b.txt").write_text("\n".join(reversed(texts)))
    assert {p.text for p in survey(tmp_path / "b.txt", limit=10).prompts} == {p.text for p in found.prompts}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(min_size=1, max_size=60).filter(str.strip), min_size=1, max_size=6))
def test_any_text_survives_a_table(tmp_path: Path, texts: list[str]):
    import csv

    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["prompt"], *([text] for text in texts)])
    try:
        wanted = list(dict.fromkeys(Prompt.of(text.strip()).text for text in texts))
    except ConfigError:
        return
    assert [p.text for p in survey(tmp_path / "a.csv").prompts] == wanted


def test_hitl_prompts_says_what_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "a.csv").write_text("prompt,task,split\na fox,animals,train\na fox,animals,train\na car,,test\n,,\n")
    prompts.run(tmp_path / "a.csv", "", "", "", 0, False)
    out = capsys.readouterr().out
    assert "2 prompts (table), 1 to train on and 1 held out" in out
    assert "1 were there before and count once" in out
    assert "animals: 1 + 0" in out
    assert "a.csv row 4 has no text in 'prompt'." in out
    prompts.run(tmp_path / "a.csv", "", "", "", 0, True)
    told = json.loads(capsys.readouterr().out)
    assert (told["prompts"], told["tasks"]["animals"], len(told["refused"])) == (2, {"train": 1, "held_out": 0}, 1)
    with pytest.raises(ConfigError, match="There is no"):
        prompts.run(tmp_path / "b.csv", "", "", "", 0, False)


def test_the_settings_reach_the_reader(tmp_path: Path):
    (tmp_path / "a.csv").write_text("what\na fox\n")
    path = tmp_path / "hitl.toml"
    config = load_config(path, [f"prompts.file={tmp_path / 'a.csv'}", "prompts.column=what", "prompts.limit=3"])
    assert config.prompts.columns == Columns(text="what")
    path.write_text(to_toml(config))
    assert load_config(path, []) == config
    assert "# Of a table: the column of the prompts." in path.read_text()
    with pytest.raises(ConfigError, match=r"prompts\.limit is -1"):
        load_config(path, ["prompts.limit=-1"])
