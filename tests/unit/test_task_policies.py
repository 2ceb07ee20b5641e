"""Which tasks a policy chooses, counted: each as often as is stated, and an estimate that uses it is of no bias."""

import itertools
import random
from collections import Counter

import numpy as np
import pytest

from data.task_policies import Candidate, Chosen, RandomTasks, TaskPolicy, UncertainTasks, choose, sets_of

DRAWS = 4000


def candidates(*sizes: int, uncertainty: float = 0.0) -> list[Candidate]:
    """So many pairs of each prompt; the uncertainties grow from pair to pair when one is given."""
    pairs = [(prompt, pair) for prompt, size in enumerate(sizes) for pair in range(size)]
    return [
        Candidate(prompt_id=f"p{prompt}", image_ids=(f"{prompt}.{pair}", "b"), uncertainty=uncertainty * number)
        for number, (prompt, pair) in enumerate(pairs)
    ]


def draws(policy: TaskPolicy, among: list[Candidate], count: int) -> list[list[Chosen]]:
    chance = random.Random(7)
    return [choose(policy, among, count, chance) for _ in range(DRAWS)]


POLICIES = [RandomTasks(), UncertainTasks(0.3), UncertainTasks(0.6)]
WORLDS = [
    (candidates(6, 6, 6, uncertainty=1.0), 5),
    (candidates(1, 3, 10, uncertainty=0.1), 7),  # a prompt with one pair alone: it is chosen for certain
    (candidates(6, 6), 4),  # nothing is uncertain
    (candidates(3, 3, uncertainty=1.0), 6),  # as many as there are
]


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
@pytest.mark.parametrize(("among", "count"), WORLDS, ids=["even", "uneven", "sure", "all"])
def test_every_candidate_is_chosen_as_often_as_its_propensity_says(
    policy: TaskPolicy, among: list[Candidate], count: int
):
    """Each count is within five standard errors, sqrt(n p (1 - p)), and its propensity is the same in every draw."""
    stated: dict[tuple[str, ...], set[float]] = {}
    times: Counter[tuple[str, ...]] = Counter()
    for chosen in draws(policy, among, count):
        assert len({each.candidate.image_ids for each in chosen}) == len(chosen) == count
        for each in chosen:
            stated.setdefault(each.candidate.image_ids, set()).add(each.propensity)
            times[each.candidate.image_ids] += 1
    assert len(stated) == len(among)
    total = 0.0
    for images, propensities in stated.items():
        (propensity,) = propensities
        total += propensity
        allowed = 5 * (DRAWS * propensity * (1 - propensity)) ** 0.5
        assert abs(times[images] - DRAWS * propensity) <= allowed + 1e-6
    assert total == pytest.approx(count)


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_an_estimate_by_inverse_propensities_has_no_bias_where_the_plain_mean_has(policy: TaskPolicy):
    """What is measured is high where the fit is unsure: 0, 1, ... 29, whose mean is 14.5."""
    among = candidates(10, 10, 10, uncertainty=1.0)
    value = {each.image_ids: each.uncertainty for each in among}
    known = float(np.mean([*value.values()]))
    assert known == 14.5
    estimates, plain = [], []
    for chosen in draws(policy, among, 9):
        found = [value[each.candidate.image_ids] for each in chosen]
        estimates.append(sum(v / each.propensity for v, each in zip(found, chosen, strict=True)) / len(among))
        plain.append(np.mean(found))
    error = np.std(estimates) / DRAWS**0.5
    assert abs(np.mean(estimates) - known) < 4 * error
    assert error < 0.1
    if isinstance(policy, UncertainTasks):
        assert np.mean(plain) > known + 1


def test_those_called_random_are_a_random_sample_of_their_stated_share():
    """3 of 10 tasks in the mean, of every candidate equally often, however uncertain it is."""
    among = candidates(10, 10, uncertainty=1.0)
    times: Counter[tuple[str, ...]] = Counter()
    for chosen in draws(UncertainTasks(0.3), among, 10):
        times.update(each.candidate.image_ids for each in chosen if each.policy == "random")
    # 20 candidates share 3 tasks: each has 0.15 of the draws, 600 +- 5 * 22.6.
    assert all(abs(times[each.image_ids] - 600) < 113 for each in among)


