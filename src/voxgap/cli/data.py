"""What the commands share in reading DATA: the options that say onto which grid, and a bar for downloads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxgap.cli.console import decimals, err, indices, numbers
from voxgap.names import TEST_SHARE, VALIDATION_SHARE

if TYPE_CHECKING:
    from voxgap.dataset import Dataset
    from voxgap.dataset.download import Report
    from voxgap.intensity import Choice

Pattern = Annotated[
    str | None,
    typer.Option(help="Simulate gaps: voxels, slices, frames, blocks or channels.", rich_help_panel="Gaps"),
]
MissingRate = Annotated[float, typer.Option(help="Share of units that go missing.", rich_help_panel="Gaps")]
Mechanism = Annotated[str, typer.Option(help="mcar, mar or mnar (Rubin).", rich_help_panel="Gaps")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
Split = Annotated[
    str | None,
    typer.Option(
        help="train, validation, test or all; of DATA without a split, the part that the bundle knows by its "
        "content.",
        show_default="test; all where DATA has no split",
    ),
]
ValidationShare = Annotated[
    float | None,
    typer.Option(
        help="Of DATA, or of its training part, to choose the epoch on, where it says no validation part.",
        show_default=str(VALIDATION_SHARE),
    ),
]
TestShare = Annotated[
    float | None,
    typer.Option(
        help="Of DATA to test on, where it has no split; 0: no score on unseen volumes.",
        show_default=str(TEST_SHARE),
    ),
]
PANEL = "Volumes"
Size = Annotated[
    str | None,
    typer.Option(
        help="Resample volumes to DEPTH,HEIGHT,WIDTH voxels; gaps stay gaps.", rich_help_panel=PANEL
    ),
]
Spacing = Annotated[
    str | None,
    typer.Option(
        help="Resample to this size of a voxel: 1,1,1. With --size: cut or pad around the centre.",
        rich_help_panel=PANEL,
    ),
]
Crop = Annotated[
    str | None,
    typer.Option(help="observed: crop to what is observed, before resampling.", rich_help_panel=PANEL),
]
MissingValues = Annotated[
    str | None,
    typer.Option(help="Values that stand for missing in the files: -3024,0.", rich_help_panel=PANEL),
]
MissingSlices = Annotated[
    str | None,
    typer.Option(
        help="Slices that stand for missing: constant (of one value, between slices that vary), duplicated (the one "
        "before once more), or both.",
        rich_help_panel=PANEL,
    ),
]
Normalize = Annotated[
    str,
    typer.Option(
        help="auto, dataset, volume, percentile, window:LOW,HIGH or none: the units that the network sees.",
        rich_help_panel=PANEL,
    ),
]
PatchSize = Annotated[
    str | None,
    typer.Option(
        help="Train on patches of DEPTH,HEIGHT,WIDTH voxels; chosen where volumes differ in shape.",
        rich_help_panel=PANEL,
    ),
]
Reference = Annotated[
    str | None,
    typer.Option(
        help="Of several files a patient: the channel onto whose grid the others are brought.",
        rich_help_panel=PANEL,
    ),
]
Axes = Annotated[
    str | None,
    typer.Option(
        help="Which axes of the files are depth,height,width (and channels), by name or number.",
        rich_help_panel=PANEL,
    ),
]
At = Annotated[
    str | None,
    typer.Option(
        help="One index of each axis that a volume has no place for: lev=0,ens=2.", rich_help_panel=PANEL
    ),
]


def grid_arguments(
    size: str | None = None,
    spacing: str | None = None,
    crop: str | None = None,
    missing_values: str | None = None,
    reference: str | None = None,
    axes: str | None = None,
    at: str | None = None,
    missing_slices: str | None = None,
) -> dict[str, Any]:
    """Parse the options into arguments of `load_data`.

    Raises:
        VoxgapError: one of them can't be understood.
    """
    return {
        "size": None if size is None else numbers(size, "--size"),
        "spacing": None if spacing is None else decimals(spacing, "--spacing"),
        "crop": crop,
        "missing_values": () if missing_values is None else decimals(missing_values, "--missing-values"),
        "reference": reference,
        "axes": () if axes is None else tuple(axis.strip() for axis in axes.split(",")),
        "at": {} if at is None else indices(at, "--at"),
        "missing_slices": (
            () if missing_slices is None else tuple(kind.strip() for kind in missing_slices.split(","))
        ),
    }


def patch_argument(patch_size: str | None) -> tuple[int, int, int] | None:
    """Parse the option of that name.

    Raises:
        VoxgapError: it is no size.
    """
    from voxgap import patches

    if patch_size is None:
        return None
    return patches.patch_size(numbers(patch_size, "--patch-size"), "--patch-size")


def choose_normalization(asked: str, dataset: Dataset, patch: tuple[int, int, int] | None = None) -> str:
    """Return the normalisation to train with, and say why where the training part decided."""
    from voxgap import intensity

    known = dataset.take(intensity.deciding(dataset.split)).volumes
    chosen = intensity.resolve(asked, known, dataset.channels, patch)
    say_values(chosen, known, dataset, asked == "auto")
    if chosen.method == "dataset" and (
        said := intensity.strangers(dataset.volumes, dataset.split, dataset.names or (), dataset.channels)
    ):
        err.print(f"values: {said}")
    return chosen.method


def say_values(chosen: Choice, known: Any, dataset: Dataset, decided: bool) -> None:
    """Say how values are normalised, where the data decided, and what is suspicious about them.

    Args:
        chosen: the normalisation.
        known: volumes that it is chosen by.
        dataset: what they are of.
        decided: whether nobody asked for it.
    """
    from voxgap import intensity
    from voxgap.dataset.survey import as_they_are

    if decided:
        err.print(f"normalize: {chosen.method} ({chosen.why})")
    for said in intensity.suspects(as_they_are(dataset.name, dataset.grid) or known, dataset.channels):
        err.print(f"values: {said}")


def fetched(data: str) -> str:
    """Return DATA; download it first, with a bar, where it has to be."""
    if data.startswith("medmnist:"):
        from voxgap.dataset import medmnist

        with _download_progress(data) as report:
            medmnist.find(data, report)
    return data


def load(data: str, **arguments: Any) -> Dataset:
    """Load DATA as `load_data` does; show the progress where it has to be downloaded first."""
    from voxgap.dataset import load_data

    return load_data(fetched(data), **arguments)


@contextlib.contextmanager
def _download_progress(title: str) -> Iterator[Report]:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(title, total=None, visible=False)
        yield lambda size, total: bar.update(task, completed=size, total=total, visible=True)
