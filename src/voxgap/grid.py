"""The grid that a network takes its volumes on, and how files get there: one way for training and serving."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap import io
from voxgap.arrays import short
from voxgap.errors import VoxgapError
from voxgap.io.slices import check_kinds
from voxgap.resample import Record, crop_or_pad, crop_to_observed, inverse, onto, replay, resample
from voxgap.volume import Volume, as_real, times

LabelMap = NDArray[np.int16]
_TIME = ("time", "t", "frame", "frames")

UNLABELLED = -1
"""In a label map: nobody said what this voxel is, or it lies outside what was scanned."""

SAME = 0.01
"""Two grids are one where no voxel of the one lies further from the other's than this, in voxels."""

MISSED = 0.01
"""A label map of which more than this share lies outside of its scan is said."""

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
        reference: Of several files a patient, the channel onto whose grid the others are brought, where it is
            there; the first one that is there by default.
        axes: Which axes of the files are depth, height, width, and perhaps channels, by name or number.
        at: One index of each axis that a volume has no place for: `{"lev": 0}`.
        rules: Version of the rules by which files are read; see `voxgap.io.rules.RULES`.
        missing_slices: Slices of files that are taken for missing: `constant`, `duplicated`, see
            `voxgap.io.slices.KINDS`.

    Raises:
        VoxgapError: An argument is not such a value.
    """

    size: tuple[int, int, int] | None = None
    spacing: _Three | None = None
    crop: Literal["observed"] | None = None
    missing_values: tuple[float, ...] = ()
    reference: str | None = None
    axes: tuple[str | int, ...] = ()
    at: Mapping[str, int] = field(default_factory=dict)
    rules: int = io.RULES
    missing_slices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.size is not None:
            object.__setattr__(self, "size", tuple(map(int, _three(self.size, "size", whole=True))))
        if self.spacing is not None:
            object.__setattr__(self, "spacing", _three(self.spacing, "spacing"))
        if self.crop not in (None, "observed"):
            raise VoxgapError(f"crop {self.crop!r} is unknown; use observed, or leave it out")
        if not (self.reference is None or (isinstance(self.reference, str) and self.reference)):
            raise VoxgapError(f"reference {self.reference!r}: give the name of a channel, or leave it out")
        object.__setattr__(self, "missing_values", _numbers(self.missing_values, "missing_values"))
        object.__setattr__(self, "missing_slices", check_kinds(self.missing_slices))
        self._check_axes()

    def _check_axes(self) -> None:
        plain = isinstance(self.axes, Sequence) and not isinstance(self.axes, str)
        if not plain or len(self.axes) not in (0, 3, 4) or not all(type(a) in (str, int) for a in self.axes):
            raise VoxgapError(f"axes {self.axes!r}: give three names or numbers, and a fourth for channels")
        object.__setattr__(self, "axes", tuple(self.axes))
        at = {} if self.at is None else self.at
        if not isinstance(at, Mapping) or not all(type(index) is int and index >= 0 for index in at.values()):
            raise VoxgapError(f'at {at!r}: give an index for each name of an axis, such as {{"time": 0}}')
        object.__setattr__(self, "at", {str(name): index for name, index in at.items()})
        if type(self.rules) is not int or not 1 <= self.rules <= io.RULES:
            raise VoxgapError(
                f"rules {self.rules!r}: this version of voxgap knows 1 to {io.RULES}; update voxgap"
            )

    def scan(self, path: Path, max_bytes: int = io.MAX_BYTES, *, labels: bool = False) -> io.Source:
        """Describe a file as `voxgap.io.scan` does, by what this grid says of axes and missing values.

        Warns:
            UserWarning: The rules of today would read the file otherwise than those of this grid.
        """
        options: dict[str, Any] = {"axes": self.axes, "at": self.at, "max_bytes": max_bytes, "labels": labels}
        source = io.scan(
            path,
            missing_values=self.missing_values,
            rules=self.rules,
            missing_slices=self.missing_slices,
            **options,
        )
        if self.rules < io.RULES:
            _say_what_changed(source, io.scan(path, **options))
        return source

    def scan_label_map(self, path: Path, max_bytes: int = io.MAX_BYTES) -> io.Source:
        """Describe a label map; the axes of the volumes are its own as far as it has them."""
        try:
            return replace(self, missing_values=(), missing_slices=()).scan(path, max_bytes, labels=True)
        except io.UnknownAxisError:
            return Grid(rules=self.rules).scan(path, max_bytes, labels=True)

    def told(self, axes: Sequence[str | int] = (), at: Mapping[str, int] | None = None) -> Grid:
        """Return this grid for files whose axes are called otherwise, where something is said of them."""
        return replace(self, axes=tuple(axes) or self.axes, at=at or self.at)

    @property
    def moves(self) -> bool:
        """Whether a volume may come out on another grid than it went in."""
        return any(step is not None for step in (self.size, self.spacing, self.crop))

    def place(
        self, volume: Volume, max_bytes: int = io.MAX_BYTES, step: float | None = None
    ) -> tuple[Volume, list[Record]]:
        """Bring a volume onto the grid.

        Args:
            volume: With its missing values as NaN.
            max_bytes: Refuse a result that would take more memory than this.
            step: Keep a clip (a volume whose depth is time) whole if it is longer than `size` at this step, in
                seconds; without it, it is squeezed into `size`, or cut off where there is a spacing.

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
            steps.append(lambda volume: crop_or_pad(volume, _long(volume, size, step)))
        elif size is not None:
            steps.append(lambda volume: resample(volume, size=_long(volume, size, step), max_bytes=max_bytes))
        records = []
        for move in steps:
            volume, record = move(volume)
            records.append(record)
        return volume, records

    def met(self, shape: Sequence[int | None]) -> Grid:
        """Return this grid once volumes of this shape are on it: a spacing now has a size as well, if all have one."""
        size = tuple(length for length in shape[:3] if length is not None)
        if self.spacing is None or self.size or len(size) < 3:
            return self
        return replace(self, size=(size[0], size[1], size[2]))

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values, under the names of its arguments."""
        # JSON has no infinity, and `from_json` reads its name.
        missing = [value if math.isfinite(value) else str(value) for value in self.missing_values]
        size, spacing = (None if v is None else list(v) for v in (self.size, self.spacing))
        return {
            "size": size,
            "spacing": spacing,
            "crop": self.crop,
            "missing_values": missing,
            "reference": self.reference,
            "axes": list(self.axes),
            "at": dict(self.at),
            "rules": self.rules,
            # Earlier versions of voxgap read what they know of it.
            **({"missing_slices": list(self.missing_slices)} if self.missing_slices else {}),
        }

    @classmethod
    def from_json(cls, data: Any, where: str) -> Grid:
        """Rebuild what `to_json` gave; None is the grid that does nothing.

        Where no rules are named, they are those from before there was more than one version.

        Raises:
            VoxgapError: It is something else; `where` is what the message calls it.
        """
        if data is None:
            return cls(rules=1)
        if not isinstance(data, dict) or not set(data) <= set(cls.__dataclass_fields__):
            raise VoxgapError(f"{where} must hold {', '.join(cls.__dataclass_fields__)} and nothing else")
        try:
            return cls(**{"rules": 1, **data, "missing_values": data.get("missing_values") or ()})
        except (VoxgapError, TypeError) as error:
            raise VoxgapError(f"{where}: {error}") from None


AS_IT_IS = Grid()
"""The grid that does nothing."""


class Sample(NamedTuple):
    """One sample in its files, of which only the headers have been read.

    `sources` is one file with all channels, or one for each of `channels`, None where it was never acquired.
    The one at `reference` says which grid the sample is on.
    """

    sources: tuple[io.Source | None, ...]
    channels: tuple[str, ...] = ()
    label_map: io.Source | None = None
    reference: int = 0

    @property
    def first(self) -> io.Source:
        """The file on whose grid the sample is."""
        found = self.sources[self.reference]
        assert found is not None, "scan_sample chose one that is there"
        return found

    @property
    def shape(self) -> tuple[int, ...]:
        """`(depth, height, width, channels)` before anything is done to it."""
        return (*self.first.shape[:3], len(self.channels) or self.first.shape[3])


class Placed(NamedTuple):
    """One sample on the grid: its volume, how it got there, and its label map `(depth, height, width)`.

    `records` start from the grid of the reference file. `onto` says for each file how it came onto that grid,
    None where it was on it.
    """

    volume: Volume
    records: list[Record]
    label_map: LabelMap | None = None
    onto: tuple[Record | None, ...] = ()


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
        grid: For its missing values, axes and reference.
        max_bytes: Refuse a file that would take more memory than this.

    Raises:
        VoxgapError: A file can't be read; or files differ in shape, and don't say where they lie.
    """
    sources = tuple(None if file is None else grid.scan(file, max_bytes) for file in files)
    drawn = None if label_map is None else grid.scan_label_map(label_map, max_bytes)
    sample = Sample(sources, tuple(channels), drawn, _reference(sources, channels, grid))
    for source in filter(None, sources if channels else ()):
        _check_fits(source, sample.first, "each channel file")
    if drawn is not None:
        _check_fits(drawn, sample.first, "a label map")
    return sample


