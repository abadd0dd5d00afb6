"""Folders as people have them, as samples."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from voxgap import io, paths
from voxgap.dataset import bids, described, pairs, patients, scans
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
    sub-folder per class, perhaps with `train`, `validation` and `test` above those; volumes with nothing said. In the
    last two, several files of a patient are one sample: see `voxgap.dataset.patients`.

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
    """List one sub-folder per class; volumes that lie in none, or in those of patients, are samples without one."""
    folders = paths.folders(path)
    parts = {folder: split_name(folder.name) for folder in folders}
    roots = [(path, "")]
    if folders and all(parts.values()):
        roots = [(folder, part or "") for folder, part in parts.items()]
    classes = [(inner, part) for root, part in roots for inner in paths.folders(root)]
    if not classes:
        remedy = "has no sub-folder; make one per class, or give a CSV manifest"
        files = [patients.file_in(file, path) for file in paths.volumes(path)]
        if not files:
            raise VoxgapError(f"{path}: {remedy}")
        return _listed(path, files, remedy)
    if files := _patients(roots):
        remedy = (
            "has a sub-folder per patient, and says no classes; list the patients with `voxgap manifest "
            f"{path} --out data.csv`, and add a column `label`"
        )
        return _listed(path, files, remedy)
    paths.check_classes([folder for folder, _ in classes])
    return _listed(path, [file for folder, part in classes for file in _of_class(folder, part)])


def _of_class(folder: Path, part: str) -> list[patients.File]:
    """Return the volumes of a class: those in its folder, or else those in the folders of its patients."""
    if is_planes(folder):
        raise VoxgapError(
            f"{folder}: holds single images; put those of each volume into a folder of its own: "
            f"{folder.name}/NAME/{min(folder.glob('[!.]*.*')).name}"
        )
    files = _series(paths.volumes(folder)) or paths.without_drawn(folder, _series(paths.all_volumes(folder)))
    if not files:
        raise VoxgapError(f"{folder}: holds no volume; voxgap reads {', '.join(io.FORMATS)}")
    scans.check_whole(folder, files)
    return [patients.file_in(file, folder, class_name(folder.name), part) for file in files]


def _patients(roots: Sequence[tuple[Path, str]]) -> list[patients.File]:
    """Return the volumes in sub-folders of parts of the split where those are patients and no classes, else none."""
    found, images = [], []
    for root, part in roots:
        # A file beside the folders is of no patient, as it is of no class.
        inside = [one for one in _series(paths.all_volumes(root)) if one.parent != root or one.is_dir()]
        known = [file for file in inside if not paths.is_drawn(file)] or inside
        found.append((root, inside, part))
        images += [patients.file_in(file, root, part=part) for file in known]
    if not images or not patients.are_patients(images):
        return []
    return [
        patients.file_in(file, root, part=part)
        for root, inside, part in found
        for file in paths.without_drawn(root, inside)
    ]


def _series(files: Sequence[Path]) -> list[Path]:
    """Return volumes, of a folder that holds folders of DICOM series each of those."""
    found: list[Path] = []
    for file in files:
        inside = [one for one, _ in paths.series(file)] if paths.is_dicom_folder(file) else []
        found += inside if inside and all(one.is_dir() for one in inside) else [file]
    return found


def _listed(path: Path, files: Sequence[patients.File], remedy: str = "") -> Listing:
    """List files as samples: each for itself, or those of a patient together where names say so."""

    def row(file: patients.File, group: str = "") -> Row:
        where = str(file.path.relative_to(path))
        return Row(where, (file.path,), file.label, group=class_name(group), split=file.part)

    known = patients.places(files, path)
    if known is None:
        return Listing(list(map(row, files)), folder=path, remedy=remedy)
    warnings.warn(f"{path}: {patients.in_words(known)}", stacklevel=5)
    channels = tuple(sorted({one.channel for one in known} - {""}))
    named = all(one.patient for one in known)
    rows: dict[tuple[str, ...], Row] = {}
    held: dict[tuple[str, ...], dict[str, Path]] = defaultdict(dict)
    for file, one in zip(files, known, strict=True):
        rows.setdefault(one.sample, row(file, one.patient if named else ""))
        held[one.sample][one.channel] = file.path
    of_sample = [
        row._replace(files=tuple(map(held[sample].get, channels or ("",)))) for sample, row in rows.items()
    ]
    return Listing(of_sample, channels, folder=path, remedy=remedy)
