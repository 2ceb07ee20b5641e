"""The policy losses by hand arithmetic and against the table of fixtures/golden.json, gradients included."""

import json
import math
from pathlib import Path

import pytest
import torch

from rl.losses import clamped_ratio_loss, ppo_clip_loss, score_function_loss

GOLDEN = json.loads((Path(__file__).parents[1] / "fixtures" / "golden.json").read_text())


def test_loss_by_hand():
    """ratios 1.5, 0.5; advantages +2, -2; range 0.2: min(3, 2.4) and min(-1, -1.6); mean 0.4; loss -0.4."""
    log_prob = torch.tensor([math.log(1.5), math.log(0.5)])
    loss = ppo_clip_loss(log_prob, torch.zeros(2), torch.tensor([2.0, -2.0]), clip_range=0.2)
    torch.testing.assert_close(loss, torch.tensor(-0.4))


def test_weighted_loss_by_hand():
    """The terms above are 2.4 and -1.6; weights 0.5 and 1.5: mean(1.2, -2.4) = -0.6; loss 0.6."""
    log_prob, weights = torch.tensor([math.log(1.5), math.log(0.5)]), torch.tensor([0.5, 1.5])
    loss = ppo_clip_loss(log_prob, torch.zeros(2), torch.tensor([2.0, -2.0]), clip_range=0.2, weights=weights)
    torch.testing.assert_close(loss, torch.tensor(0.6))


@pytest.mark.parametrize("row", GOLDEN["ppo"], ids=lambda row: f"A{row['A']:+g}_r{row['ratio']}")
def test_the_six_cases_of_ppo_with_their_gradients(row):
    old = torch.tensor([-3.0], dtype=torch.float64)
    log_prob = (old + math.log(row["ratio"])).requires_grad_()
    loss = ppo_clip_loss(log_prob, old, torch.tensor([row["A"]], dtype=torch.float64), clip_range=1e-4)
    (gradient,) = torch.autograd.grad(loss, log_prob)
    assert loss.item() == pytest.approx(row["ddpo"], rel=1e-12)
    # The table's gradient is with respect to the ratio; d ratio / d log_prob = ratio.
    assert gradient.item() == pytest.approx(row["ddpo_grad"] * row["ratio"], abs=1e-12)


@pytest.mark.parametrize("row", GOLDEN["ppo"], ids=lambda row: f"A{row['A']:+g}_r{row['ratio']}")
def test_the_six_cases_of_the_clamp_of_dpoks_authors_with_their_gradients(row):
    old = torch.tensor([-3.0], dtype=torch.float64)
    log_prob = (old + math.log(row["ratio"])).requires_grad_()
    loss = clamped_ratio_loss(log_prob, old, torch.tensor([row["A"]], dtype=torch.float64), clip_range=1e-4)
    (gradient,) = torch.autograd.grad(loss, log_prob)
    assert loss.item() == pytest.approx(row["dpok"], rel=1e-12)
    assert gradient.item() == pytest.approx(row["dpok_grad"] * row["ratio"], abs=1e-12)


def test_where_the_pessimistic_maximum_departs_from_the_plain_clamp_of_dpoks_authors():
    """In two of the six cases: a ratio that left the range on the wrong side is still pulled back."""
    pulled_back = [row for row in GOLDEN["ppo"] if row["ddpo_grad"] != row["dpok_grad"]]
    assert [(row["A"], row["ratio"]) for row in pulled_back] == [(1.0, 0.9995), (-1.0, 1.0005)]
    assert all(row["dpok_grad"] == 0 for row in pulled_back)


def test_a_ratio_too_large_for_a_float_leaves_the_other_gradients_alone():
    """exp(100) is infinite in float32; in the good direction that sample has gradient 0, not 0 x infinity."""
    log_prob = torch.tensor([100.0, 0.0, 100.0], requires_grad=True)
    loss = ppo_clip_loss(log_prob, torch.zeros(3), torch.tensor([1.0, 1.0, 0.0]), clip_range=0.2)
    (gradient,) = torch.autograd.grad(loss, log_prob)
    torch.testing.assert_close(loss.detach(), torch.tensor(-(1.2 + 1.0) / 3))
    torch.testing.assert_close(gradient, torch.tensor([0.0, -1 / 3, 0.0]))


def test_score_function_loss_by_hand():
    """-(2 x -1) = 2 and -(-1 x -3) = -3; mean -0.5. Weights 3 and 1: mean(6, -3) = 1.5."""
    log_prob, advantages = torch.tensor([-1.0, -3.0]), torch.tensor([2.0, -1.0])
    torch.testing.assert_close(score_function_loss(log_prob, advantages), torch.tensor(-0.5))
    weighted = score_function_loss(log_prob, advantages, weights=torch.tensor([3.0, 1.0]))
    torch.testing.assert_close(weighted, torch.tensor(1.5))


def test_on_fresh_samples_both_losses_have_one_gradient():
    old = torch.tensor([-200.0, -210.0, 35.0])
    advantages, weights = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.5, 1.0, 1.5])
    log_prob = old.clone().requires_grad_()
    (clipped,) = torch.autograd.grad(
        ppo_clip_loss(log_prob, old, advantages, clip_range=0.2, weights=weights), log_prob
    )
    (plain,) = torch.autograd.grad(score_function_loss(log_prob, advantages, weights=weights), log_prob)
    torch.testing.assert_close(clipped, plain)
    torch.testing.assert_close(plain, torch.tensor([-0.5 / 3, 2.0 / 3, -0.75 / 3]))
