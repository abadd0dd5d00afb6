"""Convolution with strides: Keras's own answers, and its gradients by another way."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from voxgap.layers import FastConv3D

CASES = [
    ((8, 7, 6), 3, 2, "same"),
    ((8, 7, 6), 3, 2, "valid"),
    ((9, 5, 4), (1, 3, 2), (2, 3, 1), "same"),
    ((7, 8, 9), 1, 2, "same"),
    ((10, 9, 8), (2, 1, 5), (3, 2, 4), "valid"),
    ((1, 6, 5), 3, (1, 2, 2), "same"),
]


def _gradients(layer: Any, x: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """What it answers in training, and the gradients by the input, the kernel and the bias."""
    import tensorflow as tf

    tensor = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        answer = layer(tensor, training=True) if isinstance(layer, FastConv3D) else layer(tensor)
        lost = tf.reduce_sum(answer * wanted)
    found = tape.gradient(lost, [tensor, *layer.trainable_weights])
    return np.asarray(answer), [np.asarray(one) for one in found]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="PyTorch's own is fast")
@pytest.mark.parametrize(("shape", "kernel", "strides", "padding"), CASES)
def test_it_is_keras_s_with_the_same_gradients(shape: Any, kernel: Any, strides: Any, padding: str) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, *shape, 3)).astype(np.float32)
    arguments = {"filters": 4, "kernel_size": kernel, "strides": strides, "padding": padding}
    ours, theirs = (
        FastConv3D(**arguments, activation="tanh"),
        keras.layers.Conv3D(**arguments, activation="tanh"),
    )
    expected = np.asarray(theirs(x))
    np.testing.assert_array_equal(ours(x).shape, expected.shape)
    ours.set_weights(theirs.get_weights())
    wanted = generator.normal(size=expected.shape).astype(np.float32)
    answer, found = _gradients(ours, x, wanted)
    np.testing.assert_array_equal(np.asarray(ours(x)), expected)
    np.testing.assert_array_equal(answer, expected)
    for one, other in zip(found, _gradients(theirs, x, wanted)[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
