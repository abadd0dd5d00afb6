"""What a fill learns, from samples or from the time steps of one volume, and how it then fills in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxgap.fill import statistics, structure
from voxgap.volume import Values

Where = NDArray[np.bool_]
FROM_NEIGHBOURS = ("nearest", "linear", "kriging")
"""Fills from what is around a gap in the same volume: they fill volumes of any size."""
Fill = Callable[[Values, Where | None], None]
"""Fills the gaps of a volume `(depth, height, width, channels)` in place, where that is wanted."""


def layer(strategy: str, options: Mapping[str, Any]) -> Any:
    """Return a new fill layer, not adapted yet.

    Raises:
        VoxgapError: The options do not fit it.
    """
    from voxgap import fill

    return fill.make(strategy, options)


def from_samples(strategy: str, options: Mapping[str, Any], volumes: Values) -> Fill:
    """Return what fills one volume with statistics of others of its shape."""
    if strategy == "zero":
        return _put_zero
    if strategy in FROM_NEIGHBOURS:
        return from_neighbours(strategy, options, statistics.mean(volumes), list(structure.part(volumes)))
    adapted = layer(strategy, options)
    adapted.adapt(volumes)
    return lambda values, where: _put(values, _estimate(adapted, values[np.newaxis])[0], where)


def from_steps(strategy: str, options: Mapping[str, Any], values: Values, time: int | None) -> Fill:
    """Return what fills one volume from itself: from its steps in time, or its channels' values where it has none.

    Args:
        strategy: Name of a fill.
        options: Its arguments.
        values: `(depth, height, width, channels)`.
        time: Which of the three axes runs through time.
    """
    if strategy == "zero":
        return _put_zero
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

    return fill


def from_neighbours(strategy: str, options: Mapping[str, Any], mean: Values, known: Sequence[Values]) -> Fill:
    """Return what fills from voxels around a gap, in volumes of any size and a memory of a few.

    What has no neighbours gets the mean; what is further off than `max_gap` stays missing.

    Args:
        strategy: One of `FROM_NEIGHBOURS`.
        options: Arguments of its layer.
        mean: `(depth, height, width, channels)`, or 1 along any of the first three.
        known: Volumes or parts of them, from which it is learnt what is near.
    """
    asked = layer(strategy, options)
    if strategy == "linear":
        reach = structure.metric(known)[2] if asked.axis == "blend" else (1, 1, 1)
        return lambda values, where: _along_lines(values, where, asked.axis, reach, mean)
    if strategy == "nearest":
        reach = structure.metric(known)[2]
        return lambda values, where: _copy(values, where, reach, asked.max_gap, mean)
    from voxgap.fill.around import Surroundings

    field = Surroundings.learn(known, asked.max_gap)

    def fill(values: Values, where: Where | None) -> None:
        if asked.max_gap is None:
            _put_channels(values, where, mean)
        wanted = _whole(where, values)
        for part, estimate, _ in field.fill(values, wanted):
            _put(values[part], estimate, None if wanted is None else wanted[part])

    return fill


def _along_lines(values: Values, where: Where | None, axis: Any, reach: Any, mean: Values) -> None:
    from voxgap.fill.linear import interpolate

    otherwise, wanted = np.broadcast_to(mean, values.shape), _whole(where, values)
    for part, estimate, found in interpolate(values, axis, reach):
        np.copyto(estimate, otherwise[part], where=~found)
        _put(values[part], estimate, None if wanted is None else wanted[part])


def _copy(values: Values, where: Where | None, reach: Any, max_gap: float | None, mean: Values) -> None:
    from voxgap.fill.nearest import copy_nearest

    if max_gap is None:
        _put_channels(values, where, mean)
    copy_nearest(values, reach, max_gap, _whole(where, values))


def _put_channels(values: Values, where: Where | None, mean: Values) -> None:
    """Give the mean to channels of which nothing is observed: no neighbour says more."""
    wanted, otherwise = _whole(where, values), np.broadcast_to(mean, values.shape)
    for channel in np.flatnonzero(np.isnan(values).all(axis=(0, 1, 2))):
        here = None if wanted is None else wanted[..., channel]
        _put(values[..., channel], otherwise[..., channel], here)


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
