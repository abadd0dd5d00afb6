"""Max pooling in three dimensions for LiteRT, which has it in two only."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


class PlanarMaxPooling3D(keras.layers.Layer):
    """`keras.layers.MaxPooling3D` as two poolings of two dimensions: within slices, then across them.

    A maximum of maxima is the maximum, so that the result is the same to the last bit.

    Args:
        pool_size, strides: `(depth, height, width)`.
        padding: `valid` or `same`.

    Input: `(batch, depth, height, width, channels)`.
    """

    def __init__(
        self,
        pool_size: tuple[int, int, int],
        strides: tuple[int, int, int],
        padding: str = "valid",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pool_size = pool_size
        self.strides = strides
        self.padding = padding

    def call(self, x: Any) -> Any:
        """Pool `(batch, depth, height, width, channels)` within slices, then along depth."""
        _, depth, height, width, channels = x.shape
        x = ops.reshape(x, (-1, height, width, channels))
        x = ops.max_pool(x, self.pool_size[1:], self.strides[1:], self.padding)
        _, height, width, _ = x.shape
        x = ops.reshape(x, (-1, depth, height * width, channels))
        x = ops.max_pool(x, (self.pool_size[0], 1), (self.strides[0], 1), self.padding)
        return ops.reshape(x, (-1, x.shape[1], height, width, channels))


def without_pooling_3d(model: Any) -> Any:
    """Return the same model with `PlanarMaxPooling3D` for each `MaxPooling3D`; the model itself if it has none."""
    layers = [layer for part in model.layers for layer in getattr(part, "layers", [part])]
    if not any(isinstance(layer, keras.layers.MaxPooling3D) for layer in layers):
        return model
    clone = keras.models.clone_model(model, clone_function=_planar, recursive=True)
    clone.set_weights(model.get_weights())
    return clone


def _planar(layer: Any) -> Any:
    if not isinstance(layer, keras.layers.MaxPooling3D):
        return layer.__class__.from_config(layer.get_config())
    return PlanarMaxPooling3D(
        tuple(layer.pool_size), tuple(layer.strides), layer.padding, name=layer.name, dtype=layer.dtype_policy
    )
