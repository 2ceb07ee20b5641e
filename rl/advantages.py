"""From scores to advantages: how much better an image is than what its prompt usually gets."""

from collections.abc import Sequence

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


def remembered_advantages(
    scores: Float[Tensor, "groups members"],
    prompts: Sequence[str],
    memory: dict[str, list[float]],
    *,
    size: int,
    least: int,
    clip: float = 5.0,
) -> Float[Tensor, "groups members"]:
    """Scores by the mean and deviation of their prompt's last `size` scores: DDPO's per-prompt statistics
    (arXiv:2305.13301, appendix A). A prompt with fewer than `least` of them so far takes those of this epoch's scores.

    `memory` is added to first, as in the authors' code. One prompt for each group; several may be the same.
    """
    for prompt, found in zip(prompts, scores.tolist(), strict=True):
        memory[prompt] = [*memory.get(prompt, []), *found][-size:]
    rows = []
    for prompt, found in zip(prompts, scores.double(), strict=True):
        known = torch.tensor(memory[prompt], dtype=torch.float64) if len(memory[prompt]) >= least else scores.double()
        rows.append((found - known.mean()) / (known.std(correction=0) + 1e-6))
    return torch.stack(rows).to(scores.dtype).clamp(-clip, clip)
