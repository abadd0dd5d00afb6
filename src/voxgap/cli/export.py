"""`voxgap export`, and the option of `voxgap train` that checks before and exports after."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxgap.cli.console import err, out, table

if TYPE_CHECKING:
    from voxgap.dataset import Dataset
    from voxgap.recipe import Recipe

_STEPS = {"converting": 0.0, "proving": 0.7, "locating": 0.9, "done": 1.0}


def export(
    bundle: Annotated[Path, typer.Argument(help="Folder made by voxgap train.", metavar="BUNDLE")],
    to: Annotated[
        str,
        typer.Option(
            help="keras, h5, savedmodel, pt2, onnx, openvino, litert; or web, container, edge: folders to deploy."
        ),
    ],
    precision: Annotated[
        str,
        typer.Option(
            help="Of the weights: float32; float16 (onnx, openvino, litert); int8 (onnx, openvino)."
        ),
    ] = "float32",
    out_folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder of web, container or edge, one of them; BUNDLE-web and so on without it. Model files, such as "
            "onnx, always enter BUNDLE itself, where load and serve find them.",
        ),
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Accept so large a difference; 1e-5 for float32 without it.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Labelled DATA: measures what float16 or int8 costs, and finds the scales of int8."
        ),
    ] = None,
) -> None:
    """Export a bundle to other formats, each proven to answer as the trained model does.

    A format whose answers differ from the model's is refused, and the layer where they part is named. Each path that
    was written is printed.

    [bold]Examples[/]

      voxgap export runs/brain --to onnx,openvino,litert

      voxgap export runs/brain --to web --out site

      voxgap export runs/brain --to openvino --precision int8 --data scans.csv
    """
    from voxgap.cli.data import load
    from voxgap.runtime import Bundle

    dataset = None if data is None else load(data, **asdict(Bundle.open(bundle).manifest.input.grid))
    export_bundle(bundle, to, precision=precision, out=out_folder, data=dataset, tolerance=tolerance)


def export_bundle(bundle: Path, to: str, **options: Any) -> None:
    """Export a bundle, with a live bar, and print what was found."""
    from voxgap.bundle import export as run

    names = to.split(",")
    with export_progress(len(names)) as report:
        entries = run(bundle, names, report=report, **options)
    print_entries(bundle, entries)


def check_export(
    to: str,
    recipe: Recipe,
    dataset: Dataset,
) -> None:
    """Try an export before anything is trained."""
    from voxgap.bundle import check_exportable

    names = to.split(",")
    with export_progress(len(names)) as report:
        check_exportable(
            recipe.strategy,
            recipe.network,
            names,
            data=dataset,
            patch_size=recipe.training.patch_size,
            report=report,
            **recipe.architecture.arguments(),
        )


@contextlib.contextmanager
def export_progress(formats: int) -> Iterator[Callable[[str, str], None]]:
    """Show an export: a live bar on a terminal, nothing elsewhere."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("starting", total=formats)
        done: set[str] = set()

        def report(kind: str, step: str) -> None:
            done.update({kind} if step == "done" else ())
            completed = len(done - {kind}) + _STEPS[step]
            bar.update(task, completed=completed, total=max(formats, len(done)), description=f"{step} {kind}")

        yield report


def print_entries(bundle: Path, entries: dict[str, dict[str, Any]]) -> None:
    """Print what was exported: sizes and proofs, then where the folders are."""
    from voxgap.runtime import Bundle

    files = {kind: entry for kind, entry in entries.items() if "parts" in entry}
    if files:
        shown = table("format", "weights", ">MB", ">largest difference", ">tolerance", ">same class")
        for kind, entry in files.items():
            proof = entry["parity"]
            same = proof["class_agreement"]
            size = sum(part["bytes"] for part in entry["parts"]) / 1e6
            shown.add_row(
                kind,
                entry["precision"],
                f"{size:.2f}",
                f"{proof['max_difference']:.1e}",
                f"{proof['tolerance']:g}",
                "" if same is None else f"{same:.1%}",
            )
        out.print(shown)
    for kind, entry in files.items():
        for name, scores in entry.get("scores", {}).items():
            if isinstance(scores, dict):
                said = "  ".join(f"{metric} {value:.4f}" for metric, value in scores.items())
                out.print(f"{kind} {name}: {said}")
        for path in _written(entry):
            out.print(f"{kind}: {bundle / path}  (in the bundle)")
    for kind, entry in entries.items():
        if "parts" not in entry:
            out.print(f"{kind}: {entry['path']}")
            if kind == "web":
                out.print(
                    "  its samples are two of your validation volumes; delete the folder samples if nobody else may "
                    "have them"
                )
            if kind != "container" and Bundle.open(bundle).manifest.input.patches:
                out.print("  it takes single patches: unlike voxgap.load, it cuts no volume")


def _written(entry: dict[str, Any]) -> list[str]:
    """Return the files of a format, and its folder instead of those in it."""
    return list(dict.fromkeys([entry["path"], *(part["path"].split("/")[0] for part in entry["parts"])]))
