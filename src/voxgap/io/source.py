"""A volume that lies in a file: described by its header, read as a whole or by region.

Every format ends here. It says how its array is stored (`Stored`), `arrange` finds which stored axis is which
by the rules of `voxgap.io.rules`, `oriented` turns a scan to canonical orientation, and `Source.read` does the
rest for all of them: the bound on memory, sentinels to NaN, the geometry of the region.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.io import auxiliary, rules
from voxgap.io.auxiliary import Auxiliary
from voxgap.io.rules import RULES, Axis
from voxgap.io.slices import without_slices
from voxgap.volume import AXES, Volume, rises, times

MAX_BYTES = 16 * 2**30
"""Largest volume that is read, as float32 in memory, unless told otherwise: 16 GiB."""

FEW_CHANNELS = 4
"""Of four axes without names the last is that of channels where it is no longer than this, or than any other."""

Box = tuple[slice, ...]
"""One slice per axis, with start and stop inside the axis and a step of 1."""

Region = Sequence[slice | tuple[int, int] | None]


class Options(NamedTuple):
    """What a caller may say about any file; see `scan`. `labels`: it is read as a label map."""

    item: str | None = None
    axes: tuple[str | int, ...] = ()
    at: Mapping[str | int, int] = {}
    missing_values: tuple[float, ...] = ()
    max_bytes: int = MAX_BYTES
    rules: int = RULES
    missing_slices: tuple[str, ...] = ()
    labels: bool = False


class UnknownAxisError(VoxgapError):
    """A file has no axis of that name."""


@dataclass(frozen=True, eq=False)
class Source:
    """A volume in a file, of which nothing but the header has been read.

    Attributes:
        path: The file or folder.
        shape: `(depth, height, width, channels)`.
        dtype: As stored.
        load: Takes a box, returns its values `(depth, height, width, channels)`, NaN where the file itself
            says that they are missing.
        restore: Takes values `(depth, height, width, channels)` of the whole, returns them along the file's own
            axes, for writing others in their place.
        turned: Whether coordinates fall along `(depth, height, width)` as stored, and values were turned round.
        spatial: Which of the file's own axes depth, height and width lie along.
        backwards: Whether each of them runs against it, by its coordinates or to canonical orientation.
        affine, spacing, channels, axes: As for `Volume`.
        options: What the caller said.
        said: What the file says of depth, height, width; their names where it is empty.
        by_part: Whether a part is read without all that lies before it: not so where values are packed as one stream.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    load: Callable[[Box], NDArray[Any]] = field(repr=False)
    affine: NDArray[np.float64] | None = None
    spacing: tuple[float, float, float] | None = None
    channels: tuple[str, ...] = ()
    axes: tuple[str, str, str] = AXES
    options: Options = field(default_factory=Options)
    restore: Callable[[NDArray[Any]], NDArray[Any]] = field(default=lambda values: values, repr=False)
    turned: tuple[bool, bool, bool] = (False, False, False)
    spatial: tuple[int, ...] = (0, 1, 2)
    backwards: tuple[bool, ...] = (False, False, False)
    said: tuple[Axis, ...] = ()
    by_part: bool = True

    @property
    def time(self) -> int | None:
        """Which of depth, height, width (0, 1, 2) runs through time, if one does."""
        said = self.said or tuple(map(Axis, self.axes))
        found = [place for place, axis in enumerate(said) if rules.is_time(axis)]
        return found[0] if len(found) == 1 and self.affine is None else None

    @property
    def measured(self) -> Sequence[Axis]:
        """What is known of depth, height, width: where an affine says how large voxels are, that is all."""
        if self.affine is not None:
            sizes = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
            return [Axis(name, step=size, unit="mm") for name, size in zip(self.axes, sizes, strict=True)]
        if any(axis.places is not None or axis.step for axis in self.said):
            return self.said
        steps = self.spacing or (None, None, None)
        return [
            Axis(name, step=size, unit="s" if place == self.time else "mm")
            for place, (name, size) in enumerate(zip(self.axes, steps, strict=True))
        ]

    @property
    def rises(self) -> bool:
        """Whether height is known to run to the north, to the front or to the head: see `voxgap.volume.rises`."""
        return bool(self.said) and rules.is_north(self.said[1]) if self.affine is None else rises(self.affine)

    def read(self, region: Region | None = None) -> Volume:
        """Read the volume, or the part of it that lies in a region.

        Args:
            region: A slice or `(start, stop)` per axis, in the order depth, height, width, channels; None, or
                an axis left out, means all of it. Only this part is held in memory.

        Returns:
            The volume; its affine places the region in the same world as the whole.

        Raises:
            VoxgapError: The region is empty, doesn't fit into memory, or the file is damaged.
        """
        if self.options.missing_slices and region is not None:
            return self._part(as_box(region, self.shape, str(self.path)))
        box = as_box(region, self.shape, str(self.path))
        size = 4 * box_size(box)
        if size > self.options.max_bytes:
            shape = times(tuple(part.stop - part.start for part in box))
            raise VoxgapError(too_large(f"{self.path}: shape {shape}", size, self.options.max_bytes))
        with one_line(self.path):
            values = with_gaps(self.load(box), self.options.missing_values, own=True)
            if self.options.missing_slices:
                values = without_slices(values.astype(np.float32, copy=False), self.options.missing_slices)
            affine = None
            if self.affine is not None:
                affine = self.affine.copy()
                affine[:3, 3] += affine[:3, :3] @ [part.start for part in box[:3]]
            names = self.channels[box[3]] if self.channels else ()
            return Volume(values, affine, self.spacing, tuple(names), self.path, self.axes)

    def _part(self, box: Box) -> Volume:
        """Cut a part out of the whole: only there can be seen which slices are lost."""
        whole = self.read()
        affine = None if whole.affine is None else whole.affine.copy()
        if affine is not None:
            affine[:3, 3] += affine[:3, :3] @ [part.start for part in box[:3]]
        names = tuple(whole.channels[box[3]])
        return Volume(whole.values[box], affine, whole.spacing, names, whole.source, whole.axes)


