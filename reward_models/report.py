"""What a fit says of itself: on what it was fitted, how far it can be trusted, and whether it may be trained on."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from data.bootstrap import FEW_CLUSTERS, LEAST_CLUSTERS, Interval
from hitl.core.errors import RewardAtChance
from reward_models.judgement import Ceiling, Judgement
from reward_models.reliability import RaterFit
from reward_models.selection import Candidate
from reward_models.succession import Drift, Previous


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Accuracy of the linear head when it is fitted on fewer comparisons."""

    comparisons: int
    accuracy: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """A held-out answer that the model is sure of and wrong about."""

    prompt: str
    preferred: str
    other: str
    probability: float
    """That the model gave to `other`."""
    rater: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FitReport:
    """What was fitted, on what, and how far it can be trusted. Judged on pairs of images held out from the fit."""

    head: str
    backbone: str
    pretrained: str | None
    fingerprint: str
    snapshot_sha: str
    answers: dict[str, int]
    """How many pairs, rankings, grades and labels, and how many of the pairs were both bad."""
    comparisons: int
    """Pairs of images that answers put in an order, directly or by ranks or grades."""
    decided: int
    ties: int
    prompts: int
    raters: int
    images: int
    rounds: int
    truncated: int
    """Prompts longer than the backbone reads."""
    held_out_by: str
    """`prompt`, or `images` when there is one prompt."""
    accuracy: Interval
    zero_shot: Interval
    """Of the backbone's zero-shot CLIP score, on the same comparisons."""
    gain: Interval
    """Accuracy minus that of zero-shot CLIP, comparison by comparison."""
    judgement: Judgement
    zero_shot_judgement: Judgement
    ceiling: Ceiling | None
    previous: Previous | None
    raters_fitted: dict[str, RaterFit]
    form_slopes: dict[str, float]
    learning_curve: tuple[Point, ...]
    needed: int | None
    """Comparisons in all that would probably settle that it is better than a coin; None: no telling."""
    mistakes: tuple[Mistake, ...]
    drift: Drift | None
    candidates: tuple[Candidate, ...]
    side_bias: float
    """Log-odds by which raters preferred the left image, other things equal."""
    mean: float
    std: float
    """Of the raw scores on the reference images; a score is (raw - mean) / std, comparable within a prompt only."""
    typical_deviation: float
    """Median posterior standard deviation of the reference images' scores, in the same unit."""

    @property
    def is_better_than_chance(self) -> bool:
        return self.accuracy.clusters >= LEAST_CLUSTERS and self.accuracy.low > 0.5

    def to_dict(self) -> dict[str, Any]:
        return plain(asdict(self) | {"is_better_than_chance": self.is_better_than_chance})


def require_better_than_chance(report: FitReport, forced: bool = False) -> None:
    """Refuse a reward model whose held-out accuracy cannot be told from a coin, unless `forced`.

    Raises:
        RewardAtChance: the interval of the accuracy includes one half, or rests on too few prompts.
    """
    if forced or report.is_better_than_chance:
        return
    accuracy = report.accuracy
    seen = f"The reward model is right on {accuracy.mean:.1%} of {accuracy.n} held-out comparisons"
    unit = "prompts" if report.held_out_by == "prompt" else "sets of images of the one prompt"
    regardless = "or train on it regardless with `--set fit.force=true`."
    if accuracy.clusters < LEAST_CLUSTERS:
        raise RewardAtChance(
            f"{seen}, but those are of {accuracy.clusters} {unit}, and at least {LEAST_CLUSTERS} are needed to tell it "
            "from a coin.",
            hint=f"Collect ratings of more {unit}, {regardless}",
        )
    more = "Collect more ratings"
    if report.needed is not None:
        extra = max(report.needed - report.comparisons, 1)
        more += f" (about {extra} comparisons more, {report.needed} in all, would probably settle it)"
    if accuracy.clusters < FEW_CLUSTERS:
        more += f", best of more than these {accuracy.clusters} {unit}"
    raise RewardAtChance(
        f"{seen} (95 % interval {max(accuracy.low, 0):.1%} to {min(accuracy.high, 1):.1%}): it cannot be told from a "
        "coin.",
        hint=f"{more}, {regardless}",
    )


def plain(value: Any) -> Any:
    """JSON has no nan and no infinity: both become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
