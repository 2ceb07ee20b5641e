"""An interval of a mean of votes that share both prompts and raters: for other prompts and other raters at once."""

import math
from dataclasses import asdict, dataclass

import numpy as np
from scipy.special import stdtrit

from data.bootstrap import Interval, not_narrower


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossed:
    """A share with its 95 % interval over prompts and raters, and how many there were."""

    mean: float
    low: float
    high: float
    se: float
    """Standard error of the mean; nan, as the ends are, with one prompt."""
    n: int
    prompts: int
    raters: int
    """With one, the interval is over prompts alone: nothing is known of how raters differ."""

    def to_dict(self) -> dict[str, float | int]:
        return asdict(self)


def crossed_interval(values: np.ndarray, prompts: np.ndarray, raters: np.ndarray) -> Crossed:
    """95 % interval, within 0 and 1, of the mean of `values`, float (n,), each of a prompt and a rater, names (n,).

    The variance is that over prompts plus that over raters less that of both together (Cameron, Gelbach and Miller
    2011, "Robust inference with multiway clustering"), each from the sums of what its clusters are away from the mean,
    made larger by k / (k - 1). It is no less than either of the first two: where one exceeds the sum, the others do not
    differ more than their votes would by chance. Student's t has the degrees of freedom of the sum by Satterthwaite
    (1946), or of the larger part where that is taken alone. Votes that are all alike are no certainty: the interval is
    no narrower than so few prompts allow (`data.bootstrap.not_narrower`).
    """
    n = len(values)
    if not n:
        return Crossed(mean=math.nan, low=math.nan, high=math.nan, se=math.nan, n=0, prompts=0, raters=0)
    mean = float(np.mean(values))
    away = np.asarray(values, dtype=float) - mean
    _, of_prompt = np.unique(prompts, return_inverse=True)
    _, of_rater = np.unique(raters, return_inverse=True)
    p, r = int(of_prompt.max()) + 1, int(of_rater.max()) + 1
    by_prompt, by_rater = _variance(away, of_prompt), _variance(away, of_rater)
    if p < 2:
        variance, freedom = np.array(math.nan), np.array(1.0)
    else:
        by_both = _variance(away, of_prompt * r + of_rater)
        variance, freedom = combined(np.array(by_prompt), np.array(by_rater), by_both, prompts=p, raters=r)
    se = math.sqrt(variance)
    half = float(stdtrit(freedom, 0.975)) * se
    low, high = np.clip([mean - half, mean + half], 0.0, 1.0)  # nan stays nan
    wide = not_narrower(Interval(mean, float(low), float(high), n, p))
    return Crossed(mean=mean, low=wide.low, high=wide.high, se=se, n=n, prompts=p, raters=r)


def combined(
    by_prompt: np.ndarray, by_rater: np.ndarray, by_both: float, *, prompts: int, raters: int
) -> tuple[np.ndarray, np.ndarray]:
    """The variance of the mean and its degrees of freedom, of those over prompts, over raters and over both together;
    arrays of one shape. Of one rater it is that over prompts.
    """
    if raters < 2:
        return by_prompt, np.full_like(by_prompt, prompts - 1.0)
    together, larger = by_prompt + by_rater - by_both, np.maximum(by_prompt, by_rater)
    parts = by_prompt**2 / (prompts - 1) + by_rater**2 / (raters - 1)
    alone = np.where(by_prompt >= by_rater, prompts - 1.0, raters - 1.0)
    freedom = np.divide(together**2, parts, out=np.array(alone), where=(together >= larger) & (parts > 0))
    return np.maximum(together, larger), freedom


def _variance(away: np.ndarray, cluster: np.ndarray) -> float:
    """Of the mean, by the sums over clusters; nan with one cluster."""
    sums = np.bincount(cluster, weights=away)
    found = np.bincount(cluster) > 0
    count = int(found.sum())
    return math.nan if count < 2 else float(sums @ sums) / len(away) ** 2 * count / (count - 1)
