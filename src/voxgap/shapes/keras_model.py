"""Reading the graph of a Keras model from its config; Keras is never imported."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from voxgap.errors import VoxgapError
from voxgap.shapes.keras_layer import Call, Config, Shape, records
from voxgap.shapes.layer import Layer

Tensor = tuple[str, int, int]
"""A tensor in a config: the layer, which of its calls, which of its outputs."""


def from_keras(model: Any) -> tuple[Layer, ...]:
    """Read a built Functional or Sequential Keras model as records, nested models flattened.

    A layer of an unknown class is taken to keep its spatial shape, with the parameters that it counts itself.

    Args:
        model: a `keras.Model`, channels last.

    Returns:
        Records for `trace`. Layers of nested models are called `outer/inner`; a second output, such as the
        observed map of `MaskedConv3D`, is a record of its own, called `name:1`.

    Raises:
        VoxgapError: the model has no graph of layers, or a layer changes the shape in an unknown way.
    """
    try:
        config = model.get_config()
    except NotImplementedError as error:
        raise VoxgapError(f"model {model.name!r} can't be described: give its layers a get_config") from error
    reader = _Reader()
    reader.read(model, config, "", None)
    return tuple(reader.layers)


class _Reader:
    """The records so far, and the layers whose parameters they count."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self.counted: set[int] = set()

    def read(self, model: Any, config: Config, prefix: str, sources: list[str] | None) -> list[str]:
        """Add the records of a model that takes `sources`; return the names of its outputs."""
        if "input_layers" in config:
            return self._functional(model, config, prefix, sources)
        if "layers" in config:
            return self._sequential(model, config, prefix, sources)
        raise VoxgapError(f"model {model.name!r} has no graph of layers: make it Functional or Sequential")

    def _sequential(self, model: Any, config: Config, prefix: str, sources: list[str] | None) -> list[str]:
        entries = config["layers"]
        outputs = sources or []
        if entries and entries[0]["class_name"] == "InputLayer":
            entries = entries[1:]
            outputs = outputs or [self._input(config["layers"][0], prefix)]
        # By position: the config of a user's layer need not hold its name.
        for layer, entry in zip(model.layers, entries, strict=True):
            takes, gives = _shapes_of(layer)
            outputs = self._call(layer, entry, prefix + layer.name, outputs, takes, gives)
        return outputs

    def _functional(self, model: Any, config: Config, prefix: str, sources: list[str] | None) -> list[str]:
        alive = {layer.name: layer for layer in model.layers}
        calls = [
            (entry, node, list(_arguments([call["args"], call["kwargs"]])))
            for entry in config["layers"]
            for node, call in enumerate(entry["inbound_nodes"])
        ]
        outputs_of_model = _output_tensors(config)
        shapes = {tensor: shape for _, _, arguments in calls for tensor, shape in arguments}
        shapes |= zip(outputs_of_model, (tuple(output.shape) for output in _flat(model.outputs)), strict=True)
        if sources is None:
            inputs = [entry for entry in config["layers"] if entry["class_name"] == "InputLayer"]
            made = {(entry["name"], 0, 0): self._input(entry, prefix) for entry in inputs}
        else:
            made = dict(zip(_tensors(config["input_layers"]), sources, strict=True))
        while calls:
            waiting = []
            for entry, node, arguments in calls:
                name = entry["name"]
                if any(tensor not in made for tensor, _ in arguments):
                    waiting.append((entry, node, arguments))
                    continue
                outputs = self._call(
                    alive.get(name),
                    entry,
                    prefix + name + (f"@{node + 1}" if node else ""),
                    [made[tensor] for tensor, _ in arguments],
                    [shape for _, shape in arguments],
                    _outputs(shapes, name, node),
                )
                made.update({(name, node, index): output for index, output in enumerate(outputs)})
            if len(waiting) == len(calls):
                raise VoxgapError(f"layer {calls[0][0]['name']!r} of {model.name!r} takes what nothing makes")
            calls = waiting
        return [made[tensor] for tensor in outputs_of_model]

    def _input(self, entry: Config, prefix: str) -> str:
        config = entry["config"]
        self.layers.append(Layer("input", prefix + config["name"], shape=tuple(config["batch_shape"][1:])))
        return self.layers[-1].name

    def _call(
        self,
        layer: Any,
        entry: Config,
        name: str,
        sources: list[str],
        takes: list[Shape],
        gives: list[Shape],
    ) -> list[str]:
        """Add the records of one call of a layer; return the names of its outputs."""
        config = entry["config"]
        if hasattr(layer, "layers") and "layers" in config:
            return self.read(layer, config, name + "/", sources)
        again = layer is not None and id(layer) in self.counted
        self.counted.add(id(layer))
        call = Call(
            name, layer, entry["class_name"], config, tuple(sources), tuple(takes), tuple(gives), again
        )
        new = records(call)
        self.layers += new
        return [name, *(record.name for record in new if record.name.startswith(f"{name}:"))]


def _output_tensors(config: Config) -> list[Tensor]:
    """Return what a Functional model returns, with calls numbered as in the arguments of its layers."""
    # Keras counts the calls of a nested Functional from 1 here, and from 0 there.
    nested = {entry["name"] for entry in config["layers"] if "input_layers" in entry["config"]}
    return [(name, call - (name in nested), index) for name, call, index in _tensors(config["output_layers"])]


def _outputs(shapes: dict[Tensor, Shape], name: str, node: int) -> list[Shape]:
    """Return the shapes of what one call returns, up to the last output that is used."""
    used = {index: shape for (maker, call, index), shape in shapes.items() if (maker, call) == (name, node)}
    return [used.get(index) for index in range(max(used, default=0) + 1)]


def _shapes_of(layer: Any) -> tuple[list[Shape], list[Shape]]:
    """Return the shapes that a layer of a Sequential takes and gives, where Keras knows them."""
    try:
        return [tuple(layer.input.shape)], [tuple(tensor.shape) for tensor in _flat(layer.output)]
    except (AttributeError, ValueError):  # not built, or called more than once
        return [], [None]


def _flat(value: Any) -> Iterator[Any]:
    """Yield the leaves of nested lists and dictionaries, in Keras's order."""
    if isinstance(value, dict):
        value = [value[name] for name in sorted(value)]
    if isinstance(value, list | tuple):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _tensors(value: Any) -> list[Tensor]:
    """Return the tensors in a config's `input_layers` or `output_layers`."""
    flat = list(_flat(value))
    return [(flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat), 3)]


def _arguments(value: Any) -> Iterator[tuple[Tensor, Shape]]:
    """Yield the tensors in the arguments of a call, with the shapes that Keras gave them."""
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        name, node, index = value["config"]["keras_history"]
        yield (name, node, index), tuple(value["config"]["shape"])
    elif isinstance(value, dict):
        for name in sorted(value):
            yield from _arguments(value[name])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _arguments(item)
