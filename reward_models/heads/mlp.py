"""A small network as head: the layer sizes of ImageReward (arXiv:2304.05977), for thousands of comparisons."""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from reward_models.comparisons import Comparisons
from reward_models.heads.linear import ANCHOR_PENALTY, block_scale, solve_davidson

SIZES = (1024, 128, 64, 16, 1)
_DROPOUT = (0.2, 0.2, 0.1, 0.0)


@dataclass(frozen=True, slots=True)
class MlpHead:
    """score = network(features / scale).

    Deviations from the published head: its rectifiers are commented out, which makes it one linear map, and it starts
    with outputs near 1e-11; here they are real, and every layer starts at the scale of its fan-in (He).
    """

    scale: Float[Tensor, "features"]
    network: nn.Sequential
    side_bias: float = field(default=0.0)
    log_tie: float = field(default=-math.inf)

    def score(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch"]:
        return self.network.to(features.device)(features / self.scale.to(features)).squeeze(1)

    def tensors(self) -> dict[str, Tensor]:
        named = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        sides = {"side_bias": torch.tensor(self.side_bias), "log_tie": torch.tensor(self.log_tie)}
        return {"scale": self.scale, **sides, **named}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "MlpHead":
        network = build_network(tensors["scale"].shape[0])
        network.load_state_dict(
            {name.removeprefix("network."): value for name, value in tensors.items() if name.startswith("network.")}
        )
        network.eval().requires_grad_(False)
        return cls(tensors["scale"], network, tensors["side_bias"].item(), tensors["log_tie"].item())


def build_network(features: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index, size in enumerate(SIZES):
        layers.append(nn.Linear(features, size))
        if index < len(_DROPOUT):
            layers += [nn.ReLU(), nn.Dropout(_DROPOUT[index])]
        features = size
    return nn.Sequential(*layers)


def fit_mlp(
    features: Float[Tensor, "things features"],
    comparisons: Comparisons,
    *,
    seed: int,
    epochs: int = 20,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.1,
) -> MlpHead:
    """Train the network on the same likelihood as the linear head. Side bias and tie rate are fitted before it, without
    scores, and again after it: in its own 150 small steps they would hardly move.

    The caller's random state is left as it was.
    """
    x = features.float()
    scale = torch.from_numpy(block_scale((x[comparisons.first] - x[comparisons.second]).numpy())).float()
    x = x / scale
    first, second, outcome, side = (
        torch.from_numpy(np.asarray(each))
        for each in (comparisons.first, comparisons.second, comparisons.outcome, comparisons.side)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(x.shape[1])
        _initialise(network)
        side_bias, log_tie = map(torch.tensor, _fit_sides(np.zeros(len(comparisons)), comparisons))
        optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=weight_decay)
        total = epochs * math.ceil(len(outcome) / batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 0.5 + 0.5 * math.cos(math.pi * step / total)
        )
        for _ in range(epochs):
            for rows in torch.randperm(len(outcome)).split(batch_size):
                score = network(torch.cat([x[first[rows]], x[second[rows]]])).squeeze(1)
                difference = score[: len(rows)] - score[len(rows) :] + side_bias * side[rows]
                loss = davidson_loss(difference, outcome[rows], log_tie)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    network.eval().requires_grad_(False)
    score = network(x).squeeze(1).double().numpy()
    return MlpHead(scale, network, *_fit_sides(score[comparisons.first] - score[comparisons.second], comparisons))


def _fit_sides(difference: np.ndarray, comparisons: Comparisons) -> tuple[float, float]:
    """Side bias and log tie rate (-inf when no tie was seen) beside these differences of scores.

    The differences get a coefficient of their own, which is not used: a network that is too sure or not sure enough
    must not show up as a preference for a side.
    """
    design = np.column_stack([difference, comparisons.side])
    solution, log_tie = solve_davidson(
        design, comparisons.outcome, np.full(2, ANCHOR_PENALTY), np.ones(len(comparisons))
    )
    return float(solution[1]), log_tie


def davidson_loss(difference: Float[Tensor, "batch"], outcome: Tensor, log_tie: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Mean negative log-likelihood of Davidson's model; `outcome` is 1, -1 or 0 for a tie."""
    half = difference / 2
    logits = torch.stack([half, -half, log_tie.expand_as(half)], dim=1)
    return functional.cross_entropy(logits, torch.where(outcome == 0, 2, torch.where(outcome == 1, 0, 1)))


def _initialise(network: nn.Sequential) -> None:
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu" if layer.out_features > 1 else "linear")
            nn.init.zeros_(layer.bias)
