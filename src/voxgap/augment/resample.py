"""One resampling of a volume and its label maps, in which gaps move with the values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap.augment.threads import share
from voxgap.errors import VoxgapError
from voxgap.volume import Values, times

Size = tuple[int, int, int]
Matrix = NDArray[np.float64]

LARGEST = 2**31 - 1
PART = 2**16
"""Values that are worth a thread of their own."""
ROUNDING = 1e-9
"""Entries of a matrix this close to an integer are one: what is turned there and back is where it was."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where each voxel of the output comes from.

    Args:
        size: `(depth, height, width)` of the output.
        matrix: 4 × 4, from an output voxel's index to its place in the source, in voxels.
        bend: `(planes, lines, points, 3)`, displacements of that place in source voxels, at the control
            points of a cubic B-spline that spans the output; 1 or at least 4 along each axis.
    """

    size: Size
    matrix: Matrix
    bend: Matrix | None = None

    @classmethod
    def identity(cls, size: Size) -> Geometry:
        """Return the geometry that changes nothing."""
        return cls(size, np.eye(4))

    def then(self, later: Geometry) -> Geometry:
        """Return the one geometry of this one followed by a later one.

        The displacement of either is added in the frame of the result, whichever comes first.
        """
        if self.bend is not None and later.bend is not None:
            raise VoxgapError(
                "two elastic deformations can't be one resampling; keep one Elastic in a Compose"
            )
        bend = self.bend
        if later.bend is not None:
            bend = later.bend @ self.matrix[:3, :3].T
        return Geometry(later.size, self.matrix @ later.matrix, bend)


@dataclass(frozen=True)
class Border:
    """What stands beyond the border, and how much of a voxel has to be observed.

    Args:
        outside: `"missing"`, `"edge"` (the border's own value), or a number.
        outside_label: The label beyond the border; with `"edge"`, the border's own.
        threshold: Weight of the observed neighbours below which a voxel is missing, in (0, 1].

    Raises:
        VoxgapError: An argument is out of range.
    """

    outside: str | float = "missing"
    outside_label: int = 0
    threshold: float = 0.5

    def __post_init__(self) -> None:
        named = isinstance(self.outside, str)
        if named and self.outside not in ("missing", "edge"):
            raise VoxgapError(f"outside {self.outside!r} is unknown; choose missing, edge or a number")
        if not named and not np.isfinite(float(self.outside)):
            raise VoxgapError(f"outside {self.outside} is not finite; choose missing, edge or a number")
        if not 0 < self.threshold <= 1:
            raise VoxgapError(f"threshold {self.threshold} is out of range; give a number above 0, up to 1")

    @property
    def edge(self) -> bool:
        """True where the border's own value goes on."""
        return self.outside == "edge"

    @property
    def fill(self) -> float:
        """The value beyond the border."""
        return np.nan if isinstance(self.outside, str) else self.outside


class _Line(NamedTuple):
    """One axis of a source that is only turned, flipped and shifted: the voxels taken, and where they go."""

    taken: slice
    placed: slice


def resample(
    volume: Values, geometry: Geometry, border: Border, out: Values | None = None, threads: int = 1
) -> Values:
    """Resample a volume: trilinear between observed neighbours, exact where voxels fall on voxels.

    With observed neighbours i of trilinear weight w_i, a voxel is `sum(w_i v_i) / sum(w_i)`, and missing
    where `sum(w_i)` is below the threshold.

    Args:
        volume: `(depth, height, width, channels)`, float32, NaN where missing.
        geometry: Where each voxel comes from.
        border: What stands beyond the border.
        out: `(*geometry.size, channels)`, float32, C-contiguous: written to and returned, where given.
        threads: How many share the work; the result does not depend on it.

    Returns:
        `(*geometry.size, channels)`, float32.

    Raises:
        VoxgapError: The volume holds 2³¹ values or more.
    """
    if out is None:
        out = np.empty((*geometry.size, volume.shape[-1]), np.float32)
    if _whole(geometry):
        _move(volume, geometry, border.edge, border.fill, out)
        return out
    if volume.size > LARGEST:
        raise VoxgapError(f"volume of {times(volume.shape)} is too large to resample; cut patches first")
    from voxgap.augment import kernels

    source, matrix, bend = _read_only(volume), *_kernel_geometry(geometry)
    flat, fill, least = out.reshape(-1), np.float32(border.fill), np.float32(border.threshold)

    def planes(first: int, last: int) -> None:
        kernels.resample(
            source, volume.shape, flat, geometry.size, matrix, bend, first, last, border.edge, fill, least
        )

    # A thread costs more than a small part of the work.
    share(planes, geometry.size[0], min(threads, 1 + out.size // PART) if threads > 1 else threads)
    return out


def resample_labels(
    labels: NDArray[Any], geometry: Geometry, border: Border, threads: int = 1
) -> NDArray[Any]:
    """Resample label maps: each voxel takes the nearest one.

    Args:
        labels: `(depth, height, width, ...)`, any dtype.
        geometry, border, threads: As for `resample`.

    Returns:
        `(*geometry.size, ...)`, the same dtype.
    """
    if _whole(geometry):
        out = np.empty((*geometry.size, *labels.shape[3:]), labels.dtype)
        _move(labels, geometry, border.edge, border.outside_label, out)
        return out
    from voxgap.augment import kernels

    matrix, bend = _kernel_geometry(geometry)
    index = np.empty(geometry.size, np.int64)

    def planes(first: int, last: int) -> None:
        kernels.nearest(
            labels.shape[:3], index.reshape(-1), geometry.size, matrix, bend, first, last, border.edge
        )

    share(planes, geometry.size[0], threads)
    taken: NDArray[Any] = labels.reshape(-1, *labels.shape[3:])[index]
    taken[index < 0] = border.outside_label
    return taken


def _kernel_geometry(geometry: Geometry) -> tuple[Matrix, Matrix]:
    bend = np.zeros((0, 0, 0, 3)) if geometry.bend is None else geometry.bend
    return np.ascontiguousarray(_snapped(geometry.matrix)[:3]), np.ascontiguousarray(bend)


def _read_only(volume: Values) -> Values:
    """Return the flat values as the one type that the kernels are compiled for."""
    flat = np.ascontiguousarray(volume).reshape(-1).view()
    flat.flags.writeable = False
    return flat


def _snapped(matrix: Matrix) -> Matrix:
    whole = np.rint(matrix)
    return np.where(np.abs(matrix - whole) < ROUNDING, whole, matrix)


def _whole(geometry: Geometry) -> bool:
    """Tell whether every voxel falls on a voxel: only turns by 90°, flips and whole shifts."""
    if geometry.bend is not None:
        return False
    matrix = _snapped(geometry.matrix)[:3]
    if (matrix != np.rint(matrix)).any():
        return False
    turned = np.abs(matrix[:, :3])
    return bool((turned.sum(0) == 1).all() and (turned.sum(1) == 1).all())


def _move(source: NDArray[Any], geometry: Geometry, edge: bool, fill: float, out: NDArray[Any]) -> None:
    """Copy voxels to voxels, to the bit."""
    matrix = _snapped(geometry.matrix)[:3].astype(int)
    axes = np.abs(matrix[:, :3]).argmax(axis=0)
    turned = source.transpose(*axes, *range(3, source.ndim))
    directions = [int(matrix[axis, j]) for j, axis in enumerate(axes)]
    starts = [int(matrix[axis, 3]) for axis in axes]
    if edge:
        for j, (direction, start) in enumerate(zip(directions, starts, strict=True)):
            index = np.clip(direction * np.arange(out.shape[j]) + start, 0, turned.shape[j] - 1)
            turned = turned.take(index, axis=j)
        out[...] = turned
        return
    lines = [_line(*given) for given in zip(directions, starts, turned.shape[:3], out.shape[:3], strict=True)]
    placed = tuple(line.placed for line in lines)
    if any(span != slice(0, size) for span, size in zip(placed, out.shape, strict=False)):
        out[...] = fill
    out[placed] = turned[tuple(line.taken for line in lines)]


def _line(direction: int, start: int, size: int, out_size: int) -> _Line:
    """Return which voxels of an axis of `size` fall into an output axis at `direction * x + start`."""
    if direction > 0:
        first, last = max(0, -start), min(out_size, size - start)
    else:
        first, last = max(0, start - size + 1), min(out_size, start + 1)
    if first >= last:
        return _Line(slice(0, 0), slice(0, 0))
    begin, end = direction * first + start, direction * last + start
    return _Line(slice(begin, None if end < 0 else end, direction), slice(first, last))
