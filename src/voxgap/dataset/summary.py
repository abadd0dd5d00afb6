"""What a data set holds, in a line and in a short table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voxgap.arrays import short
from voxgap.dataset.splits import SPLITS
from voxgap.ragged import shapes_of, spanned

if TYPE_CHECKING:
    from voxgap.dataset.dataset import Dataset

_MOST_CLASSES = 10


def in_a_line(data: Dataset) -> str:
    """Return name, size, task, parts and the shares of what is missing in the scans and outside of them."""
    parts = ", ".join(f"{name} {int((data.split == name).sum())}" for name in SPLITS)
    kind = "regression" if data.task == "regression" else f"{len(data.classes)} classes"
    kind += " of voxels" if data.task == "segmentation" else ""
    shape = spanned(shapes_of(data.volumes))
    shape += (
        f" at {' × '.join(map(short, data.grid.spacing))}" if data.grid.spacing and data.patch_size else ""
    )
    outside = f", {data.outside_rate:.1%} outside of the scans" if data.outside_rate else ""
    return f"{data.name}: {len(data)} volumes of {shape}, {kind}, {parts}, {data.missing_rate:.1%} missing{outside}"


def in_a_table(data: Dataset) -> str:
    """Return that line, a table of parts by class, and the channels with their size of a voxel."""
    rows = [["", *SPLITS], ["volumes", *(str((data.split == part).sum()) for part in SPLITS)]]
    classes = data.classes if data.task == "classification" else ()
    for index, name in enumerate(classes[:_MOST_CLASSES]):
        counts = (((data.split == part) & (data.targets == index)).sum() for part in SPLITS)
        rows.append([name, *map(str, counts)])
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = [
        "  ".join([row[0].ljust(first), *(cell.rjust(w) for cell, w in zip(row[1:], others, strict=True))])
        for row in rows
    ]
    if len(classes) > _MOST_CLASSES:
        lines.append(f"and {len(classes) - _MOST_CLASSES} more classes")
    spacing = "" if data.spacing is None else f", voxels of {' × '.join(f'{s:.4g}' for s in data.spacing)}"
    return "\n".join([in_a_line(data), *lines, f"channels {', '.join(data.channels)}{spacing}"])
