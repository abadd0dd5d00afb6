"""One call of a Keras layer as records; the layer is taken as it comes, Keras is never imported."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from voxgap.errors import VoxgapError
from voxgap.shapes.layer import Layer

Config = dict[str, Any]
Shape = tuple[int | None, ...] | None


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a layer in a model.

    Args:
        name: unique in the network.
        layer: the Keras layer; None where the node is a bare operation, such as `keras.ops.add`.
        class_name: the operation's class, as in the model's config.
        config: the layer's own config.
        sources: the names of what it takes.
        takes: their shapes as Keras knows them, batch first; None where it does not.
        gives: the same for what it returns, in order.
        again: the layer has been called before, so that its parameters are counted.
    """

    name: str
    layer: Any
    class_name: str
    config: Config
    sources: tuple[str, ...]
    takes: tuple[Shape, ...]
    gives: tuple[Shape, ...]
    again: bool

    def record(
        self, kind: str, part: str = "", inputs: tuple[str, ...] | None = None, **fields: Any
    ) -> Layer:
        """Return a record of this call, or of a `part` of it, such as `/squeeze`."""
        if self.again:
            fields["parameters"] = 0
        return Layer(kind, self.name + part, self.sources if inputs is None else inputs, **fields)


def records(call: Call) -> list[Layer]:
    """Translate a call.

    Returns:
        Records, in order. The outputs of the call are those called `call.name` and `call.name + ":1"`, ...

    Raises:
        VoxgapError: the layer has channels first, or changes the shape in a way that is not known.
    """
    if call.config.get("data_format") == "channels_first":
        raise VoxgapError(f"layer {call.name!r} has channels first: voxgap's volumes have channels last")
    classes = [call.class_name] if call.layer is None else [c.__name__ for c in type(call.layer).__mro__]
    for name in classes:
        # Conv3D, Conv2D and a subclass of either are read alike: the axes come with the volume.
        if translate := _KNOWN.get(re.sub("[123]D", "", name)):
            return translate(call)
    return _unknown(call)


def _conv(call: Call) -> list[Layer]:
    return [call.record("conv", **_window(call), groups=call.config.get("groups", 1))]


def _transpose(call: Call) -> list[Layer]:
    output_padding = _frozen(call.config.get("output_padding"))
    return [call.record("transpose", **_window(call), output_padding=output_padding)]


def _pool(call: Call) -> list[Layer]:
    size, strides = (_frozen(call.config[name]) for name in ("pool_size", "strides"))
    return [call.record("pool", kernel_size=size, strides=strides, padding=call.config["padding"])]


def _dense(call: Call) -> list[Layer]:
    return [call.record("dense", filters=call.config["units"], use_bias=call.config["use_bias"])]


def _concatenate(call: Call) -> list[Layer]:
    axis = call.config.get("axis", -1)
    if axis != -1 and axis + 1 not in {len(shape) for shape in call.takes if shape}:
        raise VoxgapError(f"layer {call.name!r} concatenates along axis {axis}: only channels are known here")
    return [call.record("concatenate")]


def _masked(call: Call) -> list[Layer]:
    values, observed = call.sources
    return [_coverage(call, observed), call.record("conv", inputs=(values,), **_window(call))]


def _gated(call: Call) -> list[Layer]:
    return [_coverage(call, call.sources[1]), call.record("gated_conv", **_window(call))]


def _coverage(call: Call, observed: str) -> Layer:
    window = _window(call) | {"filters": None}
    return call.record("coverage", ":1", (observed,), **window)


def _squeeze(call: Call) -> list[Layer]:
    parts = [call.record("global_pool", "/pool", keepdims=True)]
    for dense in (call.layer.squeeze, call.layer.excite):
        parts.append(call.record("dense", f"/{dense.name}", (parts[-1].name,), filters=dense.units))
    return [*parts, call.record("merge", inputs=(call.sources[0], parts[-1].name))]


