"""What a fill learns, from samples or from the time steps of one volume, and how it then fills in place."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap.fill import statistics, structure, together
from voxgap.filling import FILLS, is_bundle
from voxgap.grid import Grid
from voxgap.runtime import Bundle
from voxgap.volume import Values

Where = NDArray[np.bool_]
FROM_NEIGHBOURS = ("nearest", "linear", "kriging")
"""Fills from what is around a gap in the same volume: they fill volumes of any size."""
SOURCES = ("missing", "observed", "interpolated", "learned", "statistic", "constant")
"""Where a value comes from, by its number in a map of sources: `missing` was never filled, `learned` comes from other
volumes or steps in time, and a `statistic` (mean, median, mode) is all that is known where nothing is near."""
_BY_FILL = dict.fromkeys(FROM_NEIGHBOURS, "interpolated") | {"zero": "constant"}
_BY_FILL |= dict.fromkeys(("mean", "median", "mode"), "statistic")


class Made(NamedTuple):
    """What a fill says of a volume that it has filled, `(depth, height, width, channels)` each.

    Args:
        source: Numbers of `SOURCES`, uint8.
        deviation: Standard deviations, 0 where observed, NaN where missing or not known; None of a fill without.
    """

    source: NDArray[np.uint8]
    deviation: Values | None = None

    def of(self, channels: slice) -> Made:
        """Return the same of some channels."""
        deviation = None if self.deviation is None else self.deviation[..., channels]
        return Made(self.source[..., channels], deviation)


Chosen = str | Mapping[str, str]
"""A fill, or one for each channel by its number as text."""
Fill = Callable[[Values, Where | None], Made]
"""Fills the gaps of a volume `(depth, height, width, channels)` in place, where that is wanted."""


def layer(strategy: str, options: Mapping[str, Any]) -> Any:
    """Return a new fill layer, not adapted yet.

    Raises:
        VoxgapError: The options do not fit it.
    """
    from voxgap import fill
    from voxgap.filling import filler

    if strategy not in FILLS:
        return filler.check(strategy, options)
    return fill.make(strategy, options)


def reading(strategy: Chosen, grid: Grid) -> Grid:
    """Return how files are read: for a bundle as those that it was trained on, where nothing else is said."""
    if not is_bundle(strategy):
        return grid
    known = Bundle.open(str(strategy)).manifest.input.grid.told(grid.axes, grid.at)
    return replace(
        known,
        missing_values=grid.missing_values or known.missing_values,
        missing_slices=grid.missing_slices or known.missing_slices,
    )


def from_network(
    strategy: str, options: Mapping[str, Any], volumes: Callable[[], Sequence[Values]]
) -> Fill | None:
    """Return what fills with a bundle, or with a network that is trained on volumes; None for any other fill."""
    if strategy in FILLS and strategy != "learned":
        return None
    from voxgap.filling import filler

    return filler.from_training(options, volumes()) if strategy in FILLS else filler.from_bundle(strategy)


def any_size(strategy: Chosen) -> bool:
    """Tell whether a fill, or those of all channels, take volumes of any size."""
    if not isinstance(strategy, str):
        return all(map(any_size, strategy.values()))
    return strategy in (*FROM_NEIGHBOURS, "zero", "learned") or strategy not in FILLS


def check(strategy: Chosen, options: Mapping[str, Any]) -> None:
    """Raise a `VoxgapError` where options don't fit a fill, whatever channel it is for."""
    if isinstance(strategy, str):
        layer(strategy, options)
        return
    for channel, one in strategy.items():
        layer(one, options.get(channel, {}))


def _each(
    strategy: Mapping[str, str],
    options: Mapping[str, Any],
    learn: Callable[[str, Mapping[str, Any], list[int]], Fill],
) -> Fill:
    """Return what fills each channel by a fill of its own, learnt by `learn` from these channels."""
    fills = [(learn(one, own, places), places) for one, own, places in together(strategy, options)]

    def fill(values: Values, where: Where | None) -> Made:
        wanted = _whole(where, values)
        source, deviation = np.empty(values.shape, np.uint8), np.full_like(values, np.nan)
        sure = False
        for one, places in fills:
            some = values[..., places]
            made = one(some, None if wanted is None else wanted[..., places])
            values[..., places], source[..., places] = some, made.source
            if made.deviation is not None:
                sure, deviation[..., places] = True, made.deviation
        return Made(source, deviation if sure else None)

    return fill


