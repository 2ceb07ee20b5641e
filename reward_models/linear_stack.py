"""Linear layers one after the other: the heads of LAION's aesthetic predictor and of ImageReward.

Both were trained with their rectifiers commented out, so in use, without dropout, they are one linear map.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from hitl.core.errors import ModelLoadError


@dataclass(frozen=True, slots=True)
class LinearStack:
    layers: tuple[tuple[Tensor, Tensor], ...]
    """Weight and bias of each."""

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], *, width: int, device: str | torch.device) -> "LinearStack":
        """Of `layers.0.weight`, `layers.0.bias`, `layers.2.weight`, ... in the order of their numbers, or of a single
        `weight` and `bias`. `width` is that of the features they read.

        Raises:
            ModelLoadError: the layers do not lead from `width` numbers to one.
        """
        numbers = sorted({int(found[1]) for name in tensors if (found := re.fullmatch(r"layers\.(\d+)\.weight", name))})
        prefixes = [f"layers.{number}." for number in numbers] or [""]
        try:
            pairs = [(tensors[f"{prefix}weight"].float(), tensors[f"{prefix}bias"].float()) for prefix in prefixes]
        except KeyError as error:
            raise ModelLoadError(
                f"The head has no tensor {error}; it has {', '.join(sorted(tensors)[:6])}.",
                hint="Name the file of a head such as sac+logos+ava1-l14-linearMSE.pth or sa_0_4_vit_l_14_linear.pth.",
            ) from error
        sizes = [width, *(len(bias) for _, bias in pairs)]
        if sizes[-1] != 1 or [weight.shape[1] for weight, _ in pairs] != sizes[:-1]:
            raise ModelLoadError(
                f"The head reads {pairs[0][0].shape[1]} features and gives {sizes[-1]} numbers; there are {width} "
                "features, and it must give 1.",
                hint="Take the head and the model that it was trained on together.",
            )
        return cls(tuple((weight.to(device), bias.to(device)) for weight, bias in pairs))

    def __call__(self, features: Float[Tensor, "batch width"]) -> Float[Tensor, "batch"]:
        for weight, bias in self.layers:
            features = functional.linear(features, weight, bias)
        return features[:, 0]
