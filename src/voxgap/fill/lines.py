"""The nearest observed voxels on a voxel's lines, found by scans that any runtime can execute."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
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


Gap = float | Sequence[float | None] | None
"""A reach in voxels; or one along each of depth, height, width; None is without limit."""


def check_gap(name: str, max_gap: Gap) -> Any:
    """Refuse a reach that reaches nothing.

    Raises:
        VoxgapError: it is not positive.
    """
    several: list[Any] = list(max_gap) if isinstance(max_gap, list | tuple) else [max_gap]
    numbers = [one for one in several if one is not None]
    if len(several) not in (1, 3) or not all(isinstance(n, int | float) and n > 0 for n in numbers):
        raise VoxgapError(
            f"{name}: max_gap, in voxels, must be positive, one number or three (depth, height, width), or None for no "
            f"limit, not {max_gap!r}; with a unit, such as 12mm, it is for voxgap fill of files that know their spacing"
        )
    plain = [None if one is None else float(one) for one in several]
    return plain if len(plain) == 3 else plain[0]


def limits(max_gap: Gap) -> npt.NDArray[np.float32]:
    """Return the reach along depth, height, width; beyond any volume where there is no limit.

    A little more than it says: a distance that is the reach itself is within, however a runtime divides.
    """
    several: Any = max_gap if isinstance(max_gap, list | tuple) else [max_gap] * 3
    return np.array([NOWHERE / 2 if one is None else one * (1 + 1e-6) for one in several], np.float32)
