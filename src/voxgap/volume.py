"""One volume: its values with NaN where they are missing, its geometry and the names of its channels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from voxgap.arrays import as_real as as_real  # they belong to a volume's words, too
from voxgap.arrays import planes
from voxgap.arrays import times as times
from voxgap.errors import VoxgapError
from voxgap.ragged import Ragged

Values = NDArray[np.float32]

AXES = ("depth", "height", "width")
"""The three axes of a volume, where a file has no names of its own for them."""


_MOST_NAMES = 8


@dataclass(frozen=True, eq=False, repr=False)
class Volume:
    """A volume with gaps, as read from one file or built from one array.

    Args:
        values: `(depth, height, width, channels)`, or `(depth, height, width)` for one channel; any real
            dtype, kept as float32. NaN is missing; the masked entries of a `numpy.ma` array become NaN.
        affine: 4 × 4, takes a voxel's index `(depth, height, width, 1)` to its place `(x, y, z, 1)`,
            in mm from left to right, posterior to anterior, inferior to superior (RAS+).
        spacing: Size of a voxel along `(depth, height, width)`, in mm or in the source's own unit
            (seconds for the frames of a clip). Taken from the affine when only that is given.
        channels: One name per channel; `channel_0`, `channel_1`, ... when not given.
        source: The file that the volume came from.
        axes: What the file calls the three axes: `time`, `lat`, `lon`, say.

    Raises:
        VoxgapError: The rank is neither 3 nor 4, a value is infinite or not a real number, there is no
            voxel at all, or the geometry or the names don't fit the values.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> values = np.arange(24.0).reshape(2, 3, 4)
        >>> values[0, 0] = np.nan
        >>> vg.Volume(values, spacing=(3, 1, 1), channels=["t1"])
        Volume(2×3×4×1 float32; spacing 3 × 1 × 1; 16.7% missing; channels t1)
    """

    values: Values
    affine: NDArray[np.float64] | None = None
    spacing: tuple[float, float, float] | None = None
    channels: tuple[str, ...] = ()
    source: Path | None = None
    axes: tuple[str, str, str] = AXES

    def __post_init__(self) -> None:
        where = str(self.source) if self.source else "volume"
        values = as_values(self.values, where)
        affine = None if self.affine is None else _checked_affine(self.affine, where)
        spacing = _checked_spacing(self.spacing, affine, where)
        axes = tuple(map(str, self.axes))
        if len(axes) != 3 or len(set(axes)) != 3 or not all(axes):
            raise VoxgapError(f"{where}: axes {', '.join(axes)}; name three, each its own")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "axes", axes)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "spacing", spacing)
        object.__setattr__(self, "channels", channel_names(self.channels, values.shape[-1], where))

    def __repr__(self) -> str:
        names = self.channels if len(self.channels) <= _MOST_NAMES else (*self.channels[:_MOST_NAMES], "...")
        parts = [
            f"{times(self.shape)} {self.values.dtype}",
            "" if self.spacing is None else f"spacing {' × '.join(f'{size:.4g}' for size in self.spacing)}",
            f"{self.missing_rate:.1%} missing",
            f"channels {', '.join(names)}",
        ]
        return f"Volume({'; '.join(filter(None, parts))})"

    @property
    def observed(self) -> NDArray[np.bool_]:
        """True where a value is present, `(depth, height, width, channels)`."""
        return ~np.isnan(self.values)

    @property
    def missing_rate(self) -> float:
        """Share of the values that is missing, in [0, 1]."""
        # Slab by slab, as `_finite_or_missing` looks.
        return sum(int(np.isnan(slab).sum()) for slab in self.values) / self.values.size

    @property
    def shape(self) -> tuple[int, ...]:
        """`(depth, height, width, channels)`."""
        return self.values.shape


def rises(affine: NDArray[np.float64]) -> bool:
    """Tell whether the height axis runs to the front or to the head, so that its first row belongs below.

    Args:
        affine: 4 × 4, as of a `Volume`.
    """
    right, front, head = affine[:3, 1] / np.linalg.norm(affine[:3, 1])
    steepest = front if abs(front) >= abs(head) else head
    return bool(steepest > 0 and abs(steepest) >= abs(right))


def upright(values: NDArray[Any], known: bool) -> NDArray[Any]:
    """Return a volume or label map as pictures show it: with the north, the front or the head up.

    Args:
        values: `(depth, height, width)`, with or without channels.
        known: Whether height is known to run there: `Source.rises`, or `rises`. Else nothing is turned.
    """
    return np.flip(values, 1) if known else values


def as_values(values: Any, where: str = "volume") -> Values:
    """Check the values of one volume and return them as float32.

    Args:
        values: `(depth, height, width, channels)` or `(depth, height, width)`, any real dtype.
        where: What an error message calls them: a file or an argument.

    Returns:
        `(depth, height, width, channels)`, float32; the same memory where it already was.

    Raises:
        VoxgapError: As for `Volume`.
    """
    array = as_real(values, where)
    if array.ndim not in (3, 4):
        raise VoxgapError(
            f"{where}: shape {times(array.shape)} has rank {array.ndim}; give (depth, height, width) "
            "or (depth, height, width, channels)"
        )
    return _finite_or_missing(array if array.ndim == 4 else array[..., np.newaxis], where)


def as_batch(volumes: Any, where: str = "volumes", *, allow_empty: bool = False) -> Values:
    """Check a batch of volumes and return it as float32.

    Args:
        volumes: `(batch, depth, height, width, channels)`, any real dtype; a `Ragged` where shapes differ.
        where: What an error message calls them: a file or an argument.
        allow_empty: Whether a batch of no volume is fine.

    Returns:
        The same shape, float32; the same memory where it already was. What is read from disk when asked for
        (`voxgap.dataset.lazy`) was checked when it was written, and stays there.

    Raises:
        VoxgapError: The rank is not 5, a value is infinite or not a real number, or there is none at all.
    """
    if getattr(volumes, "checked", False) and volumes.ndim == 5 and volumes.dtype == np.float32:
        return volumes
    if isinstance(volumes, Ragged) and volumes.ndim == 5:
        return cast("Values", Ragged((as_values(one, where) for one in volumes), volumes.shape[1:]))
    array = as_real(volumes, where, allow_empty=allow_empty)
    if array.ndim != 5:
        raise VoxgapError(
            f"{where}: shape {times(array.shape)} has rank {array.ndim}; "
            "give (batch, depth, height, width, channels)"
        )
    return _finite_or_missing(array, where)


def channel_names(names: Any, count: int, where: str) -> tuple[str, ...]:
    """Return one name per channel, numbered ones when none are given."""
    given = tuple(str(name) for name in names)
    if not given:
        return tuple(f"channel_{index}" for index in range(count))
    if len(given) != count:
        raise VoxgapError(f"{where}: {len(given)} channel names for {count} channels; give one name each")
    if len(set(given)) != count:
        raise VoxgapError(f"{where}: channel names {', '.join(given)} repeat; give each its own")
    return given


def _finite_or_missing(array: NDArray[Any], where: str) -> Values:
    with np.errstate(over="ignore"):
        values = array.astype(np.float32, copy=False)
    # Slab by slab: a whole boolean copy of a large volume is memory for nothing.
    infinite = sum(int(np.count_nonzero(np.isinf(slab))) for slab in planes(values))
    if infinite:
        raise VoxgapError(
            f"{where}: {infinite} infinite value{'s' * (infinite > 1)} (or beyond float32); "
            "replace by NaN where missing, by a finite number elsewhere"
        )
    return values


def _checked_affine(affine: Any, where: str) -> NDArray[np.float64]:
    matrix = np.array(affine, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise VoxgapError(f"{where}: affine of shape {times(matrix.shape)}; give 4×4")
    if not np.isfinite(matrix).all() or not np.array_equal(matrix[3], (0, 0, 0, 1)):
        raise VoxgapError(f"{where}: the affine is not finite or its last row is not 0 0 0 1; repair it")
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    # Relative to the voxel size, so that micrometres and kilometres are both fine.
    if not np.isfinite(lengths).all() or not lengths.all():
        raise VoxgapError(f"{where}: the affine gives a voxel no size; repair it")
    if abs(np.linalg.det(matrix[:3, :3] / lengths)) < 1e-6:
        raise VoxgapError(f"{where}: two axes of the affine coincide; repair it")
    return matrix


def _checked_spacing(
    spacing: Any, affine: NDArray[np.float64] | None, where: str
) -> tuple[float, float, float] | None:
    sizes = None if affine is None else np.linalg.norm(affine[:3, :3], axis=0)
    if spacing is not None:
        given = np.asarray(spacing, dtype=np.float64)
        if given.shape != (3,) or not (np.isfinite(given) & (given > 0)).all():
            raise VoxgapError(f"{where}: spacing {spacing}; give three positive sizes (depth, height, width)")
        if sizes is not None and not np.allclose(given, sizes, rtol=1e-3):
            raise VoxgapError(f"{where}: spacing {spacing} contradicts the affine; give one of the two")
        sizes = given
    return None if sizes is None else (float(sizes[0]), float(sizes[1]), float(sizes[2]))
