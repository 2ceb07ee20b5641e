"""Stable Diffusion 3 and 3.5: flow matching, up to three text encoders, a transformer."""

from typing import Any

from diffusers import StableDiffusion3Pipeline
from diffusers.models.attention import JointTransformerBlock
from torch import Tensor

from rl.families.family import Family
from rl.flow import Flow


class StableDiffusion3(Family):
    """Conditions: the tokens' embeddings and the pooled embedding."""

    pipeline_class = StableDiffusion3Pipeline
    denoiser_name = "transformer"
    repeated_blocks = (JointTransformerBlock,)

    def _process(self, scheduler_config: Any) -> Flow:
        return Flow(scheduler_config)

    def _embed(self, prompt: str) -> tuple[Tensor, ...]:
        tokens, _, pooled, _ = self._pipeline.encode_prompt(
            prompt, prompt, prompt, device=self.device, do_classifier_free_guidance=False
        )
        return tokens, pooled

    def _embed_nothing(self) -> tuple[Tensor, ...]:
        return self._embed("")

    def _denoise(self, x_t: Tensor, timesteps: Tensor, conditions: tuple[Tensor, ...]) -> Tensor:
        tokens, pooled = conditions
        return self._denoiser(
            hidden_states=x_t, timestep=timesteps, encoder_hidden_states=tokens, pooled_projections=pooled
        ).sample
