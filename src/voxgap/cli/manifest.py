"""`voxgap manifest`: the samples in a folder as a table, to look at, change and train on."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxgap.cli.console import err
from voxgap.errors import VoxgapError

if TYPE_CHECKING:
    from voxgap.dataset.listing import Listing


def manifest(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder of images, of any kind that train takes, or dataset.json.", metavar="DATA"
        ),
    ],
    labels: Annotated[
        Path | None,
        typer.Argument(help="Folder of their label maps, where it lies elsewhere.", metavar="[LABELS]"),
    ] = None,
    out_path: Annotated[
        Path | None,
        typer.Option("--out", help="CSV file; paths are relative to it. Standard output without it."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the table in --out.")] = False,
) -> None:
    """Write the samples in a folder as a manifest: one row each, a column a channel.

    [bold]Examples[/]

      voxgap manifest images/ labels/ > data.csv

      voxgap manifest dicom/ --out data.csv
    """
    from voxgap import table
    from voxgap.dataset import described, pairs
    from voxgap.dataset.folders import is_folder, list_folder
    from voxgap.files import check_new, write_bytes

    for folder in filter(None, (data, labels)):
        if not is_folder(folder):
            raise VoxgapError(f"{folder}: no such folder; check the path")
    check_new([out_path] if out_path is not None else [], overwrite)
    listing = list_folder(data) if labels is None else pairs.listed(data, [pairs.Pair(data, labels)])
    channels = [f"channel_{name}" if table.is_reserved(name) else name for name in listing.channels]
    columns = [*(channels or ("path",)), *listing.targets, *_given(listing)]
    folder = Path() if out_path is None else out_path.parent
    names = _names_to_keep(listing, folder, out_path is not None)
    if names and out_path is not None:
        write_bytes(folder / described.NAME, json.dumps(names, indent=2, ensure_ascii=False).encode())
    table.write(out_path or sys.stdout, columns, _rows(listing, columns, folder))
    if out_path is not None:
        beside = f"; their names: {folder / described.NAME}" if names else ""
        err.print(f"{len(listing.rows)} samples: {out_path}{beside}")


def _names_to_keep(listing: Listing, folder: Path, written: bool) -> dict[str, Any]:
    """Return names of classes and channels that a `dataset.json` beside the table is to keep, and does not yet."""
    from voxgap.dataset import described

    bare = listing._replace(folder=folder, classes=(), unsaid=None, within=())
    names, file = described.names_of(listing), folder / described.NAME
    if not names or described.names_of(described.with_names_beside(bare)) == names:
        return {}
    said = ", ".join([*listing.within, *(f"{value} {name}" for value, name in enumerate(listing.classes))])
    if not written:
        err.print(
            f"a table alone has no names for channels in a file and values of label maps ({said}): --out data.csv "
            f"keeps them in a {described.NAME} beside it"
        )
    elif file.exists():
        raise VoxgapError(f"{file}: says other names than these ({said}); write the table to another folder")
    return names


def _given(listing: Listing) -> list[str]:
    known = ("label", "label_map", "group", "split")
    return [name for name in known if any(getattr(row, name) for row in listing.rows)]


def _rows(listing: Listing, columns: list[str], folder: Path) -> Iterator[dict[str, Any]]:
    for row in listing.rows:
        files = [file and os.path.relpath(file, folder) for file in row.files]
        drawn = row.label_map and os.path.relpath(row.label_map, folder)
        cells = [*files, *row.targets]
        yield row._asdict() | {"label_map": drawn} | dict(zip(columns, cells, strict=False))
