"""A linear head with its posterior: penalised maximum likelihood on features of image and image * text."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from reward_models.choice_model import ChoiceModel, Posterior
from reward_models.choices import Choices


@dataclass(frozen=True, slots=True)
class LinearHead:
    """score = (features - centre) @ weight, with Laplace's Gaussian over the weights.

    The first feature is the zero-shot CLIP score.
    """

    weight: Float[Tensor, "features"]
    factor: Float[Tensor, "features rank"]
    """A square root of the weights' covariance. Empty in files of before there was one: the deviation is then 0."""
    centre: Float[Tensor, "features"]

    @classmethod
    def of(cls, posterior: Posterior) -> "LinearHead":
        values, vectors = np.linalg.eigh(posterior.covariance)
        factor = vectors * np.sqrt(values.clip(0))
        weight, factor = (torch.from_numpy(each).float() for each in (posterior.weight, factor))
        return cls(weight, factor, torch.zeros_like(weight))

    def predict(
        self, features: Float[Tensor, "batch features"]
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
        away = features - self.centre.to(features)
        square = (away @ self.factor.to(features)).square().sum(1)
        return away @ self.weight.to(features), square.clamp_min(1e-12).sqrt()  # the root's gradient at 0 is infinite

    def centred_on(self, features: Float[Tensor, "reference features"]) -> "LinearHead":
        return replace(self, centre=features.double().mean(0).to(self.centre))

    def tensors(self) -> dict[str, Tensor]:
        return {"weight": self.weight, "factor": self.factor, "centre": self.centre}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "LinearHead":
        weight = tensors["weight"]
        factor = tensors.get("factor", torch.zeros(len(weight), 0))
        return cls(weight, factor, tensors.get("centre", torch.zeros_like(weight)))


def fit_linear(
    features: Float[Tensor, "things features"],
    choices: Choices,
    *,
    l2: float,
    weights: Float[np.ndarray, "choices"] | None = None,
) -> LinearHead:
    """The penalised maximum-likelihood head: no seed, no stopping early.

    `l2` is the penalty per squared weight, in the scale of `ChoiceModel`; the zero-shot score is all but free of it.
    """
    model = ChoiceModel(features.numpy(), choices)
    counted = np.ones(len(choices)) if weights is None else np.asarray(weights, dtype=float)
    fits = model.fit(np.array([l2]), counted[:, None], tolerance=1e-3)
    return LinearHead.of(model.posterior(l2, counted, fits))
