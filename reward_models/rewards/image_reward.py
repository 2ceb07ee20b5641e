"""ImageReward: BLIP fine-tuned on 137,000 comparisons of generated pictures by trained raters."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from transformers import AutoTokenizer, BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from hitl.core.errors import ModelLoadError
from reward_models.linear_stack import LinearStack
from reward_models.needs import HubFile, HubModel, Need
from reward_models.pixels import clip_preprocessing, prepare
from reward_models.prompts import PromptLengths, count_cut, require_one_each
from reward_models.weights import find_file, from_pretrained, read_tensors

_REPO, _FILE, _TOKENIZER = "THUDM/ImageReward", "ImageReward.pt", "google-bert/bert-base-uncased"
_MAX_TOKENS = 35
_MEAN, _STD = 0.16717362830052426, 1.0333394966054072
"""Of the head's output on the authors' validation pictures; a score is that many standard deviations above the mean."""
_HEAD_WIDTH = 64
"""Of one attention head, in every size of BLIP and BERT: a checkpoint does not tell how many heads it has."""

_VISION_NAMES = {
    r"cls_token": "embeddings.class_embedding",
    r"pos_embed": "embeddings.position_embedding",
    r"patch_embed\.proj\.": "embeddings.patch_embedding.",
    r"norm\.": "post_layernorm.",
    r"blocks\.(\d+)\.norm(\d)\.": r"encoder.layers.\1.layer_norm\2.",
    r"blocks\.(\d+)\.attn\.qkv\.": r"encoder.layers.\1.self_attn.qkv.",
    r"blocks\.(\d+)\.attn\.proj\.": r"encoder.layers.\1.self_attn.projection.",
    r"blocks\.(\d+)\.mlp\.": r"encoder.layers.\1.mlp.",
}
"""How a tensor of the picture's tower is called by its authors (timm's names), and by transformers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageReward:
    """A linear head on the first token of a text encoder that looks at the picture (arXiv:2304.05977).

    Comparable within a prompt only, say its authors.
    """

    needs: ClassVar[tuple[Need, ...]] = (HubFile(_REPO, _FILE), HubModel(_TOKENIZER, "tokenizer"))

    vision: Any  # a transformers BlipVisionModel
    text: Any  # a transformers BlipTextModel
    head: LinearStack
    tokenizer: Any
    chunk: int
    lengths: PromptLengths = field(default_factory=PromptLengths)

    @classmethod
    def load(
        cls,
        *,
        weights: str | Path = _REPO,
        tokenizer: str = _TOKENIZER,
        device: str | torch.device = "cpu",
        chunk: int = 32,
    ) -> "ImageReward":
        """The authors' checkpoint (a file, or a folder or hub id that has ImageReward.pt) and BERT's tokenizer.

        Raises:
            ModelLoadError: files are missing, damaged, or the checkpoint is of another layout.
        """
        path = find_file(weights, _FILE)
        tensors = read_tensors(path)
        try:
            vision, text = (
                _vision(_below("blip.visual_encoder.", tensors)),
                _text(_below("blip.text_encoder.", tensors)),
            )
        except (KeyError, RuntimeError) as error:
            raise ModelLoadError(
                f"{path} is not laid out as ImageReward's checkpoint: {error}",
                hint=f"Take {_FILE} of {_REPO}, as its authors published it.",
            ) from error
        width = text.config.hidden_size
        return cls(
            vision=vision.to(device).eval().requires_grad_(False),
            text=text.to(device).eval().requires_grad_(False),
            head=LinearStack.from_tensors(_below("mlp.", tensors), width=width, device=device),
            tokenizer=from_pretrained(AutoTokenizer.from_pretrained, tokenizer, needs_weights=False),
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
        device, preprocessing = self.vision.device, clip_preprocessing(self.vision.config.image_size)
        parts = []
        for start in range(0, len(prompts), self.chunk):
            rows = slice(start, start + self.chunk)
            patches = self.vision(prepare(images[rows].to(device), preprocessing)).last_hidden_state
            joint = self.text(**self._tokens(prompts[rows]), encoder_hidden_states=patches).last_hidden_state
            parts.append(self.head(joint[:, 0]))
        return (torch.cat(parts) - _MEAN) / _STD

    def _tokens(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        self.lengths.watch(count_cut(self.tokenizer, prompts, _MAX_TOKENS), len(prompts), _MAX_TOKENS)
        tokens = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=_MAX_TOKENS, return_tensors="pt"
        )
        return {name: tokens[name].to(self.text.device) for name in ("input_ids", "attention_mask")}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value.float() for name, value in tensors.items() if name.startswith(prefix)}


def _vision(tensors: Mapping[str, Tensor]) -> BlipVisionModel:
    """The picture's tower; its size is in the shapes."""
    width, _, patch, _ = tensors["patch_embed.proj.weight"].shape
    grid = int((tensors["pos_embed"].shape[1] - 1) ** 0.5)
    config = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=tensors["blocks.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=_count(r"blocks\.(\d+)\.", tensors),
        num_attention_heads=width // _HEAD_WIDTH,
        image_size=grid * patch,
        patch_size=patch,
        layer_norm_eps=1e-6,  # timm's; transformers' default for BLIP is 1e-5
        hidden_act="gelu",
    )
    return _filled(BlipVisionModel(config), {_renamed(name): value for name, value in tensors.items()})


def _text(tensors: Mapping[str, Tensor]) -> BlipTextModel:
    """BERT with a look at the picture in every layer. It reads both ways: `is_decoder` makes those looks, no more."""
    words, width = tensors["embeddings.word_embeddings.weight"].shape
    config = BlipTextConfig(
        vocab_size=words,
        hidden_size=width,
        encoder_hidden_size=tensors["encoder.layer.0.crossattention.self.key.weight"].shape[1],
        intermediate_size=tensors["encoder.layer.0.intermediate.dense.weight"].shape[0],
        num_hidden_layers=_count(r"encoder\.layer\.(\d+)\.", tensors),
        num_attention_heads=width // _HEAD_WIDTH,
        max_position_embeddings=tensors["embeddings.position_embeddings.weight"].shape[0],
        layer_norm_eps=1e-12,
        hidden_act="gelu",
        is_decoder=True,
    )
    return _filled(BlipTextModel(config, add_pooling_layer=False), tensors)


def _filled(model: Any, tensors: Mapping[str, Tensor]) -> Any:
    """With every one of its tensors from the checkpoint, which may have more: its authors leave some behind as well."""
    missing = model.load_state_dict(tensors, strict=False).missing_keys
    if missing:
        raise KeyError(f"{len(missing)} tensors are missing, first {missing[0]}")
    return model


def _count(pattern: str, tensors: Mapping[str, Tensor]) -> int:
    return 1 + max((int(found[1]) for name in tensors if (found := re.match(pattern, name))), default=-1)


def _renamed(name: str) -> str:
    for theirs, ours in _VISION_NAMES.items():
        if re.match(theirs, name):
            return re.sub(f"^{theirs}", ours, name)
    return name
