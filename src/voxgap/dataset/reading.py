"""Reading the samples of a listing, onto one grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from voxgap import io
from voxgap.dataset.listing import Listing, refuse
from voxgap.doubts import gathered
from voxgap.errors import VoxgapError
from voxgap.grid import UNLABELLED, Grid, Sample, read_sample, scan_sample
from voxgap.ragged import together
from voxgap.resample import Record
from voxgap.volume import Volume


class Samples(NamedTuple):
    """All samples on one grid; see `read_samples`. The arrays may be on disk: see `voxgap.dataset.lazy`."""

    volumes: Any
    first: Volume
    records: tuple[list[Record], ...]
    label_maps: Any = None


Allocate = Callable[[str, tuple[int, ...] | None, Any], Any]
"""Takes `volumes` or `maps`, a shape (None where samples may differ in theirs) and a dtype, and returns what samples
can be put into, one by one."""


@gathered()
def read_samples(
    listing: Listing,
    name: str,
    grid: Grid,
    max_bytes: int,
    allocate: Allocate | None = None,
    scanned: list[Sample] | None = None,
) -> Samples:
    """Read all samples; their headers first, so that what doesn't fit is found early.

    Args:
        listing: The samples.
        name: What error messages call the data.
        grid: What to bring them onto.
        max_bytes: Refuse data that would take more memory than this.
        allocate: Where to put the samples: by default into memory, all together within `max_bytes`.
        scanned: Of `scan_samples`, where somebody needed it before.

    Returns:
        `(samples, depth, height, width, channels)`, a `Ragged` where they differ in shape; the first volume for its
        names and spacing (None where the spacings differ); how each got onto the grid; and the label maps
        `(samples, depth, height, width)` where there are some.

    Raises:
        VoxgapError: All files that can't be read at once, or samples that differ in their channels.
    """
    samples = scan_samples(listing, name, grid, max_bytes) if scanned is None else scanned
    _check_channels(
        name, {row.where: sample.shape for row, sample in zip(listing.rows, samples, strict=True)}
    )
    problems: list[str] = []
    spacings = set()
    records = []
    found: Samples | None = None
    shapes: dict[str, tuple[int, ...]] = {}
    for index, (row, sample) in enumerate(zip(listing.rows, samples, strict=True)):
        try:
            placed = read_sample(sample, grid, max_bytes)
        except VoxgapError as error:
            problems.append(f"{row.where}: {error}")
            continue
        volume = placed.volume
        shapes[row.where] = volume.shape
        if found is None:
            into = allocate or _in_memory(name, max_bytes)
            found = _allocated(volume, listing, into, _may_differ(samples, grid))
        spacings.add(None if volume.spacing is None else tuple(f"{size:.3g}" for size in volume.spacing))
        records.append(placed.records)
        found.volumes[index] = volume.values
        if found.label_maps is not None:
            nothing = np.full(volume.shape[:3], UNLABELLED, np.int16)
            found.label_maps[index] = nothing if placed.label_map is None else placed.label_map
    refuse(name, problems)
    _check_channels(name, shapes)
    assert found is not None, "a listing has rows"
    first = found.first
    if grid.spacing is not None:
        first = Volume(first.values, None, grid.spacing, first.channels, first.source)
    elif len(spacings) > 1:
        first = Volume(first.values, channels=first.channels, source=first.source)
    volumes, maps = (together(held) if isinstance(held, list) else held for held in found[::3])
    return Samples(volumes, first, tuple(records), maps)


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


def to_one_spacing(samples: Sequence[Sample], grid: Grid) -> Grid:
    """Return the grid on which samples of several shapes have voxels of one size: the median, to three digits.

    As nnU-Net does (Isensee et al., Nature Methods 18, 2021). Samples of one shape, and such of which not all say how
    large a voxel is, stay as they are.
    """
    if grid.size is not None or grid.spacing is not None:
        return grid
    spacings = [spacing_of(sample.first) for sample in samples]
    if len({sample.shape[:3] for sample in samples}) == 1 and grid.crop is None:
        return grid
    known = [spacing for spacing in spacings if spacing is not None]
    if len(known) < len(spacings):
        return grid
    depth, height, width = (float(f"{size:.3g}") for size in np.median(known, axis=0))
    return replace(grid, spacing=(depth, height, width))


def spacing_of(source: io.Source) -> tuple[float, float, float] | None:
    """Return the size of a voxel along `(depth, height, width)`, None where a file does not say it."""
    if source.spacing is not None or source.affine is None:
        return source.spacing
    depth, height, width = np.linalg.norm(source.affine[:3, :3], axis=0).tolist()
    return depth, height, width


def rises(listing: Listing, grid: Grid) -> bool:
    """Tell whether height is known to run to the north, to the front or to the head: by the first sample.

    Files that say where they lie are turned alike, each format by the rules of `voxgap.io.rules`.
    """
    first = listing.rows[0]
    return scan_sample(first.files, listing.channels, grid=grid).first.rises


def _may_differ(samples: Sequence[Sample], grid: Grid) -> bool:
    return grid.size is None and (grid.moves or len({sample.shape for sample in samples}) > 1)


def _allocated(first: Volume, listing: Listing, allocate: Allocate, may_differ: bool) -> Samples:
    """Return what all samples can be put into, once the first one says how large they are."""
    shape = None if may_differ else (len(listing.rows), *first.shape)
    volumes = allocate("volumes", shape, np.float32)
    labelled = any(row.label_map for row in listing.rows)
    label_maps = allocate("maps", shape and shape[:4], np.int16) if labelled else None
    return Samples(volumes, first, (), label_maps)


class _Listed(list[Any]):
    """Samples of any shape, put in one after another, as long as there is room for them."""

    def __init__(self, name: str, max_bytes: int) -> None:
        super().__init__()
        self._name, self._room, self._taken = name, max_bytes, 0

    def __setitem__(self, _: Any, values: Any) -> None:
        self._taken += values.nbytes
        _check_room(self._name, self._taken, self._room)
        self.append(values)


def _in_memory(name: str, max_bytes: int) -> Allocate:
    def allocate(_: str, shape: tuple[int, ...] | None, dtype: Any) -> Any:
        if shape is None:
            return _Listed(name, max_bytes)
        _check_room(name, math.prod(shape) * np.dtype(dtype).itemsize, max_bytes)
        return np.empty(shape, dtype)

    return allocate


def _check_room(name: str, wanted: int, max_bytes: int) -> None:
    if wanted > max_bytes:
        raise VoxgapError(
            f"{name}: would take {wanted / 2**30:.1f} GiB or more; give a smaller --size, keep it on disk with "
            "--cache, or raise max_bytes"
        )


def _check_channels(name: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise a `VoxgapError` unless all volumes have as many channels; `shapes` says of what shape is what."""
    by_count: dict[int, list[str]] = {}
    for where, shape in shapes.items():
        by_count.setdefault(shape[3], []).append(where)
    if len(by_count) < 2:
        return
    commonest_first = sorted(by_count.items(), key=lambda item: -len(item[1]))
    pieces = []
    for count, wheres in commonest_first[:5]:
        some = ", ".join(wheres[:3]) + ("" if len(wheres) <= 3 else f" and {len(wheres) - 3} more")
        pieces.append(f"{count} ({some})")
    raise VoxgapError(
        f"{name}: volumes differ in their channels: {'; '.join(pieces)}; give the same channels for all"
    )
