"""A volume on the grid of another one, by where both lie in the world: channels of one patient.

Gap-aware as `voxgap.resample` is: a value is a mean of observed voxels only, and what lies outside the volume
is missing. Each voxel of the new grid is averaged over points no further apart than the voxels of the old one:
its centre where it is the finer one, a lattice in it where it is coarser.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np
from numpy.typing import NDArray

from voxgap.volume import Values

MAX_POINTS = 16
"""Most points along one axis of a voxel: where it is coarser still, some old voxels count by their centre only."""
_EDGE = 1e-6
"""How far outside a point may lie, in voxels, by rounding."""

Matrix = NDArray[np.float64]


def on_grid(values: Values, matrix: Matrix, size: tuple[int, ...], method: str) -> Values:
    """Sample values on another grid.

    Args:
        values: `(depth, height, width, channels)`, NaN = missing.
        matrix: 4 × 4, takes an index on the new grid to one on the old.
        size: `(depth, height, width)` of the new grid.
        method: `linear`, which is trilinear interpolation where nothing is missing near, or `nearest`.

    Returns:
        `(*size, channels)`. A voxel is observed if one of its points lies in an observed voxel, or the centre
        of an observed one lies in it.
    """
    result = np.full((*size, values.shape[3]), np.nan, np.float32)
    points = _points(matrix)
    for channel in range(values.shape[3]):
        plane = values[..., channel]
        for depth in range(size[0]):  # A slice at a time: eight neighbours of a whole volume are memory.
            sample = _nearest if method == "nearest" else _linear
            result[depth, ..., channel] = sample(plane, matrix, points, depth, size)
        _keep_all(plane, matrix, result[..., channel])
    return result


def _points(matrix: Matrix) -> list[NDArray[np.float64]]:
    """Return the points of a voxel that are averaged, relative to its centre, the nearest to it first."""
    steps = np.abs(matrix[:3, :3]).max(axis=0)
    counts = [min(MAX_POINTS, max(1, math.ceil(step - 1e-3))) for step in steps]
    lattice = product(*[(np.arange(count) + 0.5) / count - 0.5 for count in counts])
    return sorted((np.array(point) for point in lattice), key=lambda point: float(point @ point))


def _places(matrix: Matrix, point: NDArray[np.float64], depth: int, size: tuple[int, ...]) -> Matrix:
    """Return where a point of each voxel of a slice lies on the old grid, `(3, height, width)`."""
    rows, columns = np.arange(size[1]) + point[1], np.arange(size[2]) + point[2]
    along = matrix[:3, 0] * (depth + point[0]) + matrix[:3, 3]
    return np.asarray(
        along[:, None, None]
        + matrix[:3, 1, None, None] * rows[None, :, None]
        + matrix[:3, 2, None, None] * columns[None, None, :]
    )


def _inside(places: Matrix, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    ends = np.array(shape)[:, None, None] - 0.5 + _EDGE
    return np.asarray(((places >= -0.5 - _EDGE) & (places <= ends)).all(axis=0))


def _linear(
    plane: NDArray[np.float32], matrix: Matrix, points: list[Matrix], depth: int, size: tuple[int, ...]
) -> NDArray[np.float64]:
    last = np.array(plane.shape)[:, None, None] - 1
    total, share = np.zeros(size[1:]), np.zeros(size[1:])
    present = np.zeros(size[1:], bool)
    for point in points:
        places = _places(matrix, point, depth, size)
        inside = _inside(places, plane.shape)
        if not inside.any():
            continue
        # At the border the outer neighbour is the inner one again.
        places = places.clip(0, last)
        low = np.minimum(places.astype(np.intp), np.maximum(last - 1, 0))
        part = places - low
        nearest = tuple(np.minimum(np.floor(places + 0.5).astype(np.intp), last))
        present |= inside & ~np.isnan(plane[nearest])
        for corner in product((0, 1), repeat=3):
            weight = inside.astype(np.float64)
            for axis, end in enumerate(corner):
                weight = weight * (part[axis] if end else 1 - part[axis])
            found = plane[tuple(np.minimum(low[axis] + end, last[axis]) for axis, end in enumerate(corner))]
            observed = ~np.isnan(found)
            weight = weight * observed
            total += weight * np.where(observed, found, 0)
            share += weight
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(present, total / share, np.nan)


def _nearest(
    plane: NDArray[np.float32], matrix: Matrix, points: list[Matrix], depth: int, size: tuple[int, ...]
) -> NDArray[np.float64]:
    """Take the voxel in which the centre lies; where that one is missing, the nearest other point's."""
    last = np.array(plane.shape)[:, None, None] - 1
    result = np.full(size[1:], np.nan)
    for point in [np.zeros(3), *points]:
        places = _places(matrix, point, depth, size)
        nearest = tuple(np.floor(places + 0.5).astype(np.intp).clip(0, last))
        found = np.where(_inside(places, plane.shape), plane[nearest], np.nan)
        result = np.where(np.isnan(result), found, result)
    return result


def _keep_all(plane: NDArray[np.float32], matrix: Matrix, result: NDArray[np.float32]) -> None:
    """Put observed voxels that no point met into the missing voxel in which their centre lies."""
    if not np.isnan(result).any():
        return
    back = np.linalg.inv(matrix)
    for depth, slab in enumerate(plane):
        rows, columns = np.nonzero(~np.isnan(slab))
        where = back[:3, 0, None] * depth + back[:3, 1, None] * rows + back[:3, 2, None] * columns
        where = np.floor(where + back[:3, 3, None] + 0.5)
        held = ((where >= 0) & (where < np.array(result.shape)[:, None])).all(axis=0)
        places = tuple(where[:, held].astype(np.intp))
        values = slab[rows[held], columns[held]]
        lost = np.isnan(result[places])
        result[tuple(axis[lost] for axis in places)] = values[lost]
