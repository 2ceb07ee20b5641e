"""Captions that a scene makes true, captions wrong in one thing, and the words for size and background."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from data.world.captions import (
    NUMBERS,
    Request,
    a,
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
    """A caption of the world's language, with an optional word for the shapes' size and one for the background.

    A relation may name the colours of its two shapes as well. Of plain relations there are so few that a text tower
    learns them by heart; of these there are thousands, so it has to learn what `above` does to the words around it.
    """

    core: str
    size: str | None = None
    background: str | None = None
    colours: tuple[str | None, str | None] = (None, None)

    @property
    def text(self) -> str:
        words: list[str] = []
        for word in self._coloured_core.split():
            names_kind = word in COLOURS or (word in SHAPES and words[-1] not in COLOURS)
            if self.size and names_kind:
                if words[-1] == "an":
                    words[-1] = "a"
                words.append(self.size)
            words.append(word)
        return " ".join(words) + (f" on a {self.background} background" if self.background else "")

    @property
    def _coloured_core(self) -> str:
        if not any(self.colours):
            return self.core
        request = parse(self.core)
        assert request is not None
        first, second = (
            a(f"{colour or ''} {shape}".strip())
            for colour, (_, shape) in zip(self.colours, request.wanted, strict=True)
        )
        return f"{first} {request.relation} {second}"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is true of a scene: its captions with the colours of their shapes where they name none, its size word (None
    in between) and its background's words."""

    cores: Mapping[str, tuple[str | None, str | None]]
    size: str | None
    backgrounds: tuple[str, ...]

    def allow(self, caption: Caption) -> bool:
        return (
            caption.core in self.cores
            and all(said in (None, true) for said, true in zip(caption.colours, self.cores[caption.core], strict=True))
            and caption.size in (None, self.size)
            and (caption.background is None or caption.background in self.backgrounds)
        )


def facts(scene: Scene) -> Facts:
    kinds = [(item.colour, item.shape) for item in scene.items]
    cores: dict[str, tuple[str | None, str | None]] = {}
    if len(kinds) == 1:
        cores[colour_text(*kinds[0])] = (None, None)
    elif len(set(kinds)) == 1 and len(kinds) in _NUMBER_WORDS:
        cores[count_text(_NUMBER_WORDS[len(kinds)], *kinds[0])] = (None, None)
    elif len(kinds) == 2:
        for first, second in (scene.items, scene.items[::-1]):
            cores[composition_text((first.colour, first.shape), (second.colour, second.shape))] = (None, None)
            for relation in RELATIONS:
                if is_related(first, second, relation):
                    cores[location_text(first.shape, relation, second.shape)] = (first.colour, second.colour)
    ink = sum(math.pi * item.radius**2 for item in scene.items) / SIZE**2
    size = "small" if ink < _SMALL_INK else "large" if ink > _LARGE_INK else None
    return Facts(cores, size, _BACKGROUND_WORDS[scene.background])


def sample_of_split(split: str, rng: np.random.Generator, *, task: str | None = None) -> tuple[str, Scene]:
    """A true caption of that split, of one task or of any, and a scene for it."""
    while True:
        text, scene = sample(rng, task=task, biased=False)
        if split_of(text) == split:
            return text, scene


def enrich(core: str, truth: Facts, rng: np.random.Generator) -> Caption:
    """The caption, often with true words for size, background or colours, so that features keep them."""
    size = truth.size if rng.random() < 0.5 else None
    background = str(rng.choice(truth.backgrounds)) if rng.random() < 0.4 else None
    first, second = truth.cores[core]
    return Caption(
        core, size, background, (first if rng.random() < 0.6 else None, second if rng.random() < 0.6 else None)
    )


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
            mistake = str(rng.choice(MISTAKES, p=weights))
            core = mistaken(caption.core, mistake, rng)
            # Where two shapes change places, each takes its colour along: the order alone is wrong.
            colours = caption.colours[::-1] if mistake == "swap" else caption.colours
            wrong = None if core is None or split_of(core) != "train" else replace(caption, core=core, colours=colours)
        if wrong is not None and not truth.allow(wrong):
            found[wrong.text] = wrong
        if len(found) == count:
            break
    return list(found.values())


def _mistaken_extra(caption: Caption, rng: np.random.Generator) -> Caption | None:
    if any(caption.colours) and rng.random() < 0.5:
        first, second = caption.colours
        if first and second and first != second and rng.random() < 0.5:
            return replace(caption, colours=(second, first))
        changes_first = bool(first) and (not second or rng.random() < 0.5)
        changed = _other(tuple(COLOURS), (first if changes_first else second) or "", rng)
        return replace(caption, colours=(changed, second) if changes_first else (first, changed))
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
