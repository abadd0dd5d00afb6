"""Slices that hold nothing though they are there: of one value, or the one before once more.

They are never taken for missing unless somebody says so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.volume import Values

Where = NDArray[np.bool_]

KINDS = ("constant", "duplicated")
"""`constant`: of one value, between slices that vary. `duplicated`: equal to the slice before, which varies."""
SOME = 1 / 3
"""The share of slices along an axis that may be so: of an upsampled volume every other one repeats, and of a scene that
stands still most do, and none of them is lost."""
FAINT = 0.5
"""Slices beside one that was lost vary by more than this share of what a typical one does: beyond the edge of a body
they don't, and there one value is what there is."""
_FEW = 16  # Of so few values, one is as common as another: a map of labels, or a mask.
_SAMPLE = 2**16


def check_kinds(kinds: Sequence[str]) -> tuple[str, ...]:
    """Return kinds of slices, each once.

    Raises:
        VoxgapError: One is none of `KINDS`.
    """
    given = [kinds] if isinstance(kinds, str) else list(kinds)
    if unknown := [kind for kind in given if kind not in KINDS]:
        raise VoxgapError(f"missing_slices {unknown[0]!r} is unknown; use {' or '.join(KINDS)}, or both")
    return tuple(dict.fromkeys(given))


def lost_slices(values: Values, kind: str) -> list[Where]:
    """Find slices of a kind, along depth, height and width.

    Args:
        values: `(depth, height, width, channels)`, NaN = missing.
        kind: One of `KINDS`.

    Returns:
        For each of the three axes `(slices, channels)`: whether a slice is of that kind.
    """
    found = []
    for axis in range(3):
        planes = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1, values.shape[3])
        lost = np.stack([_lost(planes[..., c], kind) for c in range(values.shape[3])], axis=-1)
        found.append(lost)
    return found


def without_slices(values: Values, kinds: Sequence[str]) -> Values:
    """Return values with slices of some kinds missing, NaN; the values themselves where there are none.

    Args:
        values: `(depth, height, width, channels)`, NaN = missing.
        kinds: Of `KINDS`.
    """
    found = [(axis, lost) for kind in kinds for axis, lost in enumerate(lost_slices(values, kind))]
    if not any(lost.any() for _, lost in found):
        return values
    gapped = np.array(values, np.float32)
    for axis, lost in found:
        np.moveaxis(gapped, (axis, 3), (0, 1))[lost] = np.nan
    return gapped


def _lost(planes: Values, kind: str) -> Where:
    """Tell which of `(slices, voxels)` are of a kind."""
    nothing = np.zeros(len(planes), bool)
    if len(planes) < 3 or planes.shape[1] < 4 or of_labels(planes):
        return nothing
    seen = ~np.isnan(planes)
    low = np.min(planes, axis=1, initial=np.inf, where=seen)
    high = np.max(planes, axis=1, initial=-np.inf, where=seen)
    varied = np.flatnonzero(high > low)
    if len(varied) < 2:
        return nothing
    lost = nothing.copy()
    if kind == "duplicated":
        same = (planes[1:] == planes[:-1]) | (~seen[1:] & ~seen[:-1])
        lost[1:] = same.all(axis=1)
        lost[high <= low] = False
    else:
        spread = np.zeros(len(planes))
        spread[varied] = [np.nanstd(planes[index].astype(float)) for index in varied]
        enough = FAINT * np.median(spread[varied])
        place = np.searchsorted(varied, np.arange(len(planes)))
        for index in np.flatnonzero((high == low) & (place > 0) & (place < len(varied))):
            beside = spread[varied[place[index] - 1]], spread[varied[place[index]]]
            lost[index] = min(beside) > enough
    return lost if np.count_nonzero(lost) <= SOME * len(planes) else nothing


def of_labels(values: Values) -> bool:
    """Tell whether values are so few that each is common: a map of labels, or a mask."""
    flat = values.ravel()
    some = flat[:: max(1, flat.size // _SAMPLE)]
    return len(np.unique(some[~np.isnan(some)])) <= min(_FEW, values.size // 4)
