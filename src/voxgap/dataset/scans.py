"""DICOM folders of several patients or series: each series is a volume, a patient a group."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from voxgap import io, paths
from voxgap.dataset.listing import Listing, Row
from voxgap.errors import VoxgapError
from voxgap.io.dicom_files import files_in, is_dicom, opened, read_header
from voxgap.io.dicom_series import all_series


def find(path: Path) -> Listing | None:
    """List a DICOM folder by its series, unless its sub-folders are classes; None for those and any other folder.

    Sub-folders are classes where one of them holds several patients, or none says whose it is.
    """
    if not _is_dicom(path):
        return None
    inside = [folder for folder in paths.folders(path) if _is_dicom(folder)]
    loose = any(file.parent == path and is_dicom(file) for file in files_in(path))
    if not loose and not all(len(_patients(folder)) == 1 for folder in inside):
        return None
    found = [(name, _patient(file)) for name, file in paths.series(path)]
    rows = [Row(_where(file, path), (file,), group=patient) for file, patient in found]
    if not all(row.group for row in rows):
        rows = [row._replace(group="") for row in rows]
    return Listing(
        rows,
        folder=path,
        remedy=f"holds {len(rows)} DICOM series and says no classes; list them with `voxgap manifest {path} --out "
        "data.csv`, and add a column `label`",
    )


def is_several(path: Path) -> bool:
    """Tell whether a folder is DICOM of more than one series."""
    return _is_dicom(path) and len(all_series(path)) > 1


def check_whole(folder: Path, files: Sequence[Path]) -> None:
    """Raise a `VoxgapError` where files beside each other are slices of a volume, and no volumes."""
    loose = Counter(_said(file, "SeriesInstanceUID") for file in files if file.is_file() and is_dicom(file))
    if any(count > 1 for uid, count in loose.items() if uid):
        raise VoxgapError(
            f"{folder}: holds slices of DICOM series beside each other; put those of each volume into a folder of its "
            f"own: {folder.name}/NAME/, or list them with `voxgap manifest {folder.parent} --out data.csv`"
        )


def _is_dicom(path: Path) -> bool:
    return paths.is_dicom_folder(path)


def _patients(folder: Path) -> set[str]:
    return {_patient(file) for file in files_in(folder) if is_dicom(file)} - {""}


def _patient(file: Path) -> str:
    return _said(file, "PatientID")


def _said(file: Path, name: str) -> str:
    with io.one_line(file), opened(file) as stream:
        return str(read_header(stream, file, [name]).get(name, "") or "").strip()


def _where(file: Path, folder: Path) -> str:
    return os.path.relpath(file, folder)