def _long(volume: Volume, size: tuple[int, int, int], step: float | None) -> tuple[int, int, int]:
    """Return the size that a volume gets: for a clip that is longer at this step, as many frames as it has."""
    if step is None or volume.axes[0] not in _TIME or volume.spacing is None:
        return size
    return max(size[0], round(volume.shape[0] * volume.spacing[0] / step)), size[1], size[2]


def read_sample(
    sample: Sample, grid: Grid, max_bytes: int = io.MAX_BYTES, step: float | None = None
) -> Placed:
    """Read one sample, bring its files onto one grid, and that onto the network's, its label map with it.

    `step` is that of `Grid.place`.

    Raises:
        VoxgapError: A file is damaged, a label map holds other than whole numbers, a file lies wholly outside
            the reference, or see `Grid.place`.
    """
    first = sample.first.read()
    moved, joined = _joined(sample, first, max_bytes)
    volume, records = grid.place(joined, max_bytes, step)
    if sample.label_map is None:
        return Placed(volume, records, onto=moved)
    drawn, _ = _on_one_grid(sample.label_map, first, max_bytes, "nearest")
    labels = as_label_map(drawn.values[..., 0], str(sample.label_map.path))
    return Placed(volume, records, place_label_map(labels, records), moved)


def _say_what_changed(source: io.Source, today: io.Source) -> None:
    """Warn where a file is read by older rules, since a network was trained so, and today's differ."""
    turned = [
        name for name, was, now in zip(source.axes, source.turned, today.turned, strict=True) if was != now
    ]
    changes = [f"{' and '.join(turned)} would be turned to ascend"] if turned else []
    if source.spatial != today.spatial:
        changes.append(f"axes {', '.join(source.axes)} would be {', '.join(today.axes)}")
    sizes, sizes_now = source.spacing or (), today.spacing or ()
    if len(sizes) != len(sizes_now) or not np.allclose(sizes, sizes_now, rtol=1e-3):
        was, now = (" × ".join(f"{size:.4g}" for size in of) or "unknown size" for of in (sizes, sizes_now))
        changes.append(f"a voxel of {was} would be {now} (mm, s)")
    if source.shape[3] != today.shape[3]:
        changes.append(f"{source.shape[3]} channels would be {today.shape[3]}")
    if source.dtype != today.dtype:
        changes.append(f"values of {source.dtype} would be {today.dtype}")
    if changes:
        warnings.warn(
            # Without the name of the file: said once, and not for each of a thousand.
            f"files are read by the rules of the data that this network was trained on (rules "
            f"{source.options.rules}); by today's {', '.join(changes)}: train again to change that",
            stacklevel=3,
        )


