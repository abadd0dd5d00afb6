"""What a person names on the command line, as the files of one sample each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from voxgap import io, paths, table
from voxgap.errors import VoxgapError


class Item(NamedTuple):
    """One sample: how its row is called, and its file, or one file for each channel, None where there is none."""

    name: str
    files: tuple[str | None, ...]
    channels: bool = False

    @property
    def source(self) -> str | tuple[str | None, ...]:
        """What `Predictor.read` takes."""
        return self.files if self.channels else str(self.files[0])


def list_items(given: Sequence[Path], channels: Sequence[str], names: Sequence[str] = ()) -> list[Item]:
    """List the samples among files, folders and manifests, each name once.

    Args:
        given: volumes; folders, which are searched to any depth; tables (CSV, Parquet) with a column `path` or
            one for each channel, relative to the manifest.
        channels: of the network.
        names: one file name for each channel: then each folder, or each of its sub-folders, is one sample, and a
            file that is not there is a missing channel. Without `given`, they are the files of one sample.

    Raises:
        VoxgapError: there is none; or a manifest, or the number of names, does not fit the channels.
    """
    if names and len(names) != len(channels):
        raise VoxgapError(
            f"--channels: {len(names)} files for {len(channels)} channels, {', '.join(channels)}; name one each"
        )
    found: list[Item] = []
    if names and not given:
        found.append(Item(str(names[0]), tuple(name or None for name in names), True))
    for path in given:
        if names:
            found += _patients(path, names)
        elif path.suffix.lower() in table.SUFFIXES:
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
    yield from paths.volumes(folder)
    for path in paths.folders(folder):
        if not io.is_volume(path) and not path.is_symlink():
            yield from _volumes(path)


def _patients(folder: Path, names: Sequence[str]) -> list[Item]:
    if not folder.is_dir():
        raise VoxgapError(f"{folder}: with --channels, name folders that hold {', '.join(names)}")
    within = [folder, *paths.folders(folder)]
    found = []
    for path in within:
        files = tuple(str(path / name) if name and (path / name).exists() else None for name in names)
        if any(files):
            found.append(Item(str(path), files, True))
    if not found:
        raise VoxgapError(f"{folder}: neither it nor a folder in it holds one of {', '.join(names)}")
    return found


def _rows(manifest: Path, channels: Sequence[str]) -> list[Item]:
    header, rows, _ = table.read(manifest)
    columns = _columns(manifest, header, channels)
    found = []
    for row in rows:
        if row.problem:
            raise VoxgapError(f"{manifest}: row {row.number}: {row.problem}")
        cells = [row.cells[index] for index in columns]
        files = tuple(os.fspath(paths.resolve(cell, manifest.parent)) if cell else None for cell in cells)
        first = next(filter(None, files), None)
        if first is None:
            raise VoxgapError(f"{manifest}: row {row.number} names no file")
        # Two rows may share a file, so that a sample of several files is named after all of them.
        name = first if len(files) == 1 else "|".join(file or "" for file in files)
        found.append(Item(name, files, "path" not in header))
    return found


def _columns(manifest: Path, header: Sequence[str], channels: Sequence[str]) -> list[int]:
    """Return where the files stand: one column, or one for each channel, whose name may be in another case."""
    if "path" in header:
        return [header.index("path")]
    places = {name.casefold(): index for index, name in enumerate(header)}
    places |= {name: index for index, name in enumerate(header)}
    found = [places.get(name, places.get(name.casefold())) for name in channels]
    if None in found:
        raise VoxgapError(
            f"{manifest}: no column path, and none for channel {channels[found.index(None)]}; the network takes "
            f"{', '.join(channels)}"
        )
    return [index for index in found if index is not None]
