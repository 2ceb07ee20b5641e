"""The judge of the starter world: reads a picture with classical image processing and scores it against its caption.

Backgrounds are grey and every fill is saturated, so in the chroma plane (a picture less its grey part) the background
is the origin whatever its lightness, and a rim pixel, a mixture of fill and background, keeps the hue of its fill. That
is why coverage is measured there: the rim of an orange shape on black is dark orange here, never brown.
"""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from data.world import captions, templates
from data.world.scenes import COLOURS, RELATIONS, SHAPES, SIZE

CLEAN_FIT = 0.82
"""Least soft IoU with its best template at which a component counts as a clean shape.

Renders lie above 0.89, blurred, noisy and slightly bent ones above 0.85; an egg or a triangle on its head below."""

CLEAR_COLOUR = 62.0
"""Largest RGB distance from the nearest fill at which a colour counts as that fill (nearest two fills: 83 apart)."""

CLUTTER = 40
"""Pixels that are neither background nor part of a shape before the picture stops being clean (1 % of it)."""

_NAMES = tuple(COLOURS)
_PALETTE = np.array(list(COLOURS.values()), dtype=np.float32)
_PLANE = np.array([[1, -1, 0], [1, 1, -2]], dtype=np.float32).T / np.sqrt(np.array([2, 6], dtype=np.float32))
_HUES = _PALETTE @ _PLANE
_CHROMA = np.linalg.norm(_HUES, axis=1)

_LEAST_AREA = 22  # pixels; the smallest shape of a scene has 87
_LEAST_STRENGTH = 0.3  # of a fill's chroma; paler is background
_RIM = 3.2  # pixels around a component that its soft edge may reach
_NEIGHBOURS = ndimage.generate_binary_structure(2, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One shape found in a picture. Position and area are in pixels."""

    colour: str
    shape: str
    x: float
    y: float
    area: float
    confidence: float
    """Soft IoU with the best template of `shape`."""
    rgb: tuple[float, float, float]
    """Colour of its core, of which `colour` is the nearest fill."""
    fits: tuple[float, ...]
    """Soft IoU with the best template of each shape, in the order of SHAPES."""

    @property
    def is_clean(self) -> bool:
        return self.confidence >= CLEAN_FIT

    @property
    def has_clear_colour(self) -> bool:
        return _colour_distance(self, self.colour) <= CLEAR_COLOUR


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a picture shows: the background's grey level and the shapes, the largest first."""

    background: float
    items: tuple[Seen, ...]
    clutter: int = 0
    """Pixels that are neither background nor near a shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    score: float
    """Graded, in [0, 1]: how near the picture comes to the caption."""
    exact: bool
    """The picture shows what the caption asks for, all of it and nothing else, in clean shapes."""
    reason: str


def read(picture: np.ndarray) -> Reading:
    """What a uint8 (64, 64, 3) picture shows."""
    if picture.shape != (SIZE, SIZE, 3) or picture.dtype != np.uint8:
        raise ValueError(f"expected uint8 ({SIZE}, {SIZE}, 3), got {picture.dtype} {picture.shape}")
    rgb = picture.astype(np.float32)
    plane = rgb @ _PLANE
    background = _background(rgb, np.linalg.norm(plane, axis=2))
    labels, count = _components(plane)
    if not count:
        return Reading(background=background, items=(), clutter=_clutter(rgb, background, np.zeros((SIZE, SIZE), bool)))
    owner = _owners(labels)
    items = [_item(rgb, plane, labels, owner, number) for number in range(1, count + 1)]
    items.sort(key=lambda item: -item.area)
    return Reading(background=background, items=tuple(items), clutter=_clutter(rgb, background, owner > 0))


def background_level(picture: np.ndarray) -> float:
    """Grey level of the background alone; much cheaper than `read`."""
    rgb = picture.astype(np.float32)
    return _background(rgb, np.linalg.norm(rgb @ _PLANE, axis=2))


def judge(picture: np.ndarray, text: str) -> Verdict | None:
    """How well a picture shows what its caption asks for; None for text outside the world's language, and for pictures
    of another size, as other models than the starter make them."""
    request = captions.parse(text) if picture.shape == (SIZE, SIZE, 3) else None
    return None if request is None else assess(read(picture), request)


def assess(reading: Reading, request: captions.Request) -> Verdict:
    """How well what was read off a picture answers a request: `judge` for pictures that are read anyway."""
    reason = _fault(reading, request)
    return Verdict(score=_score(reading, request), exact=reason is None, reason=reason or "as asked")


# -------------------------------------------------------------------------------------------------------------- reading


def _background(rgb: np.ndarray, chroma: np.ndarray) -> float:
    """Dominant grey level among the pixels without colour; of the picture's border when nearly all have colour."""
    grey = rgb.mean(axis=2)
    plain = grey[chroma < 26]
    if plain.size < 0.1 * grey.size:
        return float(np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])))
    histogram = np.bincount(plain.astype(int), minlength=256)
    level = int(ndimage.uniform_filter1d(histogram.astype(np.float32), 15, mode="constant").argmax())
    return float(np.median(plain[np.abs(plain - level) <= 12]))