def place_label_map(label_map: LabelMap, records: Sequence[Record]) -> LabelMap:
    """Take a label map the way that its volume went; what lies outside it is unlabelled."""
    if not records:
        return label_map
    moved = replay(Volume(np.asarray(label_map, np.float32)), records, method="nearest").values[..., 0]
    return np.where(np.isnan(moved), UNLABELLED, moved).astype(np.int16)


def back_on_file(drawn: LabelMap, volume: Volume, records: Sequence[Record], outside: int) -> Volume:
    """Take a label map from the grid of a network back to that of the file, with its geometry.

    Args:
        drawn: `(depth, height, width)`, for `volume`.
        volume: On the network's grid.
        records: How it got there.
        outside: What stands where the network saw nothing.
    """
    values = np.asarray(drawn, np.float32)
    labels = Volume(values, volume.affine, volume.spacing, ("label",), volume.source, volume.axes)
    back = inverse(labels, records, method="nearest")
    return replace(back, values=np.where(np.isnan(back.values), np.float32(outside), back.values))


def as_label_map(values: Any, where: str) -> LabelMap:
    """Check the values of one or several label maps, NaN where unlabelled, and return them as int16.

    Raises:
        VoxgapError: They are not whole numbers from 0 to 32,767; `where` is what the message calls them.
    """
    values = as_real(values, where)
    labels = np.where(np.isnan(values), UNLABELLED, values)
    if (
        (labels != np.rint(labels)).any()
        or labels.min() < UNLABELLED
        or labels.max() > np.iinfo(np.int16).max
    ):
        raise VoxgapError(f"{where}: a label map holds whole numbers from 0 to 32,767; check that it is one")
    return labels.astype(np.int16)


