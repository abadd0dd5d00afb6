"""`voxgap evaluate`: what the answers of a bundle are worth."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxgap.cli.console import out
from voxgap.cli.data import At, Axes, grid_arguments
from voxgap.cli.predict import Bundle, Engine, Precision, Threads, open_bundle
from voxgap.errors import VoxgapError

if TYPE_CHECKING:
    from voxgap.dataset import Dataset


def evaluate(
    bundle: Bundle,
    data: Annotated[
        str,
        typer.Argument(
            help="Manifest (CSV, Parquet), .npz, folder per class, sample:NAME or medmnist:NAME.",
            metavar="DATA",
        ),
    ],
    split: Annotated[str, typer.Option(help="train, validation, test or all.")] = "test",
    pattern: Annotated[
        str | None,
        typer.Option(
            help="Simulate gaps: voxels, slices, frames, blocks or channels.", rich_help_panel="Gaps"
        ),
    ] = None,
    missing_rate: Annotated[
        float, typer.Option(help="Share of units that go missing.", rich_help_panel="Gaps")
    ] = 0.5,
    mechanism: Annotated[
        str, typer.Option(help="mcar, mar or mnar (Rubin).", rich_help_panel="Gaps")
    ] = "mcar",
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    axes: Axes = None,
    at: At = None,
    precision: Precision = "float32",
    engine: Engine = "auto",
    threads: Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score a bundle on labelled data, read and resampled as its training data was.

    [bold]Examples[/]

      voxgap evaluate runs/brain sample:brain --pattern slices --missing-rate 0.5

      voxgap evaluate runs/patients new_patients.csv --split all --json
    """
    import numpy as np

    from voxgap import evaluate as metrics
    from voxgap.cli.train import load_with_gaps, print_scores
    from voxgap.grid import Grid
    from voxgap.runtime import read_manifest

    manifest = read_manifest(bundle)
    said = grid_arguments(None, None, None, None, None, axes, at)
    trained = Grid.from_json(manifest["input"].get("grid"), "input.grid")
    grid = dataclasses.asdict(trained.told(said["axes"], said["at"]))
    task = "segmentation" if manifest["task"] == "segmentation" else None
    dataset = load_with_gaps(data, pattern, missing_rate, mechanism, seed, task=task, **grid)
    part = dataset if split == "all" else dataset.part(split)
    if not len(part):
        raise VoxgapError(f"{data}: no {split} volumes; choose another --split, or all")
    if dataset.task != manifest["task"]:
        raise VoxgapError(f"{data}: the data is for {dataset.task}, the bundle for {manifest['task']}")
    targets = part.targets if dataset.task == "regression" else _as_classes(data, part, manifest["classes"])
    predictor = open_bundle(bundle, precision, engine, threads)
    shown = ~np.isnan(part.volumes) if task else None
    answers = predictor.predict(part.volumes)
    scores = {split: metrics.scores(dataset.task, targets, answers, observed=shown)}
    if as_json:
        out.print_json(json.dumps(scores))
    else:
        print_scores(scores)


def _as_classes(data: str, part: Dataset, classes: Sequence[str]) -> Any:
    from voxgap.dataset.targets import as_classes

    targets = as_classes(part.targets, part.classes, classes)
    if targets is None:
        raise VoxgapError(
            f"{data}: classes {', '.join(part.classes)} are not the bundle's: {', '.join(classes)}"
        )
    return targets
