"""Variances that borrow from each other, against numbers of limma and of what they were drawn from."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, special, stats

from voxgap.metrics.moderation import inverse_trigamma, moderated, prior, squeezed


def test_trigamma_is_inverted() -> None:
    values = np.geomspace(2e-6, 1e4, 40)
    assert special.polygamma(1, inverse_trigamma(values)) == pytest.approx(values, rel=1e-9)
    assert inverse_trigamma(5) == pytest.approx(0.4961687, abs=1e-7)  # limma's trigammaInverse(5)


def test_the_numbers_are_those_of_limma() -> None:
    # R: limma::squeezeVar(c(0.5, 1.3, 7.8), df = 3), printed in the tests of inmoose 0.9.1, a port of it.
    found = prior([0.5, 1.3, 7.8], 3)
    assert (found.degrees, found.variance) == pytest.approx((2.830777, 1.676927), abs=1e-6)
    assert squeezed([0.5, 1.3, 7.8], 3, found) == pytest.approx([1.071385, 1.482994, 4.827317], abs=1e-6)


def test_of_many_the_prior_is_where_the_likelihood_is_greatest() -> None:
    rng = np.random.default_rng(0)
    degrees = rng.choice([2, 4, 9], 4000)
    drawn = 0.3 * 6 / rng.chisquare(6, 4000)
    variances = drawn * rng.chisquare(degrees) / degrees

    def loss(log: np.ndarray) -> float:
        scale, free = np.exp(log)
        return -float(stats.f.logpdf(variances / scale, degrees, free).sum() - len(variances) * log[0])

    scale, free = np.exp(optimize.minimize(loss, [0.0, 1.0], method="Nelder-Mead").x)
    found = prior(variances, degrees)
    assert found.variance == pytest.approx(scale, rel=0.03)
    assert found.degrees == pytest.approx(free, rel=0.15)
    assert (found.variance, found.degrees) == pytest.approx((0.3, 6), rel=0.15)


def test_equal_variances_are_pooled_and_few_say_nothing() -> None:
    found = prior([1.0, 1.1, 0.9], 4)
    assert found.degrees == np.inf
    assert squeezed([1.0, 1.1, 0.9], 4, found) == pytest.approx(float(found.variance))
    assert prior([2.0, 0.0, np.nan], 4).degrees == 0
    assert [float(one) for (one,) in moderated([2.0], [4], 2, 4)] == [2, 4]


def test_nothing_becomes_surer_than_all_scores_are() -> None:
    variances = np.array([[0.9, 1.0, 1.1, 1.0, 0.95, 30.0], [1.0, 1.0, 1.0, 1.0, 0.0, np.nan]])
    found, degrees = moderated(variances, np.full((2, 6), 2.0), 4, [6, 6])
    known = variances > 0
    assert (found[known] >= variances[known]).all()
    assert (degrees[known] <= 5).all()
    assert degrees[1, :4] == pytest.approx(5)
    # What has no spread, or none that is known, neither gives nor takes.
    assert found[1, 4] == 0
    assert np.isnan(found[1, 5])
    assert degrees[1, 4:] == pytest.approx(2)
    alone, _ = moderated(variances[1, :4], np.full(4, 2.0), 4, 6)
    assert found[1, :4] == pytest.approx(alone)


def test_variances_of_pairs_that_share_a_strategy_scatter_less() -> None:
    # Why their scatter is divided by 1 - 1 / (K + 1): without it, equal spreads would be taken for more alike still.
    rng = np.random.default_rng(1)
    first, second = np.triu_indices(6, 1)
    scores = rng.normal(size=(4000, 6, 5))
    logs = np.log((scores[:, first] - scores[:, second]).var(axis=-1, ddof=1))
    assert logs.var(axis=-1, ddof=1).mean() / (1 - 1 / 7) == pytest.approx(special.polygamma(1, 2), rel=0.04)
