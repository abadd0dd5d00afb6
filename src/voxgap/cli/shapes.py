"""`voxgap shapes`: a table of a network's shapes and costs, without running it."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import typer
from rich.table import Table
from typer.core import TyperCommand

from voxgap.cli.config import fields_of
from voxgap.cli.console import import_keras, out
from voxgap.cli.network import (
    ACTIVATION,
    DROPOUT,
    FILTERS,
    KERNEL_SIZE,
    PADDING,
    STRIDES,
    Activation,
    Attention,
    DeepSupervision,
    Dropout,
    Fill,
    Filters,
    GapDropout,
    KernelSize,
    MaskChannel,
    Norm,
    Padding,
    Strides,
    architecture,
)
from voxgap.errors import VoxgapError
from voxgap.recipe import Architecture, Strategy, strategy_of
from voxgap.shapes import Layer, Row, from_keras, smallest_input, trace

NUMBERS = r"\d{1,6}(?:x\d{1,6})*"
FIELDS = {
    "k": "kernel_size",
    "s": "strides",
    "p": "padding",
    "d": "dilation_rate",
    "g": "groups",
    "o": "output_padding",
}
WORDS: dict[str, dict[str, Any]] = {
    "same": {"padding": "same"},
    "valid": {"padding": "valid"},
    "nobias": {"use_bias": False},
}


class Form(NamedTuple):
    """How a layer is written on the command line."""

    first: str
    """The field that comes first."""
    allowed: frozenset[str]
    """The letters and words that may follow."""
    metavar: str
    example: str


FORMS = {
    "conv": Form("filters", frozenset({*"kspdg", *WORDS}), "FILTERS:kK[:sS][:pP][:dD]", "16:k3:s2:same"),
    "pool": Form("kernel_size", frozenset({"s", "p", "same", "valid"}), "SIZE[:sS][:pP]", "3:s2:p1"),
    "transpose": Form("filters", frozenset({*"kspdo", *WORDS}), "FILTERS:kK[:sS][:pP]", "16:k2:s2"),
    "upsample": Form("kernel_size", frozenset(), "FACTOR", "2"),
    "pad": Form("padding", frozenset(), "VOXELS", "1"),
    "crop": Form("padding", frozenset(), "VOXELS", "1"),
    "dense": Form("filters", frozenset({"nobias"}), "UNITS", "10"),
}
FLAGS = ("batch_norm", "global_pool", "flatten")
ORDER = "voxgap.shapes.order"
SAVED = (".keras", ".h5")
KINDS = ("plain", "masked", "gated")
OF_A_NAMED_MODEL = frozenset(
    {"outputs", "task", "strategy", "filters", "kernel_size", "strides", "padding", "activation", "dropout"}
    | {"norm", "deep_supervision", "fill", "mask_channel", "gap_dropout", "attention"}
)


class InOrder(TyperCommand):
    """A command that knows in which order its options were given."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Parse as Typer does, and keep the options in the order in which they were typed."""
        given, _, order = self.make_parser(ctx).parse_args(args=list(args))
        values = {
            name: iter(value) if isinstance(value, list) else itertools.repeat(value)
            for name, value in given.items()
        }
        ctx.meta[ORDER] = [(param.name, next(values[param.name])) for param in order if param.name in values]
        return super().parse_args(ctx, args)


def read_layer(option: str, text: str) -> Layer:
    """Read one layer of the command line.

    Args:
        option: `conv`, `transpose`, `pool`, `upsample`, `pad`, `crop` or `dense`.
        text: its value, such as `16:k3:s2:same`; `1x3x3` is one number per axis.

    Raises:
        VoxgapError: the text is malformed; the message says how to write it.
    """
    form = FORMS[option]
    head, *rest = text.split(":")
    fields: dict[str, Any] = {form.first: _numbers(head, option, text)}
    for part in rest:
        key = part if part in WORDS else part[:1]
        new = WORDS.get(part) or {FIELDS.get(key, ""): _numbers(part[1:], option, text)}
        if key not in form.allowed or new.keys() & fields.keys():
            raise _malformed(option, text)
        fields |= new
    if "k" in form.allowed and "kernel_size" not in fields:
        raise VoxgapError(
            f"--{option} {text}: the kernel is missing; write {form.metavar}, as in {form.example}"
        )
    return Layer(kind=option, **fields)


def _numbers(text: str, option: str, whole: str) -> int | tuple[int, ...]:
    if not re.fullmatch(NUMBERS, text, re.ASCII):
        raise _malformed(option, whole)
    numbers = tuple(map(int, text.split("x")))
    return numbers if len(numbers) > 1 else numbers[0]


