"""Which model's images raters prefer: win rates of all pairs of models that met, with intervals over prompts.

The model of an image is the policy that drew it, by what the draw noted.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from data.bootstrap import LEAST_CLUSTERS, Interval, share_interval
from data.records import Image, Judgement
from data.votes import Item, Votes


@dataclass(frozen=True, slots=True, kw_only=True)
class WinRate:
    """How often images of one model are preferred to those of another for the same prompt."""

    model: str
    other: str
    rate: Interval
    """Share of the comparisons that `model` wins, ties half; `clusters` are prompts. Of fewer than five the ends are
    nan."""
    by_reliability: Interval | None
    """The same with each comparison counted by its rater's reliability, those below 0 not at all; None where
    reliabilities are not known, or none is above 0."""
    ties: float
    """Share of the comparisons that are ties, both bad included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlindWinRate:
    """How often people preferred what one model drew to what another drew for the same prompt, not knowing which."""

    model: str
    other: str
    over_prompts: Interval
    """Share of the votes that `model` wins, ties half. What it would be for other prompts, by these raters; of fewer
    than five the ends are nan."""
    over_raters: Interval
    """The same share. What it would be by other raters, for these prompts; of one rater the ends are nan."""
    ties: float
    """Share of the votes that are ties, both bad included."""


def blind_win_rates(judgements: Iterable[Judgement], *, seed: int = 0) -> list[BlindWinRate]:
    """Of every two models that met in blind comparisons, in order of arrival."""
    by_models: dict[tuple[str, str], list[Judgement]] = {}
    for each in judgements:
        by_models.setdefault((each.model, each.other), []).append(each)
    found = []
    for (model, other), votes in by_models.items():
        credit = np.array([each.credit for each in votes])
        prompts, raters = np.array([each.prompt_id for each in votes]), np.array([each.rater_id for each in votes])
        found.append(
            BlindWinRate(
                model=model,
                other=other,
                over_prompts=of_enough(share_interval(credit, prompts, seed=seed)),
                over_raters=share_interval(credit, raters, seed=seed),
                ties=sum(each.outcome == "tie" for each in votes) / len(votes),
            )
        )
    return found


def of_enough(share: Interval) -> Interval:
    """The share; of fewer than five prompts without ends, for nothing is concluded of them."""
    return share if share.clusters >= LEAST_CLUSTERS else replace(share, low=math.nan, high=math.nan)


def model_name(image: Image) -> str:
    """The pretrained model, or the policy that a round left behind; without either, the round that drew."""
    trained = image.provenance.get("policy_round")
    if trained is None:
        return f"drawn in round {image.round}"
    return policy_name(trained)


def policy_name(round: int) -> str:
    """What the policy that a round left behind is called; that of round 0 is the pretrained model."""
    return f"policy of round {round}" if round else "reference"


def models_of(images: Iterable[Image]) -> dict[Item, str]:
    """The model of each image, in order of arrival. A picture that two models drew alike is no one's: left out."""
    drawn: dict[Item, set[str]] = {}
    for image in images:
        drawn.setdefault((image.prompt_id, image.image_id), set()).add(model_name(image))
    return {item: next(iter(names)) for item, names in drawn.items() if len(names) == 1}


def win_rates(
    votes: Votes, models: Mapping[Item, str], reliability: Mapping[str, float], *, seed: int = 0
) -> list[WinRate]:
    """Every pair of models with a comparison, the later model of a pair against the earlier one.

    `models` is in order of arrival. Images of one model are no comparison. Pairs of images that a ranking implies count
    by their weight.
    """
    order = {name: number for number, name in enumerate(dict.fromkeys(models.values()))}
    of_item = np.array([order.get(models.get(item, ""), -1) for item in votes.items], dtype=int)
    first, second = of_item[votes.first], of_item[votes.second]
    followed = np.array([max(reliability.get(name, 0.0), 0.0) for name in votes.raters])[votes.rater]
    names, prompt = list(order), votes.prompt
    found = []
    for earlier, later in combinations(range(len(names)), 2):
        rows = np.flatnonzero((np.minimum(first, second) == earlier) & (np.maximum(first, second) == later))
        if not len(rows):
            continue
        outcome, weight = votes.outcome[rows], votes.weight[rows]
        credit = 0.5 + 0.5 * outcome * np.where(first[rows] == later, 1, -1)
        by = weight * followed[rows]
        # A prompt that nobody reliable rated has no weight at all.
        kept = np.isin(prompt[rows], np.unique(prompt[rows][by > 0]))
        found.append(
            WinRate(
                model=names[later],
                other=names[earlier],
                rate=of_enough(share_interval(credit, prompt[rows], weights=weight, seed=seed)),
                by_reliability=of_enough(share_interval(credit[kept], prompt[rows][kept], weights=by[kept], seed=seed))
                if kept.any()
                else None,
                ties=float(np.average(outcome == 0, weights=weight)),
            )
        )
    return found
