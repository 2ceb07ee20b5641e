"""A small network as head: the layer sizes of ImageReward (arXiv:2304.05977), for thousands of comparisons."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from reward_models.choice_model import losses_of_scores, score_hessian
from reward_models.choices import Choices

SIZES = (1024, 128, 64, 16, 1)
DROPOUT = (0.2, 0.2, 0.1, 0.0)

_PRIOR_PRECISIONS = np.logspace(-3, 3, 13)
_LEAST_BATCH, _MOST_BATCH, _MOST_STEPS = 256, 1024, 350


@dataclass(frozen=True, slots=True)
class MlpHead:
    """score = network(features / scale) - offset, with Laplace's Gaussian over the last layer's weights
    (Kristiadi, Hein and Hennig 2020, arXiv:2002.10118).

    Deviations from the published head: its rectifiers are commented out, which makes it one linear map, and it starts
    with outputs near 1e-11; here they are real, and every layer starts at the scale of its fan-in (He). The published
    one is `reward_models.heads.imagereward`.
    """

    scale: Float[Tensor, "features"]
    network: nn.Sequential
    offset: Float[Tensor, ""]
    factor: Float[Tensor, "last last"]
    """A square root of the covariance of the last layer's weights."""
    last_centre: Float[Tensor, "last"]
    is_linear: bool = False
    """Without rectifiers, as published."""

    def predict(
        self, features: Float[Tensor, "batch features"]
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
        self.network.to(features.device)
        last = self.network[:-1](features / self.scale.to(features))
        square = ((last - self.last_centre.to(last)) @ self.factor.to(last)).square().sum(1)
        return self.network[-1](last).squeeze(1) - self.offset.to(last), square.clamp_min(1e-12).sqrt()

    def centred_on(self, features: Float[Tensor, "reference features"]) -> "MlpHead":
        with torch.no_grad():
            last = self.network[:-1](features / self.scale)
            return replace(self, last_centre=last.mean(0), offset=self.network[-1](last).mean())

    def tensors(self) -> dict[str, Tensor]:
        named = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        rest = {"offset": self.offset, "factor": self.factor, "last_centre": self.last_centre}
        return {"scale": self.scale, "is_linear": torch.tensor(self.is_linear), **rest, **named}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "MlpHead":
        is_linear = bool(tensors.get("is_linear", False))
        network = build_network(tensors["scale"].shape[0], is_linear=is_linear)
        network.load_state_dict(
            {name.removeprefix("network."): value for name, value in tensors.items() if name.startswith("network.")}
        )
        network.eval().requires_grad_(False)
        last = SIZES[-2]
        return cls(
            tensors["scale"],
            network,
            tensors.get("offset", torch.tensor(0.0)),
            tensors.get("factor", torch.zeros(last, last)),
            tensors.get("last_centre", torch.zeros(last)),
            is_linear,
        )


def build_network(features: int, *, is_linear: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index, size in enumerate(SIZES):
        layers.append(nn.Linear(features, size))
        if index < len(DROPOUT):
            layers += [nn.Identity() if is_linear else nn.ReLU(), nn.Dropout(DROPOUT[index])]
        features = size
    return nn.Sequential(*layers)


def fit_mlp(
    features: Float[Tensor, "things features"],
    choices: Choices,
    *,
    seed: int,
    weights: Float[np.ndarray, "choices"] | None = None,
    epochs: int | None = None,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.1,
    start: MlpHead | None = None,
) -> MlpHead:
    """Train the network on the same likelihood as the linear head, whole prompts to a batch, so that an image with
    several answers is seen once. Sides, tie rates and offsets are those of equal scores.

    `start` is an earlier round's head to begin from: its weights shrunk to half and mixed with a fresh start's (Ash and
    Adams 2020, arXiv:1910.08475), because a network that goes on from old weights generalises worse. The caller's
    random state is left as it was.
    """
    counted = np.ones(len(choices)) if weights is None else np.asarray(weights, dtype=float)
    x = features.float()
    scale = block_scale(x)
    x = x / scale
    kept = int((counted > 0).sum())
    batch_size = min(max(_LEAST_BATCH, kept // 64), _MOST_BATCH)
    if epochs is None:
        epochs = int(np.clip(_MOST_STEPS * batch_size // max(kept, 1), 5, 20))
    fixed = _utilities_of_extras(choices, counted)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(x.shape[1])
        initialise(network)
        if start is not None:
            _shrink_and_perturb(network, start.network)
        optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=weight_decay)
        total = epochs * math.ceil(kept / batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 0.5 + 0.5 * math.cos(math.pi * min(step / total, 1))
        )
        for _ in range(epochs):
            for rows in batches(choices, counted, batch_size):
                batch = Batch.of(choices, rows, fixed, counted)
                loss = batch.loss(network(x[batch.things]).squeeze(1))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    network.eval().requires_grad_(False)
    return with_posterior(scale, network, x, choices, counted)


def with_posterior(
    scale: Float[Tensor, "features"],
    network: nn.Sequential,
    x: Float[Tensor, "things features"],
    choices: Choices,
    weights: Float[np.ndarray, "choices"],
    *,
    is_linear: bool = False,
) -> MlpHead:
    """A trained network with the Gaussian over its last layer; its prior precision is the one with the largest evidence
    (MacKay 1992).
    """
    with torch.no_grad():
        last = network[:-1](x).double().numpy()
        weight = network.state_dict()[f"{len(network) - 1}.weight"].double().numpy()[0]
    curvature = score_hessian(choices, last @ weight, weights)
    hessian = last.T @ (curvature @ last)
    values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
    values = values.clip(0)
    tau = _PRIOR_PRECISIONS[:, None]
    evidence = 0.5 * (np.log(tau) - np.log(values + tau)).sum(1) - 0.5 * tau[:, 0] * (weight @ weight)
    best = _PRIOR_PRECISIONS[evidence.argmax()]
    factor = torch.from_numpy(vectors / np.sqrt(values + best)).float()
    return MlpHead(scale, network, torch.tensor(0.0), factor, torch.zeros(len(weight)), is_linear)


@dataclass(frozen=True, slots=True)
class Batch:
    """Some choices, with their things numbered anew."""

    things: Tensor
    """Rows of the features; int (batch things,)."""
    entries: Tensor
    """(alternatives, batch things), sparse: how scores make utilities."""
    fixed: Tensor
    blocks: list[tuple[slice, slice, int]]
    chosen: Tensor
    weights: Tensor

    @classmethod
    def of(cls, choices: Choices, rows: np.ndarray, fixed: np.ndarray, weights: np.ndarray) -> "Batch":
        part = choices.take(rows)
        scores = part.scores.tocoo()
        things, column = np.unique(scores.coords[1], return_inverse=True)
        value = scores.data * np.repeat(part.slope, part.sizes)[scores.coords[0]]
        entries = torch.sparse_coo_tensor(
            torch.from_numpy(np.stack([scores.coords[0], column]).astype(np.int64)),
            torch.from_numpy(value).float(),
            (int(part.starts[-1]), len(things)),
            check_invariants=False,
        )
        return cls(
            things=torch.from_numpy(things.astype(np.int64)),
            entries=entries,
            fixed=torch.from_numpy(fixed[choices.alternatives(rows)]).float(),
            blocks=part.blocks(),
            chosen=torch.from_numpy(part.chosen - part.starts[:-1]),
            weights=torch.from_numpy(weights[rows]).float(),
        )

    def loss(self, scores: Float[Tensor, "things"]) -> Float[Tensor, ""]:
        """Mean negative log-likelihood of the choices."""
        utility = (self.entries @ scores[:, None]).squeeze(1) + self.fixed
        losses = [
            nn.functional.cross_entropy(utility[alternatives].reshape(-1, size), self.chosen[choices], reduction="none")
            for choices, alternatives, size in self.blocks
        ]
        return (torch.cat(losses) * self.weights).sum() / self.weights.sum()


def batches(choices: Choices, weights: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Rows of whole prompts in random order, about `batch_size` at a time."""
    rows = np.flatnonzero(weights > 0)
    prompt = choices.prompt[rows]
    _, prompt = np.unique(prompt, return_inverse=True)
    place = torch.randperm(int(prompt.max()) + 1).numpy()[prompt]
    order = np.argsort(place, kind="stable")
    edges = np.flatnonzero(np.diff(place[order], prepend=-1))
    start = 0
    for end in [*edges[1:].tolist(), len(rows)]:
        if end - start >= batch_size or end == len(rows):
            # A prompt with more answers than a batch holds comes in several.
            yield from (
                np.sort(rows[part])
                for part in np.array_split(order[start:end], max((end - start) // (2 * batch_size), 1))
            )
            start = end


def _utilities_of_extras(choices: Choices, weights: np.ndarray) -> np.ndarray:
    """What sides, tie rates and offsets add to each alternative, fitted with all scores equal."""
    _, extras = losses_of_scores(choices, np.zeros(len(choices.things)), weights)
    return np.asarray(choices.extras @ extras)


def block_scale(x: Float[Tensor, "things features"]) -> Float[Tensor, "features"]:
    """Root mean square about the mean of each block [score | image | image * text], repeated over its features."""
    count = (x.shape[1] - 1) // 2
    away = x - x.mean(0)
    blocks = (away[:, :1], away[:, 1 : 1 + count], away[:, 1 + count :])
    sizes = [block.square().mean().sqrt().item() if block.numel() else 0.0 for block in blocks]
    return torch.cat(
        [torch.full((block.shape[1],), size if size > 1e-8 else 1.0) for block, size in zip(blocks, sizes, strict=True)]
    )


def initialise(network: nn.Sequential) -> None:
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu" if layer.out_features > 1 else "linear")
            nn.init.zeros_(layer.bias)


@torch.no_grad()
def _shrink_and_perturb(network: nn.Sequential, earlier: nn.Sequential) -> None:
    for mine, theirs in zip(network.parameters(), earlier.parameters(), strict=True):
        mine.lerp_(theirs.to(mine), 0.5)
