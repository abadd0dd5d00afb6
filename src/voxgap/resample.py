"""Volumes on another grid: resampled to a spacing or size, cropped or padded, and back again.

Gap-aware: a value is a mean of observed voxels only, so that nothing of a gap bleeds into it, and each
observed voxel leaves an observed one behind, so that no gap swallows it. Every function returns, beside the
volume, a record of plain numbers (JSON) with which `replay` takes a label map the same way, and `inverse`
maps a prediction back to the grid it came from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from voxgap import align
from voxgap.errors import VoxgapError
from voxgap.volume import Values, Volume, times

Method = Literal["linear", "nearest"]
Record = dict[str, Any]

MAX_BYTES = 16 * 2**30


def resample(
    volume: Volume,
    *,
    spacing: Sequence[float] | None = None,
    size: Sequence[int] | None = None,
    method: Method = "linear",
    max_bytes: int = MAX_BYTES,
) -> tuple[Volume, Record]:
    """Resample a volume to a spacing or a size; both grids cover the same extent.

    A voxel of the new grid is observed if its centre lies in an observed voxel of the old one, or the centre
    of an observed one lies in it. Its value is the mean of the observed voxels around it, weighted by their
    distance, over at least the size of the larger of the two voxels: averaging when it gets coarser.
    This is normalised convolution (Knutsson and Westin, CVPR 1993) with a linear kernel.

    Args:
        volume: What to resample.
        spacing: Wanted size of a voxel along `(depth, height, width)`, in the volume's own unit; met as
            closely as a whole number of voxels allows.
        size: Instead, the wanted `(depth, height, width)`.
        method: `linear` for intensities, `nearest` for label maps.
        max_bytes: Refuse a result that would take more memory than this.

    Returns:
        The volume on the new grid, and the record for `inverse`.

    Raises:
        VoxgapError: Neither or both of spacing and size are given, they are not positive, the volume's
            spacing is unknown, or the result would be too large.
    """
    _check_method(method)
    old = volume.shape[:3]
    new = _size(volume, spacing, size)
    _check_bytes(new, volume.shape[3], max_bytes)
    values = _on_grid(volume.values, new, method)
    record = {"step": "resample", "from": list(old), "to": list(new), "method": method}
    return _placed(volume, values, np.zeros(3), np.divide(old, new)), record


def onto(
    volume: Volume,
    affine: Any,
    size: Sequence[int],
    *,
    method: Method = "linear",
    max_bytes: int = MAX_BYTES,
) -> tuple[Volume, Record]:
    """Bring a volume onto the grid of another one, by where both lie in the world.

    Trilinear interpolation where nothing is missing near and the new grid is not the coarser one; otherwise the
    mean of the observed voxels in and around the new one. What lies outside the volume is missing.

    Args:
        volume: What to bring there; it needs an affine.
        affine: That of the other volume, 4 × 4.
        size: Its `(depth, height, width)`.
        method: `linear` for intensities, `nearest` for label maps.
        max_bytes: Refuse a result that would take more memory than this.

    Returns:
        The volume on that grid, and the record for `inverse`.

    Raises:
        VoxgapError: The volume has no affine, the size is not three positive numbers, or the result would be
            too large.
    """
    _check_method(method)
    if volume.affine is None:
        raise VoxgapError(
            f"{volume.source or 'volume'}: has no affine that says where it lies; resample it to a size"
        )
    new = _size(volume, None, size)
    _check_bytes(new, volume.shape[3], max_bytes)
    matrix = _divided(np.asarray(affine, np.float64), volume.affine)
    record = {
        "step": "onto",
        "from": list(volume.shape[:3]),
        "to": list(new),
        "matrix": matrix[:3].tolist(),
        "method": method,
    }
    return _aligned(volume, matrix, new, method), record


def crop_to_observed(volume: Volume, margin: int = 0) -> tuple[Volume, Record]:
    """Crop a volume to the smallest box that holds all its observed voxels.

    Args:
        volume: What to crop.
        margin: Voxels to keep around that box on each side, where there are any.

    Returns:
        The cropped volume, and the record for `inverse`.

    Raises:
        VoxgapError: No voxel is observed.
    """
    observed: NDArray[np.bool_] = np.any(volume.observed, axis=-1)
    if not observed.any():
        raise VoxgapError(f"{volume.source or 'volume'}: no voxel is observed; there is nothing to crop to")
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        held = np.flatnonzero(np.any(observed, axis=others))
        box.append((max(0, int(held[0]) - margin), min(volume.shape[axis], int(held[-1]) + 1 + margin)))
    return _cropped(volume, [low for low, _ in box], [high - low for low, high in box])


def crop_or_pad(volume: Volume, size: Sequence[int]) -> tuple[Volume, Record]:
    """Bring a volume to a size around its centre, without resampling: what is added is missing.

    Args:
        volume: What to crop or pad.
        size: The wanted `(depth, height, width)`.

    Returns:
        The volume of that size, and the record for `inverse`.

    Raises:
        VoxgapError: The size is not three positive numbers.
    """
    wanted = _size(volume, None, size)
    return _cropped(
        volume, [(old - new) // 2 for old, new in zip(volume.shape[:3], wanted, strict=True)], wanted
    )


def replay(volume: Volume, records: Record | Sequence[Record], *, method: Method | None = None) -> Volume:
    """Take a volume the way that another one on the same grid went, such as a label map that of its scan.

    Args:
        volume: On the grid where the first record starts; any channels.
        records: One record, or several in the order in which they were made.
        method: `nearest` for class indices, `linear` for intensities; by default that of each record.

    Returns:
        The volume on the grid where the last record ends, its geometry with it.

    Raises:
        VoxgapError: A record is no such record, or the volume is of another size than it says.
    """
    for record in [records] if isinstance(records, Mapping) else records:
        step, old, new, start, matrix = _checked(record)
        _check_shape(volume, old, new)
        volume = _step(volume, step, new, start, matrix, method or record.get("method", "linear"))
    return volume


def inverse(volume: Volume, records: Record | Sequence[Record], *, method: Method | None = None) -> Volume:
    """Map a volume on the new grid, such as a prediction, back to the grid that the records started from.

    What lies outside a crop comes back as missing.

    Args:
        volume: On the grid where the last record ends; any channels.
        records: One record, or several in the order in which they were made.
        method: `nearest` for class indices, `linear` for probabilities; by default that of each record.

    Returns:
        The volume on the grid of the first record, its geometry with it.

    Raises:
        VoxgapError: A record is no such record, or the volume is of another size than it says.
    """
    for record in reversed([records] if isinstance(records, Mapping) else list(records)):
        step, old, new, start, matrix = _checked(record)
        _check_shape(volume, new, old)
        back = tuple(-first for first in start)
        volume = _step(
            volume, step, old, back, _divided(np.eye(4), matrix), method or record.get("method", "linear")
        )
    return volume


def _cropped(volume: Volume, start: Sequence[int], size: Sequence[int]) -> tuple[Volume, Record]:
    record = {"step": "crop", "from": list(volume.shape[:3]), "start": list(start), "to": list(size)}
    return _step(volume, "crop", tuple(size), tuple(start), np.eye(4), "linear"), record


def _step(
    volume: Volume,
    step: str,
    size: tuple[int, ...],
    start: tuple[int, ...],
    matrix: NDArray[np.float64],
    method: Method,
) -> Volume:
    """Crop a volume, to a box that may reach beyond it, resample it, or bring it onto another grid."""
    _check_method(method)
    _check_bytes(size, volume.shape[3], MAX_BYTES)
    if step == "onto":
        return _aligned(volume, matrix, size, method)
    if step == "crop":
        return _placed(volume, _window(volume.values, start, size), np.array(start, float), np.ones(3))
    values = _on_grid(volume.values, size, method)
    return _placed(volume, values, np.zeros(3), np.divide(volume.shape[:3], size))


def _aligned(volume: Volume, matrix: NDArray[np.float64], size: tuple[int, ...], method: Method) -> Volume:
    values = align.on_grid(volume.values, matrix, size, method)
    if volume.affine is None:  # A prediction: it has a place only once it is back.
        return replace(volume, values=values, spacing=None)
    return replace(volume, values=values, affine=volume.affine @ matrix, spacing=None)


def _divided(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what leads through `below` to the same place as `above`."""
    return np.asarray(np.linalg.solve(below, above), np.float64)


