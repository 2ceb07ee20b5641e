"""The Gaussian of the scores, against the whole matrix inverted at once."""

import numpy as np
import pytest

from data.score_blocks import ScoreBlocks


def test_parts_of_any_size_are_those_of_the_whole_matrix():
    """Parts of two and four images, inverted together, and one of 60, by itself."""
    rng = np.random.default_rng(0)
    pairs = [(2 * n, 2 * n + 1) for n in range(5)] + [(10, 11), (11, 12), (12, 13), (13, 10)]
    pairs += [(14 + n, 15 + n) for n in range(59)] + [
        (14 + a, 14 + b) for a, b in rng.integers(60, size=(100, 2)) if a != b
    ]
    image = rng.permutation(74)  # so that those of a part do not lie together
    first, second = image[np.array(pairs)].T
    precision, pull = rng.uniform(0, 2, len(pairs)), rng.normal(size=len(pairs))
    blocks = ScoreBlocks(first, second, 74)
    apart = np.zeros((len(pairs), 74))
    apart[np.arange(len(pairs)), first], apart[np.arange(len(pairs)), second] = 1, -1
    covariance = np.linalg.inv(np.eye(74) + apart.T @ (precision[:, None] * apart))
    mean, held = blocks.posterior(precision, pull)
    assert blocks.largest == 60
    assert mean == pytest.approx(covariance @ (apart.T @ pull))
    assert blocks.matrix(held).toarray() == pytest.approx(covariance)
    assert blocks.variances(held) == pytest.approx(covariance.diagonal())
    difference, variance = blocks.of_differences(mean, held)
    assert difference == pytest.approx(apart @ mean)
    assert variance == pytest.approx(np.einsum("pi,ij,pj->p", apart, covariance, apart))
