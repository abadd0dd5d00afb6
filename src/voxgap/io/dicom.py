"""DICOM: a series of slices in a folder, or one file with one or many frames.

Slices are sorted by where they lie, not by file name or number. Their distances show where one was lost:
it comes back as NaN. A slice lost at either end can't be seen from positions; it is found where the series
says how many images it has (ImagesInAcquisition). DICOM counts to the left and to the back (LPS).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.io.dicom_header import TELLING_APART, Clamped, Frame, is_dicom, read_frames
from voxgap.io.dicom_write import new_series, numbered, write_dicom, write_slice_like
from voxgap.io.grid import Grid, regular_grid
from voxgap.io.optional import need
from voxgap.io.source import Box, Options, Source, Stored, arrange, oriented
from voxgap.volume import Values, Volume

__all__ = ["is_series", "scan_dicom", "write_dicom", "write_dicom_like"]

MAX_FILES = 100_000
MAX_PADDING = 10_000
_TO_RAS = np.array([-1.0, -1.0, 1.0])


class Stack(NamedTuple):
    """Frames that make one volume, and the place of each along its depth."""

    frames: list[Frame]
    places: NDArray[np.int_]
    depth: int
    affine: NDArray[np.float64] | None
    spacing: tuple[float, float, float] | None


def write_dicom_like(folder: Path, volume: Volume, source: Source) -> None:
    """Write a series with patient, study and acquisition of the original; see `write_slice_like`."""
    path = source.path
    stack = _stacked(_chosen(_groups(_frames(path)), path, source.options.item), path)
    values = source.restore(volume.values)
    places = stack.places.tolist()
    if (
        len({frame.file for frame in stack.frames}) < len(places)
        or values.shape[3] != 1
        or stack.affine is None
    ):
        raise VoxgapError(f"{path}: is no series of grey slices in files of their own; write .nii.gz")
    numbers = dict(zip(places, (frame.instance for frame in stack.frames), strict=True))
    series = new_series(path, values)
    for place in np.flatnonzero(~np.isnan(values).all(axis=(1, 2, 3))).tolist():
        nearest = min(places, key=lambda other: abs(other - place))
        frame = stack.frames[places.index(nearest)]
        stored = _stored(frame) if place == nearest else None
        corner = (stack.affine[:3, 3] + stack.affine[:3, 0] * place) * _TO_RAS
        number = numbered(place, numbers)
        write_slice_like(folder, frame, stored, values[place, ..., 0], series, number, corner)


def is_series(path: Path) -> bool:
    """True for a folder of which the first files are DICOM, and none is anything else."""
    first = list(islice(_files(path), 3))
    return bool(first) and all(is_dicom(file) for file in first)


def scan_dicom(path: Path, options: Options) -> Source:
    """Describe a DICOM series.

    Args:
        path: A folder with its slices, at any depth, or one file.
        options: `item` chooses one of several series: its number from 1, UID or description.

    Raises:
        VoxgapError: There is no image, more than one series and none is chosen, or its slices can't be put
            in order.
    """
    frames = _frames(path)
    stack = _stacked(_chosen(_groups(frames), path, options.item), path)
    rows, columns, samples = stack.frames[0].size
    place_to_frame = dict(zip(stack.places.tolist(), stack.frames, strict=True))

    def load(box: Box) -> NDArray[Any]:
        values = np.full([part.stop - part.start for part in box], np.nan, np.float32)
        for target, place in zip(values, range(box[0].start, box[0].stop), strict=True):
            if place in place_to_frame:
                target[...] = _pixels(place_to_frame[place])[box[1:]]
        return values

    shape = (stack.depth, rows, columns, samples)
    return oriented(
        arrange(
            Stored(shape, np.dtype(np.float32), load, kinds=("z", "y", "x", "c")),
            path,
            options,
            affine=stack.affine,
            spacing=stack.spacing,
            channels=("red", "green", "blue") if samples == 3 else (),
        )
    )


def _files(path: Path) -> Iterator[Path]:
    count = 0
    for folder, folders, names in os.walk(path, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            file = Path(folder, name)
            if name.startswith(".") or name == "DICOMDIR" or not file.is_file():
                continue
            count += 1
            if count > MAX_FILES:
                raise VoxgapError(f"{path}: holds more than {MAX_FILES} files; name the folder of one series")
            yield file


def _frames(path: Path) -> list[Frame]:
    if not path.is_dir():
        return list(read_frames(path))
    frames: dict[str, Frame] = {}
    for file in _files(path):
        if is_dicom(file):
            # A copy of the same image counts once.
            frames.update((frame.uid, frame) for frame in read_frames(file))
    if not frames:
        raise VoxgapError(f"{path}: is a folder without DICOM images; name one file in it")
    return list(frames.values())


def _groups(frames: list[Frame]) -> list[list[Frame]]:
    """Part the frames into series, and those that lie otherwise or differ in size from the others."""

    def key(frame: Frame) -> tuple[Any, ...]:
        turned = tuple(np.round(frame.orientation, 3).tolist())
        return frame.number, frame.series, turned, frame.size, tuple(np.round(frame.spacing, 4).tolist())

    groups = [list(group) for _, group in groupby(sorted(frames, key=key), key)]
    return [part for group in groups for part in _told_apart(group)]


def _told_apart(frames: list[Frame]) -> list[list[Frame]]:
    """Part images that lie at one place by echo, time or b-value, if one of these tells them apart."""
    if _all_apart(frames):
        return [frames]
    for index in range(len(TELLING_APART)):
        parts_by_value: dict[str, list[Frame]] = {}
        for frame in frames:
            parts_by_value.setdefault(frame.apart[index], []).append(frame)
        parts = [parts_by_value[value] for value in sorted(parts_by_value)]
        if len(parts) > 1 and all(map(_all_apart, parts)):
            return parts
    return [frames]


def _all_apart(frames: list[Frame]) -> bool:
    if not all(frame.position for frame in frames):
        return True
    return len({tuple(np.round(frame.position, 3)) for frame in frames}) == len(frames)


def _chosen(groups: list[list[Frame]], path: Path, item: str | None) -> list[Frame]:
    if item is None and len(groups) == 1:
        return groups[0]
    held = ", ".join(
        f"{number} = {group[0].label} ({len(group)} image{'s' * (len(group) > 1)})"
        for number, group in enumerate(groups[:20], 1)
    )
    if item is None:
        raise VoxgapError(f"{path}: holds {len(groups)} series: {held}; choose one with {path.name}::1")
    matches = [group for group in groups if item in (group[0].series, group[0].label)]
    if item.isdecimal() and 1 <= int(item) <= len(groups):
        matches = [groups[int(item) - 1]]
    if len(matches) != 1:
        what = "no" if not matches else "more than one"
        raise VoxgapError(f"{path}: {what} series is {item!r}; it holds {held}")
    return matches[0]


def _stacked(frames: list[Frame], path: Path) -> Stack:
    first = frames[0]
    if not all(frame.position and frame.orientation for frame in frames):
        return _unplaced(frames)
    along, down = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    normal = np.cross(along, down)
    if abs(np.linalg.norm(normal) - 1) > 0.01:
        raise VoxgapError(f"{first.file}: its rows and columns are not at right angles; repair the header")
    corners = np.array([frame.position for frame in frames])
    heights = corners @ normal
    order = np.argsort(heights, kind="stable")
    frames, corners, heights = [frames[i] for i in order], corners[order], heights[order]
    grid = _grid(frames, heights, path)
    before, after = _lost_ends(frames, grid)
    step = normal * grid.step
    if len(frames) > 1:  # Along the line from slice to slice, which a tilted gantry makes no normal.
        step = (corners[-1] - corners[0]) / grid.indices[-1]
    between = first.spacing or (1.0, 1.0)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([step, down * between[0], along * between[1]], axis=1) * _TO_RAS[:, None]
    affine[:3, 3] = (corners[0] - before * step) * _TO_RAS
    places = grid.indices + before
    return Stack(frames, places, int(places[-1]) + 1 + after, affine, None)


def _unplaced(frames: list[Frame]) -> Stack:
    """Order frames that don't say where they lie by number: an ultrasound clip, a scanned film."""
    if all(frame.instance is not None for frame in frames):
        frames = sorted(frames, key=lambda frame: (frame.instance or 0, frame.part))
    first = frames[0]
    spacing = None
    step = first.frame_time / 1000 or first.between or first.thickness
    if first.spacing and step > 0:
        spacing = (step, first.spacing[0], first.spacing[1])
    return Stack(frames, np.arange(len(frames)), len(frames), None, spacing)


