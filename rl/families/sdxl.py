"""Stable Diffusion XL: two text encoders, a pooled embedding and the picture's size as conditions of a UNet.

The refiner, a second model for the last steps, is left out: pictures are the base model's.
"""

from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from rl.ddim import Ddim
from rl.families.family import Family


class StableDiffusionXL(Family):
    """Conditions: the tokens' embeddings, the pooled embedding, and the time ids (original size, crop, target size)."""

    pipeline_class = StableDiffusionXLPipeline
    denoiser_name = "unet"

    def __init__(self, pipeline: Any, device: torch.device) -> None:
        super().__init__(pipeline, device)
        if self.dtype == torch.float16 and pipeline.vae.config.force_upcast:
            pipeline.vae.to(torch.float32)  # its activations overflow in float16

    def _process(self, scheduler_config: Any) -> Ddim:
        return Ddim(scheduler_config)

    def _embed(self, prompt: str) -> tuple[Tensor, ...]:
        tokens, _, pooled, _ = self._pipeline.encode_prompt(
            prompt, device=self.device, do_classifier_free_guidance=False
        )
        return tokens, pooled, self._time_ids()

    def _embed_nothing(self) -> tuple[Tensor, ...]:
        # By way of the negative prompt, which is zeros in the models that were trained so.
        _, tokens, _, pooled = self._pipeline.encode_prompt("", device=self.device, do_classifier_free_guidance=True)
        return tokens, pooled, self._time_ids()

    def _time_ids(self) -> Tensor:
        side = self.latent_shape[1] * self._pipeline.vae_scale_factor
        return torch.tensor([[side, side, 0, 0, side, side]], dtype=self.dtype, device=self.device)

    def _denoise(self, x_t: Tensor, timesteps: Tensor, conditions: tuple[Tensor, ...]) -> Tensor:
        tokens, pooled, time_ids = conditions
        added = {"text_embeds": pooled, "time_ids": time_ids}
        return self._denoiser(x_t, timesteps, tokens, added_cond_kwargs=added).sample
