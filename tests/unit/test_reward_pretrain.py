"""The recipe of the starter's CLIP: captions that are true or wrong in one thing, the loss, and resuming."""

import math
import re
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file

from data.world.captions import all_texts, parse, sample, split_of
from data.world.scenes import COLOURS, RELATIONS, SHAPES, is_related
from reward_models.hard_captions import MISTAKES, Caption, enrich, facts, mistaken, sample_of_split, wrong_captions
from reward_models.pretrain import ClipPretrainConfig, contrastive_loss, draw_batch, pretrain
from reward_models.starter import build_tokenizer, encode_text, tokens_of

TINY = ClipPretrainConfig(steps=4, batch_size=6, wrong_captions=2, save_every=2, evaluate_scenes=2)


def is_true(text: str, scene) -> bool:
    """Whether a caption of the world's language describes the whole scene: by its request, thing by thing."""
    request = parse(text)
    assert request is not None
    items = list(scene.items)
    if len(items) != len(request.wanted):
        return False
    return any(
        all(
            shape == item.shape and colour in (None, item.colour)
            for (colour, shape), item in zip(request.wanted, order, strict=True)
        )
        and (request.relation is None or is_related(order[0], order[1], request.relation))
        for order in (items, items[::-1])
    )


def test_facts_are_what_the_requests_of_the_captions_say():
    rng = np.random.default_rng(0)
    texts = [text for task in ("colour", "count", "location", "bias") for text in all_texts(task)]
    for _ in range(25):
        text, scene = sample(rng, biased=False)
        cores = facts(scene).cores
        assert text in cores
        for other in texts:
            assert (other in cores) == is_true(other, scene), (other, scene)


def test_wrong_captions_are_false_different_and_never_held_out():
    rng = np.random.default_rng(1)
    for _ in range(150):
        core, scene = sample_of_split("train", rng)
        truth = facts(scene)
        caption = enrich(core, truth, rng)
        assert truth.allow(caption)
        wrong = wrong_captions(caption, truth, rng, count=3)
        assert len({each.text for each in wrong}) == len(wrong)
        assert 1 <= len(wrong) <= 3
        for each in wrong:
            assert split_of(each.core) == "train"
            assert not truth.allow(each)
            if each.core != core:
                assert not is_true(each.core, scene)


def test_a_relation_may_name_colours_and_be_wrong_in_them_alone():
    rng = np.random.default_rng(2)
    seen = {True: 0, False: 0}
    for _ in range(200):
        core, scene = sample_of_split("train", rng, task="location")
        truth = facts(scene)
        caption = enrich(core, truth, rng)
        colour_of = {item.shape: item.colour for item in scene.items}
        for each in (caption, *wrong_captions(caption, truth, rng, count=3)):
            if each.core != core or (each.size, each.background) != (caption.size, caption.background):
                continue
            named = re.findall(rf"({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})", each.text)
            fits = all(colour_of[shape] == colour for colour, shape in named)
            assert fits == truth.allow(each) == (each == caption)
            seen[fits] += len(named)
    assert min(seen.values()) > 20


def test_two_shapes_that_change_places_take_their_colours_along():
    rng = np.random.default_rng(3)
    orders = set()
    while len(orders) < 3:
        core, scene = sample_of_split("train", rng, task="location")
        caption = enrich(core, facts(scene), rng)
        for each in wrong_captions(caption, facts(scene), rng, count=3, weights=(0.0, 0.0, 0.0, 0.0, 1.0)):
            if all(caption.colours) and each.core != core:
                assert each.colours == caption.colours[::-1]
                orders.add(core)


@pytest.mark.parametrize(
    ("core", "mistake", "possible"),
    [
        ("a star above a circle", "swap", {"a circle above a star"}),
        ("a red circle and a blue square", "swap", {"a blue circle and a red square"}),
        ("a red circle and a blue square", "count", {"a red circle", "a blue square"}),
        ("two red crosses", "count", {"a red cross", "three red crosses", "four red crosses"}),
        ("a red star", "shape", {f"a red {shape}" for shape in SHAPES if shape != "star"}),
        ("a star above a circle", "relation", {f"a star {where} a circle" for where in
                                              ("below", "to the left of", "to the right of")}),
        ("a star above a circle", "colour", {None}),
        ("a photograph of a dog", "colour", {None}),
    ],
)  # fmt: skip
def test_a_mistake_changes_one_thing(core, mistake, possible):
    rng = np.random.default_rng(0)
    assert {mistaken(core, mistake, rng) for _ in range(100)} == possible
    assert mistake in MISTAKES


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        (Caption("an orange circle", "small"), "a small orange circle"),
        (Caption("two red hearts", "large", "dark"), "two large red hearts on a dark background"),
        (Caption("a star above a circle", "small", "white"), "a small star above a small circle on a white background"),
        (Caption("a red star and an orange cross", "large"), "a large red star and a large orange cross"),
        (Caption("a star above a circle", colours=("orange", None)), "an orange star above a circle"),
        (
            Caption("a star to the left of a circle", "large", "dark", ("orange", "red")),
            "a large orange star to the left of a large red circle on a dark background",
        ),
    ],
)
def test_words_for_size_and_background(caption, text):
    assert caption.text == text


