"""Compiled simple kriging of many voxels from neighbours of their own. Imported when a file is first filled so."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

PLACES: Any = numba.types.Array(numba.float32, 2, "C", readonly=True)
NUMBERS: Any = numba.types.Array(numba.float32, 1, "C", readonly=True)


@numba.njit(inline="always", error_model="numpy")
def _alike(d: Any, h: Any, w: Any, lengths: Any, weights: Any) -> Any:
    total = 0.0
    for term in range(len(weights)):
        square = (d / lengths[term, 0]) ** 2 + (h / lengths[term, 1]) ** 2 + (w / lengths[term, 2]) ** 2
        total += weights[term] * np.exp(-np.sqrt(square))
    return total


@numba.njit(
    numba.void(
        PLACES,
        NUMBERS,
        PLACES,
        numba.types.Array(numba.int64, 2, "C", readonly=True),
        PLACES,
        NUMBERS,
        numba.float32,
        numba.float32[::1],
        numba.float32[::1],
    ),
    nogil=True,
    error_model="numpy",
)
def krige(
    places: Any,
    values: Any,
    wanted: Any,
    index: Any,
    lengths: Any,
    weights: Any,
    nugget: Any,
    predicted: Any,
    explained: Any,
) -> None:
    """Predict each wanted voxel from its neighbours, by elimination in double precision.

    Args:
        places: Of observed voxels, `(n, 3)`.
        values: Theirs, of mean 0, `(n,)`.
        wanted: Places of voxels to predict, `(m, 3)`.
        index: Their neighbours among the observed ones, `(m, k)`.
        lengths: Of the terms of the covariance, `(terms, 3)`.
        weights: Theirs, `(terms,)`.
        nugget: Variance of one voxel only.
        predicted: Written, `(m,)`.
        explained: The variance that the neighbours explain; written, `(m,)`.
    """
    count = index.shape[1]
    above = np.empty((count, count))
    right, left = np.empty(count), np.empty(count)
    sill = nugget + weights.sum()
    for row in range(len(wanted)):
        for i in range(count):
            one = index[row, i]
            left[i] = values[one]
            d, h, w = places[one, 0], places[one, 1], places[one, 2]
            right[i] = _alike(d - wanted[row, 0], h - wanted[row, 1], w - wanted[row, 2], lengths, weights)
            above[i, i] = sill
            for j in range(i + 1, count):
                other = index[row, j]
                above[i, j] = _alike(
                    d - places[other, 0], h - places[other, 1], w - places[other, 2], lengths, weights
                )
        value, known = 0.0, 0.0
        for k in range(count):
            inverse = 1.0 / above[k, k]
            for i in range(k + 1, count):
                factor = above[k, i] * inverse
                for j in range(i, count):
                    above[i, j] -= factor * above[k, j]
                right[i] -= factor * right[k]
                left[i] -= factor * left[k]
            value += right[k] * left[k] * inverse
            known += right[k] * right[k] * inverse
        predicted[row] = value
        explained[row] = known
