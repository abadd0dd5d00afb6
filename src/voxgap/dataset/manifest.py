"""Which files make up a data set: a manifest (CSV, Parquet), a folder per class; and reading them."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from voxgap import io, paths, table
from voxgap.dataset import columns as columns_named
from voxgap.dataset import described
from voxgap.dataset.listing import Listing, Row, refuse
from voxgap.dataset.splits import SPLITS, split_name
from voxgap.dataset.targets import alike, class_name
from voxgap.errors import VoxgapError
from voxgap.subjects import group_column
from voxgap.table import is_number, is_reserved, is_target

_LARGEST = float(np.finfo(np.float32).max)
_WHOLE = re.compile(r"\A([+-]?\d+),0*\Z", re.ASCII)
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?", re.ASCII)
_POINT_OR_COMMA = re.compile(r"[+-]?\d*([.,])\d+(?:[eE][+-]?\d+)?", re.ASCII)
_EITHER = re.compile(r"[+-]?(?:0|[1-9]\d{0,2}(?:([.,])\d{3})?)", re.ASCII)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}\.\d{3}", re.ASCII)


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
    columns = {name: [line.cells[i] for line in lines if not line.problem] for i, name in enumerate(header)}
    if (called := group_column(path, header, columns)) is not None:
        header = ["group" if name == called else name for name in header]
        columns["group"] = columns.pop(called)
    channels = () if "path" in header else tuple(name for name in header if not is_reserved(name))
    targets = tuple(name for name in header if is_target(name))
    problems = _header_problems(header, channels)
    if not problems and not lines:
        problems = ["there is no row below the header; list one sample per row"]
    refuse(str(path), problems)
    foreign = columns_named.no_channels(path, columns, channels)
    problems += foreign.values()
    channels = tuple(name for name in channels if name not in foreign)
    named = [name for name in ("label", "group") if name in columns]
    if decimal_comma and path.suffix.lower() != ".parquet":  # where a column has a type, a point is a point
        doubts = _thousands(columns, targets, named, [line.number for line in lines if not line.problem])
        problems += doubts or _either(columns, targets, named)
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
        if channels or not foreign:
            problems += [f"{where}: {problem}" for problem in _row_problems(row, header)]
        rows.append(row)
    refuse(str(path), problems + _alike(path, columns))
    columns_named.say_others(path, header, channels)
    return described.with_names_beside(Listing(rows, channels, targets, path.parent))


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


def _either(columns: dict[str, list[str]], targets: Sequence[str], named: Sequence[str]) -> list[str]:
    """Refuse a column in which each mark may part thousands, unless another number shows that it is a decimal sign."""
    cells = [cell for name in (*targets, *named) for cell in columns[name] if not _EITHER.fullmatch(cell)]
    decimal = {found[1] for cell in cells if (found := _POINT_OR_COMMA.fullmatch(cell))}
    problems = []
    for name in targets:
        each = [_EITHER.fullmatch(cell) for cell in columns[name] if cell]
        marked = next((one for one in each if one and one[1]), None)
        if marked and all(each) and marked[1] not in decimal:
            cell, mark = marked[0], marked[1]
            problems.append(
                f"{name} {cell!r} may be {cell.replace(mark, '')} or {cell}0, and so may each number of the column; "
                f"write thousands without a mark, and decimals with another number of digits, as {cell}0"
            )
    return problems


def _header_problems(header: list[str], channels: tuple[str, ...]) -> list[str]:
    problems = []
    wanted = ("label" in header) + any(map(is_target, header))
    if wanted > 1 or not (wanted or "label_map" in header):
        problems.append(
            "needs either a `label` column (classes) or a `target` column (numbers), or a `label_map` column, "
            "with something in it" + columns_named.hint(header, ("label", "target", "label_map"))
        )
    if "path" not in header and not channels:
        problems.append(
            "needs a `path` column, or one column per channel" + columns_named.hint(header, ("path",))
        )
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
