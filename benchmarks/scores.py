"""Scores of pictures without a reward model or the RL engine: the environments of other trainers import them, too."""

from collections.abc import Sequence

import torch

from data.world.verifier import judge


def brightness(images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
    """A reward that costs nothing beside drawing."""
    return images.float().mean(dim=(1, 2, 3)) / 255


def correctness(images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
    """The verifier's score; 0 of a prompt that is not in its language."""
    pictures = images.permute(0, 2, 3, 1).numpy()
    verdicts = [judge(picture, text) for picture, text in zip(pictures, prompts, strict=True)]
    return torch.tensor([verdict.score if verdict is not None else 0.0 for verdict in verdicts])
