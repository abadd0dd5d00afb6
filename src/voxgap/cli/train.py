"""`voxgap train`, `voxgap evaluate` and `voxgap predict`."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxgap.cli.console import err, import_keras, numbers, one_or_three, out, training_progress
from voxgap.cli.data import Crop, MissingValues, Size, Spacing, grid_arguments, load
from voxgap.errors import VoxgapError

if TYPE_CHECKING:
    from voxgap.dataset import Dataset

Data = Annotated[
    str,
    typer.Argument(
        help="Manifest (CSV, Parquet), .npz, folder per class, sample:NAME or medmnist:NAME.", metavar="DATA"
    ),
]
Bundle = Annotated[Path, typer.Argument(help="Folder made by voxgap train.", metavar="BUNDLE")]
Pattern = Annotated[
    str | None,
    typer.Option(help="Simulate gaps: voxels, slices, frames, blocks or channels.", rich_help_panel="Gaps"),
]
MissingRate = Annotated[float, typer.Option(help="Share of units that go missing.", rich_help_panel="Gaps")]
Mechanism = Annotated[str, typer.Option(help="mcar, mar or mnar (Rubin).", rich_help_panel="Gaps")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]


def train(
    data: Data,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for the bundle.")],
    model: Annotated[str, typer.Option(help="cnn3d, resnet3d, resnet2d or resnet2plus1d.")] = "resnet3d",
    strategy: Annotated[str, typer.Option(help="How gaps are handled; see docs/missing-data.md.")] = "mean",
    epochs: Annotated[int, typer.Option(help="At most so many.")] = 100,
    batch_size: Annotated[int, typer.Option(help="Volumes a training step.")] = 16,
    learning_rate: Annotated[float, typer.Option(help="At the start.")] = 1e-3,
    optimizer: Annotated[str, typer.Option(help="Keras name: adam, adamw, sgd, rmsprop ...")] = "adam",
    loss: Annotated[str | None, typer.Option(help="Keras name; by default chosen by task.")] = None,
    class_weight: Annotated[str, typer.Option(help="none or balanced.")] = "none",
    patience: Annotated[int, typer.Option(help="Epochs without improvement before stopping.")] = 10,
    min_delta: Annotated[float, typer.Option(help="What counts as an improvement.")] = 0.0,
    lr_patience: Annotated[
        int | None, typer.Option(help="Epochs without improvement before halving the learning rate.")
    ] = None,
    monitor: Annotated[str, typer.Option(help="val_loss, val_accuracy or val_mae.")] = "val_loss",
    precision: Annotated[str, typer.Option(help="Of training: auto, float32 or bfloat16.")] = "auto",
    seed: Seed = 0,
    augment: Annotated[
        str,
        typer.Option(
            help="none, default, strong, or a list such as flip,rotate:10; see docs/augmentation.md.",
            rich_help_panel="Augmentation",
        ),
    ] = "none",
    augment_kind: Annotated[
        str,
        typer.Option(
            help="What default and strong are for: scan, video, grid.", rich_help_panel="Augmentation"
        ),
    ] = "scan",
    overwrite: Annotated[bool, typer.Option(help="Replace the bundle in --out.")] = False,
    filters: Annotated[str, typer.Option(help="Per stage.", rich_help_panel="Network")] = "32,64,128",
    kernel_size: Annotated[str, typer.Option(help="One or three numbers.", rich_help_panel="Network")] = "3",
    strides: Annotated[str, typer.Option(help="Between stages.", rich_help_panel="Network")] = "2",
    padding: Annotated[str, typer.Option(help="same or valid.", rich_help_panel="Network")] = "same",
    activation: Annotated[str, typer.Option(help="Keras name.", rich_help_panel="Network")] = "relu",
    dropout: Annotated[float, typer.Option(help="Before the output.", rich_help_panel="Network")] = 0.0,
    mask_channel: Annotated[
        bool | None,
        typer.Option(help="Override the strategy: feed what is observed.", rich_help_panel="Strategy"),
    ] = None,
    conv: Annotated[
        str | None, typer.Option(help="Override: plain, masked or gated.", rich_help_panel="Strategy")
    ] = None,
    gap_dropout: Annotated[
        float | None, typer.Option(help="Override: further gaps while training.", rich_help_panel="Strategy")
    ] = None,
    attention: Annotated[bool | None, typer.Option(help="Override.", rich_help_panel="Strategy")] = None,
    size: Size = None,
    spacing: Spacing = None,
    crop: Crop = None,
    missing_values: MissingValues = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Keep decoded volumes in this folder, for the next time.", rich_help_panel="Volumes"
        ),
    ] = None,
    pattern: Pattern = None,
    missing_rate: MissingRate = 0.5,
    mechanism: Mechanism = "mcar",
) -> None:
    """Train a network on volumes with gaps and save it as a bundle.

    Stops early, keeps the best weights, and goes on where it was if it is killed and started again.

    [bold]Examples[/]

      voxgap train patients.csv --model resnet3d --strategy masked_conv --out runs/patients

      voxgap train scans.csv --size 32,32,32 --missing-values -3024 --out runs/scans

      voxgap train sample:brain --pattern slices --missing-rate 0.5 --strategy linear --out runs/brain

      voxgap train scans.csv --augment default --cache ~/.cache/voxgap --out runs/scans

      voxgap train data.npz --strategy knn --mask-channel --conv gated --filters 16,32 --out runs/mine
    """
    from voxgap.bundle import check_free, save_bundle  # runtime only: no Keras yet

    check_free(out_folder, overwrite)
    if class_weight not in ("none", "balanced"):
        raise VoxgapError(f"--class-weight must be none or balanced, got {class_weight!r}")
    grid = grid_arguments(size, spacing, crop, missing_values)
    dataset = load_with_gaps(data, pattern, missing_rate, mechanism, seed, cache=cache, **grid)
    architecture = {
        "filters": numbers(filters, "--filters"),
        "kernel_size": one_or_three(kernel_size, "--kernel-size"),
        "strides": one_or_three(strides, "--strides"),
        "padding": padding,
        "activation": activation,
        "dropout": dropout,
    }
    training = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "optimizer": optimizer,
        "loss": loss,
        "class_weight": None if class_weight == "none" else class_weight,
        "patience": patience,
        "min_delta": min_delta,
        "lr_patience": lr_patience,
        "monitor": monitor,
        "augment": augment,
        "augment_kind": augment_kind,
        "precision": precision,
    }
    err.print(dataset.summary(), soft_wrap=True)
    import_keras()
    from voxgap import strategies
    from voxgap.experiment import train_and_score

    overrides: dict[str, Any] = {
        "mask_channel": mask_channel,
        "conv": conv,
        "gap_dropout": gap_dropout,
        "attention": attention,
    }
    given = {name: value for name, value in overrides.items() if value is not None}
    chosen = dataclasses.replace(strategies.get(strategy), **given)
    with training_progress(f"{model} {strategy}") as progress:
        live = {"progress": progress, "checkpoint": out_folder / "checkpoint"}
        result = train_and_score(
            dataset, model, chosen, architecture=architecture, training=training | live, seed=seed
        )
    gaps = {"pattern": pattern, "missing_rate": missing_rate, "mechanism": mechanism} if pattern else None
    arguments = {"architecture": architecture, "training": training, "simulated_gaps": gaps, "seed": seed}
    save_bundle(
        out_folder,
        result.model,
        dataset,
        strategy=chosen,
        arguments=arguments,
        history=result.history,
        scores=result.scores,
    )
    out.print(result.history.summary(), soft_wrap=True)
    print_scores(result.scores)
    out.print(f"bundle: {out_folder}   curves: {out_folder / 'history.png'}", soft_wrap=True)


def evaluate(
    bundle: Bundle,
    data: Data,
    split: Annotated[str, typer.Option(help="train, validation, test or all.")] = "test",
    pattern: Pattern = None,
    missing_rate: MissingRate = 0.5,
    mechanism: Mechanism = "mcar",
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score a bundle on labelled data, read and resampled as its training data was.

    [bold]Examples[/]

      voxgap evaluate runs/brain sample:brain --pattern slices --missing-rate 0.5

      voxgap evaluate runs/patients new_patients.csv --split all --json
    """
    from voxgap import evaluate as metrics
    from voxgap.grid import Grid
    from voxgap.runtime import load as load_bundle
    from voxgap.runtime import read_manifest

    manifest = read_manifest(bundle)
    grid = dataclasses.asdict(Grid.from_json(manifest["input"].get("grid"), "input.grid"))
    dataset = load_with_gaps(data, pattern, missing_rate, mechanism, seed, **grid)
    part = dataset if split == "all" else dataset.part(split)
    if not len(part):
        raise VoxgapError(f"{data}: no {split} volumes; choose another --split, or all")
    if dataset.task != manifest["task"]:
        raise VoxgapError(f"{data}: the data is for {dataset.task}, the bundle for {manifest['task']}")
    if dataset.task == "classification" and list(dataset.classes) != manifest["classes"]:
        raise VoxgapError(
            f"{data}: classes {', '.join(dataset.classes)} are not the bundle's: {', '.join(manifest['classes'])}"
        )
    import_keras()
    scores = {split: metrics.scores(dataset.task, part.targets, load_bundle(bundle).predict(part.volumes))}
    if as_json:
        out.print_json(json.dumps(scores))
    else:
        print_scores(scores)


