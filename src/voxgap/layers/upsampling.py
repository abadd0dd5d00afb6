"""Upsampling to the very grid that a strided convolution started from, odd sizes included."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from voxgap.errors import VoxgapError

Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable(package="voxgap")
class UpsampleLike3D(keras.layers.Layer):
    """Repeat voxels by `size` and cut the result to another tensor's grid: nearest neighbours.

    The way back from a convolution or pool with `padding="same"` and `strides=size`, which turns n voxels into
    n / size, rounded up: `keras.layers.UpSampling3D` does not return to an odd n.

    Args:
        size: how often a voxel is repeated, one number for all axes or three.

    Called on `[x, like]`, both `(batch, depth, height, width, channels)`: returns `x` on the grid of `like`.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> coarse, fine = np.ones((1, 3, 3, 3, 4)), np.ones((1, 5, 5, 6, 2))
        >>> tuple(vg.layers.UpsampleLike3D(2)([coarse, fine]).shape)
        (1, 5, 5, 6, 4)
    """

    def __init__(self, size: int | tuple[int, int, int] = 2, **kwargs: Any) -> None:
        # Of `like` only the shape is used: casting it would copy a whole skip connection.
        super().__init__(autocast=False, **kwargs)
        self.size = (size,) * 3 if isinstance(size, int) else tuple(size)
        if len(self.size) != 3 or min(self.size) < 1:
            raise VoxgapError(f"{self.name}: size must be one or three positive numbers, got {size}")

    def build(self, input_shape: list[Shape]) -> None:
        """Check that the factors lead to the other tensor's grid.

        Raises:
            VoxgapError: They don't.
        """
        x, like = input_shape
        for factor, few, many in zip(self.size, x[1:4], like[1:4], strict=True):
            if few is not None and many is not None and few != -(-many // factor):
                raise VoxgapError(
                    f"{self.name}: {few} voxels repeated {factor} times don't lead to {many}; use padding='same'"
                )

    def call(self, inputs: Any) -> Any:
        """Return the first tensor of `[x, like]` on the grid of the second."""
        x, like = inputs
        x = ops.cast(x, self.compute_dtype)
        for axis, factor in enumerate(self.size, start=1):
            if factor > 1:
                x = ops.repeat(x, factor, axis=axis)
        depth, height, width = ops.shape(like)[1:4]
        return x[:, :depth, :height, :width]

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        """Return the grid of `like` with the channels of `x`."""
        x, like = input_shape
        return (*like[:-1], x[-1])

    def compute_output_spec(self, inputs: Any) -> Any:
        """Return the same for symbolic tensors, without calling the layer."""
        x, like = inputs
        return keras.KerasTensor((*like.shape[:-1], x.shape[-1]), dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make the same layer, for Keras's saved files."""
        return super().get_config() | {"size": self.size}
