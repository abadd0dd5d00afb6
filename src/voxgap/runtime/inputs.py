"""What a person names on the command line, as the files of one sample each."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from voxgap import io
from voxgap.errors import VoxgapError
from voxgap.io.optional import need

_TABLES = (".csv", ".parquet")


class Item(NamedTuple):
    """One sample: how its row is called, and its file, or one file for each channel, None where there is none."""

    name: str
    files: tuple[str | None, ...]
    channels: bool = False

    @property
    def source(self) -> str | tuple[str | None, ...]:
        """What `Predictor.read` takes."""
        return self.files if self.channels else str(self.files[0])


def list_items(paths: Sequence[Path], channels: Sequence[str], names: Sequence[str] = ()) -> list[Item]:
    """List the samples among files, folders and manifests, each name once.

    Args:
        paths: volumes; folders, which are searched to any depth; manifests (CSV, Parquet) with a column `path` or
            one for each channel, relative to the manifest.
        channels: of the network.
        names: one file name for each channel: then each folder, or each of its sub-folders, is one sample, and a
            file that is not there is a missing channel. Without `paths`, they are the files of one sample.

    Raises:
        VoxgapError: there is none; or a manifest, or the number of names, does not fit the channels.
    """
    if names and len(names) != len(channels):
        raise VoxgapError(
            f"--channels: {len(names)} files for {len(channels)} channels, {', '.join(channels)}; name one each"
        )
    found: list[Item] = []
    if names and not paths:
        found.append(Item(str(names[0]), tuple(name or None for name in names), True))
    for path in paths:
        if names:
            found += _patients(path, names)
        elif path.suffix.lower() in _TABLES:
            found += _rows(path, channels)
        elif path.is_dir() and not io.is_volume(path):
            inside = [Item(str(file), (str(file),)) for file in _volumes(path)]
            if not inside:
                raise VoxgapError(f"{path}: holds no volume; voxgap reads {', '.join(io.FORMATS)}")
            found += inside
        else:
            found.append(Item(str(path), (str(path),)))
    if not found:
        raise VoxgapError("nothing to predict: name files, a folder, or a manifest")
    return list({item.name: item for item in found}.values())


def _volumes(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if io.is_volume(path):
            yield path
        elif path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
            yield from _volumes(path)


def _patients(folder: Path, names: Sequence[str]) -> list[Item]:
    if not folder.is_dir():
        raise VoxgapError(f"{folder}: with --channels, name folders that hold {', '.join(names)}")
    within = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    found = []
    for path in within:
        files = tuple(str(path / name) if name and (path / name).exists() else None for name in names)
        if any(files):
            found.append(Item(str(path), files, True))
    if not found:
        raise VoxgapError(f"{folder}: neither it nor a folder in it holds one of {', '.join(names)}")
    return found


def _rows(table: Path, channels: Sequence[str]) -> list[Item]:
    header, lines = (_parquet if table.suffix.lower() == ".parquet" else _csv)(table)
    columns = ["path"] if "path" in header else list(channels)
    lacking = [name for name in columns if name not in header]
    if lacking:
        raise VoxgapError(
            f"{table}: no column path, and none for channel {lacking[0]}; the network takes {', '.join(channels)}"
        )
    found = []
    for number, line in lines:
        if len(line) != len(header):
            raise VoxgapError(f"{table}: row {number} has {len(line)} cells for {len(header)} columns")
        cells = dict(zip(header, line, strict=True))
        files = tuple(os.fspath(table.parent / cells[name]) if cells[name] else None for name in columns)
        first = next(filter(None, files), None)
        if first is None:
            raise VoxgapError(f"{table}: row {number} names no file")
        # Two rows may share a file, so that a sample of several files is named after all of them.
        name = first if len(files) == 1 else "|".join(file or "" for file in files)
        found.append(Item(name, files, columns != ["path"]))
    return found


def _csv(table: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            head = stream.readline()
            stream.seek(0)
            reader = csv.reader(stream, delimiter=max(",;\t", key=head.count), strict=True)
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(cells)]
    except (csv.Error, UnicodeDecodeError) as error:
        raise VoxgapError(f"{table}: not a CSV manifest ({error})") from None
    if not lines:
        raise VoxgapError(f"{table}: holds no header; name the columns in its first row")
    return lines[0][1], lines[1:]


def _parquet(table: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    parquet = need("pyarrow.parquet", table)
    try:
        rows = parquet.read_table(table).to_pylist()
    except Exception as error:  # whatever a damaged file makes Arrow raise
        raise VoxgapError(f"{table}: not a Parquet manifest ({str(error).splitlines()[0][:100]})") from None
    header = list(rows[0]) if rows else []
    return header, [
        (i, [str(v) if v is not None else "" for v in row.values()]) for i, row in enumerate(rows, 1)
    ]
