"""How far raters agree beyond chance: Krippendorff's alpha, with an interval by resampling tasks.

Formulas: K. Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), https://repository.upenn.edu/asc_papers/43.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Level = Literal["nominal", "ordinal", "interval"]
"""What a difference between two values means: nothing but different, so many ranks apart, or so far apart."""

_COVERED = (0.025, 0.975)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Alpha: 1 where raters always agree, 0 where they agree as often as by chance, below 0 where less often."""

    alpha: float
    """nan where it is not defined; `reason` then says why."""
    low: float
    """Of the 95 % percentile interval over clusters; nan with fewer than two."""
    high: float
    units: int
    """Things that at least two raters gave a value to: only those count."""
    values: int
    """Values that they gave to those."""
    clusters: int
    reason: str = ""


def krippendorff_alpha(
    units: Iterable[Sequence[Any]],
    level: Level,
    *,
    clusters: Iterable[Hashable] | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Agreement:
    """Alpha of `units`: for each thing that was judged, the values that it got, one from each rater.

    A thing may have any number of values; with fewer than two it says nothing. Values are numbers unless the level is
    nominal. The interval resamples whole `clusters` (by default each unit is its own): what was judged on one screen is
    not independent.
    """
    given = [*units]
    names: Sequence[Hashable] = range(len(given)) if clusters is None else [*clusters]
    pairable = [(name, values) for name, values in zip(names, given, strict=True) if len(values) > 1]
    domain = sorted({value for _, values in pairable for value in values}, key=str if level == "nominal" else None)
    values, groups = sum(len(values) for _, values in pairable), len({name for name, _ in pairable})
    if len(domain) < 2:
        reason = "All answers are the same, so there is no telling agreement from chance."
        return Agreement(
            alpha=np.nan,
            low=np.nan,
            high=np.nan,
            units=len(pairable),
            values=values,
            clusters=groups,
            reason=reason if pairable else "Nothing has answers of two raters yet.",
        )
    patterns, often = _patterns(pairable, {value: place for place, value in enumerate(domain)})
    points = np.arange(len(domain)) if level == "nominal" else np.array(domain, dtype=float)
    low = high = np.nan
    if groups > 1:
        # Clusters with the same values are alike: how often each pattern is drawn is multinomial.
        drawn = np.random.default_rng(seed).multinomial(groups, often / often.sum(), size=samples)
        found = _alphas((drawn @ patterns.reshape(len(patterns), -1)).reshape(-1, *patterns.shape[1:]), points, level)
        low, high = np.quantile(found[np.isfinite(found)], _COVERED)
    alpha = _alphas(np.tensordot(often, patterns, axes=1)[None], points, level)[0]
    return Agreement(
        alpha=float(alpha), low=float(low), high=float(high), units=len(pairable), values=values, clusters=groups
    )


def _patterns(
    pairable: Sequence[tuple[Hashable, Sequence[Any]]], place: dict[Any, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Coincidences o_ck of every sort of cluster, (patterns, values, values), and how many clusters are of each."""
    contents: dict[Hashable, list[tuple[int, ...]]] = {}
    for name, values in pairable:
        contents.setdefault(name, []).append(tuple(sorted(place[value] for value in values)))
    often = Counter(tuple(sorted(units)) for units in contents.values())
    patterns = np.zeros((len(often), len(place), len(place)))
    for number, units in enumerate(often):
        for unit in units:
            held = np.bincount(unit, minlength=len(place))
            # Ordered pairs of values by different raters, over the number of values less one.
            patterns[number] += (np.outer(held, held) - np.diag(held)) / (len(unit) - 1)
    return patterns, np.array([*often.values()], dtype=float)


def _alphas(coincidences: np.ndarray, points: np.ndarray, level: Level) -> np.ndarray:
    """1 - D_o / D_e of each matrix o_ck, (samples, values, values); nan where all values are the same."""
    held = coincidences.sum(2)
    n = held.sum(1)
    if level == "nominal":
        seen = n - np.trace(coincidences, axis1=1, axis2=2)
        expected = n**2 - (held**2).sum(1)
    else:
        # The ordinal difference of c and k, sum_{g=c..k} n_g - (n_c + n_k) / 2, is one between the values' mid-ranks.
        x = held.cumsum(1) - held / 2 if level == "ordinal" else np.broadcast_to(points, held.shape)
        square = (held * x**2).sum(1)
        seen = 2 * (square - np.einsum("sc,sck,sk->s", x, coincidences, x))
        expected = 2 * (n * square - (held * x).sum(1) ** 2)
    is_defined = np.count_nonzero(held, axis=1) > 1
    ratio = np.divide((n - 1) * seen, expected, out=np.full(len(n), np.nan), where=is_defined)
    return 1 - ratio
