"""From scores to advantages: how much better an image is than what its prompt usually gets."""

import torch
from jaxtyping import Float
from torch import Tensor


def group_advantages(scores: Float[Tensor, "groups members"], *, clip: float = 5.0) -> Float[Tensor, "groups members"]:
    """Scores minus their group's mean, over one scale for the whole batch. A group that agrees with itself gets 0.

    The mean is per prompt, as in DDPO (arXiv:2305.13301, appendix A); the scale is not: dividing by a group's own
    standard deviation would blow up the noise of groups whose members are all alike. Leaving a member out of its own
    baseline would multiply all by members / (members - 1), which the scale divides out again.
    """
    centred = scores - scores.mean(dim=1, keepdim=True)
    scale = centred.square().mean().sqrt()
    if scale < 1e-6:
        return torch.zeros_like(scores)
    return (centred / scale).clamp(-clip, clip)