def _malformed(option: str, text: str) -> VoxgapError:
    form = FORMS[option]
    return VoxgapError(
        f"--{option} {text!r} is not understood: write {form.metavar}, as in --{option} {form.example}"
    )


def read_input(text: str) -> tuple[int, ...]:
    """Read `32,32,32,3`: spatial axes, then channels.

    Raises:
        VoxgapError: anything else.
    """
    if not re.fullmatch(r"\d{1,6}(,\d{1,6})+", text, re.ASCII):
        raise VoxgapError(f"--input {text!r} is not understood: write DEPTH,HEIGHT,WIDTH,CHANNELS")
    return tuple(map(int, text.split(",")))


def _layers(context: typer.Context) -> list[Layer]:
    """Return the layers among the options, in the order given."""
    layers = []
    for name, value in context.meta[ORDER]:
        if name in FORMS:
            layers.append(read_layer(name, value))
        elif name in FLAGS:
            layers.append(Layer(name))
    return layers


def _load(model: str, shape: tuple[int, ...], **network: Any) -> tuple[Layer, ...]:
    """Return the layers of a saved Keras model, or of a named one with further arguments of `build_model`."""
    import_keras()
    from voxgap import models  # registers voxgap's layers with Keras, for saved models too

    if not model.endswith(SAVED):
        if len(shape) != 4:
            raise VoxgapError(f"--input: {model} takes DEPTH,HEIGHT,WIDTH,CHANNELS, got {len(shape)} numbers")
        depth, height, width, channels = shape
        return from_keras(models.build_model(model, input_shape=(depth, height, width, channels), **network))
    from voxgap.runtime.engines import load_keras

    if not Path(model).is_file():
        raise VoxgapError(f"--model {model}: there is no such file")
    try:
        loaded = load_keras(model)
    except VoxgapError as error:
        raise VoxgapError(f"--model: not a Keras model that can be loaded: {error}") from error
    return from_keras(loaded)


def _check_no_network(context: typer.Context) -> None:
    """Refuse options that say how a named network is built, where none is."""
    given = [name for name, _ in context.meta[ORDER] if name in OF_A_NAMED_MODEL]
    if given:
        option = f"--{given[0].replace('_', '-')}"
        raise VoxgapError(
            f"{option} says how a named network is built: it goes with --model, as in --model cnn3d"
        )


EXAMPLES = """\
The shapes, receptive field, parameters, multiply-adds and memory of a network, without running it.

Layers are given in the order in which a volume passes them. One number stands for all axes, 1x3x3 for each.

[bold]Examples[/bold]

voxgap shapes --input 32,32,32,3 --conv 16:k3:s1:p1 --pool 2

voxgap shapes --input 16,128,128,1 --conv 32:k1x3x3:s1x2x2:same --conv 64:k3:same --global-pool --dense 2

voxgap shapes --input 28,28,28,1 --model resnet3d --outputs 11 --strategy masked_conv

voxgap shapes --input 64,64,64,2 --model unet3d --task segmentation --filters 8,16,32 --strategy mask_channel

voxgap shapes --input 28,28,28,1 --model network.keras --batch 16 --json
"""


