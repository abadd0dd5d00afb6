"""Intensity of each volume in units of its own: scanners have no common one. Gaps stay gaps."""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from voxgap.arrays import as_real
from voxgap.layers.missing import RawLayer, split_missing

INTENSITY = "intensity"
"""Name of the layer that normalises each volume by itself, in a model that has one."""

Method = Literal["volume", "percentile", "window"]

PERCENTILES = (0.5, 99.5)
"""Of a volume's observed values, which become 0 and 1. Source: Isensee et al., nnU-Net, Nature Methods 18, 2021."""
_HALVINGS = 24  # As many as a float32 has digits.
_CONSTANT = 1e-6  # A deviation below this share of the largest value is rounding.


@keras.saving.register_keras_serializable(package="voxgap")
class VolumeNormalization(RawLayer):
    """Shift and scale each channel of each volume by statistics of its own observed voxels; NaN stays NaN.

    Nothing is learnt: a scan that is brighter by any factor comes out the same, whatever it was trained with. It
    stands before the fill, so that fills which borrow from other volumes borrow in common units. A channel of a volume
    that is constant is only shifted; one that is never observed stays so.

    Args:
        method: `volume`, to mean 0 and standard deviation 1; `percentile`, the range between two percentiles to 0
            and 1; `window`, the range from `low` to `high` to 0 and 1, the same for every volume. What lies outside
            of percentiles or a window is cut off.
        low, high: of a window, in the units of the data.

    Input: float32 `(batch, depth, height, width, channels)` with NaN.
    Output: `[values, shift, scale]`: values of the same shape with the same NaN, `(x - shift) / scale`; shift and scale
        are `(batch, 1, 1, 1, channels)`: `values * scale + shift` is in the units of the volume again.

    Raises:
        ValueError: a window whose `low` is not below its `high`.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> line = np.float32([1, np.nan, np.nan, 4]).reshape(1, 1, 1, 4, 1)
        >>> values, shift, scale = vg.layers.VolumeNormalization("volume")(line)
        >>> np.ravel(values).tolist(), np.ravel(shift).tolist(), np.ravel(scale).tolist()
        ([-1.0, nan, nan, 1.0], [2.5], [1.5])
    """

    def __init__(self, method: Method = "volume", low: float = 0.0, high: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if method == "window" and not low < high:
            raise ValueError(f"a window needs low < high, got {low} and {high}")
        self.method, self.low, self.high = method, low, high

    def call(self, x: Any) -> list[Any]:
        """Return `[normalised, shift, scale]`, where `normalised * scale + shift` are the values in their own units."""
        x = ops.cast(x, "float32")
        values, observed = split_missing(x)
        # In units of the largest value: neither squares overflow, nor does a factor change a digit.
        largest = ops.max(ops.abs(values), axis=(1, 2, 3), keepdims=True)
        largest = largest + ops.cast(ops.equal(largest, 0.0), "float32")
        if self.method == "window":
            one = ops.ones_like(largest)
            shift, scale = one * self.low, one * (self.high - self.low)
        elif self.method == "volume":
            shift, scale = _moments(values / largest, observed)
            shift, scale = shift * largest, scale * largest
        else:
            low, high = (_percentile(values / largest, observed, share / 100) for share in PERCENTILES)
            shift, scale = low * largest, _or_one(high - low) * largest
        # Arithmetic hands the NaN on; any selection would be lowered to what loses it.
        normalised = (x - shift) / scale
        if self.method != "volume":
            finite = (values - shift) / scale
            normalised = ops.clip(finite, 0.0, 1.0) + (normalised - finite)
        return [normalised, shift, scale]

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> list[tuple[int | None, ...]]:
        """Return the shapes of the normalised volumes, and of one shift and one scale a channel."""
        batch, *_, channels = input_shape
        each = (batch, 1, 1, 1, channels)
        return [tuple(input_shape), each, each]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make the same layer, for Keras's saved files."""
        return super().get_config() | {"method": self.method, "low": self.low, "high": self.high}


class Normalized:
    """Volumes as a `VolumeNormalization` hands them on, computed when they are asked for: what fills are adapted to.

    Args:
        volumes: `(n, depth, height, width, channels)` with NaN, in memory or read when indexed.
        layer: The normalisation.
    """

    def __init__(self, volumes: Any, layer: VolumeNormalization) -> None:
        self._volumes, self._layer = volumes, layer
        self._known: dict[int, tuple[Any, Any]] = {}
        self.shape, self.ndim, self.dtype = tuple(volumes.shape), 5, np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        """Return one volume, a slice of them, or a part of one: `[i]`, `[i:j]`, `[i, plane, a:b]`."""
        if isinstance(key, slice):
            found = [self[i] for i in range(*key.indices(len(self)))]
            return np.stack(found) if found else np.empty((0, *self.shape[1:]), np.float32)
        index = int(key[0] if isinstance(key, tuple) else key) % len(self)
        shift, scale = self._statistics(index)
        values = (as_real(self._volumes[key], "volumes").astype(np.float32, copy=False) - shift) / scale
        return values if self._layer.method == "volume" else np.clip(values, 0, 1)

    def _statistics(self, index: int) -> tuple[Any, Any]:
        if index not in self._known:
            volume = as_real(self._volumes[index], "volumes").astype(np.float32, copy=False)
            _, shift, scale = self._layer(volume[np.newaxis])
            self._known[index] = tuple(ops.convert_to_numpy(each)[0, 0, 0, 0] for each in (shift, scale))
        return self._known[index]


def _moments(values: Any, observed: Any) -> tuple[Any, Any]:
    share = _mean(observed)
    share = share + ops.cast(ops.equal(share, 0.0), "float32")
    mean = _mean(values) / share
    return mean, _or_one(ops.sqrt(_mean(ops.square((values - mean) * observed)) / share))


def _mean(x: Any) -> Any:
    """Return the mean of a volume, axis by axis: sums of few terms round alike in every runtime, of all they don't.

    Dividing each time keeps a runtime from merging the three sums into one.
    """
    for axis in (3, 2, 1):
        x = ops.sum(x, axis=axis, keepdims=True) * (1.0 / x.shape[axis])
    return x


def _percentile(values: Any, observed: Any, share: float) -> Any:
    """Return the least value that so large a share of the observed ones doesn't exceed, of values from -1 to 1.

    By halving an interval: comparing and counting is the same in every runtime, sorting is not.
    """
    wanted = share * ops.sum(observed, axis=(1, 2, 3), keepdims=True)
    middle, half = ops.zeros_like(wanted), 1.0
    for _ in range(_HALVINGS):
        below = observed * ops.cast(ops.less_equal(values, middle), "float32")
        enough = ops.cast(ops.greater_equal(ops.sum(below, axis=(1, 2, 3), keepdims=True), wanted), "float32")
        half /= 2
        middle = middle + half * (1.0 - 2.0 * enough)
    return middle


def _or_one(scale: Any) -> Any:
    return scale + ops.cast(ops.less(scale, _CONSTANT), "float32")