def predict(
    bundle: Bundle,
    files: Annotated[
        list[Path], typer.Argument(help="Files, or folders of DICOM and Zarr.", metavar="FILE...")
    ],
    out_file: Annotated[
        Path | None, typer.Option("--out", help="CSV file; standard output without it.")
    ] = None,
) -> None:
    """Predict volumes with a bundle: read and resampled as its training data was, NaN is missing.

    [bold]Examples[/]

      voxgap predict runs/patients scan1.nii.gz scan2.nii.gz --out preds.csv
    """
    from rich.progress import track

    from voxgap.runtime import load as load_bundle

    import_keras()
    predictor = load_bundle(bundle)
    rows: list[dict[str, Any]] = []
    for path in track(files, "predicting", console=err, transient=True, disable=len(files) < 2):
        volume, _ = predictor.read(path)
        answer = predictor.predict(volume)[0]
        row: dict[str, Any] = {"path": str(path)}
        if predictor.classes:
            row["class"] = predictor.classes[int(answer.argmax())]
            row |= {f"p_{c}": f"{p:.6g}" for c, p in zip(predictor.classes, answer, strict=True)}
        else:
            row |= {"value" if len(answer) == 1 else f"value_{i}": f"{v:.6g}" for i, v in enumerate(answer)}
        rows.append(row | {"missing_rate": f"{volume.missing_rate:.4f}"})
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    if out_file is None:
        sys.stdout.write(text.getvalue())
        return
    from voxgap.files import write_bytes

    write_bytes(out_file, text.getvalue().encode())
    err.print(f"{len(rows)} predictions: {out_file}")


def load_with_gaps(
    data: str, pattern: str | None, missing_rate: float, mechanism: str, seed: int, **reading: Any
) -> Dataset:
    """Read DATA onto a grid and, where a pattern is given, simulate gaps in it; native gaps stay."""
    from voxgap.missingness import simulate

    dataset = load(data, **reading)
    if pattern is None:
        return dataset
    gaps = simulate(
        dataset.volumes, pattern=pattern, missing_rate=missing_rate, mechanism=mechanism, seed=seed
    )
    return dataset.with_volumes(gaps)


def print_scores(scores: dict[str, dict[str, float]]) -> None:
    """Print metrics, one row a split."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("split")
    names = list(next(iter(scores.values()), {}))
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for split, values in scores.items():
        table.add_row(split, *(f"{values[name]:.4f}" for name in names))
    out.print(table)
