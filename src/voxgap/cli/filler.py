"""`voxgap train --task fill`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import typer

from voxgap.cli.console import err, import_keras, numbers, out, saying_what_is_kept
from voxgap.cli.data import grid_arguments
from voxgap.cli.export import export_bundle
from voxgap.cli.fill import progress, say
from voxgap.errors import VoxgapError
from voxgap.filling import is_bundle, refuse_unfinished
from voxgap.recipe import Strategy

OWN = (
    "filters",
    "epochs",
    "learning_rate",
    "patience",
    "seed",
    "pattern",
    "missing_rate",
    "mechanism",
    "overwrite",
)
READING = ("missing_values", "axes", "at")
OTHERS = ("data", "out_folder", "task", "patch_size", "export", "config")


def train_fill(context: typer.Context, data: str, folder: Path) -> None:
    """Train a network that fills, and print how near it comes beside kriging.

    Raises:
        VoxgapError: an option was given that such a training doesn't have.
    """
    import voxgap
    from voxgap import patches
    from voxgap.bundle import STATE
    from voxgap.runtime import MANIFEST

    given = {
        param.name: context.params[param.name]
        for param in context.command.params
        if param.name in context.params and context.params[param.name] != param.default
    }
    names = {param.name: param.opts[0] for param in context.command.params}
    if foreign := sorted(names[name] for name in set(given) - {*OWN, *READING, *OTHERS}):
        raise VoxgapError(f"{foreign[0]} is not for --task fill, which fills files as they are: leave it out")
    how: dict[str, Any] = {name: given[name] for name in OWN if name in given}
    if "filters" in how:
        how["filters"] = numbers(how["filters"], "--filters")
    if "patch_size" in given:
        how["patch_size"] = patches.patch_size(numbers(given["patch_size"], "--patch-size"), "--patch-size")
    said = grid_arguments(**{name: given.get(name) for name in READING})
    import_keras()
    started, state = folder.exists(), folder / STATE / "state.json"
    try:
        with saying_what_is_kept(state):
            scores = voxgap.train_filler(
                data,
                folder,
                **how,
                **{name: said[name] for name in READING},
                say=say,
                progress=progress,
                look=_Looks(),
            )
    finally:
        if not started and not state.exists() and not (folder / MANIFEST).exists():
            shutil.rmtree(folder, ignore_errors=True)
    for name, found in scores.items():
        said_of = "  ".join(f"{metric.replace('_', ' ')} {value:.4g}" for metric, value in found.items())
        out.print(f"{name:<8} {said_of}")
    out.print(f"bundle: {folder}   voxgap fill {folder} FILE --out FOLDER fills with it")
    if given.get("export"):
        export_bundle(folder, given["export"])


def as_strategy(strategy: str) -> tuple[str | Strategy, Any]:
    """Return the strategy of a name, or that of a trained filler, and its layer.

    Raises:
        VoxgapError: a bundle can't be opened, or is for another task.
    """
    if not is_bundle(strategy):
        refuse_unfinished(strategy)
        return strategy, None
    from voxgap.filling.filler import trained_layer

    layer = trained_layer(strategy)
    return Strategy(fill="learned", fill_options={"filters": list(layer.filters), "steps": 0}), layer


class _Looks:
    """Prints a line for each epoch."""

    def __init__(self) -> None:
        self.count = -1

    def __call__(self, look: dict[str, float]) -> None:
        self.count += 1
        said = f"epoch {self.count}" if self.count else "kriging"
        err.print(f"{said}: val_loss {look['val_loss']:.4f}, {look['seconds']:.0f} s")
