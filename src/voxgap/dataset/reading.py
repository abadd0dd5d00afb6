"""Reading the samples of a listing into one array, onto one grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from voxgap import io
from voxgap.dataset.listing import Listing, refuse
from voxgap.doubts import gathered
from voxgap.errors import VoxgapError
from voxgap.grid import UNLABELLED, Grid, Sample, read_sample, scan_sample
from voxgap.resample import Record
from voxgap.volume import Volume, times


class Samples(NamedTuple):
    """All samples on one grid; see `read_samples`. The arrays may be on disk: see `voxgap.dataset.lazy`."""

    volumes: Any
    first: Volume
    records: tuple[list[Record], ...]
    label_maps: Any = None


Allocate = Callable[[str, tuple[int, ...], Any], Any]
"""Takes `volumes` or `maps`, a shape and a dtype, and returns what samples can be put into, one by one."""


@gathered()
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
    samples = scan_samples(listing, name, grid, max_bytes)
    shapes: dict[tuple[int, ...], list[str]] = {}
    if not grid.moves:
        for row, sample in zip(listing.rows, samples, strict=True):
            shapes.setdefault(sample.shape, []).append(row.where)
        check_shapes(name, shapes, grid)
        shapes = {}
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


@gathered()
def scan_samples(listing: Listing, name: str, grid: Grid, max_bytes: int = io.MAX_BYTES) -> list[Sample]:
    """Read the headers of all samples, of whatever shapes.

    Raises:
        VoxgapError: All files that can't be read at once.
    """
    problems: list[str] = []
    samples = []
    for row in listing.rows:
        try:
            sample = scan_sample(row.files, listing.channels, row.label_map, grid=grid, max_bytes=max_bytes)
        except VoxgapError as error:
            problems.append(f"{row.where}: {error}")
            continue
        samples.append(sample)
    refuse(name, problems)
    return samples


def rises(listing: Listing, grid: Grid) -> bool:
    """Tell whether height is known to run to the north, to the front or to the head: by the first sample.

    Files that say where they lie are turned alike, each format by the rules of `voxgap.io.rules`.
    """
    first = listing.rows[0]
    return scan_sample(first.files, listing.channels, grid=grid).first.rises


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
