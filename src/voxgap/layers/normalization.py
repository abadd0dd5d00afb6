"""Normalisation of the input by its observed voxels, and of features by their batch, fast on five dimensions."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from voxgap.arrays import as_real
from voxgap.errors import VoxgapError
from voxgap.layers.adapting import Adapts
from voxgap.observed import moments


@keras.saving.register_keras_serializable(package="voxgap")
class ObservedNormalization(Adapts, keras.layers.Layer):
    """Shift and scale each channel by the mean and standard deviation of its observed training voxels.

    `adapt` learns the statistics, as in `keras.layers.Normalization`, but missing voxels do not count. A channel
    that is constant or never observed is only shifted.

    Args:
        invert: scale and shift back instead, for the output of a regression.
        learns: without it, `adapt` does nothing, and values stay as they are.

    Input: finite float32 `(batch, ..., channels)`; output: the same shape, float32 always.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> line = np.float32([1, 0, 0, 3]).reshape(1, 1, 1, 4, 1)
        >>> layer = vg.layers.ObservedNormalization()
        >>> layer.adapt(np.where(line == 0, np.nan, line))  # NaN does not count
        >>> np.ravel(layer(line)).tolist()
        [-1.0, -2.0, -2.0, 1.0]
    """

    def __init__(self, invert: bool = False, learns: bool = True, **kwargs: Any) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(autocast=False, **kwargs)
        self.invert, self.learns = invert, learns

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make room for the mean and variance of each channel."""
        channels = (input_shape[-1],)
        self.mean = self.add_weight(name="mean", shape=channels, initializer="zeros", trainable=False)
        # A variance is positive: 0 is that of a layer which has learnt nothing.
        initial = "zeros" if self.learns else "ones"
        self.variance = self.add_weight(name="variance", shape=channels, initializer=initial, trainable=False)

    def _learnt(self) -> Any:
        return self.variance

    def adapt(self, volumes: Any) -> None:
        """Learn the statistics.

        Args:
            volumes: `(n, ..., channels)` with NaN; training data only. Read one by one, so that they may lie on
                disk.

        Raises:
            VoxgapError: no voxel is observed.
        """
        if not hasattr(volumes, "shape"):
            volumes = as_real(volumes, "volumes")
        if not self.built:
            self.build(volumes.shape)
        if not self.learns:
            return
        found = moments(volumes).pooled()
        if not found.observed.any():
            raise VoxgapError(
                "no voxel of the training volumes is observed: there is nothing to normalise by"
            )
        variance = found.deviation**2
        self.mean.assign(found.mean)
        self.variance.assign(np.where(variance > 0, variance, 1.0))

    def call(self, x: Any) -> Any:
        """Return the volumes in units of what was learnt, or with `invert` back in raw units; NaN stays NaN.

        Raises:
            VoxgapError: The layer learns from training volumes, and was not adapted to any.
        """
        self.refuse_unless_adapted()
        x = ops.cast(x, "float32")
        deviation = ops.sqrt(self.variance)
        return x * deviation + self.mean if self.invert else (x - self.mean) / deviation

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the input: the layer keeps it."""
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make the same layer, for Keras's saved files."""
        return super().get_config() | {"invert": self.invert, "learns": self.learns}


