"""Label maps: whole numbers, in the smallest type that holds them, beside the scan that they are for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from voxgap.arrays import planes
from voxgap.errors import VoxgapError
from voxgap.io.source import Source, as_stored
from voxgap.volume import Volume

WriteLabels = Callable[[Any, Volume, np.dtype[Any], Source | None], None]
"""Writes a label map into a stream or an empty folder, perhaps like the scan that it is for."""

# What programs read: of two types of a size the one that more of them know.
_TYPES: tuple[np.dtype[Any], ...] = tuple(np.dtype(name) for name in ("uint8", "int8", "int16", "int32"))


def whole_type(labels: Volume, where: Path | str) -> np.dtype[Any]:
    """Return the smallest type of whole numbers that holds a label map.

    Raises:
        VoxgapError: It holds several channels, or what is missing, or no whole numbers.
    """
    values = labels.values
    if values.shape[3] != 1:
        raise VoxgapError(f"{where}: a label map has one channel, not {values.shape[3]}")
    # Plane by plane: of a large map, all that is compared would be several times its memory.
    low, high, whole = np.inf, -np.inf, True
    for plane in planes(values):
        if np.isnan(plane).any():
            raise VoxgapError(
                f"{where}: a label map has no missing voxels; give them a number, such as 0 or -1"
            )
        low, high = min(low, float(plane.min())), max(high, float(plane.max()))
        whole = whole and not (plane != np.rint(plane)).any()
    for dtype in _TYPES:
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            break
    else:
        raise VoxgapError(f"{where}: labels go from {low:g} to {high:g}, beyond 32 bits; number them anew")
    if not whole:
        raise VoxgapError(f"{where}: a label map holds whole numbers; write it without labels=True")
    return dtype


def along(write: Callable[[Any, Volume, Any], None]) -> WriteLabels:
    """Return what writes label maps of a format without a header: along the axes of the volume they are for."""

    def labelled(target: Any, labels: Volume, dtype: np.dtype[Any], source: Source | None) -> None:
        write(target, labels if source is None else as_stored(labels, source), dtype)

    return labelled


def as_it_is(write: Callable[[Any, Volume], None]) -> WriteLabels:
    """Return what writes label maps of a format that stores whole numbers of its own size anyway."""

    def labelled(target: Any, labels: Volume, dtype: np.dtype[Any], source: Source | None) -> None:
        write(target, labels)

    return labelled
