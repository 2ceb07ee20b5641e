"""What a round trains on: the reward model it fitted, or a sum of rewards, each in its own standard deviations."""

import json
from dataclasses import replace
from typing import Any

import torch

from data.workspace import write_atomically
from hitl.config import CLIP_HEAD, RunConfig
from hitl.core.errors import ConfigError
from hitl.stages.judges import judges_of
from hitl.stages.stage import Desk, Stage, read_images
from reward_models.load import load_reward
from reward_models.rewards.clip_head import ClipHead
from reward_models.rewards.weighted_sum import Term, WeightedSum, require_gradient
from rl.algorithms.contract import Algorithm, Backpropagation, Preference
from rl.ranks import Ranks

_FILE = "reward.json"
_FITTED_ALONE = {"reward": {CLIP_HEAD: 1.0}, "reward_settings": {}}
_HOW_IT_IS_REACHED = {"url", "timeout_s", "retries", "backoff_s", "chunk", "device"}
"""Settings that a training may change on its way: they do not change a score."""


def require_rewards(config: RunConfig, algorithm: Algorithm, desk: Desk) -> None:
    """Load the rewards that training and judging will need and let go of them again: what is missing is missed before
    people rate.

    Raises:
        HitlError: one cannot be loaded, or has no gradient and the algorithm learns by nothing else.
    """
    trained_on = set() if isinstance(algorithm, Preference) else {*_weights(config)} - {CLIP_HEAD}
    judges = judges_of(config)
    for name in sorted({*trained_on, *judges}):
        reward = (
            load_reward(name, judges[name], device=desk.device(config)) if name in judges else _load(name, config, desk)
        )
        if name in trained_on and isinstance(algorithm, Backpropagation):
            require_gradient({name: reward})
        del reward
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def training_reward(stage: Stage, desk: Desk) -> ClipHead | WeightedSum:
    """The fitted reward model alone, or the weighted sum with the scales that this training began with.

    Raises:
        ConfigError: this training began with other rewards.
    """
    wanted, path, ranks = _what_counts(stage.config), stage.folder / _FILE, Ranks.here()
    begun = json.loads(path.read_text()) if path.exists() else _FITTED_ALONE
    changed = [name for name in wanted if wanted[name] != begun[name]]
    if changed and (stage.checkpoint(stage.round) / "state.pt").exists():
        raise ConfigError(
            f"[{changed[0]}] is {wanted[changed[0]]}, but this round's training was begun with {begun[changed[0]]}.",
            hint=f"Set it back for this round, or delete {stage.folder} to train it from its beginning.",
        )
    terms = []
    for name, weight in wanted["reward"].items():
        reward = fitted_reward(stage, desk) if name == CLIP_HEAD else _load(name, stage.config, desk)
        terms.append(Term(name=name, reward=reward, weight=weight))
    if not ranks.rank and (changed or not path.exists()):
        # Kept, not measured again: a service may judge an image otherwise when the training goes on.
        write_atomically(path, json.dumps(wanted | {"scales": _scales(stage, terms)}, indent=2).encode())
    ranks.wait()
    if wanted["reward"] == {CLIP_HEAD: 1.0}:
        return terms[0].reward
    scales = json.loads(path.read_text())["scales"]
    return WeightedSum(terms=tuple(replace(term, scale=scales[term.name]) for term in terms))


def _scales(stage: Stage, terms: list[Term]) -> dict[str, float]:
    """Each reward's standard deviation over the images that the round drew. The fitted one has 1 there already."""
    if all(term.name == CLIP_HEAD for term in terms):
        return {CLIP_HEAD: 1.0}
    drawn = stage.inputs["drawn"]
    images = read_images(stage.workspace, [row["image_id"] for row in drawn])
    scaled = WeightedSum(terms=tuple(terms)).scaled_on(images, [row["prompt"] for row in drawn], but=[CLIP_HEAD])
    return {term.name: term.scale for term in scaled.terms}


def _what_counts(config: RunConfig) -> dict[str, Any]:
    """The weights, and those settings that can change a score: what a training cannot change on its way."""
    weights = _weights(config)
    settings = {
        name: {key: value for key, value in given.items() if key not in _HOW_IT_IS_REACHED}
        for name, given in config.reward_settings.items()
        if name in weights
    }
    if config.fit.pessimism and CLIP_HEAD in weights:
        settings[CLIP_HEAD] = {"pessimism": config.fit.pessimism}
    return {"reward": weights, "reward_settings": {name: given for name, given in settings.items() if given}}


def _weights(config: RunConfig) -> dict[str, float]:
    return {name: weight for name, weight in sorted(config.reward.items()) if weight}


def _load(name: str, config: RunConfig, desk: Desk) -> Any:
    return load_reward(name, config.reward_settings.get(name, {}), device=desk.device(config))


def fitted_reward(stage: Stage, desk: Desk) -> ClipHead:
    """The reward model that this round fitted."""
    return ClipHead.load(
        stage.workspace.reward_dir(stage.round),
        device=desk.device(stage.config),
        chunk=stage.config.fit.batch_size,
        pessimism=stage.config.fit.pessimism,
    )
