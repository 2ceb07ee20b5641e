"""Pictures as a vision model wants them, computed on tensors, so that gradients pass to every pixel."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the pictures that OpenAI's CLIP was trained on; most models since subtract and divide by the same."""


def prepare(
    images: UInt8[Tensor, "batch 3 h w"] | Float[Tensor, "batch 3 h w"], preprocessing: Mapping[str, Any]
) -> Float[Tensor, "batch 3 s t"]:
    """What open_clip's own transform does to a PIL image, for uint8 or for floats in [0, 1].

    `preprocessing` has open_clip's names: size, interpolation, mean, std, and resize_mode, which is shortest (crop the
    middle), longest (pad with fill_color) or squash.
    """
    x = resized(images, preprocessing)
    mean, std = (torch.tensor(preprocessing[key], device=x.device).reshape(3, 1, 1) for key in ("mean", "std"))
    return (x - mean) / std


def resized(
    images: UInt8[Tensor, "batch 3 h w"] | Float[Tensor, "batch 3 h w"], preprocessing: Mapping[str, Any]
) -> Float[Tensor, "batch 3 s t"]:
    """In [0, 1] at the size that the model sees, before it is normalised. What has that size stays as it is."""
    x = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    height, width = _pair(preprocessing["size"])
    mode = preprocessing["interpolation"]
    if preprocessing["resize_mode"] == "squash":
        return _resize(x, height, width, mode)
    if preprocessing["resize_mode"] == "longest":
        scale = min(height / x.shape[2], width / x.shape[3])
        x = _resize(x, round(x.shape[2] * scale), round(x.shape[3] * scale), mode)
        return _centre_pad(x, height, width, preprocessing["fill_color"] / 255)
    scale = max(height / x.shape[2], width / x.shape[3])
    x = _resize(x, max(height, int(x.shape[2] * scale)), max(width, int(x.shape[3] * scale)), mode)
    top, left = round((x.shape[2] - height) / 2), round((x.shape[3] - width) / 2)
    return x[:, :, top : top + height, left : left + width]


def clip_preprocessing(size: int) -> dict[str, Any]:
    """Of CLIP and of those that took it over: the middle square, bicubic."""
    return {"size": size, "interpolation": "bicubic", "resize_mode": "shortest", "mean": CLIP_MEAN, "std": CLIP_STD}


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _resize(x: Tensor, height: int, width: int, mode: str) -> Tensor:
    if x.shape[2:] == (height, width):
        return x
    return functional.interpolate(x, (height, width), mode=mode, antialias=True).clamp(0, 1)


def _centre_pad(x: Tensor, height: int, width: int, fill: float) -> Tensor:
    top, left = (height - x.shape[2]) // 2, (width - x.shape[3]) // 2
    return functional.pad(x, (left, width - x.shape[3] - left, top, height - x.shape[2] - top), value=fill)
