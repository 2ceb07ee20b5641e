"""Several rewards as one: the sum of weight * score / scale."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from hitl.core.errors import ConfigError
from reward_models.load import load_reward


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    name: str
    reward: Any  # a function (images, prompts) -> scores; some have a method `differentiable` too
    weight: float
    scale: float = 1.0
    """What the scores are divided by, so that weights of rewards in kB and in probabilities mean the same."""

    def __post_init__(self) -> None:
        if not (isfinite(self.weight) and isfinite(self.scale) and self.scale > 0):
            raise ConfigError(
                f"The term {self.name} has weight {self.weight} and scale {self.scale}.",
                hint="A weight is a finite number, a scale a positive one.",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedSum:
    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        if not any(term.weight for term in self.terms):
            raise ConfigError("A weighted sum has no term with a weight.", hint="Give one a weight other than 0.")

    @classmethod
    def load(cls, terms: Sequence[Mapping[str, Any]], *, device: str | torch.device = "cpu") -> "WeightedSum":
        """Of tables with `reward` (a name in the registry), `weight`, and if need be `scale` and `settings`.

        Raises:
            HitlError: a table has another key, or a reward cannot be loaded.
        """
        made = []
        for term in terms:
            if "reward" not in term or {*term} - {"reward", "weight", "scale", "settings"}:
                raise ConfigError(
                    f"A term of the weighted sum is {dict(term)}.",
                    hint="It needs `reward`, and may have `weight`, `scale` and `settings`: nothing else.",
                )
            reward = load_reward(term["reward"], term.get("settings", {}), device=device)
            weight, scale = float(term.get("weight", 1.0)), float(term.get("scale", 1.0))
            made.append(Term(name=term["reward"], reward=reward, weight=weight, scale=scale))
        return cls(terms=tuple(made))

    def scaled_on(
        self, images: UInt8[Tensor, "batch 3 h w"], prompts: Sequence[str], *, but: Sequence[str] = ()
    ) -> "WeightedSum":
        """The same sum with every term's scale set to its standard deviation on these images, except those in `but`.

        A term that gives all of them one score, up to a float's last digits, keeps its scores as they are: scale 1.
        """

        def scaled(term: Term) -> Term:
            scores = term.reward(images, prompts).double()
            std = float(scores.std(correction=0))
            return replace(term, scale=std if std > 1e-6 * float(scores.abs().max()) else 1.0)

        return WeightedSum(terms=tuple(term if term.name in but else scaled(term) for term in self.terms))

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "batch 3 h w"], prompts: Sequence[str]) -> Float[Tensor, "batch"]:
        parts = [term.weight / term.scale * term.reward(images, prompts).float() for term in self.terms]
        return torch.stack(parts).sum(dim=0)

    def differentiable(self, images: Float[Tensor, "batch 3 h w"], prompts: Sequence[str]) -> Float[Tensor, "batch"]:
        """The same scores for float images in [0, 1], with a gradient to every pixel.

        Raises:
            ConfigError: a term has none.
        """
        require_gradient({term.name: term.reward for term in self.terms})
        parts = [term.weight / term.scale * term.reward.differentiable(images, prompts) for term in self.terms]
        return torch.stack(parts).sum(dim=0)


def require_gradient(rewards: Mapping[str, object]) -> None:
    """Raise a ConfigError that names those of the rewards, objects or classes, that have no `differentiable`."""
    without = [name for name, reward in rewards.items() if not hasattr(reward, "differentiable")]
    if without:
        raise ConfigError(
            f"{' and '.join(without)} cannot be learned from by a gradient: no `differentiable(images, prompts)`.",
            hint="Set their weights to 0, or train with dpok, which asks a reward for its scores alone.",
        )
