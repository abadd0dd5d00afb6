"""What DATA names: one volume, or samples to learn from."""

from __future__ import annotations

from pathlib import Path

from voxgap.dataset.medmnist import is_medmnist
from voxgap.dataset.scans import is_several
from voxgap.io import FORMATS, check_file, is_volume, one_line, split_item
from voxgap.io.arrays import npz_names
from voxgap.names import EMBEDDED


def is_one_volume(data: str) -> bool:
    """Tell one volume (a file, a DICOM folder, a Zarr store, `file.h5::item`) from a data set."""
    if data.startswith(EMBEDDED):
        return False
    path, item = split_item(Path(data))
    if item is not None or path.is_dir():
        if path.is_dir():
            return is_volume(path) and (item is not None or not is_several(path))
        return True
    if path.suffix.lower() != ".npz":
        return path.name.lower().endswith(tuple(FORMATS)) or is_volume(path)
    with one_line(path):
        check_file(path)
        names = npz_names(path)
    return not is_medmnist(names) and not {"volumes", "labels", "targets"} & set(names)
