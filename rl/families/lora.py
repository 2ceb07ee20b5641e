"""A policy as a LoRA on the denoiser: few weights, switched on for the policy and off for the reference."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
from diffusers.utils import convert_state_dict_to_diffusers, convert_unet_state_dict_to_peft
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file

from hitl.core.errors import ConfigError
from rl.families.lora_linear import fuse

_ADAPTER = "policy"


class Lora:
    """The LoRA that lies on a pipeline's denoiser; its weights are float32 beside frozen ones of any precision."""

    def __init__(self, pipeline: Any, denoiser_name: str) -> None:
        self._pipeline, self._name = pipeline, denoiser_name
        self.denoiser = getattr(pipeline, denoiser_name)
        self.parameters: list[torch.nn.Parameter] = []
        for name, parameter in self.denoiser.named_parameters():
            if f".{_ADAPTER}." in name:
                parameter.data = parameter.data.float()
                parameter.requires_grad_(True)
                self.parameters.append(parameter)
        fuse(self.denoiser)

    @classmethod
    def fresh(cls, pipeline: Any, denoiser_name: str, *, rank: int, targets: Sequence[str], seed: int) -> "Lora":
        """Its product is 0: the policy starts as the reference.

        Raises:
            ConfigError: a target names no module of the denoiser, or modules that cannot carry a LoRA.
        """
        denoiser = getattr(pipeline, denoiser_name)
        for target in targets:
            kinds = {type(module) for name, module in denoiser.named_modules() if _matches(name, target)}
            if not kinds or not kinds <= {torch.nn.Linear, torch.nn.Conv2d}:
                found = f"a {kinds.pop().__name__}" if kinds else "not the end of any module's name"
                raise ConfigError(
                    f"train.lora_targets has {target!r}, which is {found} in this {type(denoiser).__name__}; a "
                    "LoRA sits on linear or convolution layers.",
                    hint="Use to_q, to_k, to_v and to_out.0, the projections of its attention.",
                )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            denoiser.add_adapter(
                LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets), init_lora_weights="gaussian"),
                _ADAPTER,
            )
        return cls(pipeline, denoiser_name)

    @classmethod
    def load(cls, pipeline: Any, denoiser_name: str, folder: Path) -> "Lora":
        """As `save` wrote it."""
        pipeline.load_lora_weights(folder, adapter_name=_ADAPTER)
        self = cls(pipeline, denoiser_name)
        # diffusers rounds a LoRA to the denoiser's precision as it loads it: put back what the file holds.
        saved = load_file(folder / LORA_WEIGHT_NAME_SAFE)
        if denoiser_name == "unet":
            saved = convert_unet_state_dict_to_peft(saved)
        for name, parameter in self.denoiser.named_parameters():
            if f".{_ADAPTER}." in name:
                parameter.data.copy_(saved[f"{denoiser_name}.{name.replace(f'.{_ADAPTER}.', '.')}"])
        return self

    def require(self, *, rank: int, targets: Sequence[str]) -> None:
        """Check that it is the one these settings ask for: a loaded one brings its own rank and modules.

        Raises:
            ConfigError: its rank or its modules are others.
        """
        found = {
            name.split(".lora_A.")[0]: len(parameter)
            for name, parameter in self.denoiser.named_parameters()
            if f".lora_A.{_ADAPTER}." in name
        }
        wanted = {
            name for name, _ in self.denoiser.named_modules() if any(_matches(name, target) for target in targets)
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

    def save(self, folder: Path) -> None:
        """Write it as `pipe.load_lora_weights(folder)` takes it."""
        shutil.rmtree(folder / self._name, ignore_errors=True)  # of a training that was begun with all weights
        state = get_peft_model_state_dict(self.denoiser, adapter_name=_ADAPTER)
        if self._name == "unet":
            state = convert_state_dict_to_diffusers(state)
        self._pipeline.save_lora_weights(folder, **{f"{self._name}_lora_layers": state})

    def drop(self) -> None:
        """Off the denoiser, which is the reference again."""
        self.denoiser.unload_lora()

    def parameters_changed(self) -> None:
        """The denoiser predicts by the parameters themselves."""

    @contextlib.contextmanager
    def reference(self) -> Iterator[Any]:
        """The denoiser that predicts as the reference."""
        self.denoiser.disable_adapters()
        try:
            yield self.denoiser
        finally:
            self.denoiser.enable_adapters()


def _matches(name: str, target: str) -> bool:
    """PEFT's rule for a list of targets: the whole name of a module, or its end after a dot."""
    return name == target or name.endswith(f".{target}")
