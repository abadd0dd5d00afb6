"""What the attributes of an array say of its values, by the NetCDF and CF conventions.

`_FillValue`, `missing_value`, `valid_range`, `valid_min` and `valid_max` tell what is missing, `scale_factor`
and `add_offset` how the rest is packed. HDF5 and Zarr arrays carry them as well.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

ATTRIBUTES = (
    "_FillValue",
    "missing_value",
    "valid_range",
    "valid_min",
    "valid_max",
    "scale_factor",
    "add_offset",
    "_Unsigned",
)
"""Those that `decode` understands."""

DEFAULT_FILLS = {
    "i1": -127,
    "u1": 255,
    "i2": -32767,
    "u2": 65535,
    "i4": -2147483647,
    "u4": 4294967295,
    "i8": -9223372036854775806,
    "u8": 18446744073709551614,
    "f4": 9.969209968386869e36,
    "f8": 9.969209968386869e36,
}
"""What the NetCDF library puts where nothing was written, by type."""


def with_default_fill(attributes: Mapping[str, Any], dtype: np.dtype[Any]) -> dict[str, Any]:
    """Return the attributes of a NetCDF variable, with what the library fills with where they name no value."""
    # The library compares its own fill value with what `_Unsigned` has made of signed values: never alike.
    turned = dtype.kind == "i" and str(attributes.get("_Unsigned", "")).lower() == "true"
    fill = None if turned else DEFAULT_FILLS.get(dtype.str[1:])
    return {**({} if fill is None else {"_FillValue": fill}), **attributes}


def decode(stored: NDArray[Any], attributes: Mapping[str, Any], dtype: Any = np.float32) -> NDArray[Any]:
    """Return values with NaN where the attributes say that they are missing, unpacked.

    Args:
        stored: As in the file, any real dtype.
        attributes: Those of the array.
        dtype: Of what is unpacked.

    Returns:
        The same shape: floating point where an attribute had a say, as stored otherwise.
    """
    meant = _meant(stored.dtype, attributes)
    stored = stored if meant == stored.dtype else stored.view(meant)
    sentinels = [
        *_numbers(attributes, "_FillValue", stored.dtype),
        *_numbers(attributes, "missing_value", stored.dtype),
    ]
    low, high = _valid(attributes, stored.dtype)
    scale, offset = (_numbers(attributes, name) for name in ("scale_factor", "add_offset"))
    if not (sentinels or scale or offset or low is not None or high is not None):
        return stored
    missing = np.zeros(stored.shape, bool)
    for sentinel in sentinels:
        missing |= stored == sentinel
    if low is not None:
        missing |= stored < low
    if high is not None:
        missing |= stored > high
    with np.errstate(over="ignore"):
        if scale or offset:
            stored = stored.astype(np.float64) * (scale or [1.0])[0] + (offset or [0.0])[0]
        values = stored.astype(dtype)
    values[missing] = np.nan
    return values


def _meant(dtype: np.dtype[Any], attributes: Mapping[str, Any]) -> np.dtype[Any]:
    """Return the type of whole numbers that `_Unsigned` says are meant by those of the other sign."""
    kind = {"true": "u", "false": "i"}.get(str(attributes.get("_Unsigned", "")).lower(), "")
    if not kind or dtype.kind not in "iu":
        return dtype
    return np.dtype(dtype.str.replace(dtype.kind, kind))


def _valid(attributes: Mapping[str, Any], dtype: np.dtype[Any]) -> tuple[float | None, float | None]:
    """Return the lowest and highest valid value, in units of the values as stored."""
    pair = _numbers(attributes, "valid_range", dtype)
    low = pair[0] if len(pair) == 2 else next(iter(_numbers(attributes, "valid_min", dtype)), None)
    high = pair[1] if len(pair) == 2 else next(iter(_numbers(attributes, "valid_max", dtype)), None)
    given = next((attributes[n] for n in ("valid_range", "valid_min", "valid_max") if n in attributes), None)
    scale, offset = (_numbers(attributes, name) for name in ("scale_factor", "add_offset"))
    # Limits of floating point for packed integers are meant for the unpacked values.
    if (scale or offset) and dtype.kind in "iu" and np.asarray(given).dtype.kind == "f":
        factor, shift = (scale or [1.0])[0], (offset or [0.0])[0]
        ends = [None if end is None or not factor else (end - shift) / factor for end in (low, high)]
        # Half a step of slack, since the limits were rounded when packed.
        low, high = ends if factor > 0 else ends[::-1]
        low, high = (None if low is None else low - 0.5), (None if high is None else high + 0.5)
    return low, high


def _numbers(attributes: Mapping[str, Any], name: str, dtype: np.dtype[Any] | None = None) -> list[Any]:
    value = attributes.get(name)
    if value is None:
        return []
    if isinstance(value, bytes | str):
        value = _from_text(value)
    found = np.atleast_1d(np.asarray(value)).ravel()
    if found.dtype.kind not in "biuf" or found.size > 64:
        return []
    # A sentinel is compared in the precision of the values: 1e20 is another number in float32.
    if dtype is not None and dtype.kind == "f":
        with np.errstate(over="ignore"):
            found = found.astype(dtype)
    numbers = [number for number in found.tolist() if number == number]
    if dtype is not None and dtype.kind in "iu" and "_Unsigned" in attributes:
        # Written with the sign that the type in the file has, meant with the other one.
        highest, span = np.iinfo(dtype).max, 2 ** (8 * dtype.itemsize)
        whole = [n % span if isinstance(n, int) else n for n in numbers]
        numbers = [n - span if isinstance(n, int) and n > highest else n for n in whole]
    return numbers


def _from_text(value: bytes | str) -> Any:
    """Return the number in a text; xarray keeps the fill values of Zarr 3 as base64."""
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    for number in (int, float):  # Whole numbers of 64 bits are more than a float can hold.
        try:
            return number(text)
        except ValueError:
            continue
    try:
        return struct.unpack("<d", base64.b64decode(text, validate=True))[0]
    except (binascii.Error, struct.error, ValueError):
        return None
