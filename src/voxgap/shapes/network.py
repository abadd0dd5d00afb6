"""A whole network, layer by layer, without running it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import reduce
from math import prod

from voxgap.errors import VoxgapError
from voxgap.shapes.axis import MAX_PERIOD, Window, positive
from voxgap.shapes.layer import WINDOWS, Layer

AXIS_NAMES = {2: ("height", "width"), 3: ("depth", "height", "width")}


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of one layer.

    Args:
        name: the layer.
        kind: its kind, as in `Layer`.
        output_shape: `(..., channels)`, without the batch.
        receptive_field: input voxels per axis that one output voxel depends on; padding counts as input.
        jump: input voxels per axis between two neighbouring output voxels.
        parameters: weights, the non-trainable ones too.
        macs: multiply-adds of one volume; a multiply-add is two floating point operations.
        memory: bytes of the output of a batch.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    receptive_field: tuple[int, ...]
    jump: tuple[Fraction, ...]
    parameters: int
    macs: int
    memory: int


@dataclass(frozen=True, slots=True)
class _Line:
    """A tensor along one axis: no size where the axis is gone, no window where its grid is gone."""

    size: int | None
    window: Window | None
    whole: bool = False  # a global pool is among what it depends on

    def receptive_field(self, n: int) -> int:
        return n if self.whole or self.window is None else self.window.extent

    def jump(self, n: int) -> Fraction:
        return Fraction(n) if self.window is None else self.window.jump


class _MisfitError(VoxgapError):
    """The volume does not go through this layer."""


class _TooSmallError(_MisfitError):
    """The volume is smaller than the kernel of this layer."""


def trace(
    layers: Iterable[Layer], input_shape: Sequence[int], *, batch: int = 1, dtype_size: int = 4
) -> tuple[Row, ...]:
    """Follow a volume through a network.

    Args:
        layers: in an order in which inputs come before the layers that take them.
        input_shape: `(depth, height, width, channels)`, or any other number of spatial axes.
        batch: volumes held in memory at once.
        dtype_size: bytes of a number: 4 for float32, 2 for bfloat16.

    Returns:
        One row per layer; the first is the input.

    Raises:
        VoxgapError: the volume becomes too small or branches of different sizes meet; the message names the
            layer and a size that fits. Or the layers don't make a network.
    """
    network = _resolve(layers)
    shape = tuple(positive(n, "input_shape") for n in input_shape)
    if len(shape) < 2:
        raise VoxgapError(f"input_shape must be spatial axes and channels, got {shape}")
    scale = positive(batch, "batch") * positive(dtype_size, "dtype_size")
    _check_inputs(network, shape)
    sizes = shape[:-1]
    lines = _follow_all(network, sizes)

    rows: list[Row] = []
    channels: dict[str, int] = {}
    for layer in network:
        line = [along[layer.name] for along in lines]
        taken = [channels[name] for name in layer.inputs]
        voxels_in = prod(along[name].size or 1 for along in lines for name in layer.inputs[:1])
        spatial = tuple(tensor.size for tensor in line if tensor.size is not None)
        if layer.kind == "input":
            own = layer.shape[-1] if layer.shape else None
            channels[layer.name] = own or shape[-1]
        else:
            channels[layer.name] = layer.channels(taken, voxels_in)
        parameters, macs = layer.cost(taken, len(sizes), voxels_in, prod(spatial))
        output = (*spatial, channels[layer.name])
        rows.append(
            Row(
                layer.name,
                layer.kind,
                output,
                tuple(tensor.receptive_field(n) for tensor, n in zip(line, sizes, strict=True)),
                tuple(tensor.jump(n) for tensor, n in zip(line, sizes, strict=True)),
                parameters,
                macs,
                prod(output) * scale,
            )
        )
    return tuple(rows)


def receptive_field(layers: Iterable[Layer], input_shape: Sequence[int]) -> tuple[int, ...]:
    """Compute how many input voxels, per axis, one voxel of a network's output depends on.

    Args:
        layers: as in `trace`.
        input_shape: `(depth, height, width, channels)`; it matters after a global pool, which sees all of it.

    Returns:
        Voxels per axis; it may exceed the input, where padding takes part.
    """
    return trace(layers, input_shape)[-1].receptive_field


def smallest_input(layers: Iterable[Layer], axes: int = 3) -> tuple[int, ...]:
    """Compute the smallest volume that goes through a network.

    Args:
        layers: as in `trace`.
        axes: spatial axes.

    Returns:
        Voxels per axis.

    Raises:
        VoxgapError: no size fits, because branches of different sizes meet.
    """
    network = _resolve(layers)
    return tuple(_fitting_size(network, axis, axes, 1) for axis in range(axes))


def _resolve(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """Give every layer a name and explicit inputs, and the network an input."""
    given = tuple(layers)
    if not any(layer.kind == "input" for layer in given):
        given = (Layer("input", "input"), *given)
    seen: Counter[str] = Counter()
    names: set[str] = set()
    network: list[Layer] = []
    for layer in given:
        seen[layer.kind] += 1
        name = layer.name or f"{layer.kind}_{seen[layer.kind]}"
        inputs = layer.inputs
        if layer.kind != "input" and not inputs:
            inputs = (network[-1].name,) if network else ()
        if name in names:
            raise VoxgapError(f"two layers are called {name!r}: give each its own name")
        unknown = [source for source in inputs if source not in names]
        if unknown:
            raise VoxgapError(f"layer {name!r} takes {unknown[0]!r}, which is no layer before it")
        names.add(name)
        network.append(replace(layer, name=name, inputs=inputs))
    return tuple(network)


def _check_inputs(network: tuple[Layer, ...], shape: tuple[int, ...]) -> None:
    inputs = [layer for layer in network if layer.kind == "input" and layer.shape is not None]
    for layer in inputs:
        wanted = layer.shape or ()
        if len(inputs) > 1:  # several inputs share the sizes, each has its own channels
            wanted = (*wanted[:-1], None) if len(wanted) == len(shape) else (None,) * len(shape)
        fits = len(wanted) == len(shape) and all(w in (None, n) for w, n in zip(wanted, shape, strict=True))
        if not fits:
            text = " × ".join("any" if w is None else str(w) for w in wanted)
            raise VoxgapError(f"input {layer.name!r} of the model takes {text}, got {_times(shape)}")


def _follow_all(network: tuple[Layer, ...], sizes: tuple[int, ...]) -> list[dict[str, _Line]]:
    """Follow all axes, and say which size would fit where one doesn't."""
    axes = len(sizes)
    try:
        return [_follow(network, axis, axes, n) for axis, n in enumerate(sizes)]
    except _MisfitError as misfit:
        small = isinstance(misfit, _TooSmallError)
        try:
            fitting = [_fitting_size(network, axis, axes, 1 if small else n) for axis, n in enumerate(sizes)]
        except _MisfitError:
            raise VoxgapError(f"{misfit}; no input size mends that") from None
        remedy = "the smallest input that fits" if small else "the next input size that fits"
        raise VoxgapError(f"{misfit}; the input is {_times(sizes)}, {remedy} is {_times(fitting)}") from None


