"""Which files filling writes, and the manifest that lists them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voxgap.errors import VoxgapError

if TYPE_CHECKING:
    from voxgap.dataset.listing import Listing, Row

COPIED = (".nc", ".nc4", ".h5", ".hdf5", ".zarr")
"""Of these a filled file is a copy, with other values for what was filled."""


@dataclass(frozen=True)
class Sample:
    """One sample: the files it is read from (None: a channel without one), and those it is written to."""

    sources: tuple[Path | None, ...]
    targets: tuple[Path, ...]
    channels: tuple[str, ...] = ()
    train: bool = True

    @property
    def done(self) -> bool:
        """Whether all of its files are there."""
        from voxgap.io import split_item

        return all(split_item(target)[0].exists() for target in self.targets)


def plan(listing: Listing, path: Path, folder: Path) -> list[Sample]:
    """Choose where each sample goes: the same path below the folder as below the data."""
    from voxgap.dataset.listing import refuse
    from voxgap.dataset.splits import split_name

    files = [os.path.abspath(file) for row in listing.rows for file in row.files if file is not None]
    root = Path(os.path.commonpath([os.path.abspath(path if path.is_dir() else path.parent), *files]))
    samples: list[Sample] = []
    problems: list[str] = []
    taken: dict[Path, str] = {}
    for row in listing.rows:
        try:
            targets = _targets(row, listing.channels, root, folder)
        except VoxgapError as error:
            problems.append(f"{row.where}: {error}")
            continue
        twice = next((target for target in targets if target in taken), None)
        if twice is not None:
            problems.append(
                f"{row.where}: {taken[twice]} is written to {twice}, too; give each row its files"
            )
        taken |= dict.fromkeys(targets, row.where)
        is_train = split_name(row.split) == "train"
        samples.append(Sample(row.files, targets, listing.channels, is_train))
    refuse(str(path), problems)
    return samples


def _targets(row: Row, channels: tuple[str, ...], root: Path, folder: Path) -> tuple[Path, ...]:
    """Return a target for each channel; one without a file is called after the first that has one."""
    present = next(file for file in row.files if file is not None)
    return tuple(
        target_of(file or present, root, folder, "" if file else f"-{plain(channels[index])}")
        for index, file in enumerate(row.files)
    )


def target_of(file: Path, root: Path, folder: Path, ending: str = "") -> Path:
    """Return where a file goes, below the folder as it is below the root; a `VoxgapError` where it is only read."""
    from voxgap.io import FORMATS, split_item, suffix
    from voxgap.io.planes import is_planes

    path, item = split_item(file)
    path = Path(os.path.abspath(path))
    below = path.parent.relative_to(os.path.abspath(root)) if root != file else Path()
    if path.is_dir() and is_planes(path):  # What is filled is no whole number of 8 bits, as an image needs.
        return folder / below / f"{path.name}{ending}.tif"
    known = "" if path.is_dir() and not path.name.lower().endswith(tuple(FORMATS)) else suffix(path)
    form = FORMATS[known or ".dicom"]
    if not (form.write or form.write_folder):
        raise VoxgapError(f"{path}: {known} is only read; convert to .nii.gz or .npz first")
    stem, dot = path.name[: len(path.name) - len(known)], path.name[len(path.name) - len(known) :]
    # Each item of a file gets a file of its own.
    name = f"{stem}{'-' + plain(item) if item else ''}{ending}{dot}"
    # A copy of the file with everything in it: the item is still one of several.
    return folder / below / (f"{name}::{item}" if item and not ending and known in COPIED else name)


def plain(name: str) -> str:
    """Return a name that any file system takes."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)


def write_manifest(path: Path, listing: Listing, samples: Sequence[Sample]) -> None:
    """Write a CSV manifest like the one that was read, with the filled files in it."""
    from voxgap import table

    paths = listing.channels or ("path",)
    given = [name for name in ("label", "label_map", "group", "split") if any(_all(listing, name))]
    rows = []
    for row, sample in zip(listing.rows, samples, strict=True):
        files = [target.relative_to(path.parent).as_posix() for target in sample.targets]
        drawn = None if row.label_map is None else os.path.relpath(row.label_map, path.parent)
        cells = row._asdict() | {"label_map": drawn}  # it stays where it is
        rows.append(
            dict(zip((*paths, *listing.targets), (*files, *row.targets), strict=True))
            | {name: cells[name] for name in given}
        )
    table.write(path, [*paths, *listing.targets, *given], rows)


def _all(listing: Listing, name: str) -> list[Any]:
    return [getattr(row, name) for row in listing.rows]
