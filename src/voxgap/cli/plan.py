"""`voxgap train --plan`: the options that a plan has a say in, and what is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxgap.cli.config import fields_of
from voxgap.cli.console import err, import_keras
from voxgap.cli.data import patch_argument
from voxgap.cli.network import PANEL, architecture
from voxgap.errors import VoxgapError
from voxgap.names import check
from voxgap.recipe import Architecture, Training

if TYPE_CHECKING:
    from voxgap.dataset import Dataset
    from voxgap.experiment import Plan

PLANNED_NETWORKS = ("unet3d", "resunet3d")

How = Annotated[
    str | None,
    typer.Option(
        "--plan",
        help="auto: patch size, depth, filters, batch size, normalisation, learning rate and steps from the data, for "
        "label maps; what you give of them stays. none: the defaults of each.",
        show_default="auto where you give none of them",
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(help="Volumes a training step.", show_default=f"{Training.batch_size}, or by --plan"),
]
LearningRate = Annotated[
    float | None,
    typer.Option(help="At the start.", show_default=f"{Training.learning_rate:g}, or by --plan"),
]
Filters = Annotated[
    str | None,
    typer.Option(
        help="Per stage.",
        show_default=f"{','.join(map(str, Architecture.filters))}, or by --plan",
        rich_help_panel=PANEL,
    ),
]
Strides = Annotated[
    str | None,
    typer.Option(
        help="Between stages.", show_default=f"{Architecture.strides}, or by --plan", rich_help_panel=PANEL
    ),
]
Norm = Annotated[
    str | None,
    typer.Option(
        help="batch, or instance: each volume by itself.",
        show_default=f"{Architecture.norm}, or by --plan",
        rich_help_panel=PANEL,
    ),
]
DeepSupervision = Annotated[
    bool | None,
    typer.Option(
        help="Train coarser stages of unet3d to answer, too.",
        show_default="no, or by --plan",
        rich_help_panel=PANEL,
    ),
]
PatchesPerVolume = Annotated[
    int | None,
    typer.Option(
        help="In an epoch.",
        show_default="as many as tile it, or by --plan",
        rich_help_panel="Volumes",
    ),
]


def given(context: typer.Context) -> dict[str, Any]:
    """Return those numbers of a plan that were given, by their names.

    Raises:
        VoxgapError: one of them can't be understood.
    """
    from voxgap.experiment.proposal import BESIDE, PLANNED

    fields = architecture(context) | fields_of(context, Training)
    found = {name: fields[name] for name in (*PLANNED, *BESIDE) if name in fields}
    if "patch_size" in found:
        found["patch_size"] = patch_argument(found["patch_size"])
    return found


def made(how: str | None, dataset: Dataset, network: str, given: Mapping[str, Any]) -> Plan | None:
    """Make a plan and say it, where one is asked for, or where nobody gave a number of it.

    Raises:
        VoxgapError: a plan is asked for, and the data or the network is not of those that it is for.
    """
    from voxgap.experiment.proposal import PLANNED, plan

    if how is not None:
        check("plan", how, ("auto", "none"))
    fits = dataset.task == "segmentation" and network in PLANNED_NETWORKS
    if how == "auto" and not fits:
        raise VoxgapError(
            "--plan auto is for label maps, with unet3d or resunet3d; give the numbers themselves"
        )
    names = ", ".join(f"--{name.replace('_', '-')}" for name in PLANNED if name in given)
    if fits and how is None and names:
        err.print(f"no plan is made from the data, since there is {names}; --plan auto makes one around that")
        return None
    if how == "none" or not fits:
        return None
    import_keras()
    found = plan(dataset, **given)
    for line in found.why:
        err.print(f"plan: {line}")
    return found
