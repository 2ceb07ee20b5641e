"""What a reward gave, checked: one finite number for each image."""

import torch
from jaxtyping import Float
from torch import Tensor

from hitl.core.errors import TrainingError


def checked_scores(scores: Tensor, prompts: list[str]) -> Float[Tensor, "images"]:
    """One finite score for each image, as floats: whole numbers must not cut advantages down to whole numbers.

    Raises:
        TrainingError: the reward gave something else.
    """
    if scores.shape != (len(prompts),):
        raise TrainingError(
            f"The reward gave scores of shape {tuple(scores.shape)} for {len(prompts)} images.",
            hint=f"A reward returns one number for each image: shape ({len(prompts)},).",
        )
    bad = (~torch.isfinite(scores)).nonzero().flatten().tolist()
    if bad:
        raise TrainingError(
            f"The reward gave {len(bad)} of {len(prompts)} images a score that is not finite, first image "
            f"{bad[0] + 1}, of {prompts[bad[0]]!r}: {scores[bad[0]].item()}.",
            hint="Fit the reward model again.",
        )
    return scores.float()
