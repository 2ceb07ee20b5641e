"""Who judges a round's pictures beside the reward that it learned: gold, rewards it was not trained on, diversity."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8

from data.evaluation import DIVERSITY, GOLD, KL, distances_within
from data.judged_images import JudgedImages
from data.world.taste import taste
from data.world.verifier import judge
from hitl.config import RunConfig
from hitl.core.errors import ConfigError
from hitl.stages.stage import Desk
from reward_models.backbone import Backbone
from reward_models.fit import load_backbone
from reward_models.load import load_reward
from reward_models.rewards.clip_score import ClipScore

_CLIP_SCORE = "clip_score"
_WITH_EACH = 256
"""Pictures that a reward is given at a time; it has chunks of its own."""


def judges_of(config: RunConfig) -> dict[str, dict[str, Any]]:
    """The rewards of `evaluate.rewards`, each with its settings."""
    return {name: _settings(name, config) for name in config.evaluate.rewards}


def _settings(name: str, config: RunConfig) -> dict[str, Any]:
    given = config.reward_settings.get(name, {})
    if name == _CLIP_SCORE and not given:
        return {"backbone": config.fit.backbone, "pretrained": config.fit.pretrained}
    return given


def load_judge(name: str, config: RunConfig, backbone: Backbone, device: str) -> Any:
    """The reward of that name. CLIP score without settings of its own is by `backbone`, that of `[fit]`: the learned
    reward sees with it too.

    Raises:
        ModelLoadError, ConfigError: it cannot be loaded.
    """
    if name == _CLIP_SCORE and not config.reward_settings.get(name):
        return ClipScore(backbone=backbone)
    return load_reward(name, _settings(name, config), device=device)


def with_values(
    drawn: Mapping[str, JudgedImages], prompts: Mapping[str, str], config: RunConfig, desk: Desk
) -> dict[str, JudgedImages]:
    """The same pictures with what every judge says of them. `prompts` are texts by id.

    Pictures that the same judges saw before are not shown to them again. Each judge is loaded once, and one at a time.

    Raises:
        ModelLoadError, ConfigError: a judge cannot be loaded, or one does not give one score for each picture.
    """
    told = [judges_of(config), config.fit.backbone, config.fit.pretrained]
    key = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
    new = {subject: found for subject, found in drawn.items() if found.judges != key}
    if not new:
        return dict(drawn)
    texts = {subject: [prompts[each] for each in found.prompt_ids] for subject, found in new.items()}
    values = {subject: _of_the_world(found.images, texts[subject]) for subject, found in new.items()}
    backbone = load_backbone(config.fit, desk.device(config))
    for subject, found in new.items():
        values[subject][DIVERSITY] = distances_within(_features(backbone, found.images), found.prompt_ids)
    for name in config.evaluate.rewards:
        reward = load_judge(name, config, backbone, desk.device(config))
        for subject, found in new.items():
            values[subject][name] = _scores(name, reward, found.images, texts[subject])
        del reward
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    for subject, found in new.items():
        of_the_model = {KL: found.values[KL]} if KL in found.values else {}
        new[subject] = replace(found, judges=key, values=values[subject] | of_the_model)
    return {**drawn, **new}


def _of_the_world(
    images: UInt8[np.ndarray, "batch 3 h w"], texts: Sequence[str]
) -> dict[str, Float[np.ndarray, " batch"]]:
    """Gold, where the prompts are the starter world's; nothing where none is."""
    values = {name: np.full(len(images), np.nan) for name in GOLD}
    for row, (image, text) in enumerate(zip(images.transpose(0, 2, 3, 1), texts, strict=True)):
        if (verdict := judge(image, text)) is not None:
            found = {"correctness": verdict.score, "exact": float(verdict.exact), "taste": taste(image)}
            for name, value in found.items():
                values[name][row] = value
    return values if not np.isnan(values[GOLD[0]]).all() else {}


@torch.no_grad()
def _features(backbone: Backbone, images: UInt8[np.ndarray, "batch 3 h w"]) -> Float[np.ndarray, "batch width"]:
    parts = [backbone.image_features(part).cpu() for part in torch.from_numpy(images).split(backbone.chunk)]
    return torch.cat(parts).double().numpy()


def _scores(
    name: str, reward: Any, images: UInt8[np.ndarray, "batch 3 h w"], texts: Sequence[str]
) -> Float[np.ndarray, " batch"]:
    """What is not finite is not known: a judge that fails on one picture ends no round."""
    found = []
    for start in range(0, len(images), _WITH_EACH):
        told = texts[start : start + _WITH_EACH]
        scores = reward(torch.from_numpy(images[start : start + _WITH_EACH]), told)
        if scores.shape != (len(told),):
            raise ConfigError(
                f"The judge {name} gave scores of shape {tuple(scores.shape)} for {len(told)} images.",
                hint="It must return one number for each; or take it out of evaluate.rewards.",
            )
        found.append(scores.double().cpu().numpy())
    return np.concatenate(found)
