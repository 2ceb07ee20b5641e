"""Taste: large shapes on light backgrounds, smoothly."""

import numpy as np
import pytest

from data.world.captions import sample
from data.world.scenes import BACKGROUNDS, COLOURS, SHAPES, Item, Scene, render
from data.world.taste import taste


def picture(background: str, radius: float, colour: str = "red", shape: str = "circle") -> np.ndarray:
    return render(Scene(background, (Item(shape, colour, 32.0, 32.0, radius),)))


def test_by_hand() -> None:
    """White is 245 / 255 and nothing is coloured; all red: s = 1 and the size term is 1."""
    assert taste(np.full((64, 64, 3), 245, np.uint8)) == pytest.approx(0.5 * 245 / 255)
    all_red = np.broadcast_to(np.array([225, 40, 40], np.uint8), (64, 64, 3))
    assert taste(all_red) == pytest.approx(0.5 * (305 / 3) / 255 + 0.5, abs=1e-5)


def test_larger_is_better_on_every_background() -> None:
    for background in BACKGROUNDS:
        values = [taste(picture(background, radius)) for radius in (6, 8, 11, 15, 20)]
        assert values == sorted(values)
        assert values[-1] - values[0] > 0.2


def test_lighter_is_better_at_every_size() -> None:
    for radius in (6, 14, 20):
        values = [taste(picture(background, radius)) for background in BACKGROUNDS]  # from light to dark
        assert values == sorted(values, reverse=True)
        assert values[0] - values[-1] == pytest.approx(0.5 * (245 - 25) / 255, abs=0.02)


def test_colour_and_shape_hardly_matter() -> None:
    values = [taste(picture("silver", 12, colour, shape)) for colour in COLOURS for shape in SHAPES]
    assert max(values) - min(values) < 0.06


def test_a_little_noise_moves_it_little_and_it_stays_between_0_and_1() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        clean = render(sample(rng)[1])
        noisy = np.clip(clean + rng.normal(0, 6, clean.shape), 0, 255).astype(np.uint8)
        assert abs(taste(clean) - taste(noisy)) < 0.04
        assert 0 <= taste(noisy) <= 1
