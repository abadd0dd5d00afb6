"""Folders as people have them, as samples."""

from __future__ import annotations

from pathlib import Path

from voxgap import io, paths
from voxgap.dataset.listing import Listing, Row
from voxgap.dataset.splits import split_name
from voxgap.dataset.targets import class_name
from voxgap.errors import VoxgapError
from voxgap.io.planes import is_planes


def list_folder(path: Path) -> Listing:
    """List a folder with one sub-folder per class, or with `train`, `validation` and `test` above those.

    Raises:
        VoxgapError: There is no sub-folder, or one without volumes.
    """
    folders = paths.folders(path)
    parts = {folder: split_name(folder.name) for folder in folders}
    if folders and all(parts.values()):
        classes = [(inner, part or "") for folder, part in parts.items() for inner in paths.folders(folder)]
    else:
        classes = [(folder, "") for folder in folders]
    if not classes:
        raise VoxgapError(f"{path}: has no sub-folder; make one per class, or give a CSV manifest")
    paths.check_classes([folder for folder, _ in classes])
    rows = []
    for folder, part in classes:
        if is_planes(folder):
            raise VoxgapError(
                f"{folder}: holds single images; put those of each volume into a folder of its own: "
                f"{folder.name}/NAME/{min(folder.glob('[!.]*.*')).name}"
            )
        files = paths.volumes(folder)
        if not files:
            raise VoxgapError(f"{folder}: holds no volume; voxgap reads {', '.join(io.FORMATS)}")
        rows += [
            Row(str(file.relative_to(path)), (file,), class_name(folder.name), split=part) for file in files
        ]
    return Listing(rows, folder=path)
