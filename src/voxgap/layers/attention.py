"""Attention over channels and over space."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable(package="voxgap")
class SqueezeExcitation3D(keras.layers.Layer):
    """Weigh each channel by what the whole volume says of it. Hu et al. 2018, in 3D.

    Args:
        ratio: the bottleneck has `max(1, channels // ratio)` units.
        kernel_initializer: of both its dense layers.

    Input and output: `(batch, depth, height, width, channels)`.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> features = np.ones((2, 4, 4, 4, 8), "float32")
        >>> weighed = np.asarray(vg.layers.SqueezeExcitation3D(ratio=4)(features))
        >>> bool((weighed > 0).all() and (weighed < 1).all())
        True
    """

    def __init__(self, ratio: int = 8, kernel_initializer: Any = "glorot_uniform", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ratio = ratio
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape: Shape) -> None:
        """Make the two dense layers that weigh as many channels as the input has."""
        channels = input_shape[-1] or 0
        shared = {"dtype": self.dtype_policy, "kernel_initializer": self.kernel_initializer}
        self.squeeze = keras.layers.Dense(max(1, channels // self.ratio), "relu", name="squeeze", **shared)
        self.excite = keras.layers.Dense(channels, "sigmoid", name="excite", **shared)
        self.squeeze.build((None, channels))
        self.excite.build((None, self.squeeze.units))

    def call(self, x: Any) -> Any:
        """Return `(batch, depth, height, width, channels)` with each channel times its weight, from 0 to 1."""
        weights = self.excite(self.squeeze(ops.mean(x, axis=(1, 2, 3))))
        return x * ops.reshape(weights, (-1, 1, 1, 1, x.shape[-1]))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of the input: the layer keeps it."""
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make the same layer, for Keras's saved files."""
        initializer = keras.initializers.serialize(self.kernel_initializer)
        return super().get_config() | {"ratio": self.ratio, "kernel_initializer": initializer}


@keras.saving.register_keras_serializable(package="voxgap")
class SpatialAttention3D(keras.layers.Layer):
    """Weigh each voxel by what its surroundings say of it, knowing what is observed there.

    A convolution over the mean and maximum of the features and the observed map gives one weight a voxel.
    Woo et al. 2018 (CBAM), in 3D, with the observed map as a third input.

    Args:
        kernel_size: edge of the convolution in voxels, one for all axes or three.
        kernel_initializer: of the convolution.

    Called on `[features, observed]`: `(batch, depth, height, width, channels)` and 0/1 of any channels; returns
    features of the same shape.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> features, observed = np.ones((2, 4, 4, 4, 8), "float32"), np.ones((2, 4, 4, 4, 1), "float32")
        >>> tuple(vg.layers.SpatialAttention3D()([features, observed]).shape)
        (2, 4, 4, 4, 8)
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, int, int] = 3,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.convolution = keras.layers.Conv3D(
            1,
            kernel_size,
            padding="same",
            activation="sigmoid",
            kernel_initializer=kernel_initializer,
            dtype=self.dtype_policy,
            name="convolution",
        )

    def build(self, input_shape: list[Shape]) -> None:
        """Make the convolution over mean, maximum and share of observed channels."""
        self.convolution.build((*input_shape[0][:-1], 3))

    def call(self, inputs: Any) -> Any:
        """Return the features of `[features, observed]`, each voxel times its weight, from 0 to 1."""
        features, observed = inputs
        dtype = self.compute_dtype
        features = ops.cast(features, dtype)
        summary = ops.concatenate(
            [
                ops.mean(features, axis=-1, keepdims=True),
                ops.max(features, axis=-1, keepdims=True),
                ops.cast(ops.mean(observed, axis=-1, keepdims=True), dtype),
            ],
            axis=-1,
        )
        return features * self.convolution(summary)

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        """Return the shape of the features: the layer keeps it."""
        return tuple(input_shape[0])

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make the same layer, for Keras's saved files."""
        inner = self.convolution.get_config()
        return super().get_config() | {n: inner[n] for n in ("kernel_size", "kernel_initializer")}
