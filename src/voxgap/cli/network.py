"""What the commands share in saying which network: its options, their defaults, and what is made of them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from voxgap import names
from voxgap.cli.config import fields_of
from voxgap.cli.console import numbers, one_or_three
from voxgap.recipe import Architecture

PANEL, STRATEGY_PANEL = "Network", "Strategy"
FILTERS = ",".join(map(str, Architecture.filters))
KERNEL_SIZE, STRIDES = str(Architecture.kernel_size), str(Architecture.strides)
PADDING, ACTIVATION, DROPOUT = Architecture.padding, Architecture.activation, Architecture.dropout

Filters = Annotated[str, typer.Option(help="Per stage.", rich_help_panel=PANEL)]
KernelSize = Annotated[str, typer.Option(help="One or three numbers.", rich_help_panel=PANEL)]
Strides = Annotated[str, typer.Option(help="Between stages.", rich_help_panel=PANEL)]
Padding = Annotated[str, typer.Option(help="same or valid.", rich_help_panel=PANEL)]
Activation = Annotated[str, typer.Option(help="Keras name.", rich_help_panel=PANEL)]
Dropout = Annotated[float, typer.Option(help="Before the output.", rich_help_panel=PANEL)]
Norm = Annotated[str, typer.Option(help="batch, or instance: each volume by itself.", rich_help_panel=PANEL)]
DeepSupervision = Annotated[
    bool, typer.Option(help="Train coarser stages of unet3d to answer, too.", rich_help_panel=PANEL)
]
MaskChannel = Annotated[
    bool | None,
    typer.Option(help="Override the strategy: feed what is observed.", rich_help_panel=STRATEGY_PANEL),
]
Fill = Annotated[
    str | None,
    typer.Option(
        help="Override: how gaps are filled; or a fill for each channel: temperature=kriging,mask=zero.",
        rich_help_panel=STRATEGY_PANEL,
    ),
]
Conv = Annotated[
    str | None, typer.Option(help="Override: plain, masked or gated.", rich_help_panel=STRATEGY_PANEL)
]
GapDropout = Annotated[
    float | None,
    typer.Option(help="Override: further gaps while training.", rich_help_panel=STRATEGY_PANEL),
]
Attention = Annotated[bool | None, typer.Option(help="Override.", rich_help_panel=STRATEGY_PANEL)]


def architecture(context: typer.Context) -> dict[str, Any]:
    """Parse those options of a command that are fields of an `Architecture`.

    Raises:
        VoxgapError: one of them can't be understood.
    """
    fields = fields_of(context, Architecture)
    if "activation" in fields:
        names.check("activation", fields["activation"], names.ACTIVATIONS)
    for name, parse in (("filters", numbers), ("kernel_size", one_or_three), ("strides", one_or_three)):
        if name in fields:
            fields[name] = parse(fields[name], f"--{name.replace('_', '-')}")
    return fields
