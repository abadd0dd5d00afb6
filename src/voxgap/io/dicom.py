"""DICOM: a series of slices in a folder, or one file with one or many frames.

Slices are sorted by where they lie, or else by SliceLocation, not by file name or number. Their distances show
where one was lost: it comes back as NaN. A slice lost at either end can't be seen from positions; it is found
where the series says how many images it has (ImagesInAcquisition). DICOM counts to the left and to the back (LPS).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.io.dicom_files import is_dicom, is_series
from voxgap.io.dicom_header import Frame
from voxgap.io.dicom_pixels import decoded, fill_in
from voxgap.io.dicom_series import SAME_PLACE, all_series, chosen
from voxgap.io.dicom_write import new_series, numbered, write_dicom, write_slice_like
from voxgap.io.grid import Grid, regular_grid
from voxgap.io.rules import Axis
from voxgap.io.source import Box, Options, Source, Stored, arrange, oriented
from voxgap.volume import Volume

__all__ = ["is_dicom", "is_series", "scan_dicom", "write_dicom", "write_dicom_like"]

MAX_PADDING = 10_000
ROUNDING = 0.05
"""How far off the grid a slice may be, as a share of the step: by the rounding of its position alone."""
MAX_GAP = 100
"""Neighbours further apart than this many slices are no series with a gap, but two, or a wrong position."""
_TO_RAS = np.array([-1.0, -1.0, 1.0])


class Stack(NamedTuple):
    """Frames that make one volume, and the place of each along its depth."""

    frames: list[Frame]
    places: NDArray[np.int_]
    depth: int
    affine: NDArray[np.float64] | None
    spacing: tuple[float, float, float] | None
    sized: bool = True


def write_dicom_like(folder: Path, volume: Volume, source: Source) -> None:
    """Write a series with patient, study and acquisition of the original; see `write_slice_like`."""
    path = source.path
    stack = stack_of(source)
    values = source.restore(volume.values)
    places = stack.places.tolist()
    if (
        len({frame.file for frame in stack.frames}) < len(places)
        or values.shape[3] != 1
        or stack.affine is None
        or stack.frames[0].encoded.keyword != "PixelData"
        or stack.frames[0].encoded.table
    ):
        raise VoxgapError(f"{path}: is no series of grey slices in files of their own; write .nii.gz")
    numbers = dict(zip(places, (frame.instance for frame in stack.frames), strict=True))
    series = new_series(path, values)
    for place in np.flatnonzero(~np.isnan(values).all(axis=(1, 2, 3))).tolist():
        nearest = min(places, key=lambda other: abs(other - place))
        frame = stack.frames[places.index(nearest)]
        cells = next(iter(decoded([frame]))) if place == nearest else None
        corner = (stack.affine[:3, 3] + stack.affine[:3, 0] * place) * _TO_RAS
        number = numbered(place, numbers)
        write_slice_like(folder, frame, cells, values[place, ..., 0], series, number, corner)


def stack_of(source: Source) -> Stack:
    """Return the frames that a volume was read from, and where each of them stands."""
    return _stacked(chosen(all_series(source.path), source.path, source.options.item), source.path)


def scan_dicom(path: Path, options: Options) -> Source:
    """Describe a DICOM series.

    Args:
        path: A folder with its slices, at any depth, or one file.
        options: `item` chooses one of several series: its number from 1, UID or description.

    Raises:
        VoxgapError: There is no image, more than one series and none is chosen, or its slices can't be put
            in order.
    """
    stack = _stacked(chosen(all_series(path), path, options.item), path)
    rows, columns, samples = stack.frames[0].size
    frames = sorted(zip(stack.frames, stack.places.tolist(), strict=True), key=lambda pair: pair[0][:2])

    def load(box: Box) -> NDArray[Any]:
        values = np.full([part.stop - part.start for part in box], np.nan, np.float32)
        wanted = [(frame, place) for frame, place in frames if box[0].start <= place < box[0].stop]
        for _, group in groupby(wanted, lambda pair: pair[0].file):
            of_file = list(group)
            targets = [values[place - box[0].start] for _, place in of_file]
            fill_in([frame for frame, _ in of_file], targets, box[1:])
        return values

    shape = (stack.depth, rows, columns, samples)
    source = oriented(
        arrange(
            Stored(shape, np.dtype(np.float32), load, tuple(Axis(kind=kind) for kind in "zyxc")),
            path,
            options,
            affine=stack.affine,
            spacing=stack.spacing,
            channels=("red", "green", "blue") if samples == 3 else (),
        )
    )
    # Turned as it lies, but of what size its voxels are nobody said.
    return source if stack.sized or options.rules < 3 else replace(source, affine=None, spacing=None)


def _stacked(frames: list[Frame], path: Path) -> Stack:
    first = frames[0]
    if "MOSAIC" in first.apart.get("FrameType", ""):
        raise VoxgapError(
            f"{first.file}: is a mosaic, all slices of a volume in one picture; convert it with dcm2niix"
        )
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
    sized = bool(first.spacing) and (len(frames) > 1 or bool(first.between or first.thickness))
    return Stack(frames, places, int(places[-1]) + 1 + after, affine, None, sized)


def _unplaced(frames: list[Frame]) -> Stack:
    """Order frames that don't say where they lie by location, or by number: an ultrasound clip, a scanned film."""
    if all(frame.instance is not None for frame in frames):
        frames = sorted(frames, key=lambda frame: (frame.instance or 0, frame.part))
    first = frames[0]
    step = first.frame_time / 1000 or first.between or first.thickness
    places, depth = np.arange(len(frames)), len(frames)
    if len(frames) > 1 and all(frame.location for frame in frames):
        located = sorted(frames, key=lambda frame: frame.location)
        heights = np.array([frame.location[0] for frame in located])
        if np.diff(heights).min() >= SAME_PLACE:
            frames, step = located, 0.0
            grid = _regular(frames, heights)
            if grid is not None:
                before, after = _lost_ends(frames, grid)
                places, step = grid.indices + before, grid.step
                depth = int(places[-1]) + 1 + after
    spacing = (step, first.spacing[0], first.spacing[1]) if first.spacing and step > 0 else None
    return Stack(frames, places, depth, None, spacing)


