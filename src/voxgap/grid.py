"""The grid that a network takes its volumes on, and how files get there: one way for training and serving."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap import io
from voxgap.errors import VoxgapError
from voxgap.resample import Record, crop_or_pad, crop_to_observed, replay, resample
from voxgap.volume import Volume, times

LabelMap = NDArray[np.int16]

UNLABELLED = -1
"""In a label map: nobody said what this voxel is, or it lies outside what was scanned."""

_Three = tuple[float, float, float]


def _three(values: Any, name: str, whole: bool = False) -> _Three:
    numbers = _numbers(values, name)
    if len(numbers) != 3 or not all(math.isfinite(number) and number > 0 for number in numbers):
        raise VoxgapError(f"{name} {values!r}: give three positive numbers (depth, height, width)")
    if whole and any(number != int(number) for number in numbers):
        raise VoxgapError(f"{name} {values!r}: give whole numbers of voxels")
    return numbers


def _numbers(values: Any, name: str) -> tuple[float, ...]:
    if isinstance(values, str | bytes | bool):
        raise VoxgapError(f"{name} {values!r}: give a list of numbers")
    try:
        return tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        raise VoxgapError(f"{name} {values!r}: give a list of numbers") from None


@dataclass(frozen=True)
class Grid:
    """How the values of files become the volumes that a network takes; as it is, nothing is done to them.

    In this order: missing values become NaN; the volume is cropped; it is resampled to the spacing; and to the
    size. With a spacing, the size is met by cutting off what lies outside it around the centre and by adding
    missing voxels, so that the spacing stays.

    Args:
        size: `(depth, height, width)` in voxels.
        spacing: Size of a voxel along `(depth, height, width)`, in the unit of the files.
        crop: `observed` crops to the box that holds all observed voxels.
        missing_values: Values that stand for missing in the files.

    Raises:
        VoxgapError: An argument is not such a value.
    """

    size: tuple[int, int, int] | None = None
    spacing: _Three | None = None
    crop: Literal["observed"] | None = None
    missing_values: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.size is not None:
            object.__setattr__(self, "size", tuple(map(int, _three(self.size, "size", whole=True))))
        if self.spacing is not None:
            object.__setattr__(self, "spacing", _three(self.spacing, "spacing"))
        if self.crop not in (None, "observed"):
            raise VoxgapError(f"crop {self.crop!r} is unknown; use observed, or leave it out")
        object.__setattr__(self, "missing_values", _numbers(self.missing_values, "missing_values"))

    @property
    def moves(self) -> bool:
        """Whether a volume may come out on another grid than it went in."""
        return any(step is not None for step in (self.size, self.spacing, self.crop))

    def place(self, volume: Volume, max_bytes: int = io.MAX_BYTES) -> tuple[Volume, list[Record]]:
        """Bring a volume onto the grid.

        Args:
            volume: With its missing values as NaN.
            max_bytes: Refuse a result that would take more memory than this.

        Returns:
            The volume on the grid, and the records for `voxgap.resample.inverse`, none where nothing is done.

        Raises:
            VoxgapError: No voxel is observed to crop to, its spacing is unknown, or the result is too large.
        """
        steps: list[Callable[[Volume], tuple[Volume, Record]]] = []
        size, spacing = self.size, self.spacing
        if self.crop is not None:
            steps.append(crop_to_observed)
        if spacing is not None:
            steps.append(lambda volume: resample(volume, spacing=spacing, max_bytes=max_bytes))
        if size is not None and spacing is not None:
            steps.append(lambda volume: crop_or_pad(volume, size))
        elif size is not None:
            steps.append(lambda volume: resample(volume, size=size, max_bytes=max_bytes))
        records = []
        for step in steps:
            volume, record = step(volume)
            records.append(record)
        return volume, records

    def met(self, shape: tuple[int, ...]) -> Grid:
        """Return this grid once volumes of this shape are on it: a spacing now has a size as well."""
        return (
            self if self.spacing is None or self.size else replace(self, size=(shape[0], shape[1], shape[2]))
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values, under the names of its arguments."""
        # JSON has no infinity, and `from_json` reads its name.
        missing = [value if math.isfinite(value) else str(value) for value in self.missing_values]
        size, spacing = (None if v is None else list(v) for v in (self.size, self.spacing))
        return {"size": size, "spacing": spacing, "crop": self.crop, "missing_values": missing}

    @classmethod
    def from_json(cls, data: Any, where: str) -> Grid:
        """Rebuild what `to_json` gave; None is the grid that does nothing.

        Raises:
            VoxgapError: It is something else; `where` is what the message calls it.
        """
        if data is None:
            return cls()
        if not isinstance(data, dict) or not set(data) <= set(cls.__dataclass_fields__):
            raise VoxgapError(f"{where} must hold {', '.join(cls.__dataclass_fields__)} and nothing else")
        try:
            return cls(**data | {"missing_values": data.get("missing_values") or ()})
        except (VoxgapError, TypeError) as error:
            raise VoxgapError(f"{where}: {error}") from None


