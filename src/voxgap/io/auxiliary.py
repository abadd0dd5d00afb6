"""Latitudes and longitudes that are no coordinates of one dimension's own name: what they say of the axes.

An array on dimensions that are only counted (`y`, `x`, `eta_rho`) has its places beside it: `latitude(y)`, or
`lat_rho(eta_rho, xi_rho)` of two axes, or those again at every time (`XLAT` of WRF). One of one axis decides as the
dimension's own would, one of two where it strictly rises or falls along one of them in every row, and not so along
the other, or ten times less: that axis it belongs to. What is curved further says nothing. Holes are passed over.

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
_DOMINANT = 10
"""How many times less coordinates change along an axis, from end to end of every row, than along their own."""

_WORDS = {
    "y": {"lat", "lats", "latitude", "latitudes", "xlat", "tlat", "ulat", "geolat", "northing"},
    "x": {
        *("lon", "lons", "longitude", "longitudes"),
        *("xlong", "tlong", "tlon", "ulong", "ulon", "geolon", "easting"),
    },
}
_GRIDS = {"nav", "rho", "psi", "geo", "grid", "cell", "center", "centre", "model", "true", "mass", "coord"}
"""What a name of them has beside these words, but for single letters: `nav_lat`, `lat_u`, `XLAT_M`."""
_OTHERWISE = {
    *("error", "errors", "err", "uncertainty", "precision", "std", "stddev", "variance", "var", "anomaly"),
    *("bnds", "bounds", "vertices", "corners", "count", "counts", "number", "num", "index", "weights"),
    *("flag", "flags", "mask", "quality", "qc", "diff", "bias", "drift", "shift", "offset", "trend"),
    *("gradient", "step", "spacing", "resolution", "min", "max", "range", "size", "velocity"),
}
"""What is no place itself, whatever its unit."""
_CALLED = {"y": "latitude", "x": "longitude"}


class Auxiliary(NamedTuple):
    """Coordinates beside the values.

    Attributes:
        name: Of the variable.
        dims: Names of the axes that it lies on, three at most.
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


def direction(name: str, attributes: Mapping[str, Any], named: bool = True) -> str:
    """Return `x` for what says how far east something lies, `y` for how far north, by attributes, else by name.

    Args:
        name: Of a variable.
        attributes: Its own.
        named: Whether values name it as theirs; else a name alone must be one that latitudes have.
    """
    words = set(re.findall("[a-z]+", name.lower()))
    if words & _OTHERWISE:
        return ""
    by_attributes = kind_by_attributes(attributes)
    if by_attributes:
        return by_attributes if by_attributes in "xy" else ""
    found = [letter for letter, known in _WORDS.items() if words & known]
    if len(found) != 1:
        return ""
    rest = {word for word in words - _WORDS[found[0]] - _GRIDS if len(word) > 1}
    return found[0] if named or not rest else ""


def wanted(axes: Sequence[Axis]) -> bool:
    """Tell whether there is an axis of which coordinates beside the values may say something."""
    return any(axis.name and _is_open(axis) for axis in axes)


def is_looked_at(name: str, shape: Sequence[int], attributes: Mapping[str, Any]) -> bool:
    """Tell whether a variable may be such coordinates, before its values are read."""
    few = 0 < int(np.prod(shape, dtype=object)) <= MAX_VALUES
    return len(shape) in (1, 2, 3) and few and bool(direction(name, attributes))


def is_small(name: str, one: Any) -> bool:
    """Tell whether an array of that name is no volume: of coordinates those of three axes are none."""
    return len(one.shape) < 3 or is_looked_at(name, one.shape, one.attrs)


def seen(values: NDArray[Any]) -> dict[str, Any]:
    """Return `runs` and `places` of coordinates as JSON can say them."""
    plane = flat(values)
    runs = [0] * values.ndim
    if plane is not None:
        runs[-plane.ndim :] = _runs(plane)
    return {"runs": runs, "places": values.tolist() if values.ndim == 1 else None}


def flat(values: NDArray[Any]) -> NDArray[Any] | None:
    """Return the plane that coordinates of three axes repeat along their first, None where they change along it."""
    if values.ndim < 3:
        return values
    same = all(np.array_equal(plane, values[0], equal_nan=True) for plane in values[1:])
    return values[0] if same else None


