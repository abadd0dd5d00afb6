"""The Brain Imaging Data Structure: anatomical images of subjects and sessions, as samples.

BIDS 1.10, https://bids-specification.readthedocs.io. A suffix is a channel, a subject a group.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from voxgap import table
from voxgap.dataset.listing import Listing, Row, refuse
from voxgap.dataset.targets import class_name
from voxgap.errors import VoxgapError
from voxgap.table import is_number

PARTICIPANTS = "participants.tsv"
_SUBJECT = "participant_id"
_DRAWN = ("dseg", "mask")
_NOT_IMAGES = (*_DRAWN, "probseg", "defacemask")
_LABELS = {
    "label",
    "class",
    "diagnosis",
    "diag",
    "dx",
    "group",
    "condition",
    "patient_group",
    "status",
    "outcome",
}
_MANY = 20


class _File(NamedTuple):
    path: Path
    session: tuple[str, str]
    channel: str
    suffix: str
    run: str


def is_bids(path: Path) -> bool:
    """Tell whether a folder has subjects as BIDS has them."""
    subjects = [folder for folder in path.glob("sub-*") if folder.is_dir()]
    marks = (path / PARTICIPANTS, path / "dataset_description.json")
    return bool(subjects) and (
        any(mark.is_file() for mark in marks)
        or any(any(folder.glob("anat")) or any(folder.glob("ses-*/anat")) for folder in subjects)
    )


def find(path: Path, column: str | None = None) -> Listing | None:
    """List a BIDS data set, None where the folder is none.

    Args:
        path: The folder.
        column: Of participants.tsv: what is to be predicted. By default the only one that can be meant.

    Raises:
        VoxgapError: It holds no anatomical image, has no such column, or says two things of one subject.
    """
    if not is_bids(path):
        return None
    subjects = sorted(folder for folder in path.glob("sub-*") if folder.is_dir())
    images, drawn = _images(path, subjects)
    if not images:
        raise VoxgapError(
            f"{path}: no anatomical image, such as sub-01/anat/sub-01_T1w.nii.gz; list other ones in a manifest"
        )
    channels = tuple(sorted({channel for files in images.values() for channel in files}))
    said, targets, remedy = _said(path, column, {subject for subject, _ in images})
    maps, more = _label_maps(drawn)
    rows = [
        Row(
            "_".join(filter(None, session)),
            tuple(files.get(channel) for channel in channels),
            *said[session[0]],
            group=session[0],
            label_map=maps.get(session),
        )
        for session, files in images.items()
        if session[0] in said
    ]
    return Listing(rows, channels, targets, path, remedy=remedy + more)


def _images(
    path: Path, subjects: Sequence[Path]
) -> tuple[dict[tuple[str, str], dict[str, Path]], list[_File]]:
    """Return the image of each channel of each session, the first of several runs; and the label maps."""
    files, astray = _anatomical(subjects)
    derived, others = _anatomical(sorted(one for one in path.glob("derivatives/**/sub-*") if one.is_dir()))
    astray += [name for name in others if any(f"_{kind}." in name for kind in _DRAWN)]
    if astray:
        some = ", ".join(astray[:3]) + (", ..." if len(astray) > 3 else "")
        warnings.warn(
            f"{path}: left out {len(astray)} files that are not named after their folders, as "
            f"sub-01/anat/sub-01_T1w.nii.gz is: {some}",
            stacklevel=5,
        )
    drawn = [file for file in (*files, *derived) if file.suffix in _DRAWN]
    images = [file for file in files if file.suffix not in _NOT_IMAGES]
    # One name is enough where a suffix has one acquisition in all of the data.
    kinds: dict[str, set[str]] = defaultdict(set)
    for file in images:
        kinds[file.suffix].add(file.channel)
    found: dict[tuple[str, str], dict[str, Path]] = defaultdict(dict)
    again = []
    for file in sorted(images, key=lambda one: (one.session, one.channel, one.run)):
        channel = file.suffix if len(kinds[file.suffix]) == 1 else file.channel
        if channel in found[file.session]:
            again.append(file.path.name)
        found[file.session].setdefault(channel, file.path)
    if again:
        some = ", ".join(again[:3]) + (", ..." if len(again) > 3 else "")
        warnings.warn(f"{path}: of several runs the first is taken; left out {some}", stacklevel=5)
    return dict(found), drawn


def _anatomical(subjects: Iterable[Path]) -> tuple[list[_File], list[str]]:
    """Return the anatomical files of subjects' folders, and the names of those that say they are of others."""
    files, astray = [], []
    for subject in subjects:
        for file in sorted([*subject.glob("anat/*.nii*"), *subject.glob("ses-*/anat/*.nii*")]):
            if file.name.endswith((".nii", ".nii.gz")) and not file.name.startswith("."):
                parsed = _parse(file, subject.name)
                files.extend([parsed] if parsed else [])
                astray.extend([] if parsed else [file.name])
    return files, astray


