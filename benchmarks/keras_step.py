"""One training step of the reference network: voxgap's, or the same network as anyone writes it in Keras.

Reference network: three residual blocks of 32, 64 and 128 filters on 28³ x 1, batch 16, Adam.
"""

from __future__ import annotations

import sys

import numpy as np

from protocol import serve

SHAPE, CLASSES, BATCH = (28, 28, 28, 1), 11, 16


def stock():
    """Straight from the Keras documentation: Conv3D, BatchNormalization, float32."""
    import keras
    from keras import layers

    inputs = x = keras.Input(SHAPE)
    for i, filters in enumerate((32, 64, 128)):
        strides = 1 if i == 0 else 2
        shortcut = layers.Conv3D(filters, 1, strides=strides, use_bias=False)(x)
        shortcut = layers.BatchNormalization()(shortcut)
        x = layers.Conv3D(filters, 3, strides=strides, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Conv3D(filters, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.Add()([layers.BatchNormalization()(x), shortcut]))
    x = layers.GlobalAveragePooling3D()(x)
    return keras.Model(inputs, layers.Dense(CLASSES, activation="softmax")(x))


def ours(strategy: str):
    from types import SimpleNamespace

    import voxgap as vg
    from voxgap.training import adapt_model, precision

    model = vg.build_model("resnet3d", SHAPE, CLASSES, strategy=strategy)
    volumes = np.random.default_rng(0).normal(size=(BATCH, *SHAPE)).astype("float32")
    adapt_model(model, SimpleNamespace(volumes=volumes))
    policy = precision.choose(model, "auto")
    return model if policy == "float32" else precision.with_policy(model, policy)


def main() -> None:
    import tensorflow as tf

    which = sys.argv[1]
    model = stock() if which == "stock" else ours(which)
    rng = np.random.default_rng(0)
    volumes = rng.normal(size=(BATCH, *SHAPE)).astype("float32")
    if which != "stock":
        # The same share of work on real input: gaps are ours to handle, the stock network has none.
        volumes[:, ::5] = np.nan
    labels = rng.integers(0, CLASSES, BATCH)
    # Stock Keras would choose XLA on a GPU only; on a CPU both run the plain graph.
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    model.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors((volumes, labels)).repeat())
    serve(lambda: model.train_function(batches))


if __name__ == "__main__":
    main()
