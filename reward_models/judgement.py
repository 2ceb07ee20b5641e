"""How a reward model is judged: by pairs of images that it did not see, against raters and other models.

Everything takes `difference`, the score of each pair's first image minus that of its second, whichever model gave it:
the fitted head, zero-shot CLIP or the previous round's model. Nothing depends on which image is called first.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from data.bootstrap import Interval, interval
from data.ceiling import leave_one_out
from data.ordering import is_right
from reward_models.calibration import Bin, calibration, inverse_temperature, win_probability


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Pairs of images that people compared, one row for each answer."""

    first: np.ndarray
    """Number of an image; int (pairs,)."""
    second: np.ndarray
    outcome: np.ndarray
    """1: the first is better, -1: the second, 0: a tie; int."""
    cluster: np.ndarray
    """What must stay together in resampling: the number of the prompt, or of the set of images that hang together."""
    fold: np.ndarray
    """The part of the cross-validation that the pair was held out in."""
    rater: np.ndarray
    """Who answered, and below the prompt's task: names (or numbers) that tell the parts of a judgement apart."""
    task: np.ndarray
    weight: np.ndarray | None = None
    """For how many pairs each stands, by how it was chosen; float (pairs,). None: all alike."""

    def __len__(self) -> int:
        return len(self.first)

    def take(self, rows: np.ndarray) -> "Pairs":
        """The rows of a mask or a list of numbers."""
        return Pairs(
            first=self.first[rows],
            second=self.second[rows],
            outcome=self.outcome[rows],
            cluster=self.cluster[rows],
            fold=self.fold[rows],
            rater=self.rater[rows],
            task=self.task[rows],
            weight=None if self.weight is None else self.weight[rows],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One model on one set of pairs. Intervals are over prompts; those without any pair have n = 0 and mean nan."""

    accuracy: Interval
    """Share of the decided pairs that it gets right; equal scores are half right."""
    macro: Interval
    """Mean over the prompts of each prompt's accuracy: a prompt with many pairs counts as one with few."""
    tie_aware: Interval | None
    """Over all pairs, ties too, by PickScore's rule (see `tie_aware`); None without ties."""
    tie_share: float
    """To call every pair a tie has tie-aware accuracy (1 + tie_share) / 2. 0 without pairs."""
    temperature: float | None
    """T of sigmoid(difference / T), of all decided pairs; None where the scores tell nothing, and T is infinite."""
    brier: Interval
    ece: Interval
    ece_if_calibrated: Interval
    bins: tuple[Bin, ...]
    """These four as in `reward_models.calibration`, with the temperature of the other parts."""
    by_task: dict[str, Interval]
    """Accuracy on the decided pairs of each task, keyed by `Pairs.task` as a string."""
    by_rater: dict[str, Interval]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """How well people predict each other, and how well the model predicts them on the same answers."""

    human: Interval
    model: Interval


def judge(pairs: Pairs, difference: Float[np.ndarray, "pairs"], *, seed: int = 0) -> Judgement:
    """Everything that is said of one model by itself.

    Accuracies are those over all the pairs that could have been asked about, of which the ones with a small propensity
    count more. Calibration is of the pairs as they are.
    """
    decided = pairs.outcome != 0
    known, along = pairs.take(decided), difference[decided]
    right = is_right(along, known.outcome)
    probability = win_probability(along, known.outcome, known.fold)
    found = calibration(probability, known.outcome, known.cluster, seed=seed)
    inverse = inverse_temperature(along, known.outcome)
    return Judgement(
        accuracy=interval(right, known.cluster, weights=known.weight, seed=seed),
        macro=macro(right, known.cluster, weights=known.weight, seed=seed),
        tie_aware=tie_aware(pairs, difference, seed=seed),
        tie_share=float(np.mean(~decided)) if len(pairs) else 0.0,
        temperature=1 / inverse if inverse else None,
        brier=found.brier,
        ece=found.ece,
        ece_if_calibrated=found.ece_if_calibrated,
        bins=found.bins,
        by_task=split_by(right, known.task, known.cluster, weights=known.weight, seed=seed),
        by_rater=split_by(right, known.rater, known.cluster, weights=known.weight, seed=seed),
    )


def gain(
    pairs: Pairs, difference: Float[np.ndarray, "pairs"], other: Float[np.ndarray, "pairs"], *, seed: int = 0
) -> Interval:
    """Accuracy of one model minus that of another, pair by pair."""
    decided = pairs.outcome != 0
    known = pairs.take(decided)
    more = is_right(difference[decided], known.outcome) - is_right(other[decided], known.outcome)
    return interval(more, known.cluster, weights=known.weight, seed=seed)


def macro(
    right: Float[np.ndarray, "pairs"],
    clusters: np.ndarray,
    *,
    weights: Float[np.ndarray, "pairs"] | None = None,
    seed: int = 0,
) -> Interval:
    """Mean over clusters of the cluster's mean; `n` is the number of clusters."""
    names, index = np.unique(clusters, return_inverse=True)
    sums = np.bincount(index, weights=right if weights is None else right * weights, minlength=len(names))
    return interval(sums / np.bincount(index, weights=weights, minlength=len(names)), names, seed=seed)


def split_by(
    values: Float[np.ndarray, "pairs"],
    labels: np.ndarray,
    clusters: np.ndarray,
    *,
    weights: Float[np.ndarray, "pairs"] | None = None,
    seed: int = 0,
) -> dict[str, Interval]:
    """The mean of each label's values."""
    found = {}
    for label in np.unique(labels):
        inside = labels == label
        weight = None if weights is None else weights[inside]
        found[str(label)] = interval(values[inside], clusters[inside], weights=weight, seed=seed)
    return found


def tie_aware(pairs: Pairs, difference: Float[np.ndarray, "pairs"], *, seed: int = 0) -> Interval | None:
    """Three-way accuracy of PickScore (arXiv:2305.01569, section 5), or None without ties.

    A tie is predicted where the probability is near 1/2. Right counts 1, a tie taken for a win or a win for a tie 1/2,
    the wrong image 0. How near is chosen on the other parts of the cross-validation. That is done on |difference|:
    within one part the temperature is one number, so the two orders are the same.
    """
    if not (pairs.outcome == 0).any():
        return None
    credit = np.empty(len(pairs))
    for part in np.unique(pairs.fold):
        held_out = pairs.fold == part
        threshold = _tie_threshold(difference[~held_out], pairs.outcome[~held_out])
        predicted = np.where(np.abs(difference) < threshold, 0.0, np.sign(difference))
        credit[held_out] = (1 - np.abs(predicted - pairs.outcome) / 2)[held_out]
    return interval(credit, pairs.cluster, weights=pairs.weight, seed=seed)


def _tie_threshold(difference: Float[np.ndarray, "pairs"], outcome: Int[np.ndarray, "pairs"]) -> float:
    """The |difference| below which to predict a tie for the most credit; of equal ones the smallest."""
    size, place = np.unique(np.abs(difference), return_inverse=True)
    by_tie = 1 - np.abs(outcome) / 2
    by_sign = 1 - np.abs(np.sign(difference) - outcome) / 2
    more = np.bincount(place, weights=by_tie - by_sign, minlength=len(size))
    taken = int(np.argmax(np.concatenate([[0.0], np.cumsum(more)])))  # so many of the smallest become ties
    if taken == 0:
        return 0.0
    return float("inf") if taken == len(size) else float(size[taken - 1] + size[taken]) / 2


def ceiling(pairs: Pairs, difference: Float[np.ndarray, "pairs"], *, seed: int = 0) -> Ceiling | None:
    """How often the other raters of a pair, and how often the model, say what a rater says; None without such pairs.

    Each rater has one vote on a pair of images: the side that the rater took more often, none where that is undecided.
    Taken are the votes on pairs where at least two raters have one. Each vote is predicted twice: by the majority of
    the *other* raters' votes on that pair (without a majority half right), and by the sign of the model's difference.
    So both predict the same answers; of two raters the first is plainly how often they agree. A model can be above
    people: it has seen more of what people say than the others on one pair.
    """
    left = leave_one_out(pairs.first, pairs.second, pairs.outcome, pairs.rater)
    if not len(left.row):
        return None
    clusters = pairs.cluster[left.row]
    return Ceiling(
        human=interval(is_right(left.others.astype(float), left.vote), clusters, seed=seed),
        model=interval(is_right(difference[left.row], left.vote), clusters, seed=seed),
    )


def mistakes(pairs: Pairs, difference: Float[np.ndarray, "pairs"], most: int = 8) -> list[tuple[int, float]]:
    """The decided pairs that the model is most sure of and wrong: (row, probability given to the image that lost).

    Of rows about the same two images the first is taken.
    """
    probability = win_probability(difference, pairs.outcome, pairs.fold)
    lost = np.where(pairs.outcome == 1, 1 - probability, probability)
    rows = [row for row in np.argsort(-lost, kind="stable").tolist() if pairs.outcome[row] and lost[row] > 0.5]
    by_images: dict[frozenset[int], int] = {}
    for row in rows:
        by_images.setdefault(frozenset((int(pairs.first[row]), int(pairs.second[row]))), row)
    return [(row, float(lost[row])) for row in list(by_images.values())[:most]]