def from_samples(strategy: Chosen, options: Mapping[str, Any], volumes: Values) -> Fill:
    """Return what fills one volume with statistics of others of its shape."""
    if not isinstance(strategy, str):
        return _each(strategy, options, lambda one, own, some: from_samples(one, own, volumes[..., some]))
    if network := from_network(strategy, options, lambda: list(volumes)):
        return network
    if strategy == "zero":
        return _saying(strategy, _put_zero)
    if strategy in FROM_NEIGHBOURS:
        return from_neighbours(strategy, options, statistics.mean(volumes), list(structure.part(volumes)))
    adapted = layer(strategy, options)
    adapted.adapt(volumes)
    return _saying(
        strategy, lambda values, where: _put(values, _estimate(adapted, values[np.newaxis])[0], where)
    )


def from_any_sizes(strategy: Chosen, options: Mapping[str, Any], volumes: Iterable[Values]) -> Fill:
    """Return what fills one volume of any size, by `zero` or from neighbours, after one look at each of others.

    What has no neighbours gets its channel's mean.
    """
    if not isinstance(strategy, str):
        held = list(volumes)
        return _each(
            strategy, options, lambda one, own, some: from_any_sizes(one, own, (v[..., some] for v in held))
        )
    if network := from_network(strategy, options, lambda: list(volumes)):
        return network
    if strategy == "zero":
        return _saying(strategy, _put_zero)
    total: Any = 0.0
    count: Any = 0
    known: list[Values] = []
    for values in volumes:
        if sum(part.size for part in known) < structure.BUDGET:
            known += [part.copy() for part in structure.windows(values)]
        total = total + np.nansum(values, axis=(0, 1, 2), dtype=np.float64)
        count = count + (~np.isnan(values)).sum(axis=(0, 1, 2))
    mean = np.asarray(total / np.maximum(count, 1), np.float32)
    return from_neighbours(strategy, options, mean, known)


