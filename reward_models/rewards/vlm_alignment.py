"""A vision-language model describes the picture; the score is how much of the prompt the description says."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from hitl.core.errors import ConfigError
from reward_models.bertscore import TextEncoder
from reward_models.needs import HubModel, Need
from reward_models.vision_language import VisionLanguage

_MODEL, _ENCODER = "llava-hf/llava-1.5-7b-hf", "microsoft/deberta-xlarge-mnli"
_QUESTION = "Answer concisely: what is going on in this image?"
_REFERENCE = "The image contains {prompt}"
"""Both as DDPO's authors asked and compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VlmAlignment:
    """BERTScore's recall of the prompt in the description: the third task of DDPO (arXiv:2305.13301, section 5.2)."""

    needs: ClassVar[tuple[Need, ...]] = (
        HubModel(_MODEL),
        HubModel(_MODEL, "processor"),
        HubModel(_ENCODER),
        HubModel(_ENCODER, "tokenizer"),
    )

    describer: VisionLanguage
    encoder: TextEncoder
    question: str
    reference: str
    max_tokens: int

    @classmethod
    def load(
        cls,
        *,
        model: str = _MODEL,
        encoder: str = _ENCODER,
        layer: int = 40,
        question: str = _QUESTION,
        reference: str = _REFERENCE,
        template: str = "",
        max_tokens: int = 64,
        dtype: str = "float32",
        device: str | torch.device = "cpu",
        chunk: int = 8,
    ) -> "VlmAlignment":
        """An image-text-to-text model and a text encoder of transformers, each a folder or a hub id.

        `layer` of the encoder is the one whose features are compared; 40 suits the default alone, 17 roberta-large.

        Raises:
            ConfigError: a setting cannot be used.
            ModelLoadError: a model is not here and cannot be fetched.
        """
        if "{prompt}" not in reference:
            raise ConfigError(f"The reference {reference!r} has no {{prompt}}.", hint=f"Use {_REFERENCE!r}.")
        describer = VisionLanguage.load(model, dtype=dtype, template=template, device=device, chunk=chunk)
        return cls(
            describer=describer,
            encoder=TextEncoder.load(encoder, layer=layer, device=device),
            question=question,
            reference=reference,
            max_tokens=max_tokens,
        )

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "batch 3 h w"], prompts: Sequence[str]) -> Float[Tensor, "batch"]:
        said = self.describer.answers(images, [self.question] * len(prompts), max_tokens=self.max_tokens)
        return self.encoder.recalls(said, [self.reference.replace("{prompt}", prompt) for prompt in prompts])
