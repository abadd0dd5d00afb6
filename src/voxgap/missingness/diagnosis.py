"""What is there and what is missing: rates, and the pattern that the gaps look like."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.observed import blocks, moments
from voxgap.ragged import differ, shapes_of
from voxgap.volume import AXES, Values, as_batch, channel_names, times

QUANTILE_VOXELS = 2**20
CLUSTERED = 0.3
"""Neighbours go missing together this much more often than single voxels at random would (0 to 1): blocks."""
_BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Description:
    """What `describe` found.

    Args:
        volumes: How many.
        shape: Of each, `(depth, height, width, channels)`; None along axes on which they differ.
        missing_rate: Share of all values that is missing, in [0, 1].
        with_gaps: Volumes that miss something.
        wholly_missing: Volumes without any observed value.
        never_observed: Voxels (of one volume, per channel) that are missing in every volume.
        per_axis: Axis name to the missing rate at each position along it; of volumes of several sizes, each is
            stretched to the largest.
        per_axis_channel: The same for each channel, one list each.
        per_channel: Channel name to missing rate.
        per_class: Class name to missing rate; empty without targets.
        missing_channels: Channel name to the number of volumes that lack it as a whole.
        missing_slices: Axis name to the number of wholly missing slices, in channels that are not wholly
            missing.
        shares: Each pattern's share of the missing voxels, largest first.
        pattern: The pattern with the largest share, in words; `none` without gaps.
        intensity: Statistics of the observed values: min, max, mean, std and the quantiles p01, p25, p50, p75
            and p99 (from at most about a million of them).
    """

    volumes: int
    shape: tuple[int | None, ...]
    missing_rate: float
    with_gaps: int
    wholly_missing: int
    never_observed: int
    per_axis: Mapping[str, Sequence[float]]
    per_axis_channel: Mapping[str, Sequence[Sequence[float]]]
    per_channel: Mapping[str, float]
    per_class: Mapping[str, float]
    missing_channels: Mapping[str, int]
    missing_slices: Mapping[str, int]
    shares: Mapping[str, float]
    pattern: str
    intensity: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain dictionaries, lists and numbers."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """Return what a person wants to read, as pairs of name and text."""
        rows = [
            ("volumes", f"{self.volumes} of {times(self.shape)}"),
            ("missing", f"{self.missing_rate:.1%}"),
        ]
        if self.with_gaps:
            rows.append(("volumes with gaps", f"{self.with_gaps} ({self.with_gaps / self.volumes:.0%})"))
            shares = ", ".join(f"{name} {share:.0%}" for name, share in self.shares.items() if share >= 0.005)
            rows.append(("looks like", f"{self.pattern} (of the missing voxels: {shares})"))
            rows += [(f"along {axis}", bars(profile)) for axis, profile in self.per_axis.items()]
        if self.wholly_missing:
            rows.append(("wholly missing", f"{self.wholly_missing} volumes"))
        if self.never_observed and self.volumes > 1:  # Of a single one that is all that is missing.
            rows.append(("never observed", f"{self.never_observed} voxels, missing in every volume"))
        rows += [
            (f"missing slices, {axis}", str(count)) for axis, count in self.missing_slices.items() if count
        ]
        if len(self.per_channel) > 1 and self.with_gaps:
            for name, rate in self.per_channel.items():
                whole = self.missing_channels[name]
                rows.append((f"channel {name}", f"{rate:.1%} missing, as a whole in {whole} volumes"))
        if self.with_gaps:
            rows += [(f"class {name}", f"{rate:.1%} missing") for name, rate in self.per_class.items()]
        if self.intensity:
            numbers = ", ".join(f"{name} {value:.4g}" for name, value in self.intensity.items())
            rows.append(("observed values", numbers))
        return rows

    def __str__(self) -> str:
        rows = self.rows()
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def describe(
    volumes: Any, targets: Any = None, *, channels: Sequence[str] = (), classes: Sequence[str] = ()
) -> Description:
    """Say what is observed, what is missing, and which pattern the gaps look like.

    The missing voxels are told apart in this order: whole volumes, whole channels, slices across the axis
    that explains most of the rest, and the rest, which is blocks where neighbours go missing together and
    voxels otherwise.

    Args:
        volumes: `(batch, depth, height, width, channels)`.
        targets: A class index per volume, `(batch,)`; adds the missing rate of each class.
        channels: Names of the channels.
        classes: Names of the classes, by index.

    Returns:
        The description.

    Raises:
        VoxgapError: The volumes are not such a batch, or the targets are not one per volume.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> volumes = np.arange(6 * 8 * 8 * 8.0).reshape(6, 8, 8, 8, 1)
        >>> volumes[:3, 2:4] = np.nan
        >>> found = vg.describe(volumes)
        >>> found.pattern, found.missing_rate, found.with_gaps
        ('slices along depth', 0.125, 3)
    """
    batch = as_batch(volumes)
    names = channel_names(channels, batch.shape[-1], "channels")
    if differ(batch):
        return _of_several_shapes(batch, targets, names, classes)
    by_axis = _axis_counts(batch)
    by_channel = by_axis[0].sum(axis=1)  # (batch, channels)
    per_volume = by_channel.sum(axis=1)
    voxels = math.prod(batch.shape[1:4])
    absent = by_channel == voxels
    shares, planes = _shares(batch, by_axis, absent)
    never = np.logical_and.reduce([np.isnan(chunk).all(axis=0) for chunk in blocks(batch)])
    return Description(
        volumes=len(batch),
        shape=batch.shape[1:],
        missing_rate=float(per_volume.sum() / batch.size),
        with_gaps=int((per_volume > 0).sum()),
        wholly_missing=int(absent.all(axis=1).sum()),
        never_observed=int(np.count_nonzero(never)),
        per_axis={
            axis: (counts.sum(axis=(0, 2)) / (batch.size / batch.shape[1 + index])).tolist()
            for index, (axis, counts) in enumerate(zip(AXES, by_axis, strict=True))
        },
        per_axis_channel={
            axis: (counts.sum(axis=0).T / (len(batch) * voxels / counts.shape[1])).tolist()
            for axis, counts in zip(AXES, by_axis, strict=True)
        },
        per_channel=dict(zip(names, (by_channel.sum(axis=0) / (len(batch) * voxels)).tolist(), strict=True)),
        per_class=_per_class(per_volume / (batch.size / len(batch)), targets, classes),
        missing_channels=dict(zip(names, absent.sum(axis=0).tolist(), strict=True)),
        missing_slices=planes,
        shares=shares,
        pattern=next(iter(shares), "none"),
        intensity=_intensity(batch),
    )


def _of_several_shapes(
    batch: Any, targets: Any, names: tuple[str, ...], classes: Sequence[str]
) -> Description:
    """Describe each volume by itself, and sum up: what is said of places, by where along the volume they are."""
    found = [describe(volume[np.newaxis], channels=names) for volume in batch]
    sizes = np.array([math.prod(shape) for shape in shapes_of(batch)], np.float64)
    rates = np.array([one.missing_rate for one in found])

    def mean(values: Any) -> Any:
        return np.average(np.array(values, np.float64), axis=0, weights=sizes)

    def stretched(profiles: Sequence[Sequence[float]]) -> list[float]:
        most = max(map(len, profiles))
        places = np.linspace(0, 1, most)
        held = [np.interp(places, np.linspace(0, 1, len(profile)), profile) for profile in profiles]
        return list(map(float, mean(held)))

    def total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
        summed: Counter[str] = Counter()
        for one in counts:
            summed.update(one)
        return dict(summed)

    shares = shares_of(batch)
    return Description(
        volumes=len(found),
        shape=batch.shape[1:],
        missing_rate=float(mean(rates)),
        with_gaps=sum(one.with_gaps for one in found),
        wholly_missing=sum(one.wholly_missing for one in found),
        never_observed=0,  # a voxel of one is none of another
        per_axis={axis: stretched([one.per_axis[axis] for one in found]) for axis in AXES},
        per_axis_channel={
            axis: [
                stretched([one.per_axis_channel[axis][index] for one in found]) for index in range(len(names))
            ]
            for axis in AXES
        },
        per_channel={name: float(mean([one.per_channel[name] for one in found])) for name in names},
        per_class=_per_class(rates, targets, classes),
        missing_channels=total(one.missing_channels for one in found),
        missing_slices=total(one.missing_slices for one in found),
        shares=shares,
        pattern=next(iter(shares), "none"),
        intensity=_intensity(batch),
    )


def pattern_of(batch: Values) -> str:
    """Say which pattern the gaps look like, as `describe` does, in a fraction of its time.

    Args:
        batch: `(n, depth, height, width, channels)`, NaN = missing.
    """
    by_axis = _axis_counts(batch)
    absent = by_axis[0].sum(axis=1) == math.prod(batch.shape[1:4])
    return next(iter(_shares(batch, by_axis, absent)[0]), "none")


def shares_of(scans: Iterable[Values]) -> dict[str, float]:
    """Return each pattern's share of the missing voxels of scans of any shape, largest first.

    Args:
        scans: `(depth, height, width, channels)` each, NaN = missing.
    """
    found: Counter[str] = Counter()
    for values in scans:
        batch = values[np.newaxis]
        by_axis = _axis_counts(batch)
        missing = int(by_axis[0].sum())
        if missing:
            absent = by_axis[0].sum(axis=1) == math.prod(batch.shape[1:4])
            found.update(
                {name: share * missing for name, share in _shares(batch, by_axis, absent)[0].items()}
            )
    return {name: count / found.total() for name, count in found.most_common()}


def bars(rates: Sequence[float], width: int = 56) -> str:
    """Draw rates in [0, 1] as a line of bars, at most `width` characters long."""
    pieces = np.array_split(np.asarray(rates, dtype=float), min(width, len(rates)))
    levels = [int(np.ceil(piece.mean() * (len(_BARS) - 1) - 1e-9)) for piece in pieces]
    return "".join(_BARS[level] for level in levels)


def _axis_counts(batch: Values) -> list[NDArray[np.int_]]:
    """Return the number of missing voxels at each position along each axis, `(batch, position, channels)`."""
    found: list[tuple[NDArray[np.int_], ...]] = []
    for chunk in blocks(batch):
        missing = np.isnan(chunk)
        rows = missing.sum(axis=1)
        found.append((missing.sum(axis=(2, 3)), rows.sum(axis=2), rows.sum(axis=1)))
    if len(found) == 1:
        return list(found[0])
    return [np.concatenate(counts) for counts in zip(*found, strict=True)]


def _shares(
    batch: Values, by_axis: list[NDArray[np.int_]], absent: NDArray[np.bool_]
) -> tuple[dict[str, float], dict[str, int]]:
    """Return each pattern's share of the missing voxels, and the wholly missing slices along each axis."""
    voxels = math.prod(batch.shape[1:4])
    missing = int(by_axis[0].sum())
    whole = absent.all(axis=1)
    found = {
        "whole volumes": int(np.count_nonzero(whole)) * batch.shape[-1] * voxels,
        "channels": int(np.count_nonzero(absent[~whole])) * voxels,
    }
    present = ~absent[:, np.newaxis]
    planes = [(counts == voxels // counts.shape[1]) & present for counts in by_axis]
    planes = [plane if plane.shape[1] > 1 else np.zeros_like(plane) for plane in planes]
    in_planes = [int(np.count_nonzero(plane)) * (voxels // plane.shape[1]) for plane in planes]
    best = in_planes.index(max(in_planes))
    found[f"slices along {AXES[best]}"] = in_planes[best]
    rest = missing - sum(found.values())
    if rest:
        found["blocks" if _clustering(batch, absent, planes[best], best) >= CLUSTERED else "voxels"] = rest
    largest_first = sorted(found.items(), key=lambda item: -item[1])
    shares = {name: count / missing for name, count in largest_first if count}
    return shares, {axis: int(np.count_nonzero(plane)) for axis, plane in zip(AXES, planes, strict=True)}


def _clustering(batch: Values, absent: NDArray[np.bool_], planes: NDArray[np.bool_], along: int) -> float:
    """Return how much more often neighbours are missing together than by chance, 0 to 1.

    Relative to each volume's own rate, so that volumes of different rates don't look like blocks.
    """
    together = expected = ends = 0.0
    start = 0
    for chunk in blocks(batch):
        part = slice(start, start := start + len(chunk))
        shape = [len(chunk), 1, 1, 1, chunk.shape[-1]]
        shape[1 + along] = planes.shape[1]
        rest = np.isnan(chunk) & ~planes[part].reshape(shape) & ~absent[part, None, None, None]
        rates = rest.mean(axis=(1, 2, 3))
        for axis in (1, 2, 3):
            length = chunk.shape[axis] - 1
            first, second = (np.take(rest, range(lag, lag + length), axis) for lag in (0, 1))
            pairs = length * rest[0, ..., 0].size // chunk.shape[axis]
            together += float((first & second).sum())
            expected += float((rates**2).sum()) * pairs
            ends += float(rates.sum()) * pairs
    return (together - expected) / max(ends - expected, 1e-9)


def _per_class(rates: NDArray[np.float64], targets: Any, classes: Sequence[str]) -> dict[str, float]:
    if targets is None:
        return {}
    targets = np.asarray(targets)
    if targets.shape != rates.shape:
        raise VoxgapError(f"{times(targets.shape)} targets for {len(rates)} volumes; give one class for each")
    return {
        classes[int(value)] if classes else str(value): float(rates[targets == value].mean())
        for value in np.unique(targets)
    }


def _intensity(batch: Values) -> dict[str, float]:
    """Return statistics of the observed values; none where nothing is observed."""
    found = moments(batch).pooled(None)
    if not found.observed:
        return {}
    # A prime step visits all positions of the volumes in turn.
    step = 1 if batch.size <= QUANTILE_VOXELS else batch.size // QUANTILE_VOXELS | 1
    pieces, before = [], 0
    for chunk in blocks(batch):
        pieces.append(chunk.reshape(-1)[-before % step :: step].copy())  # A view would hold the chunk.
        before += chunk.size
    some = np.concatenate(pieces)
    some = some[~np.isnan(some)]
    levels = {"p01": 0.01, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p99": 0.99}
    quantiles = np.quantile(some, list(levels.values())) if some.size else np.full(len(levels), found.mean)
    spread = {"min": found.low, "max": found.high, "mean": found.mean, "std": found.deviation}
    return {
        name: float(value) for name, value in (spread | dict(zip(levels, quantiles, strict=True))).items()
    }