class Stored(NamedTuple):
    """An array as a file stores it, and what the file says of each of its axes.

    `beside` returns coordinates that lie beside it, of which it names some (`coordinates`).
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    load: Callable[[Box], NDArray[Any]]
    said: tuple[Axis, ...] = ()
    by_part: bool = True
    beside: Callable[[], Sequence[Auxiliary]] = tuple
    coordinates: str = ""

    @property
    def axes(self) -> tuple[Axis, ...]:
        """One for each axis of the array, even where the file says nothing of them."""
        return self.said or (Axis(),) * len(self.shape)


def arrange(
    stored: Stored,
    path: Path,
    options: Options,
    *,
    affine: NDArray[np.float64] | None = None,
    spacing: tuple[float, float, float] | None = None,
    channels: tuple[str, ...] = (),
) -> Source:
    """Find which stored axis is depth, height, width and channels, and return the volume they make.

    Latitude and longitude come out ascending, and steps in mm or seconds: see `voxgap.io.rules`.

    Args:
        stored: The array.
        path: The file that it lies in.
        options: What the caller said.
        affine: Where the voxels lie, in mm; it stands above what the coordinates of the axes say.
        spacing: The same for the size of a voxel.
        channels: Names of the channels.

    Raises:
        VoxgapError: It can't be told from names and rank, or the caller's `axes` and `at` don't fit.
    """
    if min(stored.shape, default=0) < 1:
        raise VoxgapError(f"{path}: shape {times(stored.shape)} holds no voxel; check its source")
    if stored.dtype.kind not in "biuf":
        raise VoxgapError(f"{path}: dtype {stored.dtype} is not a real number; convert it to float32")
    if options.rules > 3 and affine is None and auxiliary.wanted(stored.axes):
        said, doubt = auxiliary.told(stored.axes, stored.shape, stored.beside(), stored.coordinates)
        stored = stored._replace(said=said)
        if doubt:
            warnings.warn(f"{path.name}: {doubt}", stacklevel=2)
    axes = stored.axes
    fixed = {_axis(stored, name, path): _index(stored, name, at, path) for name, at in options.at.items()}
    spatial, channel = _roles(stored, fixed, options.axes, path)
    order = [*spatial, *([] if channel is None else [channel])]
    turned = tuple(affine is None and rules.falls(axes[axis], options.rules) for axis in spatial)
    backwards = tuple(place for place in range(3) if turned[place])

    def load(box: Box) -> NDArray[Any]:
        picked = [slice(fixed.get(i, 0), fixed.get(i, 0) + 1) for i in range(len(stored.shape))]
        for place, (part, axis) in enumerate(zip(box, order, strict=False)):
            size = stored.shape[axis]
            picked[axis] = slice(size - part.stop, size - part.start) if place in backwards else part
        values = stored.load(tuple(picked))
        rest = [axis for axis in range(values.ndim) if axis not in order]
        shape = tuple(part.stop - part.start for part in box)
        return np.flip(values.transpose(order + rest).reshape(shape), backwards)

    def restore(values: NDArray[Any]) -> NDArray[Any]:
        rest = [axis for axis in range(len(stored.shape)) if axis not in order]
        if math.prod(stored.shape) != values.size:
            raise VoxgapError(
                f"{path}: the volume is a part of this file, which can't be written alone; write .npz"
            )
        whole = [*order, *rest]
        laid = np.flip(values, backwards).reshape([stored.shape[axis] for axis in whole])
        return laid.transpose(np.argsort(whole))

    if spacing is None and affine is None:
        steps = [rules.step(axes[axis], options.rules) for axis in spatial]
        if all(steps):
            spacing = tuple(float(step or 0) for step in steps)  # type: ignore[assignment]
    uneven = [axis for axis in spatial if spacing is None and rules.uneven(axes[axis])]
    bent = [_names(stored)[axis] for axis in uneven]
    if bent and affine is None and options.rules > 1:
        warnings.warn(
            f"{path.name}: steps along {', '.join(bent)} are uneven, and taken for even ones: what lies between is "
            "perhaps lost, and a straight line between two neighbours of a slice is off by up to "
            f"{max(rules.bend(axes[axis]) for axis in uneven):.0%} of their difference",
            stacklevel=2,
        )
    names = tuple(axes[axis].name for axis in spatial)
    names = names if all(names) and len(set(names)) == 3 else AXES
    return Source(
        path,
        (*(stored.shape[axis] for axis in spatial), 1 if channel is None else stored.shape[channel]),
        stored.dtype,
        load,
        affine,
        spacing,
        channels,
        (names[0], names[1], names[2]),
        options,
        restore,
        (turned[0], turned[1], turned[2]),
        tuple(spatial),
        turned,
        said=tuple(axes[axis] for axis in spatial),
        by_part=stored.by_part,
    )


def oriented(source: Source) -> Source:
    """Turn a scan to the closest canonical orientation: width to the right, height to the front, depth up."""
    from nibabel.orientations import io_orientation

    affine = source.affine
    if affine is None:
        return source
    if not np.isfinite(affine).all():
        raise VoxgapError(f"{source.path}: its affine is not finite; repair the header")
    turn = io_orientation(affine)
    if np.isnan(turn).any():
        raise VoxgapError(f"{source.path}: its affine gives an axis no direction; repair the header")
    # `turn` says for each stored axis which of x, y, z it follows; depth, height, width are z, y, x.
    order = [int(np.flatnonzero(turn[:, 0] == world)[0]) for world in (2, 1, 0)]
    flipped = [bool(turn[axis, 1] < 0) for axis in order]
    matrix = affine[:, [*order, 3]].copy()
    for place, axis in enumerate(order):
        if flipped[place]:
            matrix[:3, 3] += matrix[:3, place] * (source.shape[axis] - 1)
            matrix[:3, place] *= -1

    def load(box: Box) -> NDArray[Any]:
        picked = list(box)
        for place, axis in enumerate(order):
            part, size = box[place], source.shape[axis]
            picked[axis] = slice(size - part.stop, size - part.start) if flipped[place] else part
        turned = source.load(tuple(picked)).transpose([*order, 3])
        return np.flip(turned, tuple(place for place in range(3) if flipped[place]))

    def restore(values: NDArray[Any]) -> NDArray[Any]:
        turned = np.flip(values, tuple(place for place in range(3) if flipped[place]))
        return source.restore(turned.transpose(np.argsort([*order, 3])))

    shape = (*(source.shape[axis] for axis in order), source.shape[3])
    return replace(
        source,
        shape=shape,
        load=load,
        affine=matrix,
        restore=restore,
        spatial=tuple(source.spatial[axis] for axis in order),
        backwards=tuple(source.backwards[axis] != turn for axis, turn in zip(order, flipped, strict=True)),
    )


def as_stored(labels: Volume, source: Source) -> Volume:
    """Lay a label map along the file's own axes of space, the slowest first, its geometry with it."""
    order = np.argsort(source.spatial)
    back = np.array(source.backwards)
    turned = tuple(place for place in range(3) if source.backwards[place])
    values = np.flip(labels.values, turned).transpose(*order, 3)
    affine = None
    if labels.affine is not None:
        affine = labels.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ (back * (np.array(labels.shape[:3]) - 1))
        affine[:3, :3] *= np.where(back, -1, 1)
        affine = affine[:, [*order, 3]]
    spacing = None if labels.spacing is None else tuple(labels.spacing[axis] for axis in order)
    axes = tuple(labels.axes[axis] for axis in order)
    return Volume(values, affine, spacing, labels.channels, labels.source, axes)  # type: ignore[arg-type]


