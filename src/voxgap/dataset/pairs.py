"""Images and label maps that belong together by their names: two folders, one, or one for each patient."""

from __future__ import annotations

import os
import re
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from voxgap import paths
from voxgap.dataset.listing import Listing, Row, refuse
from voxgap.dataset.splits import split_name
from voxgap.dataset.targets import class_name
from voxgap.errors import VoxgapError

_PARTS = r"[_-]?(tr|ts|train|training|va|val|valid|validation|test|testing)?"
_SHORT = {"tr": "train", "ts": "test", "va": "validation"}
_LABELS = re.compile(
    rf"(?:labels?|masks?|segs?|segmentations?|label_?maps?|gts?|ground_?truths?|annotations?){_PARTS}", re.I
)
_IMAGES = re.compile(rf"(?:images?|imgs?|scans?|volumes?|data){_PARTS}", re.I)
SHOWN = 3


class Pair(NamedTuple):
    """A folder of images, that of their label maps (None: there is none), and their part of the split."""

    images: Path
    labels: Path | None
    part: str = ""


def find(path: Path) -> Listing | None:
    """List a folder in which label maps lie beside images, None where it is none.

    `images/` and `labels/`, also with a part of the split in their names, above or below them (`imagesTr`,
    `val/images`, `images/val`); one folder for each patient with a label map in it; or all in one folder.

    Raises:
        VoxgapError: It is one, and its names don't say which files belong together.
    """
    pairs = _folders(path)
    if pairs:
        return listed(path, pairs)
    inside = paths.folders(path)
    if len(inside) == 2 and _LABELS.fullmatch(inside[0].name) is not None:
        inside = inside[::-1]
    if len(inside) == 2 and _LABELS.fullmatch(inside[1].name) is not None:
        return listed(path, [Pair(inside[0], inside[1])])
    everything = paths.all_volumes(path)
    drawn = [file for file in everything if paths.is_drawn(file)]
    images = [file for file in everything if file not in set(drawn)]
    if not drawn or not images or not _each_has_one(path, images, drawn):
        return None
    return _joined(path, [(path, images, path, drawn, "")])


def listed(path: Path, pairs: Sequence[Pair]) -> Listing:
    """List the samples of pairs of folders; images without a label map are left out, and that is said.

    Raises:
        VoxgapError: Names don't say which files belong together.
    """
    known = [pair for pair in pairs if pair.labels is not None]
    if not known:
        raise VoxgapError(f"{path}: holds no folder of label maps, such as labels, labelsTr or masks")
    for pair in pairs:
        if pair.labels is None:
            warnings.warn(f"{pair.images}: left out, there are no label maps for it", stacklevel=4)
    # A part says something only beside another one.
    parts = {pair.part for pair in known}
    return _joined(
        path,
        [
            (
                pair.images,
                paths.all_volumes(pair.images),
                pair.labels,
                paths.all_volumes(pair.labels),
                pair.part if len(parts) > 1 and "" not in parts and "train" in parts else "",
            )
            for pair in known
            if pair.labels is not None
        ],
    )


def _folders(path: Path, part: str = "") -> list[Pair]:
    """Find folders of images and of label maps, and pair them by their part of the split."""
    inside = paths.folders(path)
    if inside and not part and all(split_name(folder.name) for folder in inside):
        return [pair for folder in inside for pair in _folders(folder, split_name(folder.name) or "")]
    images, labels = (_of_kind(inside, kind, part) for kind in (_IMAGES, _LABELS))
    if not images or not labels:
        return []
    found = []
    for name, folder in images.items():
        drawn = labels.get(name)
        below = {split_name(one.name): one for one in paths.folders(folder)}
        if drawn is None or None in below or not below:
            found.append(Pair(folder, drawn, name))
        else:
            beside = {split_name(one.name): one for one in paths.folders(drawn)}
            found += [Pair(one, beside.get(split), split or "") for split, one in below.items()]
    return found


