"""What is missing in the data itself, apart from what a grid adds around it; and gaps that are simulated besides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from voxgap.missingness.diagnosis import Description, shares_of
from voxgap.ragged import shape_of
from voxgap.resample import Box, extent
from voxgap.volume import Values

if TYPE_CHECKING:
    from voxgap.dataset.dataset import Dataset


def own_box(data: Dataset, index: int) -> Box:
    """Return which box of its grid a scan covers: around it, the grid added missing voxels."""
    return extent(data.records[index] if data.records else (), shape_of(data.volumes, index))


def own_values(data: Dataset) -> Iterator[Values]:
    """Yield each volume without what lies outside of its scan, `(depth, height, width, channels)`, NaN = missing."""
    for index, volume in enumerate(data.volumes):
        yield volume[own_box(data, index)]


def own_gaps(data: Dataset, index: int) -> NDArray[np.bool_]:
    """Return where a volume is missing though its file has voxels there, `(depth, height, width, channels)`.

    A scan on a larger grid is missing around its edges, and has no gap for that.
    """
    box = own_box(data, index)
    gaps = np.zeros(shape_of(data.volumes, index), bool)
    gaps[box] = np.isnan(data.volumes[index][box])
    return gaps


def with_simulated(
    data: Dataset, pattern: str | None, missing_rate: float, mechanism: str, seed: int
) -> Dataset:
    """Return the data with simulated gaps besides their own, see `voxgap.simulate`; as it is without a pattern."""
    from voxgap.missingness import simulate

    if pattern is None:
        return data
    gaps = simulate(data.volumes, pattern=pattern, missing_rate=missing_rate, mechanism=mechanism, seed=seed)
    return data.with_volumes(gaps)


def described(data: Dataset, found: Description) -> Description:
    """Return a description of the data's volumes with rate and pattern of the scans' own gaps in it."""
    if not data.outside_rate:
        return found
    own = shares_of(own_values(data))
    with_gaps = sum(bool(np.isnan(values).any()) for values in own_values(data))
    pattern = next(iter(own), "none")
    return replace(found, missing_rate=data.missing_rate, shares=own, pattern=pattern, with_gaps=with_gaps)


def shares(data: Dataset) -> tuple[float, float]:
    """Return which share of the scans' own values is missing, and which share of the volumes lies outside of them."""
    missing = inside = 0
    for values in own_values(data):
        missing, inside = missing + int(np.isnan(values).sum()), inside + values.size
    return missing / max(1, inside), 1 - inside / max(1, data.volumes.size)