def placed(volume: Volume) -> NDArray[np.float64]:
    """Return the affine of a volume; where it has none, its spacing, upright and at the origin."""
    if volume.affine is not None:
        return volume.affine
    affine = np.eye(4)[[2, 1, 0, 3]]
    affine[:3, :3] *= volume.spacing or (1.0, 1.0, 1.0)
    return affine


def as_box(region: Region | None, shape: tuple[int, ...], where: str) -> Box:
    """Return one slice per axis, or raise a `VoxgapError` if the region holds nothing."""
    parts = [] if region is None else list(region)
    if len(parts) > len(shape):
        raise VoxgapError(f"{where}: region of {len(parts)} axes; there are {len(shape)}")
    parts += [None] * (len(shape) - len(parts))
    box = []
    for axis, (part, size) in enumerate(zip(parts, shape, strict=True)):
        wanted = part if isinstance(part, slice) else slice(*(part or (None, None)))
        start, stop, step = wanted.indices(size)
        if step != 1 or start >= stop:
            name = (*AXES, "channels")[axis]
            raise VoxgapError(
                f"{where}: region {start}:{stop} of {name} (size {size}) is empty or has a step; "
                "give start < stop"
            )
        box.append(slice(start, stop))
    return tuple(box)


def box_size(box: Box) -> int:
    """Return the number of values in a box."""
    return math.prod(part.stop - part.start for part in box)


