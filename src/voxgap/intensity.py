"""Whether volumes share one unit of intensity, by the training data: which normalisation they need, and why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from voxgap.arrays import as_real, short
from voxgap.errors import VoxgapError
from voxgap.names import normalization
from voxgap.observed import Moments, moments
from voxgap.ragged import inside

SWAMPED = 0.3
"""Where a typical volume varies by less than this share of what all of them together vary by, a few rule the scale."""
FOLD = 10.0
"""The largest deviation of a volume is more than so many times the least: units differ, not only levels."""


class Choice(NamedTuple):
    """A normalisation, and the evidence for it in one sentence."""

    method: str
    why: str


class Spread(NamedTuple):
    """How one channel varies, over volumes that vary at all.

    Attributes:
        within: Standard deviation of each volume's observed values, `(volumes,)`.
        pooled: That of all observed values together.
    """

    within: np.ndarray
    pooled: float

    @property
    def differs(self) -> bool:
        """Whether volumes are in units of their own: few rule the scale, and by a factor, not by a level."""
        if len(self.within) < 2:
            return False
        swamped = float(np.median(self.within)) < SWAMPED * self.pooled
        return swamped and self.fold > FOLD

    @property
    def fold(self) -> float:
        """How many times the least deviation the largest is."""
        return float(self.within.max() / self.within.min()) if len(self.within) else 1.0


def spreads(volumes: Any) -> list[Spread]:
    """Measure each channel, volume by volume.

    Args:
        volumes: `(n, depth, height, width, channels)`, NaN = missing; in memory or read when indexed.
    """
    found = moments(volumes)
    within, pooled = found.deviation, found.pooled().deviation
    return [Spread(each[each > 0], float(whole)) for each, whole in zip(within.T, pooled, strict=True)]


def choose(volumes: Any, channels: tuple[str, ...] = ()) -> Choice:
    """Choose between `dataset` and `volume` by how much volumes vary between each other against within.

    Args:
        volumes: those of the training part, as for `spreads`.
        channels: their names.
    """
    found = spreads(volumes)
    apart = [channel for channel, spread in enumerate(found) if spread.differs]
    if not apart:
        return Choice("dataset", "most volumes are on one scale")
    worst = max(apart, key=lambda channel: found[channel].fold)
    name = f" in channel {channels[worst]}" if len(channels) > 1 else ""
    return Choice(
        "volume",
        f"scales of the volumes differ up to {found[worst].fold:.0f}-fold{name}: each is normalised by itself",
    )


def resolve(
    method: str, volumes: Any, channels: tuple[str, ...] = (), patch_size: Sequence[int] | None = None
) -> Choice:
    """Return the normalisation to build a network with: what is asked for, or what the data needs.

    Args:
        method: one of `voxgap.names.NORMALIZATIONS`.
        volumes: those of the training part, for `auto`.
        channels: their names.
        patch_size: of a network that sees patches of volumes, `(depth, height, width)`: those of larger volumes don't
            know the whole of them.

    Raises:
        VoxgapError: the method is unknown, or needs whole volumes.
    """
    auto = normalization(method) == "auto"
    chosen = choose(volumes, channels) if auto else Choice(method, "as asked")
    found = of_patches(chosen, volumes, patch_size)
    if found != chosen and not auto:
        raise VoxgapError(
            f"normalize {method!r} needs whole volumes, and a network of patches sees none; use dataset, a window, "
            "or normalise the files"
        )
    return found


def of_patches(chosen: Choice, volumes: Any, patch_size: Sequence[int] | None) -> Choice:
    """Return what was chosen, or what a network of patches can do of it: nothing that takes whole volumes.

    Args:
        chosen: by `choose`, or by who asked.
        volumes, patch_size: see `resolve`.
    """
    of_whole = chosen.method in ("volume", "percentile")
    if patch_size is None or not of_whole or inside(volumes, patch_size):
        return chosen
    why = chosen.why.partition(":")[0]
    return Choice("dataset", f"{why}, but a network of patches can't tell: normalise the files first")


def deciding(split: Any) -> np.ndarray:
    """Return where the volumes stand that a normalisation is chosen by: the training part, or all without one."""
    places = np.flatnonzero(np.asarray(split) == "train")
    return places if len(places) else np.arange(len(split))


def strangers(volumes: Any, split: Any, names: Sequence[str], channels: tuple[str, ...] = ()) -> str:
    """Say which volumes of other parts lie far outside of the training part's scale; empty where none does.

    Args:
        volumes: of all parts, as for `spreads`.
        split: the part of each.
        names: of the volumes; may be none.
        channels: their names.
    """
    learnt = np.asarray(split) == "train"
    if learnt.all() or not learnt.any():
        return ""
    found = moments(volumes)
    train = Moments(*(part[learnt] for part in found))
    pooled, known = train.pooled(), train.deviation
    least = np.where(known > 0, known, np.inf).min(axis=0)
    each = found.deviation
    off = (each > FOLD * known.max(axis=0)) | ((each > 0) & (each < least / FOLD) & np.isfinite(least))
    off |= np.abs(found.mean - pooled.mean) > FOLD * pooled.deviation
    off &= (found.observed > 0) & (pooled.deviation > 0) & ~learnt[:, np.newaxis]
    places = np.argwhere(off).tolist()
    if not places:
        return ""
    index, channel = places[0]
    more = len({place for place, _ in places}) - 1
    name = (names[index] if index < len(names) else "") or f"volume {index}"
    named = f" in channel {channels[channel]}" if len(channels) > 1 else ""
    others = f" and {more} more" if more else ""
    return (
        f"{name} ({split[index]}){others}: mean {short(float(found.mean[index, channel]))}, "
        f"deviation {short(float(each[index, channel]))}{named}, where the training volumes have "
        f"{short(float(pooled.mean[channel]))} and {short(float(pooled.deviation[channel]))}: are the units others?"
    )


ALIKE = 0.01
"""A single value that stands in at least this share of the voxels may be a mark and no measurement."""
APART = 0.25
"""It lies beyond all others by more than this share of their range."""
KNOWN = (
    *(
        sign * value
        for value in (999, 9999, 99999, 999999, 888, 8888, 7777, 32767, 1e20, 1e30)
        for sign in (1, -1)
    ),
    *(-32768, 65535, -2000, -3024, -1e10, -2147483648, 2147483647, 9.969209968386869e36),
)
"""Numbers that files say missing with, and the ends of whole numbers: of these, few are enough."""
RARE = 3
"""As many of them, at least."""
_FEW = 16  # Of so few values each is as common: a map of labels, or a mask.
_LOOKED_AT = 2**22


class Mark(NamedTuple):
    """A value that looks like a mark of what is missing, and what is said of it, with the option to name it by."""

    value: float
    said: str


def suspects(volumes: Any, channels: tuple[str, ...] = ()) -> list[str]:
    """Say which values look like marks: what `marks` finds, in a sentence each."""
    return [mark.said for mark in marks(volumes, channels)]


def marks(volumes: Any, channels: tuple[str, ...] = ()) -> list[Mark]:
    """Find values that look like marks of what is missing: one value, far beyond all others, common or of `KNOWN`.

    Args:
        volumes: as for `spreads`, or volumes `(depth, height, width, channels)` of any shapes; some are looked at.
            As they were read: resampling blends marks with what lies beside them.
        channels: their names.
    """
    found: list[Mark] = []
    for channel in range(volumes[0].shape[-1] if len(volumes) else 0):
        values = _some(volumes, channel)
        distinct, counts = np.unique(values, return_counts=True)
        name = f" of channel {channels[channel]}" if len(channels) > 1 else ""
        while len(distinct) > _FEW:
            # One mark may hide another: what is found is taken off, and the rest looked at again.
            end = next((end for end in (0, -1) if _is_mark(distinct, counts, end, values.size)), None)
            if end is None:
                break
            rest = distinct[1:] if end == 0 else distinct[:-1]
            mark, share = short(distinct[end]), counts[end] / values.size
            said = (
                f"{mark} stands in {share:.{0 if share >= ALIKE else 2}%} of the voxels{name}, and the next value is "
                f"{rest[end]:g}: is it missing? --missing-values {mark}"
            )
            found.append(Mark(float(distinct[end]), said))
            distinct, counts = rest, counts[1:] if end == 0 else counts[:-1]
    return found


def _is_mark(distinct: Any, counts: Any, end: int, size: int) -> bool:
    """Whether the value at an end of the distinct ones is far beyond the others, apart from known marks among them."""
    value = float(distinct[end])
    known = np.isin(distinct, np.array(KNOWN, np.float32))
    rest = distinct[~known] if known[end] else np.delete(distinct, end)
    if len(rest) < _FEW or counts[end] < (RARE if known[end] else ALIKE * size):
        return False
    gap = max(float(rest[0]) - value, value - float(rest[-1]))
    # What is common may be the background, just below all else; what is rare must be out of all proportion.
    far = APART if counts[end] >= ALIKE * size else 1.0
    return gap > far * (float(rest[-1]) - float(rest[0]))


def _some(volumes: Any, channel: int) -> Any:
    """Return observed values of a channel, of volumes from all over the data."""
    step = max(1, len(volumes) * math.prod(volumes[0].shape[:3]) // _LOOKED_AT)
    some = [as_real(volumes[i], "volumes")[..., channel] for i in range(0, len(volumes), step)]
    values = np.concatenate([part[~np.isnan(part)] for part in some])
    return values[:_LOOKED_AT]
