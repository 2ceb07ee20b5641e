"""What every model family offers: a policy and its reference, and what one step needs."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from diffusers import DiffusionPipeline
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import AttnProcessor
from jaxtyping import Float, Int, UInt8
from safetensors import SafetensorError
from torch import Tensor

from hitl.core.errors import ConfigError, ModelLoadError
from rl.families.full import FullWeights
from rl.families.loading import load_pipeline
from rl.families.lora import Lora
from rl.gaussian import Schedule

_DECODE_BATCH, _DECODE_PLACES = 16, 16 * 1024
"""Images that the autoencoder sees at once, and places of their latents: one of XL's at 1024 pixels, four at 512. A
decoder's last layers have 128 channels there: half a gigabyte in float32 for each of an image's activations."""
_PLAIN_ATTENTION = 1024
"""Largest latent, in places, whose attention a CPU computes in half precision without torch's fused kernel: the
gradient of that takes half of an update there. Beyond it the plain one would take too much memory."""


_COMPILED_FORMS = 64
"""At most, of a block: by its width, LoRA on or off, with a gradient or without. Beyond torch's default of 8 it would
run uncompiled."""


@runtime_checkable
class Process(Protocol):
    """How noise goes into latents and comes out of them again."""

    levels: int
    """How many levels of noise the model was trained on."""
    sampler: str
    """What draws with it."""

    @property
    def settings(self) -> dict[str, Any]:
        """What the sampler takes from the model, beside a draw's own steps and noise. JSON values."""
        ...

    def schedule(self, steps: int, *, eta: float, window: int) -> Schedule:
        """The steps that draw an image: the first `window` with noise of level eta, the rest deterministic."""
        ...

    def noised(
        self, x_0: Float[Tensor, "batch c h w"], eps: Float[Tensor, "batch c h w"], levels: Int[Tensor, "batch"]
    ) -> tuple[Float[Tensor, "batch c h w"], Tensor, Float[Tensor, "batch c h w"]]:
        """Latents with noise of those levels, the least being 0; the timesteps that the model takes; and the output
        that it should have."""
        ...

    def clean(
        self, x_t: Float[Tensor, "batch c h w"], output: Float[Tensor, "batch c h w"], timesteps: Tensor
    ) -> Float[Tensor, "batch c h w"]:
        """x_0 as an output says it is."""
        ...


