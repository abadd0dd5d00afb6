"""What a person names on the command line, as the files of one sample each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from voxgap import io, paths, table
from voxgap.errors import VoxgapError
from voxgap.runtime.naming import below, label_map_names
from voxgap.subjects import group_column


class Item(NamedTuple):
    """One sample: how its row is called, and its file, or one file for each channel, None where there is none.

    `folder` is the one that was named and holds it, "" where the file itself was; `label_map` is the name of the
    label map for it, see `label_map_names`; `group` is whose it is, where a table says so, and `case` its first file
    as seen from the table, by which it goes in the tables of a training, too.
    """

    name: str
    files: tuple[str | None, ...]
    channels: bool = False
    folder: str = ""
    label_map: str = ""
    group: str = ""
    case: str = ""

    @property
    def source(self) -> str | tuple[str | None, ...]:
        """What `Predictor.read` takes."""
        return self.files if self.channels else str(self.files[0])


def list_items(
    given: Sequence[Path],
    channels: Sequence[str],
    names: Sequence[str] = (),
    *,
    reference: str | None = None,
    out: Path | None = None,
) -> list[Item]:
    """List the samples among files, folders and manifests, each name once.

    Args:
        given: volumes; folders, which are searched to any depth; tables (CSV, Parquet) with a column `path` or
            one for each channel, relative to the manifest.
        channels: of the network.
        names: one file name for each channel: then each folder, or each of its sub-folders, is one sample, and a
            file that is not there is a missing channel. Without `given`, they are the files of one sample.
        reference: the channel on whose grid samples of several files are, where it is there.
        out: folder for what is written: nothing in it is an input.

    Raises:
        VoxgapError: there is none; a manifest, or the number of names, does not fit the channels; or `out` is a
            folder of inputs, or a label map in it would replace one.
    """
    if names and len(names) != len(channels):
        raise VoxgapError(
            f"--channels: {len(names)} files for {len(channels)} channels, {', '.join(channels)}; name one each"
        )
    found: list[Item] = []
    if names and not given:
        found.append(Item(str(names[0]), tuple(name or None for name in names), True))
    for path in given:
        if out is not None and path.is_dir() and same_file(path, out):
            raise VoxgapError(f"{out}: holds what is to be predicted; name another folder with --out")
        if names:
            found += _patients(path, names, out)
        elif path.suffix.lower() in table.SUFFIXES:
            found += _rows(path, channels)
        elif path.is_dir() and not io.is_volume(path):
            inside = [
                Item(str(file), (str(file),), folder=str(path))
                for volume in _volumes(path, out)
                for file in _series(volume)
            ]
            if not inside:
                raise VoxgapError(f"{path}: holds no volume; voxgap reads {', '.join(io.FORMATS)}")
            found += inside
        else:
            found += [Item(str(file), (str(file),)) for file in _series(path)]
    if not found:
        raise VoxgapError("nothing to predict: name files, a folder, or a manifest")
    named = _with_label_maps(list({item.name: item for item in found}.values()), channels, reference)
    if out is not None:
        _check_kept(named, out)
    return named


def _series(path: Path) -> list[Path]:
    """Return each series of a DICOM folder; one that can't be read is found out when it is."""
    if not paths.is_dicom_folder(path):
        return [path]
    try:
        found = [name for name, _ in paths.series(path)]
    except VoxgapError:
        return [path]
    return found if len(found) > 1 else [path]


def _with_label_maps(items: Sequence[Item], channels: Sequence[str], reference: str | None) -> list[Item]:
    """Name the label map of each after the file on whose grid it is."""
    place = list(channels).index(reference) if reference is not None and reference in channels else 0
    firsts = [(i.files[place] if i.channels else None) or next(filter(None, i.files), "") for i in items]
    names = label_map_names([(first, item.folder) for first, item in zip(firsts, items, strict=True)])
    return [item._replace(label_map=name) for item, name in zip(items, names, strict=True)]


def _check_kept(items: Sequence[Item], out: Path) -> None:
    inputs = {os.path.realpath(io.split_item(Path(file))[0]) for item in items for file in item.files if file}
    for item in items:
        if os.path.realpath(out / item.label_map) in inputs:
            raise VoxgapError(
                f"{out / item.label_map}: is to be predicted, and its label map would replace it; name another "
                "folder with --out"
            )


def same_file(one: Path, other: Path | None) -> bool:
    """Return whether two paths lead to one file or folder, which need not be there."""
    return other is not None and os.path.realpath(one) == os.path.realpath(other)


def _volumes(folder: Path, out: Path | None) -> Iterator[Path]:
    yield from paths.volumes(folder)
    for path in paths.folders(folder):
        if not io.is_volume(path) and not path.is_symlink() and not same_file(path, out):
            yield from _volumes(path, out)


def _patients(folder: Path, names: Sequence[str], out: Path | None) -> list[Item]:
    if not folder.is_dir():
        raise VoxgapError(f"{folder}: with --channels, name folders that hold {', '.join(names)}")
    within = [folder, *(path for path in paths.folders(folder) if not same_file(path, out))]
    found = []
    for path in within:
        files = tuple(str(path / name) if name and (path / name).exists() else None for name in names)
        if any(files):
            found.append(Item(str(path), files, True, str(folder)))
    if not found:
        raise VoxgapError(f"{folder}: neither it nor a folder in it holds one of {', '.join(names)}")
    return found


def _rows(manifest: Path, channels: Sequence[str]) -> list[Item]:
    header, rows, _ = table.read(manifest)
    columns = _columns(manifest, header, channels)
    for row in rows:
        if row.problem:
            raise VoxgapError(f"{manifest}: row {row.number}: {row.problem}")
    cells_of = {name: [row.cells[i] for row in rows] for i, name in enumerate(header)}
    others = [name for i, name in enumerate(header) if i not in columns]  # a channel may be called so
    whose = "group" if "group" in header else group_column(manifest, others, cells_of)
    groups = None if whose is None else header.index(whose)
    found = []
    for row in rows:
        cells = [row.cells[index] for index in columns]
        files = tuple(os.fspath(paths.resolve(cell, manifest.parent)) if cell else None for cell in cells)
        first = next(filter(None, files), None)
        if first is None:
            raise VoxgapError(f"{manifest}: row {row.number} names no file")
        # Two rows may share a file, so that a sample of several files is named after all of them.
        name = first if len(files) == 1 else "|".join(file or "" for file in files)
        inside = all(below(file, manifest.parent) for file in files if file)
        group = "" if groups is None else row.cells[groups]
        folder = str(manifest.parent) if inside else ""
        found.append(
            Item(
                name,
                files,
                "path" not in header,
                folder,
                group=group,
                case=paths.within(Path(first), manifest.parent),
            )
        )
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
