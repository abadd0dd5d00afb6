"""Which file is meant: by a cell of a table, or by a folder that holds more than volumes."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from voxgap import io
from voxgap.errors import VoxgapError
from voxgap.io.dicom_series import all_series
from voxgap.io.planes import is_planes
from voxgap.io.zarr import is_zarr

# What operating systems and disks put beside people's files.
_JUNK = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "__pycache__"}
_DRAWN = {"mask", "seg", "segmentation", "label", "labelmap", "gt", "groundtruth", "truth", "annotation"}
_IMAGES = {"image", "img", "scan", "volume", "data"}
_ANY = "|".join(sorted((*_DRAWN, *_IMAGES), key=len, reverse=True))
_SAID_BY_WORDS = re.compile(rf"(?:{_ANY})s?(\d*)", re.IGNORECASE)
_PARTED = re.compile(r"[_\-. ]+|(?<=[a-z0-9])(?=[A-Z])")


def resolve(cell: str, folder: Path) -> Path:
    """Return the file that a cell of a table names, with the `::item` in it that the cell names.

    Args:
        cell: A path relative to the folder, or from `/` or `~/`. A backslash is a slash, where there is no file
            of that very name.
        folder: Of the table.
    """
    path = _from(cell, folder)
    if "\\" in cell and os.sep == "/" and not _exists(path):
        slashed = _from(cell.replace("\\", "/"), folder)
        return slashed if _exists(slashed) else path
    return path


def folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, by name, without hidden ones and those that no person has made."""
    return sorted(entry for entry in folder.iterdir() if not _is_junk(entry) and entry.is_dir())


def volumes(folder: Path) -> list[Path]:
    """Return the volumes in a folder, by name; label maps beside others are none of them.

    Warns:
        UserWarning: Files were left out, since they are called as label maps are.
    """
    found = [path for path in sorted(folder.iterdir()) if not _is_junk(path) and _is_meant(path)]
    return without_drawn(folder, found)


def without_drawn(folder: Path, found: list[Path]) -> list[Path]:
    """Return volumes without the label maps beside them, unless all are called so.

    Warns:
        UserWarning: As for `volumes`.
    """
    drawn = {path: None for path in found if is_drawn(path)}
    if not drawn or len(drawn) == len(found):
        return found
    some = ", ".join(path.name for path in list(drawn)[:3]) + (", ..." if len(drawn) > 3 else "")
    warnings.warn(
        f"{folder}: left out {some}, called as label maps are; a manifest with the columns path and label_map "
        "uses them, and one with path alone takes them for volumes",
        stacklevel=4,
    )
    return [path for path in found if path not in drawn]


def all_volumes(folder: Path) -> list[Path]:
    """Return the volumes in a folder and in those in it, by name, label maps and all."""
    found = []
    for path in sorted(folder.iterdir()):
        if _is_junk(path):
            continue
        if _is_meant(path):
            found.append(path)
        elif path.is_dir() and not path.is_symlink():
            found += all_volumes(path)
    return found


def is_dicom_folder(path: Path) -> bool:
    """Tell whether a folder holds DICOM, and no volume of another format."""
    return path.is_dir() and not is_zarr(path) and not is_planes(path) and io.is_volume(path)


def series(path: Path) -> list[tuple[Path, Path]]:
    """Return what each series in a DICOM folder is read by, its folder or `folder::number`, and one file of it."""
    found: dict[Path, Path] = {}
    for one in all_series(path):
        files = {frame.file for frame in one.frames}
        parent = Path(os.path.commonpath([file.parent for file in files]))
        held = [{frame.file for frame in other.frames} for other in all_series(parent)]
        named = [parent if len(held) == 1 else Path(f"{parent}::{n}") for n in range(1, len(held) + 1)]
        # Frames of one file may be several series.
        name = next(
            name for name, other in zip(named, held, strict=True) if other == files and name not in found
        )
        found[name] = min(files)
    return list(found.items())


def stem(path: Path) -> str:
    """Return the name of a volume without the suffix of its format."""
    known = [len(suffix) for suffix in io.FORMATS if path.name.lower().endswith(suffix)]
    return path.name[: len(path.name) - max(known, default=0)]


def is_drawn(path: Path) -> bool:
    """Tell whether a file or folder is called as label maps are."""
    return bool(_words(stem(path)) & _DRAWN)


def called(path: Path, root: Path) -> tuple[str, ...]:
    """Return the words that tell a case from others: folders and name, without those that say what kind of file."""
    words = [*path.relative_to(root).parts[:-1]]
    for word in filter(None, _PARTED.split(stem(path))):
        said = _SAID_BY_WORDS.fullmatch(word)
        words += [word] if said is None else [said[1]] if said[1] else []
    return tuple(words)


def check_classes(names: Sequence[Path]) -> None:
    """Raise a `VoxgapError` where folders are no classes, but one has the images and one their label maps."""
    drawn = [path for path in names if _words(path.name) & _DRAWN]
    if drawn and any(_words(path.name) & _IMAGES for path in names if path not in drawn):
        raise VoxgapError(
            f"{drawn[0]}: holds label maps by its name, and is no class; list the samples in a manifest with the "
            "columns path and label_map"
        )


def _from(cell: str, folder: Path) -> Path:
    return folder / (os.path.expanduser(cell) if cell.startswith("~/") else cell)


def _exists(path: Path) -> bool:
    try:
        return io.split_item(path)[0].exists()
    except OSError:  # a name that is too long, say
        return False


def _is_meant(path: Path) -> bool:
    """Tell a volume, and what is called as one and is no file, such as a link to nowhere: who reads it says why not."""
    return io.is_volume(path) or (
        not path.is_file() and not path.is_dir() and path.name.lower().endswith(tuple(io.FORMATS))
    )


def _is_junk(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in _JUNK


def _words(name: str) -> set[str]:
    """Return the words that a name is made of, in the singular: `caseMasks_01` -> case, mask."""
    parts = re.split(r"[^a-z]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())
    return {part.removesuffix("s") for part in parts}


def within(file: Path | None, folder: Path) -> str:
    """Return a file as seen from a folder that it lies in; "" where it lies elsewhere, or there is none."""
    # `..` is taken back first: what leads out of the folder lies elsewhere, and says where.
    inside = None if file is None else Path(os.path.abspath(file))
    if inside is None or not inside.is_relative_to(os.path.abspath(folder)):
        return ""
    return inside.relative_to(os.path.abspath(folder)).as_posix()
