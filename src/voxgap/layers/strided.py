"""Convolution with strides whose gradient TensorFlow finds as fast as that of any other."""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="voxgap")
class FastConv3D(keras.layers.Conv3D):
    """`keras.layers.Conv3D`, to the last bit; in training on a processor, the gradient of strides is a fast one.

    On processors without AVX-512 oneDNN has only its reference code for the gradient of a Conv3D with strides, which
    takes twenty times what it need. The same sums are those of a convolution without strides, over blocks of as many
    voxels as a stride has, with those of a block as its channels. Weights, files and what is exported stay the same.

    Args: as `keras.layers.Conv3D`.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> line = np.float32([1, 2, 3, 4]).reshape(1, 1, 1, 4, 1)
        >>> layer = vg.layers.FastConv3D(1, (1, 1, 3), (1, 1, 2), padding="same", kernel_initializer="ones")
        >>> np.ravel(layer(line, training=True)).tolist()
        [6.0, 7.0]
    """

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Convolve."""
        if not (training and self._slow(inputs)):
            return super().call(inputs)
        features = _strided(inputs, self.kernel, self.strides, self.padding)
        return self.activation(features + self.bias if self.use_bias else features)

    def convolve(self, inputs: Any, kernel: Any, training: bool | None) -> Any:
        """Convolve with another kernel, without bias and activation."""
        if not (training and self._slow(inputs)):
            return self.convolution_op(inputs, kernel)
        return _strided(inputs, kernel, self.strides, self.padding)

    def _slow(self, inputs: Any) -> bool:
        if max(self.strides) == 1 or keras.backend.backend() != "tensorflow":
            return False
        usual = self.groups == 1 and max(self.dilation_rate) == 1 and self.data_format == "channels_last"
        if not usual or None in inputs.shape[1:]:
            return False
        import tensorflow as tf

        return not tf.config.list_physical_devices("GPU")


def _strided(inputs: Any, kernel: Any, strides: tuple[int, ...], padding: str) -> Any:
    import tensorflow as tf

    @tf.custom_gradient
    def convolved(x: Any, weights: Any) -> Any:
        def gradient(upstream: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch((x, weights))
                found = _by_blocks(x, weights, strides, padding)
            return tape.gradient(found, (x, weights), upstream)

        return tf.nn.conv3d(x, weights, (1, *strides, 1), padding.upper()), gradient

    return convolved(tf.convert_to_tensor(inputs), tf.convert_to_tensor(kernel))


def _by_blocks(x: Any, kernel: Any, strides: tuple[int, ...], padding: str) -> Any:
    """Return the convolution as one without strides, over blocks of voxels."""
    import tensorflow as tf

    around, more, many, spans = [], [], [], []
    *edges, channels, filters = kernel.shape
    for size, edge, step in zip(x.shape[1:4], edges, strides, strict=True):
        count = -(-size // step) if padding == "same" else (size - edge) // step + 1
        blocks = -(-edge // step)
        before = max((count - 1) * step + edge - size, 0) // 2 if padding == "same" else 0
        whole = (count + blocks - 1) * step
        around.append((before, max(whole - size - before, 0)))
        more.append((0, blocks * step - edge))
        many.append(count + blocks - 1)
        spans.append(blocks)
    depth, height, width = (blocks * step for blocks, step in zip(many, strides, strict=True))
    x = tf.pad(x, ((0, 0), *around, (0, 0)))[:, :depth, :height, :width]
    x = tf.reshape(x, (-1, many[0], strides[0], many[1], strides[1], many[2], strides[2], channels))
    x = tf.reshape(
        tf.transpose(x, (0, 1, 3, 5, 2, 4, 6, 7)),
        (-1, *many, strides[0] * strides[1] * strides[2] * channels),
    )
    kernel = tf.pad(kernel, (*more, (0, 0), (0, 0)))
    kernel = tf.reshape(
        kernel, (spans[0], strides[0], spans[1], strides[1], spans[2], strides[2], channels, filters)
    )
    kernel = tf.reshape(tf.transpose(kernel, (0, 2, 4, 1, 3, 5, 6, 7)), (*spans, x.shape[-1], filters))
    return tf.nn.conv3d(x, kernel, (1, 1, 1, 1, 1), "VALID")
