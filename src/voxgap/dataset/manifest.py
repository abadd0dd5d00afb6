"""Which files make up a data set: a manifest (CSV, Parquet), a folder per class; and reading them."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from voxgap import io, paths, table
from voxgap.dataset.splits import SPLITS, split_name
from voxgap.dataset.targets import alike, class_name
from voxgap.errors import VoxgapError
from voxgap.grid import UNLABELLED, Grid, Sample, read_sample, scan_sample
from voxgap.io.planes import is_planes
from voxgap.resample import Record
from voxgap.table import is_number, is_reserved, is_target
from voxgap.volume import Volume, times

MAX_PROBLEMS = 20
_LARGEST = float(np.finfo(np.float32).max)
_WHOLE = re.compile(r"\A([+-]?\d+),0*\Z", re.ASCII)
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?", re.ASCII)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}\.\d{3}", re.ASCII)


class Row(NamedTuple):
    """One sample: where it is listed, one file per channel (None: that channel is missing), and its cells."""

    where: str
    files: tuple[Path | None, ...]
    label: str = ""
    targets: tuple[str, ...] = ()
    group: str = ""
    split: str = ""
    label_map: Path | None = None


class Listing(NamedTuple):
    """All samples of a data set, and what their columns mean.

    `channels` names the channel columns; it is empty where one file holds all channels of a sample. `targets`
    names the columns of numbers to predict; it is empty where the samples have labels. `folder` is the data's own.
    """

    rows: list[Row]
    channels: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    folder: Path = Path()


class Samples(NamedTuple):
    """All samples on one grid; see `read_samples`. The arrays may be on disk: see `voxgap.dataset.lazy`."""

    volumes: Any
    first: Volume
    records: tuple[list[Record], ...]
    label_maps: Any = None


Allocate = Callable[[str, tuple[int, ...], Any], Any]
"""Takes `volumes` or `maps`, a shape and a dtype, and returns what samples can be put into, one by one."""


def read_manifest(path: Path) -> Listing:
    """Read a manifest and check every cell of it, before any volume is read.

    Args:
        path: A table that `voxgap.table.read` reads: `path` or one column per channel; `label`, or `target` and
            further columns that begin with `target_`; perhaps `label_map`, `group` and `split`. Files are relative
            to it.

    Raises:
        VoxgapError: All problems at once, with their rows: in a CSV file the line, in a Parquet file from 1.
    """
    header, lines, decimal_comma = table.read(path)
    channels = () if "path" in header else tuple(name for name in header if not is_reserved(name))
    targets = tuple(name for name in header if is_target(name))
    problems = _header_problems(header, channels)
    if not problems and not lines:
        problems = ["there is no row below the header; list one sample per row"]
    refuse(str(path), problems)
    columns = {name: [line.cells[i] for line in lines if not line.problem] for i, name in enumerate(header)}
    named = [name for name in ("label", "group") if name in columns]
    if decimal_comma and path.suffix.lower() != ".parquet":  # where a column has a type, a point is a point
        problems += _thousands(columns, targets, named, [line.number for line in lines if not line.problem])
    if decimal_comma:
        columns |= {name: [_WHOLE.sub(r"\1", cell) for cell in columns[name]] for name in named}
    columns |= {name: _decimal(columns[name], decimal_comma) for name in targets}
    rows: list[Row] = []
    for line in lines:
        where = f"row {line.number}"
        if line.problem:
            problems.append(f"{where}: {line.problem}")
            continue
        row = _row(
            where, {name: cells[len(rows)] for name, cells in columns.items()}, path, channels, targets
        )
        problems += [f"{where}: {problem}" for problem in _row_problems(row, header)]
        rows.append(row)
    refuse(str(path), problems + _alike(path, columns))
    return Listing(rows, channels, targets, path.parent)


def _alike(path: Path, columns: dict[str, list[str]]) -> list[str]:
    """Refuse one number that is written in two ways; warn of names that differ in case only, which may be meant."""
    problems = []
    for name in ("label", "group"):
        both = alike(columns.get(name, ()))
        if both and is_number(both[0]):
            problems.append(f"{name} {both[0]!r} and {both[1]!r} are one number; write it in one way")
        elif both:
            warnings.warn(f"{path}: {name} {both[0]!r} and {both[1]!r} are two, not one", stacklevel=4)
    return problems


def _row(
    where: str, cells: dict[str, str], path: Path, channels: tuple[str, ...], targets: tuple[str, ...]
) -> Row:
    def file(name: str) -> Path | None:
        return paths.resolve(cells[name], path.parent) if cells.get(name) else None

    return Row(
        where,
        tuple(map(file, channels or ("path",))),
        class_name(cells.get("label", "")),
        tuple(cells[name] for name in targets),
        class_name(cells.get("group", "")),
        cells.get("split", ""),
        file("label_map"),
    )


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


def read_samples(
    listing: Listing, name: str, grid: Grid, max_bytes: int, allocate: Allocate | None = None
) -> Samples:
    """Read all samples into one array; their headers first, so that what doesn't fit is found early.

    Args:
        listing: The samples.
        name: What error messages call the data.
        grid: What to bring them onto.
        max_bytes: Refuse data that would take more memory than this.
        allocate: Where to put the samples: by default into memory, all together within `max_bytes`.

    Returns:
        `(samples, depth, height, width, channels)`; the first volume for its names and spacing (None where
        the spacings differ); how each got onto the grid; and the label maps `(samples, depth, height, width)`
        where there are some.

    Raises:
        VoxgapError: All files that can't be read at once, or the shapes that differ.
    """
    samples = _scanned(listing, name, grid, max_bytes)
    shapes: dict[tuple[int, ...], list[str]] = {}
    problems: list[str] = []
    spacings = set()
    records = []
    found: Samples | None = None
    for index, (row, sample) in enumerate(zip(listing.rows, samples, strict=True)):
        try:
            placed = read_sample(sample, grid, max_bytes)
        except VoxgapError as error:
            problems.append(f"{row.where}: {error}")
            continue
        volume = placed.volume
        if found is None:
            found = _allocated(volume, listing, allocate or _in_memory(volume, listing, name, max_bytes))
        shapes.setdefault(volume.shape, []).append(row.where)
        spacings.add(None if volume.spacing is None else tuple(f"{size:.3g}" for size in volume.spacing))
        records.append(placed.records)
        if volume.shape == found.first.shape:
            found.volumes[index] = volume.values
            if found.label_maps is not None:
                nothing = np.full(volume.shape[:3], UNLABELLED, np.int16)
                found.label_maps[index] = nothing if placed.label_map is None else placed.label_map
    refuse(name, problems)
    check_shapes(name, shapes, grid)
    assert found is not None, "a listing has rows"
    first = found.first
    if len(spacings) > 1:
        first = Volume(first.values, channels=first.channels, source=first.source)
    return found._replace(first=first, records=tuple(records))


def _scanned(listing: Listing, name: str, grid: Grid, max_bytes: int) -> list[Sample]:
    problems: list[str] = []
    shapes: dict[tuple[int, ...], list[str]] = {}
    samples = []
    for row in listing.rows:
        try:
            sample = scan_sample(row.files, listing.channels, row.label_map, grid=grid, max_bytes=max_bytes)
        except VoxgapError as error:
            problems.append(f"{row.where}: {error}")
            continue
        samples.append(sample)
        shapes.setdefault(sample.shape, []).append(row.where)
    refuse(name, problems)
    if not grid.moves:
        check_shapes(name, shapes, grid)
    return samples


def _allocated(first: Volume, listing: Listing, allocate: Allocate) -> Samples:
    """Return arrays for all samples, once the first one says how large they are."""
    count = len(listing.rows)
    volumes = allocate("volumes", (count, *first.shape), np.float32)
    labelled = any(row.label_map for row in listing.rows)
    label_maps = allocate("maps", (count, *first.shape[:3]), np.int16) if labelled else None
    return Samples(volumes, first, (), label_maps)


def _in_memory(first: Volume, listing: Listing, name: str, max_bytes: int) -> Allocate:
    labelled = any(row.label_map for row in listing.rows)
    size = len(listing.rows) * (first.values.nbytes + labelled * 2 * math.prod(first.shape[:3]))
    if size > max_bytes:
        raise VoxgapError(
            f"{name}: would take {size / 2**30:.1f} GiB; give a smaller --size, keep it on disk with --cache, "
            "or raise max_bytes"
        )
    return lambda _, shape, dtype: np.empty(shape, dtype)


def refuse(name: str, problems: Sequence[str]) -> None:
    """Raise one `VoxgapError` that lists all problems, if there are any."""
    if len(problems) == 1:
        raise VoxgapError(f"{name}: {problems[0]}")
    if problems:
        shown = [f"  {problem}" for problem in problems[:MAX_PROBLEMS]]
        if len(problems) > MAX_PROBLEMS:
            shown.append(f"  and {len(problems) - MAX_PROBLEMS} more")
        raise VoxgapError(f"{name}: {len(problems)} problems", *shown)


def _decimal(cells: Sequence[str], decimal_comma: bool) -> list[str]:
    """Return the numbers of a column with a decimal point; as they are where a comma may mean something else."""
    commas = decimal_comma and not any("." in cell or cell.count(",") > 1 for cell in cells)
    return [cell.replace(",", ".") for cell in cells] if commas else list(cells)


def _thousands(
    columns: dict[str, list[str]], targets: Sequence[str], named: Sequence[str], numbers: Sequence[int]
) -> list[str]:
    """Refuse `1.200` in a table that writes 0,5: it is 1200 to the program that wrote it, or to nobody."""
    if not any(_DECIMAL_COMMA.fullmatch(cell) for name in (*targets, *named) for cell in columns[name]):
        return []
    return [
        f"row {number}: {name} {cell!r} may be {cell.replace('.', '')} or {cell.replace('.', ',')} where a comma is "
        "the decimal sign; write it without a point"
        for name in (*targets, *named)
        for number, cell in zip(numbers, columns[name], strict=True)
        # Of a name only what would be read as a whole number is in doubt.
        if _THOUSANDS.fullmatch(cell) and (name in targets or cell.endswith(".000"))
    ]


def _header_problems(header: list[str], channels: tuple[str, ...]) -> list[str]:
    problems = []
    wanted = ("label" in header) + any(map(is_target, header))
    if wanted > 1 or not (wanted or "label_map" in header):
        problems.append(
            "needs either a `label` column (classes) or a `target` column (numbers), or a `label_map` column, "
            "with something in it"
        )
    if "path" not in header and not channels:
        problems.append("needs a `path` column, or one column per channel")
    return problems


def _row_problems(row: Row, header: list[str]) -> list[str]:
    problems = []
    if not any(row.files):
        problems.append("names no file; give at least one channel, or remove the row")
    for file in filter(None, (*row.files, row.label_map)):
        try:
            io.check_volume(file)
        except VoxgapError as error:
            problems.append(str(error))
        except (OSError, ValueError) as error:
            problems.append(f"{file}: can't be read ({error})")
    for column in ("label", "group"):
        text = getattr(row, column)
        if text.startswith("#") and text.endswith(("!", "?")):
            problems.append(f"{column} {text!r} is a fault in a formula; mend it in the spreadsheet")
        if column in header and not text:
            problems.append(
                f"{column} is empty; fill it in (NA, None and - count as empty: what is really called so is 'NA)"
            )
    for column, text in zip(filter(is_target, header), row.targets, strict=True):
        if not is_number(text) or not math.isfinite(float(text)):
            problems.append(f"{column} {text!r} is not a number, such as -3.2 or 1e-5")
        elif abs(float(text)) > _LARGEST:
            problems.append(f"{column} {text} is too large; give it in larger units, within {_LARGEST:.4g}")
    if "split" in header and split_name(row.split) is None:
        problems.append(f"split {row.split!r} is unknown; use {', '.join(SPLITS)}")
    return problems


def check_shapes(name: str, shapes: dict[tuple[int, ...], list[str]], grid: Grid) -> None:
    """Raise a `VoxgapError` unless all volumes are of one shape: `shapes` says where each was found."""
    if len(shapes) < 2:
        return
    if len({shape[3] for shape in shapes}) > 1:
        remedy = "give the same channels for all"
    elif grid.spacing is not None:
        remedy = "add --size 32,32,32 (or size=): what lies outside is cut off, what lacks is missing"
    else:
        remedy = "bring them to one with --size 32,32,32 (or size= in load_data)"
    raise VoxgapError(f"{name}: volumes differ in shape: {_shapes_text(shapes)}; {remedy}")


def _shapes_text(shapes: dict[tuple[int, ...], list[str]]) -> str:
    commonest_first = sorted(shapes.items(), key=lambda item: -len(item[1]))
    pieces = []
    for shape, wheres in commonest_first[:5]:
        some = ", ".join(wheres[:3]) + ("" if len(wheres) <= 3 else f" and {len(wheres) - 3} more")
        pieces.append(f"{times(shape)} ({some})")
    return "; ".join(pieces)
