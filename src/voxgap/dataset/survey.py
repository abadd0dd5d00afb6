"""What lies in files of any shape: sizes, voxels and what is missing, and the grid that they may be brought onto."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from voxgap import io, table
from voxgap.dataset.dataset import Dataset
from voxgap.dataset.folders import is_folder, list_folder
from voxgap.dataset.listing import Listing, Row
from voxgap.dataset.manifest import read_manifest
from voxgap.dataset.names import of_files
from voxgap.dataset.reading import read_samples, scan_samples, spacing_of
from voxgap.grid import Grid, place_label_map, read_sample
from voxgap.names import EMBEDDED
from voxgap.ragged import differ, shapes_of
from voxgap.volume import Values, Volume, times

MULTIPLE = 8
"""Networks that halve three times take sizes that can be halved so."""


class Survey(NamedTuple):
    """The samples of a listing as their headers describe them.

    `shapes` are `(depth, height, width, channels)` and `spacings` `(depth, height, width)`, None where unknown, one
    each; `rises` as in a `Dataset`.
    """

    name: str
    listing: Listing
    shapes: tuple[tuple[int, ...], ...]
    spacings: tuple[tuple[float, float, float] | None, ...]
    rises: bool = False

    @property
    def unlabelled(self) -> bool:
        """Whether nothing is said of any sample that could be learnt."""
        return not self.listing.targets and not any(row.label or row.label_map for row in self.listing.rows)

    @property
    def suggested(self) -> dict[str, tuple[float, ...]]:
        """What brings the volumes onto one grid; empty where they are on one."""
        return self.grid() if self.differ else {}

    @property
    def facts(self) -> dict[str, Any]:
        """Return what there is beside the volumes, as plain values."""
        return {"files": self.rows(), "suggested": self.suggested}

    def read(self, grid: Grid) -> tuple[dict[str, Any], Values, tuple[str, ...]]:
        """Read samples of which nothing need be said.

        Returns:
            What is known of them, the volumes `(samples, depth, height, width, channels)`, and their channels.
        """
        found = read_samples(self.listing, self.name, grid, io.MAX_BYTES)
        return {"name": self.name, "spacing": found.first.spacing}, found.volumes, found.first.channels

    @property
    def differ(self) -> bool:
        """Whether volumes are of more than one shape."""
        return len(set(self.shapes)) > 1

    def rows(self) -> list[tuple[str, str]]:
        """Return sizes and voxels as pairs of name and text: ranges, and the commonest."""
        rows = [("sizes", _spread(self.shapes, times))] if self.differ else []
        rounded = {spacing and tuple(float(f"{size:.3g}") for size in spacing) for spacing in self.spacings}
        if len(rounded) > 1:
            known = [spacing for spacing in self.spacings if spacing is not None]
            unknown = len(self.spacings) - len(known)
            text = _spread(known, lambda sizes: " × ".join(f"{size:.3g}" for size in sizes)) if known else ""
            rows.append(
                ("voxels", ", ".join(filter(None, (text, f"unknown in {unknown}" if unknown else ""))))
            )
        return rows

    def grid(self) -> dict[str, tuple[float, ...]]:
        """Return a size, and a spacing where all have one, that hold all but the largest twentieth of the volumes."""
        extents = np.array([shape[:3] for shape in self.shapes], float)
        spacing = None
        if all(self.spacings):
            spacing = np.median(np.array(self.spacings, float), axis=0)
            extents *= np.array(self.spacings, float) / spacing
        high = np.quantile(extents, 0.95, axis=0) if spacing is not None else np.median(extents, axis=0)
        size = tuple(MULTIPLE * math.ceil(round(float(length), 3) / MULTIPLE) for length in high)
        # A single slice stays one.
        size = tuple(1 if extents[:, axis].max() == 1 else length for axis, length in enumerate(size))
        found: dict[str, tuple[float, ...]] = {"size": size}
        if spacing is not None:
            found["spacing"] = tuple(float(f"{length:.3g}") for length in spacing)
        return found


def listing_of(data: str) -> Listing | None:
    """List the samples that DATA names, None where they lie in one file or are embedded."""
    path = Path(data)
    if is_folder(path):
        return list_folder(path)
    return read_manifest(path) if path.suffix.lower() in table.SUFFIXES and path.is_file() else None


def survey(listing: Listing, name: str, grid: Grid) -> Survey:
    """Describe the samples of a listing as they are, by their headers.

    Raises:
        VoxgapError: All files that can't be read at once.
    """
    samples = scan_samples(listing, name, grid)
    shapes = tuple(sample.shape for sample in samples)
    return Survey(
        name,
        listing,
        shapes,
        tuple(spacing_of(sample.first) for sample in samples),
        samples[0].first.rises,
    )


def as_they_are(data: str, grid: Grid, most: int = 8) -> list[Values]:
    """Read some volumes of files without bringing them onto a grid: none where the grid changes nothing.

    Args:
        data: What DATA names.
        grid: What all of it is brought onto.
        most: So many, from all over the data.
    """
    listing = listing_of(data) if grid.moves else None
    if listing is None:
        return []
    rows = _some(listing, most)
    as_it_is = _unmoved(grid)
    samples = scan_samples(listing._replace(rows=rows), data, as_it_is)
    return [read_sample(sample, as_it_is).volume.values for sample in samples]


def at_one_size(data: Dataset) -> Dataset:
    """Return data whose volumes are resampled to their median size, where they are of several: to see patterns in."""
    if not differ(data.volumes):
        return data
    size = np.median([shape[:3] for shape in shapes_of(data.volumes)], axis=0)
    grid = Grid(size=tuple(max(1, round(length)) for length in size.tolist()))
    placed = [grid.place(Volume(values)) for values in data.volumes]
    maps: Any = data.label_maps
    if maps is not None:
        maps = np.stack([place_label_map(one, steps) for one, (_, steps) in zip(maps, placed, strict=True)])
    volumes = np.stack([volume.values for volume, _ in placed])
    targets = maps if data.task == "segmentation" else data.targets
    return replace(data, volumes=volumes, targets=targets, label_maps=maps, records=None, drawn=None)


def names_of(data: str, grid: Grid, most: int = 8) -> tuple[str, ...]:
    """Name the volumes that `as_they_are` reads; where it reads none, all that DATA names, if they lie in files."""
    listing = None if data.startswith(EMBEDDED) else listing_of(data)
    if listing is None:
        return ()
    rows = _some(listing, most) if grid.moves else listing.rows
    return of_files([row.files for row in rows], listing.folder or Path(data))


def _some(listing: Listing, most: int) -> list[Row]:
    count = len(listing.rows)  # at random: every so many might all lack one channel
    return [listing.rows[i] for i in np.random.default_rng(0).permutation(count)[:most]]


def _unmoved(grid: Grid) -> Grid:
    return replace(grid, size=None, spacing=None, crop=None)


def _spread(values: Sequence[Iterable[float]], text: Callable[[Any], str]) -> str:
    tuples = [tuple(value) for value in values]
    low, high = (tuple(of) for of in (np.min(tuples, axis=0).tolist(), np.max(tuples, axis=0).tolist()))
    (commonest, count), *_ = Counter(tuples).most_common()
    both = text(low) if low == high else f"{text(low)} to {text(high)}"
    return both if low == high else f"{both}; most often {text(commonest)} ({count} of {len(tuples)})"
