"""Which files make up a data set: a CSV manifest, a folder per class, and reading them into one array."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from voxgap import io
from voxgap.errors import VoxgapError
from voxgap.volume import Values, Volume, times

SPLITS = ("train", "validation", "test")
MAX_PROBLEMS = 20
_SPLIT_ALIASES = {"val": "validation", "valid": "validation", "training": "train", "testing": "test"}
_RESERVED = ("path", "label", "target", "group", "split")


class Row(NamedTuple):
    """One sample: where it is listed, one file per channel (None: that channel is missing), and its cells."""

    where: str
    files: tuple[Path | None, ...]
    label: str
    group: str = ""
    split: str = ""


class Listing(NamedTuple):
    """All samples of a data set, and what their columns mean.

    `channels` names the channel columns; it is empty where one file holds all channels of a sample.
    """

    rows: list[Row]
    channels: tuple[str, ...] = ()
    target: bool = False
    """True: the labels are numbers to predict."""


def split_name(name: str) -> str | None:
    """Return `train`, `validation` or `test`, also for the usual short forms; None for anything else."""
    lower = name.strip().lower()
    known = _SPLIT_ALIASES.get(lower, lower)
    return known if known in SPLITS else None


def read_manifest(path: Path) -> Listing:
    """Read a CSV manifest and check every cell of it, before any volume is read.

    Args:
        path: A CSV file (comma, semicolon or tab) with a header row: `path` or one column per channel,
            `label` or `target`, perhaps `group` and `split`. Files are relative to it.

    Raises:
        VoxgapError: All problems at once, with their line numbers.
    """
    header, lines = _csv_lines(path)
    channels = () if "path" in header else tuple(name for name in header if name not in _RESERVED)
    problems = _header_problems(header, channels)
    if not problems and not lines:
        problems = ["there is no row below the header; list one sample per row"]
    refuse(str(path), problems)
    rows = []
    for number, cells in lines:
        where = f"row {number}"
        if len(cells) != len(header):
            problems.append(f"{where}: {len(cells)} cells for {len(header)} columns; check its commas")
            continue
        values = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        names = channels or ("path",)
        row = Row(
            where,
            tuple(path.parent / values[name] if values[name] else None for name in names),
            values.get("label", values.get("target", "")),
            values.get("group", ""),
            values.get("split", ""),
        )
        problems += [f"{where}: {problem}" for problem in _row_problems(row, header)]
        rows.append(row)
    refuse(str(path), problems)
    return Listing(rows, channels, "target" in header)


def list_folder(path: Path) -> Listing:
    """List a folder with one sub-folder per class, or with `train`, `validation` and `test` above those.

    Raises:
        VoxgapError: There is no sub-folder, or one without volumes.
    """
    folders = _sub_folders(path)
    parts = {folder: split_name(folder.name) for folder in folders}
    if folders and all(parts.values()):
        classes = [(inner, part or "") for folder, part in parts.items() for inner in _sub_folders(folder)]
    else:
        classes = [(folder, "") for folder in folders]
    if not classes:
        raise VoxgapError(f"{path}: has no sub-folder; make one per class, or give a CSV manifest")
    rows = []
    for folder, part in classes:
        files = [file for file in sorted(folder.iterdir()) if io.is_volume(file)]
        if not files:
            raise VoxgapError(f"{folder}: holds no volume; voxgap reads {', '.join(io.FORMATS)}")
        rows += [Row(str(file.relative_to(path)), (file,), folder.name, "", part) for file in files]
    return Listing(rows)


def read_samples(
    listing: Listing, name: str, max_bytes: int, missing_values: Sequence[float] = ()
) -> tuple[Values, Volume]:
    """Read all samples into one array.

    Args:
        listing: The samples.
        name: What error messages call the data.
        max_bytes: Refuse data that would take more memory than this.
        missing_values: Values that stand for missing.

    Returns:
        `(samples, depth, height, width, channels)`, and the first volume for its names and spacing (None
        where the spacings differ).

    Raises:
        VoxgapError: All files that can't be read at once, or the shapes that differ.
    """
    problems: list[str] = []
    shapes: dict[tuple[int, ...], list[str]] = {}
    spacings = set()
    first: Volume | None = None
    values: Values | None = None
    for index, row in enumerate(listing.rows):
        try:
            volume = read_sample(row, listing.channels, max_bytes, missing_values)
        except VoxgapError as error:
            problems.append(f"{row.where}: {error}")
            continue
        if first is None or values is None:
            first = volume
            size = volume.values.nbytes * len(listing.rows)
            if size > max_bytes:
                raise VoxgapError(f"{name}: would take {size / 2**30:.1f} GiB; crop, or raise max_bytes")
            values = np.empty((len(listing.rows), *volume.shape), np.float32)
        shapes.setdefault(volume.shape, []).append(row.where)
        spacings.add(None if volume.spacing is None else tuple(f"{size:.3g}" for size in volume.spacing))
        if volume.shape == first.shape:
            values[index] = volume.values
    refuse(name, problems)
    if first is None or values is None or len(shapes) > 1:
        raise VoxgapError(f"{name}: volumes differ in shape: {_shapes_text(shapes)}; crop or resample to one")
    if len(spacings) > 1:
        first = Volume(first.values, channels=first.channels, source=first.source)
    return values, first


def read_sample(
    row: Row, channels: tuple[str, ...], max_bytes: int, missing_values: Sequence[float] = ()
) -> Volume:
    """Read one sample: a file with all channels, or one file per channel, NaN where there is none.

    Raises:
        VoxgapError: A file can't be read, holds several channels, or the files differ in shape.
    """
    volumes = [
        None if file is None else io.read(file, max_bytes=max_bytes, missing_values=missing_values)
        for file in row.files
    ]
    present = [volume for volume in volumes if volume is not None]
    first = present[0]
    if not channels:
        return first
    for volume in present:
        if volume.shape != (*first.shape[:3], 1):
            raise VoxgapError(
                f"{volume.source}: shape {times(volume.shape)}; each channel file needs "
                f"{times((*first.shape[:3], 1))}, as the first one; crop or resample"
            )
    gap = np.full(first.shape, np.nan, np.float32)
    values = np.concatenate([gap if volume is None else volume.values for volume in volumes], axis=-1)
    return Volume(values, affine=first.affine, spacing=first.spacing, channels=channels, source=first.source)


def refuse(name: str, problems: Sequence[str]) -> None:
    """Raise one `VoxgapError` that lists all problems, if there are any."""
    if len(problems) == 1:
        raise VoxgapError(f"{name}: {problems[0]}")
    if problems:
        shown = [f"  {problem}" for problem in problems[:MAX_PROBLEMS]]
        if len(problems) > MAX_PROBLEMS:
            shown.append(f"  and {len(problems) - MAX_PROBLEMS} more")
        raise VoxgapError("\n".join([f"{name}: {len(problems)} problems", *shown]))


def _csv_lines(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    # Excel writes a byte order mark, and semicolons where the comma is the decimal sign.
    with path.open(encoding="utf-8-sig", newline="") as stream:
        head = stream.readline()
        stream.seek(0)
        delimiter = max(",;\t", key=head.count)
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    if not lines:
        raise VoxgapError(f"{path}: holds no header; name the columns in its first row")
    header = [name.strip() for name in lines[0][1]]
    return [name.lower() if name.lower() in _RESERVED else name for name in header], lines[1:]


def _header_problems(header: list[str], channels: tuple[str, ...]) -> list[str]:
    problems = [f"column {name!r} stands twice; rename one" for name in set(header) if header.count(name) > 1]
    if "" in header:
        problems.append("a column has no name; name it in the first row")
    if ("label" in header) == ("target" in header):
        problems.append("needs either a `label` column (classes) or a `target` column (numbers)")
    if "path" not in header and not channels:
        problems.append("needs a `path` column, or one column per channel")
    return problems


def _row_problems(row: Row, header: list[str]) -> list[str]:
    problems = []
    if not any(row.files):
        problems.append("names no file; give at least one channel, or remove the row")
    for file in filter(None, row.files):
        try:
            io.check_volume(file)
        except VoxgapError as error:
            problems.append(str(error))
        except (OSError, ValueError) as error:
            problems.append(f"{file}: can't be read ({error})")
    for column in ("label", "group"):
        if column in header and not getattr(row, column):
            problems.append(f"{column} is empty; fill it in")
    if "target" in header and not _is_number(row.label):
        problems.append(f"target {row.label!r} is not a number")
    if "split" in header and split_name(row.split) is None:
        problems.append(f"split {row.split!r} is unknown; use {', '.join(SPLITS)}")
    return problems


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _sub_folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _shapes_text(shapes: dict[tuple[int, ...], list[str]]) -> str:
    commonest_first = sorted(shapes.items(), key=lambda item: -len(item[1]))
    pieces = []
    for shape, wheres in commonest_first[:5]:
        some = ", ".join(wheres[:3]) + ("" if len(wheres) <= 3 else f" and {len(wheres) - 3} more")
        pieces.append(f"{times(shape)} ({some})")
    return "; ".join(pieces)
