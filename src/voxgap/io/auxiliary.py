"""Latitudes and longitudes that are no coordinates of one dimension's own name: what they say of the axes.

An array on dimensions that are only counted (`y`, `x`, `eta_rho`) has its places beside it: `latitude(y)`, or
`lat_rho(eta_rho, xi_rho)` of two axes. One of one axis decides as the dimension's own would, one of two where it
strictly rises or falls along one of them in every row, and not so along the other: that axis it belongs to. What is
curved further says nothing.

Source: CF conventions 1.11, chapter 5 (auxiliary coordinates, the attribute `coordinates`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap.io.rules import Axis, counts, kind, kind_by_attributes

MAX_VALUES = 2**24
"""Coordinates of more values than this are not looked at."""

_WORDS = {
    "y": {"lat", "lats", "latitude", "latitudes", "xlat", "tlat", "ulat", "northing"},
    "x": {"lon", "lons", "longitude", "longitudes", "xlong", "tlong", "ulong", "easting"},
}
_CALLED = {"y": "latitude", "x": "longitude"}


class Auxiliary(NamedTuple):
    """Coordinates beside the values.

    Attributes:
        name: Of the variable.
        dims: Names of the one or two axes that it lies on.
        shape: Along them.
        runs: For each of them, whether it rises (1) or falls (-1) at every step of every line, or neither (0).
        places: The values, where it lies on one axis.
        attributes: Its own.
    """

    name: str
    dims: Sequence[str]
    shape: Sequence[int]
    runs: Sequence[int]
    places: Sequence[float] | None = None
    attributes: Mapping[str, Any] = {}


def direction(name: str, attributes: Mapping[str, Any]) -> str:
    """Return `x` for what says how far east something lies, `y` for how far north, by attributes, else by name."""
    by_attributes = kind_by_attributes(attributes)
    if by_attributes:
        return by_attributes if by_attributes in "xy" else ""
    words = set(re.findall("[a-z]+", name.lower()))
    found = [letter for letter, known in _WORDS.items() if words & known]
    return found[0] if len(found) == 1 else ""


def wanted(axes: Sequence[Axis]) -> bool:
    """Tell whether there is an axis of which coordinates beside the values may say something."""
    return any(axis.name and _is_open(axis) for axis in axes)


def is_looked_at(name: str, shape: Sequence[int], attributes: Mapping[str, Any]) -> bool:
    """Tell whether a variable may be such coordinates, before its values are read."""
    few = 0 < int(np.prod(shape, dtype=object)) <= MAX_VALUES
    return len(shape) in (1, 2) and few and bool(direction(name, attributes))


def seen(values: NDArray[Any]) -> dict[str, Any]:
    """Return `runs` and `places` of coordinates as JSON can say them; NaN is missing, and takes the direction."""
    runs = []
    for axis in range(values.ndim):
        lines = np.moveaxis(values, axis, 0)
        steps = lines[1:], lines[:-1]
        runs.append(
            0 if len(lines) < 2 else int(np.all(steps[0] > steps[1])) - int(np.all(steps[0] < steps[1]))
        )
    return {"runs": runs, "places": values.tolist() if values.ndim == 1 else None}


def told(
    axes: Sequence[Axis], shape: Sequence[int], beside: Sequence[Auxiliary], named: str
) -> tuple[tuple[Axis, ...], str]:
    """Return the axes with what coordinates beside the values say of them, and what they leave open.

    Args:
        axes: Of the values, as their own coordinates tell.
        shape: Of the values.
        beside: Coordinates that may lie on these axes.
        named: Those that the values name (their attribute `coordinates`) go before others.
    """
    sizes = {axis.name: size for axis, size in zip(axes, shape, strict=True) if axis.name}
    free = {axis.name for axis in axes if _is_open(axis)}
    known = {kind(axis) for axis in axes if not _is_open(axis)}
    fitting = [
        one
        for one in beside
        if set(one.dims) & free
        and len(set(one.dims)) == len(one.dims)
        and all(sizes.get(dim) == size for dim, size in zip(one.dims, one.shape, strict=True))
    ]
    found: dict[str, tuple[str, int, Auxiliary]] = {}
    doubts = []
    for letter in "yx":
        ones = [one for one in fitting if direction(one.name, one.attributes) == letter]
        ones = [one for one in ones if one.name in named.split()] or ones
        if letter in known or not ones:
            continue
        decided = _decided(ones, free)
        if decided:
            found[letter] = decided
        elif all(size > 1 for one in ones for size in one.shape):
            doubts.append(letter)
    if len({dim for dim, *_ in found.values()}) < len(found):  # Along a track, both change with every step.
        doubts, found = list(found), {}
    by_dim = {dim: (letter, sign, one) for letter, (dim, sign, one) in found.items()}
    return tuple(_decided_axis(axis, by_dim.get(axis.name)) for axis in axes), _said(doubts, fitting)


def _is_open(axis: Axis) -> bool:
    """Tell whether an axis has no coordinates of its own that say where it leads: none, or a mere count."""
    found = kind(axis)
    return found == "" or (found in ("x", "y") and not axis.kind and (axis.places is None or counts(axis)))


def _decided(ones: Sequence[Auxiliary], free: set[str]) -> tuple[str, int, Auxiliary] | None:
    """Return the axis that coordinates of one kind run along, and which way; None where they don't agree."""
    for rank in (1, 2):
        found = {}
        for one in ones:
            along = [(dim, sign) for dim, sign in zip(one.dims, one.runs, strict=True) if sign]
            if len(one.dims) == rank and len(along) == 1:
                found[along[0]] = one
        if found:
            (dim, sign), one = next(iter(found.items()))
            return (dim, sign, one) if len(found) == 1 and dim in free else None
    return None


def _decided_axis(axis: Axis, found: tuple[str, int, Auxiliary] | None) -> Axis:
    if found is None:
        return axis
    letter, sign, one = found
    axis = axis._replace(kind=letter, runs=sign)
    if one.places is None or not (axis.places is None or counts(axis)):
        return axis
    return axis._replace(places=one.places, attributes=one.attributes)


def _said(doubts: Sequence[str], fitting: Sequence[Auxiliary]) -> str:
    ones = [one for one in fitting if direction(one.name, one.attributes) in doubts]
    if not ones:
        return ""
    names = ", ".join(one.name for one in ones)
    dims = ", ".join(dict.fromkeys(dim for one in ones for dim in one.dims))
    return (
        f"{names}: {' and '.join(_CALLED[letter] for letter in doubts)} of a grid that is aslant or curved, jumps or "
        f"has holes: they say no direction of {dims}, which are read as they are stored, and not turned to ascend"
    )
