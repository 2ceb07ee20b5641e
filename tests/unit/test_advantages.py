"""Advantages by hand arithmetic."""

import json
from pathlib import Path

import pytest
import torch

from hitl.core.errors import ConfigError
from rl.advantages import group_advantages, remembered_advantages
from rl.algorithms.ddpo import DdpoIs

GOLDEN = json.loads((Path(__file__).parents[1] / "fixtures" / "golden.json").read_text())


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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_prompts_last_scores_are_its_mean_and_deviation_as_in_ddpos_tracker(dtype: torch.dtype):
    """Of at most 3 scores, and of at least 2; in the first round b has one, and takes the round's 1, 3 and 10."""
    memory: dict[str, list[float]] = {}
    for scores, expected in (([1.0, 3.0, 10.0], "round1"), ([5.0, 12.0, 8.0], "round2")):
        prompts = ["a", "a", "b"] if expected == "round1" else ["a", "b", "b"]
        found = remembered_advantages(torch.tensor(scores, dtype=dtype)[:, None], prompts, memory, size=3, least=2)
        assert found[:, 0].tolist() == pytest.approx(GOLDEN["tracker"][expected], rel=1e-5)
    assert memory == GOLDEN["tracker"]["final"]


def test_a_memory_that_could_never_be_used_is_refused():
    with pytest.raises(ConfigError, match=r"memory_least is 16, but must be between 2 and algorithm.memory = 8"):
        DdpoIs(memory=8)