def _window(values: Values, start: tuple[int, ...], size: tuple[int, ...]) -> Values:
    """Copy the box of this size that begins at `start`; what lies outside the values is missing."""
    window = np.full((*size, values.shape[3]), np.nan, np.float32)
    inside, held = [], []
    for first, length, old in zip(start, size, values.shape[:3], strict=True):
        low, high = max(first, 0), min(first + length, old)
        inside.append(slice(low - first, max(high, low) - first))
        held.append(slice(low, max(high, low)))
    window[tuple(inside)] = values[tuple(held)]
    return window


def _on_grid(values: Values, size: tuple[int, ...], method: Method) -> Values:
    """Return the mean of observed values around each voxel of the new grid, NaN where it is missing."""
    if values.shape[:3] == tuple(size):
        return values.copy()
    pairs = list(zip(values.shape[:3], size, strict=True))
    touching = [_touching(old, new) for old, new in pairs]
    if method == "nearest":
        return _nearest(values, touching, pairs)
    weights = [_weights(old, new) for old, new in pairs]
    result = np.empty((*size, values.shape[3]), np.float32)
    for channel in range(values.shape[3]):  # Channel by channel: each has gaps of its own.
        plane = values[..., channel].astype(np.float64)
        observed = ~np.isnan(plane)
        complete = bool(observed.all())
        total = _apply(weights, np.where(observed, plane, 0.0))
        if not complete:
            share = _apply(weights, observed.astype(np.float64))
            present = _apply(touching, observed.astype(np.float64)) > 0.5
            with np.errstate(invalid="ignore", divide="ignore"):
                total = np.where(present, total / share, np.nan)
        result[..., channel] = total
    return result


