"""Smaller ONNX files: half-precision weights, and 8-bit convolutions; the fill stays in float32."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from voxgap.volume import Values

_CALIBRATING = 64  # volumes that scales are measured on
_SMALL = 64  # elements; below, a weight is not worth an operation


def float16_weights(file: Path) -> None:
    """Store the network's weights in half precision; they are widened when the model is loaded.

    Statistics of the fill are in raw units, which half precision may not reach: they stay.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(str(file))
    weights = {name for node in _of_network(model.graph) for name in node.input}
    widened = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.name not in weights or values.dtype != np.float32 or values.size < _SMALL:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}/float16"))
        widened.append(helper.make_node("Cast", [f"{name}/float16"], [name], to=TensorProto.FLOAT))
    nodes = [*widened, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, str(file))


def int8_features(file: Path, samples: Values) -> None:
    """Compute the network's convolutions on 8-bit features and weights, scaled by what samples show.

    Static quantisation, one scale a channel of the weights: Jacob et al. 2018.

    Args:
        file: the ONNX model, which is replaced.
        samples: `(n, depth, height, width, channels)`.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    model = onnx.load(str(file))
    entry = model.graph.input[0].name
    convolutions = [node.name for node in _of_network(model.graph) if node.op_type == "Conv"]

    class Samples(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[dict[str, Any]] = (
                {entry: volume[np.newaxis]} for volume in samples[:_CALIBRATING]
            )

        def get_next(self) -> dict[str, Any] | None:
            return next(self.batches, None)

    quantized = file.with_suffix(".int8.onnx")
    quantize_static(
        model,
        str(quantized),
        Samples(),
        nodes_to_quantize=convolutions,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    quantized.replace(file)


def _of_network(graph: Any) -> list[Any]:
    """Return the nodes that multiply by weights of the network, not those that fill or count what is observed."""
    weighted = {"Conv", "MatMul", "Gemm"}
    return [
        node
        for node in graph.node
        if node.op_type in weighted and "/prepare" not in node.name and "coverage" not in node.name
    ]
