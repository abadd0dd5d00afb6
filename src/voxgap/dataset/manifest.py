"""Which files make up a data set: a manifest (CSV, Parquet), a folder per class; and reading them."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from voxgap import io
from voxgap.dataset.splits import SPLITS, split_name
from voxgap.errors import VoxgapError
from voxgap.grid import UNLABELLED, Grid, Sample, read_sample, scan_sample
from voxgap.io.optional import need
from voxgap.resample import Record
from voxgap.volume import Volume, times

MAX_PROBLEMS = 20
MAX_ROWS = 10_000_000
MAX_TABLE_BYTES = 2**30
_RESERVED = ("path", "label", "target", "label_map", "group", "split")


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
    names the columns of numbers to predict; it is empty where the samples have labels.
    """

    rows: list[Row]
    channels: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()


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
        path: A CSV file (comma, semicolon or tab) or Parquet file: `path` or one column per channel; `label`,
            or `target` and further columns that begin with `target_`; perhaps `label_map`, `group` and
            `split`. Files are relative to it.

    Raises:
        VoxgapError: All problems at once, with their rows: in a CSV file the line, in a Parquet file from 1.
    """
    header, lines = (_parquet_lines if path.suffix.lower() == ".parquet" else _csv_lines)(path)
    header = [name.lower() if _is_reserved(name.lower()) else name for name in header]
    channels = () if "path" in header else tuple(name for name in header if not _is_reserved(name))
    targets = tuple(name for name in header if _is_target(name))
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
        files = {name: _file(path.parent, values[name]) if values.get(name) else None for name in header}
        row = Row(
            where,
            tuple(files[name] for name in channels or ("path",)),
            values.get("label", ""),
            tuple(values[name] for name in targets),
            values.get("group", ""),
            values.get("split", ""),
            files.get("label_map"),
        )
        problems += [f"{where}: {problem}" for problem in _row_problems(row, header)]
        rows.append(row)
    refuse(str(path), problems)
    return Listing(rows, channels, targets)


def _file(folder: Path, cell: str) -> Path:
    """Return the file that a cell names, relative to its manifest; `~/` is the user's own folder."""
    return folder / (os.path.expanduser(cell) if cell.startswith("~/") else cell)


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
        rows += [Row(str(file.relative_to(path)), (file,), folder.name, split=part) for file in files]
    return Listing(rows)


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
        raise VoxgapError("\n".join([f"{name}: {len(problems)} problems", *shown]))


def _csv_lines(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    with path.open("rb") as binary:
        if binary.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            raise VoxgapError(f"{path}: is UTF-16 text; save it as CSV UTF-8")
    # Excel writes a byte order mark, and semicolons where the comma is the decimal sign.
    with path.open(encoding="utf-8-sig", newline="") as stream:
        head = stream.readline()
        stream.seek(0)
        delimiter = max(",;\t", key=head.count)
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    if not lines:
        raise VoxgapError(f"{path}: holds no header; name the columns in its first row")
    return [name.strip() for name in lines[0][1]], lines[1:]


def _parquet_lines(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    parquet = need("pyarrow.parquet", path)
    file = parquet.ParquetFile(path)
    facts = file.metadata
    size = sum(facts.row_group(index).total_byte_size for index in range(facts.num_row_groups))
    # Encoded, a billion equal cells are a few bytes: the rows count as well.
    if facts.num_rows > MAX_ROWS or size > MAX_TABLE_BYTES:
        raise VoxgapError(f"{path}: {facts.num_rows} rows of {size} bytes are no manifest; leave columns out")
    # Pandas stores the index of its rows under such names.
    names = [name for name in file.schema_arrow.names if not name.startswith("__index_level_")]
    table = file.read(columns=names)
    columns = [[_cell(value) for value in table.column(name).to_pylist()] for name in names]
    rows = zip(*columns, strict=True) if columns else ()
    return [name.strip() for name in names], [(number, list(row)) for number, row in enumerate(rows, 1)]


def _cell(value: Any) -> str:
    """Write a cell as a CSV file would: nothing for null, and no `.0` after a whole number."""
    if value is None or value != value:
        return ""
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)


def _is_target(column: str) -> bool:
    return column == "target" or column.startswith("target_")


def _is_reserved(column: str) -> bool:
    return column in _RESERVED or _is_target(column)


def _header_problems(header: list[str], channels: tuple[str, ...]) -> list[str]:
    problems = [f"column {name!r} stands twice; rename one" for name in set(header) if header.count(name) > 1]
    if "" in header:
        problems.append("a column has no name; name it in the first row")
    wanted = ("label" in header) + any(map(_is_target, header))
    if wanted > 1 or not (wanted or "label_map" in header):
        problems.append(
            "needs either a `label` column (classes) or a `target` column (numbers), or a `label_map` column"
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
        if column in header and not getattr(row, column):
            problems.append(f"{column} is empty; fill it in")
    for column, text in zip(filter(_is_target, header), row.targets, strict=True):
        if not _is_number(text):
            problems.append(f"{column} {text!r} is not a number")
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
