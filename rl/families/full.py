"""A policy as a second denoiser, all of whose weights are trained; the first stays as it was, and is the reference."""

import contextlib
import copy
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE


class FullWeights:
    """A float32 copy of a pipeline's denoiser.

    Beside a reference in half precision the policy predicts by a copy rounded as the reference is: the two start out
    equal. The float32 weights take its gradients, and give it their values after every step, so that changes too small
    for half precision add up.
    """

    def __init__(self, pipeline: Any, denoiser_name: str, trained: Any = None) -> None:
        """With the weights of `trained`, or of the pipeline's denoiser."""
        self._name = denoiser_name
        self._reference = getattr(pipeline, denoiser_name)
        self._trained = copy.deepcopy(self._reference) if trained is None else trained.to(self._reference.device)
        self._trained.float().requires_grad_(True)
        self.parameters: list[torch.nn.Parameter] = [*self._trained.parameters()]
        self.denoiser = self._trained
        if self._reference.dtype != torch.float32:
            self.denoiser = copy.deepcopy(self._reference).requires_grad_(True)
            for rounded, parameter in zip(self.denoiser.parameters(), self.parameters, strict=True):
                rounded.register_post_accumulate_grad_hook(partial(_hand_over, parameter))
            self.parameters_changed()

    @classmethod
    def load(cls, pipeline: Any, denoiser_name: str, folder: Path) -> "FullWeights":
        """As `save` wrote it."""
        kind = type(getattr(pipeline, denoiser_name))
        return cls(pipeline, denoiser_name, kind.from_pretrained(folder / denoiser_name, dtype=torch.float32))

    def save(self, folder: Path) -> None:
        """Write it as the denoiser's class loads it: `UNet2DConditionModel.from_pretrained(folder / "unet")`."""
        (folder / LORA_WEIGHT_NAME_SAFE).unlink(missing_ok=True)  # of a training that was begun with a LoRA
        self._trained.register_to_config(_name_or_path="")  # the file is shared: it need not tell of somebody's disk
        self._trained.save_pretrained(folder / self._name)

    def drop(self) -> None:
        """Nothing lies on the reference."""

    def parameters_changed(self) -> None:
        """Round them for the denoiser that predicts."""
        if self.denoiser is not self._trained:
            for rounded, parameter in zip(self.denoiser.parameters(), self.parameters, strict=True):
                rounded.data.copy_(parameter.data)

    @contextlib.contextmanager
    def reference(self) -> Iterator[Any]:
        """The denoiser that predicts as the reference."""
        yield self._reference


def _hand_over(parameter: torch.nn.Parameter, rounded: torch.Tensor) -> None:
    """Sum gradients of many batches in float32: in half precision the later ones would be lost."""
    assert rounded.grad is not None
    parameter.grad = rounded.grad.float() if parameter.grad is None else parameter.grad.add_(rounded.grad)
    rounded.grad = None
