"""The training data's gaps and values in a few numbers, and what sets one input apart from all of it.

How much is missing, and in which pattern, varies from scan to scan: of that, `voxgap.drift` judges a stream.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from voxgap.drift import looks
from voxgap.errors import VoxgapError
from voxgap.observed import moments
from voxgap.ragged import shapes_of
from voxgap.resample import Box, Record, crop_to_observed, extent
from voxgap.volume import Values, Volume

if TYPE_CHECKING:
    from voxgap.runtime.manifest import Manifest

OUTSIDE = 0.01
"""More than this share of values outside of the training data's: other units, most likely."""

FAR = 10
"""A single value that lies outside by more than so many of the training data's ranges says the same."""

Range = tuple[float, float]


@dataclass(frozen=True)
class Channel:
    """One channel of the training volumes.

    Args:
        missing_rate: least and largest of a volume.
        values: least and largest observed value; None where nothing was.
        deviation: least and largest standard deviation of a volume's observed values; None likewise.
    """

    missing_rate: Range
    values: Range | None
    deviation: Range | None


@dataclass(frozen=True)
class Profile:
    """What the volumes of a training set are like.

    Args:
        channels: by name.
        adds: whether the grid may add missing voxels around a scan.
    """

    channels: Mapping[str, Channel]
    adds: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain values, for a manifest's field `data.profile`."""
        return {"channels": asdict(self)["channels"]}

    @classmethod
    def of(cls, manifest: dict[str, Any], where: str) -> Profile | None:
        """Return the profile in a bundle's manifest, None where there is none, as in older bundles.

        Raises:
            VoxgapError: the field holds something else.
        """
        data = (manifest.get("data") or {}).get("profile")
        if data is None:
            return None
        try:
            channels = {str(name): _channel(entry) for name, entry in data["channels"].items()}
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError):
            raise VoxgapError(
                f"{where}: field data.profile is not a profile; train or export the bundle again"
            ) from None
        if list(channels) != manifest["input"]["channels"]:
            raise VoxgapError(f"{where}: field data.profile is not of the channels of input.channels")
        grid = manifest["input"].get("grid") or {}
        adds = bool(grid.get("size") and grid.get("spacing"))
        return cls(channels, adds)


def profile(
    volumes: Values,
    channels: tuple[str, ...],
    own_units: bool = False,
    boxes: Sequence[Box] | None = None,
) -> Profile:
    """Describe training volumes in the numbers that a prediction is held against.

    Args:
        volumes: `(n, depth, height, width, channels)`, NaN = missing.
        channels: their names.
        own_units: whether each volume is normalised by itself, so that no range of values is another's.
        boxes: which box of its volume each scan covers, see `voxgap.resample.extent`; by default all of it.
    """
    each = moments(volumes)
    voxels = np.array([math.prod(shape[:3]) for shape in shapes_of(volumes)])
    if boxes is not None:
        voxels = np.array([math.prod(along.stop - along.start for along in box) for box in boxes])
    found = {}
    for i, name in enumerate(channels):
        count, low, high, deviation = (
            of[:, i] for of in (each.observed, each.low, each.high, each.deviation)
        )
        seen, rates = deviation[count > 0], 1 - count / np.maximum(voxels, 1)
        found[name] = Channel(
            (float(rates.min()), float(rates.max())),
            (float(low.min()), float(high.max())) if seen.size else None,
            (float(seen.min()), float(seen.max())) if seen.size else None,
        )
    if own_units:
        found = {name: replace(channel, values=None, deviation=None) for name, channel in found.items()}
    return Profile(found)


def own_part(volume: Values, known: Profile, records: Sequence[Record] | None = None) -> Values:
    """Return a volume without what lies outside of its scan, where there is no gap.

    Args:
        volume: `(depth, height, width, channels)`, NaN = missing.
        known: of the training data.
        records: how it came onto the network's grid, none where it was on it. Where nobody knows, and the grid may have
            added voxels, what lies around all that is observed is left out.
    """
    if records is None and known.adds:
        return crop_to_observed(Volume(volume))[0].values
    return volume[extent(records or (), volume.shape)]


def drift(volume: Values, known: Profile | None, records: Sequence[Record] | None = None) -> tuple[str, ...]:
    """Say how a volume differs from those that the network was trained on.

    Args:
        volume: `(depth, height, width, channels)`, NaN = missing.
        known: of the training data; without it, only a volume of nothing is noticed.
        records: how it came onto the network's grid, see `own_part`.

    Returns:
        One sentence for each difference: nothing observed, a channel missing that never was, values outside of theirs.
    """
    if np.isnan(volume).all():
        return ("no observed voxel: the answer is what the network says of nothing",)
    if known is None:
        return ()
    volume = own_part(volume, known, records)
    found: list[str] = []
    for index, (name, channel) in enumerate(known.channels.items()):
        values = volume[..., index][~np.isnan(volume[..., index])]
        if not values.size and channel.missing_rate[1] < 1:
            found.append(f"channel {name} is missing as a whole, which it never was in the training data")
        found += filter(None, [_values(name, values, channel)])
    return tuple(found)


def far_outside(batch: Values, known: Profile | None) -> tuple[str, ...]:
    """Say which channels of a batch hold a value far outside of the training data's: a look at the extremes only.

    Args:
        batch: `(batch, depth, height, width, channels)`, NaN = missing.
        known: of the training data; without it, nothing is.
    """
    if known is None:
        return ()
    least, most = (
        extreme.reduce([extreme.reduce(volume, axis=(0, 1, 2)) for volume in batch])
        for extreme in (np.fmin, np.fmax)
    )
    return tuple(
        f"channel {name} holds values far outside of the training data's, {channel.values[0]:.4g} to "
        f"{channel.values[1]:.4g}; check the units"
        for index, (name, channel) in enumerate(known.channels.items())
        if channel.values is not None and _is_far(float(least[index]), float(most[index]), channel.values)
    )


def _is_far(least: float, most: float, known: Range) -> bool:
    low, high = known
    far = FAR * (high - low)
    return far > 0 and (least < low - far or most > high + far)


def _values(name: str, values: Values, known: Channel) -> str | None:
    if not values.size or known.values is None or known.deviation is None:
        return None
    low, high = known.values
    slack = (high - low) / 2
    least, most = values.min(), values.max()
    outside = 0.0
    if least < low - slack or most > high + slack:
        outside = float(((values < low - slack) | (values > high + slack)).mean())
    spread = float(values.std(dtype=np.float64))
    flat, rough = known.deviation
    far = _is_far(float(least), float(most), known.values)
    if not far and outside <= OUTSIDE and flat / 10 <= spread <= rough * 10:
        return None
    return (
        f"channel {name}: values from {least:.4g} to {most:.4g}, in the training data {low:.4g} "
        f"to {high:.4g}; check the units"
    )


def _channel(data: Any) -> Channel:
    rate = _range(data["missing_rate"])
    if rate is None:
        raise ValueError("a channel has a missing rate")
    return Channel(rate, _range(data["values"]), _range(data["deviation"]))


def _range(data: Any) -> Range | None:
    if data is None:
        return None
    low, high = map(float, data)
    if not math.isfinite(low) or not low <= high < math.inf:
        raise ValueError("a range is two numbers, the lower one first")
    return low, high


def watched(
    volume: Values, manifest: Manifest, records: Sequence[Record] | None
) -> Mapping[str, float] | None:
    """Return what a drift test watches of an input; None where a bundle keeps nothing to hold it against."""
    if manifest.reference is None or manifest.profile is None:
        return None
    return looks(own_part(volume, manifest.profile, records), manifest.input.channels)