def _follow(network: tuple[Layer, ...], axis: int, axes: int, n: int) -> dict[str, _Line]:
    """Follow one axis of `n` voxels through the network."""
    lines: dict[str, _Line] = {}
    for layer in network:
        if layer.kind == "input":
            vector = layer.shape is not None and len(layer.shape) == 1
            lines[layer.name] = _Line(None, None) if vector else _Line(n, Window())
        else:
            lines[layer.name] = _apply(layer, [lines[name] for name in layer.inputs], axis, axes)
    return lines


def _apply(layer: Layer, inputs: list[_Line], axis: int, axes: int) -> _Line:
    if layer.kind == "cut":
        return replace(inputs[0], size=inputs[1].size)
    source = _join(layer, inputs)
    if layer.kind in WINDOWS:
        if source.size is None:
            raise VoxgapError(f"layer {layer.name!r} needs a volume, but a layer before it removed the axes")
        step = layer.steps(axes)[axis]
        size = step.size(source.size)
        if size < 1:
            where = AXIS_NAMES.get(axes, [f"axis {i}" for i in range(axes)])[axis]
            raise _TooSmallError(
                f"layer {layer.name!r} needs {step.least(1)} voxels along {where} and gets {source.size}"
            )
        window = source.window and source.window.through(step, source.size)
        return _Line(size, window, source.whole)
    if layer.kind == "global_pool":
        return _Line(1 if layer.keepdims else None, None, whole=True)
    if layer.kind == "flatten":
        return _Line(None, None, whole=True)
    return source


def _join(layer: Layer, inputs: list[_Line]) -> _Line:
    """Unite what a layer takes: sizes must agree, and it sees what any of its inputs sees."""
    sizes = {line.size for line in inputs}
    if layer.kind in ("merge", "other") and len(sizes) > 1:
        sizes -= {1}  # broadcast
    if len(sizes) > 1:
        text = " and ".join(str(size or "a vector") for size in sorted(sizes, key=lambda size: size or 0))
        raise _MisfitError(f"layer {layer.name!r} joins branches of different sizes, {text}")
    windows = [line.window for line in inputs if line.window is not None]
    whole = any(line.whole for line in inputs)
    return _Line(sizes.pop(), reduce(Window.join, windows) if windows else None, whole)


def _fitting_size(network: tuple[Layer, ...], axis: int, axes: int, at_least: int) -> int:
    """Return the smallest size from `at_least` on that goes through the network along one axis."""
    need = dict.fromkeys((layer.name for layer in network), 1)
    period = 1
    for layer in reversed(network):
        least = 1
        if layer.kind in WINDOWS:
            step = layer.steps(axes)[axis]
            least = step.least(need[layer.name])
            period *= 1 if step.transposed else step.strides
        elif layer.kind not in ("global_pool", "flatten"):
            least = need[layer.name]
        for name in layer.inputs:
            need[name] = max(need[name], least)
    start = max([at_least, *(need[layer.name] for layer in network if layer.kind == "input")])
    # Sizes repeat with the strides: what doesn't fit within one period never will.
    misfit: _MisfitError | None = None
    for n in range(start, start + min(period, MAX_PERIOD)):
        try:
            _follow(network, axis, axes, n)
        except _MisfitError as error:
            misfit = misfit or error
        else:
            return n
    raise misfit or VoxgapError("the network has no layers")


def _times(sizes: Iterable[int]) -> str:
    return " × ".join(map(str, sizes))
