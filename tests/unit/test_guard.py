"""The guard's rule: against arithmetic by hand and scipy, and its errors counted in simulated trainings."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from data.guard import Look, Rule, Verdict

PROMPTS = tuple(f"p{number}" for number in range(8) for _ in range(2))
"""Two pictures of each of eight prompts."""
START = tuple([0.0, 1.0] * 8)
"""A judge's scores at the start: their standard deviation is 1/2, so that moving by 1 is moving by 2 of them."""


def look(epoch: int, judge: Sequence[float], reward: float = 0.0, **more: object) -> Look:
    return Look(
        epoch=epoch,
        prompts=PROMPTS,
        reward=tuple(np.arange(16) / 16 + reward + 0.01 * (np.arange(16) // 2)),
        judges={"gold": tuple(judge)},
        **more,  # type: ignore[arg-type]
    )


def moved(by: Sequence[float]) -> list[float]:
    """Both pictures of each prompt moved by so much."""
    return [score + by[number // 2] for number, score in enumerate(START)]


FALL = [-0.3, -0.2, -0.1, -0.4, -0.2, -0.3, -0.1, -0.4]


# -- the interval -----------------------------------------------------------------------------------------------------


def test_a_change_is_students_interval_of_the_prompts_means_shared_among_the_looks():
    """Changes of -0.3, -0.2 ... of a judge with a standard deviation of 0.5: -0.6, -0.4 ..., by scipy at 5 % / 4."""
    found = Rule(looks=4).change(look(0, START), look(5, moved(FALL)))
    assert found is not None
    doubled = 2 * np.array(FALL)
    away = stats.sem(doubled) * stats.t.ppf(1 - 0.025 / 4, df=7)
    assert (found.mean, found.low, found.high) == pytest.approx((-0.5, -0.5 - away, -0.5 + away))
    assert (found.n, found.clusters) == (16, 8)


def test_the_judgement_of_several_is_the_mean_of_each_in_its_own_standard_deviations():
    """One judge falls by 2 of its deviations (1 of 0.5), the other rises by 1 of its own (10 of 10): -0.5 together."""
    before, after = look(0, START), look(5, moved([-1.0] * 8))
    before.judges["other"] = tuple([0.0, 20.0] * 8)  # type: ignore[index]
    after.judges["other"] = tuple([10.0, 30.0] * 8)  # type: ignore[index]
    found = Rule(looks=1).change(before, after)
    assert found is not None
    assert found.mean == pytest.approx(-0.5)


def test_a_judge_that_gave_every_picture_the_same_score_has_no_say():
    assert Rule(looks=1).change(look(0, [0.3] * 16), look(5, moved(FALL))) is None


def test_of_four_prompts_nothing_is_concluded():
    some = {"prompts": PROMPTS[:8], "reward": (0.0,) * 8}
    before, after = (
        Look(epoch=epoch, judges={"gold": tuple(scores)}, **some)  # type: ignore[arg-type]
        for epoch, scores in ((0, START[:8]), (5, moved([-5.0] * 8)[:8]))
    )
    assert Rule(looks=1).decide(before, after) == Verdict()


def test_the_share_of_diversity_that_is_left():
    """From 0.2 on average to 0.1: a half, within Student's interval of d_now - d_reference / 2, over 0.2."""
    reference = {f"p{i}": 0.1 + 0.2 * (i % 2) for i in range(8)}
    now = {f"p{i}": 0.05 + 0.1 * (i // 4) for i in range(8)}
    found = Rule(looks=2).diversity(reference, look(5, START, diversity=now))
    assert found is not None
    away = np.array([now[key] - reference[key] / 2 for key in now])
    assert found.mean == pytest.approx(0.5)
    assert found.high - 0.5 == pytest.approx(stats.sem(away) / 0.2 * stats.t.ppf(1 - 0.0125, df=7))


# -- what is decided --------------------------------------------------------------------------------------------------


def test_a_reward_that_rises_while_the_judge_falls_is_hacking_and_said_with_its_numbers():
    found = Rule(looks=1).decide(look(0, START), look(5, moved(FALL), reward=0.4))
    assert found.reason == "hacking"
    away = stats.sem(2 * np.array(FALL)) * stats.t.ppf(0.975, df=7)
    assert found.words == (
        "the learned reward rose by 0.40 [0.40, 0.40] while gold fell by "
        f"0.50 [{0.5 - away:.2f}, {0.5 + away:.2f}] standard deviations on 8 held-out prompts"
    )


def test_a_fall_without_a_rise_is_harm():
    found = Rule(looks=1).decide(look(0, START), look(5, moved(FALL)))
    assert found.reason == "harm"
    assert "did not clearly rise (0.00 [0.00, 0.00])" in found.words


@pytest.mark.parametrize("by", [[0.0] * 8, [0.3] * 8, [-0.3, 0.2, -0.1, 0.3, -0.2, 0.1, -0.3, 0.1]])
def test_what_did_not_clearly_fall_goes_on(by: list[float]):
    assert Rule(looks=1).decide(look(0, START), look(5, moved(by), reward=0.4)) == Verdict()


@pytest.mark.parametrize(("by", "reason"), [(-0.03, ""), (-0.06, "harm")])
def test_a_fall_that_nobody_sees_does_not_count_however_sure(by: float, reason: str):
    """0.06 and 0.12 standard deviations on all prompts but for 0.002: the least that counts is 0.1."""
    found = Rule(looks=1).decide(look(0, START), look(5, moved([by + 0.001 * (-1) ** i for i in range(8)])))
    assert found.reason == reason


def test_a_fall_that_one_look_would_show_is_not_enough_for_one_of_many():
    """t = 2.6 on 7 degrees of freedom: beyond 2.36, the quantile of one look, and not beyond 4.03, of ten."""
    by = np.array([1.0, -1.0] * 4)
    by -= 2.6 * stats.sem(by)
    assert Rule(looks=1).decide(look(0, START), look(5, moved(by.tolist()))).reason == "harm"
    assert Rule(looks=10).decide(look(0, START), look(5, moved(by.tolist()))) == Verdict()


def test_diversity_stops_when_it_is_clearly_below_its_share_of_the_references():
    reference = {f"p{i}": 0.2 + 0.01 * i for i in range(8)}
    rule, start = Rule(looks=1, min_diversity=0.5), look(0, START, diversity=reference)
    narrow = look(5, START, diversity={key: 0.3 * value for key, value in reference.items()})
    found = rule.decide(start, narrow)
    assert found.reason == "diversity"
    assert "0.30 [0.30, 0.30] times as different as the reference's" in found.words
    assert rule.decide(start, look(5, START, diversity={k: 0.6 * v for k, v in reference.items()})) == Verdict()
    # A round that starts from a narrow policy is held against the reference, not against its start.
    assert rule.decide(narrow, narrow) == Verdict()
    assert rule.decide(narrow, narrow, reference).reason == "diversity"


def test_a_kl_budget_is_in_nats_and_is_off_by_default():
    far = look(5, START, kl=(20.0, 30.0))
    assert Rule(looks=1, kl_budget=24.0).decide(look(0, START), far).reason == "kl"
    assert Rule(looks=1, kl_budget=26.0).decide(look(0, START), far) == Verdict()
    assert Rule(looks=1).decide(look(0, START), far) == Verdict()


# -- what is kept -----------------------------------------------------------------------------------------------------


def a_course(*means: float) -> list[Look]:
    """Looks whose judgements moved by these, with the same scatter over prompts at each."""
    scatter = np.array([0.1, -0.1] * 4)
    return [look(0, START)] + [
        look(5 * number, moved((mean / 2 + scatter * number).tolist())) for number, mean in enumerate(means, 1)
    ]


def test_the_last_policy_is_kept_unless_another_is_clearly_better():
    rule = Rule(looks=3)
    assert rule.keep(a_course(0.2, 0.4, 0.35), None).epoch == 15  # the second's lead is within noise
    assert rule.keep(a_course(0.2, 2.0, 0.35), None).epoch == 10
    assert rule.keep(a_course(-0.1, -0.2, -0.3), None).epoch == 15


def test_after_a_stop_the_best_is_kept_and_none_that_is_beyond_a_limit():
    rule, stop = Rule(looks=3), Verdict(reason="hacking", words="")
    assert rule.keep(a_course(0.2, 0.4, 0.35), stop).epoch == 10
    assert rule.keep(a_course(0.2, 0.4, 0.35), stop, refused=[10]).epoch == 15
    assert rule.keep(a_course(-0.1, -0.2), stop).epoch == 0


def test_without_a_judge_a_stop_keeps_the_latest_that_is_within_the_limits():
    looks = [Look(epoch=epoch, prompts=PROMPTS, reward=(0.0,) * 16) for epoch in (0, 5, 10)]
    assert Rule(looks=2).keep(looks, Verdict(reason="kl", words=""), refused=[10]).epoch == 5
    assert Rule(looks=2).decide(looks[0], looks[1]) == Verdict()


def test_a_look_survives_being_written_down():
    before = look(5, START, kl=(1.0,), diversity={"p0": 0.1})
    assert Look.from_dict(before.to_dict()) == before


# -- its errors -------------------------------------------------------------------------------------------------------


def trainings(count: int, changes: Sequence[float], seed: int) -> float:
    """The share of simulated trainings that are stopped: verdicts are right or wrong by prompt and seed, and the chance
    of a right one changes by so much until each look."""
    rng, rule, stopped = np.random.default_rng(seed), Rule(looks=len(changes)), 0
    for _ in range(count):
        easy = rng.beta(4, 2, size=(32, 1))
        shocks = rng.random((32, 2))
        before = (shocks < easy).astype(float)
        prompts = tuple(str(number) for number in range(32) for _ in range(2))
        start = Look(epoch=0, prompts=prompts, reward=(0.0,) * 64, judges={"gold": tuple(before.ravel())})
        for epoch, change in enumerate(changes, 1):
            fresh = np.where(rng.random((32, 2)) < 0.3, rng.random((32, 2)), shocks)
            scores = (fresh < easy + change).astype(float)
            now = Look(epoch=epoch, prompts=prompts, reward=(1.0,) * 64, judges={"gold": tuple(scores.ravel())})
            if rule.decide(start, now).reason:
                stopped += 1
                break
    return stopped / count


def test_of_trainings_that_change_nothing_few_are_stopped_and_of_those_that_do_harm_most():
    """At most 2.5 %, and 4 standard deviations of 500 draws more: 5.3 %."""
    most = 0.025 + 4 * math.sqrt(0.025 * 0.975 / 500)
    assert trainings(500, [0.0] * 4, seed=0) < most
    assert trainings(200, [0.05, 0.05, 0.1, 0.1], seed=1) < 0.025
    assert trainings(200, [0.0, -0.1, -0.3, -0.4], seed=2) > 0.95
