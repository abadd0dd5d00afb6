"""Convolutions that know which voxels are observed."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import keras
from keras import ops

from voxgap.errors import VoxgapError

Shape = tuple[int | None, ...]


class _ObservedConvolution3D(keras.layers.Layer):
    """What `MaskedConv3D` and `GatedConv3D` share: a `keras.layers.Conv3D` and the coverage of its kernel."""

    # Features that the convolution computes for each filter of the layer.
    _per_filter: ClassVar[int] = 1

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int, int],
        strides: int | tuple[int, int, int] = 1,
        padding: str = "valid",
        dilation_rate: int | tuple[int, int, int] = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        # Observed is float32 under every policy: bfloat16 can't count the voxels under a 7³ kernel.
        super().__init__(autocast=False, **kwargs)
        self.filters = filters
        self.activation = keras.activations.get(activation)
        self.convolution = keras.layers.Conv3D(
            self._per_filter * filters,
            kernel_size,
            strides=strides,
            padding=padding,
            dilation_rate=dilation_rate,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            dtype=self.dtype_policy,
            name="convolution",
        )
        self.kernel_size = self.convolution.kernel_size
        self.strides = self.convolution.strides
        self.padding = self.convolution.padding
        self.dilation_rate = self.convolution.dilation_rate
        self.use_bias = use_bias

    def _coverage(self, observed: Any) -> tuple[Any, Any]:
        """Count the observed inputs under each position of the kernel.

        Returns:
            `(coverage, full)`: `(batch, ..., 1)` counts, and what they would be if everything were observed,
            `(1, ..., 1)`: less at the border of padded volumes.
        """
        channels = observed.shape[-1]
        # Summing over channels first leaves one channel to count in.
        summed = ops.sum(observed, axis=-1, keepdims=True) if channels > 1 else observed
        return self._count(summed), self._count(ops.full_like(observed[:1, ..., :1], float(channels)))

    def _count(self, x: Any) -> Any:
        """Sum under the kernel, one axis after the other: what a convolution with ones gives, in half its time."""
        for axis in (1, 2, 3):
            size, step = self.kernel_size[axis - 1], self.strides[axis - 1]
            reach = self.dilation_rate[axis - 1] * (size - 1) + 1
            length = x.shape[axis]
            if self.padding == "same":
                outputs = -(-length // step)
                padding = max((outputs - 1) * step + reach - length, 0)
                widths = [(0, 0)] * 5
                widths[axis] = (padding // 2, padding - padding // 2)
                x = ops.pad(x, widths)
            else:
                outputs = (length - reach) // step + 1
            starts = range(0, reach, self.dilation_rate[axis - 1])
            where: list[Any] = [slice(None)] * 5
            total = 0.0
            for start in starts:
                where[axis] = slice(start, start + (outputs - 1) * step + 1, step)
                total = total + x[tuple(where)]
            x = total
        return x

    def compute_output_shape(self, input_shape: list[Shape]) -> tuple[Shape, Shape]:
        *spatial, _ = self.convolution.compute_output_shape(input_shape[0])
        return (*spatial, self.filters), (*spatial, 1)

    def compute_output_spec(self, inputs: Any) -> tuple[Any, Any]:
        features, observed = self.compute_output_shape([x.shape for x in inputs])
        return (
            keras.KerasTensor(features, dtype=self.compute_dtype),
            keras.KerasTensor(observed, dtype="float32"),
        )

    def get_config(self) -> dict[str, Any]:
        inner = self.convolution.get_config()
        shared = ("kernel_size", "strides", "padding", "dilation_rate", "use_bias")
        initial = ("kernel_initializer", "bias_initializer", "kernel_regularizer")
        return (
            super().get_config()
            | {name: inner[name] for name in (*shared, *initial)}
            | {"filters": self.filters, "activation": keras.activations.serialize(self.activation)}
        )


def _weigh(x: Any, weights: Any, dtype: str, training: bool | None) -> Any:
    """Multiply by one weight a voxel, or one a value."""
    x, weights = ops.cast(x, dtype), ops.cast(weights, dtype)
    if training and weights.shape[-1] < x.shape[-1]:
        # The same product; in bfloat16 on a CPU broadcasting takes half as long again, backward too.
        weights = ops.tile(weights, (1, 1, 1, 1, x.shape[-1]))
    return x * weights


@keras.saving.register_keras_serializable(package="voxgap")
class MaskedConv3D(_ObservedConvolution3D):
    """Convolution over observed voxels only: missing ones have no weight, and the sum is scaled up for them.

    `y = conv(values * observed) * full / coverage + bias`, and 0 where no input is observed. On complete data it
    equals `keras.layers.Conv3D` to the last bit in float32. Liu et al. 2018 (partial convolution), in the form
    in which coverage counts missing channels too.

    Args: as `keras.layers.Conv3D`, channels last, one group.

    Called on `[values, observed]`: values `(batch, depth, height, width, channels)`, finite; observed 0/1, of
    that shape or with one channel. Returns `(features, observed)`: features `(batch, ..., filters)` in the
    compute dtype, observed float32 `(batch, ..., 1)`, 1 where at least one input was observed.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> line = np.float32([1, np.nan, np.nan, 4]).reshape(1, 1, 1, 4, 1)
        >>> values, observed = vg.layers.split_missing(line)
        >>> layer = vg.layers.MaskedConv3D(1, (1, 1, 3), padding="same", kernel_initializer="ones")
        >>> features, seen = layer([values, observed])
        >>> np.ravel(features).tolist(), np.ravel(seen).tolist()
        ([2.0, 3.0, 12.0, 8.0], [1.0, 1.0, 1.0, 1.0])
    """

    def build(self, input_shape: list[Shape]) -> None:
        """Make the kernel.

        Raises:
            VoxgapError: `observed` has neither one channel nor those of the values.
        """
        values, observed = input_shape
        if observed[-1] not in (1, values[-1]):
            raise VoxgapError(
                f"{self.name}: observed has {observed[-1]} channels: give it the {values[-1]} of the values, or 1"
            )
        self.convolution.build(values)

    def call(self, inputs: Any, training: bool | None = None) -> tuple[Any, Any]:
        """Return the features of `[values, observed]`, and 1 where the kernel met anything observed, else 0."""
        values, observed = inputs
        dtype = self.compute_dtype
        observed = ops.cast(observed, "float32")
        coverage, full = self._coverage(observed)
        valid = ops.cast(coverage > 0, "float32")
        kernel = ops.cast(self.convolution.kernel, dtype)
        features = self.convolution.convolution_op(_weigh(values, observed, dtype, training), kernel)
        if math.prod(self.kernel_size) * observed.shape[-1] > 1:
            # Not full / coverage: where they are equal this is 1 exactly, on every backend. A kernel over a single
            # input has nothing to scale: that input is there, or the sum is 0.
            scale = 1.0 + (full - coverage) / ops.maximum(coverage, 1.0)
            features = _weigh(features, scale, dtype, training)
        if self.use_bias:
            features = (features + ops.cast(self.convolution.bias, dtype)) * ops.cast(valid, dtype)
        return self.activation(features), valid


@keras.saving.register_keras_serializable(package="voxgap")
class GatedConv3D(_ObservedConvolution3D):
    """Convolution whose features are weighed by a learned gate that sees what is observed.

    `y = activation(features) * sigmoid(gate)`, both halves of one convolution over values and observed together.
    Yu et al. 2019 (free-form inpainting), in 3D.

    Args: as `keras.layers.Conv3D`, channels last, one group.

    Called on `[values, observed]` and returning `(features, observed)`, as `MaskedConv3D`.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> line = np.float32([1, np.nan, np.nan, 4]).reshape(1, 1, 1, 4, 1)
        >>> values, observed = vg.layers.split_missing(line)
        >>> features, seen = vg.layers.GatedConv3D(8, 1)([values, observed])
        >>> features.shape[-1], np.ravel(seen).tolist()
        (8, [1.0, 0.0, 0.0, 1.0])
    """

    _per_filter = 2

    def build(self, input_shape: list[Shape]) -> None:
        """Make the kernel, which sees the channels of both inputs."""
        values, observed = input_shape
        self.convolution.build((*values[:-1], (values[-1] or 0) + (observed[-1] or 0)))

    def call(self, inputs: Any) -> tuple[Any, Any]:
        """Return the gated features of `[values, observed]`, and 1 where the kernel met anything observed, else 0."""
        values, observed = inputs
        observed = ops.cast(observed, "float32")
        coverage, _ = self._coverage(observed)
        both = [ops.cast(values, self.compute_dtype), ops.cast(observed, self.compute_dtype)]
        features, gate = ops.split(self.convolution(ops.concatenate(both, axis=-1)), 2, axis=-1)
        return self.activation(features) * ops.sigmoid(gate), ops.cast(coverage > 0, "float32")