def _joined(sample: Sample, first: Volume, max_bytes: int) -> tuple[tuple[Record | None, ...], Volume]:
    """Read the channels into one volume, NaN where there is no file; and say how each came onto its grid."""
    if not sample.channels:
        return (None,), first
    values = np.full((*first.shape[:3], len(sample.channels)), np.nan, np.float32)
    records: list[Record | None] = []
    for index, source in enumerate(sample.sources):
        record = None
        if index == sample.reference:
            values[..., index] = first.values[..., 0]
        elif source is not None:
            volume, record = _on_one_grid(source, first, max_bytes, "linear")
            values[..., index] = volume.values[..., 0]
        records.append(record)
    joined = Volume(values, first.affine, first.spacing, sample.channels, first.source, first.axes)
    return tuple(records), joined


def _on_one_grid(
    source: io.Source, first: Volume, max_bytes: int, method: Literal["linear", "nearest"]
) -> tuple[Volume, Record | None]:
    """Read a file, and bring it onto the grid of the first one where it lies on another."""
    volume = source.read()
    if same_grid(source, first):
        return volume, None
    moved, record = onto(volume, first.affine, first.shape[:3], method=method, max_bytes=max_bytes)
    if not moved.observed.any() and volume.observed.any():
        raise VoxgapError(
            f"{source.path}: lies wholly outside {first.source}; check that both are of one patient and session"
        )
    if method == "nearest":
        _say_what_lies_outside(volume, first, record)
    return moved, record


def _say_what_lies_outside(drawn: Volume, first: Volume, record: Record) -> None:
    """Warn of a label map whose classes lie outside of its scan: such as one whose affine lost a sign."""
    scan = Volume(np.zeros((*first.shape[:3], 1), np.float32), axes=first.axes)
    outside = np.isnan(inverse(scan, [record], method="nearest").values)
    labelled = drawn.values > 0
    lost = int(np.count_nonzero(labelled & outside))
    if lost > MISSED * np.count_nonzero(labelled):
        warnings.warn(
            f"{drawn.source}: {lost / np.count_nonzero(labelled):.0%} of the labelled voxels lie outside of the "
            f"scan {first.source} and are not used: check the affines of both, and that they are of one patient",
            stacklevel=4,
        )


def same_grid(one: io.Source | Volume, other: io.Source | Volume) -> bool:
    """Tell whether two volumes have the same voxels, as far as they say where they lie."""
    if one.shape[:3] != other.shape[:3]:
        return False
    if one.affine is None or other.affine is None:
        return True
    corners = np.array([(*corner, 1) for corner in np.ndindex(2, 2, 2)]) * (*one.shape[:3], 1)
    apart = (np.linalg.solve(other.affine, one.affine) - np.eye(4)) @ corners.T
    return bool(np.abs(apart).max() < SAME)


def _check_fits(source: io.Source, first: io.Source, what: str) -> None:
    if source.shape[3] != 1:
        raise VoxgapError(f"{source.path}: shape {times(source.shape)}; {what} holds one channel")
    if source.shape[:3] != first.shape[:3] and (source.affine is None or first.affine is None):
        raise VoxgapError(
            f"{source.path}: shape {times(source.shape)}; {what} needs {times((*first.shape[:3], 1))}, as "
            f"{first.path}, since not both say where they lie (affine); resample it to that grid"
        )


def _reference(sources: Sequence[io.Source | None], channels: Sequence[str], grid: Grid) -> int:
    there = [index for index, source in enumerate(sources) if source is not None]
    if not there:
        raise VoxgapError("no file for any channel; give at least one")
    if grid.reference is None or not channels:
        return there[0]
    if grid.reference not in channels:
        raise VoxgapError(f"reference {grid.reference!r} is no channel; choose one of {', '.join(channels)}")
    named = list(channels).index(grid.reference)
    return named if named in there else there[0]


def as_options(grid: Mapping[str, Any]) -> list[str]:
    """Return fields of a grid as the options of a command that say them; those without a value are left out."""
    words = []
    for name, given in grid.items():
        if not given:
            continue
        pairs = [f"{key}={index}" for key, index in given.items()] if isinstance(given, Mapping) else given
        text = (
            given
            if isinstance(given, str)
            else ",".join(short(v) if isinstance(v, float) else str(v) for v in pairs)
        )
        words.append(f"--{name.replace('_', '-')}={text}")  # with =, a number may begin with a minus
    return words
