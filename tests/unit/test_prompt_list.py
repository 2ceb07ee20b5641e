"""Prompts of a person's own file: plain lines and JSON lines, odd ones, and which are held out."""

from pathlib import Path

import pytest

from data.prompt_list import read_prompts, starter_prompts
from data.world.captions import split_of
from hitl.core.errors import ConfigError

BOTH = '{"text": "x", "split": "train"}\n{"text": "y", "split": "held_out"}\n'


def written(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_plain_lines_json_lines_and_empty_ones(tmp_path: Path):
    found = read_prompts(written(tmp_path, BOTH + '\n  a red fox  \n{"text": "z", "task": "zoo", "split": "train"}\n'))
    assert [(prompt.text, prompt.task, prompt.split) for prompt in found] == [
        ("x", "", "train"),
        ("y", "", "held_out"),
        ("a red fox", "", split_of("a red fox")),
        ("z", "zoo", "train"),
    ]


@pytest.mark.parametrize("first", ["a red fox", '{"text": "a red fox", "split": "train"}'])
def test_a_byte_order_mark_is_no_part_of_a_prompt(tmp_path: Path, first: str):
    found = read_prompts(written(tmp_path, f"{first}\n{BOTH}".encode("utf-8-sig")))
    assert found[0].text == "a red fox"


def test_a_line_given_twice_is_one_prompt_and_ends_of_lines_do_not_matter(tmp_path: Path):
    found = read_prompts(written(tmp_path, BOTH + "fox\r\nfox\r\nein süßer Hund\r\n"))
    assert [prompt.text for prompt in found] == ["x", "y", "fox", "ein süßer Hund"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "0 prompts and none of them is train"),
        ('{"text": "x", "split": "train"}', "1 prompts and none of them is held out"),
        ('{"text": 3}', "line 1 needs a text"),
        ('{"text": "x", "split": "test"}', "line 1 needs a text and a split"),
        ('{"text": "x"', "line 1 is not valid JSON"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_line(tmp_path: Path, content: str | bytes, message: str):
    with pytest.raises(ConfigError, match=message):
        read_prompts(written(tmp_path, content))


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"nothing\.txt cannot be read"):
        read_prompts(tmp_path / "nothing.txt")


def test_the_starters_prompts_are_no_more_than_asked_for_and_split():
    found = starter_prompts(2, 1)
    assert [prompt.task for prompt in found] == [t for t in TASKS for _ in "12"] + list(TASKS)
    assert all(prompt.split == split_of(prompt.text) for prompt in found)


TASKS = ("colour", "count", "composition", "location", "bias")
