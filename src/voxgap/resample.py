"""Volumes on another grid: resampled to a spacing or size, cropped or padded, and back again.

Gap-aware: a value is a mean of observed voxels only, so that nothing of a gap bleeds into it, and each
observed voxel leaves an observed one behind, so that no gap swallows it. Whatever is done to a volume is one of three
steps, `Crop`, `Rescale` and `Align`, each of which knows its own way back. Every function returns, beside the volume,
the record of its step in plain numbers (JSON), with which `replay` takes a label map the same way, and `inverse` maps
a prediction back to the grid it came from.

Example:
    >>> import numpy as np
    >>> from voxgap import Volume, resample
    >>> volume = Volume(np.arange(64.0).reshape(4, 4, 4), spacing=(2, 1, 1))
    >>> finer, record = resample.resample(volume, spacing=(1, 1, 1))
    >>> finer.shape
    (8, 4, 4, 1)
    >>> resample.inverse(finer, record).shape
    (4, 4, 4, 1)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from voxgap import align
from voxgap.errors import VoxgapError
from voxgap.volume import Values, Volume, times

__all__ = [
    "MAX_BYTES",
    "Align",
    "Crop",
    "Record",
    "Rescale",
    "crop_or_pad",
    "crop_to_observed",
    "extent",
    "inverse",
    "met_size",
    "onto",
    "own_missing_rate",
    "replay",
    "resample",
    "steps_of",
]

Method = Literal["linear", "nearest"]
Record = dict[str, Any]
Box = tuple[slice, slice, slice]

Size = tuple[int, ...]

MAX_BYTES = 16 * 2**30


@dataclass(frozen=True)
class _Step:
    """From a grid of size `old` to one of size `new`."""

    name: ClassVar[str]
    old: Size
    new: Size

    def to_json(self) -> Record:
        """Return the record of this step."""
        rest = {field.name: getattr(self, field.name) for field in fields(self)[2:]}
        return {"step": self.name, "from": list(self.old), "to": list(self.new), **rest}


@dataclass(frozen=True)
class Crop(_Step):
    """The box that begins at `start`; it may reach beyond the volume: what is there is missing."""

    name = "crop"
    start: list[int]

    def apply(self, volume: Volume, method: Method) -> Volume:
        """Return that box of a volume."""
        values = _window(volume.values, self.start, self.new)
        return _placed(volume, values, np.array(self.start, float), np.ones(3))

    def inverse(self) -> Crop:
        """Return the way back, on which what was cut off is missing."""
        return Crop(self.new, self.old, [-first for first in self.start])


@dataclass(frozen=True)
class Rescale(_Step):
    """Another number of voxels over the same extent."""

    name = "resample"
    method: Method

    def apply(self, volume: Volume, method: Method) -> Volume:
        """Return a volume in that many voxels."""
        values = _on_grid(volume.values, self.new, method)
        return _placed(volume, values, np.zeros(3), np.divide(self.old, self.new))

    def inverse(self) -> Rescale:
        """Return the way back."""
        return Rescale(self.new, self.old, self.method)


@dataclass(frozen=True)
class Align(_Step):
    """The grid of another volume; `matrix`, 3 × 4, takes an index on it to one on the old grid."""

    name = "onto"
    matrix: list[list[float]]
    method: Method

    def apply(self, volume: Volume, method: Method) -> Volume:
        """Return a volume on that grid."""
        matrix = np.vstack([self.matrix, (0, 0, 0, 1)])
        values = align.on_grid(volume.values, matrix, self.new, method)
        # Without an affine it is a prediction, which has a place only once it is back.
        affine = None if volume.affine is None else volume.affine @ matrix
        return replace(volume, values=values, affine=affine, spacing=None)

    def inverse(self) -> Align:
        """Return the way back."""
        back = np.linalg.inv(np.vstack([self.matrix, (0, 0, 0, 1)]))
        return Align(self.new, self.old, back[:3].tolist(), self.method)


Step = Crop | Rescale | Align


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
    return _taken(volume, Rescale(volume.shape[:3], _size(volume, spacing, size), method), max_bytes)


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
    if volume.affine is None:
        raise VoxgapError(
            f"{volume.source or 'volume'}: has no affine that says where it lies; resample it to a size"
        )
    matrix = np.linalg.solve(volume.affine, np.asarray(affine, np.float64))[:3].tolist()
    return _taken(volume, Align(volume.shape[:3], _size(volume, None, size), matrix, method), max_bytes)


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
    new = tuple(high - low for low, high in box)
    return _taken(volume, Crop(volume.shape[:3], new, [low for low, _ in box]))


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
    old, new = volume.shape[:3], _size(volume, None, size)
    start = [(was - now) // 2 for was, now in zip(old, new, strict=True)]
    return _taken(volume, Crop(old, new, start))


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
    return _through(volume, steps_of(records), method)


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
    return _through(volume, [step.inverse() for step in reversed(steps_of(records))], method)


def steps_of(records: Record | Sequence[Record]) -> list[Step]:
    """Return the steps of one record, or of several.

    Raises:
        VoxgapError: A record is no such record.
    """
    return [_step_of(record) for record in ([records] if isinstance(records, Mapping) else records)]


def _taken(volume: Volume, step: Step, max_bytes: int = MAX_BYTES) -> tuple[Volume, Record]:
    return _through(volume, [step], None, max_bytes), step.to_json()


def _through(
    volume: Volume, steps: Sequence[Step], method: Method | None, max_bytes: int = MAX_BYTES
) -> Volume:
    for step in steps:
        _check_shape(volume, step.old, step.new)
        _check_bytes(step.new, volume.shape[3], max_bytes)
        by = method or getattr(step, "method", "linear")
        if by not in ("linear", "nearest"):
            raise VoxgapError(f"method {by!r} is unknown; use linear or nearest")
        volume = step.apply(volume, by)
    return volume


def extent(records: Sequence[Record], shape: Sequence[int]) -> Box:
    """Return which box of the last grid a volume that went this way covers: around it, `crop_or_pad` added voxels.

    Args:
        records: In the order in which they were made; without any, a volume covers its grid. One of `onto` counts as
            covering all of its grid.
        shape: `(depth, height, width)` of the last grid, and any channels.

    Raises:
        VoxgapError: A record is no such record.
    """
    box = [(0, int(length)) for length in (records[0]["from"] if records else shape)[:3]]
    for step in steps_of(records):
        if isinstance(step, Align):
            box = [(0, length) for length in step.new]
        elif isinstance(step, Crop):
            box = [
                (min(max(low - first, 0), to), max(min(high - first, to), 0))
                for (low, high), first, to in zip(box, step.start, step.new, strict=True)
            ]
        else:
            held = [
                np.flatnonzero(_touching(was, to)[:, low:high].any(axis=1))
                for (low, high), was, to in zip(box, step.old, step.new, strict=True)
            ]
            box = [(int(h[0]), int(h[-1]) + 1) if h.size else (0, 0) for h in held]
    depth, height, width = (slice(low, max(low, high)) for low, high in box)
    return depth, height, width


def own_missing_rate(volume: Values, records: Sequence[Record]) -> float:
    """Return which share of a scan's values is missing, in [0, 1]; 0 where its grid holds nothing of it.

    Args:
        volume: On its grid, `(depth, height, width, channels)`.
        records: How it came there.
    """
    held = volume[extent(records, volume.shape)]
    return float(np.isnan(held).mean()) if held.size else 0.0


def _window(values: Values, start: Sequence[int], size: tuple[int, ...]) -> Values:
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
    return met_size(volume.shape, volume.spacing, given)


def met_size(shape: Sequence[int], old: Sequence[float], new: Any) -> tuple[int, int, int]:
    """Return in how many voxels of spacing `new` a volume of this shape and spacing `old` lies."""
    sizes = np.rint(np.array(shape[:3]) * old / np.asarray(new, np.float64)).clip(1, 2**31)
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


def _step_of(record: Any) -> Step:
    try:
        step = record["step"]
        old, new, start = (tuple(map(int, record.get(key, (0, 0, 0)))) for key in ("from", "to", "start"))
        if len(old) == len(new) == len(start) == 3 and min(*old, *new) > 0:
            if step == "crop":
                return Crop(old, new, list(start))
            if step == "resample" and record["method"]:
                return Rescale(old, new, record["method"])
            matrix = np.reshape(record["matrix"], (3, 4)).astype(np.float64)
            fits = np.isfinite(matrix).all() and np.linalg.det(matrix[:, :3]) != 0
            if step == "onto" and fits and record["method"]:
                return Align(old, new, matrix.tolist(), record["method"])
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        pass
    raise VoxgapError(f"{str(record)[:60]} is no record of voxgap.resample; keep what it returns")
