"""Stable Diffusion 1.x: load it, encode prompts, predict noise with guidance, decode latents, and save LoRA weights."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
from diffusers.utils import convert_state_dict_to_diffusers, convert_unet_state_dict_to_peft
from jaxtyping import Float, Int, UInt8
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor

from hitl.core.errors import ConfigError, ModelLoadError
from rl.ddim import alpha_bars, previous_timesteps

STARTER_FOLDER = Path(__file__).parents[1] / "starter_model"
_ADAPTER = "policy"
_DECODE_BATCH = 32


class StableDiffusion15:
    """A policy and its reference in one set of weights: the LoRA switched on is the policy, switched off the reference.

    Attributes:
        latent_shape: (channels, height, width) of one latent.
    """

    def __init__(self, pipeline: StableDiffusionPipeline, device: torch.device) -> None:
        if pipeline.scheduler.config.prediction_type != "epsilon":
            raise ModelLoadError(
                f"The model predicts {pipeline.scheduler.config.prediction_type!r}, but this family needs 'epsilon'.",
                hint="Use a Stable Diffusion 1.x model, or the base (not the 768) variant of 2.x.",
            )
        self._pipeline = pipeline.to(device)
        self._unet = pipeline.unet.eval().requires_grad_(False)
        pipeline.vae.eval().requires_grad_(False)
        pipeline.text_encoder.eval().requires_grad_(False)
        self._scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
        self._embeddings: dict[str, Tensor] = {}
        self.device = device
        side = self._unet.config.sample_size
        self.latent_shape = (self._unet.config.in_channels, side, side)

    @classmethod
    def load(cls, name: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> "StableDiffusion15":
        """Load `starter`, a diffusers folder, or a hub id.

        Raises:
            ModelLoadError: nothing of that name can be loaded as a Stable Diffusion 1.x pipeline.
        """
        source = STARTER_FOLDER if name == "starter" else name
        try:
            pipeline = StableDiffusionPipeline.from_pretrained(
                source, dtype=dtype, safety_checker=None, feature_extractor=None, requires_safety_checker=False
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelLoadError(
                f"Cannot load {name!r} as a Stable Diffusion pipeline: {str(error).splitlines()[0]}",
                hint="Give `starter`, a folder that holds model_index.json, or a hub id you can reach.",
            ) from error
        pipeline.set_progress_bar_config(disable=True)
        return cls(pipeline, torch.device(device))

    # --- the policy's weights ---

    def add_lora(self, *, rank: int, targets: Sequence[str], seed: int) -> list[torch.nn.Parameter]:
        """Put a fresh LoRA on the UNet (its product is 0, so the policy starts as the reference); its parameters.

        Raises:
            ConfigError: a target names no module of the UNet, or modules that cannot carry a LoRA.
        """
        for target in targets:
            kinds = {type(module) for name, module in self._unet.named_modules() if _matches(name, target)}
            if not kinds or not kinds <= {torch.nn.Linear, torch.nn.Conv2d}:
                found = f"a {kinds.pop().__name__}" if kinds else "not the end of any module's name"
                raise ConfigError(
                    f"train.lora_targets has {target!r}, which is {found} in this UNet; a LoRA sits on linear or "
                    "convolution layers.",
                    hint="Use to_q, to_k, to_v and to_out.0, the projections of its attention.",
                )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._unet.add_adapter(
                LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets), init_lora_weights="gaussian"),
                _ADAPTER,
            )
        return self._trainable()

    def load_lora(self, folder: Path) -> list[torch.nn.Parameter]:
        """Put a saved LoRA on the UNet; its parameters."""
        self._pipeline.load_lora_weights(folder, adapter_name=_ADAPTER)
        parameters = self._trainable()
        # diffusers rounds a LoRA to the UNet's precision as it loads it: put back what the file holds.
        saved = convert_unet_state_dict_to_peft(load_file(folder / LORA_WEIGHT_NAME_SAFE))
        for name, parameter in self._unet.named_parameters():
            if f".{_ADAPTER}." in name:
                parameter.data.copy_(saved[f"unet.{name.replace(f'.{_ADAPTER}.', '.')}"])
        return parameters

    def require_lora(self, *, rank: int, targets: Sequence[str]) -> None:
        """Check that the loaded LoRA is the one these settings ask for: a loaded one brings its own rank and modules.

        Raises:
            ConfigError: its rank or its modules are others.
        """
        found = {
            name.split(".lora_A.")[0]: len(parameter)
            for name, parameter in self._unet.named_parameters()
            if f".lora_A.{_ADAPTER}." in name
        }
        wanted = {name for name, _ in self._unet.named_modules() if any(_matches(name, target) for target in targets)}
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
        state = convert_state_dict_to_diffusers(get_peft_model_state_dict(self._unet, adapter_name=_ADAPTER))
        StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=state)

    def drop_lora(self) -> None:
        """Back to the reference alone."""
        if self.has_lora:
            self._unet.unload_lora()

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the frozen weights; the LoRA is float32 beside any."""
        return self._unet.dtype

    @property
    def has_lora(self) -> bool:
        return _ADAPTER in getattr(self._unet, "peft_config", {})

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """Inside, predictions are the reference's."""
        if not self.has_lora:
            yield
            return
        self._unet.disable_adapters()
        try:
            yield
        finally:
            self._unet.enable_adapters()

    def _trainable(self) -> list[torch.nn.Parameter]:
        parameters = []
        for name, parameter in self._unet.named_parameters():
            if f".{_ADAPTER}." in name:
                parameter.data = parameter.data.float()
                parameter.requires_grad_(True)
                parameters.append(parameter)
        return parameters

    # --- what a step needs ---

    def schedule(self, steps: int) -> tuple[Int[Tensor, "steps"], Float[Tensor, "steps"], Float[Tensor, "steps"]]:
        """Timesteps of a run of `steps`, and alpha-bar before and after each step."""
        self._scheduler.set_timesteps(steps)
        timesteps = self._scheduler.timesteps.cpu()
        cumulative = self._scheduler.alphas_cumprod
        final = torch.as_tensor(self._scheduler.final_alpha_cumprod)
        before = alpha_bars(cumulative, final, timesteps)
        after = alpha_bars(cumulative, final, previous_timesteps(timesteps, self._scheduler.config.num_train_timesteps))
        return timesteps, before, after

    @property
    def train_timesteps(self) -> int:
        """How many timesteps the model was trained on."""
        return self._scheduler.config.num_train_timesteps

    def add_noise(
        self, x_0: Float[Tensor, "batch c h w"], eps: Float[Tensor, "batch c h w"], timesteps: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch c h w"]:
        """x_t of the forward process: sqrt(alpha-bar) x_0 + sqrt(1 - alpha-bar) eps."""
        # Not by the scheduler: its own add_noise moves the scheduler's table to the device of x_0 and leaves it there.
        alpha_bar = self._scheduler.alphas_cumprod.to(x_0.device)[timesteps].reshape(-1, 1, 1, 1)
        return alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * eps

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Float[Tensor, "batch tokens width"]:
        """Text embeddings, each prompt encoded once in the life of the process."""
        missing = list(dict.fromkeys(prompt for prompt in prompts if prompt not in self._embeddings))
        for prompt in missing:  # one at a time: an embedding must not depend on its batch
            tokens = self._pipeline.tokenizer(
                prompt,
                padding="max_length",
                max_length=self._pipeline.tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            ).input_ids
            self._embeddings[prompt] = self._pipeline.text_encoder(tokens.to(self.device))[0][0]
        return torch.stack([self._embeddings[prompt] for prompt in prompts])

    def predict_noise(
        self,
        x_t: Float[Tensor, "batch c h w"],
        timesteps: Int[Tensor, "batch"],
        text: Float[Tensor, "batch tokens width"],
        *,
        guidance: float,
    ) -> Float[Tensor, "batch c h w"]:
        """The guided noise, float32. Both halves of the guidance run as one batch."""
        dtype = self.dtype
        if guidance == 1.0:
            return self._unet(x_t.to(dtype), timesteps, text).sample.float()
        empty = self.encode([""]).expand_as(text)
        both = self._unet(torch.cat([x_t, x_t]).to(dtype), torch.cat([timesteps] * 2), torch.cat([empty, text])).sample
        without, with_text = both.float().chunk(2)
        return without + guidance * (with_text - without)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "batch c h w"]) -> UInt8[Tensor, "batch 3 height width"]:
        """Images, on the CPU."""
        vae = self._pipeline.vae
        images = []
        for part in latents.split(_DECODE_BATCH):
            decoded = vae.decode((part / vae.config.scaling_factor).to(vae.dtype)).sample.float()
            images.append(((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu())
        return torch.cat(images)


def _matches(name: str, target: str) -> bool:
    """PEFT's rule for a list of targets: the whole name of a module, or its end after a dot."""
    return name == target or name.endswith(f".{target}")