def too_large(what: str, size: int, max_bytes: int) -> str:
    """Say that something would not fit."""
    return (
        f"{what} would take {size / 2**30:.1f} GiB, the limit is {max_bytes / 2**30:.3g}; "
        "crop it, or raise max_bytes"
    )


@contextlib.contextmanager
def one_line(path: Path) -> Iterator[None]:
    """Turn whatever reading `path` raises into one `VoxgapError` line that names it."""
    try:
        yield
    except VoxgapError:
        raise
    except MemoryError:
        raise VoxgapError(f"{path}: does not fit into memory; use a smaller volume") from None
    except Exception as error:  # A parser that meets damaged bytes may raise anything.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise VoxgapError(f"{path}: can't be read, damaged or of another format ({reason})") from error


def with_gaps(values: NDArray[Any], missing_values: Sequence[float], *, own: bool = False) -> NDArray[Any]:
    """Return a copy, float32, in which some values are NaN; the values themselves where none are named.

    Where the values are the caller's own, no copy is made of those that are float32 already.
    """
    if not missing_values:
        return values
    # Compared as float32: sentinels like 9.96921e36 are seldom stored in the precision they are written in.
    with np.errstate(over="ignore"):
        found = values.astype(np.float32, copy=not (own and values.flags.writeable))
        sentinels = np.asarray(missing_values, np.float64).astype(np.float32)
    for slab in found:
        for sentinel in sentinels:
            slab[slab == sentinel] = np.nan
    return found


