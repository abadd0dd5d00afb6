"""`voxgap guarantee`: calibrate what a bundle guarantees for each pattern of gaps."""

from __future__ import annotations

from typing import Annotated

import typer

from voxgap.cli.console import out, say_notes, table
from voxgap.cli.data import At, Axes, Mechanism, MissingRate, Pattern, Seed, Split, fetched, grid_arguments
from voxgap.cli.predict import BundlePath, Engine, Threads, open_bundle
from voxgap.doubts import gathered
from voxgap.names import COVERAGE


def guarantee(
    bundle: BundlePath,
    data: Annotated[
        str,
        typer.Argument(
            help="Labelled data that is new to the network: as for voxgap evaluate.", metavar="DATA"
        ),
    ],
    coverage: Annotated[
        float,
        typer.Option(
            help="Share of scans, of each pattern of gaps, for which answers are to hold; from 0.5 on."
        ),
    ] = COVERAGE,
    split: Split = None,
    pattern: Pattern = None,
    missing_rate: MissingRate = 0.5,
    mechanism: Mechanism = "mcar",
    seed: Seed = 0,
    axes: Axes = None,
    at: At = None,
    engine: Engine = "auto",
    threads: Threads = None,
) -> None:
    """Calibrate what a bundle guarantees of its answers, for each pattern of gaps by itself.

    From then on predict, the server and the page say for each scan a set of classes, an interval or a region that
    holds for the share of such scans that was asked for. What the network was trained or chosen on is left out.

    [bold]Examples[/]

      voxgap guarantee runs/patients new_patients.csv --coverage 0.95

      voxgap guarantee runs/motion sample:motion --pattern frames --missing-rate 0.5
    """
    import voxgap

    said = grid_arguments(axes=axes, at=at)
    predictor = open_bundle(bundle, "float32", engine, threads)
    with gathered():
        found = voxgap.guarantee(
            predictor,
            fetched(data),
            coverage,
            split,
            pattern=pattern,
            missing_rate=missing_rate,
            mechanism=mechanism,
            seed=seed,
            axes=said["axes"],
            at=said["at"],
        )
    say_notes(found.notes)
    print_claims(found.rows())
    out.print(found.guarantee.words())


def print_claims(rows: list[list[str]]) -> None:
    """Print what is guaranteed for each pattern of gaps, a row each."""
    from rich.markup import escape

    shown = table("pattern of gaps", ">scans", "claim", ">rests on")
    for row in rows:
        shown.add_row(*map(escape, row))
    out.print(shown)