@keras.saving.register_keras_serializable(package="voxgap")
class FastBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation of `(batch, depth, height, width, channels)`, at a fraction of the stock layer's time.

    The result is that of `keras.layers.BatchNormalization(axis=-1)`, with momentum 0.9: the stock 0.99 leaves
    networks trained for a few hundred steps at chance when they are evaluated. In training on TensorFlow, its
    fused kernel works on a 4D view, in the compute dtype with float32 statistics; at inference it is one
    multiply-add, which runtimes fold into the convolution before it. Ioffe and Szegedy 2015.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> x = np.random.default_rng(0).normal(5, 2, (4, 4, 4, 4, 1)).astype("float32")
        >>> y = np.asarray(vg.layers.FastBatchNormalization()(x, training=True))
        >>> bool(abs(y.mean()) < 1e-3), bool(abs(y.std() - 1) < 1e-3)
        (True, True)
    """

    def __init__(self, momentum: float = 0.9, epsilon: float = 1e-3, **kwargs: Any) -> None:
        super().__init__(momentum=momentum, epsilon=epsilon, **kwargs)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalise by the batch when training, by the moving statistics otherwise, as the stock layer does."""
        usual = self.scale and self.center and self.axis in (-1, len(inputs.shape) - 1) and mask is None
        if not usual:
            return super().call(inputs, training=training, mask=mask)
        if training and self.trainable:
            if keras.backend.backend() == "tensorflow" and len(inputs.shape) == 5:
                return self._fused(inputs)
            return super().call(inputs, training=True, mask=mask)
        scale = self.gamma / ops.sqrt(self.moving_variance + self.epsilon)
        shift = self.beta - self.moving_mean * scale
        return inputs * ops.cast(scale, inputs.dtype) + ops.cast(shift, inputs.dtype)

    def _fused(self, inputs: Any) -> Any:
        import tensorflow as tf

        shape = tf.shape(inputs)
        flat = tf.reshape(inputs, (shape[0], -1, shape[3], inputs.shape[-1]))
        normalised, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=flat,
            scale=tf.convert_to_tensor(self.gamma),
            offset=tf.convert_to_tensor(self.beta),
            mean=tf.zeros((0,)),
            variance=tf.zeros((0,)),
            epsilon=self.epsilon,
            is_training=True,
        )
        # The kernel returns the sample variance (n - 1); the layer's moving variance is the population's.
        n = tf.cast(tf.size(flat) // tf.shape(flat)[-1], "float32")
        variance = variance * (n - 1) / n
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + batch * (1 - self.momentum))
        return tf.reshape(normalised, shape)


@keras.saving.register_keras_serializable(package="voxgap")
class InstanceNormalization(keras.layers.Layer):
    """Shift and scale each channel of each volume by its own mean and deviation, in training and afterwards alike.

    It serves batches of few volumes, whose common statistics say little. Ulyanov et al. 2016.

    Args:
        epsilon: added to the variance.

    Called on features `(batch, depth, height, width, channels)`; or on `[features, observed]`, where features are 0 by
    construction wherever nothing is observed (those of `MaskedConv3D`): statistics are then of the observed voxels, so
    that they don't depend on how much is missing. Features of filled volumes have a value everywhere, and need no map.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> x = np.random.default_rng(0).normal(5, 2, (2, 4, 4, 4, 1)).astype("float32")
        >>> y = np.asarray(vg.layers.InstanceNormalization()(x))
        >>> means, spreads = y.mean(axis=(1, 2, 3)), y.std(axis=(1, 2, 3))
        >>> [round(float(one), 3) for one in (*abs(means).ravel(), *spreads.ravel())]
        [0.0, 0.0, 1.0, 1.0]
    """

    def __init__(self, epsilon: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.epsilon = epsilon

    def build(self, input_shape: Any) -> None:
        """Make the scale and the shift of each channel."""
        features = input_shape[0] if isinstance(input_shape[0], tuple | list) else input_shape
        shape = (features[-1],)
        self.gamma = self.add_weight(name="gamma", shape=shape, initializer="ones")
        self.beta = self.add_weight(name="beta", shape=shape, initializer="zeros")

    def call(self, inputs: Any) -> Any:
        """Return the features with mean `beta` and deviation `gamma` in each channel of each volume."""
        x, observed = inputs if isinstance(inputs, list | tuple) else (inputs, None)
        values = ops.cast(x, "float32")
        if observed is None:
            mean = ops.mean(values, axis=(1, 2, 3), keepdims=True)
            variance = ops.mean(ops.square(values - mean), axis=(1, 2, 3), keepdims=True)
        else:
            seen = ops.max(ops.cast(observed, "float32"), axis=-1, keepdims=True)
            count = ops.maximum(ops.sum(seen, axis=(1, 2, 3), keepdims=True), 1.0)
            mean = ops.sum(values * seen, axis=(1, 2, 3), keepdims=True) / count
            off = (values - mean) * seen
            variance = ops.sum(off * off, axis=(1, 2, 3), keepdims=True) / count
        scale = ops.cast(self.gamma, "float32") / ops.sqrt(variance + self.epsilon)
        shift = ops.cast(self.beta, "float32") - mean * scale
        return ops.cast(values * scale + shift, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return the shape of the features: the layer keeps it."""
        features = input_shape[0] if isinstance(input_shape[0], tuple | list) else input_shape
        return tuple(features)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make the same layer, for Keras's saved files."""
        return super().get_config() | {"epsilon": self.epsilon}
