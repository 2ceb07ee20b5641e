"""How much of an experiment is run, and everything that one training's result depends on."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from data.world.captions import TASKS

ASKED = tuple(task for task in TASKS if task != "bias")
"""DPOK's four tasks; the planted bias is apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratings:
    """What a reward model is fitted on: simulated raters compare pairs of the reference's images."""

    count: int = 800
    prompts_per_task: int = 16
    images_per_prompt: int = 8
    raters: int = 8
    adversaries: int = 0
    """Of the raters, those who choose what they like less."""
    flipped: float = 0.0
    """Share of decided answers that are turned round."""
    weigh_raters: bool = True
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Which images a policy is judged on: the same prompts and seeds for all policies."""

    prompts_per_task: int = 6
    """Of each task and split; the planted bias has 4 that are trained on and 3 held out."""
    images_per_prompt: int = 2
    bias_images_per_prompt: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One training. What it is called in an experiment is not part of it: experiments share runs."""

    algorithm: str
    settings: dict[str, float] = field(default_factory=dict)
    """Of the algorithm, beside its defaults."""
    reward: str = "learned"
    """`learned`: the reward model fitted on `ratings`; else a name of `benchmarks.papers.rewards.reward_of`."""
    tasks: tuple[str, ...] = ASKED
    prompts_per_task: int = 16
    learning_rate: float = 4e-3
    epochs: int = 8
    prompts_per_epoch: int = 16
    images_per_prompt: int = 4
    updates_per_epoch: int = 0
    noises_per_image: int = 4
    look_every: int = 4
    """Epochs between two judgements; the last epoch is judged too."""
    guard_looks: bool = False
    """Whether the guard looks at the policy whenever it is judged, without ever stopping the training."""
    judged: Judged = Judged()
    ratings: Ratings = Ratings()
    dtype: str = "bfloat16"
    seed: int = 1

    @property
    def queries(self) -> int:
        """Images that the reward is asked about."""
        return self.epochs * self.prompts_per_epoch * self.images_per_prompt

    @property
    def key(self) -> str:
        return key_of(asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedTraining(Training):
    """A training in rounds: the policy draws, raters compare, a reward model is fitted on all their answers so far, and
    the policy goes on against it. `ratings.count` are asked in all rounds together; `reward` only judges."""

    rounds: int = 5
    uncertain: bool = False
    """Ask about pairs that the last reward model is unsure of, as `data.task_policies` chooses them."""
    pessimism: float = 0.0
    """Of its own deviations, taken off a score before training sees it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The size of an experiment."""

    epochs: int
    prompts_per_epoch: int
    images_per_prompt: int
    look_every: int
    judged: Judged
    ratings: Ratings
    bias_images: int
    """Judged of each prompt of the planted bias, where the bias is what it is about."""
    rounds: int = 5
    """Of drawing, rating, fitting and training, where ratings are what it is about."""

    def training(self, algorithm: str, **changes: Any) -> Training:
        """A run of this size."""
        own = ("epochs", "prompts_per_epoch", "images_per_prompt", "look_every", "judged", "ratings")
        return replace(Training(algorithm=algorithm), **{name: getattr(self, name) for name in own} | changes)


SIZES = {
    "small": Plan(
        epochs=8,
        prompts_per_epoch=16,
        images_per_prompt=4,
        look_every=4,
        judged=Judged(),
        ratings=Ratings(),
        bias_images=12,
    ),
    "full": Plan(
        epochs=128,
        prompts_per_epoch=32,
        images_per_prompt=8,
        look_every=16,
        judged=Judged(prompts_per_task=24, images_per_prompt=4, bias_images_per_prompt=4),
        ratings=Ratings(count=3000, prompts_per_task=64),
        bias_images=32,
    ),
    "smallest": Plan(
        epochs=1,
        prompts_per_epoch=2,
        images_per_prompt=2,
        look_every=1,
        judged=Judged(prompts_per_task=1, images_per_prompt=1, bias_images_per_prompt=1),
        ratings=Ratings(count=60, prompts_per_task=2, images_per_prompt=3, raters=2),
        bias_images=2,
        rounds=2,
    ),
}
"""`small` is for two cores, `full` for a night or a GPU, and was not run yet; `smallest` shows that the code runs."""


def key_of(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