def _nearest(values: Values, touching: list[NDArray[np.float64]], pairs: list[tuple[int, int]]) -> Values:
    """Take the nearest voxel; where that one is missing, an observed one that the new voxel still touches."""
    nearest = [np.minimum(((np.arange(new) + 0.5) * old / new).astype(int), old - 1) for old, new in pairs]
    result = values[np.ix_(*nearest)]
    for channel in range(values.shape[3]):
        observed = ~np.isnan(values[..., channel])
        lost = (_apply(touching, observed.astype(np.float64)) > 0.5) & np.isnan(result[..., channel])
        for place in np.argwhere(lost):
            rows = [np.flatnonzero(matrix[index]) for matrix, index in zip(touching, place, strict=True)]
            around = np.ix_(*rows)
            centre = [(index + 0.5) * old / new - 0.5 for index, (old, new) in zip(place, pairs, strict=True)]
            offsets = np.meshgrid(*[(r - c) ** 2 for r, c in zip(rows, centre, strict=True)], indexing="ij")
            distance = np.where(observed[around], sum(offsets), np.inf)
            best = np.unravel_index(int(distance.argmin()), distance.shape)
            source = tuple(int(row[i]) for row, i in zip(rows, best, strict=True))
            result[(*place, channel)] = values[(*source, channel)]
    return result