def _grid(frames: list[Frame], heights: NDArray[np.float64], path: Path) -> Grid:
    first = frames[0]
    if len(frames) == 1:
        return Grid(first.between or first.thickness or 1.0, np.zeros(1, int))
    distances = np.diff(heights)
    if distances.min() < SAME_PLACE:
        at = int(distances.argmin())
        raise VoxgapError(
            f"{path}: {_name(frames[at])} and {_name(frames[at + 1])} of {first.label!r} lie at one place and "
            "differ, and no tag tells all images apart; "
            + ("keep those of one acquisition in a folder" if path.is_dir() else "split it by acquisition")
        )
    grid = _regular(frames, heights)
    if grid is None:
        raise VoxgapError(
            f"{path}: slices of {first.label!r} lie {distances.min():.4g} to {distances.max():.4g} mm apart, "
            "on no regular grid; keep the evenly spaced ones in the folder"
        )
    return grid


def _regular(frames: Sequence[Frame], heights: NDArray[np.float64]) -> Grid | None:
    stated, numbered_step = frames[0].between, _numbered_step(frames, heights)
    # Where number and stated distance agree, this also finds a series of which every second slice is lost.
    agreed = bool(numbered_step) and np.isclose(stated, numbered_step, 0.01)
    grid = regular_grid(heights, ROUNDING, stated if agreed else None)
    gaps = np.diff(grid.indices) if grid else np.zeros(1, int)
    if grid and gaps.max() > MAX_GAP:
        at = int(gaps.argmax())
        raise VoxgapError(
            f"{frames[at].file.parent}: {_name(frames[at])} and {_name(frames[at + 1])} lie {gaps[at]} slices of "
            f"{grid.step:.4g} mm apart; repair the position, or keep each part in a folder of its own"
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


def _name(frame: Frame) -> str:
    return f"frame {frame.part + 1} of {frame.file.name}" if frame.encoded.frames > 1 else frame.file.name
