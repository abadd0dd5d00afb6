"""`voxgap inspect`: what is there, what is missing, and which pattern it looks like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxgap.cli.console import out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voxgap.dataset import Dataset
    from voxgap.diagnosis import Description


def inspect(
    data: Annotated[
        str,
        typer.Argument(
            help="CSV manifest, .npz, folder per class, sample:NAME, or one volume file.", metavar="DATA"
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")] = False,
) -> None:
    """Show what a data set or one volume holds, what is missing in it, and which pattern that looks like.

    Examples:

      voxgap inspect sample:nodules

      voxgap inspect scan.nii.gz --json
    """
    from voxgap.dataset import load_data
    from voxgap.diagnosis import describe
    from voxgap.io import read

    if _is_one_volume(data):
        volume = read(data)
        found = describe(volume.values[None], channels=volume.channels)
        facts: dict[str, Any] = {"name": data, "spacing": volume.spacing}
        rows: Sequence[tuple[str, str]] = []
    else:
        dataset = load_data(data)
        targets = dataset.targets if dataset.task == "classification" else None
        found = describe(dataset.volumes, targets, channels=dataset.channels, classes=dataset.classes)
        facts = _facts(dataset)
        rows = _rows(facts)
    if as_json:
        typer.echo(json.dumps({**facts, "description": found.to_json()}))
    else:
        _print(str(facts["name"]), facts["spacing"], rows, found)


def _is_one_volume(data: str) -> bool:
    """Tell a volume file from a data set; only an .npz may be either."""
    from voxgap.io import FORMATS, check_file, one_line
    from voxgap.io.arrays import npz_names

    path = Path(data)
    name = path.name.lower()
    if data.startswith("sample:") or not name.endswith(tuple(FORMATS)) or path.is_dir():
        return False
    if not name.endswith(".npz"):
        return True
    with one_line(path):
        check_file(path)
        return not {"volumes", "labels", "targets"} & set(npz_names(path))


def _facts(dataset: Dataset) -> dict[str, Any]:
    from voxgap.dataset import SPLITS

    return {
        "name": dataset.name,
        "spacing": dataset.spacing,
        "task": dataset.task,
        "splits": {name: int((dataset.split == name).sum()) for name in SPLITS},
        "classes": {name: int((dataset.targets == i).sum()) for i, name in enumerate(dataset.classes)},
        "groups": None if dataset.groups is None else len(set(dataset.groups.tolist())),
    }


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("task", facts["task"])]
    rows += [
        (title, ", ".join(f"{name} {count}" for name, count in facts[key].items()))
        for key, title in (("classes", "volumes per class"), ("splits", "volumes per split"))
        if facts[key]
    ]
    if facts["groups"] is not None:
        rows.append(("groups", f"{facts['groups']}, each in one part of the split"))
    return rows


def _print(
    name: str,
    spacing: tuple[float, float, float] | None,
    rows: Sequence[tuple[str, str]],
    found: Description,
) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(name), title_justify="left", title_style="bold", show_header=False, box=None)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    if spacing is not None:
        rows = [*rows, ("spacing", " × ".join(f"{size:.4g}" for size in spacing))]
    for title, text in [*rows, *found.rows()]:
        table.add_row(Text(title), Text(text))
    out.print(table)
