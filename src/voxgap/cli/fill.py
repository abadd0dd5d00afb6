"""`voxgap fill`: write the data with its gaps filled, in its own formats, observed voxels as they were."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxgap.cli.console import err, out
from voxgap.cli.data import At, Axes, MissingSlices, MissingValues, grid_arguments
from voxgap.errors import VoxgapError
from voxgap.files import finite, write_bytes
from voxgap.filling import FILLS, FIT_ON, SEEDS, STRATEGY, refuse_unfinished

if TYPE_CHECKING:
    from voxgap.filling.check import Check


def fill(
    data: Annotated[
        str,
        typer.Argument(
            help="Manifest (CSV, Parquet), .npz, folder per class, sample:NAME, medmnist:NAME, or one volume.",
            metavar="DATA",
        ),
    ],
    filled: Annotated[
        str | None,
        typer.Argument(
            help="With a bundle of voxgap train --task fill for DATA: what it fills.",
            metavar="[DATA]",
            show_default=False,
        ),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder for the filled files; not needed with --check.")
    ] = None,
    strategy: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(FILLS.data)}; one for each channel: temperature=kriging,mask=zero; or a bundle of voxgap "
            "train --task fill."
        ),
    ] = STRATEGY,
    option: Annotated[
        list[str] | None,
        typer.Option(
            help="name=value for that fill, such as n_neighbors=3, axis=time, as the file calls its axes, or "
            "max_gap=12mm. Of a channel's own fill: temperature.axis=time."
        ),
    ] = None,
    fit_on: Annotated[
        str,
        typer.Option(help="What statistics are learnt from: train (all, where there is no split) or all."),
    ] = FIT_ON,
    mask: Annotated[
        str | None,
        typer.Option(
            help="Variable of the file that says where land and sea are, or VARIABLE=VALUE,... for where to fill. "
            "By default found by its flag_meanings, standard_name or name."
        ),
    ] = None,
    everywhere: Annotated[
        bool,
        typer.Option("--everywhere", help="Fill what no time step and no volume observes, too: land, say."),
    ] = False,
    evidence: Annotated[
        bool | None,
        typer.Option(
            "--evidence/--no-evidence",
            help="Write how sure each value is, where it comes from, and a picture: in a NetCDF file, else beside.",
            show_default="with one volume",
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Hide observed voxels as gaps would, and say how near each fill comes; fill nothing.",
        ),
    ] = False,
    seeds: Annotated[int, typer.Option(help="With --check: how many draws of what is hidden.")] = SEEDS,
    as_json: Annotated[bool, typer.Option("--json", help="With --check: print JSON.")] = False,
    missing_values: MissingValues = None,
    missing_slices: MissingSlices = None,
    axes: Axes = None,
    at: At = None,
    overwrite: Annotated[bool, typer.Option(help="Replace filled files that are there already.")] = False,
) -> None:
    """Fill the gaps and write files of the same names, formats and geometry; observed voxels stay as they are.

    What no time step of a file, or no volume of the data, ever observes stays missing: land, at sea.

    Of one file, mean, median, mode, knn and matrix_factorization learn from its time steps.

    Files that are there already are skipped: a job that was stopped goes on.

    Training doesn't need this: a model fills gaps itself, with statistics of its training part.

    Examples:

      voxgap fill patients.csv --strategy knn --option n_neighbors=3 --out filled

      voxgap fill sea.nc --strategy linear --option axis=time --mask landmask --out filled

      voxgap fill sea.nc --check

      voxgap fill runs/sea new_sea.nc --out filled
    """
    import voxgap

    if filled is not None:
        if strategy != STRATEGY:
            raise VoxgapError(f"{data} and --strategy {strategy} both say how to fill: give one of them")
        data, strategy = filled, data

    refuse_unfinished(strategy)  # before Keras comes
    said = grid_arguments(missing_values=missing_values, axes=axes, at=at, missing_slices=missing_slices)
    how: dict[str, Any] = {
        "options": _options(option or []),
        "fit_on": fit_on,
        "mask": mask,
        "everywhere": everywhere,
        "say": say,
        "progress": progress,
        **{name: said[name] for name in ("missing_values", "axes", "at", "missing_slices")},
    }
    if check:
        tell(voxgap.check_fills(data, strategy, seeds=seeds, out=folder, **how), folder, as_json)
        return
    if folder is None:
        raise VoxgapError("--out names the folder for the filled files: give one, or --check to fill nothing")
    done = voxgap.fill_files(data, folder, strategy, overwrite=overwrite, evidence=evidence, **how)
    out.print(done)


def tell(found: Check, folder: Path | None, as_json: bool) -> None:
    """Print what a check found, and keep it in a folder where there is one."""
    if folder is not None:
        write_bytes(folder / "check.json", json.dumps(finite(found.to_json()), indent=2).encode())
    if as_json:
        out.print_json(json.dumps(finite(found.to_json()), allow_nan=False))
        return
    out.print(str(found))


def _options(texts: Sequence[str]) -> dict[str, Any]:
    """Parse name=value, or channel.name=value; a value is a number, true or false if it looks like one."""
    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise VoxgapError(f"--option {text!r}: give name=value, such as n_neighbors=3")
        channel, _, name = name.rpartition(".")
        own = options.setdefault(channel, {}) if channel else options
        own[name] = {"true": True, "false": False}.get(value.lower(), value)
        for number in (float, int):
            try:
                own[name] = number(value)
            except ValueError:
                continue
    return options


def say(line: str) -> None:
    """Print a line that a user should read."""
    err.print(line)


def progress(items: Sequence[Any], title: str) -> Iterable[Any]:
    """Go through things behind a bar."""
    from rich.progress import track

    return track(items, title, console=err, transient=True, disable=len(items) < 2 or not err.is_terminal)
