"""How unsure a fitted reward is which of two images people would prefer: what the next round had best ask about."""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reward_models.answers import Thing
from reward_models.backbone import joint_features
from reward_models.config import RewardFitConfig
from reward_models.features import FeatureCache, LoadImage
from reward_models.fit import load_backbone
from reward_models.heads import Head
from reward_models.heads.ensemble import EnsembleHead
from reward_models.saved import backbone_for, load_head

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class UncertainPair:
    """Two images of one prompt, by their numbers among the things that were asked about."""

    first: int
    second: int
    uncertainty: float
    """0 where one of the images is nearly another one of the prompt's: an answer would tell nothing new."""


def uncertain_pairs(
    folder: Path,
    things: Sequence[Thing],
    load_image: LoadImage,
    config: RewardFitConfig,
    cache_dir: Path,
    *,
    near_duplicate: float,
    device: str | torch.device = "cpu",
) -> list[UncertainPair]:
    """All pairs of images of one prompt, as the reward model that was saved in `folder` sees them.

    There are none, and a warning, where it was fitted on another backbone than the configured one.
    """
    backbone = load_backbone(config, device)
    saved = load_head(folder, backbone.fingerprint)
    if saved is None:
        logger.warning("The last fit is of another backbone: which pairs it is unsure of cannot be said.")
        return []
    adapted = backbone_for(saved.head, backbone)
    cache = FeatureCache(cache_dir if adapted is backbone else None, adapted)
    image = cache.images([image_id for image_id, _ in things], load_image)
    text = cache.texts([prompt for _, prompt in things])
    found = []
    for prompt in dict.fromkeys(prompt for _, prompt in things):
        rows = [number for number, thing in enumerate(things) if thing[1] == prompt]
        variance = difference_variance(saved.head, joint_features(image[rows], text[rows])) / saved.std**2
        kept = are_distinct(image[rows], near_duplicate)
        unsure = torch.where(kept[:, None] & kept, variance, 0.0).tolist()
        found += [
            UncertainPair(first=rows[one], second=rows[other], uncertainty=unsure[one][other])
            for one, other in itertools.combinations(range(len(rows)), 2)
        ]
    return found


@torch.no_grad()
def difference_variance(head: Head, features: Float[Tensor, "images features"]) -> Float[Tensor, "images images"]:
    """The posterior variance of each difference of two scores; of an ensemble, the mean of its members' variances times
    the variance between them.

    A head that is centred on one image scores the others relative to it, and so says how sure it is of the difference.
    """
    found = torch.stack([head.centred_on(row[None]).predict(features)[1].square() for row in features])
    if isinstance(head, EnsembleHead):
        found = found * torch.stack([difference_variance(member, features) for member in head.members]).mean(0)
    return found.fill_diagonal_(0.0)


def are_distinct(image: Float[Tensor, "images width"], near_duplicate: float) -> Bool[Tensor, "images"]:
    """Which images are kept when of those whose cosine is `near_duplicate` or more only the first is."""
    cosine = image @ image.T
    kept: list[int] = []
    for number in range(len(image)):
        if not (cosine[number, kept] >= near_duplicate).any():
            kept.append(number)
    return torch.isin(torch.arange(len(image)), torch.tensor(kept))
