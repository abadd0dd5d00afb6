"""The label maps that a job writes, and what its table says of each."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from voxgap import io
from voxgap.errors import VoxgapError
from voxgap.files import check_new
from voxgap.grid import same_grid
from voxgap.io import dicom_seg, rules
from voxgap.runtime.inputs import Item, same_file
from voxgap.runtime.naming import below
from voxgap.runtime.tables import Row
from voxgap.volume import Volume

_MM3_OF_ML = 1000.0


def place_of(item: Item, folder: str) -> Path:
    """Return where the label map of an item goes.

    Raises:
        VoxgapError: it would lie outside of the folder, or replace the scan.
    """
    file = Path(folder) / item.label_map
    if not below(file, folder):
        raise VoxgapError(f"{file}: lies outside of {folder}, where label maps go; give the scan's own path")
    if any(same_file(file, Path(scan)) for scan in item.files if scan):
        raise VoxgapError(f"{file}: is the scan itself; name another folder for label maps")
    return file


def put(file: Path, labels: Volume, scan: io.Source | None, overwrite: bool) -> None:
    """Write a label map on the grid of its scan.

    Raises:
        VoxgapError: something else is there already, and nobody asked to replace it.
    """
    if os.path.lexists(file) and not overwrite and not _holds(file, labels):
        # A job that was killed between a map and its row writes the same again; anything else is somebody's.
        check_new([file])
    file.parent.mkdir(parents=True, exist_ok=True)
    io.write(file, labels, like=scan, labels=True)


def put_segments(
    file: Path, labels: Volume, scan: io.Source | None, names: Mapping[int, str], overwrite: bool
) -> tuple[str, ...]:
    """Write the label map of a DICOM series as a DICOM Segmentation, too, beside it; say why where that can't be.

    Args:
        file: the label map, of NIfTI.
        labels, scan, overwrite: see `put`.
        names: of the values that are segments.
    """
    if scan is None or not names or not io.is_series(scan):
        return ()
    if not dicom_seg.can_write():
        return ("no DICOM SEG beside the label map: pip install 'voxgap[seg]' for it",)
    try:
        dicom_seg.write_seg(segments_of(file), labels, scan, names, overwrite)
    except VoxgapError as error:
        return (str(error),)
    return ()


def segments_of(file: Path) -> Path:
    """Return where the segments of a label map go."""
    return file.with_name(file.name.removesuffix(io.OTHERS) + dicom_seg.ENDING)


def said_of(file: Path, counts: Mapping[str, int], scan: io.Source | None) -> Row:
    """Return the columns of a label map: where it is, and of each class its voxels, and its volume in ml."""
    millilitres = voxel_ml(scan)
    found: Row = {"label_map": str(file)}
    for name, count in counts.items():
        found[f"voxels_{name}"] = count
        found[f"ml_{name}"] = None if millilitres is None else count * millilitres
    return found


def voxel_ml(scan: io.Source | None) -> float | None:
    """Return the volume of a voxel in ml; None where a file does not say how large it is in space."""
    if scan is None:
        return None
    if scan.affine is not None:
        return float(abs(np.linalg.det(scan.affine[:3, :3])) / _MM3_OF_ML)
    try:
        each = [rules.voxels(axis, 1.0, "mm") for axis in scan.measured]
    except VoxgapError:  # its steps are uneven, or not known
        return None
    return None if None in each else 1 / (math.prod(filter(None, each)) * _MM3_OF_ML)


def _holds(file: Path, labels: Volume) -> bool:
    """Return whether a file is a label map already, compared plane by plane."""
    try:
        there = io.scan(file)
        if there.shape != labels.shape or not same_grid(there, labels):
            return False
        if not there.by_part:
            return np.array_equal(there.read().values, labels.values, equal_nan=True)
        return all(
            np.array_equal(there.read([(place, place + 1)]).values[0], plane, equal_nan=True)
            for place, plane in enumerate(labels.values)
        )
    except (VoxgapError, OSError):
        return False
