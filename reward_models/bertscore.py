"""BERTScore (arXiv:1904.09675): how much of one text is said in another, by the features of their words.

Written here because it is a dozen lines: the packages that have it are unkept or bring a framework for metrics, and
their scores depend on the padding of the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

from hitl.core.errors import ConfigError
from reward_models.prompts import PromptLengths, count_cut
from reward_models.weights import from_pretrained


def recall(
    candidate: Float[Tensor, "tokens width"],
    reference: Float[Tensor, "others width"],
    counted: Bool[Tensor, "others"],
) -> Float[Tensor, ""]:
    """R_BERT, the first formula of section 3: the mean over the reference's counted tokens of their best cosine.

    Features are of unit length. A token may be matched to any of the candidate's, its beginning and end included, as in
    the authors' package.
    """
    best = (reference @ candidate.T).amax(dim=1)
    return best[counted].mean() if counted.any() else best.new_zeros(())


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoder:
    """Features of a text's tokens, from one layer of a transformer."""

    model: Any
    tokenizer: Any
    layer: int
    lengths: PromptLengths = field(default_factory=PromptLengths)

    @classmethod
    def load(cls, name: str, *, layer: int, device: str | torch.device) -> "TextEncoder":
        """Of a folder or a hub id.

        Raises:
            ConfigError: it has fewer layers.
            ModelLoadError: it is not here and cannot be fetched.
        """
        model = from_pretrained(AutoModel.from_pretrained, name, dtype=torch.float32)
        if not 0 <= layer <= model.config.num_hidden_layers:
            raise ConfigError(
                f"layer is {layer}, but {name} has {model.config.num_hidden_layers}.",
                hint="Take the layer that BERTScore's authors chose for the model, or the last but one.",
            )
        return cls(
            model=model.to(device).eval().requires_grad_(False),
            tokenizer=from_pretrained(AutoTokenizer.from_pretrained, name),
            layer=layer,
        )

    @property
    def _limit(self) -> int:
        """Tokens of a text that are read; those of RoBERTa have two places more, which are not for tokens."""
        return min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings, 512)

    @torch.no_grad()
    def features(self, text: str) -> tuple[Float[Tensor, "tokens width"], Bool[Tensor, "tokens"]]:
        """Unit-norm features of a text's tokens, and which of them are words of it: not its beginning or end."""
        tokens = self.tokenizer(
            text, truncation=True, max_length=self._limit, return_tensors="pt", return_special_tokens_mask=True
        ).to(self.model.device)
        is_word = tokens.pop("special_tokens_mask")[0] == 0
        states = self.model(**tokens, output_hidden_states=True).hidden_states[self.layer][0]
        return functional.normalize(states.float(), dim=-1), is_word

    def recalls(self, candidates: Sequence[str], references: Sequence[str]) -> Float[Tensor, "texts"]:
        """How much of each reference its candidate says; one text at a time, so that none is padded."""
        self.lengths.watch(count_cut(self.tokenizer, references, self._limit), len(references), self._limit)
        found = []
        for candidate, reference in zip(candidates, references, strict=True):
            features, is_word = self.features(reference)
            found.append(recall(self.features(candidate)[0], features, is_word))
        return torch.stack(found).cpu()