def shapes(  # noqa: D103 - the docstring is the help text, which is set below.
    context: typer.Context,
    input_: str = typer.Option(..., "--input", help="DEPTH,HEIGHT,WIDTH,CHANNELS of one volume, in voxels."),
    conv: list[str] = typer.Option(
        [],
        metavar=FORMS["conv"].metavar,
        help="Convolution; also same, g, nobias. With --model: plain, masked or gated, as for train.",
    ),
    pool: list[str] = typer.Option([], metavar=FORMS["pool"].metavar, help="Maximum or average pooling."),
    transpose: list[str] = typer.Option(
        [], metavar=FORMS["transpose"].metavar, help="Transposed convolution; also same, o, nobias."
    ),
    upsample: list[str] = typer.Option([], metavar="FACTOR", help="Repetition of voxels."),
    pad: list[str] = typer.Option([], metavar="VOXELS", help="Voxels to add on each side."),
    crop: list[str] = typer.Option([], metavar="VOXELS", help="Voxels to remove on each side."),
    batch_norm: bool = typer.Option(False, "--batch-norm", help="Batch normalisation."),
    global_pool: bool = typer.Option(False, "--global-pool", help="Average or maximum over the volume."),
    flatten: bool = typer.Option(False, "--flatten", help="All voxels and channels as one vector."),
    dense: list[str] = typer.Option([], metavar="UNITS", help="Dense layer; also nobias."),
    model: str = typer.Option(
        "", metavar="NAME|FILE.keras", help="A named or saved model instead of layers."
    ),
    outputs: int = typer.Option(2, min=2, help="Classes of a named model."),
    task: str = typer.Option("classification", help="Of a named model: classification or segmentation."),
    strategy: str = typer.Option("mean", help="Strategy of a named model."),
    filters: Filters = FILTERS,
    kernel_size: KernelSize = KERNEL_SIZE,
    strides: Strides = STRIDES,
    padding: Padding = PADDING,
    activation: Activation = ACTIVATION,
    dropout: Dropout = DROPOUT,
    norm: Norm = Architecture.norm,
    deep_supervision: DeepSupervision = Architecture.deep_supervision,
    fill: Fill = None,
    mask_channel: MaskChannel = None,
    gap_dropout: GapDropout = None,
    attention: Attention = None,
    batch: int = typer.Option(1, min=1, help="Volumes in memory at once."),
    dtype_size: int = typer.Option(4, min=1, help="Bytes of a number: 4 for float32, 2 for bfloat16."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON instead of a table."),
) -> None:
    shape = read_input(input_)
    named = bool(model) and not model.endswith(SAVED)
    override = conv[0] if named and len(conv) == 1 and conv[0] in KINDS else None
    layers: Sequence[Layer] = () if override else _layers(context)
    if bool(model) == bool(layers):
        raise VoxgapError("give either --model or layers, such as --conv 16:k3:same --pool 2")
    if model and named:
        layers = _load(
            model,
            shape,
            outputs=outputs,
            task=task,
            strategy=strategy_of(strategy, **fields_of(context, Strategy) | {"conv": override}),
            **Architecture.of(architecture(context)).arguments(),
        )
    else:
        _check_no_network(context)
        layers = _load(model, shape) if model else layers
    rows = trace(layers, shape, batch=batch, dtype_size=dtype_size)
    totals = _totals(rows) | {"smallest_input": smallest_input(layers, axes=len(shape) - 1)}
    if as_json:
        typer.echo(json.dumps(_as_json(rows, shape, batch, totals), indent=2))
    else:
        out.print(_table(rows, totals, batch))
        for line in _summary(rows, totals):
            out.print(line)


shapes.__doc__ = EXAMPLES


def _totals(rows: Sequence[Row]) -> dict[str, Any]:
    macs = sum(row.macs for row in rows)
    return {
        "parameters": sum(row.parameters for row in rows),
        "macs": macs,
        "gflops": 2 * macs / 1e9,
        "memory": sum(row.memory for row in rows),
        "receptive_field": rows[-1].receptive_field,
    }


def _as_json(
    rows: Iterable[Row], shape: tuple[int, ...], batch: int, totals: dict[str, Any]
) -> dict[str, Any]:
    layers = [
        {field: getattr(row, field) for field in Row.__dataclass_fields__}
        | {"jump": [float(jump) for jump in row.jump]}
        for row in rows
    ]
    return {"input": shape, "batch": batch, "layers": layers, "total": totals}


def _table(rows: Iterable[Row], totals: dict[str, Any], batch: int) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("layer", overflow="fold")
    memory = "memory" if batch == 1 else f"memory\nof {batch}"
    for name in ("output", "receptive\nfield", "jump", "parameters", "multiply-\nadds", memory):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row.name,
            _times(row.output_shape),
            _short(row.receptive_field),
            _short(row.jump),
            f"{row.parameters:,}" if row.parameters else "",
            _metric(row.macs) if row.macs else "",
            _bytes(row.memory),
        )
    table.add_section()
    table.add_row(
        "total",
        "",
        _short(totals["receptive_field"]),
        "",
        f"{totals['parameters']:,}",
        _metric(totals["macs"]),
        _bytes(totals["memory"]),
        style="bold",
    )
    return table


def _summary(rows: Sequence[Row], totals: dict[str, Any]) -> list[str]:
    size = rows[0].output_shape[:-1]
    grid = [row for row in rows if len(row.output_shape) > len(size)][-1]
    return [
        f"{totals['gflops']:.3g} GFLOPs for one volume (two per multiply-add)",
        f"a voxel of {grid.name} sees {_times(grid.receptive_field)} of the input's {_times(size)} voxels",
        f"smallest input that fits {_times(totals['smallest_input'])}",
    ]


def _times(numbers: Iterable[object]) -> str:
    return "×".join(map(str, numbers))


def _short(numbers: Sequence[int | Fraction]) -> str:
    """Return one number where all axes agree."""
    return str(numbers[0]) if len(set(numbers)) == 1 else _times(numbers)


def _metric(number: float) -> str:
    for unit in ("", " k", " M", " G"):
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:,.4g} T"


def _bytes(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.4g} {unit}"
        number /= 1024
    return f"{number:,.4g} TiB"
