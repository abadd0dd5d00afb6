"""What an axis of a file means, decided once for every format: its kind, its direction, its unit.

A reader says what a file says of each axis (`Axis`); here it is decided which one runs from west to east and
which from south to north, whether its coordinates run the other way, and how many mm or seconds a step is.

Sources: CF conventions 1.11, chapters 4 and 5 (coordinate types, units, calendars); UDUNITS-2 (names of units,
the length of a year).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError

RULES = 4
"""Version of the rules by which files are read. A bundle records the one that it was trained by.

1: latitude and longitude ascend in NetCDF files with CF attributes only; steps are in whatever unit the file has.
2: they ascend in every format, by attributes or names, where coordinates strictly fall; steps are in mm and seconds.
3: axes of an OME-Zarr image called x, y, z are depth z, height y, width x in whatever order, and it lies where its
   header moves it; a DICOM series that doesn't say how large its pixels are has no spacing.
4: latitude and longitude ascend where they are no coordinates of one dimension's own name, too, see
   `voxgap.io.auxiliary`; of a TIFF stack, too, transparency is no channel and a palette is three colours.
"""

MAX_PLACES = 1_000_000
"""Coordinates along one axis beyond this are not looked at."""
_TOLERANCE = 1e-3
_UNEVEN = 1.2  # Months differ by less.

_KINDS = {
    "x": ("x", "lon", "lons", "longitude", "rlon", "width", "column", "columns", "easting"),
    "y": ("y", "lat", "lats", "latitude", "rlat", "height", "row", "rows", "northing"),
    "z": (
        *("z", "depth", "slice", "slices", "frame", "frames", "t", "time"),
        *("lev", "level", "plev", "altitude"),
    ),
    "c": ("c", "s", "channel", "channels", "band", "bands", "sample", "samples"),
}
_STANDARD = {
    "x": ("longitude", "projection_x_coordinate", "grid_longitude"),
    "y": ("latitude", "projection_y_coordinate", "grid_latitude"),
    "z": ("time",),
}
_DEGREES = {
    "x": ("degrees_east", "degree_east", "degrees_e", "degree_e", "degreese", "degreee"),
    "y": ("degrees_north", "degree_north", "degrees_n", "degree_n", "degreesn", "degreen"),
}

_MM = {
    "mm": ("mm", "millimeter", "millimetre"),
    "m": ("m", "meter", "metre"),
    "km": ("km", "kilometer", "kilometre"),
    "cm": ("cm", "centimeter", "centimetre"),
    "dm": ("dm", "decimeter", "decimetre"),
    "um": ("um", "µm", "μm", "micron", "micrometer", "micrometre"),
    "nm": ("nm", "nanometer", "nanometre"),
    "pm": ("pm", "picometer", "picometre"),
    "angstrom": ("å", "Å", "angstrom", "ångström", "ångstrom"),
    "inch": ("in", "inch", "inches", '"'),
    "ft": ("ft", "foot", "feet"),
}
_MM_EACH = {"mm": 1.0, "m": 1e3, "km": 1e6, "cm": 10.0, "dm": 100.0, "um": 1e-3, "nm": 1e-6, "pm": 1e-9}
_MM_EACH |= {"angstrom": 1e-7, "inch": 25.4, "ft": 304.8}
_SECONDS = {
    "s": ("s", "sec", "second"),
    "ms": ("ms", "msec", "millisecond"),
    "us": ("us", "µs", "μs", "usec", "microsecond"),
    "ns": ("ns", "nsec", "nanosecond"),
    "min": ("min", "minute"),
    "h": ("h", "hr", "hour"),
    "d": ("d", "day"),
    "week": ("week",),
    "month": ("month",),
    "year": ("year", "yr", "common_year"),
}
_SECONDS_EACH = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0, "d": 86400.0}
_SECONDS_EACH |= {"week": 604800.0}
_YEARS = {
    "360_day": 360.0,
    "noleap": 365.0,
    "365_day": 365.0,
    "all_leap": 366.0,
    "366_day": 366.0,
    "julian": 365.25,
}
_YEAR = 365.242198781
"""Days of a year by UDUNITS, where the calendar has leap years."""


class Axis(NamedTuple):
    """What a file says of one axis of an array; nothing is decided here.

    Attributes:
        name: The file's own name for it; empty where it has none.
        kind: `x`, `y`, `z` (vertical or time) or `c` (channels), where the format itself tells.
        step: Size of a voxel along it, where the file says so and has no coordinates.
        unit: Of the step or the coordinates; mm or s where empty.
        places: Its coordinates, where the file has some.
        attributes: Of the coordinates, by the CF conventions.
        runs: Whether coordinates of several axes rise (1) or fall (-1) along this one; 0 where nobody knows.
    """

    name: str = ""
    kind: str = ""
    step: float | None = None
    unit: str = ""
    places: Sequence[float] | None = None
    attributes: Mapping[str, Any] = {}
    runs: int = 0


def kind(axis: Axis) -> str:
    """Return `x`, `y`, `z` or `c`: what the format says, else the attributes, else the name; empty if unknown."""
    return axis.kind or kind_by_attributes(axis.attributes) or _kind_by_name(axis.name)


def is_time(axis: Axis) -> bool:
    """Tell whether an axis runs through time: by what the file says of it, else by its name."""
    about = {key: str(axis.attributes.get(key, "")).lower() for key in ("standard_name", "axis", "units")}
    if about["standard_name"] == "time" or about["axis"] == "t" or " since " in about["units"]:
        return True
    word = axis.name.lower()
    return word in ("t", "date", "frame", "frames") or "time" in word.replace("-", "_").split("_")


def is_north(axis: Axis) -> bool:
    """Tell whether an axis, once falling coordinates are turned round, runs from south to north.

    A name alone does not: pictures have a `y`, too, and what has no coordinates may run either way.
    """
    steps = _steps(axis.places if axis.places is not None else ())
    monotonous = bool(len(steps)) and bool((steps > 0).all() or (steps < 0).all())
    return (monotonous or axis.runs != 0) and kind(axis) == "y"


def falls(axis: Axis, version: int = RULES) -> bool:
    """Tell whether an axis from west to east, or from south to north, is stored the other way round.

    Its coordinates must fall at every step: those that jump, such as longitudes across the date line, say
    nothing of a direction.
    """
    if axis.runs:
        return axis.runs < 0
    if axis.places is None:
        return False
    steps = _steps(axis.places)
    if version == 1:
        known = kind_by_attributes(axis.attributes) in ("x", "y")
        return bool(known and len(steps) and steps.all() and steps.mean() < 0)
    return bool(kind(axis) in ("x", "y") and len(steps) and (steps < 0).all())


def step(axis: Axis, version: int = RULES) -> float | None:
    """Return the size of a voxel along an axis in mm or seconds, in the file's own unit where that is neither.

    None where the file doesn't say, or its coordinates are not evenly spaced.
    """
    found = axis.step if axis.places is None else _regular(axis.places)
    if not found:
        return None
    return abs(float(found)) if version == 1 else _in_common_units(axis, abs(float(found)))


def voxels(axis: Axis, amount: float, unit: str) -> float | None:
    """Return how many voxels along an axis a length or a time is; None where the axis is measured in something else.

    Args:
        axis: Of evenly spaced voxels, or ones whose size nobody knows.
        amount: In that unit.
        unit: Of length, of time, or degrees.

    Raises:
        VoxgapError: The unit is unknown; or the axis is measured so, and its steps are uneven or unknown.
    """
    own = (axis.unit or str(axis.attributes.get("units", ""))).partition(" since ")[0].strip()
    measured = _measures(own) if own else "time" if is_time(axis) else "length"
    asked = _measures(unit)
    if not asked:
        raise VoxgapError(f"{unit!r} is no unit that is known; use mm, cm, m, s, hours, days or degrees")
    if measured != asked:
        return None
    size = step(axis)
    if not size:
        raise VoxgapError(
            f"steps along {axis.name or 'an axis'} are uneven or unknown; give the reach in voxels"
        )
    return amount * (1.0 if asked == "angle" else _each(unit, Axis()) or 1.0) / size


def _measures(unit: str) -> str:
    if unit.lower().startswith("degree") or unit in ("deg", "°"):
        return "angle"
    if any(_is_called(unit, names) for names in _SECONDS.values()):
        return "time"
    return "length" if millimetres(unit, 0.0) else ""


def uneven(axis: Axis) -> bool:
    """Tell whether coordinates are clearly not evenly spaced: what is between them was perhaps lost."""
    steps = np.abs(_steps(axis.places if axis.places is not None else ()))
    return bool(len(steps) and steps.min() > 0 and steps.max() > _UNEVEN * steps.min())


def bend(axis: Axis) -> float:
    """Return how far a line between two neighbours of a slice is off where steps are taken for even ones.

    Args:
        axis: Of uneven steps, see `uneven`.

    Returns:
        Share of the neighbours' difference, at the worst slice; 0.5 at most.
    """
    steps = np.abs(_steps(axis.places if axis.places is not None else ()))
    return float(np.max(np.abs(steps[:-1] / (steps[:-1] + steps[1:]) - 0.5)))


def millimetres(unit: str, default: float = 1.0) -> float:
    """Return how many mm one unit of length is; `default` where it is empty or no unit of length."""
    return next((_MM_EACH[key] for key, names in _MM.items() if _is_called(unit, names)), default)


def _in_common_units(axis: Axis, size: float) -> float | None:
    """Return a size in mm or seconds; None where the format has units for it, and this is none that is known."""
    unit = axis.unit or str(axis.attributes.get("units", ""))
    each = _each(unit.partition(" since ")[0].strip(), axis)
    if each is None:
        # Degrees and levels stay what they are; a size in pixels is none.
        return None if axis.unit else size
    return size * each


def _each(unit: str, axis: Axis) -> float | None:
    """Return how many mm or seconds a unit is, None where it is neither; no unit is one of them."""
    found = next((key for key, names in _SECONDS.items() if _is_called(unit, names)), None)
    if found is None:
        each = millimetres(unit, 0.0)
        return each or (None if unit else 1.0)
    if found not in ("month", "year"):
        return _SECONDS_EACH[found]
    # The calendar says how long they are.
    days = _YEARS.get(str(axis.attributes.get("calendar", "")).lower(), _YEAR)
    return days * 86400.0 / (12 if found == "month" else 1)


def _is_called(unit: str, names: Sequence[str]) -> bool:
    # Short symbols mean another unit in capitals: mm and Mm, ms and Ms.
    word = unit.strip() if len(unit.strip()) < 4 else unit.strip().lower()
    return word in names or (len(word) > 3 and word.removesuffix("s") in names)


def counts(axis: Axis) -> bool:
    """Tell whether the coordinates of an axis may only be its voxels' numbers, those of a part or turned round, too.

    An attribute `axis` says which axis it is, and not which way it runs.
    """
    others = {key: value for key, value in axis.attributes.items() if key != "axis"}
    measured = str(others.get("units", "")).strip().lower() not in ("", "1")
    if axis.places is None or not len(axis.places) or measured or kind_by_attributes(others):
        return False
    places = np.asarray(axis.places, np.float64)
    steps = np.diff(places)
    return bool((places == np.rint(places)).all() and steps.all() and (steps == steps[:1]).all())


def kind_by_attributes(attributes: Mapping[str, Any]) -> str:
    """Return `x`, `y` or `z`, what CF attributes say of coordinates; empty where they don't."""
    standard = str(attributes.get("standard_name", "")).lower()
    units = str(attributes.get("units", "")).lower()
    axis = str(attributes.get("axis", "")).lower()
    for letter in ("x", "y"):
        if axis == letter or standard in _STANDARD[letter] or units in _DEGREES[letter]:
            return letter
    vertical = (
        axis in ("z", "t") or standard in _STANDARD["z"] or " since " in units or "positive" in attributes
    )
    return "z" if vertical else ""


def _kind_by_name(name: str) -> str:
    return next((kind for kind, names in _KINDS.items() if name.lower() in names), "")


def _steps(places: Sequence[float]) -> NDArray[np.float64]:
    steps = np.diff(np.asarray(places, np.float64))
    return steps if np.isfinite(steps).all() else np.empty(0)


def _regular(places: Sequence[float]) -> float | None:
    steps = _steps(places)
    if not len(steps) or not steps.all():
        return None
    mean = float(steps.mean())
    # Coordinates in single precision are rounded to more than the tolerance where they are large and dense.
    rounding = 2 * float(np.spacing(np.float32(np.abs(np.asarray(places, np.float64)).max())))
    return mean if np.allclose(steps, mean, rtol=_TOLERANCE, atol=min(rounding, abs(mean) / 10)) else None