def _grid(frames: list[Frame], heights: NDArray[np.float64], path: Path) -> Grid:
    first = frames[0]
    if len(frames) == 1:
        return Grid(first.between or first.thickness or 1.0, np.zeros(1, int))
    distances = np.diff(heights)
    if distances.min() < 1e-3:
        same = frames[int(distances.argmin())]
        raise VoxgapError(
            f"{path}: two images of {first.label!r} lie at one place ({same.file.name}); "
            "keep those of one acquisition in the folder"
        )
    step = None
    if _numbered_step(frames, heights) and np.isclose(first.between, _numbered_step(frames, heights), 0.01):
        # Number and stated distance agree: this also finds a series of which every second slice is lost.
        step = first.between
    grid = regular_grid(heights, step)
    if grid is None:
        raise VoxgapError(
            f"{path}: slices of {first.label!r} lie {distances.min():.4g} to {distances.max():.4g} mm apart, "
            "on no regular grid; keep the evenly spaced ones in the folder"
        )
    return grid


def _numbered_step(frames: Sequence[Frame], heights: NDArray[np.float64]) -> float:
    """Return the distance per instance number, 0 where numbers don't follow positions."""
    numbers = np.array([frame.instance if frame.instance is not None else 0 for frame in frames], float)
    steps = np.diff(numbers)
    if not steps.all():
        return 0.0
    each = np.diff(heights) / steps
    return abs(float(np.median(each))) if np.allclose(each, np.median(each), rtol=0.05) else 0.0


