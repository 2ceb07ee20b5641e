"""Settings of sampling and training: frozen dataclasses, importable without torch. A field's string is its help."""

from dataclasses import dataclass
from typing import ClassVar

from hitl.core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleConfig:
    """How images are drawn from the policy while it is trained."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    steps: int = 10
    """DDIM steps of one image while training."""
    guidance: float = 3.0
    """Classifier-free guidance scale, the same in training as in drawing. 1 turns guidance off."""
    eta: float = 1.0
    """DDIM noise level of the stochastic steps, in (0, 1]. At 0 a step has no log-probability."""
    window: int = 3
    """How many of the first steps are stochastic and trained; the rest is drawn with eta = 0."""
    shared_noise: bool = True
    """Images of one group (one prompt) start from one latent and differ by the noise of the steps alone."""
    antithetic: bool = False
    """Images of one group come in pairs whose step noises are each other's negatives."""
    batch_size: int = 64
    """Images in one forward pass. Lower this first when memory runs out."""

    def __post_init__(self) -> None:
        if self.antithetic and not self.shared_noise:
            raise ConfigError(
                "sample.antithetic is on and sample.shared_noise is off: two images with opposite noises have nothing "
                "in common unless they start from one latent.",
                hint="Set sample.shared_noise = true, or sample.antithetic = false.",
            )
        if not 0 < self.eta <= 1:
            raise ConfigError(
                f"sample.eta is {self.eta}, but must be in (0, 1].", hint="Use 1.0 unless you know why not."
            )
        if self.batch_size < 1:
            raise ConfigError(f"sample.batch_size is {self.batch_size}, but must be 1 or more.", hint="Use 64.")
        if not 1 <= self.window <= self.steps:
            raise ConfigError(
                f"sample.window is {self.window}, but sample.steps is {self.steps}.",
                hint="Set sample.window between 1 and sample.steps.",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How the policy is trained in one round."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    algorithm: str = "dpok"
    """Name in the registry of algorithms: dpok, dpok_authors, ddpo_is, ddpo_sf, rwr, sft, nft, refl, draft, d3po,
    diffusion_dpo or best_of_n."""
    epochs: int = 5
    """Times that fresh images are collected and learned from, per round."""
    prompts_per_epoch: int = 16
    """Groups in one epoch. Fewer than 16 groups make the gradient too noisy to learn from."""
    balance_tasks: bool = True
    """Visit every task of the prompts equally often, however many prompts it has. Off: every prompt equally often."""
    images_per_prompt: int = 8
    """Members of a group. Their mean score is the baseline, so 8 or more."""
    updates_per_epoch: int = 0
    """Optimiser steps on one epoch's images. 0: what suits the algorithm, one for each 8 images of draft and refl, 4 of
    diffusion_dpo, 1 of the others. Above 1 the clipped ratio of policy gradient starts to matter."""
    noises_per_image: int = 4
    """Of algorithms that learn from images (rwr, sft, nft, refl, diffusion_dpo): how often an epoch adds noise to each;
    of d3po, at how many of its steps it looks."""
    replay: int = 0
    """Of policy gradient: transitions of earlier epochs that an epoch learns from again, beside its own; the oldest are
    dropped first."""
    batch_size: int = 64
    """Transitions in one forward pass (twice that many with guidance). Lower this first when memory runs out."""
    launcher: str = ""
    """Command that starts several processes to share the training, such as `torchrun --nproc-per-node 4 -m` or
    `accelerate launch --multi_gpu --num_processes 4 -m`. Empty: one process."""
    gradient_checkpointing: bool = False
    """Compute activations again instead of keeping them: less memory, about a third more time."""
    compile: bool = False
    """Try torch.compile on the denoiser's blocks when a round's training begins, and keep it where images then take
    less time. Compiling takes minutes (docs/speed.md)."""
    weights: str = "lora"
    """`lora` trains few weights beside the denoiser's own; `full` trains all of those, beside a frozen copy of them:
    several times the memory, and gigabytes on the disk for each round. The first round decides for all."""
    learning_rate: float = 4e-3
    """AdamW, on what is trained. 4e-3 is for a LoRA; for all weights 3e-5 on the starter (docs/models.md)."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    lora_rank: int = 8
    """Rank of the LoRA. Its alpha equals the rank. Without effect where train.weights is full."""
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    """Modules of the UNet that get a LoRA, by the end of their name. Without effect where train.weights is full."""
    level_steps: bool = True
    """Divide |c_eps|/sigma out of each step's gradient; without it the last steps drown the first."""
    value_function: bool = False
    """Subtract a learned V(x_t, text, step) beside the group's mean."""

    def __post_init__(self) -> None:
        counts = dict.fromkeys(("epochs", "prompts_per_epoch", "noises_per_image", "batch_size", "lora_rank"), 1)
        for name, least in {**counts, "updates_per_epoch": 0, "replay": 0}.items():
            if getattr(self, name) < least:
                raise ConfigError(
                    f"train.{name} is {getattr(self, name)}, but must be {least} or more.", hint=f"Set train.{name}."
                )
        for name, usual in (("learning_rate", "4e-3"), ("max_grad_norm", "1.0")):
            if not getattr(self, name) > 0:
                raise ConfigError(f"train.{name} is {getattr(self, name)}, but must be positive.", hint=f"Use {usual}.")
        if self.weights not in ("lora", "full"):
            raise ConfigError(f"train.weights is {self.weights!r}.", hint="Use lora or full.")
        if self.weights == "full" and self.learning_rate > 1e-3:
            raise ConfigError(
                f"train.learning_rate is {self.learning_rate:g}, a rate for a LoRA: with train.weights = full one step "
                "of it leads far away from the reference.",
                hint="Set train.learning_rate = 3e-5 for the starter, 1e-5 or less for a larger model.",
            )
        if not self.lora_targets:
            raise ConfigError(
                "train.lora_targets is empty, so nothing would be trained.",
                hint="Use to_q, to_k, to_v and to_out.0, the projections of the UNet's attention.",
            )
        if self.images_per_prompt < 2:
            raise ConfigError(
                f"train.images_per_prompt is {self.images_per_prompt}, but a baseline needs a group of at least 2.",
                hint="Use 8.",
            )

    def updates(self, usual: int) -> int:
        """Optimiser steps of an epoch: as set, or what the algorithm has by itself."""
        return self.updates_per_epoch or usual
