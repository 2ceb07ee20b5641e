"""The value function of DPOK (arXiv:2305.16381, section 4.3): the advantage to be expected from (x_t, text, step)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


class ValueNetwork(nn.Module):
    """A small network on the latent, the mean text embedding and the step's index.

    Deviations: under an algorithm with a group baseline it predicts the normalised advantage, not the score; and the
    authors gate every layer by a step embedding and take CLIP L/14's text feature, where here the step is one more
    input, and the text feature is the mean of the model's own embedding.
    """

    def __init__(self, latent_dims: int, text_width: int, steps: int, width: int = 256) -> None:
        super().__init__()
        self._steps = steps
        self.layers = nn.Sequential(
            nn.Linear(latent_dims + text_width + steps, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 1),
        )

    def forward(
        self, x_t: Float[Tensor, "batch c h w"], text: Float[Tensor, "batch width"], step: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch"]:
        one_hot = F.one_hot(step, self._steps).float()
        return self.layers(torch.cat([x_t.flatten(1), text, one_hot], dim=1)).squeeze(1)
