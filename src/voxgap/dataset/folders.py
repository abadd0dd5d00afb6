"""Folders as people have them, as samples."""

from __future__ import annotations

from pathlib import Path

from voxgap import io, paths
from voxgap.dataset import bids, described, pairs, scans
from voxgap.dataset.listing import Listing, Row
from voxgap.dataset.splits import split_name
from voxgap.dataset.targets import class_name
from voxgap.errors import VoxgapError
from voxgap.io.planes import is_planes


def is_folder(path: Path) -> bool:
    """Tell whether a path names what `list_folder` lists: a folder, a column of BIDS in one, a `dataset.json`."""
    return io.split_item(path)[0].is_dir() or (path.suffix.lower() == ".json" and path.is_file())


def list_folder(path: Path) -> Listing:
    """List the samples in a folder, by the first of these conventions that it follows.

    A `dataset.json` of nnU-Net or the Decathlon, or that file itself; BIDS, with `::column` behind it the column of
    participants.tsv that says what is to be predicted; `images/` beside `labels/`, or label maps beside images; one
    sub-folder per class, perhaps with `train`, `validation` and `test` above those; volumes with nothing said.

    Raises:
        VoxgapError: It holds no volume, or names don't say which files belong together.
    """
    path, column = io.split_item(path)
    if not path.is_dir():
        io.check_file(path)
    found = None if column else described.find(path)
    found = found or bids.find(path, column) or (None if column else pairs.find(path) or scans.find(path))
    if column and found is None:
        raise VoxgapError(
            f"{path}: is no BIDS data set, in which ::{column} would name a column of participants.tsv"
        )
    return found or _classes(path)


def _classes(path: Path) -> Listing:
    """List one sub-folder per class; volumes that lie in none are samples of which nothing is said."""
    folders = paths.folders(path)
    parts = {folder: split_name(folder.name) for folder in folders}
    if folders and all(parts.values()):
        classes = [(inner, part or "") for folder, part in parts.items() for inner in paths.folders(folder)]
    else:
        classes = [(folder, "") for folder in folders]
    if not classes:
        remedy = "has no sub-folder; make one per class, or give a CSV manifest"
        rows = [Row(str(file.relative_to(path)), (file,)) for file in paths.volumes(path)]
        if not rows:
            raise VoxgapError(f"{path}: {remedy}")
        return Listing(rows, folder=path, remedy=remedy)
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
        scans.check_whole(folder, files)
        rows += [
            Row(str(file.relative_to(path)), (file,), class_name(folder.name), split=part) for file in files
        ]
    return Listing(rows, folder=path)