def _components(plane: np.ndarray) -> tuple[np.ndarray, int]:
    """Connected regions at least half covered by colour, numbered from 1; a region of two fills is cut in two."""
    along = plane @ (_HUES / _CHROMA[:, None]).T  # (64, 64, colours)
    hue = along.argmax(axis=2)
    strength = np.take_along_axis(along, hue[..., None], axis=2)[..., 0] / _CHROMA[hue]
    labels = _numbered(strength > _LEAST_STRENGTH)
    kept = np.zeros_like(labels)
    number = 0
    for region, box in enumerate(ndimage.find_objects(labels), start=1):
        blob = labels[box] == region
        if np.count_nonzero(blob) < _LEAST_AREA:
            continue
        # The edge lies at half coverage: half the strength of this blob's own fill, should that be a pale one.
        peak = min(float(np.quantile(strength[box][blob], 0.9)), 1.0)
        pieces = _numbered(blob & (strength[box] > 0.5 * peak))
        for piece in range(1, pieces.max() + 1):
            for part in _by_colour(pieces == piece, hue[box], strength[box] / peak):
                if np.count_nonzero(part) >= _LEAST_AREA:
                    number += 1
                    kept[box][part] = number
    return kept, number


def _numbered(mask: np.ndarray) -> np.ndarray:
    """Connected regions of a mask, numbered from 1."""
    labels = np.empty(mask.shape, dtype=np.int32)
    ndimage.label(mask, output=labels)
    return labels


def _by_colour(inside: np.ndarray, hue: np.ndarray, strength: np.ndarray) -> list[np.ndarray]:
    """The region itself, or its parts when two fills each make up a quarter of it or more."""
    core = inside & (strength > 0.7)
    counts = np.bincount(hue[core], minlength=len(_NAMES))
    solid = np.flatnonzero(counts >= max(_LEAST_AREA, 0.25 * counts.sum()))
    if len(solid) > 1:
        solid = [colour for colour in solid if ndimage.binary_erosion(core & (hue == colour)).sum() >= 8]
    if len(solid) < 2:
        return [inside]
    away = [np.asarray(ndimage.distance_transform_edt(~(core & (hue == colour)))) for colour in solid]
    nearest = np.stack(away).argmin(axis=0)
    parts = []
    for index in range(len(solid)):
        pieces = _numbered(inside & (nearest == index))
        parts += [pieces == piece for piece in range(1, pieces.max() + 1)]
    return parts


def _owners(labels: np.ndarray) -> np.ndarray:
    """Number of the component that each pixel on it or in its soft rim belongs to; 0 elsewhere."""
    distance, nearest = np.empty(labels.shape), np.empty((2, *labels.shape), dtype=np.int32)
    ndimage.distance_transform_edt(labels == 0, return_indices=True, distances=distance, indices=nearest)
    return np.where(distance <= _RIM, labels[nearest[0], nearest[1]], 0)


def _item(rgb: np.ndarray, plane: np.ndarray, labels: np.ndarray, owner: np.ndarray, number: int) -> Seen:
    """Colour, place, size and shape of one component."""
    region = owner == number
    down, right = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    top, left = int(down[0]), int(right[0])
    box = (slice(top, int(down[-1]) + 1), slice(left, int(right[-1]) + 1))
    inside = labels[box] == number
    core = ndimage.binary_erosion(inside, _NEIGHBOURS)
    rgb_core = rgb[box][core if np.count_nonzero(core) >= 8 else inside]
    colour_rgb = np.asarray(np.median(rgb_core, axis=0), dtype=np.float32)
    colour = _NAMES[int(np.linalg.norm(_PALETTE - colour_rgb, axis=1).argmin())]
    fill = colour_rgb @ _PLANE
    cover = np.where(region[box], plane[box] @ (fill / max(fill @ fill, 1.0)), 0)
    area = max(float(cover.sum()), 1.0)
    # Pixel centres are at half integers in the coordinates of a scene.
    y = float(cover.sum(axis=1) @ np.arange(cover.shape[0]) / area) + 0.5
    x = float(cover.sum(axis=0) @ np.arange(cover.shape[1]) / area) + 0.5
    fits = templates.fits(templates.soft_step(cover), x, y, math.sqrt(area / math.pi))
    best = int(fits.argmax())
    return Seen(
        colour=colour,
        shape=SHAPES[best],
        x=x + left,
        y=y + top,
        area=area,
        confidence=float(fits[best]),
        rgb=(float(colour_rgb[0]), float(colour_rgb[1]), float(colour_rgb[2])),
        fits=tuple(float(fit) for fit in fits),
    )


def _clutter(rgb: np.ndarray, background: float, explained: np.ndarray) -> int:
    """Pixels far from the background's level that belong to no shape."""
    away = ndimage.uniform_filter(np.abs(rgb - background).max(axis=2), 3)
    return int(((away > 40) & ~explained).sum())


