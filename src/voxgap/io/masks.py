"""Where gaps are filled: where something was ever observed, or where a land/sea mask of the file says so.

A mask is a variable of the file on axes of the volume (latitude and longitude, say) that holds a few different
values, or a fraction from 0 to 1, of which 0.5 and more counts as 1. Its `flag_values` or `flag_masks` and
`flag_meanings` name them (CF conventions 1.11, section 3.5), as do the standard names of CF for masks of land and
sea. Which of them are filled the data say: those where something was observed; the others were never meant to be.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap import io
from voxgap.errors import VoxgapError
from voxgap.io.beside import Beside, laid
from voxgap.volume import Values

Where = NDArray[np.bool_]

_STANDARD = {
    "land_binary_mask": ("sea", "land"),
    "sea_binary_mask": ("land", "sea"),
    "land_area_fraction": ("sea", "land"),
    "sea_area_fraction": ("land", "sea"),
}
"""Standard names of CF for masks, and what 0 and 1 mean in them."""
_NAMES = {
    *("mask", "landmask", "seamask", "oceanmask", "watermask", "landseamask", "lsmask", "lsm"),
    *("wet", "wetmask", "tmask", "maskt", "maskrho"),
}
_MEANINGS = {"land", "sea", "ocean", "water"}
MOST = 64
"""Different values of a mask, at most: what holds more is no mask."""
RARELY = 0.1
"""A part of a mask where less was observed than this share of what was in its best part was not meant to be."""


class Wanted(NamedTuple):
    """Where gaps are filled, `(depth, height, width, 1)` or 1 along any axis, and what to say of it."""

    where: Where
    said: str


def ever(observed: Where, time: int | None) -> Where:
    """Tell which positions any step in time observed; each for itself where there is no time.

    Args:
        observed: `(depth, height, width, channels)`.
        time: Which of the first three axes runs through time.
    """
    return observed if time is None else np.any(observed, axis=time, keepdims=True)


def by_mask(asked: str | None, source: io.Source, observed: Where) -> tuple[Wanted | None, list[str]]:
    """Return where a mask of the file says that gaps are filled, if there is one, and what to say of others.

    Args:
        asked: `VARIABLE` or `VARIABLE=VALUE,...`, values by number or meaning; found by what it says where None.
        source: The volume.
        observed: What is observed at any step, `(depth, height, width, channels)`, 1 along time.

    Raises:
        VoxgapError: There is no such variable, it is no mask, or it does not tell what to fill.
    """
    if asked is not None:
        name, _, values = asked.partition("=")
        one = io.beside(source, name.strip())[0]
        chosen = [value.strip().lower() for value in values.split(",") if value.strip()]
        return _wanted(one, source, observed, chosen, "as asked"), []
    for tier, why in ((_by_cf, "by its CF attributes"), (_by_name, "by its name")):
        usable, others = [], []
        for one in filter(tier, io.beside(source)):
            try:
                usable.append(_wanted(one, source, observed, [], f"found {why}", constant=True))
            except VoxgapError as error:
                others.append(f"not used: {error}")
        if len({found.where.tobytes() for found in usable}) > 1:
            raise VoxgapError(
                f"{source.path}: several masks disagree ({'; '.join(found.said for found in usable)}); choose one with "
                "--mask VARIABLE, or give --everywhere"
            )
        if usable or others:
            return (usable[0] if usable else None), others
    return None, []


def _wanted(
    one: Beside, source: io.Source, observed: Where, chosen: Sequence[str], how: str, constant: bool = False
) -> Wanted:
    where = f"{source.path}: mask {one.name}"
    values = laid(one, source)
    time = source.time
    if constant and time is not None and values.shape[time] > 1:
        values = _of_all_steps(values, time, where)
    parts = _parts(one, values, where)
    if chosen:
        lost = [value for value in chosen if not any(_is_called(label, [value]) for label in parts)]
        if lost:
            raise VoxgapError(f"{where}={','.join(lost)} has no such value; it holds {', '.join(parts)}")
        wanted = [label for label in parts if _is_called(label, chosen)]
    else:
        wanted = _observed_parts(one, parts, observed, where)
    others = [label for label in parts if label not in wanted]
    filled = np.any([parts[label] for label in wanted], axis=0)[..., np.newaxis]
    rest = f"; where it is {', '.join(others)}, gaps stay" if others else ""
    return Wanted(filled, f"mask {one.name}, {how}: gaps are filled where it is {', '.join(wanted)}{rest}")


def _of_all_steps(values: Values, time: int, where: str) -> Values:
    first = np.take(values, [0], axis=time)
    if not np.array_equal(np.broadcast_to(first, values.shape), values, equal_nan=True):
        raise VoxgapError(f"{where} changes in time; --mask NAME=VALUE,... says where to fill")
    return first


def _parts(one: Beside, values: Values, where: str) -> dict[str, Where]:
    """Return the positions of each value, by its number and what it means: `0 (land)`."""
    known = values[~np.isnan(values)]
    if known.size and known.min() >= 0 and known.max() <= 1 and not np.isin(known, (0, 1)).all():
        values = np.where(np.isnan(values), np.nan, values >= 0.5)
        known = values[~np.isnan(values)]
    distinct = np.unique(known)
    if len(distinct) > MOST or (distinct != distinct.round()).any():
        raise VoxgapError(f"{where} holds {len(distinct)} different values; a mask holds a few whole numbers")
    meanings = _meanings(one.attributes, distinct)
    parts = {
        f"{value:.0f}" + (f" ({meanings[value]})" if meanings.get(value) else ""): values == value
        for value in distinct.tolist()
    }
    lost = np.isnan(values)
    return {**parts, "missing": lost} if lost.any() else parts


def _meanings(attributes: Mapping[str, Any], values: NDArray[Any]) -> dict[float, str]:
    names = str(attributes.get("flag_meanings", "")).split()
    flags, bits = (_whole(attributes.get(key, [])) for key in ("flag_values", "flag_masks"))
    if flags is None or bits is None:
        names, flags, bits = [], [], []
    if len(flags) == len(names) > 0 and not bits:
        return dict(zip(map(float, flags), names, strict=True))
    if len(bits) == len(names) > 0:
        flags = flags if len(flags) == len(bits) else bits
        found = {}
        for value in values[np.isfinite(values)].tolist():
            held = [
                name
                for bit, flag, name in zip(bits, flags, names, strict=True)
                if int(value) & int(bit) == int(flag)
            ]
            found[value] = " ".join(held)
        return found
    return dict(enumerate(_STANDARD.get(str(attributes.get("standard_name", "")), ())))


def _whole(said: Any) -> list[int] | None:
    """Return an attribute of whole numbers, None where it holds anything else: a file may say what it likes."""
    try:
        values = np.atleast_1d(said)
    except ValueError:
        return None
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iuf"):
        return None
    with np.errstate(invalid="ignore"):
        whole = np.isfinite(values).all() and (values == np.round(values)).all()
    return [int(value) for value in values.tolist()] if whole else None


def _is_called(label: str, chosen: Sequence[str]) -> bool:
    number, _, meaning = label.lower().removesuffix(")").partition(" (")
    return bool({number, meaning, *meaning.split()} & set(chosen))


def _observed_parts(one: Beside, parts: Mapping[str, Where], observed: Where, where: str) -> list[str]:
    """Return the parts in which something was observed; they must not be all of several."""
    seen = observed.any(axis=-1)
    shape = np.broadcast_shapes(seen.shape, next(iter(parts.values())).shape)
    seen = np.broadcast_to(seen, shape)
    shares = {label: float(seen[np.broadcast_to(part, shape)].mean()) for label, part in parts.items()}
    most = max(shares.values())
    wanted = [label for label, share in shares.items() if share > RARELY * most]
    if not wanted or (len(wanted) == len(parts) > 1) or len(parts) < 2:
        held = ", ".join(f"{label}: {share:.0%}" for label, share in shares.items())
        raise VoxgapError(
            f"{where} does not tell what to fill (observed of each value: {held}); name values: "
            f"--mask {one.name}={next(iter(parts)).partition(' ')[0]}"
        )
    return wanted


def _by_cf(one: Beside) -> bool:
    words = set(re.split(r"[\s_\-]+", str(one.attributes.get("flag_meanings", "")).lower()))
    return bool(words & _MEANINGS) or str(one.attributes.get("standard_name", "")) in _STANDARD


def _by_name(one: Beside) -> bool:
    return re.sub(r"[^a-z]", "", one.name.lower()) in _NAMES