class Family(ABC):
    """A policy and its reference: a LoRA switched on and off, or a second denoiser beside the first.

    Attributes:
        process: how noise goes in and comes out.
        latent_shape: (channels, height, width) of one latent.
    """

    pipeline_class: ClassVar[type[DiffusionPipeline]]
    denoiser_name: ClassVar[str]
    """Of the network that is trained, in the pipeline: `unet` or `transformer`."""
    left_out: ClassVar[tuple[str, ...]] = ()
    """Components of the pipeline that are not loaded."""
    repeated_blocks: ClassVar[tuple[type[torch.nn.Module], ...]] = (BasicTransformerBlock,)
    """Of the denoiser, what torch.compile is to see one by one."""

    def __init__(self, pipeline: Any, device: torch.device) -> None:
        self.process = self._process(pipeline.scheduler.config)
        self._pipeline = pipeline
        self._reference = self._denoiser = getattr(pipeline, self.denoiser_name)
        self._policy: Lora | FullWeights | None = None
        self._text_encoders: list[torch.nn.Module] = []
        for name, part in pipeline.components.items():
            if isinstance(part, torch.nn.Module):
                part.eval().requires_grad_(False)
                if name.startswith("text_encoder"):
                    self._text_encoders.append(part)  # not yet to the device: see `_encode`
                else:
                    part.to(device)
        self._embeddings: dict[str, tuple[Tensor, ...]] = {}
        self._unconditional: tuple[Tensor, ...] | None = None
        self.device = device
        side = self._denoiser.config.sample_size
        self.latent_shape = (self._denoiser.config.in_channels, side, side)
        is_half_on_cpu = device.type == "cpu" and self.dtype != torch.float32
        if is_half_on_cpu and self.denoiser_name == "unet" and side**2 <= _PLAIN_ATTENTION:
            self._denoiser.set_attn_processor(AttnProcessor())

    @classmethod
    def load(cls, name: str, *, config: str = "", device: str = "cpu", dtype: torch.dtype = torch.float32) -> "Family":
        """Load `starter`, a diffusers folder, a hub id, or a single `.safetensors` file.

        Args:
            config: of a single file, the folder or hub id of a model of its kind; else the usual one of the hub.

        Raises:
            ModelLoadError: nothing of that name can be loaded as this family's pipeline.
        """
        return cls(load_pipeline(cls.pipeline_class, name, config, dtype, cls.left_out), torch.device(device))

    # --- what a family decides ---

    @abstractmethod
    def _process(self, scheduler_config: Any) -> Process:
        """How noise goes in and comes out. Raises a ModelLoadError where this family cannot train the model."""

    @abstractmethod
    def _embed(self, prompt: str) -> tuple[Tensor, ...]:
        """What the denoiser is told of a prompt; each (1, ...)."""

    @abstractmethod
    def _embed_nothing(self) -> tuple[Tensor, ...]:
        """What the denoiser is told in the half of the guidance that has no prompt."""

    @abstractmethod
    def _denoise(self, x_t: Tensor, timesteps: Tensor, conditions: tuple[Tensor, ...]) -> Tensor: ...

    # --- the policy's weights ---

    def add_lora(self, *, rank: int, targets: Sequence[str], seed: int) -> list[torch.nn.Parameter]:
        """Put a fresh LoRA on the denoiser; its parameters.

        Raises:
            ConfigError: a target names no module of the denoiser, or modules that cannot carry a LoRA.
        """
        return self._hold(Lora.fresh(self._pipeline, self.denoiser_name, rank=rank, targets=targets, seed=seed))

    def add_full(self) -> list[torch.nn.Parameter]:
        """Put a copy of the denoiser in its place, to train all weights of; its parameters."""
        return self._hold(FullWeights(self._pipeline, self.denoiser_name))

    def load_policy(self, folder: Path) -> list[torch.nn.Parameter]:
        """What `save_policy` wrote, a LoRA or all weights; its parameters.

        Raises:
            ModelLoadError: it is missing or damaged, or of another model.
        """
        kind = FullWeights if (folder / self.denoiser_name).is_dir() else Lora
        try:
            return self._hold(kind.load(self._pipeline, self.denoiser_name, folder))
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise ModelLoadError(
                f"The policy in {folder} cannot be loaded: {str(error).splitlines()[0]}",
                hint="Name the folder of a checkpoint of this model, such as rounds/0001/train/policy.",
            ) from error

    def _hold(self, policy: Lora | FullWeights) -> list[torch.nn.Parameter]:
        self._policy, self._denoiser = policy, policy.denoiser
        return policy.parameters

    def require_policy(self, weights: str, *, rank: int, targets: Sequence[str]) -> None:
        """Check that the loaded policy is of the kind that these settings ask for.

        Raises:
            ConfigError: it is of the other kind, or a LoRA of another rank or on other modules.
        """
        found = "full" if isinstance(self._policy, FullWeights) else "lora"
        if found != weights:
            raise ConfigError(
                f"train.weights is {weights!r}, but the policy of the last round was trained with {found!r}.",
                hint="It is fixed by the first round: set it back, or start another workspace.",
            )
        if isinstance(self._policy, Lora):
            self._policy.require(rank=rank, targets=targets)

    def save_policy(self, folder: Path) -> None:
        """Write the policy in diffusers' format: a LoRA as `pipe.load_lora_weights(folder)` takes it, all weights as a
        `unet` or `transformer` folder."""
        assert self._policy is not None
        self._policy.save(folder)

    def drop_policy(self) -> None:
        """Back to the reference alone."""
        if self._policy is not None:
            self.compile_blocks(False)
            self._policy.drop()
            self._policy, self._denoiser = None, self._reference

    def parameters_changed(self) -> None:
        """To be said after every change of the policy's parameters: in half precision it predicts by rounded ones."""
        if self._policy is not None:
            self._policy.parameters_changed()

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the frozen weights; what is trained is float32 beside any."""
        return self._denoiser.dtype

    @property
    def denoiser_class(self) -> type:
        """diffusers' own, which loads a policy of all weights."""
        return type(self._denoiser)

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """Inside, predictions are the reference's."""
        if self._policy is None:
            yield
            return
        policy = self._denoiser
        with self._policy.reference() as self._denoiser:
            try:
                yield
            finally:
                self._denoiser = policy

    def checkpoint_gradients(self, wanted: bool) -> None:
        """Whether learning keeps the denoiser's activations, or computes them again block by block: less memory, a
        third more time. It holds in the mode that training runs in: the denoiser is never in torch's training mode."""
        for denoiser in (self._reference, self._denoiser):  # both, so that one rounds as the other
            if wanted:
                denoiser.enable_gradient_checkpointing()
            else:
                denoiser.disable_gradient_checkpointing()

    def compile_blocks(self, wanted: bool) -> None:
        """Whether the repeated blocks run as torch.compile makes them, which it does when they are next called. Blocks
        of one width are compiled once for all; the whole denoiser takes longer, and is no faster by it."""
        for denoiser in dict.fromkeys((self._reference, self._denoiser)):
            for module in denoiser.modules():
                if isinstance(module, self.repeated_blocks):
                    if wanted:
                        module.compile(dynamic=True, recompile_limit=_COMPILED_FORMS)
                    else:
                        module._compiled_call_impl = None

    def drop_gradients(self) -> None:
        """Of the policy's parameters."""
        if self._policy is not None:
            for parameter in self._policy.parameters:
                parameter.grad = None

    # --- what a step needs ---

    def text_features(self, prompts: Sequence[str]) -> Float[Tensor, "batch width"]:
        """One vector for each prompt: the mean of its tokens' embeddings."""
        self._encode(prompts)
        return torch.stack([self._embeddings[prompt][0][0].float().mean(dim=0) for prompt in prompts])

    def predict(
        self,
        x_t: Float[Tensor, "batch c h w"],
        timesteps: Tensor,
        prompts: Sequence[str],
        *,
        guidance: float,
    ) -> Float[Tensor, "batch c h w"]:
        """The guided output, float32. Both halves of the guidance run as one batch."""
        self._encode(prompts)
        found = [self._embeddings[prompt] for prompt in prompts]
        conditions = tuple(torch.cat(parts) for parts in zip(*found, strict=True))
        x_t = x_t.to(self.dtype)
        if guidance == 1.0:
            return self._denoise(x_t, timesteps, conditions).float()
        assert self._unconditional is not None
        both = tuple(
            torch.cat([nothing.expand_as(part), part])
            for nothing, part in zip(self._unconditional, conditions, strict=True)
        )
        output = self._denoise(torch.cat([x_t, x_t]), torch.cat([timesteps] * 2), both)
        without, with_text = output.float().chunk(2)
        return without + guidance * (with_text - without)

    @torch.no_grad()
    def _encode(self, prompts: Sequence[str]) -> None:
        """Each prompt is encoded once in the life of the process, and alone: it must not depend on a batch.

        Only while they do so are the text encoders on the device: those of Stable Diffusion 3 are larger than its
        transformer.
        """
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._embeddings]
        if not missing:
            return
        for encoder in self._text_encoders:
            encoder.to(self.device)
        for prompt in missing:
            self._embeddings[prompt] = self._embed(prompt)
        if self._unconditional is None:
            self._unconditional = self._embed_nothing()
        for encoder in self._text_encoders:
            encoder.to("cpu")

    @property
    def _decode_batch(self) -> int:
        _, height, width = self.latent_shape
        return min(_DECODE_BATCH, max(1, _DECODE_PLACES // (height * width)))

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "batch c h w"]) -> UInt8[Tensor, "batch 3 height width"]:
        """Images, on the CPU."""
        parts = [self.decode_differentiably(part) for part in latents.split(self._decode_batch)]
        return torch.cat([(part.clamp(0, 1) * 255).round().to(torch.uint8).cpu() for part in parts])

    def decode_differentiably(self, latents: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch 3 height width"]:
        """Images whose colours go from 0 to 1, and at times a little beyond, with a gradient to the latents."""
        vae = self._pipeline.vae
        scale, shift = self._latent_scale()
        return (vae.decode((latents * scale + shift).to(vae.dtype)).sample.float() + 1) / 2

    @torch.no_grad()
    def encode(self, images: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch c h w"]:
        """Latents of images: the mode of the autoencoder's posterior, without its noise."""
        vae = self._pipeline.vae
        scale, shift = self._latent_scale()
        latents = []
        for part in images.split(self._decode_batch):
            pixels = (part.to(self.device).float() / 127.5 - 1).to(vae.dtype)
            latents.append((vae.encode(pixels).latent_dist.mode().float() - shift) / scale)
        return torch.cat(latents)

    def _latent_scale(self) -> tuple[Tensor | float, Tensor | float]:
        """The autoencoder's own latents are the first times ours plus the second."""
        config = self._pipeline.vae.config
        scale = 1 / config.scaling_factor
        if config.get("latents_mean") is not None and config.get("latents_std") is not None:
            std, mean = (
                torch.tensor(config[name], device=self.device).reshape(1, -1, 1, 1)
                for name in ("latents_std", "latents_mean")
            )
            return std * scale, mean
        return scale, config.get("shift_factor") or 0.0
