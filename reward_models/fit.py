"""Fits a reward model on comparisons: features, choice of head by cross-validation, judgement, normalisation."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import save
from sklearn.model_selection import GroupKFold
from torch import Tensor

from data.bootstrap import Interval
from data.workspace import write_atomically
from hitl.core.errors import RewardAtChance
from reward_models.backbone import Backbone, joint_features
from reward_models.comparisons import Comparisons, from_rows, groups
from reward_models.config import RewardFitConfig
from reward_models.features import FeatureCache, LoadImage
from reward_models.heads.linear import LinearHead, fit_linear
from reward_models.heads.mlp import MlpHead, fit_mlp
from reward_models.intervals import FEW_CLUSTERS, LEAST_CLUSTERS, interval

HEADS = {"linear": LinearHead, "mlp": MlpHead}
HEAD_FILE, FIT_FILE = "head.safetensors", "fit.json"

_INNER_FOLDS = 4
_NESTED_UP_TO = 4000
_LEAST_LOG_TIE = -6.0  # a tie in a held-out fold is surprising, not impossible, to a head that saw none


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One head that was tried, and what it did on comparisons held out from it."""

    head: str
    l2: float | None
    """Penalty that cross-validation over all comparisons chose; None for a head without one."""
    log_loss: float
    """Mean negative log-likelihood of the held-out outcomes, ties included. The lowest is chosen."""
    accuracy: float
    by_l2: dict[str, float]
    """Held-out log loss of each penalty tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitReport:
    """What was fitted, on what, and how far it can be trusted. Accuracies are on held-out comparisons that prefer a
    side; equal scores count as half right.
    """

    head: str
    backbone: str
    pretrained: str | None
    fingerprint: str
    snapshot_sha: str
    comparisons: int
    decided: int
    ties: int
    prompts: int
    raters: int
    images: int
    held_out_by: str
    """`prompt`, or `images` when there is one prompt."""
    accuracy: Interval
    zero_shot: Interval
    """Of the backbone's zero-shot CLIP score, on the same comparisons."""
    gain: Interval
    """Accuracy minus that of zero-shot CLIP, comparison by comparison."""
    candidates: tuple[Candidate, ...]
    side_bias: float
    """Log-odds by which raters preferred the left image, other things equal."""
    mean: float
    std: float
    """Of the raw scores on the reference images; a score is (raw - mean) / std, comparable within a prompt only."""

    @property
    def is_better_than_chance(self) -> bool:
        return self.accuracy.clusters >= LEAST_CLUSTERS and self.accuracy.low > 0.5

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"is_better_than_chance": self.is_better_than_chance}


def load_backbone(config: RewardFitConfig, device: str | torch.device = "cpu") -> Backbone:
    return Backbone.load(config.backbone, config.pretrained or None, device=device, chunk=config.batch_size)


def fit_reward(
    rows: Sequence[Mapping[str, Any]],
    load_image: LoadImage,
    config: RewardFitConfig,
    cache_dir: Path,
    folder: Path,
    *,
    reference_images: Sequence[tuple[str, str]] = (),
    snapshot_sha: str = "",
    device: str | torch.device = "cpu",
) -> FitReport:
    """Fit, judge and save a reward model: `head.safetensors` and, last, `fit.json` in `folder`.

    `rows` are those of a snapshot. `reference_images` are the (image id, prompt) pairs of the round's draw, on which
    scores get mean 0 and standard deviation 1; without any, the rated images serve. Equal rows give equal files.
    """
    comparisons = from_rows(rows)
    group, held_out_by = groups(comparisons)
    backbone = load_backbone(config, device)
    cache = FeatureCache(cache_dir, backbone)
    features = _features(cache, comparisons.things, load_image)

    tried = [_try(head, features, comparisons, group, config) for head in _heads_for(config, len(comparisons))]
    candidate, held_out = min(tried, key=lambda each: each[0].log_loss)
    head = _fit(candidate.head, features, comparisons, candidate.l2, config)

    reference = _features(cache, sorted(reference_images), load_image) if reference_images else features
    with torch.no_grad():
        raw = head.score(reference).double()
    mean, std = raw.mean().item(), raw.std(correction=0).item()

    decided = comparisons.outcome != 0
    clusters = group[decided]
    right = _is_right(held_out, comparisons.outcome)[decided]
    clip_score = features[:, 0].double().numpy()
    clip_difference = clip_score[comparisons.first] - clip_score[comparisons.second]
    zero_shot = _is_right(clip_difference, comparisons.outcome)[decided]
    report = FitReport(
        head=candidate.head,
        backbone=backbone.name,
        pretrained=backbone.pretrained,
        fingerprint=backbone.fingerprint,
        snapshot_sha=snapshot_sha,
        comparisons=len(comparisons),
        decided=int(decided.sum()),
        ties=int((~decided).sum()),
        prompts=len(set(comparisons.prompts)),
        raters=len({row["rater_id"] for row in rows}),
        images=len(comparisons.things),
        held_out_by=held_out_by,
        accuracy=interval(right, clusters, seed=config.seed),
        zero_shot=interval(zero_shot, clusters, seed=config.seed),
        gain=interval(right - zero_shot, clusters, seed=config.seed),
        candidates=tuple(each for each, _ in tried),
        side_bias=head.side_bias,
        mean=mean,
        std=std if std > 1e-8 else 1.0,  # a constant reward stays constant instead of becoming noise
    )
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.contiguous() for name, value in head.tensors().items()}
    write_atomically(folder / HEAD_FILE, save(tensors))
    write_atomically(folder / FIT_FILE, (json.dumps(report.to_dict(), indent=2, sort_keys=True) + "\n").encode())
    return report


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
    if accuracy.mean > 0.5:
        needed = accuracy.n * ((accuracy.mean - accuracy.low) / (accuracy.mean - 0.5)) ** 2
        more += f" (about {math.ceil(needed / 10) * 10} in all would probably settle it)"
    if accuracy.clusters < FEW_CLUSTERS:
        more += f", best of more than these {accuracy.clusters} {unit}"
    raise RewardAtChance(
        f"{seen} (95 % interval {max(accuracy.low, 0):.1%} to {min(accuracy.high, 1):.1%}): it cannot be told from a "
        "coin.",
        hint=f"{more}, {regardless}",
    )


