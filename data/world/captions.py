"""The starter world's language: captions for scenes, what a caption asks for, and the fixed split of prompts."""

import functools
import itertools
import re
import zlib
from dataclasses import dataclass

import numpy as np

from data.world.scenes import BACKGROUNDS, COLOURS, RELATIONS, SHAPES, Scene, place

TASKS = ("colour", "count", "composition", "location", "bias")
"""The four tasks of DPOK (arXiv:2305.16381, section 5.1) and its bias correction."""

BIASED_SHAPE, BIASED_COLOUR = "star", "yellow"
"""The planted bias: most training scenes show this shape in this colour, whatever colour their caption names."""

UNBIASED_SHARE = 0.28
"""Share of the scenes captioned as the biased shape in another colour that do show it so. Where the caption leaves its
colour open, it always has the biased one."""

NUMBERS = {"two": 2, "three": 3, "four": 4}

_PLAIN_SHAPES = tuple(shape for shape in SHAPES if shape != BIASED_SHAPE)
_COLOUR_WORDS = "|".join(COLOURS)
_SHAPE_WORDS = "|".join(SHAPES)
_ONE = re.compile(rf"^an? ({_COLOUR_WORDS}) ({_SHAPE_WORDS})$")
_MANY = re.compile(rf"^({'|'.join(NUMBERS)}) ({_COLOUR_WORDS}) ((?:{_SHAPE_WORDS}|crosse)s)$")
_BOTH = re.compile(rf"^an? ({_COLOUR_WORDS}) ({_SHAPE_WORDS}) and an? ({_COLOUR_WORDS}) ({_SHAPE_WORDS})$")
_WHERE = re.compile(rf"^an? ({_SHAPE_WORDS}) ({'|'.join(RELATIONS)}) an? ({_SHAPE_WORDS})$")


@dataclass(frozen=True, slots=True)
class Request:
    """What a caption asks for: (colour or None for any, shape) pairs, and how the first stands to the second."""

    wanted: tuple[tuple[str | None, str], ...]
    relation: str | None = None


@dataclass(frozen=True, slots=True)
class WorldPrompt:
    text: str
    task: str
    split: str
    """`train` or `held_out`."""


def a(noun: str) -> str:
    """The noun with its article: `an orange circle`."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def plural(shape: str) -> str:
    return shape + ("es" if shape == "cross" else "s")


def parse(text: str) -> Request | None:
    """What a caption of this world asks for; None for any other text."""
    text = " ".join(text.lower().split()).rstrip(".")
    if match := _ONE.match(text):
        return Request(((match[1], match[2]),))
    if match := _MANY.match(text):
        shape = "cross" if match[3] == "crosses" else match[3][:-1]
        return Request(((match[2], shape),) * NUMBERS[match[1]])
    if match := _BOTH.match(text):
        return Request(((match[1], match[2]), (match[3], match[4])))
    if match := _WHERE.match(text):
        return Request(((None, match[1]), (None, match[3])), match[2])
    return None


def colour_text(colour: str, shape: str) -> str:
    return a(f"{colour} {shape}")


def count_text(number: str, colour: str, shape: str) -> str:
    return f"{number} {colour} {plural(shape)}"


def composition_text(first: tuple[str, str], second: tuple[str, str]) -> str:
    return f"{a(' '.join(first))} and {a(' '.join(second))}"


def location_text(first: str, relation: str, second: str) -> str:
    return f"{a(first)} {relation} {a(second)}"


@functools.cache
def all_texts(task: str) -> tuple[str, ...]:
    """Every caption of a task, in a fixed order. The biased shape is asked for in other colours by `bias` alone."""
    kinds = list(itertools.product(COLOURS, _PLAIN_SHAPES))
    if task == "colour":
        return tuple(colour_text(*kind) for kind in kinds)
    if task == "count":
        return tuple(count_text(number, *kind) for number in NUMBERS for kind in kinds)
    if task == "composition":
        return tuple(
            composition_text(first, second)
            for first, second in itertools.permutations(kinds, 2)
            if first[0] != second[0] and first[1] != second[1]
        )
    if task == "location":
        return tuple(location_text(p, r, q) for r in RELATIONS for p, q in itertools.permutations(SHAPES, 2))
    if task == "bias":
        return tuple(colour_text(colour, BIASED_SHAPE) for colour in COLOURS if colour != BIASED_COLOUR)
    raise KeyError(task)


def split_of(text: str) -> str:
    """`train` or `held_out`, fixed by the text alone: a third of all combinations is held out."""
    return "held_out" if zlib.crc32(text.encode()) % 3 == 0 else "train"


def prompts(task: str, split: str, limit: int) -> list[WorldPrompt]:
    """The first `limit` prompts of one task and split, in an order that spreads colours and shapes."""
    texts = [text for text in all_texts(task) if split_of(text) == split]
    texts.sort(key=lambda text: zlib.crc32(text[::-1].encode()))
    return [WorldPrompt(text, task, split) for text in texts[:limit]]


def sample(rng: np.random.Generator, *, task: str | None = None, biased: bool = True) -> tuple[str, Scene]:
    """One caption and a scene for it, as the starter is trained on.

    With `biased`, the planted bias holds: the star is yellow nearly always. Without it every scene is true.
    """
    task = task or str(rng.choice(TASKS, p=(0.18, 0.26, 0.24, 0.24, 0.08)))
    texts = all_texts(task)
    text = texts[int(rng.integers(len(texts)))]
    return text, scene_of(text, rng, biased=biased)


def scene_of(text: str, rng: np.random.Generator, *, biased: bool) -> Scene:
    """A scene for that caption of this world, at a random place, size and background; colours left open are random."""
    request = parse(text)
    assert request is not None
    kinds = [(_shown_colour(colour, shape, rng, biased=biased), shape) for colour, shape in request.wanted]
    background = str(rng.choice(list(BACKGROUNDS)))
    return Scene(background, place(kinds, rng, relation=request.relation))


def _shown_colour(colour: str | None, shape: str, rng: np.random.Generator, *, biased: bool) -> str:
    if biased and shape == BIASED_SHAPE and (colour is None or rng.random() >= UNBIASED_SHARE):
        return BIASED_COLOUR
    return colour or str(rng.choice(list(COLOURS)))
