"""Scores of images from what several raters said of them, together with how far each of the raters can be followed.

Each image has a score s ~ N(0, 1), each rater w a slope beta_w ~ N(1, SLOPE_SD^2), which may be below 0, and a bias to
the left b_w ~ N(0, BIAS_SD^2). With d = beta_w (s_first - s_second) + b_w, where b_w counts only if the first was shown
on the left of the second, an answer is

    P(first) = exp(d / 2) / Z,   P(second) = exp(-d / 2) / Z,   P(tie) = nu / Z,   Z = exp(d / 2) + exp(-d / 2) + nu:

Davidson's ties (1970, doi:10.1080/01621459.1970.10481082), with the order effect of Davidson and Beaver (1977,
doi:10.2307/2529467) and the scores on each rater's own scale. Of answers that prefer one, P(first) = sigma(d). "Both
bad" is taken for a tie. A vote of weight k counts k times.

Slopes, biases and nu are at the maximum of their posterior with all scores integrated out: maximised together with the
scores, slopes run away where images have few answers, because two answers that agree explain each other. The integral
is by expectation propagation (Minka 2001, arXiv:1301.2294): the posterior of the scores is a Gaussian, and each vote is
judged on the Gaussian without that vote. Images of different prompts share nothing but slopes, biases and nu, so the
Gaussian is one small block for each set of images that hang together, and what these owe to the parameters is added by
a Schur complement.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from scipy.sparse import coo_array, csr_array, diags_array

from data.score_blocks import ScoreBlocks
from data.vote_integrals import Cavities, Derivatives, derivatives, posterior
from data.votes import Item, Votes

logger = logging.getLogger(__name__)

SLOPE_SD, BIAS_SD = 0.7, 0.5
"""Prior standard deviations of a rater's slope about 1 and bias about 0: it takes some answers to be thought ill of."""
MOST_TOGETHER = 3000
"""Images that may hang together: their covariance is one full matrix."""

_MOST_SWEEPS, _SETTLED = 300, 1e-3
_STEP = 0.9
"""How far what a vote says of its two images goes to its new value in one sweep: all votes change at once."""
_WIDE = 1.0
"""Standard deviation of d above which a vote's integral takes many nodes."""
_AT_ONCE = 100_000
"""Images worked on at a time."""
_LONGEST_STEP, _LEAST_SHARE = 0.5, 0.05
_NEAR = 0.5
"""Largest step of a parameter from which on the steps before it are used to shorten the way."""
_REMEMBERED, _GROWN = 2, 3
"""Steps so used, and the factor by which a step is longer than the last where they have misled."""
_DIFFERENCE, _FOLLOWING = 0.05, 4
"""Share by which all slopes are changed to see how the evidence bends, and sweeps in which the scores follow."""
_MOST_RATERS = 500
"""Raters up to whom all parameters' standard errors take account of each other."""
_LEAST_TYPICAL = 0.1
"""Median slope below which nobody agrees with anybody, and who is turned round cannot be said."""
_LEAST_PRECISION = 0.25
"""Of any combination of the parameters: where the approximation says less, it has gone wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaterEffect:
    """One rater's slope and bias to the left (log-odds), with standard errors; nan where they cannot be told."""

    beta: float
    beta_se: float
    reliability: float
    """beta over that of the median rater: 1 as the others, 0 a coin, below 0 the other way round."""
    reliability_se: float
    """Less than that of beta: how far apart the images are, which moves all slopes alike, does not count."""
    bias: float
    bias_se: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """All that was fitted. Arrays are (images,); they and the raters are empty where nothing can be."""

    items: Sequence[Item] = ()
    score: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """Its unit is the standard deviation of the images of a prompt."""
    score_se: np.ndarray = field(default_factory=lambda: np.zeros(0))
    part: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    """Number of the set of images that hang together by comparisons: only within one can scores be compared."""
    raters: Mapping[str, RaterEffect] = field(default_factory=dict)
    tie: float = 0.0
    """nu: of two equal images nu / (2 + nu) are called a tie."""
    tie_se: float = np.nan
    notes: tuple[str, ...] = ()
    """What cannot be told, and what was done in its place, in sentences."""


