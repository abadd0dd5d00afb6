"""`voxgap evaluate`: what the answers of a bundle are worth."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxgap.cli.console import err, out, say_notes, table
from voxgap.cli.data import At, Axes, Mechanism, MissingRate, Pattern, Seed, Split, fetched, grid_arguments
from voxgap.cli.fill import progress, say, tell
from voxgap.cli.predict import BundlePath, Engine, Precision, Threads, Threshold, open_bundle
from voxgap.errors import VoxgapError
from voxgap.files import check_new, finite

if TYPE_CHECKING:
    from rich.console import Console

    from voxgap.decision import Decision
    from voxgap.metrics import Scored


def evaluate(
    bundle: BundlePath,
    data: Annotated[
        str,
        typer.Argument(
            help="Manifest (CSV, Parquet), .npz, folder per class, sample:NAME or medmnist:NAME.",
            metavar="DATA",
        ),
    ],
    split: Split = None,
    threshold: Threshold = None,
    pattern: Pattern = None,
    missing_rate: MissingRate = 0.5,
    mechanism: Mechanism = "mcar",
    seed: Seed = 0,
    axes: Axes = None,
    at: At = None,
    precision: Precision = "float32",
    engine: Engine = "auto",
    threads: Threads = None,
    cases: Annotated[
        Path | None,
        typer.Option(
            help="Of label maps: a CSV file with a row for each case, the worst first: `split` (train, "
            "validation, test, or new to the bundle), Dice, Hausdorff 95, surface "
            "Dice at 1 mm, lesion-wise F1 and volumes in ml, class by class. Beside it a picture, .png, shows where "
            "the worst differ."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the table in --cases and its picture.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score a bundle on labelled data, read and resampled as its training data was.

    Classes are named as predict names them. Each score comes with its 95 % interval: bootstrap, by groups where the
    data has some. Volumes that the network knows from its training are found by their content.

    [bold]Examples[/]

      voxgap evaluate runs/brain sample:brain --pattern slices --missing-rate 0.5

      voxgap evaluate runs/patients new_patients.csv --threshold 0.3 --json

      voxgap evaluate runs/tissue data.csv --cases cases.csv
    """
    import voxgap
    from voxgap import table
    from voxgap.runtime import Bundle

    if cases is not None and cases.suffix.lower() != ".csv":
        raise VoxgapError(f"--cases {cases}: the table is CSV; name it {cases.with_suffix('.csv')}")
    picture = cases.with_suffix(".png") if cases is not None else None
    check_new([one for one in (cases, picture) if one is not None], overwrite)
    said = grid_arguments(axes=axes, at=at)
    if Bundle.open(bundle).manifest.task == "fill":
        if pattern or split:
            raise VoxgapError(
                f"{bundle} fills: what is hidden has the shapes of the data's own gaps; leave out "
                f"--{'pattern' if pattern else 'split'}"
            )
        reading: dict[str, Any] = {name: said[name] for name in ("axes", "at")}
        reading |= {"say": say, "progress": progress}
        checked = voxgap.check_fills(fetched(data), str(bundle), fills=("kriging",), **reading)
        tell(checked, None, as_json)
        return
    predictor = open_bundle(bundle, precision, engine, threads, threshold)
    found = voxgap.evaluate(
        predictor,
        fetched(data),
        split,
        pattern=pattern,
        missing_rate=missing_rate,
        mechanism=mechanism,
        seed=seed,
        axes=said["axes"],
        at=said["at"],
        cases=cases is not None,
    )
    if cases is not None and picture is not None:
        from voxgap.files import write_bytes
        from voxgap.pictures import differences, png

        drawn = png(differences(found.worst, spacing=found.spacing))  # before either is there
        table.write(cases, list(found.cases[0]), [_blank_where_none(row) for row in found.cases])
        write_bytes(picture, drawn)
        err.print(f"{len(found.cases)} cases, the worst first: {cases}; where those differ: {picture}")
    say_notes(found.notes)
    if as_json:
        out.print_json(json.dumps(finite(found.to_json()), allow_nan=False))
        return
    print_scores({found.split: found.scored}, predictor.classes)
    say_decision(found.decision, predictor.task, predictor.classes)


def _blank_where_none(row: dict[str, Any]) -> dict[str, Any]:
    """Write numbers short, and leave a score that a case does not have blank."""
    return {
        name: (None if value != value else f"{value:.6g}") if isinstance(value, float) else value
        for name, value in row.items()
    }


def print_scores(scores: dict[str, Scored], classes: tuple[str, ...], console: Console = out) -> None:
    """Print metrics with their 95 % intervals, a row each, and a column for each split; classes by their names."""
    from rich.markup import escape

    from voxgap.metrics import without_interval
    from voxgap.names import metric_words

    shown = table("metric", *(f">{split} ({found.words})" for split, found in scores.items()))
    for name in next(iter(scores.values())).scores if scores else ():
        # What can't be had from these data, such as the score on missing voxels where none are, has no row.
        if not all(math.isnan(found.scores[name]) for found in scores.values()):
            shown.add_row(
                escape(metric_words(name, classes)), *(found.cell(name) for found in scores.values())
            )
    console.print(shown)
    for split, found in scores.items():
        for why in without_interval(found.reasons, classes):
            console.print(f"{split}: {why}", style="dim")


def say_decision(decision: Decision, task: str, classes: tuple[str, ...]) -> None:
    """Print by what classes are named, where there are some."""
    if task != "regression":
        out.print(decision.words(classes))
