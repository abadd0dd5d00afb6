"""`voxgap certify`: what a bundle is worth for every subset of channels and every kind of gap."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from voxgap.cli.console import decimals, out, say_notes
from voxgap.cli.data import At, Axes, Seed, Split, fetched, grid_arguments
from voxgap.cli.fill import progress
from voxgap.cli.predict import BundlePath, Engine, Precision, Threads, Threshold, open_bundle
from voxgap.doubts import gathered
from voxgap.files import finite
from voxgap.names import CERTIFIED_PATTERNS, CERTIFIED_RATES


def certify(
    bundle: BundlePath,
    data: Annotated[str, typer.Argument(help="Labelled data, as for voxgap evaluate.", metavar="DATA")],
    split: Split = None,
    metric: Annotated[
        str | None, typer.Option(help="That is shown; by default accuracy, mae or dice, by the task.")
    ] = None,
    subsets: Annotated[
        str | None,
        typer.Option(
            help="Channels that are there: all, seen (those that occur), or given ones, as in flair+t1,t2; the page "
            "comes into evidence/subsets, and the bundle's certificate stays.",
            show_default="all of up to 4 channels; of more those seen, and each missing alone",
        ),
    ] = None,
    patterns: Annotated[
        str, typer.Option(help="Of gaps that are made: slices, frames, blocks, voxels, channels; or none.")
    ] = ",".join(CERTIFIED_PATTERNS),
    rates: Annotated[str, typer.Option(help="Shares of them that go missing.")] = ",".join(
        map(str, CERTIFIED_RATES)
    ),
    threshold: Threshold = None,
    out_folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder for page, table and JSON; the bundle's certificate stays.",
            show_default="the bundle's folder evidence, and the manifest has the numbers",
        ),
    ] = None,
    seed: Seed = 0,
    axes: Axes = None,
    at: At = None,
    precision: Precision = "float32",
    engine: Engine = "auto",
    threads: Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Certify a bundle: its score for every subset of channels and for gaps of several kinds, on the same scans.

    Names the worst, says what the next channel is worth, and how much of the score comes from what is missing alone.
    Writes a page, a table and JSON, and keeps the numbers in the manifest, as long as --out and --subsets are left out.

    [bold]Examples[/]

      voxgap certify runs/patients patients.csv

      voxgap certify runs/patients patients.csv --subsets flair+t1,t2 --patterns none

      voxgap certify runs/brain sample:brain --patterns slices --rates 0.1,0.5,0.9
    """
    import voxgap

    said = grid_arguments(axes=axes, at=at)
    made = [] if patterns == "none" else [name.strip() for name in patterns.split(",")]
    wanted = decimals(rates, "--rates")
    predictor = open_bundle(bundle, precision, engine, threads, threshold)
    with gathered():
        found = voxgap.certify(
            predictor,
            fetched(data),
            split,
            metric=metric,
            subsets=_subsets(subsets),
            patterns=made,
            rates=wanted,
            out=out_folder,
            seed=seed,
            axes=said["axes"],
            at=said["at"],
            progress=progress,
        )
    say_notes(found.notes)
    if as_json:
        out.print_json(json.dumps(finite(found.to_json()), allow_nan=False))
        return
    out.print(Text(str(dataclasses.replace(found, notes=()))))
    out.print(f"page: {found.page}")


def _subsets(given: str | None) -> str | list[list[str]] | None:
    """Return what `--subsets flair+t1,t2` names."""
    if given is None or given in ("all", "seen"):
        return given
    return [[name.strip() for name in subset.split("+")] for subset in given.split(",")]