def _heads_for(config: RewardFitConfig, comparisons: int) -> list[str]:
    heads = [head for head in config.heads if head != "mlp" or comparisons >= config.mlp_from]
    return heads or list(config.heads)


def _features(
    cache: FeatureCache, things: Sequence[tuple[str, str]], load_image: LoadImage
) -> Float[Tensor, "things features"]:
    image = cache.images([image_id for image_id, _ in things], load_image)
    return joint_features(image, cache.texts([prompt for _, prompt in things]))


def _try(
    head: str, features: Tensor, comparisons: Comparisons, group: np.ndarray, config: RewardFitConfig
) -> tuple[Candidate, Float[np.ndarray, "comparisons"]]:
    """A head's evidence and its held-out differences of scores. Where there are few comparisons the penalty is chosen
    anew inside each part, so that the choice has not seen what it is judged on.
    """
    by_l2 = _log_loss_by_l2(features, comparisons, group, config, config.folds) if head == "linear" else {}
    best = min(by_l2, key=by_l2.__getitem__) if by_l2 else None
    difference = np.empty(len(comparisons))
    losses = np.empty(len(comparisons))
    for fitted_on, judged_on in _splits(group, config.folds):
        train = comparisons.take(fitted_on)
        l2 = best
        if best is not None and len(config.l2) > 1 and len(comparisons) <= _NESTED_UP_TO:
            inner = _log_loss_by_l2(features, train, group[fitted_on], config, _INNER_FOLDS)
            # One group inside tells nothing, and `best` has seen what is judged here: the strongest penalty has not.
            l2 = min(inner, key=inner.__getitem__) if inner else max(config.l2)
        model = _fit(head, features, train, l2, config)
        difference[judged_on], losses[judged_on] = _judge(model, features, comparisons.take(judged_on))
    decided = comparisons.outcome != 0
    candidate = Candidate(
        head=head,
        l2=best,
        log_loss=float(losses.mean()),
        accuracy=float(_is_right(difference, comparisons.outcome)[decided].mean()),
        by_l2={f"{l2:g}": loss for l2, loss in by_l2.items()},
    )
    return candidate, difference


def _log_loss_by_l2(
    features: Tensor, comparisons: Comparisons, group: np.ndarray, config: RewardFitConfig, folds: int
) -> dict[float, float]:
    """Held-out log loss of each penalty, the strongest first; empty when there is one group only."""
    if len(np.unique(group)) < 2:
        return {}
    splits = list(_splits(group, folds))
    table: dict[float, float] = {}
    for l2 in sorted(config.l2, reverse=True):
        losses = [
            _judge(fit_linear(features, comparisons.take(fitted_on), l2=l2), features, comparisons.take(judged_on))[1]
            for fitted_on, judged_on in splits
        ]
        table[l2] = float(np.concatenate(losses).mean())
    return table


def _splits(group: np.ndarray, folds: int) -> list[tuple[np.ndarray, np.ndarray]]:
    splitter = GroupKFold(min(folds, len(np.unique(group))))
    return list(splitter.split(group, groups=group))


def _fit(
    head: str, features: Tensor, comparisons: Comparisons, l2: float | None, config: RewardFitConfig
) -> LinearHead | MlpHead:
    if head == "mlp":
        return fit_mlp(features, comparisons, seed=config.seed)
    assert l2 is not None
    return fit_linear(features, comparisons, l2=l2)


@torch.no_grad()
def _judge(
    head: LinearHead | MlpHead, features: Tensor, comparisons: Comparisons
) -> tuple[Float[np.ndarray, "comparisons"], Float[np.ndarray, "comparisons"]]:
    """Differences of scores, and the negative log-likelihood of each outcome given the head's side bias and ties."""
    score = head.score(features).double().numpy()
    difference = score[comparisons.first] - score[comparisons.second]
    half = (difference + head.side_bias * comparisons.side) / 2
    logits = np.stack([half, -half, np.full_like(half, max(head.log_tie, _LEAST_LOG_TIE))])
    log_total = np.logaddexp.reduce(logits, axis=0)
    chosen = np.where(comparisons.outcome == 0, 2, np.where(comparisons.outcome == 1, 0, 1))
    return difference, log_total - logits[chosen, np.arange(len(half))]


def _is_right(difference: np.ndarray, outcome: np.ndarray) -> Float[np.ndarray, "comparisons"]:
    """1 where the sign agrees, 1/2 where the scores are equal."""
    return 0.5 + 0.5 * np.sign(difference) * outcome
