"""ONNX from Keras, whatever the size of the fill's statistics."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from voxgap.fill.base import FillLayer

_LARGE = 2**14  # values of a weight, from which on it is kept out of the conversion


def write_onnx(model: Any, file: Path) -> None:
    """Write a Keras model as ONNX.

    The converter copies a weight for each operation that reads it, and computes ahead what follows from it alone. The
    donors of KNN, read once a rank, then come to more than the 2 GiB that its graphs can hold. So large weights of a
    fill are inputs while the model is converted, and become weights in the finished file.

    Args:
        model: that has been called.
        file: to write.
    """
    fills = [layer for layer in model._flatten_layers(include_self=False) if isinstance(layer, FillLayer)]
    # A fill that is part of another is there twice.
    each = {id(variable): variable for layer in fills for variable in layer.variables}
    large = [variable for variable in each.values() if math.prod(variable.shape) > _LARGE]
    if not large:
        model.export(str(file), format="onnx", verbose=False)
        return
    import onnx
    import tensorflow as tf
    import tf2onnx
    from keras.src.export.tf2onnx_lib import patch_tf2onnx

    patch_tf2onnx()  # as Keras does before it converts
    names = [f"large_weight_{i}" for i in range(len(large))]
    signature = [tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name="volumes")]
    signature += [tf.TensorSpec(v.shape, tf.float32, name=n) for n, v in zip(names, large, strict=True)]

    def answer(volumes: Any, *weights: Any) -> Any:
        given = dict(zip(map(id, large), weights, strict=True))
        state = (
            [given.get(id(variable), variable.value) for variable in variables]
            for variables in (model.trainable_variables, model.non_trainable_variables)
        )
        outputs, _ = model.stateless_call(*state, volumes, training=False)
        return outputs

    function = tf.function(answer, input_signature=signature, autograph=False)
    converted, _ = tf2onnx.convert.from_function(function, signature)
    graph = converted.graph
    for name, variable in zip(names, large, strict=True):
        (entry,) = [given for given in graph.input if given.name.split(":")[0] == name]
        graph.input.remove(entry)
        graph.initializer.append(onnx.numpy_helper.from_array(variable.numpy(), entry.name))
    onnx.save(converted, str(file))
