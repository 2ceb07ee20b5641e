"""Stable Diffusion 1.x and 2.x: one text encoder, a UNet that predicts the noise or the velocity."""

from typing import Any

from diffusers import StableDiffusionPipeline
from torch import Tensor

from rl.ddim import Ddim
from rl.families.family import Family


class StableDiffusion15(Family):
    """Conditions: the tokens' embeddings."""

    pipeline_class = StableDiffusionPipeline
    denoiser_name = "unet"
    left_out = ("safety_checker", "feature_extractor")

    def _process(self, scheduler_config: Any) -> Ddim:
        return Ddim(scheduler_config)

    def _embed(self, prompt: str) -> tuple[Tensor, ...]:
        tokens, _ = self._pipeline.encode_prompt(prompt, self.device, 1, False)
        return (tokens,)

    def _embed_nothing(self) -> tuple[Tensor, ...]:
        return self._embed("")

    def _denoise(self, x_t: Tensor, timesteps: Tensor, conditions: tuple[Tensor, ...]) -> Tensor:
        return self._denoiser(x_t, timesteps, conditions[0]).sample