def _parse(file: Path, subject: str) -> _File | None:
    """Return what the name of a file says, None where it says nothing, or that it belongs into another folder."""
    *entities, suffix = file.name.removesuffix(".gz").removesuffix(".nii").split("_")
    named = dict(entity.partition("-")[::2] for entity in entities)
    within = file.parents[1].name if file.parents[1].name != subject else ""
    session = f"ses-{named['ses']}" if "ses" in named else within
    if f"sub-{named.get('sub')}" != subject or (within and session != within):
        return None
    if not suffix.isalnum() or not all(key and value for key, value in named.items()):
        return None
    others = [entity for entity in entities if entity.partition("-")[0] not in ("sub", "ses", "run")]
    channel = "_".join([*others, suffix])
    return _File(file, (subject, session), channel, suffix, named.get("run", "").zfill(6))


def _label_maps(drawn: Iterable[_File]) -> tuple[dict[tuple[str, str], Path], str]:
    """Return one label map per session where there is one kind of them, else what to do."""
    kinds: dict[tuple[str, str], dict[tuple[str, str], Path]] = defaultdict(dict)
    for file in drawn:
        parts = file.path.parts
        pipeline = parts[parts.index("derivatives") + 1] if "derivatives" in parts[:-1] else ""
        kinds[pipeline, file.channel].setdefault(file.session, file.path)
    if len(kinds) == 1:
        return next(iter(kinds.values())), ""
    names = ", ".join("/".join(filter(None, kind)) for kind in sorted(kinds)[:6])
    return {}, f"; it has {len(kinds)} kinds of label maps ({names}): list one in a manifest" if kinds else ""


def _said(
    path: Path, column: str | None, subjects: set[str]
) -> tuple[dict[str, tuple[str, tuple[str, ...]]], tuple[str, ...], str]:
    """Return label and targets of each subject, the names of the targets, and what to do where there is nothing."""
    nothing: dict[str, tuple[str, tuple[str, ...]]] = dict.fromkeys(subjects, ("", ()))
    file = path / PARTICIPANTS
    if not file.is_file():
        if column is not None:
            raise VoxgapError(f"{file}: no such file, so there is no column {column!r}")
        return nothing, (), f"has neither {PARTICIPANTS} nor label maps to learn from"
    header, lines, _ = table.read(file)
    if _SUBJECT not in header:
        raise VoxgapError(f"{file}: has no column {_SUBJECT}, which BIDS demands")
    rows = [line for line in lines if not line.problem]
    cells = {name: [row.cells[index] for row in rows] for index, name in enumerate(header)}
    ids = [cell if cell.startswith("sub-") else f"sub-{cell}" for cell in cells.pop(_SUBJECT)]
    if column is not None and column not in cells:
        raise VoxgapError(f"{file}: no column {column!r}; choose one of {', '.join(cells) or 'none'}")
    chosen = column or _only(cells)
    if chosen is None:
        which = " or ".join(f"{path}::{name}" for name in list(cells)[:4]) or "a column for the class"
        return nothing, (), f"{PARTICIPANTS} has no column that must be the label; say which: {which}"
    values: dict[str, str] = {}
    problems = []
    for name, cell in zip(ids, cells[chosen], strict=True):
        if not cell or name not in subjects:
            continue
        if class_name(values.setdefault(name, cell)) != class_name(cell):
            problems.append(f"{name} has {chosen} {values[name]} and {cell}; keep one row of it")
    refuse(str(file), problems)
    lacking = sorted(subjects - set(values))
    if lacking:
        some = ", ".join(lacking[:3]) + (", ..." if len(lacking) > 3 else "")
        warnings.warn(f"{file}: left out {len(lacking)} subjects without {chosen}: {some}", stacklevel=5)
    if column is None:
        warnings.warn(
            f"{file}: {chosen} is taken for the label; {path}::OTHER takes another column", stacklevel=5
        )
    if _is_measured(values.values()):
        return {name: ("", (cell,)) for name, cell in values.items()}, (f"target_{chosen}",), ""
    return {name: (class_name(cell), ()) for name, cell in values.items()}, (), ""


def _only(cells: dict[str, list[str]]) -> str | None:
    """Return the only column that can be the label: by its name, or else by its values."""
    classes = [
        name
        for name, column in cells.items()
        if 2 <= len(set(filter(None, column))) <= _MANY and not _is_measured(filter(None, column))
    ]
    named = [name for name in classes if name.lower() in _LABELS]
    found = named or (classes if len(cells) == 1 else [])
    return found[0] if len(found) == 1 else None


def _is_measured(cells: Iterable[str]) -> bool:
    """Tell numbers to predict from classes: fractions, or many different ones."""
    values = set(cells)
    numbers = all(map(is_number, values))
    return numbers and (len(values) > _MANY or any(not float(cell).is_integer() for cell in values))
