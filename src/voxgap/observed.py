"""Statistics of what is observed in many volumes, a bounded block at a time: they may lie on disk."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap.arrays import as_real
from voxgap.ragged import differ

Floats = NDArray[np.float64]

BLOCK_VOXELS = 2**23
"""Values that are looked at together: temporary arrays are a few times as large."""


class Moments(NamedTuple):
    """Of the observed values in float64, `(volumes, channels)`, or less where they are pooled.

    Attributes:
        observed: how many.
        mean: 0 where none is.
        squares: sum of squared distances from the mean.
        low, high: least and largest; infinite where none is.
    """

    observed: Floats
    mean: Floats
    squares: Floats
    low: Floats
    high: Floats

    @property
    def deviation(self) -> Floats:
        """Standard deviation, of the population; 0 where nothing is observed."""
        return np.sqrt(self.squares / np.maximum(self.observed, 1))

    def pooled(self, axis: int | None = 0) -> Moments:
        """Return those of all volumes together; with `axis=None`, of all channels too.

        Source: Chan, Golub and LeVeque, The American Statistician 37, 1983: without cancellation.
        """
        count = self.observed.sum(axis)
        mean = (self.observed * self.mean).sum(axis) / np.maximum(count, 1)
        squares = (self.squares + self.observed * (self.mean - mean) ** 2).sum(axis)
        return Moments(count, mean, squares, self.low.min(axis), self.high.max(axis))


def moments(volumes: Any) -> Moments:
    """Return the moments of each channel of each volume.

    Args:
        volumes: `(n, ..., channels)`, NaN = missing; in memory, or read when indexed, one by one.
    """
    found = [
        _of_volume(as_real(volumes[i], "volumes").reshape(-1, volumes.shape[-1])) for i in range(len(volumes))
    ]
    return Moments(*map(np.stack, zip(*found, strict=True)))


def voxel_means(volumes: Any) -> Floats:
    """Return the mean of each voxel over the volumes, `(depth, height, width, channels)`.

    A voxel that is never observed has its channel's mean; a channel that is never observed has 0.

    Args:
        volumes: `(n, depth, height, width, channels)`, NaN = missing; in memory, or read when sliced.
    """
    total, count = np.zeros(volumes.shape[1:]), np.zeros(volumes.shape[1:], np.int64)
    for block in blocks(volumes):
        observed = ~np.isnan(block)
        total += np.sum(block, axis=0, dtype=np.float64, where=observed)
        count += observed.sum(axis=0)
    of_channel = total.sum((0, 1, 2)) / np.maximum(count.sum((0, 1, 2)), 1)
    return np.where(count > 0, total / np.maximum(count, 1), of_channel)


def blocks(volumes: Any) -> Iterator[NDArray[np.float32]]:
    """Yield consecutive volumes as float32 `(some, depth, height, width, channels)`, about `BLOCK_VOXELS` at a time.

    Of several shapes, one at a time.
    """
    if differ(volumes):
        yield from (
            as_real(volumes[i], "volumes").astype(np.float32, copy=False)[np.newaxis]
            for i in range(len(volumes))
        )
        return
    step = max(1, BLOCK_VOXELS // max(1, math.prod(volumes.shape[1:])))
    for start in range(0, len(volumes), step):
        # A float64 value beyond float32 becomes infinite here, and whoever must not have it looks for that.
        with np.errstate(over="ignore"):
            yield as_real(volumes[start : start + step], "volumes").astype(np.float32, copy=False)


def _of_volume(values: NDArray[Any]) -> Moments:
    """Return the moments of `(voxels, channels)`: a piece of a channel at a time, whose copy in float64 is small."""
    step = max(1, BLOCK_VOXELS // 8)
    pieces = [
        [_of_piece(values[start : start + step, channel]) for channel in range(values.shape[1])]
        for start in range(0, len(values), step)
    ]
    return Moments(*np.moveaxis(np.array(pieces), -1, 0)).pooled()


def _of_piece(values: NDArray[Any]) -> tuple[float, ...]:
    seen = values[~np.isnan(values)].astype(np.float64)
    count = seen.size
    if not count:
        return 0, 0, 0, math.inf, -math.inf
    mean, low, high = seen.mean(), seen.min(), seen.max()
    seen -= mean
    # No product of BLAS: its threads wait for each other where the processors are busy.
    return count, mean, np.square(seen, out=seen).sum(), low, high
