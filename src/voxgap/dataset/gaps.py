"""What is missing in the data itself, apart from what a grid adds around it; and gaps that are simulated besides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from voxgap.grid import UNLABELLED, place_label_map

if TYPE_CHECKING:
    from voxgap.dataset.dataset import Dataset


def own_gaps(data: Dataset, index: int) -> NDArray[np.bool_]:
    """Return where a volume is missing though its file has voxels there, `(depth, height, width, channels)`.

    A scan on a larger grid is missing around its edges, and has no gap for that.
    """
    gaps = np.isnan(data.volumes[index])
    steps = data.records[index] if data.records else None
    if steps and gaps.any():
        inside = place_label_map(np.zeros(steps[0]["from"], np.int16), steps) != UNLABELLED
        gaps &= inside[..., np.newaxis]
    return np.asarray(gaps)


def with_simulated(
    data: Dataset, pattern: str | None, missing_rate: float, mechanism: str, seed: int
) -> Dataset:
    """Return the data with simulated gaps besides their own, see `voxgap.simulate`; as it is without a pattern."""
    from voxgap.missingness import simulate

    if pattern is None:
        return data
    gaps = simulate(data.volumes, pattern=pattern, missing_rate=missing_rate, mechanism=mechanism, seed=seed)
    return data.with_volumes(gaps)


def own_missing_rate(data: Dataset) -> float:
    """Return the share of all values, in [0, 1], that `own_gaps` finds."""
    if not data.records or not data.missing_rate:
        return data.missing_rate
    return sum(int(own_gaps(data, index).sum()) for index in range(len(data))) / data.volumes.size