def _runs(values: NDArray[Any]) -> list[int]:
    """Return which way values of one or two axes run along each; where half of them are missing, no way."""
    runs = [0] * values.ndim
    if np.isnan(values).mean() > 0.5:
        return runs
    for axis in range(values.ndim):
        lines = np.moveaxis(values, axis, 0)
        steps = lines[1:] - _last_known(lines)[:-1]
        steps = steps[~np.isnan(steps)]
        runs[axis] = int(bool(steps.size) and (int((steps > 0).all()) - int((steps < 0).all())))
    if all(runs) and len(runs) == 2:
        # Rows with holes don't tell how far they lead.
        ends = [np.abs(np.take(values, -1, axis) - np.take(values, 0, axis)) for axis in (0, 1)]
        for axis in (0, 1):
            if np.fmin.reduce(ends[axis]) >= _DOMINANT * np.fmax.reduce(ends[1 - axis]):
                runs[1 - axis] = 0
    return runs


def _last_known(lines: NDArray[Any]) -> NDArray[Any]:
    """Return lines in which each missing value is the last before it, along the first axis."""
    known = ~np.isnan(lines)
    if known.all():
        return lines
    places = np.arange(len(lines)).reshape(-1, *(1,) * (lines.ndim - 1))
    return np.take_along_axis(lines, np.maximum.accumulate(np.where(known, places, 0)), 0)


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
    free = {axis.name: kind_by_attributes(axis.attributes) for axis in axes if _is_open(axis)}
    known = {kind(axis) for axis in axes if not _is_open(axis)}
    fitting = [
        one
        for one in beside
        if set(one.dims) & set(free)
        and len(set(one.dims)) == len(one.dims)
        and all(sizes.get(dim) == size for dim, size in zip(one.dims, one.shape, strict=True))
    ]
    found: dict[str, tuple[str, int, Auxiliary]] = {}
    asked: dict[str, Sequence[Auxiliary]] = {}
    doubts = []
    for letter in "yx":
        ones, sure = _asked(fitting, letter, named.split())
        if letter in known or not ones:
            continue
        asked[letter] = ones
        decided = _decided(ones, {dim for dim, own in free.items() if own in ("", letter)})
        if decided:
            found[letter] = decided
        elif sure and all(size > 1 for one in ones for size in one.shape[-2:]):
            doubts.append(letter)
    if len({dim for dim, *_ in found.values()}) < len(found):  # Along a track, both change with every step.
        doubts, found = list(found), {}
    by_dim = {dim: (letter, sign, one) for letter, (dim, sign, one) in found.items()}
    told = tuple(_decided_axis(axis, by_dim.get(axis.name)) for axis in axes)
    return told, _said(doubts, {letter: asked[letter] for letter in doubts})


def _asked(fitting: Sequence[Auxiliary], letter: str, named: Sequence[str]) -> tuple[list[Auxiliary], bool]:
    """Return the coordinates that decide, and whether they surely are some: data in degrees are perhaps none."""
    ones = [one for one in fitting if one.name in named and direction(one.name, one.attributes) == letter]
    others = [one for one in fitting if direction(one.name, one.attributes, named=False) == letter]
    ones = ones or [one for one in others if direction(one.name, {}, named=False) == letter]
    return ones or others, bool(ones)


def _is_open(axis: Axis) -> bool:
    """Tell whether an axis has no coordinates of its own that say where it leads: none, or a mere count."""
    found = kind(axis)
    return found == "" or (found in ("x", "y") and not axis.kind and (axis.places is None or counts(axis)))


def _decided(ones: Sequence[Auxiliary], free: set[str]) -> tuple[str, int, Auxiliary] | None:
    """Return the axis that coordinates of one kind run along, and which way; None where they don't agree."""
    for rank in (1, 2, 3):
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


def _said(doubts: Sequence[str], asked: Mapping[str, Sequence[Auxiliary]]) -> str:
    ones = [one for letter in doubts for one in asked[letter]]
    if not ones:
        return ""
    names = ", ".join(one.name for one in ones)
    dims = ", ".join(dict.fromkeys(dim for one in ones for dim in one.dims[-2:]))
    return (
        f"{names}: {' and '.join(_CALLED[letter] for letter in doubts)} of a grid that is aslant or curved, jumps or "
        f"has holes: they say no direction of {dims}, which are read as they are stored or counted, and not turned to "
        "ascend"
    )
