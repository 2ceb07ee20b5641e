"""Captions that a scene makes true, captions wrong in one thing, and the words for size and background."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from data.world.captions import (
    NUMBERS,
    Request,
    colour_text,
    composition_text,
    count_text,
    location_text,
    parse,
    sample,
    split_of,
)
from data.world.scenes import BACKGROUNDS, COLOURS, RELATIONS, SHAPES, SIZE, Scene, is_related

MISTAKES = ("colour", "shape", "count", "relation", "swap")
"""What a hard-wrong caption gets wrong; `swap` exchanges the two colours, or the two shapes of a relation."""

SIZES = ("small", "large")

_SMALL_INK, _LARGE_INK = 0.10, 0.19  # shares of the picture that the shapes cover together
_BACKGROUND_WORDS = {name: (name, "light" if grey > 127 else "dark") for name, grey in BACKGROUNDS.items()}
_NUMBER_WORDS = {count: word for word, count in NUMBERS.items()}


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption of the world's language, with an optional word for the shapes' size and one for the background."""

    core: str
    size: str | None = None
    background: str | None = None

    @property
    def text(self) -> str:
        words: list[str] = []
        for word in self.core.split():
            names_kind = word in COLOURS or (word in SHAPES and words[-1] not in COLOURS)
            if self.size and names_kind:
                if words[-1] == "an":
                    words[-1] = "a"
                words.append(self.size)
            words.append(word)
        return " ".join(words) + (f" on a {self.background} background" if self.background else "")


@dataclass(frozen=True, slots=True)
class Facts:
    """What is true of a scene: its captions, its size word (None in between) and its background's words."""

    cores: frozenset[str]
    size: str | None
    backgrounds: tuple[str, ...]

    def allow(self, caption: Caption) -> bool:
        return (
            caption.core in self.cores
            and caption.size in (None, self.size)
            and (caption.background is None or caption.background in self.backgrounds)
        )


def facts(scene: Scene) -> Facts:
    kinds = [(item.colour, item.shape) for item in scene.items]
    cores: set[str] = set()
    if len(kinds) == 1:
        cores.add(colour_text(*kinds[0]))
    elif len(set(kinds)) == 1 and len(kinds) in _NUMBER_WORDS:
        cores.add(count_text(_NUMBER_WORDS[len(kinds)], *kinds[0]))
    elif len(kinds) == 2:
        for first, second in (scene.items, scene.items[::-1]):
            cores.add(composition_text((first.colour, first.shape), (second.colour, second.shape)))
            cores.update(location_text(first.shape, r, second.shape) for r in RELATIONS if is_related(first, second, r))
    ink = sum(math.pi * item.radius**2 for item in scene.items) / SIZE**2
    size = "small" if ink < _SMALL_INK else "large" if ink > _LARGE_INK else None
    return Facts(frozenset(cores), size, _BACKGROUND_WORDS[scene.background])


def sample_of_split(split: str, rng: np.random.Generator) -> tuple[str, Scene]:
    """A true caption of that split and a scene for it."""
    while True:
        text, scene = sample(rng, biased=False)
        if split_of(text) == split:
            return text, scene


def enrich(core: str, truth: Facts, rng: np.random.Generator) -> Caption:
    """The caption, often with a true word for size or background, so that features keep both."""
    size = truth.size if rng.random() < 0.5 else None
    background = str(rng.choice(truth.backgrounds)) if rng.random() < 0.4 else None
    return Caption(core, size, background)


def wrong_captions(
    caption: Caption, truth: Facts, rng: np.random.Generator, *, count: int, weights: Sequence[float] | None = None
) -> list[Caption]:
    """Up to `count` different captions that the scene makes false in one thing, none of them held out.

    `weights` are the shares of the mistakes, in the order of MISTAKES; None for equal shares.
    """
    found: dict[str, Caption] = {}
    for _ in range(8 * count):
        wrong = _mistaken_extra(caption, rng) if rng.random() < 0.25 else None
        if wrong is None:
            core = mistaken(caption.core, str(rng.choice(MISTAKES, p=weights)), rng)
            wrong = None if core is None or split_of(core) != "train" else replace(caption, core=core)
        if wrong is not None and not truth.allow(wrong):
            found[wrong.text] = wrong
        if len(found) == count:
            break
    return list(found.values())


def _mistaken_extra(caption: Caption, rng: np.random.Generator) -> Caption | None:
    if caption.size and (caption.background is None or rng.random() < 0.5):
        return replace(caption, size=SIZES[1 - SIZES.index(caption.size)])
    if caption.background in ("light", "dark"):
        return replace(caption, background="dark" if caption.background == "light" else "light")
    if caption.background:
        return replace(caption, background=_other(tuple(BACKGROUNDS), caption.background, rng))
    return None


def mistaken(core: str, mistake: str, rng: np.random.Generator) -> str | None:
    """The caption with one thing changed, or None where it has no such thing to change."""
    request = parse(core)
    if request is None:
        return None
    if len(set(request.wanted)) == 1:
        return _mistaken_single(request, mistake, rng)
    (colour, shape), (other_colour, other_shape) = request.wanted
    if mistake == "shape":
        changed = _other(SHAPES, (shape, other_shape), rng)
        shape, other_shape = (changed, other_shape) if rng.random() < 0.5 else (shape, changed)
    elif mistake == "swap" and request.relation:
        shape, other_shape = other_shape, shape
    elif mistake == "swap":
        colour, other_colour = other_colour, colour
    elif mistake == "relation" and request.relation:
        return location_text(shape, _other(tuple(RELATIONS), request.relation, rng), other_shape)
    elif mistake == "colour" and colour and other_colour:
        changed = _other(tuple(COLOURS), (colour, other_colour), rng)
        colour, other_colour = (changed, other_colour) if rng.random() < 0.5 else (colour, changed)
    elif mistake == "count" and colour and other_colour:
        return colour_text(colour, shape) if rng.random() < 0.5 else colour_text(other_colour, other_shape)
    else:
        return None
    if request.relation:
        return location_text(shape, request.relation, other_shape)
    assert colour is not None
    assert other_colour is not None
    return composition_text((colour, shape), (other_colour, other_shape))


def _mistaken_single(request: Request, mistake: str, rng: np.random.Generator) -> str | None:
    (colour, shape), count = request.wanted[0], len(request.wanted)
    assert colour is not None
    if mistake == "colour":
        colour = _other(tuple(COLOURS), colour, rng)
    elif mistake == "shape":
        shape = _other(SHAPES, shape, rng)
    elif mistake == "count":
        count = int(rng.choice([number for number in (1, *_NUMBER_WORDS) if number != count]))
    else:
        return None
    return colour_text(colour, shape) if count == 1 else count_text(_NUMBER_WORDS[count], colour, shape)


def _other(choices: tuple[str, ...], not_these: str | tuple[str, ...], rng: np.random.Generator) -> str:
    avoided = (not_these,) if isinstance(not_these, str) else not_these
    return str(rng.choice([choice for choice in choices if choice not in avoided]))
