"""The nearest observed voxels on a voxel's lines, found by scans that any runtime can execute."""

import math
from typing import Any

import numpy as np
from keras import ops

from voxgap.errors import VoxgapError

NOWHERE = 1e9
"""The distance of a voxel that there is not: beyond any that there is."""


def nearest_along(axis: int, values: Any, observed: Any, backward: bool) -> tuple[Any, Any, Any]:
    """Return the nearest observed value at or before each voxel along an axis (after it if `backward`).

    Args:
        axis: 1, 2 or 3.
        values: `(batch, D, H, W, C)`, 0 where missing.
        observed: 0 or 1, of the same shape.
        backward: look from the end of the axis.

    Returns:
        The value, its distance and whether there is one (0 or 1); the first two are 0 where there is none.
    """
    size = tuple(values.shape[1:])
    lines = (-1, size[axis - 1], math.prod(size[axis:]))
    found = nearest(ops.reshape(values, lines), ops.reshape(observed, lines), backward)
    value, distance, known = (ops.reshape(one, (-1, *size)) for one in found)
    return value, distance, known


def nearest(values: Any, observed: Any, backward: bool) -> tuple[Any, Any, Any]:
    """Do as `nearest_along`, along axis 1 of `(lines, length, rest)`.

    Doubling the step carries a value over a gap of any length in log2(length) steps.
    """
    length = values.shape[1]
    count = np.arange(1, length + 1, dtype=np.float32).reshape(1, -1, 1)
    # A tensor, because PyTorch can't subtract from a NumPy array; a copy, because it can't reverse one.
    ramp = ops.convert_to_tensor(count[:, ::-1].copy() if backward else count)
    position = observed * ramp
    step = 1
    while step < length:
        empty = 1.0 - ops.minimum(position, 1.0)
        values = values + empty * _shift(values, step, backward)
        position = ops.maximum(position, _shift(position, step, backward))
        step *= 2
    found = ops.minimum(position, 1.0)
    return values, (ramp - position) * found, found


def _shift(x: Any, step: int, backward: bool) -> Any:
    if backward:
        return ops.pad(x[:, step:], ((0, 0), (0, step), (0, 0)))
    return ops.pad(x[:, :-step], ((0, 0), (step, 0), (0, 0)))


def closest(distances: list[Any]) -> Any:
    """Return the least of several distances."""
    least = distances[0]
    for distance in distances[1:]:
        least = ops.minimum(least, distance)
    return least


def within(distance: Any, max_gap: float) -> Any:
    """Return 1 where a distance in voxels is at most `max_gap`, else 0."""
    return ops.cast(distance <= max_gap, "float32")


def check_gap(name: str, max_gap: float | None) -> float | None:
    """Refuse a reach that reaches nothing.

    Raises:
        VoxgapError: it is not positive.
    """
    if max_gap is not None and not max_gap > 0:
        raise VoxgapError(
            f"{name}: max_gap, in voxels, must be positive, or None for no limit, not {max_gap}"
        )
    return None if max_gap is None else float(max_gap)