def _weights(old: int, new: int) -> NDArray[np.float64]:
    """Return `(new, old)` weights that fall off linearly with the distance, each row of sum 1."""
    scale = old / new
    centres = (np.arange(new) + 0.5) * scale - 0.5
    weights = np.clip(1 - np.abs(centres[:, None] - np.arange(old)) / max(1.0, scale), 0, None)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _touching(old: int, new: int) -> NDArray[np.float64]:
    """Return `(new, old)`, 1 where the centre of one voxel lies in the other; no row or column is empty."""
    scale = old / new
    inside_old = np.minimum(np.floor((np.arange(new) + 0.5) * scale), old - 1)[:, None] == np.arange(old)
    inside_new = np.minimum(np.floor((np.arange(old) + 0.5) / scale), new - 1) == np.arange(new)[:, None]
    return (inside_old | inside_new).astype(np.float64)


def _apply(matrices: Sequence[NDArray[np.float64]], array: NDArray[np.float64]) -> NDArray[np.float64]:
    """Multiply each axis by its matrix."""
    for matrix in matrices:  # The axis in front goes to the back: after three, they stand as before.
        array = np.tensordot(array, matrix, axes=(0, 1))
    return array


def _placed(volume: Volume, values: Values, start: NDArray[np.float64], scale: NDArray[np.float64]) -> Volume:
    """Return values whose first voxel starts at `start`, in voxels of `scale` times the old size."""
    affine, spacing = None, None
    if volume.affine is not None:
        affine = volume.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ (start + (scale - 1) / 2)
        affine[:3, :3] *= scale
    if volume.spacing is not None:
        depth, height, width = np.multiply(volume.spacing, scale).tolist()
        spacing = (depth, height, width)
    return replace(volume, values=values, affine=affine, spacing=spacing)


def _size(
    volume: Volume, spacing: Sequence[float] | None, size: Sequence[int] | None
) -> tuple[int, int, int]:
    if (spacing is None) == (size is None):
        raise VoxgapError("give either a spacing or a size to resample to")
    given = np.asarray(size if spacing is None else spacing, np.float64)
    if given.shape != (3,) or not (np.isfinite(given) & (given > 0)).all():
        raise VoxgapError(f"{spacing or size}: give three positive numbers (depth, height, width)")
    if spacing is None:
        return int(given[0]), int(given[1]), int(given[2])
    if volume.spacing is None:
        raise VoxgapError(f"{volume.source or 'volume'}: its spacing is unknown; resample to a size instead")
    sizes = np.rint(np.array(volume.shape[:3]) * volume.spacing / given).clip(1, 2**31)
    return int(sizes[0]), int(sizes[1]), int(sizes[2])


def _check_bytes(size: tuple[int, ...], channels: int, max_bytes: int) -> None:
    wanted = 4 * math.prod(size) * channels
    if wanted > max_bytes:
        raise VoxgapError(
            f"a grid of {times(size)} would take {wanted / 2**30:.1f} GiB; give a larger spacing or a smaller size"
        )


def _check_shape(volume: Volume, wanted: tuple[int, ...], other: tuple[int, ...]) -> None:
    if volume.shape[:3] != wanted:
        raise VoxgapError(
            f"a volume of {times(volume.shape[:3])} can't be mapped from {times(wanted)} to {times(other)}; "
            f"give one of {times(wanted)}"
        )


def _check_method(method: str) -> None:
    if method not in ("linear", "nearest"):
        raise VoxgapError(f"method {method!r} is unknown; use linear or nearest")


def _checked(
    record: Any,
) -> tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, ...], NDArray[np.float64]]:
    """Return step, old and new size, start and matrix of a record."""
    try:
        step, matrix = record["step"], np.eye(4)
        old, new, start = (tuple(map(int, record.get(key, (0, 0, 0)))) for key in ("from", "to", "start"))
        fits = step in ("crop", "resample", "onto") and len(old) == len(new) == len(start) == 3
        if step == "onto":
            matrix[:3] = record["matrix"]
            fits = fits and bool(np.isfinite(matrix).all()) and np.linalg.det(matrix) != 0
        if fits and min(*old, *new) > 0 and (step == "crop" or record["method"]):
            return step, old, new, start, matrix
    except (KeyError, TypeError, ValueError, AttributeError):
        pass
    raise VoxgapError(f"{str(record)[:60]} is no record of voxgap.resample; keep what it returns")