def aggregate(votes: Votes) -> Aggregate:
    """Fit scores, raters and ties to all votes."""
    if not len(votes):
        return Aggregate(notes=("Nothing has been compared yet.",))
    if not votes.outcome.any():
        return Aggregate(notes=("No answer prefers an image to another, so there is nothing to tell images by.",))
    blocks = ScoreBlocks(votes.first, votes.second, len(votes.items))
    if blocks.largest > MOST_TOGETHER:
        seen = f"{blocks.largest:,} images hang together by comparisons"
        return Aggregate(notes=(f"{seen}; scores are fitted for up to {MOST_TOGETHER:,}.",))
    fit = _Fit(votes, blocks)
    has_settled = fit.run()
    score_se, parameter_se, against_se = fit.results()
    raters = len(votes.raters)
    was_seen = np.bincount(votes.rater, weights=votes.is_side_by_side, minlength=raters) > 0
    typical = float(np.median(fit.beta))
    is_known = raters > 1 and typical > _LEAST_TYPICAL
    columns = {
        "beta": fit.beta,
        "beta_se": parameter_se[:raters],
        "reliability": fit.beta / typical if is_known else np.full(raters, np.nan),
        "reliability_se": against_se / typical if is_known else np.full(raters, np.nan),
        "bias": np.where(was_seen, fit.bias, np.nan),
        "bias_se": np.where(was_seen, parameter_se[raters:-1], np.nan),
    }
    return Aggregate(
        items=votes.items,
        score=fit.mean,
        score_se=score_se,
        part=blocks.part,
        raters={
            name: RaterEffect(**{what: float(values[n]) for what, values in columns.items()})
            for n, name in enumerate(votes.raters)
        },
        tie=fit.tie,
        tie_se=fit.tie * float(parameter_se[-1]),
        notes=tuple(_notes(votes, fit, has_settled=has_settled)),
    )


def _notes(votes: Votes, fit: "_Fit", *, has_settled: bool) -> Iterator[str]:
    if len(votes.raters) == 1:
        yield "One rater alone: how far they can be followed cannot be told, so their slope is held at 1."
    elif float(np.median(fit.beta)) <= _LEAST_TYPICAL:
        yield "The raters do not agree with each other, so who of them answers the other way round cannot be told."
    if votes.both_bad:
        yield f"“Both bad” is taken for a tie ({votes.both_bad:,} of the answers)."
    prompts = np.unique([prompt_id for prompt_id, _ in votes.items], return_inverse=True)[1]
    parts = np.bincount(np.unique(np.column_stack([prompts, fit.blocks.part]), axis=0)[:, 0])
    if apart := int(np.count_nonzero(parts > 1)):
        whose = "1 prompt" if apart == 1 else f"{apart:,} prompts"
        yield (
            f"The images of {whose} fall into parts that no comparison joins. Scores can be compared within a part "
            "alone; between parts they are held together by nothing but the prior."
        )
    if not has_settled:
        yield "The fit has not settled: take its numbers as rough."


