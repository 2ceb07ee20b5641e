"""What code from outside gave as scores, checked: one finite number for each image."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hitl.core.errors import RewardError


def checked_scores(values: Any, count: int, source: str) -> Float[Tensor, "batch"]:
    """The values as float32 on the CPU.

    Raises:
        RewardError: they are not `count` finite numbers.
    """
    wanted = f"It must give one number for each image: {count} here."
    try:
        scores = torch.as_tensor(values).detach().to("cpu", torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise RewardError(f"{source} gave something else than numbers: {error}.", hint=wanted) from error
    if scores.shape != (count,):
        raise RewardError(f"{source} gave scores of shape {tuple(scores.shape)} for {count} images.", hint=wanted)
    bad = (~torch.isfinite(scores)).nonzero().flatten().tolist()
    if bad:
        raise RewardError(
            f"{source} gave {len(bad)} of {count} images a score that is not finite, first image {bad[0] + 1}: "
            f"{scores[bad[0]].item()}.",
            hint="Score what cannot be judged with the lowest number of your scale, not with NaN or infinity.",
        )
    return scores
