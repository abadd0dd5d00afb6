"""What is stored in place of what was: an observed voxel keeps its number to the last bit, in every format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap.volume import Values

Decode = Callable[[NDArray[Any]], NDArray[Any]]
"""What reading makes of stored numbers: sentinels NaN, packed ones unpacked, no less exact than they are."""

_WHOLE = {np.float32: 2**24, np.float64: 2**53}
"""Up to here a type of floating point holds every whole number."""


class Settled(NamedTuple):
    """What to store, whether it is in the file's own type and packing, and the type that it has unpacked."""

    new: NDArray[Any]
    own: bool
    room: np.dtype[Any]


def settled(
    stored: NDArray[Any],
    values: Values,
    decode: Decode = np.asarray,
    holes: NDArray[np.bool_] | None = None,
    into: np.dtype[Any] | None = None,
) -> Settled:
    """Return what to store in place of what is.

    It has the file's own type, where reading it gives what is written. Otherwise it is unpacked, in float32, or
    float64 where float32 can't hold the numbers that stay; beyond 2^53 what is new is rounded, since no type
    holds both.

    Args:
        stored: As in the file.
        values: What is written, of the same shape.
        decode: What reading makes of what is stored.
        holes: True where nothing was ever stored.
        into: The type of floating point in which it is unpacked in any case.
    """
    unpacked = decode(stored)
    with np.errstate(over="ignore"):
        before = unpacked.astype(np.float32)
    if holes is not None:
        before[holes] = np.nan
    same = (before == values) | (np.isnan(before) & np.isnan(values))
    room = _room(stored, same)
    exact = np.dtype(room or np.float64)
    if into is None and same.all():
        return Settled(stored, True, exact)
    if holes is not None:  # What nobody wrote stays missing once there is something beside it.
        same &= ~holes
    fresh = values[~same]
    for wanted in () if into is not None else (fresh,) if room else (fresh, np.rint(fresh)):
        if _read_alike(wanted, stored.dtype, decode):
            new = stored.copy()
            with np.errstate(invalid="ignore", over="ignore"):
                new[~same] = wanted.astype(stored.dtype)
            return Settled(new, True, exact)
    new = np.asarray(unpacked).astype(into or exact)
    new[~same] = fresh
    return Settled(new, False, exact)


def _read_alike(wanted: NDArray[Any], dtype: np.dtype[Any], decode: Decode) -> bool:
    with np.errstate(invalid="ignore", over="ignore"):
        read = decode(wanted.astype(dtype)).astype(np.float32)
    return bool(((read == wanted) | (np.isnan(read) & np.isnan(wanted))).all())


def _room(stored: NDArray[Any], same: NDArray[np.bool_]) -> Any:
    """Return the smaller type of floating point that holds the numbers that stay; None where neither does."""
    if stored.dtype.kind == "f":
        return np.float64 if stored.dtype.itemsize > 4 else np.float32
    stays = stored[same]
    most = max(-int(stays.min(initial=0)), int(stays.max(initial=0))) if stored.dtype.kind != "b" else 1
    return next((room for room, limit in _WHOLE.items() if most <= limit), None)
