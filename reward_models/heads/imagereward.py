"""ImageReward's head as published (arXiv:2304.05977 and its code), to compare with: it stays at chance on small data.

Its rectifiers are commented out, so it is one linear map through 1024, 128, 64 and 16 numbers; weights start at a
standard deviation of 1 / (features + 1) in every layer, which makes the first outputs about 1e-11; Adam at 1e-5 for ten
epochs, batches of 64 pairs, ties skipped. Deviations: the input is open_clip's features instead of BLIP's (with the
backbone frozen), and there is one seed and no choice of the best epoch.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from reward_models.choices import Choices
from reward_models.heads.mlp import MlpHead, build_network, with_posterior


def fit_imagereward(
    features: Float[Tensor, "things features"],
    choices: Choices,
    *,
    seed: int,
    weights: Float[np.ndarray, "choices"] | None = None,
    learning_rate: float = 1e-5,
    epochs: int = 10,
    batch_size: int = 64,
) -> MlpHead:
    """Minus the mean log sigma of the winner's score minus the loser's, over all pairs that are no tie.

    Choices with a weight of 0 are left out; the published recipe knows no other weights. The caller's random state is
    left as it was.
    """
    pairs = torch.from_numpy(decided_pairs(choices, np.ones(len(choices)) if weights is None else weights))
    x = features.float()
    total = epochs * math.ceil(len(pairs) / batch_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(x.shape[1], is_linear=True)
        for layer in network:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=1 / (x.shape[1] + 1))
                nn.init.zeros_(layer.bias)
        optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(total, 1))
        for _ in range(epochs):
            for rows in torch.randperm(len(pairs)).split(batch_size):
                better, worse = network(x[pairs[rows]]).squeeze(2).unbind(1)
                loss = -functional.logsigmoid(better - worse).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    network.eval().requires_grad_(False)
    return with_posterior(
        torch.ones(x.shape[1]),
        network,
        x,
        choices,
        np.asarray(weights) if weights is not None else np.ones(len(choices)),
        is_linear=True,
    )


def decided_pairs(choices: Choices, weights: np.ndarray) -> Int[np.ndarray, "pairs 2"]:
    """(winner, loser) of every pair that a choice decided: one of a pair, all of a ranking's place."""
    pointer, things = choices.scores.indptr, choices.scores.indices
    single = np.diff(pointer) == 1
    found = []
    for choice in np.flatnonzero((weights > 0) & single[choices.chosen]):
        chosen = choices.chosen[choice]
        winner = things[pointer[chosen]]
        rows = np.arange(choices.starts[choice], choices.starts[choice + 1])
        losers = things[pointer[rows[single[rows] & (rows != chosen)]]]
        found += [(winner, loser) for loser in losers if loser != winner]
    return np.array(found, dtype=np.int64).reshape(-1, 2)
