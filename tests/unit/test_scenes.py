"""The scenes that the starter draws, checked by geometry."""

import math

import numpy as np
import pytest
from scipy import ndimage

from data.world.captions import TASKS, sample
from data.world.scenes import (
    BACKGROUNDS,
    COLOURS,
    RELATIONS,
    SHAPES,
    SIZE,
    Item,
    Scene,
    coverage,
    is_related,
    outline,
    place,
    render,
)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius", [6.0, 11.0, 18.0])
def test_every_shape_of_one_radius_has_the_ink_of_the_disc(shape: str, radius: float) -> None:
    """pi r^2, but for the samples that the outline touches, which PIL fills: under one (1/4 pixel) along the edge."""
    ink = float(coverage(shape, 32, 32, radius).sum())
    vertices = outline(shape, 0, 0, radius)
    perimeter = np.hypot(*(vertices - np.roll(vertices, 1, axis=0)).T).sum()
    assert abs(ink - math.pi * radius**2) < perimeter / 4


@pytest.mark.parametrize("shape", SHAPES)
def test_the_centre_of_mass_is_where_the_item_is(shape: str) -> None:
    cover = coverage(shape, 30.3, 35.8, 12)
    middles = np.arange(SIZE) + 0.5
    x, y = (float((cover.sum(axis=axis) * middles).sum() / cover.sum()) for axis in (0, 1))
    assert (x, y) == pytest.approx((30.3, 35.8), abs=0.25)


def test_a_picture_is_fill_times_coverage_over_background() -> None:
    item = Item("star", "orange", 30.0, 34.0, 14.0)
    cover = coverage(item.shape, item.x, item.y, item.radius)[..., None]
    expected = cover * np.array(COLOURS["orange"]) + (1 - cover) * BACKGROUNDS["slate"]
    assert np.abs(render(Scene("slate", (item,))) - expected).max() <= 1


def test_fills_have_chroma_and_backgrounds_have_none() -> None:
    assert min(max(rgb) - min(rgb) for rgb in COLOURS.values()) > 100
    for background in BACKGROUNDS:
        picture = render(Scene(background, ()))
        assert picture.shape == (SIZE, SIZE, 3)
        assert (picture == BACKGROUNDS[background]).all()


def test_shapes_lie_inside_the_picture_and_apart_from_each_other() -> None:
    """Grown by one pixel to every side, no two shapes share a pixel, and none touches the edge."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        _, scene = sample(rng)
        grown = [ndimage.binary_dilation(coverage(i.shape, i.x, i.y, i.radius) > 0) for i in scene.items]
        assert np.sum(grown, axis=0).max() == 1
        edges = np.any(grown, axis=0)
        edges[1:-1, 1:-1] = False
        assert not any((coverage(i.shape, i.x, i.y, i.radius) > 0)[edges].any() for i in scene.items)


@pytest.mark.parametrize(
    ("first", "relation", "holds"),
    [
        ((30, 10), "above", True),
        ((30, 10), "below", False),
        ((30, 50), "below", True),
        ((10, 32), "to the left of", True),
        ((54, 32), "to the right of", True),
        ((32, 27), "above", False),  # only 5 pixels higher
        ((12, 10), "above", False),  # 22 up and 20 to the left: neither clearly
        ((12, 14), "to the left of", False),
    ],
)
def test_relations_by_hand(first: tuple[float, float], relation: str, holds: bool) -> None:
    """The second shape is at (32, 32)."""
    items = Item("circle", "red", *first, 6.0), Item("square", "red", 32.0, 32.0, 6.0)
    assert is_related(*items, relation) is holds


@pytest.mark.parametrize("relation", RELATIONS)
def test_placed_items_keep_the_relation_and_no_other(relation: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        items = place([("red", "circle"), ("blue", "cross")], rng, relation=relation)
        assert [r for r in RELATIONS if is_related(items[0], items[1], r)] == [relation]


@pytest.mark.parametrize("task", TASKS)
def test_the_same_generator_draws_the_same_picture(task: str) -> None:
    (text, scene), (again, same) = (sample(np.random.default_rng(7), task=task) for _ in range(2))
    assert text == again
    assert np.array_equal(render(scene), render(same))