class _Fit:
    """The state of one fit: parameters, the Gaussian of the scores, and each vote's share in that."""

    def __init__(self, votes: Votes, blocks: ScoreBlocks) -> None:
        count = len(votes.raters)
        self.votes, self.blocks = votes, blocks
        self.beta, self.bias = np.ones(count), np.zeros(count)
        self.has_ties = not votes.outcome.all()
        self._columns = np.stack([votes.rater, count + votes.rater, np.full(len(votes), 2 * count)])
        self._log_tie = 0.0
        self._share, self._last_step = 1.0, np.zeros(2 * count + 1)
        self._path: list[tuple[np.ndarray, np.ndarray]] = []
        """Where the parameters were of late, and Newton's steps from there."""
        self._is_wide = np.zeros(len(votes), bool)
        self._precision, self._pull = np.zeros(len(votes)), np.zeros(len(votes))
        self.mean, self._covariance = blocks.posterior(self._precision, self._pull)

    @property
    def tie(self) -> float:
        return float(np.exp(self._log_tie)) if self.has_ties else 0.0

    def run(self) -> bool:
        """Move scores and parameters until all rest; whether it came to that."""
        for _ in range(_MOST_SWEEPS):
            before = self.mean
            self._sweep()
            moved = self._step(derivatives(self._cavities()))
            if max(moved, float(np.abs(self.mean - before).max())) < _SETTLED:
                return True
        logger.info("The fit of %d votes has not settled after %d sweeps.", len(self.votes), _MOST_SWEEPS)
        return False

    def _sweep(self) -> None:
        """Judge all votes once and renew the Gaussian."""
        cavities = self._cavities()
        mean, variance = posterior(cavities)
        said = np.maximum(1 / variance - 1 / cavities.variance, 0)
        self._precision = self._precision + _STEP * (said - self._precision)
        self._pull = self._pull + _STEP * (mean / variance - cavities.mean / cavities.variance - self._pull)
        self.mean, self._covariance = self.blocks.posterior(self._precision, self._pull)

    def _cavities(self) -> Cavities:
        """The Gaussian of each vote's difference without the vote."""
        votes = self.votes
        mean, variance = self.blocks.of_differences(self.mean, self._covariance)
        # A cavity holds the prior and other votes, so that its variance is 2 at most.
        precision = np.maximum(1 / variance - self._precision, 0.5)
        slope, shift = self.beta[votes.rater], self.bias[votes.rater] * votes.is_side_by_side
        # What is wide once stays so, or a vote at the bound would move the fit to and fro.
        self._is_wide |= np.abs(slope) > _WIDE * np.sqrt(precision)
        alone = (mean / variance - self._pull) / precision
        return Cavities(votes, alone, 1 / precision, slope, shift, self.tie, self._is_wide)

    def _step(self, judged: Derivatives) -> float:
        """Move all parameters; the largest change. Far from rest it is by a share of Newton's step, less where steps go
        to and fro and more where they go the same way.
        """
        count = len(self.beta)
        step, weight = self._newton(judged)
        longest = float(np.abs(step).max())
        same_way = (weight * step) @ self._last_step > 0
        self._share = min(self._share * 1.3, 1.0) if same_way else max(self._share / 2, _LEAST_SHARE)
        self._last_step = step
        if longest >= _NEAR or (self._path and longest > _GROWN * np.abs(self._path[-1][1]).max()):
            self._path = []
        if longest < _NEAR:
            here = np.concatenate([self.beta, self.bias, [self._log_tie]])
            self._path = [*self._path[-_REMEMBERED:], (here, step)]
        move = _shortened(self._path, weight) if len(self._path) > 1 else self._share * step
        move = np.clip(move, -_LONGEST_STEP, _LONGEST_STEP)
        self.beta, self.bias = self.beta + move[:count], self.bias + move[count:-1]
        self._log_tie += float(move[-1])
        return max(longest, float(np.abs(move).max()))

    def _newton(self, judged: Derivatives) -> tuple[np.ndarray, np.ndarray]:
        """The step of Newton's method for each rater by themselves, and for nu, with the scores held; and the precision
        of each parameter alone: (2 raters + 1,) each.
        """
        count, gradient = len(self.beta), self._gradient(judged)
        bent = np.empty((count, 2, 2))
        for n, m in product(range(2), repeat=2):
            bent[:, n, m] = np.bincount(self.votes.rater, judged.information[n, m], count)
        bent += np.diag([SLOPE_SD**-2, BIAS_SD**-2])
        size, direction = np.linalg.eigh(bent)
        along = np.einsum("wji,jw->wi", direction, gradient[:-1].reshape(2, count)) / np.maximum(size, SLOPE_SD**-2)
        slopes, biases = np.einsum("wij,wj->iw", direction, along)
        of_tie = max(float(judged.information[2, 2].sum()), _LEAST_PRECISION)
        step = np.concatenate([slopes * (count > 1), biases, [gradient[-1] / of_tie * self.has_ties]])
        weight = np.concatenate([bent[:, 0, 0], bent[:, 1, 1], [of_tie]])
        return step, np.maximum(weight, _LEAST_PRECISION)

    def _gradient(self, judged: Derivatives) -> np.ndarray:
        """Of the log posterior, by slopes, biases and log nu: (2 raters + 1,)."""
        gradient = np.bincount(self._columns.ravel(), judged.gradient.ravel(), 2 * len(self.beta) + 1)
        gradient[:-1] -= np.concatenate([(self.beta - 1) / SLOPE_SD**2, self.bias / BIAS_SD**2])
        return gradient

    def _bend_alike(self) -> np.ndarray:
        """How the gradient of the log posterior falls where all slopes grow alike, by a share of their own, and the
        scores follow, by differences: (2 raters + 1,).
        """
        rest = self.beta, self._precision, self._pull, self.mean, self._covariance
        along = []
        for factor in (1 - _DIFFERENCE, 1 + _DIFFERENCE):
            self.beta = rest[0] * factor
            for _ in range(_FOLLOWING):
                self._sweep()
            along.append(self._gradient(derivatives(self._cavities())))
            self.beta, self._precision, self._pull, self.mean, self._covariance = rest
        return (along[0] - along[1]) / (2 * _DIFFERENCE)

    def _covariance_of_parameters(self, judged: Derivatives) -> tuple[Any, csr_array]:
        """Covariance of slopes, biases and log nu, 0 of what is held fixed; and how the scores move with them, (images,
        parameters).

        Precision is the sum of what single votes say, less what the votes owe to scores that they share, a Schur
        complement. With very many raters that is left out: the matrix is then sparse.
        """
        votes, count = self.votes, len(self.beta)
        number, width = np.arange(len(votes)), 2 * count + 1
        places = (np.tile(number, 3), self._columns.ravel())
        response = csr_array((judged.response.ravel(), places), (len(votes), width))
        by_score = csr_array(self.blocks.differences().T @ response)
        moved = csr_array(self.blocks.matrix(self._covariance) @ by_score)
        prior = np.repeat([SLOPE_SD**-2, BIAS_SD**-2, 0.0], [count, count, 1])
        is_free = np.ones(width)
        is_free[:count], is_free[-1] = count > 1, self.has_ties
        if count > _MOST_RATERS:
            precision = self._sum(judged.information).diagonal() + prior
            return csr_array(diags_array(is_free / np.maximum(precision, _LEAST_PRECISION))), moved
        _, variance = self.blocks.of_differences(self.mean, self._covariance)
        own = variance * judged.response * judged.response[:, None]
        shared = (by_score.T @ moved).toarray() - self._sum(own).toarray()
        precision = self._sum(judged.information).toarray() + np.diag(prior)
        precision = self._corrected(precision, shared)
        kept = np.flatnonzero(is_free)
        size, direction = np.linalg.eigh(precision[np.ix_(kept, kept)])
        covariance = np.zeros((width, width))
        covariance[np.ix_(kept, kept)] = direction / np.maximum(size, _LEAST_PRECISION) @ direction.T
        return covariance, moved

    def _corrected(self, single: np.ndarray, shared: np.ndarray) -> np.ndarray:
        """What single votes say, less what they owe to shared scores. That is of first order in the scores, too much
        where images have few answers, so that no more of it is taken than is right where all slopes grow alike. There
        the precision is known, and is made right with as little else changed as can be, by the update of Broyden,
        Fletcher, Goldfarb and Shanno (Nocedal and Wright 2006, doi:10.1007/978-0-387-40065-5, Eq. 6.19).
        """
        if len(self.beta) == 1:
            return single - shared
        alike, bend = np.append(self.beta, np.zeros(len(self.beta) + 1)), self._bend_alike()
        by_votes, by_scores = (float(alike @ each @ alike) for each in (single, shared))
        is_little = abs(by_scores) < 1e-3 * by_votes
        share = 1.0 if is_little else float(np.clip((by_votes - alike @ bend) / by_scores, 0, 1))
        precision = single - share * shared
        held = precision @ alike
        if min(alike @ held, alike @ bend) <= 0:  # a saddle, as where raters always disagree
            return precision
        return precision - np.outer(held, held) / (alike @ held) + np.outer(bend, bend) / (alike @ bend)

    def _sum(self, of_votes: np.ndarray) -> coo_array:
        """What each vote says of its three parameters, (3, 3, votes), for all: (parameters, parameters)."""
        rows, columns = np.broadcast_arrays(self._columns[:, None], self._columns)
        width = 2 * len(self.beta) + 1
        return coo_array((of_votes.ravel(), (rows.ravel(), columns.ravel())), (width, width))

    def results(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Standard errors of the scores, (images,); of slopes, biases and log nu, (2 raters + 1,), nan of what is held
        fixed; and of slopes when all have a unit in common, (raters,).

        A score's variance is the Gaussian's, and what it owes to the parameters. How large all slopes are is as unsure
        as how far the images are apart, which says nothing of one rater against another.
        """
        judged = derivatives(self._cavities())
        covariance, moved = self._covariance_of_parameters(judged)
        more = [
            np.asarray(moved[rows].multiply(moved[rows] @ covariance).sum(axis=1)).ravel()
            for rows in _parts(len(self.mean))
        ]
        score_se = np.sqrt(self.blocks.variances(self._covariance) + np.concatenate(more))
        variance = covariance.diagonal()
        parameter_se = np.sqrt(np.where(variance > 0, variance, np.nan))
        count = len(self.beta)
        unit = np.zeros(len(variance))  # how the common unit of the slopes moves with them
        unit[:count] = self.beta / np.maximum(variance[:count], SLOPE_SD**2 * 1e-6)
        unit /= unit[:count] @ self.beta
        with_unit = covariance @ unit
        against = variance - 2 * np.append(self.beta, np.zeros(count + 1)) * with_unit
        against[:count] += self.beta**2 * (unit @ with_unit)
        return score_se, parameter_se, np.sqrt(np.maximum(against[:count], 0))


def _parts(length: int) -> Iterator[slice]:
    for start in range(0, length, _AT_ONCE):
        yield slice(start, min(start + _AT_ONCE, length))


def _shortened(path: Sequence[tuple[np.ndarray, np.ndarray]], weight: np.ndarray) -> np.ndarray:
    """The move from the last of some points, (parameters,), that have steps, by Anderson's acceleration (1965,
    doi:10.1145/321296.321305).

    Steps of one rater at a time are too short where all slopes grow alike, because there the scores give way, and too
    long elsewhere. How the step changed from point to point tells: the point between them where it would be least in
    squares by `weight` is where the last step is taken from.
    """
    points, steps = (np.array(each).T for each in zip(*path, strict=True))
    moved, changed, root = np.diff(points), np.diff(steps), np.sqrt(weight)
    back = np.linalg.lstsq(root[:, None] * changed, root * steps[:, -1], rcond=1e-6)[0]
    return steps[:, -1] - (moved + changed) @ back