def _attend(call: Call) -> list[Layer]:
    # Mean and maximum over the channels, and the observed map.
    summary = call.record("other", "/summary", filters=3)
    kernel = _frozen(call.config["kernel_size"])
    weights = call.record("conv", "/weights", (summary.name,), filters=1, kernel_size=kernel, padding="same")
    return [summary, weights, call.record("merge", inputs=(call.sources[0], weights.name))]


def _upsample_like(call: Call) -> list[Layer]:
    x, like = call.sources
    repeated = call.record("upsample", "/repeated", (x,), kernel_size=_frozen(call.config["size"]))
    return [repeated, call.record("cut", inputs=(repeated.name, like))]


def _batch_norm(call: Call) -> list[Layer]:
    # Only the layer knows whether it scales and shifts.
    return [call.record("batch_norm", parameters=call.layer.count_params() if call.layer.built else None)]


def _supervised(call: Call) -> list[Layer]:
    # In use it passes on what is answered already.
    counted = call.layer.count_params() if call.layer is not None else 0
    channels = call.gives[0][-1] if call.gives and call.gives[0] else None
    return [call.record("other", inputs=call.sources[:1], filters=channels, parameters=counted)]


def _unknown(call: Call) -> list[Layer]:
    """Return a layer that keeps the spatial shape, with the parameters that it counts itself."""
    shapes = [shape for shape in (*call.takes[:1], *call.gives) if shape is not None]
    ranks = {len(shape) for shape in shapes}
    spatial = zip(*(shape[1:-1] for shape in shapes), strict=False)
    keeps = len(ranks) < 2 and all(len(set(sizes) - {None}) < 2 for sizes in spatial)
    if not keeps or any(hasattr(call.layer, name) for name in ("strides", "pool_size")):
        kind = call.class_name if call.layer is None else type(call.layer).__name__
        raise VoxgapError(f"layer {call.name!r} ({kind}) changes the shape in a way that is not known here")
    counted = call.layer.count_params() if call.layer is not None else 0
    channels = [shape[-1] if shape else None for shape in call.gives] or [None]
    first = call.record("other", filters=channels[0], parameters=counted)
    return [first, *(call.record("other", f":{i}", filters=c) for i, c in enumerate(channels[1:], 1))]


def _window(call: Call) -> Config:
    names = ("filters", "kernel_size", "strides", "padding", "dilation_rate", "use_bias")
    return {name: _frozen(call.config[name]) for name in names}


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list | tuple) else value


def _plain(kind: str, **names: str) -> Callable[[Call], list[Layer]]:
    """Return what makes a layer whose record takes its fields from the config, under the config's `names`."""
    return lambda call: [
        call.record(kind, **{ours: _frozen(call.config[theirs]) for ours, theirs in names.items()})
    ]


_KNOWN: dict[str, Callable[[Call], list[Layer]]] = {
    "MaskedConv": _masked,
    "GatedConv": _gated,
    "SqueezeExcitation": _squeeze,
    "SpatialAttention": _attend,
    "Conv": _conv,
    "ConvTranspose": _transpose,
    "MaxPooling": _pool,
    "AveragePooling": _pool,
    "GlobalMaxPooling": _plain("global_pool", keepdims="keepdims"),
    "GlobalAveragePooling": _plain("global_pool", keepdims="keepdims"),
    "UpsampleLike": _upsample_like,
    "UpSampling": _plain("upsample", kernel_size="size"),
    "ZeroPadding": _plain("pad", padding="padding"),
    "Cropping": _plain("crop", padding="cropping"),
    "BatchNormalization": _batch_norm,
    "DeepSupervision": _supervised,
    "Dense": _dense,
    "Flatten": _plain("flatten"),
    "Concatenate": _concatenate,
    **dict.fromkeys(
        ("Add", "Subtract", "Multiply", "Divide", "Average", "Maximum", "Minimum"), _plain("merge")
    ),
}
