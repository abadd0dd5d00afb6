"""What label maps are called: as their scans are, seen from the folder that was named, each by a name of its own."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from voxgap import io
from voxgap.errors import VoxgapError


def label_map_names(scans: Sequence[tuple[str, str]]) -> list[str]:
    """Name a label map for each scan, relative to the folder that all of them are written to.

    Args:
        scans: the file of each, and the folder that was named and holds it; "" where the file itself was named.

    Returns:
        `ward/p1/t1.nii.gz` for that file of the folder named; files that were named themselves are seen from the
        folder that they share. Where two scans would have one name, all are seen from the folder that all share,
        and what is still one name, such as that of two rows for one file, is numbered.
    """
    files = [io.split_item(Path(file))[0] for file, _ in scans]
    alone = _shared([file for file, (_, folder) in zip(files, scans, strict=True) if not folder])
    named = [_named(file, folder or alone) for file, folder in scans]
    if len(_alike(named)) < len(named):
        shared = _shared(files)
        named = [_named(file, shared) for file, _ in scans]
    return _numbered(named)


def below(file: str | os.PathLike[str], folder: str | os.PathLike[str]) -> bool:
    """Return whether a path leads into a folder by its letters, `..` taken back; "" is no folder."""
    return bool(os.fspath(folder)) and Path(os.path.abspath(file)).is_relative_to(os.path.abspath(folder))


def _shared(files: Sequence[Path]) -> str:
    """Return the deepest folder that holds all files; "" where there is none, as on two drives."""
    try:
        return os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files])
    except ValueError:
        return ""


def _named(scan: str, folder: str) -> str:
    file, item = io.split_item(Path(scan))
    inside = (
        os.path.relpath(os.path.abspath(file), os.path.abspath(folder)) if below(file, folder) else file.name
    )
    parent, name = os.path.split(inside)
    known = max(
        (s for s in io.FORMATS if name.lower().endswith(s) and len(name) > len(s)), key=len, default=""
    )
    stem = name[: len(name) - len(known)] + (f"-{item.replace('/', '-')}" if item else "")
    try:
        suffix = io.label_suffix(file)
    except VoxgapError:  # It will be said of the scan.
        suffix = io.OTHERS
    return Path(parent, stem + suffix).as_posix()


def _alike(names: Sequence[str]) -> Counter[str]:
    """Count names as those file systems do that know no capitals."""
    return Counter(name.casefold() for name in names)


def _numbered(names: Sequence[str]) -> list[str]:
    """Return the names, each but the first of several that are one with a number that makes it its own."""
    taken: set[str] = set()
    free = _alike(names)
    found = []
    for name in names:
        new, number = name, 1
        while new.casefold() in taken or (new != name and new.casefold() in free):
            number += 1
            path = Path(name)
            stem, dot, suffix = path.name.partition(".")
            new = path.with_name(f"{stem}-{number}{dot}{suffix}").as_posix()
        taken.add(new.casefold())
        found.append(new)
    return found
