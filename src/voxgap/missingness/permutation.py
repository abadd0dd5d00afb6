"""Permutation and sign-flipping tests that keep groups together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Null = Callable[[int, np.random.Generator], Floats]

MAX_DRAWS = 4_999
ENOUGH = 100
"""Draws as extreme as the data after which more of them would not change what the p-value says."""
_STEP = 250


def permute(
    x: Floats,
    z: NDArray[Any],
    codes: NDArray[np.int_],
    max_draws: int,
    rng: np.random.Generator,
    *,
    studentise: bool,
) -> tuple[Floats, float]:
    """Test whether `x` is correlated with any column of `z`.

    Whole groups of one size change places, and the members of a group (Winkler et al., Multi-level block
    permutation, NeuroImage 123, 2015).

    Args:
        x: `(n,)`.
        z: `(n, columns)`; one column only with `studentise`.
        codes: The group of each, `(n,)`.
        max_draws: Permutations at most.
        rng: Where they are drawn from.
        studentise: Divide by the standard error that holds when the variance of `z` depends on `x` (DiCiccio
            and Romano, Journal of the American Statistical Association 112, 2017).

    Returns:
        The correlation with each column, and the p-value of the largest.
    """
    order = np.argsort(codes, kind="stable")
    starts = np.unique(codes[order], return_index=True)[1]
    x, z = x[order] - x.mean(), z[order] - z.mean(axis=0)
    norm = np.sqrt((z**2).sum(axis=0))

    def statistic(shuffled: Floats) -> Floats:
        if not studentise:
            return np.abs(shuffled @ (z / np.where(norm > 0, norm, 1))).max(axis=1)
        sums = np.add.reduceat(shuffled * z[:, 0], starts, axis=1)
        deviation = np.sqrt((sums**2).sum(axis=1))
        return np.abs(sums.sum(axis=1)) / np.where(deviation > 0, deviation, 1)

    shuffle = _shuffler(np.diff(starts, append=len(x)), starts)
    null: Null = lambda count, stream: statistic(x[shuffle(count, stream)])  # noqa: E731
    p = _p_value(float(statistic(x[None])[0]), null, max_draws, rng)
    return x @ z / np.maximum(norm * np.sqrt((x**2).sum()), 1e-300), p


def _shuffler(
    sizes: NDArray[np.int_], starts: NDArray[np.int_]
) -> Callable[[int, np.random.Generator], NDArray[np.int_]]:
    """Return a function that draws permutations which keep groups together, `(count, volumes)`."""
    blocks = [starts[sizes == size][:, None] + np.arange(size) for size in np.unique(sizes)]

    def shuffle(count: int, rng: np.random.Generator) -> NDArray[np.int_]:
        indices = np.empty((count, int(sizes.sum())), int)
        for block in blocks:
            drawn = np.argsort(rng.random((count, len(block))), axis=1)
            moved = block[drawn]
            if block.shape[1] > 1:
                moved = rng.permuted(moved, axis=2)
            indices[:, block.ravel()] = moved.reshape(count, -1)
        return indices

    return shuffle


def flip(
    scores: Floats, codes: NDArray[np.int_], max_draws: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Test whether scores have mean 0, by the signs of their sums over groups.

    Args:
        scores: `(n,)`, without NaN.
        codes: The group of each, `(n,)`.
        max_draws: Draws at most.
        rng: Where they are drawn from.

    Returns:
        Their mean, and the p-value.
    """
    sums = np.bincount(np.unique(codes, return_inverse=True)[1], scores)
    null: Null = lambda count, stream: np.abs(  # noqa: E731
        stream.integers(0, 2, (count, len(sums)), dtype=np.int8) * 2.0 @ sums - sums.sum()
    )
    return float(scores.mean()), _p_value(abs(float(sums.sum())), null, max_draws, rng)


def _p_value(statistic: float, null: Null, max_draws: int, rng: np.random.Generator) -> float:
    """Return the share of draws from the null that are as extreme as the data.

    It stops early where there are enough of them (Besag and Clifford, Biometrika 78, 1991).
    """
    drawn = extreme = 0
    # Rounding must not make a tie of equal draws a difference.
    edge = statistic * (1 - 1e-9)
    while drawn < max_draws and extreme < ENOUGH:
        count = min(_STEP, max_draws - drawn)
        extreme += int((null(count, rng) >= edge).sum())
        drawn += count
    return (extreme + 1) / (drawn + 1)