# -------------------------------------------------------------------------------------------------------------- judging


def _colour_distance(item: Seen, colour: str) -> float:
    return math.dist(item.rgb, COLOURS[colour])


def _colour_credit(item: Seen, colour: str | None) -> float:
    """1 at the fill itself, about half at half the way to the nearest other fill."""
    return 1.0 if colour is None else 1 / (1 + (_colour_distance(item, colour) / 45) ** 4)


def _shape_credit(item: Seen, shape: str) -> float:
    """How cleanly the item is this shape (three quarters: rather than another one)."""
    fits = np.array(item.fits)
    share = np.exp((fits - fits.max()) / 0.03)
    index = SHAPES.index(shape)
    quality = min(max((item.fits[index] - 0.5) / 0.42, 0.0), 1.0)
    return quality * (0.25 + 0.75 * float(share[index] / share.sum()))


def _credit(item: Seen, wanted: tuple[str | None, str]) -> float:
    """What a seen item is worth for a wanted one, in [0, 1]: being there, its colour, its shape."""
    colour, shape = wanted
    return (
        0.15
        + 0.85 * _shape_credit(item, shape) * (0.3 + 0.7 * _colour_credit(item, colour))
        + (0.0 if colour is None else 0.3 * _colour_credit(item, colour) * (1 - _shape_credit(item, shape)))
    )


def _holds(first: Seen, second: Seen, relation: str) -> float:
    """By how many pixels the relation holds; negative where it does not. Measured as `scenes.is_related` does."""
    x, y = RELATIONS[relation]
    along = (first.x - second.x) * x + (first.y - second.y) * y
    across = abs((first.x - second.x) * y) + abs((first.y - second.y) * x)
    return min(along - 6.0, along - 1.2 * across)


def _placement(first: Seen, second: Seen, relation: str) -> float:
    """0.5 where the relation is plainly false, 1 where it plainly holds, smooth between."""
    return 0.5 + 0.5 / (1 + math.exp(-(_holds(first, second, relation) + 5) / 3))


def _score(reading: Reading, request: captions.Request) -> float:
    """Best assignment of seen to wanted items, over the larger of both numbers; a failing relation costs up to half."""
    if not reading.items:
        return 0.0
    credits = np.array([[_credit(item, wanted) for wanted in request.wanted] for item in reading.items])
    surplus = sorted(min(item.area / 60, 1.0) for item in reading.items)[: max(len(credits) - len(request.wanted), 0)]
    scale = len(request.wanted) + sum(surplus)
    if request.relation is None:
        return float(credits[linear_sum_assignment(-credits)].sum() / scale)
    if len(reading.items) < 2:
        return float(0.5 * credits.max() / scale)
    return max(
        float(credits[i, 0] + credits[j, 1]) / scale * _placement(first, second, request.relation)
        for i, first in enumerate(reading.items)
        for j, second in enumerate(reading.items)
        if i != j
    )


_SLACK = 0.75  # pixels of measuring error that a relation is forgiven


def _fault(reading: Reading, request: captions.Request) -> str | None:
    """The first thing that is wrong, in words; None when the picture is as asked."""
    items = reading.items
    if not items:
        return "nothing but background" if reading.clutter <= CLUTTER else "nothing in any colour"
    if len(items) != len(request.wanted):
        return f"{_number(items)}, asked for {len(request.wanted)}"
    for item in items:
        if not item.is_clean:
            return f"a {item.colour} blob that is no clean shape (nearest: {item.shape})"
        if not item.has_clear_colour:
            return f"a {item.shape} in no clear colour (nearest: {item.colour})"
    if reading.clutter > CLUTTER:
        return "marks beside the shapes"
    is_any = all(colour is None for colour, _ in request.wanted)
    seen = Counter((None if is_any else item.colour, item.shape) for item in items)
    wanted = Counter(request.wanted)
    if seen != wanted:
        return f"{_list(seen - wanted)}, asked for {_list(wanted - seen)}"
    if request.relation is not None and not _is_placed(items, request):
        shapes = [shape for _, shape in request.wanted]
        return f"the {shapes[0]} is not {request.relation} the {shapes[1]}"
    return None


def _is_placed(items: tuple[Seen, ...], request: captions.Request) -> bool:
    shapes = tuple(shape for _, shape in request.wanted)
    return any(
        (first.shape, second.shape) == shapes and _holds(first, second, request.relation or "") >= -_SLACK
        for first, second in (items, items[::-1])
    )


def _number(items: tuple[Seen, ...]) -> str:
    shapes = {item.shape for item in items}
    noun = shapes.pop() if len(shapes) == 1 else "shape"
    return f"{len(items)} {noun if len(items) == 1 else captions.plural(noun)}"


def _list(kinds: Counter[tuple[str | None, str]]) -> str:
    return " and ".join(
        captions.a(f"{colour or ''} {shape}".strip())
        if n == 1
        else f"{n} {colour or ''} {captions.plural(shape)}".replace("  ", " ")
        for (colour, shape), n in sorted(kinds.items(), key=str)
    )
