"""How unsure a fit is of a pair: against the posterior's own arithmetic, and through files as the draw stage asks."""

import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from reward_models.config import RewardFitConfig
from reward_models.fit import fit_reward
from reward_models.heads.ensemble import EnsembleHead
from reward_models.heads.linear import LinearHead
from reward_models.heads.mlp import SIZES, MlpHead, build_network
from reward_models.uncertainty import are_distinct, difference_variance, uncertain_pairs

FEATURES = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
PROMPTS = ["a red circle", "two blue hearts", "a star above a cross"]
CONFIG = RewardFitConfig(l2=(10.0,), folds=2)


def an_mlp(seed: int) -> MlpHead:
    """A network with random weights and a random posterior over its last layer."""
    torch.manual_seed(seed)
    network = build_network(7).eval().requires_grad_(False)
    last = SIZES[-2]
    return MlpHead(torch.ones(7), network, torch.tensor(0.0), torch.randn(last, last), torch.zeros(last))


def test_a_linear_heads_difference_has_the_variance_of_its_weights_along_it():
    """Var(w . (x - y)) = (x - y)' S (x - y), whatever the head was centred on."""
    factor = torch.randn(7, 7, generator=torch.Generator().manual_seed(1))
    head = LinearHead(torch.ones(7), factor, torch.zeros(7))
    away = FEATURES[:, None] - FEATURES
    expected = torch.einsum("ijf,fg,ijg->ij", away, factor @ factor.T, away)
    for each in (head, head.centred_on(FEATURES[:3])):
        torch.testing.assert_close(difference_variance(each, FEATURES), expected, rtol=1e-4, atol=1e-4)


def test_an_ensembles_is_the_mean_variance_times_the_disagreement_of_its_members():
    members = tuple(an_mlp(seed) for seed in range(3))
    found = difference_variance(EnsembleHead(members), FEATURES)
    scores, posterior = [], []
    for member in members:
        last = member.network[:-1](FEATURES)
        score = member.network(FEATURES).squeeze(1)
        scores.append(score[:, None] - score)
        posterior.append(((last[:, None] - last) @ member.factor).square().sum(2))
    expected = np.var([each.numpy() for each in scores], axis=0, ddof=1) * torch.stack(posterior).mean(0).numpy()
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-6)
    assert (found.diagonal() == 0).all()


def test_of_images_that_are_nearly_one_the_first_is_kept():
    """At 0, 5, 40 and 43 degrees: the cosine of 5 degrees is 0.9962, of 3 degrees 0.9986."""
    angles = torch.tensor([math.radians(degrees) for degrees in (0.0, 5.0, 40.0, 43.0)])
    image = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert are_distinct(image, 0.99).tolist() == [True, False, True, False]
    assert are_distinct(image, 0.998).tolist() == [True, True, True, False]
    assert are_distinct(image, 1.0).tolist() == [True] * 4


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """A reward model fitted on twelve pictures, four of each prompt, of which the last is all but the third."""
    folder = tmp_path_factory.mktemp("fit")
    rng = np.random.default_rng(0)
    pictures = {}
    for number in range(12):
        picture = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        picture[: 5 * number] = 0
        pictures[f"{number}"] = picture
    for number in (9, 10, 11):
        pictures[f"{number}"] = pictures[f"{number - 3}"].copy()
        pictures[f"{number}"][0, 0] = 1
    rated = [
        {"round": 1, "rater_id": "ann", "outcome": "a", "left": "b", "prompt": PROMPTS[number % 3]}
        | {"image_a": f"{number}", "image_b": f"{number + 3}"}
        for number in range(6)
    ]
    fit_reward(rated, pictures.__getitem__, CONFIG, folder / "cache", folder / "reward")
    return folder, pictures


def test_every_pair_of_a_prompt_is_asked_about_and_copies_teach_nothing(drawn: tuple[Path, dict[str, np.ndarray]]):
    """Six pairs of each prompt; three of them are without the last image, which is a copy."""
    folder, pictures = drawn
    pairs = uncertain_pairs(
        folder / "reward",
        [(f"{number}", PROMPTS[number % 3]) for number in range(12)],
        pictures.__getitem__,
        CONFIG,
        folder / "cache",
        near_duplicate=0.9999,
    )
    found = {(pair.first, pair.second): pair.uncertainty for pair in pairs}
    assert len(found) == 18
    assert all(one % 3 == other % 3 for one, other in found)
    assert {pair for pair, uncertainty in found.items() if uncertainty == 0} == {
        pair for pair in found if max(pair) >= 9
    }


def test_a_fit_of_another_backbone_says_nothing(
    drawn: tuple[Path, dict[str, np.ndarray]], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    _, pictures = drawn
    with caplog.at_level(logging.WARNING):
        found = uncertain_pairs(
            tmp_path, [("0", PROMPTS[0])], pictures.__getitem__, CONFIG, tmp_path, near_duplicate=1.0
        )
    assert found == []
    assert "another backbone" in caplog.text
