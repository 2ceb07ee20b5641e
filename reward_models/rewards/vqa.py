"""A vision-language model is asked whether the picture shows the prompt; the score is its probability of yes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from hitl.core.errors import ConfigError, ModelLoadError
from reward_models.needs import HubModel, Need
from reward_models.vision_language import VisionLanguage

_MODEL = "llava-hf/llava-1.5-7b-hf"
_QUESTION = 'Does this image show "{prompt}"? Answer yes or no.'


@dataclass(frozen=True, slots=True, kw_only=True)
class Vqa:
    """P(yes) / (P(yes) + P(no)) of the answer's first token.

    VQAScore (arXiv:2404.01291) is P(yes) alone, which also falls where a model would rather begin with another word.
    """

    needs: ClassVar[tuple[Need, ...]] = (HubModel(_MODEL), HubModel(_MODEL, "processor"))

    asked: VisionLanguage
    question: str
    yes: tuple[int, ...]
    no: tuple[int, ...]
    """Tokens that are the whole word, with a capital or not, after a space or not."""

    @classmethod
    def load(
        cls,
        *,
        model: str = _MODEL,
        question: str = _QUESTION,
        template: str = "",
        dtype: str = "float32",
        device: str | torch.device = "cpu",
        chunk: int = 8,
    ) -> "Vqa":
        """An image-text-to-text model of transformers, a folder or a hub id.

        Raises:
            ConfigError: a setting cannot be used.
            ModelLoadError: it is not here and cannot be fetched, or has no token for yes or no.
        """
        if "{prompt}" not in question:
            raise ConfigError(f"The question {question!r} has no {{prompt}}.", hint=f"Use {_QUESTION!r}.")
        asked = VisionLanguage.load(model, dtype=dtype, template=template, device=device, chunk=chunk)
        yes, no = (_tokens(asked.processor.tokenizer, word) for word in ("yes", "no"))
        if not yes or not no:
            raise ModelLoadError(
                f"{model} has no single token for yes or none for no.", hint="Ask another model, such as " + _MODEL
            )
        return cls(asked=asked, question=question, yes=yes, no=no)

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "batch 3 h w"], prompts: Sequence[str]) -> Float[Tensor, "batch"]:
        logits = self.asked.first_logits(images, [self.question.replace("{prompt}", prompt) for prompt in prompts])
        yes, no = (logits[:, list(tokens)].logsumexp(dim=1) for tokens in (self.yes, self.no))
        return torch.sigmoid(yes - no)


def _tokens(tokenizer: Any, word: str) -> tuple[int, ...]:
    spellings = (word, word.capitalize(), f" {word}", f" {word.capitalize()}")
    found = [tokenizer.encode(spelling, add_special_tokens=False) for spelling in spellings]
    return tuple(sorted({ids[0] for ids in found if len(ids) == 1 and ids[0] != tokenizer.unk_token_id}))