AS_IT_IS = Grid()
"""The grid that does nothing."""


class Sample(NamedTuple):
    """One sample in its files, of which only the headers have been read.

    `sources` is one file with all channels, or one for each of `channels`, None where it was never acquired.
    """

    sources: tuple[io.Source | None, ...]
    channels: tuple[str, ...] = ()
    label_map: io.Source | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """`(depth, height, width, channels)` in the files."""
        first = _first(self.sources)
        return (*first.shape[:3], len(self.channels) or first.shape[3])


class Placed(NamedTuple):
    """One sample on the grid: its volume, how it got there, and its label map `(depth, height, width)`."""

    volume: Volume
    records: list[Record]
    label_map: LabelMap | None = None


def scan_sample(
    files: Sequence[Path | None],
    channels: Sequence[str] = (),
    label_map: Path | None = None,
    *,
    grid: Grid,
    max_bytes: int = io.MAX_BYTES,
) -> Sample:
    """Read the headers of one sample's files, and check that they fit each other.

    Args:
        files: One file, or one per channel, None where that channel is missing.
        channels: Their names, where there is one file per channel.
        label_map: A file that says for each voxel what it is, or None.
        grid: For its missing values.
        max_bytes: Refuse a file that would take more memory than this.

    Raises:
        VoxgapError: A file can't be read, or the files differ in shape.
    """
    sources = tuple(
        None if file is None else io.scan(file, missing_values=grid.missing_values, max_bytes=max_bytes)
        for file in files
    )
    first = _first(sources)
    for source in filter(None, sources):
        if channels and source.shape != (*first.shape[:3], 1):
            raise VoxgapError(
                f"{source.path}: shape {times(source.shape)}; each channel file needs "
                f"{times((*first.shape[:3], 1))}, as the first one; resample it to the first one's grid"
            )
    drawn = None if label_map is None else io.scan(label_map, max_bytes=max_bytes)
    if drawn is not None and drawn.shape != (*first.shape[:3], 1):
        raise VoxgapError(
            f"{drawn.path}: shape {times(drawn.shape)}; a label map needs {times((*first.shape[:3], 1))}, "
            "as its volume; resample it to that grid"
        )
    return Sample(sources, tuple(channels), drawn)


def read_sample(sample: Sample, grid: Grid, max_bytes: int = io.MAX_BYTES) -> Placed:
    """Read one sample and bring it onto the grid, its label map with it.

    Raises:
        VoxgapError: A file is damaged, a label map holds other than whole numbers, or see `Grid.place`.
    """
    volume, records = grid.place(_joined(sample), max_bytes)
    if sample.label_map is None:
        return Placed(volume, records)
    drawn = sample.label_map.read()
    labels = as_label_map(drawn.values[..., 0], str(sample.label_map.path))
    return Placed(volume, records, place_label_map(labels, records))


def place_label_map(label_map: LabelMap, records: Sequence[Record]) -> LabelMap:
    """Take a label map the way that its volume went; what lies outside it is unlabelled."""
    if not records:
        return label_map
    moved = replay(Volume(np.asarray(label_map, np.float32)), records, method="nearest").values[..., 0]
    return np.where(np.isnan(moved), UNLABELLED, moved).astype(np.int16)


def as_label_map(values: Any, where: str) -> LabelMap:
    """Check the values of one or several label maps, NaN where unlabelled, and return them as int16.

    Raises:
        VoxgapError: They are not whole numbers from 0 to 32,767; `where` is what the message calls them.
    """
    values = np.asarray(values)
    labels = np.where(np.isnan(values), UNLABELLED, values)
    if (
        (labels != np.rint(labels)).any()
        or labels.min() < UNLABELLED
        or labels.max() > np.iinfo(np.int16).max
    ):
        raise VoxgapError(f"{where}: a label map holds whole numbers from 0 to 32,767; check that it is one")
    return labels.astype(np.int16)


def _joined(sample: Sample) -> Volume:
    """Read the channels into one volume, NaN where there is no file."""
    volumes = [None if source is None else source.read() for source in sample.sources]
    first = next(volume for volume in volumes if volume is not None)
    if not sample.channels:
        return first
    gap = np.full(first.shape, np.nan, np.float32)
    values = np.concatenate([gap if volume is None else volume.values for volume in volumes], axis=-1)
    return Volume(values, first.affine, first.spacing, sample.channels, first.source, first.axes)


def _first(sources: Sequence[io.Source | None]) -> io.Source:
    found = next((source for source in sources if source is not None), None)
    if found is None:
        raise VoxgapError("no file for any channel; give at least one")
    return found
