"""Win rates of models by hand: ties half, the same model no comparison, reliability as a weight."""

import math

import pytest

from data.bootstrap import cluster_interval
from data.records import Image
from data.votes import Vote, as_votes
from data.win_rates import model_name, models_of, win_rates


def an_image(name: str, *, round: int = 1, prompt: str = "p", **provenance: object) -> Image:
    return Image(image_id=name, prompt_id=prompt, round=round, width=64, height=64, provenance=provenance)


def test_a_model_is_what_drew():
    assert model_name(an_image("a", policy_round=0)) == "reference"
    assert model_name(an_image("a", policy_round=2)) == "policy of round 2"
    assert model_name(an_image("a", round=3)) == "drawn in round 3"


def test_a_picture_that_two_models_drew_alike_is_no_ones():
    images = [an_image("a", policy_round=0), an_image("a", round=2, policy_round=1), an_image("b", policy_round=0)]
    assert models_of(images) == {("p", "b"): "reference"}


MODELS = {
    **{(prompt, f"r{n}"): "reference" for prompt in "pqs" for n in (1, 2)},
    **{(prompt, "n"): "policy of round 1" for prompt in "pqs"},
}


def test_by_hand():
    """The policy wins, ties, loses on the left, wins on the right: 2.5 of 4, one tie. What the reference wins against
    itself does not count.
    """
    votes = as_votes(
        [
            Vote("p", "n", "r1", 1, "ann"),
            Vote("p", "n", "r2", 0, "bob"),
            Vote("q", "n", "r1", -1, "ann"),
            Vote("q", "r1", "n", -1, "bob"),
            Vote("p", "r1", "r2", 1, "ann"),
        ]
    )
    (found,) = win_rates(votes, MODELS, {})
    assert math.isnan(found.rate.low)  # two prompts
    assert (found.model, found.other) == ("policy of round 1", "reference")
    assert (found.rate.mean, found.rate.n, found.rate.clusters, found.ties) == (2.5 / 4, 4, 2, 1 / 4)
    assert found.by_reliability is None


def test_reliability_counts_and_who_answers_the_other_way_round_does_not():
    """Ann (1) wins, Bob (1/2) loses: 2/3. Cy (-1) and a rater of whom nothing is known do not count."""
    votes = as_votes(
        [
            Vote("p", "n", "r1", 1, "ann"),
            Vote("q", "n", "r1", -1, "bob"),
            Vote("s", "n", "r1", -1, "cy"),
            Vote("s", "n", "r1", -1, "dee"),
        ]
    )
    (found,) = win_rates(votes, MODELS, {"ann": 1.0, "bob": 0.5, "cy": -1.0})
    assert found.rate.mean == pytest.approx(1 / 4)
    assert found.by_reliability is not None
    assert (found.by_reliability.mean, found.by_reliability.n) == (pytest.approx(2 / 3), 2)


def test_intervals_are_over_prompts():
    """Forty prompts with five comparisons each, all the same within one: as wide as with one comparison of each."""
    prompts = [f"{n:02d}" for n in range(40)]
    models = {(p, name): name for p in prompts for name in ("old", "new")}
    votes = [Vote(p, "new", "old", 1 if int(p) % 3 else -1, f"r{n}") for p in prompts for n in range(5)]
    (many,) = win_rates(as_votes(votes), models, {})
    (one,) = win_rates(as_votes(votes[::5]), models, {})
    assert (many.rate.low, many.rate.high) == pytest.approx((one.rate.low, one.rate.high))
    plain = cluster_interval([float(int(p) % 3 > 0) for p in prompts], prompts)
    assert many.rate.low == pytest.approx(plain.low, abs=0.01)


def test_every_pair_of_models_that_met_and_no_other():
    models = {("p", name): name for name in ("first", "second", "third")}
    votes = as_votes([Vote("p", "first", "second", 1, "ann"), Vote("p", "third", "second", 1, "ann")])
    found = {(each.model, each.other): each.rate for each in win_rates(votes, models, {})}
    assert {pair: rate.mean for pair, rate in found.items()} == {("second", "first"): 0, ("third", "second"): 1}
    assert all(math.isnan(rate.low) for rate in found.values())  # one prompt
    assert win_rates(as_votes([]), models, {}) == []