def _roles(
    stored: Stored, fixed: Mapping[int, int], axes: tuple[str | int, ...], path: Path
) -> tuple[list[int], int | None]:
    """Return the stored axes that are depth, height, width, and the one that is channels, if any."""
    if axes:
        found = [_axis(stored, name, path) for name in axes]
        left = [i for i in range(len(stored.shape)) if i not in found and i not in fixed]
        if len(found) not in (3, 4) or len(set(found)) < len(found) or set(found) & set(fixed):
            raise VoxgapError(f"{path}: axes {axes}; name three, and a fourth for channels")
        _refuse_leftover(stored, left, path)
        return found[:3], found[3] if len(found) == 4 else None
    free = [axis for axis in range(len(stored.shape)) if axis not in fixed]
    kinds = [rules.kind(axis) for axis in stored.axes]
    named = {kind: [axis for axis in free if kinds[axis] == kind] for kind in "xyc"}
    channel = named["c"][0] if len(named["c"]) == 1 else None
    others = [axis for axis in free if axis != channel]
    if (
        channel is None
        and len(others) == 4
        and not any(stored.axes[axis].name or kinds[axis] for axis in others)
    ):
        # (depth, height, width, channels), unless the shape says that channels may as well come first.
        *space, last = (stored.shape[axis] for axis in others)
        if last > FEW_CHANNELS and last >= min(space):
            _refuse_leftover(stored, others, path, always=True)
        channel, others = others[3], others[:3]
    for axis in list(others):  # Axes of size 1 go until three are left.
        if len(others) > 3 and stored.shape[axis] == 1 and kinds[axis] not in ("x", "y"):
            others.remove(axis)
    if len(others) != 3:
        _refuse_leftover(stored, others, path, always=True)
    if len(named["x"]) == len(named["y"]) == 1:
        height, width = named["y"][0], named["x"][0]
        others = [axis for axis in others if axis not in (height, width)] + [height, width]
    return others, channel


def _refuse_leftover(stored: Stored, left: list[int], path: Path, always: bool = False) -> None:
    large = [axis for axis in left if stored.shape[axis] > 1]
    if not (large or always):
        return
    names = _names(stored)
    held = ", ".join(f"{name} {size}" for name, size in zip(names, stored.shape, strict=True))
    remedy = f"--axes {','.join(names[-3:])}"
    rest = f" --at {','.join(f'{name}=0' for name in names[:-3])}" if names[:-3] else ""
    raise VoxgapError(
        f"{path}: has the axes {held}; say which are depth, height, width (and channels) with axes=(...), "
        f"and pick one index of any other with at={{...}}, on the command line as in {remedy}{rest}"
    )


def _names(stored: Stored) -> list[str]:
    """Return what each axis can be called by: its name, or its number where names lack or repeat."""
    names = [axis.name for axis in stored.axes]
    return [name if name and names.count(name) == 1 else str(index) for index, name in enumerate(names)]


def _axis(stored: Stored, name: str | int, path: Path) -> int:
    names = _names(stored)
    if str(name) in names:
        return names.index(str(name))
    # Numbers count the axes as they are stored; the command line knows text only.
    if str(name).isdecimal() and int(name) < len(stored.shape):
        return int(name)
    raise UnknownAxisError(f"{path}: has no axis {name!r}; its axes are {', '.join(names)}")


def _index(stored: Stored, name: str | int, index: int, path: Path) -> int:
    size = stored.shape[_axis(stored, name, path)]
    if not 0 <= index < size:
        raise VoxgapError(f"{path}: index {index} of axis {name!r} is outside 0 to {size - 1}")
    return index
