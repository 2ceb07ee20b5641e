"""A Gaussian over the scores of many images, of which only those that comparisons join depend on each other.

So its covariance is a matrix of blocks, which are inverted many at a time.
"""

from itertools import pairwise

import numpy as np
from scipy.linalg import get_lapack_funcs
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

_LARGE = 30
"""Rows of a block from which on a factorisation of its own is faster than the inversion of many at a time."""


class ScoreBlocks:
    """Scores with prior N(0, 1), and what is known of the differences between the two images of each pair.

    `first` and `second`, int (pairs,), are indices of `count` images.
    """

    def __init__(self, first: np.ndarray, second: np.ndarray, count: int) -> None:
        self.first, self.second = first, second
        linked = coo_array((np.ones(len(first)), (first, second)), (count, count))
        self.part = connected_components(linked, directed=False)[1]
        """For each image the number of the part that it hangs together with."""
        size = np.bincount(self.part)[self.part]
        self._order = np.lexsort((np.arange(count), self.part, size))
        """Images by the size of their part, those of one part side by side."""
        sorted_size = size[self._order]
        starts = np.concatenate([[0], np.cumsum(sorted_size)])
        self._row = np.empty(count, int)
        self._row[self._order] = starts[:-1]
        """Where an image's row begins in all blocks laid one after the other."""
        number, column = np.arange(count), np.empty(count, int)
        begins = np.flatnonzero(np.diff(self.part[self._order], prepend=-1))
        column[self._order] = number - np.repeat(begins, np.diff(np.append(begins, count)))
        self._column = column
        edges = np.flatnonzero(np.diff(sorted_size, prepend=0, append=0))
        self._runs = [
            (int(sorted_size[a]), slice(int(starts[a]), int(starts[b])), slice(int(a), int(b)))
            for a, b in pairwise(edges)
        ]
        self._diagonal = self._row + column
        self._pairs = self._diagonal[first], self._diagonal[second]
        self._one, self._other = self._row[first] + column[second], self._row[second] + column[first]
        self._entries = int(starts[-1])

    @property
    def largest(self) -> int:
        """Images of the largest part."""
        return max((size for size, _, _ in self._runs), default=0)

    def posterior(self, precision: np.ndarray, pull: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean (images,) and covariance, as `covariance_of` and `matrix` take it, where of each pair's difference d a
        factor exp(pull d - precision d^2 / 2) is known.
        """
        one, other = self._pairs
        places = np.concatenate([self._diagonal, one, other, self._one, self._other])
        values = np.concatenate([np.ones(len(self.part)), precision, precision, -precision, -precision])
        held = np.bincount(places, weights=values, minlength=self._entries)
        count = len(self.part)
        toward = np.bincount(self.first, pull, count) - np.bincount(self.second, pull, count)
        toward, mean = toward[self._order], np.empty(count)
        for size, entries, images in self._runs:
            inverse = _inverse(held[entries].reshape(-1, size, size))
            held[entries] = inverse.ravel()
            mean[self._order[images]] = (inverse @ toward[images].reshape(-1, size, 1)).ravel()
        return mean, held

    def of_differences(self, mean: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of each pair's difference."""
        one, other = self._pairs
        variance = covariance[one] + covariance[other] - covariance[self._one] - covariance[self._other]
        return mean[self.first] - mean[self.second], variance

    def variances(self, covariance: np.ndarray) -> np.ndarray:
        """(images,)"""
        return covariance[self._diagonal]

    def matrix(self, covariance: np.ndarray) -> csr_array:
        """The covariance as a sparse matrix (images, images)."""
        rows, columns = [], []
        for size, _, images in self._runs:
            blocks = self._order[images].reshape(-1, size)
            rows.append(np.repeat(blocks, size, axis=1).ravel())
            columns.append(np.tile(blocks, size).ravel())
        shape = (len(self.part), len(self.part))
        return csr_array((covariance, (np.concatenate(rows), np.concatenate(columns))), shape)

    def differences(self) -> csr_array:
        """(pairs, images): 1 at the first image of each pair and -1 at the second."""
        number = np.arange(len(self.first))
        values = np.repeat([1.0, -1.0], len(number))
        places = (np.tile(number, 2), np.concatenate([self.first, self.second]))
        return csr_array((values, places), (len(number), len(self.part)))


def _inverse(blocks: np.ndarray) -> np.ndarray:
    """Of symmetric positive definite matrices (blocks, rows, rows)."""
    if blocks.shape[1] < _LARGE:
        return np.linalg.inv(blocks)
    factorise, invert = get_lapack_funcs(("potrf", "potri"), (blocks,))
    inverses = np.empty_like(blocks)
    for block, inverse in zip(blocks, inverses, strict=True):
        half, _ = invert(factorise(block.T, lower=True)[0], lower=True, overwrite_c=True)  # above the diagonal 0
        np.add(half, half.T, out=inverse)
        np.fill_diagonal(inverse, half.diagonal())
    return inverses
