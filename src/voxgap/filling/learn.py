"""What a fill learns, from samples or from the time steps of one volume, and how it then fills in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxgap.fill import statistics
from voxgap.volume import Values

Where = NDArray[np.bool_]
Fill = Callable[[Values, Where | None], None]
"""Fills the gaps of a volume `(depth, height, width, channels)` in place, where that is wanted."""


def layer(strategy: str, options: Mapping[str, Any]) -> Any:
    """Return a new fill layer, not adapted yet.

    Raises:
        VoxgapError: The options do not fit it.
    """
    from voxgap.strategies import Strategy

    return Strategy(fill=strategy, fill_options=dict(options)).fill_layer()


def from_samples(strategy: str, options: Mapping[str, Any], volumes: Values) -> Fill:
    """Return what fills one volume with statistics of others of its shape."""
    if strategy == "zero":
        return _put_zero
    if strategy == "linear":
        return along_lines(options, statistics.mean(volumes))
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
    if strategy == "linear":
        return along_lines(options, statistics.mean(steps, "channel"))
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


def along_lines(options: Mapping[str, Any], mean: Values) -> Fill:
    """Return what interpolates, in a memory of three volumes; what has no neighbours gets the mean.

    Args:
        options: Arguments of `voxgap.fill.LinearInterpolation`.
        mean: `(depth, height, width, channels)`, or 1 along any of the first three.
    """
    axis = layer("linear", options).axis

    def fill(values: Values, where: Where | None) -> None:
        from voxgap.fill.linear import interpolate

        otherwise = np.broadcast_to(mean, values.shape)
        wanted = None if where is None else np.broadcast_to(where, values.shape)
        for part, estimate, found in interpolate(values, axis):
            np.copyto(estimate, otherwise[part], where=~found)
            _put(values[part], estimate, None if wanted is None else wanted[part])

    return fill


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
