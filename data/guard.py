"""The rule that ends a training which does harm, and says which of its policies to keep. docs/guards.md has its errors.

A look gives each of the same pictures (held-out prompts, fixed seeds) the learned reward and what independent judges
say. All differences are paired with the policy that the round started from, and averaged by prompt: pictures of one
prompt are not independent.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from scipy.special import stdtrit

from data.bootstrap import LEAST_CLUSTERS, Interval

Reason = Literal["", "hacking", "harm", "diversity", "kl"]
LEAST_FALL = 0.1
"""Of the judgement, in standard deviations of the start's pictures: nobody sees a smaller one, and a training that
hardly moves the pictures can have one beyond all noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the policy of one epoch was given, picture by picture; the pictures are the same at every look."""

    epoch: int
    """Finished when the look was made; 0: the policy that the round started from."""
    prompts: tuple[str, ...]
    """Ids, one for each picture."""
    reward: tuple[float, ...]
    """The learned one's scores: what training climbs."""
    judges: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Scores of those that no training step sees, by name. Higher is better."""
    diversity: Mapping[str, float] = field(default_factory=dict)
    """By prompt, the mean distance between the embeddings of its pictures; empty with one picture of each."""
    kl: tuple[float, ...] = ()
    """To the reference over the trained steps, in nats, one for each path that was followed; empty: not measured."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "Look":
        judges = {name: tuple(scores) for name, scores in row["judges"].items()}
        lists = {name: tuple(row[name]) for name in ("prompts", "reward", "kl")}
        return cls(epoch=row["epoch"], judges=judges, diversity=row["diversity"], **lists)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a look says: with no reason, go on."""

    reason: Reason = ""
    words: str = ""
    """What was seen, with its numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When to stop, and what to keep.

    The judgement of a picture is the mean of its judges' scores, each in standard deviations of the start's pictures.
    Training stops when the upper end of the change's interval is below 0 and the fall is one of `LEAST_FALL` or more.
    The intervals hold for all planned looks together with probability 1 - 2 `error`: each look takes its even share of
    it (Bonferroni's inequality), because looks at one training's policies, on the same pictures, depend on each other
    in ways that nobody knows beforehand. So a training whose judgement never truly falls is stopped with probability
    `error` at most. Group-sequential boundaries (O'Brien and Fleming 1979) and confidence sequences (Howard et al.
    2021, arXiv:1810.08240) would be narrower, but are for one quantity of which every look sees more data; here every
    look sees another policy.
    """

    looks: int
    """How many are planned, without that at the start."""
    error: float = 0.025
    kl_budget: float = 0.0
    """In nats; 0: none."""
    min_diversity: float = 0.0
    """As a share of the reference's; 0: any."""

    def __post_init__(self) -> None:
        if self.looks < 1 or not 0 < self.error < 0.5:
            raise ValueError(f"looks is {self.looks} and error {self.error}; expected 1 or more, and 0 to 0.5")

    def change(self, start: Look, now: Look, judge: str = "") -> Interval | None:
        """By how much one judge's scores (or the judgement of all, by default) moved since the start, in standard
        deviations of the start's pictures. None where there is no judge."""
        found = _moved(start, now, judge)
        return None if found is None else self._interval(found, now.prompts)

    def reward(self, start: Look, now: Look) -> Interval:
        """By how much the learned reward moved."""
        return self._interval(np.subtract(now.reward, start.reward), now.prompts)

    def diversity(self, reference: Mapping[str, float], now: Look) -> Interval | None:
        """The share of the reference's that is left; None where it had none, or one picture of a prompt has none.

        A ratio of means, its interval by Fieller's way: over prompts, how far d_now - share x d_reference is from 0.
        """
        shared = [prompt for prompt in now.diversity if prompt in reference]
        before, after = (np.array([each[prompt] for prompt in shared]) for each in (reference, now.diversity))
        if not shared or not before.mean() > 0:
            return None
        share = float(after.mean() / before.mean())
        away = self._interval((after - share * before) / before.mean(), shared)
        return Interval(share, share + away.low, share + away.high, away.n, away.clusters)

    def decide(self, start: Look, now: Look, reference: Mapping[str, float] | None = None) -> Verdict:
        """Whether training should stop at this look. `reference` is the reference's diversity by prompt, where the
        round did not start from it."""
        change, reward = self.change(start, now), self.reward(start, now)
        where = f"on {reward.clusters} held-out prompts"
        if change is not None and change.high < 0 and change.mean <= -LEAST_FALL:
            names = " and ".join(start.judges)
            fell = f"{names} fell by {_told(change, -1)} standard deviations {where}{self._each(start, now)}"
            if reward.low > 0:
                return Verdict(reason="hacking", words=f"the learned reward rose by {_told(reward)} while {fell}")
            unmoved = f"the learned reward did not clearly rise ({_told(reward)})"
            return Verdict(reason="harm", words=f"{fell}, and {unmoved}")
        left = self.diversity(start.diversity if reference is None else reference, now)
        if self.min_diversity and left is not None and left.high < self.min_diversity:
            words = f"pictures of one prompt are {_told(left)} times as different as the reference's {where}"
            return Verdict(reason="diversity", words=f"{words} (guard.min_diversity is {self.min_diversity:g})")
        if self.is_beyond_budget(now):
            nats = float(np.mean(now.kl))
            return Verdict(
                reason="kl",
                words=f"the policy is {nats:.3g} nats from the reference (guard.kl_budget is {self.kl_budget:g})",
            )
        return Verdict()

    def is_beyond_budget(self, look: Look) -> bool:
        return bool(self.kl_budget and look.kl) and float(np.mean(look.kl)) > self.kl_budget

    def best(self, looks: Sequence[Look], refused: Sequence[int] = ()) -> Look:
        """The one with the best judgement, of those whose epochs are not refused; without any judges, the latest.

        The first look is that of the start, and is never refused.
        """
        allowed = [look for look in looks if look is looks[0] or look.epoch not in refused]
        changes = [_moved(looks[0], look, "") for look in allowed]
        means = [-math.inf if change is None else float(np.nanmean(change)) for change in changes]
        return allowed[max(range(len(allowed)), key=lambda i: (means[i], i))]

    def keep(self, looks: Sequence[Look], stop: Verdict | None, refused: Sequence[int] = ()) -> Look:
        """The look whose policy the round ends with.

        After a stop the best. Else the last, unless the best is clearly better: the largest of several noisy numbers
        looks better than it is, so its lead must hold as one of as many as it was chosen from.
        """
        best, last = self.best(looks, refused), looks[-1]
        if best is last or (stop is not None and stop.reason):
            return best
        ahead, behind = (_moved(looks[0], look, "") for look in (best, last))
        if ahead is None or behind is None:
            return last
        return best if self._interval(ahead - behind, best.prompts, tries=len(looks) - 1).low > 0 else last

    def _each(self, start: Look, now: Look) -> str:
        """The judges one by one, where there are several."""
        if len(start.judges) < 2:
            return ""
        told = [(name, self.change(start, now, name)) for name in start.judges]
        return f" ({', '.join(f'{name} {found.mean:+.2f}' for name, found in told if found is not None)})"

    def _interval(self, values: np.ndarray, prompts: Sequence[str], tries: int = 0) -> Interval:
        """Student's, of the prompts' means: equally many pictures of each. It holds for `tries` together, by default
        for as many as looks are planned. Of fewer than 5 prompts nothing is concluded."""
        known = np.isfinite(values)  # a judge that fails on one picture stops nothing
        values = values[known]
        names, index = np.unique(np.asarray(prompts)[known], return_inverse=True)
        count = len(names)
        means = np.bincount(index, weights=values) / np.bincount(index)
        mean = float(means.mean()) if count else math.nan
        if count < LEAST_CLUSTERS:
            return Interval(mean, -math.inf, math.inf, len(values), count)
        quantile = float(stdtrit(count - 1, 1 - self.error / (tries or self.looks)))
        away = quantile * float(means.std(ddof=1)) / math.sqrt(count)
        return Interval(mean, mean - away, mean + away, len(values), count)


def _moved(start: Look, now: Look, judge: str) -> np.ndarray | None:
    """Each picture's change, in standard deviations of the start's pictures; a judge that gave them all the same score
    has no such unit, and no say."""
    found = []
    for name in [judge] if judge else start.judges:
        spread = float(np.nanstd(start.judges[name]))
        if spread > 1e-9:
            found.append(np.subtract(now.judges[name], start.judges[name]) / spread)
    return np.mean(found, axis=0) if found else None


def _told(found: Interval, sign: int = 1) -> str:
    low, high = sorted((sign * found.low, sign * found.high))
    return f"{sign * found.mean:.2f} [{low:.2f}, {high:.2f}]"
