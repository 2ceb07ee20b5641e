"""Settings of the reward fit: a frozen dataclass, importable without torch. A field's string is its help."""

from dataclasses import dataclass
from typing import ClassVar

from hitl.core.errors import ConfigError

HEAD_NAMES = ("linear", "mlp", "ensemble", "finetune", "imagereward")


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardFitConfig:
    """How the reward model is fitted on the ratings."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    backbone: str = "starter"
    """The open_clip model that sees the images: `starter`, a folder, or an open_clip name such as ViT-L-14."""
    pretrained: str = ""
    """Tag of the weights for an open_clip name, such as `openai`. Empty for `starter` and for folders."""
    heads: tuple[str, ...] = ("linear", "mlp", "ensemble")
    """Heads to choose from by cross-validation: `linear`, `mlp`, `ensemble` (five networks), `finetune`, which
    trains the backbone's last blocks too and passes over the images many times, and `imagereward`, the published
    recipe, to compare with."""
    mlp_from: int = 2000
    """Answers below which the linear head alone is tried: the others lose to it there and cost time."""
    l2: tuple[float, ...] = (10000.0, 3000.0, 1000.0, 300.0, 100.0, 30.0, 10.0)
    """Penalties of the linear head to choose from by evidence."""
    folds: int = 5
    """Parts of the cross-validation. All answers about a prompt are in one part."""
    weigh_raters: bool = True
    """Follow each rater as far as the others' answers bear theirs out. Off: all raters alike."""
    replay: float = 1.0
    """What a round's ratings count beside those of the next round. 1: all rounds alike; 0.5: half with every round."""
    warm_start: bool = True
    """A network begins from the previous round's, shrunk and mixed with a fresh start. The linear head has one optimum,
    wherever it begins."""
    pessimism: float = 0.0
    """How many of its own standard deviations are taken off a score before training sees it."""
    batch_size: int = 64
    """Images per forward pass of the backbone. Lower it when memory runs out."""
    force: bool = False
    """Train on the reward model even when it cannot be told from chance."""
    seed: int = 0
    """Seed of the networks' weights and order of answers, and of the bootstrap."""

    def __post_init__(self) -> None:
        unknown = sorted({*self.heads} - {*HEAD_NAMES})
        if unknown or not self.heads:
            raise ConfigError(
                f"fit.heads is {list(self.heads)}, but must name some of {', '.join(HEAD_NAMES)}.",
                hint='Use heads = ["linear", "mlp"].',
            )
        if not self.l2 or min(self.l2) <= 0:
            raise ConfigError(f"fit.l2 is {list(self.l2)}, but must be positive numbers.", hint="Use l2 = [100.0].")
        if self.folds < 2:
            raise ConfigError(f"fit.folds is {self.folds}, but must be 2 or more.", hint="Use folds = 5.")
        if self.batch_size < 1:
            raise ConfigError(f"fit.batch_size is {self.batch_size}, but must be 1 or more.", hint="Use 64.")
        if not 0 < self.replay <= 1:
            raise ConfigError(f"fit.replay is {self.replay}, but must be above 0 and at most 1.", hint="Use 1.0.")
        if not 0 <= self.pessimism < float("inf"):
            raise ConfigError(f"fit.pessimism is {self.pessimism}, but must be 0 or more.", hint="Use 0.0 or 1.0.")