def test_more_uncertain_candidates_are_chosen_more_often():
    """Of weights 1 and 3 with two tasks among two prompts of two: 2 * 0.7 * (1, 3) / 8 each, and 0.3 * 0.5."""
    among = [
        Candidate(prompt_id=prompt, image_ids=(f"{prompt}{weight}", "b"), uncertainty=weight)
        for prompt in "pq"
        for weight in (1, 3)
    ]
    shares = UncertainTasks(0.3).shares(among, 2)
    np.testing.assert_allclose(shares["random"], [0.15] * 4)
    np.testing.assert_allclose(shares["uncertain"], [0.175, 0.525] * 2)


def test_a_large_weight_is_no_more_than_certain_and_the_rest_is_shared():
    """Weights 100, 1, 1, 2 and three tasks: the first is certain, and the others have 2 * (1, 1, 2) / 4."""
    among = [
        Candidate(prompt_id=f"p{number}", image_ids=(f"{number}", "b"), uncertainty=weight)
        for number, weight in enumerate((100, 1, 1, 2))
    ]
    np.testing.assert_allclose(UncertainTasks(0.5).shares(among, 3)["uncertain"], np.array([1, 0.5, 0.5, 1]) / 2)


def test_what_is_not_uncertain_is_left_to_chance_until_nothing_else_is_left():
    """Three of four weights are 0 and two tasks: one is certain, the others share the other task."""
    among = [
        Candidate(prompt_id=f"p{number}", image_ids=(f"{number}", "b"), uncertainty=weight)
        for number, weight in enumerate((1, 0, 0, 0))
    ]
    np.testing.assert_allclose(UncertainTasks(0.5).shares(among, 1)["uncertain"], [0.5, 0, 0, 0])
    np.testing.assert_allclose(
        UncertainTasks(0.5).shares(among, 2)["uncertain"], np.array([1, 1 / 3, 1 / 3, 1 / 3]) / 2
    )


def test_few_tasks_are_spread_over_the_prompts():
    for chosen in draws(RandomTasks(), candidates(6, 6, 6, 6), 4):
        assert len({each.candidate.prompt_id for each in chosen}) == 4


def test_of_nothing_nothing_is_chosen():
    assert choose(UncertainTasks(), [], 5, random.Random(0)) == []


def test_all_sets_are_candidates_where_they_are_few_and_a_random_sample_where_they_are_many():
    """Of seven images 35 sets of four: each is among 10 of them with probability 10 / 35, counted over many draws."""
    ids = [f"i{number}" for number in range(7)]
    every = list(itertools.combinations(ids, 4))
    assert sets_of(ids[::-1], 4, random.Random(0), most=35) == (every, 1.0)
    chance = random.Random(1)
    times: Counter[tuple[str, ...]] = Counter()
    for _ in range(3000):
        found, share = sets_of(ids, 4, chance, most=10)
        assert (len(found), len(set(found)), share) == (10, 10, 10 / 35)
        times.update(found)
    assert times.keys() == set(every)
    expected = 3000 * 10 / 35
    assert all(abs(count - expected) < 5 * (expected * 25 / 35) ** 0.5 for count in times.values())


def test_what_was_sampled_first_is_in_the_propensity():
    """Two stages by hand: one of two sampled of six sets is chosen, 2 / 6 times 1 / 2."""
    chance, times = random.Random(2), Counter()
    for _ in range(DRAWS):
        found, share = sets_of(["a", "b", "c", "d"], 2, chance, most=2)
        among = [Candidate(prompt_id="p", image_ids=each, share=share) for each in found]
        (chosen,) = choose(RandomTasks(), among, 1, chance)
        assert chosen.propensity == pytest.approx(1 / 6)
        times[chosen.candidate.image_ids] += 1
    assert len(times) == 6
    assert all(abs(count - DRAWS / 6) < 5 * (DRAWS * 5 / 36) ** 0.5 for count in times.values())
