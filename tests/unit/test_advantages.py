"""Advantages by hand arithmetic."""

import torch

from rl.advantages import group_advantages


def test_the_mean_is_the_groups_and_the_scale_is_the_batchs():
    """Centred: -1 1 | -2 2; root of the mean square: sqrt((1 + 1 + 4 + 4) / 4) = sqrt(2.5)."""
    scores = torch.tensor([[1.0, 3.0], [10.0, 14.0]])
    expected = torch.tensor([[-1.0, 1.0], [-2.0, 2.0]]) / 2.5**0.5
    torch.testing.assert_close(group_advantages(scores), expected)


def test_a_group_that_differs_by_rounding_alone_stays_small_beside_one_that_differs():
    """Divided by its own std, as DDPO does it, the second group would get -1 and 1."""
    advantages = group_advantages(torch.tensor([[0.0, 1.0], [0.5, 0.5 + 1e-6]]))
    assert advantages[0].abs().min() > 1
    assert advantages[1].abs().max() < 1e-5


def test_an_outlier_is_cut_off_at_the_clip():
    """99 zeros and one 1, one group: centred 0.99 over sqrt(0.0099) = 9.9499, cut to 5; at 20 it stays."""
    scores = torch.zeros((1, 100))
    scores[0, 7] = 1.0
    assert group_advantages(scores)[0, 7] == 5.0
    torch.testing.assert_close(group_advantages(scores, clip=20.0)[0, 7], torch.tensor(0.99 / 0.0099**0.5))


def test_scores_that_are_all_alike_give_zero_and_no_nan():
    torch.testing.assert_close(group_advantages(torch.full((3, 4), 0.7)), torch.zeros((3, 4)), rtol=0, atol=0)
