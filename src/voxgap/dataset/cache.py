"""Volumes that are decoded once and read from disk from then on, found again by what their files hold."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import numpy as np

from voxgap import __version__, io
from voxgap.dataset.lazy import Appended, OnDisk, Writer
from voxgap.dataset.listing import Listing
from voxgap.dataset.reading import Samples, read_samples
from voxgap.errors import VoxgapError
from voxgap.files import digest, forget, replacing, sha256, write_bytes
from voxgap.grid import Grid
from voxgap.volume import Volume

KEPT_BYTES = 32 * 2**30
# Headers whose voxels may stand in a file of any name beside them.
_DETACHED = (".nhdr", ".mhd")
# The folder may hold files of the user's.
_ENTRY = re.compile("[0-9a-f]{64}")


def cached_samples(
    folder: Path, listing: Listing, name: str, grid: Grid, max_bytes: int, kept_bytes: int = KEPT_BYTES
) -> Samples:
    """Read all samples as `read_samples` does, and only once: the same files on the same grid are not decoded again.

    Args:
        folder: Of the cache; made where there is none, and shared by any number of data sets and processes.
        listing, name, grid: As for `read_samples`.
        max_bytes: Refuse a sample that would take more memory than this; together they may be larger.
        kept_bytes: What the cache may hold; what was used longest ago goes first, this data set never.

    Returns:
        The same values; volumes and label maps stay on the disk. Of `first`, only names and spacing.

    Raises:
        VoxgapError: As `read_samples` does, or the folder can't be written to.
    """
    key = _key(listing, grid)
    # Whatever is wrong with an entry: the files are there to make it anew.
    with contextlib.suppress(OSError, EOFError, ValueError, KeyError, TypeError, VoxgapError):
        return _load(folder, key)
    try:
        _make(folder, key, listing, name, grid, max_bytes)
        own = (path for path in folder.iterdir() if _ENTRY.fullmatch(path.name.partition(".")[0]))
        forget(own, key, kept_bytes)
        return _load(folder, key)
    except OSError as error:
        raise VoxgapError(
            f"{folder}: can't hold the cache ({error.strerror}); make room, or choose another folder"
        ) from error


def _key(listing: Listing, grid: Grid) -> str:
    """Digest of all that the values depend on; labels and splits may change without decoding again."""
    known: dict[Path, str] = {}

    def content(path: Path | None) -> list[str] | None:
        if path is None:
            return None
        file, item = io.split_item(path)
        if file not in known:
            known[file] = digest([[f.relative_to(file.parent).as_posix(), sha256(f)] for f in _files(file)])
        return [known[file], item or ""]

    rows = [[*map(content, row.files), content(row.label_map)] for row in listing.rows]
    settings = [__version__, grid.to_json(), listing.channels, rows]
    return digest(settings)


def _files(path: Path) -> list[Path]:
    """Return all that a volume is read from; their names count, since the suffix says how bytes are read."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if not path.name.lower().endswith(_DETACHED):
        return [path]
    return [path, *sorted(f for f in path.parent.iterdir() if f.is_file() and not io.is_volume(f))]


def _load(folder: Path, key: str) -> Samples:
    about = json.loads((folder / f"{key}.json").read_bytes())
    shapes = about["shapes"] and [tuple(shape) for shape in about["shapes"]]
    volumes = OnDisk.npy(folder / f"{key}.npy", shapes)
    drawn = shapes and [shape[:3] for shape in shapes]
    maps = OnDisk.npy(folder / f"{key}.maps.npy", drawn) if about["maps"] else None
    if volumes.ndim != 5 or volumes.dtype != np.float32 or (maps is not None and maps.dtype != np.int16):
        raise ValueError(f"{key}: is no entry of this cache")
    # The file system's own clock may stand still for some milliseconds.
    os.utime(folder / f"{key}.json", ns=(time.time_ns(), time.time_ns()))
    spacing = None if about["spacing"] is None else tuple(about["spacing"])
    first = Volume(volumes[0], spacing=spacing, channels=tuple(about["channels"]))
    return Samples(volumes, first, tuple(about["records"]), maps)


def _make(folder: Path, key: str, listing: Listing, name: str, grid: Grid, max_bytes: int) -> None:
    """Write each sample as it is read, and last the small file that says that all are there."""
    paths = {"volumes": folder / f"{key}.npy", "maps": folder / f"{key}.maps.npy"}
    with contextlib.ExitStack() as files:

        def allocate(what: str, shape: tuple[int, ...] | None, dtype: Any) -> Writer | Appended:
            stream = files.enter_context(files.enter_context(replacing(paths[what])).open("wb"))
            return Appended(stream, dtype) if shape is None else Writer(stream, shape, dtype)

        found = read_samples(listing, name, grid, max_bytes, allocate)
        for array in (found.volumes, found.label_maps):
            if isinstance(array, Appended):
                array.end()
    about = {
        "shapes": found.volumes.shapes if isinstance(found.volumes, Appended) else None,
        "channels": found.first.channels,
        "spacing": found.first.spacing,
        "records": found.records,
        "maps": found.label_maps is not None,
    }
    write_bytes(folder / f"{key}.json", json.dumps(about).encode())
