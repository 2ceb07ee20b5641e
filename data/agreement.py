"""How far raters agree beyond chance: Krippendorff's alpha and Fleiss' kappa, with intervals by resampling tasks.

Formulas: K. Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), https://repository.upenn.edu/asc_papers/43;
J. L. Fleiss, Measuring nominal scale agreement among many raters (1971), doi:10.1037/h0031619.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Level = Literal["nominal", "ordinal", "interval"]
"""What a difference between two values means: nothing but different, so many ranks apart, or so far apart."""

_COVERED = (0.025, 0.975)
_ALL_THE_SAME = "All answers are the same, so there is no telling agreement from chance."
_NOTHING_SHARED = "Nothing has answers of two raters yet."


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
        return Agreement(
            alpha=np.nan,
            low=np.nan,
            high=np.nan,
            units=len(pairable),
            values=values,
            clusters=groups,
            reason=_ALL_THE_SAME if pairable else _NOTHING_SHARED,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Kappa:
    """Fleiss' kappa: 1 where raters always agree, 0 where they agree as often as by chance."""

    kappa: float
    """nan where it is not defined; `reason` then says why."""
    low: float
    """Of the 95 % percentile interval over clusters; nan with fewer than two."""
    high: float
    raters: int
    """How many answers each unit has: the number that most units have, of two or more."""
    units: int
    left_out: int
    """Units with two answers or more, but not so many: kappa is not defined for them together."""
    reason: str = ""


def fleiss_kappa(
    units: Iterable[Sequence[Hashable]],
    *,
    clusters: Iterable[Hashable] | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Kappa:
    """Kappa of `units`: for each thing that was judged, the names that it got, one from each rater.

    It wants as many raters of each thing. Taken are the things with as many as most have; what was left out is counted,
    and alpha takes all. The interval resamples whole `clusters`, as alpha's does.
    """
    given = [*units]
    names: Sequence[Hashable] = range(len(given)) if clusters is None else [*clusters]
    pairable = [(name, values) for name, values in zip(names, given, strict=True) if len(values) > 1]
    sizes = Counter(len(values) for _, values in pairable)
    raters = max(sizes, key=lambda size: (sizes[size], size), default=0)
    taken = [(name, values) for name, values in pairable if len(values) == raters]
    domain = {value: place for place, value in enumerate(sorted({v for _, each in taken for v in each}, key=str))}
    kappa = low = high = np.nan
    if len(domain) > 1:
        contents: dict[Hashable, np.ndarray] = {}
        for name, values in taken:
            held = np.bincount([domain[value] for value in values], minlength=len(domain))
            # Ordered pairs of raters who agree; things; and how often each name was given.
            row = np.concatenate([[held @ held - raters, 1], held])
            contents[name] = contents[name] + row if name in contents else row
        sums = np.array([*contents.values()], dtype=float)
        kappa = float(_kappas(sums.sum(0)[None], raters)[0])
        if len(sums) > 1:
            # Clusters with the same sums are alike: how often each sort is drawn is multinomial.
            sorts, often = np.unique(sums, axis=0, return_counts=True)
            drawn = np.random.default_rng(seed).multinomial(len(sums), often / len(sums), size=samples)
            found = _kappas(drawn @ sorts, raters)
            low, high = (float(each) for each in np.quantile(found[np.isfinite(found)], _COVERED))
    reason = "" if len(domain) > 1 else _ALL_THE_SAME if taken else _NOTHING_SHARED
    left_out = len(pairable) - len(taken)
    return Kappa(kappa=kappa, low=low, high=high, raters=raters, units=len(taken), left_out=left_out, reason=reason)


def _kappas(sums: np.ndarray, raters: int) -> np.ndarray:
    """(P - P_e) / (1 - P_e) of each row: agreeing pairs, things, and how often each name was given; nan where all are
    the same.
    """
    agreeing, things, given = sums[:, 0], sums[:, 1], sums[:, 2:]
    seen = agreeing / (things * raters * (raters - 1))
    expected = ((given / (things * raters)[:, None]) ** 2).sum(1)
    is_defined = np.count_nonzero(given, axis=1) > 1
    return np.divide(seen - expected, 1 - expected, out=np.full(len(sums), np.nan), where=is_defined)


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