def from_steps(strategy: Chosen, options: Mapping[str, Any], values: Values, time: int | None) -> Fill:
    """Return what fills one volume from itself: from its steps in time, or its channels' values where it has none.

    Args:
        strategy: Name of a fill, or of each channel's.
        options: Its arguments.
        values: `(depth, height, width, channels)`.
        time: Which of the three axes runs through time.
    """
    if not isinstance(strategy, str):
        return _each(strategy, options, lambda one, own, some: from_steps(one, own, values[..., some], time))
    if network := from_network(strategy, options, lambda: [values]):
        return network
    if strategy == "zero":
        return _saying(strategy, _put_zero)
    # At each position the statistics of a single step are its own values: its channel's are of use.
    options = {
        **({"per": "channel"} if time is None and strategy in ("mean", "median", "mode") else {}),
        **options,
    }
    steps = _steps(values, time or 0)
    if strategy in FROM_NEIGHBOURS:
        mean = statistics.mean(steps, "channel")
        return from_neighbours(strategy, options, mean, list(structure.windows(values)))
    adapted = layer(strategy, options)
    if strategy == "knn" and len(steps) < adapted.max_donors:  # Room for donors that there are not.
        adapted = layer(strategy, {**options, "max_donors": len(steps)})
    adapted.adapt(steps)

    def fill(values: Values, where: Where | None) -> None:
        steps = _steps(values, time or 0)
        wanted = None if where is None else _steps(np.broadcast_to(where, values.shape), time or 0)
        size = max(1, statistics.BLOCK_BYTES // (4 * max(1, steps[0].nbytes)))
        for start in range(0, len(steps), size):
            part = steps[start : start + size]
            if np.isnan(part).any():
                these = None if wanted is None else wanted[start : start + size]
                _put(part, _estimate(adapted, part), these)

    return _saying(strategy, fill)


def from_neighbours(strategy: str, options: Mapping[str, Any], mean: Values, known: Sequence[Values]) -> Fill:
    """Return what fills from voxels around a gap, in volumes of any size and a memory of a few.

    What has no neighbours gets the mean, and what other channels say of it where they were learnt from; what is further
    off than `max_gap` stays missing.

    Args:
        strategy: One of `FROM_NEIGHBOURS`.
        options: Arguments of its layer.
        mean: `(depth, height, width, channels)`, or 1 along any of the first three.
        known: Volumes or parts of them, from which it is learnt what is near.
    """
    asked = layer(strategy, options)
    if strategy == "linear":
        reach = structure.metric(known)[2] if asked.axis == "blend" else (1, 1, 1)
        how = asked.axis, reach, asked.max_gap, mean
        return _saying(strategy, lambda values, where: _along_lines(values, where, *how))
    if strategy == "nearest":
        reach = structure.metric(known)[2]
        return _saying(strategy, lambda values, where: _copy(values, where, reach, asked.max_gap, mean))
    from voxgap.fill.around import Surroundings

    field = Surroundings.learn(known, asked.max_gap, asked.learns_across)
    _doubt(known)

    def fill(values: Values, where: Where | None) -> tuple[Where, Values]:
        wanted, deviation = _whole(where, values), np.full_like(values, np.nan)
        untold = field.untold(values)
        for part, estimate, sure in field.fill(values, wanted, mean):
            _put(values[part], estimate, None if wanted is None else wanted[part])
            deviation[part] = sure
        return untold, deviation

    return _saying(strategy, fill)


def _doubt(known: Sequence[Values]) -> None:
    """Warn where nobody can know how sure a fill is: of channels that were seen once, or never otherwise."""
    low: Any = np.inf
    high: Any = -np.inf
    for part in known:
        seen = ~np.isnan(part)
        low = np.minimum(low, np.min(part, axis=(0, 1, 2), initial=np.inf, where=seen))
        high = np.maximum(high, np.max(part, axis=(0, 1, 2), initial=-np.inf, where=seen))
    alike = int(np.count_nonzero(~(high > low)))
    if alike:
        of = "" if np.size(low) == 1 else f"of {alike} of {np.size(low)} channels "
        warnings.warn(
            f"kriging: {of}no two observed values differ: how far off what is filled may be can't be known, and its "
            "deviations mean nothing",
            stacklevel=3,
        )


def _saying(strategy: str, fill: Callable[[Values, Where | None], Any]) -> Fill:
    """Return a fill that says what it made; of some, `fill` returns where it put a statistic, and its deviation."""
    kind = SOURCES.index(_BY_FILL.get(strategy, "learned"))

    def saying(values: Values, where: Where | None) -> Made:
        gaps = np.isnan(values)
        statistic, deviation = fill(values, where) or (None, None)
        source = np.where(gaps, np.uint8(kind), np.uint8(SOURCES.index("observed")))
        if strategy in FROM_NEIGHBOURS:
            # What has no neighbour is known from other channels, as volumes showed them together.
            source[..., gaps.all(axis=(0, 1, 2))] = SOURCES.index("learned")
        if statistic is not None:
            source[gaps & statistic] = SOURCES.index("statistic")
        source[np.isnan(values)] = SOURCES.index("missing")
        return Made(source, deviation)

    return saying


def _along_lines(
    values: Values, where: Where | None, axis: Any, reach: Any, max_gap: Any, mean: Values
) -> tuple[Where, None]:
    from voxgap.fill.linear import interpolate

    # What is further off than a reach stays missing; a channel of which nothing is observed has no mean then, either.
    otherwise = np.broadcast_to(mean if max_gap is None else np.float32(np.nan), values.shape)
    wanted, alone = _whole(where, values), np.zeros(values.shape, bool)
    for part, estimate, found in interpolate(values, axis, reach, max_gap):
        np.copyto(estimate, otherwise[part], where=~found)
        _put(values[part], estimate, None if wanted is None else wanted[part])
        alone[part] = ~found
    return alone, None


def _copy(values: Values, where: Where | None, reach: Any, max_gap: Any, mean: Values) -> tuple[Where, None]:
    from voxgap.fill.nearest import copy_nearest

    empty = _put_channels(values, where, mean) if max_gap is None else _empty(values) & False
    copy_nearest(values, reach, max_gap, _whole(where, values))
    return np.broadcast_to(empty, values.shape), None


def _empty(values: Values) -> Where:
    """Tell of which channels nothing is observed."""
    return np.asarray(np.isnan(values).all(axis=(0, 1, 2)))


def _put_channels(values: Values, where: Where | None, mean: Values) -> Where:
    """Give the mean to channels of which nothing is observed: no neighbour says more."""
    wanted, otherwise, empty = _whole(where, values), np.broadcast_to(mean, values.shape), _empty(values)
    for channel in np.flatnonzero(empty):
        here = None if wanted is None else wanted[..., channel]
        _put(values[..., channel], otherwise[..., channel], here)
    return empty


def _whole(where: Where | None, values: Values) -> Where | None:
    return None if where is None else np.broadcast_to(where, values.shape)


def _steps(values: NDArray[Any], axis: int) -> NDArray[Any]:
    """Return a view `(steps, 1, ..., channels)` whose first axis is one of those of a volume."""
    return np.moveaxis(values, axis, 0)[:, np.newaxis]


def _estimate(adapted: Any, volumes: Values) -> Values:
    import keras

    found: Values = keras.ops.convert_to_numpy(adapted(volumes, training=False))
    return found


def _put(values: Values, estimate: Any, where: Where | None) -> None:
    gaps = np.isnan(values)
    if where is not None:
        gaps &= where
    np.copyto(values, estimate, where=gaps)


def _put_zero(values: Values, where: Where | None) -> None:
    _put(values, np.float32(0), where)
