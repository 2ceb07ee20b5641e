"""What changes from epoch to epoch of a round's training, kept in `state.pt`: a killed run goes on bit for bit."""

import io
import logging
import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from data.workspace import replacing, write_atomically
from hitl.core.errors import ConfigError, TrainingError
from rl.compilation import compile_on_trial
from rl.config import SampleConfig, TrainConfig
from rl.families.family import Family
from rl.randomness import derive_seed
from rl.ranks import Ranks
from rl.value import ValueNetwork

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class TrainingState:
    """The policy's weights, their optimiser, the value function and its own, and how many epochs they have seen."""

    family: Family
    parameters: list[torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    value: ValueNetwork | None
    value_optimizer: torch.optim.Optimizer | None
    path: Path
    settings: dict[str, Any]
    """What the state's tensors are made for: a round that was begun cannot go on with others."""
    ranks: Ranks = field(default_factory=Ranks.here)
    epoch: int = 0
    epoch_of_value: int = 0
    replay: dict[str, Any] | None = None
    """Transitions of earlier epochs (`Transitions.kept`). Those of another round were scored by another reward."""
    memory: dict[str, list[float]] = field(default_factory=dict)
    """What an algorithm remembers of each prompt. Another round's scores are of another reward."""
    kl_scale: float = 1.0
    """What an adaptive price of the KL has been multiplied with; goes on in the next round."""
    compile_gain: float | None = None
    """Share of the time that compiled blocks save, 0 where they are not kept; None where train.compile is off."""

    @classmethod
    def start(
        cls,
        family: Family,
        config: TrainConfig,
        sample: SampleConfig,
        folder: Path,
        place: tuple[object, ...],
        start_from: Path | None,
    ) -> "TrainingState":
        family.drop_policy()
        if start_from is not None:
            parameters = family.load_policy(start_from)
            family.require_policy(config.weights, rank=config.lora_rank, targets=config.lora_targets)
        elif config.weights == "full":
            parameters = family.add_full()
        else:
            seed = derive_seed(*place, "lora") % 2**31
            parameters = family.add_lora(rank=config.lora_rank, targets=config.lora_targets, seed=seed)
        family.checkpoint_gradients(config.gradient_checkpointing)
        optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.0, betas=(0.9, 0.95))
        value, value_optimizer = None, None
        if config.value_function:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive_seed(*place, "value") % 2**31)
                width = family.text_features([""]).shape[-1]
                value = ValueNetwork(math.prod(family.latent_shape), width, sample.window).to(family.device)
            value_optimizer = torch.optim.AdamW(value.parameters(), lr=1e-3)
        folder.mkdir(parents=True, exist_ok=True)
        settings: dict[str, Any] = {"train.weights": config.weights}
        if config.weights == "lora":
            settings |= {"train.lora_rank": config.lora_rank, "train.lora_targets": list(config.lora_targets)}
        settings |= {
            "train.value_function": config.value_function,
            "sample.window": sample.window,
            "train.replay": config.replay,
        }
        if config.replay:  # an older transition's numbers were made with these
            settings |= {
                "sample.eta": sample.eta,
                "sample.guidance": sample.guidance,
                "train.algorithm": config.algorithm,
            }
        run = cls(family, parameters, optimizer, value, value_optimizer, folder / "state.pt", settings)
        if run.path.exists():
            run._restore()
        elif start_from is not None and (start_from / run.path.name).exists():
            last = torch.load(start_from / run.path.name, weights_only=True, map_location=family.device)
            run.optimizer.load_state_dict(last["optimizer"])  # Adam's moments carry over
            run.kl_scale = last.get("kl_scale", 1.0)
        for group in run.optimizer.param_groups:
            group["lr"] = config.learning_rate  # a state holds the rate that it was made with
        return run

    def try_compiling(self, config: TrainConfig, sample: SampleConfig) -> None:
        """As `train.compile` asks for, or else not."""
        self.compile_gain = compile_on_trial(self.family, config, sample, self.compile_gain) if config.compile else None

    def step(self, max_grad_norm: float) -> float:
        """Sum the gradients of all processes, cut them down, and move the policy; returns their norm before the cut.

        Raises:
            TrainingError: it is not finite.
        """
        self.ranks.sum_gradients(self.parameters)
        grad_norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, max_grad_norm))
        if not math.isfinite(grad_norm):
            raise self.diverged("The gradient is not finite.")
        self.optimizer.step()
        self.family.parameters_changed()
        return grad_norm

    def save(self, epoch: int) -> None:
        """Write the state so that a kill leaves either the old one or the new one.

        Raises:
            WorkspaceError: the disk is full, or the folder cannot be written.
        """
        self.epoch = epoch
        if self.ranks.rank:  # all have the same
            return
        state: dict[str, Any] = {
            "settings": self.settings,
            "epoch": epoch,
            "epoch_of_value": self.epoch_of_value,
            "kl_scale": self.kl_scale,
            "replay": self.replay,
            "memory": self.memory,
            "compile_gain": self.compile_gain,
            "weights": [parameter.detach().cpu() for parameter in self.parameters],
            "optimizer": self.optimizer.state_dict(),
        }
        if self.value is not None and self.value_optimizer is not None:
            state |= {"value": self.value.state_dict(), "value_optimizer": self.value_optimizer.state_dict()}
        buffer = io.BytesIO()  # on a full disk torch itself would fail with a RuntimeError about its zip file
        torch.save(state, buffer)
        write_atomically(self.path, buffer.getbuffer())  # of all weights' optimiser it has gigabytes

    def go_back(self, path: Path) -> None:
        """Become an earlier state of this training, which was kept at `path`; it then is the one to go on from."""
        if self.ranks.rank:
            return
        with path.open("rb") as source, replacing(self.path) as file:
            shutil.copyfileobj(source, file)
        self._restore()

    def _restore(self) -> None:
        state = torch.load(self.path, weights_only=True, map_location=self.family.device)
        for name, begun_with in ({"train.weights": "lora"} | state["settings"]).items():
            if begun_with != self.settings[name]:
                raise ConfigError(
                    f"{name} is {self.settings[name]}, but this round's training was begun with {begun_with}.",
                    hint=f"Set {name} back, or delete {self.path} to train this round from its beginning.",
                )
        weights = state["weights"] if "weights" in state else state["lora"]  # of before there was a choice
        for parameter, saved in zip(self.parameters, weights, strict=True):
            parameter.data.copy_(saved)
        self.family.parameters_changed()
        self.optimizer.load_state_dict(state["optimizer"])
        if self.value is not None and self.value_optimizer is not None:
            self.value.load_state_dict(state["value"])
            self.value_optimizer.load_state_dict(state["value_optimizer"])
        self.epoch, self.epoch_of_value = state["epoch"], state["epoch_of_value"]
        self.kl_scale, self.replay = state.get("kl_scale", 1.0), state.get("replay")
        self.memory = state.get("memory", {})
        self.compile_gain = state.get("compile_gain")
        logger.info("resumed after epoch %d", self.epoch)

    def diverged(self, message: str) -> TrainingError:
        """Drops the state: going on from it, the same named noise would bring the same numbers at any rate."""
        self.path.unlink(missing_ok=True)
        rate = self.optimizer.param_groups[0]["lr"]
        also = "" if self.family.dtype == torch.float32 else ", or model.dtype=float32"
        instead = f"Use a train.learning_rate below {rate:g}{also}"
        return TrainingError(message, hint=f"{instead}: this round's training then starts anew.")
