"""Gaps that nobody marked: slices of one value or seen before, and values at the end of what can be stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from voxgap.arrays import as_real, short
from voxgap.io.slices import KINDS, lost_slices, of_labels
from voxgap.volume import AXES, Values

LOOKED_AT, VOLUMES = 2**25, 300
"""Values and volumes that are looked at, at most, from all over the data."""
CEILINGS = (255, 1023, 4095, 16383, 32767, 65535)
"""The largest numbers of 8, 10, 12, 14, 15 and 16 bits: where a detector is full."""
BLOCK = 27
"""Voxels that lie together, at least, where something is saturated."""
SATURATED = (0.0005, 0.05)
"""The share of voxels that may be so: fewer are a bright spot or two, more the background."""
PILED = 10.0
"""A full detector piles up: its last number is so many times as common as those of the last twentieth below it."""


class Disguise(NamedTuple):
    """What looks like a gap that nobody marked; only a person knows.

    Args:
        kind: `constant`, `duplicated` or `saturated`.
        size: how many slices, or voxels.
        volumes: that have some.
        where: some of them, by name where volumes have one.
        option: that takes it for missing.
        said: all of it in a sentence, with the option.
    """

    kind: str
    size: int
    volumes: int
    where: tuple[str, ...]
    option: str
    said: str


def disguises(volumes: Any, channels: Sequence[str] = (), names: Sequence[str] = ()) -> list[Disguise]:
    """Find what looks like a gap that nobody marked, apart from the values that `voxgap.intensity.marks` finds.

    Args:
        volumes: `(depth, height, width, channels)` each, NaN = missing, as they were read; some are looked at.
        channels: their names.
        names: of the volumes.
    """
    if not len(volumes):
        return []
    most = min(VOLUMES, max(1, LOOKED_AT // max(1, int(np.prod(volumes[0].shape)))))
    chosen = np.unique(np.linspace(0, len(volumes) - 1, min(most, len(volumes))).round().astype(int)).tolist()
    some = {index: as_real(volumes[index], "volumes") for index in chosen}
    called = {index: names[index] if index < len(names) else f"volume {index}" for index in chosen}
    found = [_slices(kind, some, called) for kind in KINDS]
    found += [_saturated(channel, some, called, channels) for channel in range(volumes[0].shape[-1])]
    return [one for one in found if one is not None]


def _slices(kind: str, some: dict[int, Values], called: dict[int, str]) -> Disguise | None:
    along: Counter[str] = Counter()
    where: dict[int, tuple[str, list[int]]] = {}
    values: Counter[float] = Counter()
    for index, volume in some.items():
        for axis, lost in enumerate(lost_slices(volume, kind)):
            planes = np.flatnonzero(lost.any(axis=1))
            if not len(planes):
                continue
            along[AXES[axis]] += len(planes)
            where.setdefault(index, (AXES[axis], planes.tolist()))
            if kind == "constant":
                for plane, channel in np.argwhere(lost):
                    values[float(np.nanmin(np.moveaxis(volume[..., channel], axis, 0)[plane]))] += 1
    if not where:
        return None
    count = sum(along.values())
    axes = ", ".join(f"{n} along {axis}" for axis, n in along.most_common())
    examples = tuple(
        f"{called[index]}: {axis} {_short_list(planes)}" for index, (axis, planes) in list(where.items())[:3]
    )
    one = ", ".join(short(value) for value, _ in values.most_common(3))
    what = {
        "constant": f"{'hold' if count != 1 else 'holds'} one value ({one}) between slices that vary",
        "duplicated": f"{'are' if count != 1 else 'is'} the slice before once more, to the last digit",
    }[kind]
    option = f"--missing-slices {kind}"
    still = " A scene that stands still is no gap." if kind == "duplicated" else ""
    said = (
        f"{count} slice{'s' * (count != 1)} ({axes}) in {len(where)} of {len(some)} volumes {what} "
        f"({'; '.join(examples)}): {'are they' if count != 1 else 'is it'} missing? {option}.{still}"
    )
    return Disguise(kind, count, len(where), examples, option, said)


def _short_list(planes: Sequence[int]) -> str:
    return ", ".join(map(str, planes[:4])) + (", ..." if len(planes) > 4 else "")


def _saturated(
    channel: int, some: dict[int, Values], called: dict[int, str], channels: Sequence[str]
) -> Disguise | None:
    """Find blocks of the last number that a detector can say, where that piles up."""
    top = max(float(np.nanmax(v[..., channel], initial=-np.inf)) for v in some.values())
    if top not in CEILINGS or all(of_labels(v[..., channel]) for v in some.values()):
        return None
    full = {index: v[..., channel] == top for index, v in some.items()}
    count = sum(int(np.count_nonzero(one)) for one in full.values())
    share = count / sum(one.size for one in full.values())
    near = sum(
        int(np.count_nonzero((v[..., channel] >= 0.95 * top) & (v[..., channel] < top)))
        for v in some.values()
    )
    steps = max(1.0, 0.05 * top)
    if not SATURATED[0] <= share <= SATURATED[1] or count < PILED * near / steps:
        return None
    blocks = {index: _largest(one) for index, one in full.items() if np.count_nonzero(one) >= BLOCK}
    blocks = {index: size for index, size in blocks.items() if size >= BLOCK}
    if not blocks:
        return None
    examples = tuple(f"{called[index]}: {size} voxels together" for index, size in list(blocks.items())[:3])
    option = f"--missing-values {short(top)}"
    name = f" of channel {channels[channel]}" if len(channels) > 1 else ""
    said = (
        f"{short(top)}, the largest number that can be stored, stands in {share:.2%} of the voxels{name}, in blocks, "
        f"in {len(blocks)} of {len(some)} volumes ({'; '.join(examples)}): is it saturated, and missing? {option}"
    )
    return Disguise("saturated", count, len(blocks), examples, option, said)


def _largest(full: Any) -> int:
    from scipy.ndimage import label

    found, count = label(full)
    return int(np.bincount(found.ravel())[1:].max()) if count else 0