def _lost_ends(frames: list[Frame], grid: Grid) -> tuple[int, int]:
    """Return how many slices are lost before the first and after the last that is there."""
    total = frames[0].total
    numbers = [frame.instance if frame.instance is not None else 0 for frame in frames]
    rising = np.subtract(numbers, numbers[0])
    for low, high, sign in ((numbers[0], numbers[-1], 1), (numbers[-1], numbers[0], -1)):
        follows = np.array_equal(rising, sign * grid.indices) and len(frames) > 1
        if follows and 1 <= low <= high <= total <= MAX_PADDING:
            return (low - 1, total - high) if sign == 1 else (total - high, low - 1)
    return 0, 0


def _stored(frame: Frame) -> NDArray[Any]:
    """Decode one frame: scaled, with NaN where it is padding, `(rows, columns, samples)`."""
    pydicom = need("pydicom", frame.file)
    pixels = need("pydicom.pixels", frame.file)
    with Clamped(frame.file) as stream:
        # A deflated file has no place where its pixels start: it was measured, and is expanded whole.
        source = pydicom.dcmread(stream) if frame.deflated else stream
        try:
            stored = pixels.pixel_array(source, index=frame.part)
        except (RuntimeError, NotImplementedError) as error:
            raise VoxgapError(
                f"{frame.file}: can't be decompressed ({_last(error)}); "
                "save it uncompressed, or: pip install pylibjpeg[all] pyjpegls"
            ) from error
    if stored.shape[:2] != frame.size[:2]:
        raise VoxgapError(f"{frame.file}: decodes to {stored.shape}, not {frame.size[:2]}; copy it again")
    return np.asarray(stored)


def _pixels(frame: Frame) -> Values:
    """Return one frame in its own units, padding as NaN."""
    stored = _stored(frame)
    values = (stored * np.float64(frame.slope) + frame.intercept).astype(np.float32)
    if frame.padding is not None:
        low, high = frame.padding
        values[(stored >= low) & (stored <= high)] = np.nan
    return values.reshape(frame.size)


def _last(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
