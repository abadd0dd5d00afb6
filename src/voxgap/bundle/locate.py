"""Find the layer at which a runtime parts from Keras: convert the network cut after one layer, then another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from voxgap.bundle.convert import convert, remove
from voxgap.bundle.formats import FORMATS
from voxgap.bundle.parity import differences
from voxgap.runtime.engines import open_engine
from voxgap.volume import Values


@dataclass(frozen=True)
class Cut:
    """The model up to one layer.

    Args:
        name: of the layer, as in `network/conv_1`.
        build: makes the model.
    """

    name: str
    build: Callable[[], Any]


def cuts(model: Any) -> list[Cut]:
    """Return the model cut after each of its layers in turn, in the order in which they are computed.

    Args:
        model: layers of its own, or models of layers one after the other, as `build_model` makes.
    """
    found = []
    x = model.inputs[0]
    nested = any(isinstance(layer, keras.Model) for layer in model.layers)
    for part in [layer for layer in model.layers if isinstance(layer, keras.Model)] if nested else [model]:
        for layer in part.layers:
            if isinstance(layer, keras.layers.InputLayer):
                continue
            outputs = layer.output if isinstance(layer.output, list | tuple) else [layer.output]
            found += [_cut(model, part, x, layer.name, output) for output in outputs]
        x = part(x) if nested else x
    return found


def _cut(model: Any, part: Any, x: Any, layer: str, output: Any) -> Cut:
    entry = _as_given(model.inputs)
    if part is model:
        return Cut(layer, lambda: keras.Model(entry, output))
    inner = _as_given(part.inputs)
    return Cut(
        f"{part.name}/{layer}",
        lambda: keras.Model(entry, keras.Model(inner, output, name=part.name)(x)),
    )


def _as_given(inputs: list[Any]) -> Any:
    """Return the inputs of a model as it is called with them: one tensor, not a list of one."""
    return inputs if len(inputs) > 1 else inputs[0]


def first_parting(
    model: Any, kind: str, inputs: Values, *, precision: str, tolerance: float, folder: Path
) -> str | None:
    """Name the first layer after which a runtime's features are not those of Keras.

    By bisection: each step converts the model up to one layer and runs it. A cut that can't be converted counts
    as parted.

    Args:
        model: whose export differs.
        kind: the format.
        inputs: `(n, depth, height, width, channels)`.
        precision: of the export.
        tolerance: see `voxgap.bundle.parity.differences`.
        folder: for the cut models.

    Returns:
        The layer, or None where no cut differs.
    """
    points = cuts(model)
    agrees, parts = -1, len(points)
    while parts - agrees > 1:
        middle = (agrees + parts) // 2
        if _differs(points[middle].build(), kind, inputs, precision, tolerance, folder):
            parts = middle
        else:
            agrees = middle
    return points[parts].name if parts < len(points) else None


def _differs(model: Any, kind: str, inputs: Values, precision: str, tolerance: float, folder: Path) -> bool:
    expected = np.asarray(keras.ops.convert_to_numpy(model(inputs, training=False)))
    file = folder / f"cut{FORMATS[kind].suffix}"
    remove(file)
    try:
        convert(kind, model, file, precision, inputs)
        got = open_engine(kind, file)(inputs)
    except Exception:  # whatever a converter raises: the layer that it can't convert is the one looked for
        return True
    return bool(differences(expected, got).max() > tolerance)
