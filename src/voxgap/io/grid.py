"""Slices and frames that lie on a regular grid, some of them lost: which grid, and which places are empty."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_MEDIAN_GAP = 4
"""Where most neighbours are further apart than this many steps, the smallest distance is no step."""


class Grid(NamedTuple):
    """A step, and the place of each position on the grid, the first at 0."""

    step: float
    indices: NDArray[np.int_]


def regular_grid(positions: NDArray[np.float64], tolerance: float, step: float | None = None) -> Grid | None:
    """Find the grid that positions lie on, with gaps where some were lost.

    Args:
        positions: At least two, ascending, each its own; in mm or seconds.
        tolerance: How far off the grid a position may be, as a share of the step: by rounding and jitter.
        step: The grid's step where it is about known; the smallest distance that fits all others by default.

    Returns:
        The grid, or None where the positions are on none.
    """
    distances = np.diff(positions)
    if not np.isfinite(positions).all() or not (distances > 0).all():
        return None
    known = step is not None
    step = float(distances.min()) if step is None else step
    # The smallest distance is a step with its rounding error: all of them together say it better.
    for _ in range(2):
        counts = np.rint(distances / step).clip(1)
        step = float(distances.sum() / counts.sum())
    if not known and len(distances) > 2 and np.median(counts) > MAX_MEDIAN_GAP:
        return None
    places = (positions - positions[0]) / step
    indices = np.rint(places)
    if (np.abs(places - indices) > tolerance).any() or (np.diff(indices) < 1).any():
        return None
    return Grid(step, indices.astype(int))
