"""PickScore: CLIP ViT-H/14 fine-tuned on half a million choices between two pictures, Pick-a-Pic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from reward_models.needs import HubModel, Need
from reward_models.pixels import clip_preprocessing, prepare
from reward_models.prompts import PromptLengths, count_cut, require_one_each
from reward_models.weights import from_pretrained

_MODEL, _PROCESSOR = "yuvalkirstain/PickScore_v1", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


@dataclass(frozen=True, slots=True, kw_only=True)
class PickScore:
    """exp(logit scale) times the cosine of image and prompt (arXiv:2305.01569): about 20, give or take 2."""

    needs: ClassVar[tuple[Need, ...]] = (
        HubModel(_MODEL),
        HubModel(_PROCESSOR, "processor"),
        HubModel(_PROCESSOR, "tokenizer"),
    )

    model: Any  # a transformers CLIPModel
    tokenizer: Any
    preprocessing: Mapping[str, Any]
    chunk: int
    lengths: PromptLengths = field(default_factory=PromptLengths)

    @classmethod
    def load(
        cls,
        *,
        model: str = _MODEL,
        processor: str = _PROCESSOR,
        device: str | torch.device = "cpu",
        chunk: int = 32,
    ) -> "PickScore":
        """A CLIP of transformers and its processor, each a folder or a hub id.

        Raises:
            ModelLoadError: they are not here and cannot be fetched.
        """
        stated = from_pretrained(AutoImageProcessor.from_pretrained, processor, needs_weights=False)
        clip = from_pretrained(CLIPModel.from_pretrained, model, dtype=torch.float32)
        preprocessing = clip_preprocessing(clip.config.vision_config.image_size)
        return cls(
            model=clip.to(device).eval().requires_grad_(False),
            tokenizer=from_pretrained(AutoTokenizer.from_pretrained, processor, needs_weights=False),
            preprocessing=preprocessing | {"mean": tuple(stated.image_mean), "std": tuple(stated.image_std)},
            chunk=chunk,
        )

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "batch 3 h w"], prompts: Sequence[str]) -> Float[Tensor, "batch"]:
        return self._score(images, prompts).cpu()

    def differentiable(self, images: Float[Tensor, "batch 3 h w"], prompts: Sequence[str]) -> Float[Tensor, "batch"]:
        """The same scores for float images in [0, 1], with a gradient to every pixel."""
        return self._score(images, prompts)

    def _score(self, images: Tensor, prompts: Sequence[str]) -> Float[Tensor, "batch"]:
        require_one_each(images, prompts)
        parts = []
        for start in range(0, len(prompts), self.chunk):
            rows = slice(start, start + self.chunk)
            pixels = prepare(images[rows].to(self.model.device), self.preprocessing)
            found = self.model(pixel_values=pixels, **self._tokens(prompts[rows]))
            parts.append((found.image_embeds * found.text_embeds).sum(dim=1))
        return self.model.logit_scale.exp() * torch.cat(parts)

    def _tokens(self, prompts: Sequence[str]) -> Any:
        limit = self.model.config.text_config.max_position_embeddings
        self.lengths.watch(count_cut(self.tokenizer, prompts, limit), len(prompts), limit)
        tokens = self.tokenizer(list(prompts), padding=True, truncation=True, max_length=limit, return_tensors="pt")
        return {name: tokens[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
