"""Fits a reward model on what people said: features, raters, choice of head by cross-validation, judgement, saving."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from data.bootstrap import Interval, interval
from data.ordering import is_right
from data.workspace import write_atomically
from reward_models.answers import (
    Answer,
    Compared,
    Thing,
    answers_from_rows,
    compared,
    groups,
    require_preferences,
    things_of,
)
from reward_models.backbone import Backbone, joint_features
from reward_models.choice_model import ChoiceModel, losses_of_scores
from reward_models.choices import Choices, as_choices
from reward_models.config import RewardFitConfig
from reward_models.features import FeatureCache, LoadImage, Pictures
from reward_models.folds import Folds
from reward_models.heads import Head
from reward_models.heads.ensemble import EnsembleHead, fit_ensemble
from reward_models.heads.finetune import FinetuneHead, fit_finetune
from reward_models.heads.imagereward import fit_imagereward
from reward_models.heads.linear import LinearHead
from reward_models.heads.mlp import MlpHead, fit_mlp
from reward_models.intervals import cross_validated
from reward_models.judgement import Judgement, Pairs, ceiling, gain, judge, mistakes
from reward_models.prognosis import ratings_needed
from reward_models.readings import Readings, compare_readings
from reward_models.reliability import Reliability, fit_reliability
from reward_models.report import FitReport, Mistake, Point
from reward_models.saved import FIT_FILE, HEAD_FILE, SavedHead, backbone_for, load_head
from reward_models.selection import Candidate, Tried, learning_curve, try_head, try_linear
from reward_models.succession import against_previous, drift

_SHARES = (0.125, 0.25, 0.5)
"""Of the answers, for the learning curve; the whole is what is judged anyway."""


def load_backbone(config: RewardFitConfig, device: str | torch.device = "cpu") -> Backbone:
    return Backbone.load(config.backbone, config.pretrained or None, device=device, chunk=config.batch_size)


def fit_reward(
    rows: Sequence[Mapping[str, Any]],
    load_image: LoadImage,
    config: RewardFitConfig,
    cache_dir: Path,
    folder: Path,
    *,
    reference_images: Sequence[Thing] = (),
    probe: Sequence[Thing] = (),
    previous: Path | None = None,
    snapshot_sha: str = "",
    device: str | torch.device = "cpu",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> FitReport:
    """Fit, judge and save a reward model: `head.safetensors` and, last, `fit.json` in `folder`.

    `rows` are those of a snapshot. `reference_images` are the round's draw, on which scores get mean 0 and standard
    deviation 1; without any, the rated images serve. `previous` is the folder of the round before's model, and `probe`
    the images on which the two are compared. `on_progress` hears of the images that the backbone has seen. Equal
    arguments give equal files.

    Raises:
        NotEnoughRatings: nobody preferred an image, or nothing can be held out.
        WorkspaceError: an image is missing or cannot be read.
    """
    answers = answers_from_rows(rows)
    things = things_of(answers)
    pairs = compared(answers, things)
    require_preferences(answers, pairs)
    group, held_out_by = groups(answers, things)
    backbone = load_backbone(config, device)
    cache = FeatureCache(cache_dir, backbone)
    cache.images(sorted({image for image, _ in (*things, *reference_images, *probe)}), load_image, on_progress)
    features = _features(cache, things, load_image)

    data = _Data.of(answers, things, features, group, config)
    heads = _heads_for(config, len(answers))
    tuning = None
    if "finetune" in heads:
        pictures = Pictures.read([image for image, _ in things], load_image, backbone, cache_dir)
        text = cache.texts([prompt for _, prompt in things])
        tuning = _Tuning(backbone=backbone, pictures=pictures, text=text)
    tried = [_try(head, data, tuning, config) for head in heads]
    best = min(tried, key=lambda each: each.candidate.log_loss)
    earlier = load_head(previous, backbone.fingerprint) if previous is not None else None
    start = earlier.head if earlier and config.warm_start else None
    head, side_bias = _fit(best.candidate, data, tuning, config, start)

    own = _cache_for(head, cache, backbone)
    reference = _features(own, sorted(reference_images) or things, load_image)
    head = head.centred_on(reference)
    with torch.no_grad():
        raw, deviation = (each.double() for each in head.predict(reference))
    mean, std = raw.mean().item(), raw.std(correction=0).item()
    std = std if std > 1e-8 else 1.0  # a constant reward stays constant instead of becoming noise

    now = SavedHead(head=head, fit={"mean": mean, "std": std})
    probe = sorted(set(probe))

    judged = _judged_pairs(answers, pairs, data)
    ours, zero_shot = (_difference(each, pairs) for each in (best.scores, features[:, 0].double().numpy()))
    judgement = _cross_validated(judge(judged, ours, seed=config.seed), data.folds.count)
    zero_shot_judgement = judge(judged, zero_shot, seed=config.seed)
    curve = _curve(data, judged, pairs, judgement.accuracy, config)
    against, drifted = None, None
    if earlier:
        theirs = _cache_for(earlier.head, cache, backbone)
        scores = earlier.scores(_features(theirs, things, load_image))
        against = against_previous(scores, answers, pairs, judged, ours, seed=config.seed)
        if probe:
            before, after = (
                each.scores(_features(seen, probe, load_image)) for each, seen in ((earlier, theirs), (now, own))
            )
            drifted = drift(before, after, probe, seed=config.seed)
    decided = int((pairs.outcome != 0).sum())
    forms = Counter(answer.form for answer in answers)
    report = FitReport(
        head=best.candidate.head,
        backbone=backbone.name,
        pretrained=backbone.pretrained,
        fingerprint=backbone.fingerprint,
        snapshot_sha=snapshot_sha,
        answers={f"{form}s": forms[form] for form in ("pair", "ranking", "grade", "label")}
        | {"both_bad": sum(answer.both_bad for answer in answers)},
        comparisons=len(pairs),
        decided=decided,
        ties=len(pairs) - decided,
        prompts=len({answer.prompt for answer in answers}),
        raters=len({answer.rater for answer in answers}),
        images=len(things),
        rounds=len({answer.round for answer in answers}),
        truncated=backbone.truncated(sorted({prompt for _, prompt in things})),
        held_out_by=held_out_by,
        accuracy=judgement.accuracy,
        zero_shot=zero_shot_judgement.accuracy,
        gain=cross_validated(gain(judged, ours, zero_shot, seed=config.seed), data.folds.count),
        judgement=judgement,
        zero_shot_judgement=zero_shot_judgement,
        ceiling=ceiling(judged, ours, seed=config.seed),
        previous=against,
        raters_fitted=data.reliability.raters,
        form_slopes=data.reliability.form_slopes,
        learning_curve=tuple(curve),
        needed=ratings_needed(
            [(point.comparisons, point.accuracy.mean, point.accuracy.n) for point in curve],
            judgement.accuracy,
            len(pairs),
        ),
        mistakes=_mistakes(answers, things, pairs, judged, ours),
        drift=drifted,
        candidates=tuple(
            replace(each.candidate, accuracy=_accuracy(_difference(each.scores, pairs), pairs)) for each in tried
        ),
        side_bias=side_bias,
        mean=mean,
        std=std,
        typical_deviation=deviation.median().item() / std,
    )
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.contiguous() for name, value in head.tensors().items()}
    write_atomically(folder / HEAD_FILE, save(tensors))
    text = json.dumps(report.to_dict(), indent=2, sort_keys=True, allow_nan=False)
    write_atomically(folder / FIT_FILE, f"{text}\n".encode())
    return report


@dataclass(frozen=True, slots=True, kw_only=True)
class _Data:
    """What every head is fitted on."""

    features: Float[Tensor, "things features"]
    group: np.ndarray
    readings: Readings
    """Of the choices, with each rater's slope."""
    folds: Folds
    weights: Float[np.ndarray, "choices"]
    reliability: Reliability

    @property
    def model(self) -> ChoiceModel:
        return self.readings.model

    @property
    def choices(self) -> Choices:
        return self.model.choices

    @classmethod
    def of(
        cls,
        answers: Sequence[Answer],
        things: Sequence[Thing],
        features: Float[Tensor, "things features"],
        group: np.ndarray,
        config: RewardFitConfig,
    ) -> "_Data":
        choices = as_choices(answers, things)
        newest = max(answer.round for answer in answers)
        weights = np.array([config.replay ** (newest - answers[each].round) for each in choices.answer])
        folds = Folds.of(choices, group, config.folds)
        readings = compare_readings(features.numpy(), choices, folds, config.l2, weights)
        reliability = fit_reliability(readings.model, answers, readings.l2, weights)
        if config.weigh_raters:
            readings = readings.with_slopes(reliability.slope, folds, config.l2, weights)
        return cls(
            features=features,
            group=group,
            readings=readings,
            folds=folds,
            weights=weights,
            reliability=reliability,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tuning:
    """What the head `finetune` needs beside features: the pictures, and the backbone to see them with."""

    backbone: Backbone
    pictures: Pictures
    text: Float[Tensor, "things width"]

    def fit(
        self, data: _Data, weights: Float[np.ndarray, "choices"], config: RewardFitConfig, part: int | None = None
    ) -> FinetuneHead:
        reading, l2 = data.readings.reading(part)
        return fit_finetune(
            data.features,
            data.choices,
            backbone=self.backbone,
            pictures=self.pictures,
            text=self.text,
            reading=reading,
            l2=l2,
            seed=config.seed,
            weights=weights,
        )

    def scores(self, head: FinetuneHead) -> Float[np.ndarray, "things"]:
        features = joint_features(self.pictures.features(head.adapt(self.backbone)), self.text)
        return head.predict(features)[0].double().numpy()


def _heads_for(config: RewardFitConfig, answers: int) -> list[str]:
    heads = [head for head in config.heads if head == "linear" or answers >= config.mlp_from]
    return heads or list(config.heads)


def _cache_for(head: Head, cache: FeatureCache, backbone: Backbone) -> FeatureCache:
    """Of the features that the head reads: the backbone's, or those of what the head makes of it."""
    adapted = backbone_for(head, backbone)
    return cache if adapted is backbone else FeatureCache(None, adapted)


def _features(cache: FeatureCache, things: Sequence[Thing], load_image: LoadImage) -> Float[Tensor, "things features"]:
    image = cache.images([image_id for image_id, _ in things], load_image)
    return joint_features(image, cache.texts([prompt for _, prompt in things]))


def _try(head: str, data: _Data, tuning: _Tuning | None, config: RewardFitConfig) -> Tried:
    if head == "linear":
        return try_linear(data.readings, data.folds, data.weights)

    def fit(weights: Float[np.ndarray, "choices"], part: int) -> Float[np.ndarray, "things"]:
        if tuning and head == "finetune":
            return tuning.scores(tuning.fit(data, weights, config, part))
        network = _fit_network(head, data, weights, config, None)
        with torch.no_grad():
            return network.predict(data.features)[0].double().numpy()

    return try_head(head, fit, data.choices, data.folds, data.weights)


def _fit(
    candidate: Candidate, data: _Data, tuning: _Tuning | None, config: RewardFitConfig, start: Head | None
) -> tuple[Head, float]:
    """The chosen head on all answers, and the side bias beside it."""
    if candidate.l2 is not None:
        fits = data.model.fit(np.array([candidate.l2]), data.weights[:, None], tolerance=1e-3)
        posterior = data.model.posterior(candidate.l2, data.weights, fits)
        return LinearHead.of(posterior), _side_bias(data.choices, posterior.extras)
    if tuning and candidate.head == "finetune":
        head = tuning.fit(data, data.weights, config)
        scores = tuning.scores(head)
    else:
        head = _fit_network(candidate.head, data, data.weights, config, start)
        with torch.no_grad():
            scores = head.predict(data.features)[0].double().numpy()
    return head, _side_bias(data.choices, losses_of_scores(data.choices, scores, data.weights)[1])


def _fit_network(
    head: str, data: _Data, weights: Float[np.ndarray, "choices"], config: RewardFitConfig, start: Head | None
) -> MlpHead | EnsembleHead:
    if head == "imagereward":
        return fit_imagereward(data.features, data.choices, seed=config.seed, weights=weights)
    if head == "ensemble":
        members = start.members if isinstance(start, EnsembleHead) else None
        return fit_ensemble(data.features, data.choices, seed=config.seed, weights=weights, start=members)
    earlier = start if isinstance(start, MlpHead) and not start.is_linear else None
    return fit_mlp(data.features, data.choices, seed=config.seed, weights=weights, start=earlier)


def _side_bias(choices: Choices, extras: Float[np.ndarray, "extras"]) -> float:
    return float(extras[choices.extra_names.index("side")]) if "side" in choices.extra_names else 0.0


def _difference(scores: Float[np.ndarray, "things"], pairs: Compared) -> Float[np.ndarray, "pairs"]:
    return scores[pairs.first] - scores[pairs.second]


def _accuracy(difference: Float[np.ndarray, "pairs"], pairs: Compared) -> float:
    decided = pairs.outcome != 0
    return float(is_right(difference, pairs.outcome)[decided].mean())


def _cross_validated(judgement: Judgement, parts: int) -> Judgement:
    """With the wider intervals of what a fit held out from its parts."""
    tie_aware = judgement.tie_aware
    return replace(
        judgement,
        accuracy=cross_validated(judgement.accuracy, parts),
        macro=cross_validated(judgement.macro, parts),
        tie_aware=None if tie_aware is None else cross_validated(tie_aware, parts),
        brier=cross_validated(judgement.brier, parts),
        by_task={name: cross_validated(found, parts) for name, found in judgement.by_task.items()},
        by_rater={name: cross_validated(found, parts) for name, found in judgement.by_rater.items()},
    )


def _judged_pairs(answers: Sequence[Answer], pairs: Compared, data: _Data) -> Pairs:
    return Pairs(
        first=pairs.first,
        second=pairs.second,
        outcome=pairs.outcome,
        cluster=data.group[pairs.first],
        fold=data.folds.of_thing[pairs.first],
        rater=np.array([answers[each].rater for each in pairs.answer]),
        task=np.array([answers[each].task for each in pairs.answer]),
        weight=_weights(answers, pairs),
    )


def _weights(answers: Sequence[Answer], pairs: Compared) -> Float[np.ndarray, "pairs"] | None:
    """For how many pairs each stands: the inverse of its propensity, as a multiple of its round's mean, so that rounds
    count by their answers. None where every round chose its pairs evenly.
    """
    found = np.array([1 / answers[each].propensity for each in pairs.answer])
    _, number = np.unique([answers[each].round for each in pairs.answer], return_inverse=True)
    found = found / (np.bincount(number, weights=found) / np.bincount(number))[number]
    return None if np.allclose(found, 1) else found


def _curve(data: _Data, judged: Pairs, pairs: Compared, accuracy: Interval, config: RewardFitConfig) -> list[Point]:
    folds = data.folds
    if folds.count < 2:
        return []
    decided, fitted_on = pairs.outcome != 0, 1 - 1 / folds.count
    points = []
    for share, scores in zip(
        _SHARES, learning_curve(data.readings, folds, config.l2, data.weights, _SHARES, seed=config.seed), strict=True
    ):
        right = is_right(_difference(scores, pairs), pairs.outcome)[decided]
        weights = judged.take(decided).weight
        found = interval(right, judged.cluster[decided], weights=weights, seed=config.seed)
        found = cross_validated(found, folds.count)
        points.append(Point(comparisons=round(len(pairs) * share * fitted_on), accuracy=found))
    return [*points, Point(comparisons=round(len(pairs) * fitted_on), accuracy=accuracy)]


def _mistakes(
    answers: Sequence[Answer],
    things: Sequence[Thing],
    pairs: Compared,
    judged: Pairs,
    difference: Float[np.ndarray, "pairs"],
) -> tuple[Mistake, ...]:
    found = []
    for row, probability in mistakes(judged, difference):
        preferred, other = things[pairs.first[row]], things[pairs.second[row]]
        if pairs.outcome[row] < 0:
            preferred, other = other, preferred
        found.append(
            Mistake(
                prompt=preferred[1],
                preferred=preferred[0],
                other=other[0],
                probability=probability,
                rater=answers[pairs.answer[row]].rater,
            )
        )
    return tuple(found)
