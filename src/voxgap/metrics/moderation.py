"""Variances that borrow from each other: of three folds no pair of strategies knows its own spread.

All pairs of an experiment are differences of the same kind. How their variances scatter says how far each is to be
believed, and what all of them say together gives each the degrees of freedom that it lacks alone.

Source: Smyth, Linear models and empirical Bayes methods for assessing differential expression in microarray
experiments, Statistical Applications in Genetics and Molecular Biology 3, 2004; `squeezeVar` of limma is the same.

Two things differ from genes on an array. Pairs that share a strategy correlate, so variances scatter less than their
prior does: on average over all pairs of K strategies with equal spreads they correlate by 1 / (K + 1). And there is
one noisy strategy at times, whose pairs are not like the others: a pair's variance is never taken for smaller than what
it was seen to be, which keeps false alarms near their level there too (`benchmarks/verdicts.py`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Prior(NamedTuple):
    """What is known of a variance before it is seen: its centre, and of how many degrees of freedom that is worth."""

    variance: Floats
    degrees: Floats


def inverse_trigamma(values: Any) -> Floats:
    """Return x such that trigamma(x) is the value, by Newton's method on 1 / trigamma, which converges from below.

    Source: Smyth 2004, appendix.
    """
    from scipy.special import polygamma

    wanted = np.asarray(values, dtype=np.float64)
    x = 0.5 + 1 / wanted
    for _ in range(40):
        reached = polygamma(1, x)
        step = reached * (1 - reached / wanted) / polygamma(2, x)
        x = x + step
        if (np.abs(step) <= 1e-10 * x).all():
            break
    return np.asarray(x)


def prior(variances: Any, degrees: Any, correlation: float = 0.0) -> Prior:
    """Estimate what variances are drawn from: a scaled inverse chi-square distribution, by the moments of their logs.

    Args:
        variances: `(..., several)`; those that are 0 or NaN say nothing.
        degrees: of freedom, of each of them.
        correlation: of their logarithms with each other, on average.

    Returns:
        `(...)`. Infinite degrees where the variances scatter no more than by chance; 0 where there are fewer than two.
    """
    from scipy.special import digamma, polygamma

    variance, degree = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (variances, degrees)))
    known = (variance > 0) & (degree > 0)
    count = known.sum(axis=-1)
    half = np.where(known, degree, 1) / 2

    def mean(values: Floats, of: Any = count) -> Floats:
        return np.asarray(np.where(known, values, 0).sum(axis=-1) / np.maximum(of, 1))

    logs = np.log(np.where(known, variance, 1)) - digamma(half) + np.log(half)
    centre = mean(logs)
    scatter = mean((logs - centre[..., None]) ** 2, count - 1) / (1 - correlation)
    excess = scatter - mean(polygamma(1, half))
    # Beyond a million degrees nothing changes any more.
    half = inverse_trigamma(np.maximum(excess, 2e-6))
    scaled = np.exp(centre + digamma(half) - np.log(half))
    return Prior(
        np.where(excess > 0, scaled, np.exp(centre)),
        np.where(count < 2, 0.0, np.where(excess > 0, 2 * half, np.inf)),
    )


def squeezed(variances: Any, degrees: Any, found: Prior) -> Floats:
    """Return variances drawn towards their prior, by how many degrees of freedom each of the two has."""
    variance, degree = np.asarray(variances, dtype=np.float64), np.asarray(degrees, dtype=np.float64)
    share = 1 / (1 + np.maximum(degree, 1e-12) / np.maximum(found.degrees, 1e-300)[..., None])
    return np.asarray(np.where(share > 0, share * found.variance[..., None], 0) + (1 - share) * variance)


def moderated(variances: Any, degrees: Any, strategies: int, residual: Any) -> tuple[Floats, Floats]:
    """Return variances of the differences of all pairs, and their degrees of freedom, that borrow from each other.

    Args:
        variances, degrees: `(..., pairs)`, of each pair alone; 0 and NaN stay as they are.
        strategies: that the pairs are made of.
        residual: `(...)`, degrees of freedom of all scores beside those of strategies and splits. Pairs have no more
            between them, less one for the prior: so often is the same score in several of them.

    Returns:
        The variances, none smaller than it was, and the degrees.
    """
    variance, degree = np.asarray(variances, dtype=np.float64), np.asarray(degrees, dtype=np.float64)
    found = prior(variance, degree, 1 / (strategies + 1))
    most = np.maximum(degree, np.asarray(residual, dtype=np.float64)[..., None] - 1)
    larger = np.maximum(variance, squeezed(variance, degree, found))
    borrowing = (variance > 0) & (degree > 0)
    return (
        np.where(borrowing, larger, variance),
        np.where(borrowing, np.minimum(degree + found.degrees[..., None], most), degree),
    )
