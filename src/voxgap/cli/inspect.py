"""`voxgap inspect`: what is there, what is missing, which pattern it looks like, and what it depends on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voxgap.cli.console import err, out
from voxgap.cli.data import (
    At,
    Axes,
    Crop,
    MissingSlices,
    MissingValues,
    Reference,
    Size,
    Spacing,
    fetched,
    grid_arguments,
)

if TYPE_CHECKING:
    from voxgap.inspection import Inspection

MAX_TESTS = 8


def inspect(
    data: Annotated[
        str,
        typer.Argument(
            help="Manifest (CSV, Parquet), .npz, folder per class, sample:NAME, medmnist:NAME, or one volume.",
            metavar="DATA",
        ),
    ],
    page: Annotated[
        Path | None,
        typer.Option("--out", help="Write a page with pictures: FILE.html, or a folder for inspect.html."),
    ] = None,
    size: Size = None,
    spacing: Spacing = None,
    crop: Crop = None,
    missing_values: MissingValues = None,
    missing_slices: MissingSlices = None,
    reference: Reference = None,
    axes: Axes = None,
    at: At = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the permutation tests.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")] = False,
) -> None:
    """Show what a data set or one volume holds, what is missing, what that depends on, and what to do.

    Examples:

      voxgap inspect sample:nodules

      voxgap inspect patients.csv --out report.html

      voxgap inspect scan.nii.gz --json
    """
    import voxgap

    grid = grid_arguments(size, spacing, crop, missing_values, reference, axes, at, missing_slices)
    inspection = voxgap.inspect(fetched(data), **grid, seed=seed)
    for note in inspection.notes:
        err.print(note)
    if as_json:
        typer.echo(json.dumps(inspection.to_json()))
    else:
        _print(inspection)
    if page is not None:
        target = page if page.suffix.lower() in (".html", ".htm") else page / "inspect.html"
        inspection.write_page(target)
        err.print(f"page: {target}")


def _print(inspection: Inspection) -> None:
    from rich.text import Text

    from voxgap.missingness.mechanism import NOBODY_KNOWS

    _section(inspection.name, inspection.rows())
    if inspection.found.missing_rate:
        out.print("\n[bold]What does it depend on?[/]", markup=True)
        out.print("\n".join(inspection.depends()))
        if inspection.evidence.tests:
            _print_tests(inspection)
            out.print(f"[dim]{NOBODY_KNOWS}[/]", markup=True)
    out.print()
    _section("What to try", inspection.to_try())
    if command := inspection.command():
        out.print(Text(f"$ {command}", style="dim"))


def _section(title: str, rows: Sequence[tuple[str, str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", title_style="bold", show_header=False, box=None)
    table.add_column(style="cyan", no_wrap=len(rows) > 0 and max(len(name) for name, _ in rows) < 30)
    table.add_column()
    for name, text in rows:
        table.add_row(Text(name), Text(text))
    out.print(table)


def _print_tests(inspection: Inspection) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold")
    for title in inspection.test_header[:2]:
        table.add_column(title)
    for title in inspection.test_header[2:]:
        table.add_column(title, justify="right", no_wrap=True)
    tests = inspection.evidence.tests
    for test, cells in list(zip(tests, inspection.tests(), strict=True))[:MAX_TESTS]:
        table.add_row(*map(Text, cells), style="bold" if test.found else None)
    out.print(table)
    if len(tests) > MAX_TESTS:
        out.print(f"and {len(tests) - MAX_TESTS} more tests with larger p; --json and --out show all")
