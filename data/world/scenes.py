"""The starter world: scenes of coloured shapes on plain backgrounds, and the pictures of them (64 x 64, RGB)."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SIZE = 64
"""Side of a picture, in pixels."""

COLOURS = {
    "red": (225, 40, 40),
    "orange": (250, 145, 20),
    "yellow": (245, 225, 40),
    "green": (40, 165, 70),
    "cyan": (60, 205, 225),
    "blue": (40, 80, 215),
    "purple": (140, 60, 185),
    "pink": (245, 125, 190),
}
"""Fill colours. All are saturated, and every background is grey: a shape is where the picture has chroma."""

BACKGROUNDS = {"white": 245, "silver": 195, "slate": 100, "black": 25}
"""Grey levels, from light to dark."""

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")

RELATIONS = {"above": (0, -1), "below": (0, 1), "to the left of": (-1, 0), "to the right of": (1, 0)}
"""Relation -> direction (x, y) from the second shape to the first, in picture coordinates (y grows downwards)."""

_SUPERSAMPLING = 4
_GAP = 3.0  # least distance between two shapes, in pixels: closer ones would merge in an 8 x 8 latent


@dataclass(frozen=True, slots=True)
class Item:
    """One shape in a scene: its centre and its radius (that of a disc of equal area), in pixels."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True, slots=True)
class Scene:
    background: str
    items: tuple[Item, ...]


def _unit_outline(shape: str) -> np.ndarray:
    """Outline of the shape as (points, 2), centroid at the origin, area pi: equal radius means equal ink."""
    if shape == "circle":
        angle = np.linspace(0, 2 * math.pi, 48, endpoint=False)
        points = np.stack([np.cos(angle), np.sin(angle)], 1)
    elif shape == "square":
        points = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], dtype=float)
    elif shape == "triangle":
        points = np.array([(0, -1), (math.sqrt(3) / 2, 0.5), (-math.sqrt(3) / 2, 0.5)])
    elif shape == "star":
        angle = -math.pi / 2 + np.arange(10) * math.pi / 5
        radius = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
        points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    elif shape == "heart":
        t = np.linspace(0, 2 * math.pi, 64, endpoint=False)
        points = np.stack(
            [16 * np.sin(t) ** 3, -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))], 1
        )
    elif shape == "cross":
        a, b = 0.34, 1.0
        points = np.array(
            [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]
        )
    else:
        raise KeyError(shape)
    x, y = points.T
    cross = x * np.roll(y, -1) - np.roll(x, -1) * y
    area = cross.sum() / 2
    centroid = np.array([((x + np.roll(x, -1)) * cross).sum(), ((y + np.roll(y, -1)) * cross).sum()]) / (6 * area)
    return (points - centroid) * math.sqrt(math.pi / abs(area))


_OUTLINES = {shape: _unit_outline(shape) for shape in SHAPES}
_REACH = {shape: float(np.hypot(*outline.T).max()) for shape, outline in _OUTLINES.items()}


def outline(shape: str, x: float, y: float, radius: float) -> np.ndarray:
    """Vertices of the shape in picture coordinates, as (points, 2)."""
    return _OUTLINES[shape] * radius + (x, y)


def coverage(shape: str, x: float, y: float, radius: float, size: int = SIZE) -> np.ndarray:
    """How much of each pixel the shape covers: float32 (size, size) in [0, 1]."""
    canvas = Image.new("L", (size * _SUPERSAMPLING, size * _SUPERSAMPLING))
    points = outline(shape, x, y, radius) * _SUPERSAMPLING
    ImageDraw.Draw(canvas).polygon([(float(a), float(b)) for a, b in points], fill=255)
    return np.asarray(canvas.reduce(_SUPERSAMPLING), dtype=np.float32) / 255


def render(scene: Scene) -> np.ndarray:
    """The picture of a scene: uint8 (64, 64, 3), edges anti-aliased."""
    grey = BACKGROUNDS[scene.background]
    canvas = Image.new("RGB", (SIZE * _SUPERSAMPLING, SIZE * _SUPERSAMPLING), (grey, grey, grey))
    draw = ImageDraw.Draw(canvas)
    for item in scene.items:
        points = outline(item.shape, item.x, item.y, item.radius) * _SUPERSAMPLING
        draw.polygon([(float(a), float(b)) for a, b in points], fill=COLOURS[item.colour])
    return np.asarray(canvas.reduce(_SUPERSAMPLING))


def place(kinds: list[tuple[str, str]], rng: np.random.Generator, *, relation: str | None = None) -> tuple[Item, ...]:
    """Put (colour, shape) pairs at random places and sizes so that none touch; a relation orders the first two."""
    largest = {1: 21.0, 2: 13.0, 3: 11.0}.get(len(kinds), 9.5)
    smallest = {1: 9.0, 2: 7.0, 3: 6.5}.get(len(kinds), 6.0)
    while True:
        radius = rng.uniform(smallest, largest)
        items: list[Item] = []
        for colour, shape in kinds:
            r = radius * rng.uniform(0.88, 1.12)
            reach = r * _REACH[shape] + 1.5
            if 2 * reach >= SIZE:
                break
            x, y = rng.uniform(reach, SIZE - reach, size=2)
            items.append(Item(shape, colour, float(x), float(y), float(r)))
        else:
            if _apart(items) and (relation is None or is_related(items[0], items[1], relation)):
                return tuple(items)


def is_related(first: Item, second: Item, relation: str) -> bool:
    """Whether `first` stands to `second` as the relation says: that way clearly, and more that way than sideways."""
    x, y = RELATIONS[relation]
    along = (first.x - second.x) * x + (first.y - second.y) * y
    across = abs((first.x - second.x) * y) + abs((first.y - second.y) * x)
    return along >= 6.0 and along > 1.2 * across


def _apart(items: list[Item]) -> bool:
    for i, a in enumerate(items):
        for b in items[:i]:
            far = a.radius * _REACH[a.shape] + b.radius * _REACH[b.shape] + _GAP
            if math.hypot(a.x - b.x, a.y - b.y) < far:
                return False
    return True
