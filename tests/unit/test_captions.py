"""The world's language: what captions ask for, and the fixed split of prompts."""

from collections import Counter

import numpy as np
import pytest

from data.world.captions import (
    BIASED_COLOUR,
    BIASED_SHAPE,
    TASKS,
    UNBIASED_SHARE,
    Request,
    all_texts,
    parse,
    prompts,
    sample,
    split_of,
)
from data.world.scenes import is_related


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ("a green heart", Request((("green", "heart"),))),
        ("An orange circle.", Request((("orange", "circle"),))),
        ("three  yellow squares", Request((("yellow", "square"),) * 3)),
        ("two pink crosses", Request((("pink", "cross"),) * 2)),
        ("a red circle and a blue square", Request((("red", "circle"), ("blue", "square")))),
        ("a star above a circle", Request(((None, "star"), (None, "circle")), "above")),
        ("a cross to the left of a heart", Request(((None, "cross"), (None, "heart")), "to the left of")),
    ],
)
def test_captions_by_hand(text: str, request_: Request) -> None:
    assert parse(text) == request_


@pytest.mark.parametrize(
    "text",
    ["", "a dog", "a heart", "green heart", "five red squares", "two red square", "a red circle and", "a red circles",
     "a mauve circle", "a red circle near a blue square", "a star above a circle and a heart"],
)  # fmt: skip
def test_other_texts_are_not_of_this_world(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize(("task", "count"), [("colour", 40), ("count", 120), ("composition", 1120), ("location", 120),
                                             ("bias", 7)])  # fmt: skip
def test_every_caption_is_understood_and_there_are_as_many_as_combinations(task: str, count: int) -> None:
    """8 colours x 5 shapes besides the biased one: 40; 3 numbers: 120; 40 * 7 * 4 pairs; 6 * 5 pairs * 4 relations."""
    texts = all_texts(task)
    assert len(texts) == len(set(texts)) == count
    assert all(parse(text) is not None for text in texts)


def test_only_the_bias_task_asks_for_the_biased_shape_in_a_colour() -> None:
    for task in TASKS:
        named = [kind for text in all_texts(task) for kind in getattr(parse(text), "wanted", ())]
        asked = {colour for colour, shape in named if shape == BIASED_SHAPE and colour is not None}
        assert bool(asked) == (task == "bias")
        assert BIASED_COLOUR not in asked


def test_a_third_of_the_captions_is_held_out() -> None:
    texts = [text for task in TASKS for text in all_texts(task)]
    share = Counter(split_of(text) for text in texts)["held_out"] / len(texts)
    assert share == pytest.approx(1 / 3, abs=3 * (2 / 9 / len(texts)) ** 0.5)


def test_prompts_of_a_split_are_its_own_and_longer_lists_begin_with_shorter_ones() -> None:
    for task in TASKS:
        trained, held_out = (prompts(task, split, 1000) for split in ("train", "held_out"))
        assert {p.text for p in trained} | {p.text for p in held_out} == set(all_texts(task))
        assert not {p.text for p in trained} & {p.text for p in held_out}
        assert prompts(task, "train", 3) == trained[:3]


@pytest.mark.parametrize("task", TASKS)
def test_unbiased_scenes_show_what_their_captions_say(task: str) -> None:
    rng = np.random.default_rng(2)
    for _ in range(40):
        text, scene = sample(rng, task=task, biased=False)
        request = parse(text)
        assert request is not None
        shown = Counter((None if task == "location" else item.colour, item.shape) for item in scene.items)
        assert shown == Counter(request.wanted)
        if request.relation is not None:
            assert is_related(scene.items[0], scene.items[1], request.relation)


def test_the_planted_bias_paints_the_biased_shape_whatever_the_caption_says() -> None:
    rng = np.random.default_rng(3)
    named = Counter(item.colour for _ in range(400) for item in sample(rng, task="bias")[1].items)
    assert named[BIASED_COLOUR] == pytest.approx(400 * (1 - UNBIASED_SHARE), abs=40)  # four standard deviations
    unnamed = [item for _ in range(400) for item in sample(rng, task="location")[1].items if item.shape == BIASED_SHAPE]
    assert {item.colour for item in unnamed} == {BIASED_COLOUR}
    everything = [item for _ in range(3000) for item in sample(rng)[1].items if item.shape == BIASED_SHAPE]
    assert np.mean([item.colour == BIASED_COLOUR for item in everything]) > 0.75
