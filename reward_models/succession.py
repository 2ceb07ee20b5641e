"""This round's reward model beside the previous round's: on the newest ratings, and on images that never change."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from data.bootstrap import Interval, interval
from data.ordering import share_right
from reward_models.answers import Answer, Compared, Thing
from reward_models.judgement import Pairs, gain


@dataclass(frozen=True, slots=True, kw_only=True)
class Previous:
    """The previous round's model on the newest round's comparisons, none of which it had seen.

    It knows the prompts, where it saw them in earlier rounds; ours is held out from them. The pictures are those of the
    policy that was trained on it: the report of that round has its accuracy among the judgements.
    """

    round: int
    pairs: int
    accuracy: Interval
    gain: Interval
    """Our accuracy minus its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How this round's scores of a fixed set of images differ from the previous round's."""

    images: int
    agreement: Interval
    """Rank correlation inside a prompt, over prompts."""
    shift: float
    """Root mean square of the change, in standard deviations of a score, each prompt's mean taken off."""


def against_previous(
    scores: Float[np.ndarray, "things"],
    answers: Sequence[Answer],
    pairs: Compared,
    judged: Pairs,
    ours: Float[np.ndarray, "pairs"],
    *,
    seed: int,
) -> Previous | None:
    """`scores` are the previous model's. None when the newest round decided nothing, or is the only one."""
    rounds = np.array([answers[each].round for each in pairs.answer])
    newest = rounds == rounds.max()
    theirs = (scores[pairs.first] - scores[pairs.second])[newest]
    part = judged.take(newest)
    accuracy = share_right(theirs, part.outcome, part.cluster, weights=part.weight, seed=seed)
    if newest.all() or accuracy is None:
        return None
    return Previous(
        round=int(rounds[~newest].max()),
        pairs=int(newest.sum()),
        accuracy=accuracy,
        gain=gain(part, ours[newest], theirs, seed=seed),
    )


def drift(
    before: Float[np.ndarray, "probe"],
    after: Float[np.ndarray, "probe"],
    probe: Sequence[Thing],
    *,
    seed: int,
) -> Drift | None:
    """Of the earlier model's scores to this one's, where a prompt has three images to put in an order."""
    _, prompt = np.unique([text for _, text in probe], return_inverse=True)
    several = [number for number, count in enumerate(np.bincount(prompt)) if count > 2] if probe else []
    if not several:
        return None
    means = (np.bincount(prompt, weights=each) / np.bincount(prompt) for each in (before, after))
    before, after = (each - mean[prompt] for each, mean in zip((before, after), means, strict=True))
    agreement = [_rank_correlation(before[prompt == each], after[prompt == each]) for each in several]
    return Drift(
        images=len(probe),
        agreement=interval(np.array(agreement), np.array(several), seed=seed),
        shift=float(np.sqrt(np.mean((after - before) ** 2))),
    )


def _rank_correlation(one: Float[np.ndarray, "n"], other: Float[np.ndarray, "n"]) -> float:
    """Spearman's; where scores are all equal, 1 when the others are too, else 0."""
    flat = [bool(np.ptp(each) < 1e-12) for each in (one, other)]
    return float(all(flat)) if any(flat) else float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])
