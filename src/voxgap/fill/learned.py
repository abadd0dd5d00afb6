"""A fill that learns what no closed form knows: a network upon kriging, trained on nothing but volumes with gaps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from voxgap.errors import VoxgapError
from voxgap.fill.base import SureFill, flag
from voxgap.fill.kriging import Kriging
from voxgap.fill.restoring import BATCH, STEPS, train
from voxgap.fill.trial import INSIDE
from voxgap.layers.missing import RawLayer
from voxgap.layers.upsampling import UpsampleLike3D

Array = npt.NDArray[np.float32]

FILTERS = (16, 32, 64)
PASSES = 40
"""Of a training in `adapt` over its volumes, at most: few are soon known by heart, whatever is hidden of them."""
FAR = 30.0
"""Spreads from the mean beyond which a network sees no further."""
STEEP = 4.0
"""The logarithm of the factor by which a network may change a deviation, at most."""


@keras.saving.register_keras_serializable(package="voxgap")
class Learned(SureFill):
    """Fills with kriging, and what a network learnt to add to it from voxels that were hidden in the shapes of gaps.

    `adapt` learns kriging, hides further observed voxels of the training volumes, which may all have gaps, and trains a
    U-Net to restore them: from kriging's values, its deviations and what is observed it tells how far kriging is off,
    and how sure that is. It starts as kriging, ends at its best on volumes that were held out, and stays so: inside
    another network it is frozen.

    Args:
        filters: features of each stage of the U-Net.
        steps: of training in `adapt`, at most; with 0 it stays kriging until `voxgap.fill.restoring.train`.
        seed: of weights, and of what is hidden.
        learns_across: whether kriging learns channels from each other; not in files of before it did.
        **kwargs: `name` and the other arguments of `keras.layers.Layer`; `dtype` is that of the U-Net's features.

    Raises:
        VoxgapError: an argument isn't possible.

    Source: Çiçek et al., 3D U-Net, MICCAI 2016; see `voxgap.fill.restoring.train` for its training.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> volumes = vg.simulate(np.random.default_rng(0).normal(size=(8, 4, 8, 8, 1)), "slices", 0.5)
        >>> layer = vg.fill.Learned(filters=(4, 8), steps=2)
        >>> layer.adapt(volumes)
        >>> filled, deviation = layer.with_deviation(volumes)
        >>> bool(np.isfinite(filled).all()), float(np.max(deviation[~np.isnan(volumes)]))
        (True, 0.0)
    """

    def __init__(
        self,
        filters: Sequence[int] = FILTERS,
        steps: int = STEPS,
        seed: int = 0,
        learns_across: bool = True,
        **kwargs: Any,
    ) -> None:
        self.policy = keras.dtype_policies.get(kwargs.pop("dtype", None) or "float32")
        super().__init__(**kwargs)
        self.filters, self.steps, self.seed = tuple(int(one) for one in filters), int(steps), int(seed)
        self.learns_across = flag("learns_across", learns_across)
        if not self.filters or min(self.filters) < 1 or self.steps < 0:
            raise VoxgapError(
                f"{self.name}: filters must be positive whole numbers and steps at least 0, got {filters}, {steps}"
            )

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make room for what the layer learns, for volumes of this shape."""
        super().build(input_shape)
        self.closed = Kriging(learns_across=self.learns_across, name="closed")
        self.closed.build(input_shape)
        channels = self.volume_shape[-1]
        self.network = _network(self.volume_shape[:3], channels, self.filters, self.policy, self.seed)
        self.network.trainable = False  # but in `restoring.train`: a model looks past the layer that it is in
        self.calibration = self._statistic("calibration", (channels,), "ones")

    def _fit(self, volumes: npt.NDArray[np.floating]) -> None:
        self.closed.adapt(volumes)
        if self.steps:
            of_data = PASSES * max(1, int(np.prod(volumes.shape)) // BATCH)
            train(self, volumes, steps=min(self.steps, of_data), seed=self.seed)

    def take(self, trained: Learned) -> None:
        """Begin with what another layer has learnt, on whatever data; with `steps=0` it stays that.

        Raises:
            VoxgapError: The other one is for other channels, or has other filters.
        """
        mine, others = (
            [weight.shape for weight in (*layer.network.weights, layer.calibration)]
            for layer in (self, trained)
        )
        if mine != others:
            raise VoxgapError(
                f"the filler is for {trained.volume_shape[-1]} channels with filters {trained.filters}, the network "
                f"for {self.volume_shape[-1]} with {self.filters}"
            )
        self.network.set_weights(trained.network.get_weights())
        self.calibration.assign(trained.calibration)

    def scale(self, volumes: Array, hidden: Array) -> list[float]:
        """Return how far kriging is off at hidden voxels, of each channel: the unit in which errors are learnt from."""
        value, _ = _few(self.closed.with_deviation, volumes)
        spread = ops.convert_to_numpy(self.closed.spread)
        found = []
        for channel, other in enumerate(spread):
            error = (value - hidden)[..., channel]
            error = error[~np.isnan(error)]
            own = float(np.sqrt(np.mean(np.square(error, dtype=float)))) if error.size else 0.0
            found.append(own if 1e-6 * other < own < np.inf else float(other))
        return found

    def calibrate(self, volumes: Array, hidden: Array) -> None:
        """Scale deviations of each channel so that 68 % of errors at hidden voxels are within them.

        Args:
            volumes: `(N, D, H, W, C)`, without what is hidden.
            hidden: that alone, NaN elsewhere.
        """
        self.calibration.assign(np.ones(hidden.shape[-1], np.float32))
        value, deviation = _few(self.sure, volumes)
        for channel in range(hidden.shape[-1]):
            asked = ~np.isnan(hidden[..., channel])
            error = np.abs(value - hidden)[..., channel][asked]
            share = error / np.maximum(deviation[..., channel][asked], 1e-12)
            factor = float(np.quantile(share, INSIDE)) if share.size else 1.0
            each = ops.convert_to_numpy(self.calibration).copy()
            each[channel] = factor if 1e-3 < factor < 1e3 else 1.0
            self.calibration.assign(each)

    def _estimate(self, values: Any, observed: Any, training: bool) -> Any:
        return self.predict(values, observed)[0]

    def predict(self, values: Any, observed: Any) -> tuple[Any, Any]:
        """Return values and standard deviations of all voxels as if they were missing."""
        value, deviation = self.closed.near_by(values, observed)  # what networks were trained on
        filled = observed * values + (1.0 - observed) * value
        standard = ops.clip((filled - self.closed.center) / self.closed.spread, -FAR, FAR)
        unsure = (1.0 - observed) * ops.clip(deviation / self.closed.spread, 0.0, FAR)
        found = ops.cast(self.network(ops.concatenate([standard, observed, unsure], axis=-1)), "float32")
        channels = self.volume_shape[-1]
        # In deviations of kriging: where that is sure, little is added; to what is known of nothing, nothing.
        seen = ops.max(observed, axis=(1, 2, 3, 4), keepdims=True)
        value = value + seen * deviation * found[..., :channels]
        factor = ops.exp(ops.clip(found[..., channels:], -STEEP, STEEP))
        return value, self.calibration * factor * deviation

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make the same layer, for Keras's saved files."""
        own = {name: getattr(self, name) for name in ("filters", "steps", "seed", "learns_across")}
        return {**super().get_config(), **own, "dtype": keras.dtype_policies.serialize(self.policy)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Learned:
        """Make the layer again; one that was saved before channels were learnt from each other goes without."""
        return cls(**{"learns_across": False, **config})


def _few(function: Callable[[Array], Any], volumes: Array) -> tuple[Array, Array]:
    """Call a function that returns values and deviations on a few volumes at a time."""
    step = max(1, BATCH // volumes[0].size)
    found = [function(volumes[start : start + step]) for start in range(0, len(volumes), step)]
    value, deviation = (
        np.concatenate(list(map(ops.convert_to_numpy, parts))) for parts in zip(*found, strict=True)
    )
    return value, deviation


def _pooled(x: Any) -> Any:
    """Do what `MaxPooling3D(2, padding="same")` does, of which LiteRT knows nothing."""
    for axis in (1, 2, 3):
        before: tuple[slice, ...] = (slice(None),) * axis
        first, second = x[(*before, slice(0, None, 2))], x[(*before, slice(1, None, 2))]
        if x.shape[axis] % 2:
            second = ops.concatenate([second, x[(*before, slice(-1, None))]], axis=axis)
        x = ops.maximum(first, second)
    return x


def _network(
    size: tuple[int, ...], channels: int, filters: Sequence[int], policy: Any, seed: int
) -> keras.Model:
    """Return the U-Net, without normalisation: gaps of another rate must not move its features.

    Stages are pooled, and added on the way up: on processors the gradient of a strided convolution of so few features
    took five times that of all others, and that of stages put side by side half of the rest.
    """
    number = iter(range(1000 * seed, 1000 * seed + 1000))

    def convolve(x: Any, count: int, edge: int = 3) -> Any:
        begin = keras.initializers.HeNormal(seed=next(number))
        arguments: dict[str, Any] = {"padding": "same", "kernel_initializer": begin, "dtype": policy}
        return keras.layers.Conv3D(count, edge, activation="relu", **arguments)(x)

    inputs = keras.Input((*size, 3 * channels), name="kriging")
    x, skips = inputs, list[Any]()
    for stage, count in enumerate(filters):
        x = _pooled(x) if stage else x
        x = convolve(convolve(x, count), count)
        skips.append(x)
    for skip in reversed(skips[:-1]):
        x = UpsampleLike3D(2, dtype=policy)([convolve(x, skip.shape[-1], 1), skip])
        x = convolve(keras.layers.Add(dtype=policy)([skip, x]), skip.shape[-1])
    head = keras.layers.Conv3D(2 * channels, 1, kernel_initializer="zeros", dtype="float32", name="head")
    return keras.Model(inputs, head(x), name="network")


@keras.saving.register_keras_serializable(package="voxgap")
class Deviating(RawLayer):
    """Answers what a fill layer makes of volumes, and behind it how sure that is.

    Args:
        fill: a layer with `with_deviation`.
        **kwargs: `name` and the other arguments of `keras.layers.Layer`.

    Input: float32 `(batch, depth, height, width, channels)`, NaN = missing. Output: `(..., 2 * channels)`, values and
    then standard deviations.
    """

    def __init__(self, fill: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fill = fill

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Build the fill, unless it is."""
        if not self.fill.built:
            self.fill.build(input_shape)

    def call(self, x: Any) -> Any:
        """Return the filled values of all channels and, behind them, their standard deviations."""
        return ops.concatenate(self.fill.with_deviation(x), axis=-1)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the input with twice its channels."""
        return (*input_shape[:-1], 2 * (input_shape[-1] or 0))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make the same layer, for Keras's saved files."""
        return {**super().get_config(), "fill": keras.saving.serialize_keras_object(self.fill)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Deviating:
        """Return the layer that such arguments make."""
        return cls(**{**config, "fill": keras.saving.deserialize_keras_object(config["fill"])})