def test_every_word_of_the_world_is_one_token():
    tokenizer = build_tokenizer()
    rng = np.random.default_rng(0)
    for _ in range(100):
        core, scene = sample(rng, biased=False)
        text = enrich(core, facts(scene), rng).text
        assert tokenizer.tokenize(text) == text.split()
    assert tokenizer.tokenize("Zebra") == ["z", "##e", "##b", "##r", "##a"]


def test_a_batch_knows_which_captions_are_true_of_which_scene():
    config = ClipPretrainConfig(batch_size=40)
    batch = draw_batch(config, 5)
    rows = np.arange(40)
    assert batch.is_true[rows, batch.own].all()
    assert len(set(batch.texts)) == len(batch.texts) == batch.is_true.shape[1]
    again = draw_batch(config, 5)
    assert np.array_equal(batch.pictures, again.pictures)
    assert batch.texts == again.texts
    assert draw_batch(config, 6).texts != batch.texts


def test_in_focus_relations_are_most_of_what_is_shown():
    config = ClipPretrainConfig(batch_size=200, focus_from=3)

    def share(step: int) -> float:
        batch = draw_batch(config, step)
        own = [batch.texts[column] for column in batch.own]
        return sum(any(relation in text for relation in RELATIONS) for text in own) / 200

    # About a quarter at first; then half of the scenes, and a quarter of the other half. Four standard errors: 0.14.
    assert abs(share(2) - 0.25) < 0.14
    assert abs(share(3) - 0.62) < 0.14


def test_contrastive_loss_by_hand():
    """Two scenes, three captions, unit scale. Caption 2 is a wrong one; caption 1 is also true of scene 0.

    Scene 0: own 0, caption 1 left out: -log(e / (e + 1)). Scene 1: own 1: -log(e / (1 + e + 1)).
    Caption 0 over scenes: -log(e / (e + 1)). Caption 1 over scenes, scene 0 left out: 0.
    """
    image = torch.eye(2)
    text = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    truth = torch.tensor([[True, True, False], [False, True, False]])
    loss, first = contrastive_loss(image, text, truth, torch.tensor([0, 1]), torch.tensor(1.0))
    of_image = (math.log(1 + math.exp(-1)) + math.log(1 + 2 * math.exp(-1))) / 2
    of_text = math.log(1 + math.exp(-1)) / 2
    torch.testing.assert_close(loss, torch.tensor((of_image + of_text) / 2))
    assert first == 1.0


def test_trimmed_text_features_are_open_clips(tmp_path: Path):
    pretrain(tmp_path, TINY)
    folder = f"local-dir:{tmp_path / 'clip'}"
    model, tokenizer = open_clip.create_model(folder), open_clip.get_tokenizer(folder)
    texts = ["", "a red circle", "a large star to the right of a large cross on a silver background", "x " * 50]
    torch.testing.assert_close(tokenizer(texts), tokens_of(build_tokenizer(), texts))
    with torch.no_grad():
        expected = model.encode_text(tokenizer(texts), normalize=True)
        torch.testing.assert_close(encode_text(model, tokenizer(texts)), expected)


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path):
    def kill(step: int) -> None:
        if step == 3:  # one step after the last saved state
            raise KeyboardInterrupt

    pretrain(tmp_path / "whole", TINY)
    with pytest.raises(KeyboardInterrupt):
        pretrain(tmp_path / "killed", TINY, on_step=kill)
    pretrain(tmp_path / "killed", TINY)
    whole, resumed = (
        load_file(tmp_path / name / "clip" / "open_clip_model.safetensors") for name in ("whole", "killed")
    )
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
