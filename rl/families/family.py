"""What every model family offers: a policy and its reference in one set of weights, and what one step needs."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from diffusers import DiffusionPipeline
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
from diffusers.models.attention_processor import AttnProcessor
from diffusers.utils import convert_state_dict_to_diffusers, convert_unet_state_dict_to_peft
from jaxtyping import Float, Int, UInt8
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor

from hitl.core.errors import ConfigError
from rl.families.loading import load_pipeline
from rl.families.lora_linear import fuse
from rl.gaussian import Schedule

_ADAPTER = "policy"
_DECODE_BATCH = 16
_PLAIN_ATTENTION = 1024
"""Largest latent, in places, whose attention a CPU computes in half precision without torch's fused kernel: the
gradient of that takes half of an update there. Beyond it the plain one would take too much memory."""


@runtime_checkable
class Process(Protocol):
    """How noise goes into latents and comes out of them again."""

    levels: int
    """How many levels of noise the model was trained on."""

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
    """A policy and its reference in one set of weights: the LoRA switched on is the policy, switched off the reference.

    Attributes:
        process: how noise goes in and comes out.
        latent_shape: (channels, height, width) of one latent.
    """

    pipeline_class: ClassVar[type[DiffusionPipeline]]
    denoiser_name: ClassVar[str]
    """Of the network that is trained, in the pipeline: `unet` or `transformer`."""
    left_out: ClassVar[tuple[str, ...]] = ()
    """Components of the pipeline that are not loaded."""

    def __init__(self, pipeline: Any, device: torch.device) -> None:
        self.process = self._process(pipeline.scheduler.config)
        self._pipeline = pipeline
        self._denoiser = getattr(pipeline, self.denoiser_name)
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
        """Put a fresh LoRA on the denoiser (its product is 0: the policy starts as the reference); its parameters.

        Raises:
            ConfigError: a target names no module of the denoiser, or modules that cannot carry a LoRA.
        """
        for target in targets:
            kinds = {type(module) for name, module in self._denoiser.named_modules() if _matches(name, target)}
            if not kinds or not kinds <= {torch.nn.Linear, torch.nn.Conv2d}:
                found = f"a {kinds.pop().__name__}" if kinds else "not the end of any module's name"
                raise ConfigError(
                    f"train.lora_targets has {target!r}, which is {found} in this {type(self._denoiser).__name__}; a "
                    "LoRA sits on linear or convolution layers.",
                    hint="Use to_q, to_k, to_v and to_out.0, the projections of its attention.",
                )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._denoiser.add_adapter(
                LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets), init_lora_weights="gaussian"),
                _ADAPTER,
            )
        return self._trainable()

    def load_lora(self, folder: Path) -> list[torch.nn.Parameter]:
        """Put a saved LoRA on the denoiser; its parameters."""
        self._pipeline.load_lora_weights(folder, adapter_name=_ADAPTER)
        parameters = self._trainable()
        # diffusers rounds a LoRA to the denoiser's precision as it loads it: put back what the file holds.
        saved = load_file(folder / LORA_WEIGHT_NAME_SAFE)
        if self.denoiser_name == "unet":
            saved = convert_unet_state_dict_to_peft(saved)
        for name, parameter in self._denoiser.named_parameters():
            if f".{_ADAPTER}." in name:
                parameter.data.copy_(saved[f"{self.denoiser_name}.{name.replace(f'.{_ADAPTER}.', '.')}"])
        return parameters

    def require_lora(self, *, rank: int, targets: Sequence[str]) -> None:
        """Check that the loaded LoRA is the one these settings ask for: a loaded one brings its own rank and modules.

        Raises:
            ConfigError: its rank or its modules are others.
        """
        found = {
            name.split(".lora_A.")[0]: len(parameter)
            for name, parameter in self._denoiser.named_parameters()
            if f".lora_A.{_ADAPTER}." in name
        }
        wanted = {
            name for name, _ in self._denoiser.named_modules() if any(_matches(name, target) for target in targets)
        }
        hint = "They are fixed by the first round: set it back, or start another workspace."
        if {*found.values()} != {rank}:
            ranks = ", ".join(map(str, sorted({*found.values()})))
            raise ConfigError(f"train.lora_rank is {rank}, but the LoRA of the last round has rank {ranks}.", hint=hint)
        if differing := sorted(found.keys() ^ wanted):
            raise ConfigError(
                f"train.lora_targets is {list(targets)}, but the LoRA of the last round is on other modules: they "
                f"differ in {len(differing)}, such as {differing[0]}.",
                hint=hint,
            )

    def save_lora(self, folder: Path) -> None:
        """Write the LoRA as `pipe.load_lora_weights(folder)` takes it."""
        state = get_peft_model_state_dict(self._denoiser, adapter_name=_ADAPTER)
        if self.denoiser_name == "unet":
            state = convert_state_dict_to_diffusers(state)
        self._pipeline.save_lora_weights(folder, **{f"{self.denoiser_name}_lora_layers": state})

    def drop_lora(self) -> None:
        """Back to the reference alone."""
        if self.has_lora:
            self._denoiser.unload_lora()

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the frozen weights; the LoRA is float32 beside any."""
        return self._denoiser.dtype

    @property
    def has_lora(self) -> bool:
        return _ADAPTER in getattr(self._denoiser, "peft_config", {})

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """Inside, predictions are the reference's."""
        if not self.has_lora:
            yield
            return
        self._denoiser.disable_adapters()
        try:
            yield
        finally:
            self._denoiser.enable_adapters()

    def _trainable(self) -> list[torch.nn.Parameter]:
        parameters = []
        for name, parameter in self._denoiser.named_parameters():
            if f".{_ADAPTER}." in name:
                parameter.data = parameter.data.float()
                parameter.requires_grad_(True)
                parameters.append(parameter)
        fuse(self._denoiser, _ADAPTER)
        return parameters

    def checkpoint_gradients(self, wanted: bool) -> None:
        """Whether learning keeps the denoiser's activations, or computes them again block by block: less memory, a
        third more time. It holds in the mode that training runs in: the denoiser is never in torch's training mode."""
        if wanted:
            self._denoiser.enable_gradient_checkpointing()
        else:
            self._denoiser.disable_gradient_checkpointing()

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

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "batch c h w"]) -> UInt8[Tensor, "batch 3 height width"]:
        """Images, on the CPU."""
        parts = [self.decode_differentiably(part) for part in latents.split(_DECODE_BATCH)]
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
        for part in images.split(_DECODE_BATCH):
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


def _matches(name: str, target: str) -> bool:
    """PEFT's rule for a list of targets: the whole name of a module, or its end after a dot."""
    return name == target or name.endswith(f".{target}")
