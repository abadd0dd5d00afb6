"""What the fill layers share: float32 arithmetic, `adapt`, and observed voxels that stay as they are."""

import math
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from voxgap.arrays import as_real
from voxgap.errors import VoxgapError
from voxgap.fill.statistics import LARGEST, check_volumes
from voxgap.layers.adapting import Adapts
from voxgap.layers.intensity import INTENSITY
from voxgap.layers.missing import RawLayer, as_input, split_missing

# In units of the data's spread: far beyond any datum, and its square far below float32's limit.
FARTHEST = 1e6


class FillLayer(Adapts, RawLayer):
    """Replaces missing values (NaN) and leaves observed voxels bit-identical.

    A child implements `_fit(volumes)`, which learns non-trainable weights, and `_estimate(values, observed,
    training)`, which returns a finite value for each voxel. Everything is float32 under every dtype policy.

    Args:
        **kwargs: `name` and the other arguments of `keras.layers.Layer`; `dtype` is always float32.

    Example:
        >>> import numpy as np
        >>> from voxgap.fill import FillLayer
        >>> class Highest(FillLayer):
        ...     def _fit(self, volumes):
        ...         self.highest.assign(np.nanmax(volumes))
        ...
        ...     def build(self, input_shape):
        ...         super().build(input_shape)
        ...         self.highest = self._statistic("highest", ())
        ...
        ...     def _estimate(self, values, observed, training):
        ...         return values * 0 + self.highest
        >>> layer = Highest()
        >>> line = np.float32([1, np.nan, 4]).reshape(1, 1, 1, 3, 1)
        >>> layer.adapt(line)
        >>> np.ravel(layer(line)).tolist()
        [1.0, 4.0, 4.0]
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "trainable": False})

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Take the shape of a volume, and make room for what the layer learns of such volumes.

        Raises:
            VoxgapError: It is not `(batch, depth, height, width, channels)`.
        """
        if len(input_shape) != 5:
            raise VoxgapError(
                f"{self.name} needs input of shape (batch, depth, height, width, channels), "
                f"not {tuple(input_shape)}"
            )
        # Any, because None (an unknown size) is fine until a statistic has that size.
        self.volume_shape: tuple[Any, ...] = tuple(input_shape[1:])
        if self.learns:
            self.adapted_samples = self._statistic("adapted_samples", ())

    def _statistic(self, name: str, shape: tuple[Any, ...], initial: str = "zeros") -> Any:
        if None in shape:
            raise VoxgapError(
                f"{self.name} keeps a value for each voxel: give the input a fixed shape, "
                f"not {self.volume_shape}"
            )
        return self.add_weight(name=name, shape=shape, initializer=initial, trainable=False)

    def adapt(self, volumes: Any) -> None:
        """Learn the layer's statistics.

        Args:
            volumes: training volumes only, float `(N, D, H, W, C)`, NaN = missing; what is not in memory (a
                memory map, an array that is indexed `[i:j]` and `[i, plane, rows]`) is read in blocks.

        Raises:
            VoxgapError: wrong shape, a value that is infinite or beyond ±1e30, or no observed voxel at all.
        """
        if not hasattr(volumes, "shape"):
            volumes = as_real(volumes, "volumes")
        check_volumes(volumes)
        if not self.built:
            self.build((None, *volumes.shape[1:]))
        if any(a not in (None, b) for a, b in zip(self.volume_shape, volumes.shape[1:], strict=True)):
            raise VoxgapError(
                f"{self.name} was built for volumes of shape {self.volume_shape}, not {volumes.shape[1:]}"
            )
        if self.learns:
            self._fit(volumes)
            self.adapted_samples.assign(len(volumes))

    def _learnt(self) -> Any:
        return self.adapted_samples

    def call(self, x: Any, training: bool | None = None) -> Any:
        """Return the volumes, `(batch, depth, height, width, channels)`, with each NaN replaced by its estimate.

        Raises:
            VoxgapError: The layer learns from training volumes, and was not adapted to any.
        """
        self.refuse_unless_adapted()
        finite, observed = split_missing(ops.cast(x, "float32"))
        estimate = self._estimate(ops.clip(finite, -LARGEST, LARGEST), observed, bool(training))
        # A selection, not a sum: adding 0 would turn -0.0 into 0.0 and flush subnormal values.
        return ops.where(ops.cast(observed, "bool"), finite, estimate)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the input: the layer keeps it."""
        return input_shape

    def _fit(self, volumes: npt.NDArray[np.floating]) -> None:
        raise NotImplementedError

    def _estimate(self, values: Any, observed: Any, training: bool) -> Any:
        raise NotImplementedError


class SureFill(FillLayer):
    """Base of layers that say how sure they are of what they fill.

    Subclasses give `predict(values, observed) -> (values, standard deviations)` of all voxels as if they were missing,
    from finite values and what counts of them.
    """

    def with_deviation(self, x: Any) -> tuple[Any, Any]:
        """Fill, and say how sure that is.

        Args:
            x: float `(batch, depth, height, width, channels)`, NaN = missing.

        Returns:
            The filled volumes, as a call returns them, and the standard deviation of each voxel in the same units:
            0 where observed.
        """
        self.refuse_unless_adapted()
        return self.sure(as_input(x))

    def sure(self, x: Any) -> tuple[Any, Any]:
        """Return the same as `with_deviation`, of a layer that may still be learning."""
        finite, observed = split_missing(ops.cast(x, "float32"))
        value, deviation = self.predict(ops.clip(finite, -LARGEST, LARGEST), observed)
        known = ops.cast(observed, "bool")
        return ops.where(known, finite, value), ops.where(known, 0.0, deviation)

    def predict(self, values: Any, observed: Any) -> tuple[Any, Any]:
        """Return values and standard deviations of all voxels as if they were missing."""
        raise NotImplementedError


def flag(name: str, value: Any) -> bool:
    """Return an option that is on or off.

    Raises:
        VoxgapError: it is neither.
    """
    if value not in (True, False):
        raise VoxgapError(f"{name} must be true or false, got {value!r}")
    return bool(value)


def filling(model: keras.Model) -> keras.Model:
    """Return the part of a model from `build_model` that fills gaps: raw volumes to filled ones, in raw units."""
    prepare = model.get_layer("prepare")
    filled = next(layer for layer in prepare.layers if isinstance(layer, FillLayer)).output
    for layer in prepare.layers:
        if layer.name == INTENSITY:
            _, shift, scale = layer.output
            filled = keras.layers.Add()([keras.layers.Multiply()([filled, scale]), shift])
    return keras.Model(prepare.input, filled, name="filling")


def deviations(values: Any, observed: Any, mean: Any, scale: Any) -> tuple[Any, Any]:
    """Standardise volumes and flatten them.

    Args:
        values: `(batch, D, H, W, C)`.
        observed: 0 or 1, of the same shape.
        mean: `(D, H, W, C)`.
        scale: scalar.

    Returns:
        `(values - mean) / scale`, 0 where missing, and `observed`, both `(batch, D * H * W * C)`.
    """
    rows = (-1, math.prod(mean.shape))
    standard = ops.clip((values - mean) / scale, -FARTHEST, FARTHEST) * observed
    return ops.reshape(standard, rows), ops.reshape(observed, rows)
