"""The prompts that come with images: one to each, and a warning when a text model cannot read them to their end."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hitl.core.errors import ConfigError

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class PromptLengths:
    """Of one reward."""

    is_told: bool = False

    def watch(self, cut: int, total: int, limit: int) -> None:
        """Warn the first time that prompts are cut."""
        if cut and not self.is_told:
            self.is_told = True
            logger.warning(
                "%d of %d prompts are longer than the %d tokens that the reward reads; it does not see their ends.",
                cut,
                total,
                limit,
            )


def count_cut(tokenizer: Any, texts: Sequence[str], limit: int) -> int:
    """How many texts a tokenizer of transformers makes more than `limit` tokens of."""
    tokens = tokenizer(list(texts), truncation=True, max_length=limit + 1)["input_ids"]
    return sum(len(ids) > limit for ids in tokens)


def require_one_each(images: Tensor, prompts: Sequence[str]) -> None:
    """Raise a ConfigError for more images than prompts, or fewer."""
    if len(images) != len(prompts):
        raise ConfigError(
            f"{len(images)} images came with {len(prompts)} prompts.", hint="Pass one prompt for each image."
        )
