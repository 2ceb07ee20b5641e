"""Whether the reward fit finds a taste that is known, by the worlds of `benchmarks.reward_truth`. The benchmark has
more of each, other ones, and the numbers; here a claim of the documents has to break before a test does.
"""

import numpy as np
import pytest
import torch

from benchmarks import reward_truth as truth
from reward_models.heads.imagereward import fit_imagereward

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _one_thread():
    """Worlds are small: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("pairs", [300, 1000, 3000])
def test_the_linear_head_is_within_two_points_of_what_can_be_known_and_above_the_published_recipe(pairs):
    short, ahead = [], []
    for seed in range(100, 106):
        world = truth.World(seed, 256, max(pairs // 8, 40))
        answers = world.answers(pairs)
        weight, _, _ = truth.linear(world, answers)
        ours = world.judged(lambda x, w=weight: x @ w)
        published = world.judged(truth.network(world, answers, fit_imagereward))
        short.append(world.achievable(answers) - ours)
        ahead.append(ours - published)
    assert np.mean(short) < 0.02
    assert np.mean(ahead) > 0.03


@pytest.mark.parametrize("pairs", [120, 480])
def test_intervals_hold_the_truth_as_often_as_they_say(pairs):
    """The accuracy's, in 100 worlds; and the posterior's of a difference between two new images, nearly."""
    found = [truth.coverage(seed, 128, pairs) for seed in range(1000, 1100)]
    assert 0.9 <= np.mean([each["accuracy in its interval"] for each in found]) <= 0.99
    assert 0.85 <= np.mean([each["true differences in the posterior's"] for each in found]) <= 0.99


def test_coins_do_not_pass_for_better_than_chance():
    found = [truth.coin(seed, 64, 160) for seed in range(1000, 1100)]
    assert np.mean([each["above one half"] for each in found]) <= 0.04
    assert np.mean([each["held-out accuracy"] for each in found]) == pytest.approx(0.5, abs=0.02)


def test_ties_tell_something_and_bad_raters_are_found():
    ties = [truth.ties(seed, 256, 1000) for seed in range(100, 106)]
    assert np.mean([each["as ties"] - each["thrown"] for each in ties]) > 0.005
    raters = [truth.raters(seed, 256, 1000) for seed in range(100, 104)]
    gain = [each["two bad of eight, weighed"] - each["two bad of eight, plain"] for each in raters]
    assert np.mean(gain) > 0.02
    cost = [each["all alike, plain"] - each["all alike, weighed"] for each in raters]
    assert np.mean(cost) < 0.01