def _of_kind(folders: Sequence[Path], kind: re.Pattern[str], part: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in folders:
        if (said := kind.fullmatch(folder.name)) is None:
            continue
        short = (said[1] or "").lower()
        name = split_name(_SHORT.get(short, short)) or part
        if name in found:
            raise VoxgapError(
                f"{folder}: and {found[name].name} are of one kind; leave one of them in the folder"
            )
        found[name] = folder
    return found


def _each_has_one(path: Path, images: Sequence[Path], drawn: Sequence[Path]) -> bool:
    known = {paths.called(file, path) for file in drawn}
    return len(known) == len(drawn) and all(
        _owner(paths.called(file, path), known) is not None for file in images
    )


def _owner(words: tuple[str, ...], known: set[tuple[str, ...]]) -> tuple[str, ...] | None:
    """Return the case that an image is of: the longest of the names that its own begins with."""
    ends = range(len(words), 0, -1)
    return next((words[:end] for end in ends if words[:end] in known), None)


def _joined(path: Path, sets: Sequence[tuple[Path, list[Path], Path, list[Path], str]]) -> Listing:
    problems: list[str] = []
    alone: list[Path] = []
    cases: list[tuple[Path, dict[str, Path], str, str]] = []
    for image_root, images, label_root, labels, part in sets:
        drawn: dict[tuple[str, ...], Path] = {}
        for file in labels:
            words = paths.called(file, label_root)
            if words in drawn:
                problems.append(f"{file} and {drawn[words]} are label maps of one case; keep one of them")
            drawn[words] = file
        found: dict[tuple[str, ...], dict[str, Path]] = defaultdict(dict)
        for file in images:
            words = paths.called(file, image_root)
            owner = _owner(words, set(drawn))
            if owner is None:
                alone.append(file)
                continue
            channel = "_".join(words[len(owner) :])
            if channel in found[owner]:
                problems.append(f"{file} and {found[owner][channel]} are of one case and channel; rename one")
            found[owner][channel] = file
        problems += [
            f"{file}: no image in {image_root} is called after it"
            for words, file in drawn.items()
            if words not in found
        ]
        patients = _patients([*drawn.values()], label_root)
        cases += [
            (file, found[words], part, patients.get(file, ""))
            for words, file in drawn.items()
            if words in found
        ]
    if not cases and not problems:
        problems = ["no image has a label map of the same name"]
    refuse(str(path), problems)
    if alone:
        some = ", ".join(file.name for file in alone[:SHOWN]) + (", ..." if len(alone) > SHOWN else "")
        warnings.warn(f"{path}: left out {len(alone)} images without a label map: {some}", stacklevel=5)
    return _rows(path, cases)


def _patients(files: Sequence[Path], root: Path) -> dict[Path, str]:
    """Return the patient of each label map where those lie in sessions of patients: `P1/ses-1/seg.nii.gz`."""
    folders = {file: file.relative_to(root).parts[:-1] for file in files}
    if not all(len(names) > 1 for names in folders.values()):
        return {}
    first, second = ({names[level] for names in folders.values()} for level in (0, 1))
    return {file: names[0] for file, names in folders.items()} if len(second) < len(first) else {}


def _rows(path: Path, cases: Sequence[tuple[Path, dict[str, Path], str, str]]) -> Listing:
    endings = {ending for _, files, _, _ in cases for ending in files}
    single = all(len(files) == 1 for _, files, _, _ in cases)
    # Endings that are one for all, or another one for each, name no channel.
    if single and len(endings) in (1, len(cases)):
        channels: tuple[str, ...] = ()
    elif "" in endings:
        file = next(files[""] for _, files, _, _ in cases if "" in files)
        other = next(file for _, files, _, _ in cases for ending, file in files.items() if ending)
        raise VoxgapError(
            f"{path}: {file.name} has all of a case by its name, and {other.name} one channel; rename one kind, or "
            "list the samples in a manifest"
        )
    else:
        channels = tuple(sorted(endings))
    rows = []
    grouped = all(group for *_, group in cases)
    for label, files, part, group in cases:
        of_case = tuple(map(files.get, channels)) if channels else tuple(files.values())
        rows.append(
            Row(
                os.path.relpath(label, path),
                of_case,
                group=class_name(group) if grouped else "",
                split=part,
                label_map=label,
            )
        )
    return Listing(rows, channels, folder=path)
