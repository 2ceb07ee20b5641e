"""Several networks as one head: other starts, other prompts. Where they disagree, nobody knows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from reward_models.choices import Choices
from reward_models.heads.mlp import MlpHead, fit_mlp

MEMBERS = 5


@dataclass(frozen=True, slots=True)
class EnsembleHead:
    """The mean of the members' scores and their standard deviation (Lakshminarayanan et al. 2017, arXiv:1612.01474)."""

    members: tuple[MlpHead, ...]

    def predict(
        self, features: Float[Tensor, "batch features"]
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
        scores = torch.stack([member.predict(features)[0] for member in self.members])
        return scores.mean(0), scores.var(0, correction=1).clamp_min(1e-12).sqrt()

    def centred_on(self, features: Float[Tensor, "reference features"]) -> "EnsembleHead":
        return EnsembleHead(tuple(member.centred_on(features) for member in self.members))

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"{number}.{name}": value
            for number, member in enumerate(self.members)
            for name, value in member.tensors().items()
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "EnsembleHead":
        count = 1 + max(int(name.split(".", 1)[0]) for name in tensors)
        parts: list[dict[str, Tensor]] = [{} for _ in range(count)]
        for name, value in tensors.items():
            number, rest = name.split(".", 1)
            parts[int(number)][rest] = value
        return cls(tuple(MlpHead.from_tensors(part) for part in parts))


def fit_ensemble(
    features: Float[Tensor, "things features"],
    choices: Choices,
    *,
    seed: int,
    weights: Float[np.ndarray, "choices"] | None = None,
    members: int = MEMBERS,
    start: Sequence[MlpHead] | None = None,
) -> EnsembleHead:
    """Each member has its own seed and its own sample of the prompts, drawn with replacement."""
    counted = np.ones(len(choices)) if weights is None else np.asarray(weights, dtype=float)
    fitted = []
    for number in range(members):
        drawn = prompt_bootstrap(choices.prompt, counted, np.random.default_rng([seed, number]))
        begin = start[number] if start is not None else None
        fitted.append(fit_mlp(features, choices, seed=seed * MEMBERS + number, weights=counted * drawn, start=begin))
    return EnsembleHead(tuple(fitted))


def prompt_bootstrap(
    prompt: np.ndarray, weights: Float[np.ndarray, "choices"], chance: np.random.Generator
) -> Float[np.ndarray, "choices"]:
    """How often each choice's prompt came when as many prompts as there are were drawn with replacement."""
    _, index = np.unique(prompt[weights > 0], return_inverse=True)
    count = int(index.max()) + 1
    times = np.zeros(len(prompt))
    times[weights > 0] = np.bincount(chance.integers(count, size=count), minlength=count)[index]
    return times
