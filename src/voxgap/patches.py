"""Volumes larger than a network's input: cut into patches, and their answers put together again."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from voxgap.arrays import as_real, times
from voxgap.errors import VoxgapError
from voxgap.ragged import shape_of, shapes_of, spanned, together

Corner = tuple[int, int, int]
Size = tuple[int, int, int]
Floats = NDArray[np.float32]

OVERLAP = 0.5
MULTIPLE = 8
LARGEST, LARGEST_WHOLE = 64**3, 128**3
"""Voxels of a patch that is suggested, and of one that has to hold whole volumes."""
PLANNED_MULTIPLE = 4
ACTIVATIONS = 30
"""Values of float32 that training keeps, for each voxel and each filter of the first stage."""
# At the border of a patch a weight may be small, but never so small that float32 loses it.
_LEAST_WEIGHT = 1e-3


def patch_size(size: Any, where: str = "patch_size") -> Size:
    """Check the size of a patch: `(depth, height, width)` in voxels, or one number for all three.

    Raises:
        VoxgapError: it is something else.
    """
    several = (size,) * 3 if isinstance(size, int) else size
    three = isinstance(several, tuple | list) and len(several) == 3
    if not three or any(not isinstance(n, int | np.integer) or n < 1 for n in several):
        raise VoxgapError(f"{where} must be (depth, height, width), positive whole numbers, got {size!r}")
    depth, height, width = map(int, several)
    return depth, height, width


def corners(shape: Sequence[int], size: Size, overlap: float = 0.0) -> list[Corner]:
    """Lay patches over a volume so that they cover it, evenly spaced, the outer ones flush with its sides.

    Args:
        shape: `(depth, height, width)` of the volume.
        size: of the patches. Along an axis on which the volume is smaller, one patch lies around it.
        overlap: share of a patch that its neighbour covers too, at least, in [0, 1).

    Returns:
        The first voxel of each patch, in order; below 0 where the patch lies around the volume.

    Raises:
        VoxgapError: the overlap is not possible.
    """
    if not 0 <= overlap < 1:
        raise VoxgapError(f"overlap must be at least 0 and below 1, got {overlap}")
    starts = []
    for length, edge in zip(shape, size, strict=True):
        if length <= edge:
            starts.append([(length - edge) // 2])
            continue
        step = max(1, int(edge * (1 - overlap)))
        count = math.ceil((length - edge) / step) + 1
        starts.append(np.linspace(0, length - edge, count).round().astype(int).tolist())
    depths, heights, widths = starts
    return list(itertools.product(depths, heights, widths))


def suggested(shapes: Sequence[Sequence[int]], whole: bool, name: str) -> Size:
    """Choose the size of patches for volumes of several shapes.

    One that holds each volume, its axes multiples of 8, so that networks can halve them: what is around a smaller one
    is missing, and a network sees all of it at once. Where that is too large to train on, and each voxel has an
    answer of its own, the longest axes are shortened. Padding is what every way of handling gaps knows, what exports
    need (a graph of one shape) and what fills of a value for each voxel need; batches grouped by shape give neither.

    Args:
        shapes: `(depth, height, width)` of the volumes, and any channels.
        whole: whether an answer is one for the volume, which a part of it may not show.
        name: of the data, for messages.

    Raises:
        VoxgapError: no patch of a size to train on holds each volume, and one has to.
    """
    largest = np.array([shape[:3] for shape in shapes]).max(axis=0)
    edges = [1 if length == 1 else MULTIPLE * math.ceil(length / MULTIPLE) for length in largest.tolist()]
    if whole and math.prod(edges) > LARGEST_WHOLE:
        raise VoxgapError(
            f"{name}: volumes differ in shape, up to {times(tuple(largest.tolist()))}, and what is to be predicted is "
            "of a whole one; make them smaller with --spacing or --size, or learn from parts with --patch-size"
        )
    while not whole and math.prod(edges) > LARGEST:
        longest = edges.index(max(edges))
        edges[longest] -= MULTIPLE
    return patch_size(tuple(edges))


def size_for(input_shape: Sequence[int | None], shapes: Sequence[Sequence[int]], whole: bool) -> Size:
    """Return the patches of volumes of several shapes that a model takes: its own size, or what is suggested.

    Args:
        input_shape: of the model, `(batch, depth, height, width, channels)`, None where it takes any.
        shapes, whole: see `suggested`.
    """
    fixed = tuple(length for length in input_shape[1:4] if length is not None)
    return patch_size(fixed) if len(fixed) == 3 else suggested(shapes, whole, "data")


@dataclass(frozen=True)
class Machine:
    """What a training has to do with.

    Args:
        name: in words.
        voxels: of the largest patch.
        filters: of the first stage.
        halvings: at most.
        steps: of an epoch, at least.
        fill: whether a batch may be larger than two patches, to keep the machine busy.
    """

    name: str
    voxels: int
    filters: int
    halvings: int
    steps: int
    fill: bool


PROCESSORS = Machine("processors", LARGEST, 16, 4, 50, False)
GPU = Machine("a GPU", LARGEST_WHOLE, 32, 5, 250, True)


def planned(shapes: Sequence[tuple[int, ...]], machine: Machine, room: int) -> tuple[Size, str]:
    """Return what a plan makes of volumes of these shapes, and why.

    It holds each volume; where that is too large, it has the shape that most have, made smaller.

    Args:
        shapes: `(depth, height, width)` of each.
        machine: that trains.
        room: bytes of memory that there are, of processors.
    """
    sizes = np.array(shapes)
    kept = 2 * machine.filters * ACTIVATIONS * 4
    most = machine.voxels if machine.fill else min(machine.voxels, room // 2 // kept)
    largest = [_rounded(length) for length in sizes.max(axis=0).tolist()]
    if math.prod(largest) <= most:
        return patch_size(largest), f"one holds each training volume whole ({spanned(shapes)})"
    usual = np.median(sizes, axis=0)
    edges = [_rounded(math.ceil(length)) for length in usual.tolist()]
    while math.prod(edges) > most and max(edges) > PLANNED_MULTIPLE:
        # What is left of each axis, as of the volumes: the patch keeps their proportions.
        shares = [
            edge / length if edge > PLANNED_MULTIPLE else 0.0
            for edge, length in zip(edges, usual.tolist(), strict=True)
        ]
        edges[int(np.argmax(shares))] -= PLANNED_MULTIPLE
    return patch_size(edges), (
        f"a part of the training volumes ({spanned(shapes)}), in the proportions of the median one, which would be "
        "too large"
    )


def _rounded(length: int) -> int:
    return 1 if length == 1 else PLANNED_MULTIPLE * math.ceil(length / PLANNED_MULTIPLE)


def memory() -> int:
    """Return the bytes of memory of this machine; where it doesn't say, what most have."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**33


def random_corner(shape: Sequence[int], size: Size, rng: np.random.Generator) -> Corner:
    """Draw a patch of a volume; along an axis on which the volume is smaller, it lies anywhere around it.

    About its middle only, the outer planes of a patch would never have a label where all volumes are smaller, and what
    a network answers there for a larger volume would be anything.
    """
    depth, height, width = (
        int(rng.integers(min(0, length - edge), max(0, length - edge) + 1))
        for length, edge in zip(shape, size, strict=True)
    )
    return depth, height, width


def read_patch(volumes: Any, index: int, corner: Corner, size: Size) -> NDArray[Any]:
    """Read one patch of one volume, and no more than it.

    Args:
        volumes: `(n, depth, height, width, channels)`, or label maps without channels: an array, a memory map,
            or anything else that is indexed `volumes[i, a:b, c:d, e:f]`.
        index: of the volume.
        corner: the patch's first voxel.
        size: of the patch.

    Returns:
        `(*size, channels)` or `size`. Outside the volume is missing: NaN; in label maps nobody said: -1.
    """
    inside = [
        # Where the patch lies wholly outside, an empty slice.
        slice(min(length, max(0, start)), max(0, min(length, start + edge)))
        for start, edge, length in zip(corner, size, shape_of(volumes, index)[:3], strict=True)
    ]
    found = as_real(volumes[(index, *inside)], "volumes", allow_empty=True)
    if found.shape[:3] == size:
        return found
    values = found.dtype.kind == "f" or len(volumes.shape) == 5
    dtype = np.result_type(found.dtype, np.float16 if values else np.int8)  # that NaN, or -1, fits into
    patch = np.full((*size, *found.shape[3:]), np.nan if values else -1, dtype)
    where = tuple(
        slice(part.start - start, part.stop - start) for part, start in zip(inside, corner, strict=True)
    )
    patch[where] = found
    return patch


class Patches:
    """The patches of volumes in the order of `corners`, as an array that is read item by item.

    Args:
        volumes: see `read_patch`.
        size: of a patch.
        overlap: see `corners`.
    """

    def __init__(self, volumes: Any, size: Size, overlap: float = 0.0) -> None:
        self.volumes = volumes
        self.size = size
        shapes = [shape[:3] for shape in shapes_of(volumes)]
        self._corners = {shape: corners(shape, size, overlap) for shape in set(shapes)}
        self._ends = np.cumsum([len(self._corners[shape]) for shape in shapes], dtype=np.intp)

    @property
    def owners(self) -> NDArray[np.intp]:
        """The volume that each patch is of."""
        return np.repeat(np.arange(len(self._ends)), np.diff(self._ends, prepend=0))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of all patches, `(patches, depth, height, width, ...)`."""
        return (len(self), *self.size, *self.volumes.shape[4:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the volumes' values."""
        return np.dtype(self.volumes.dtype)

    @property
    def ndim(self) -> int:
        """The number of axes, that of the volumes."""
        return len(self.volumes.shape)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Return one patch, a slice of them, or a part of one: `[i]`, `[i:j]`, `[i, plane, a:b]`."""
        if isinstance(key, slice):
            return np.stack([self[i] for i in range(*key.indices(len(self)))])
        index, *parts = key if isinstance(key, tuple) else (key,)
        number = range(len(self))[int(index)]
        volume = int(np.searchsorted(self._ends, number, side="right"))
        places = self._corners[shape_of(self.volumes, volume)[:3]]
        corner, size, planes = list(places[number - int(self._ends[volume])]), list(self.size), []
        for axis, part in enumerate(parts):
            whole = isinstance(part, slice)
            start, stop, _ = part.indices(size[axis]) if whole else (part, part + 1, 1)
            corner[axis], size[axis] = corner[axis] + start, stop - start
            planes.append(slice(None) if whole else 0)
        found = read_patch(
            self.volumes, volume, (corner[0], corner[1], corner[2]), (size[0], size[1], size[2])
        )
        return np.asarray(found[tuple(planes)])


def importance(size: Size) -> Floats:
    """Weigh the voxels of a patch: a Gaussian about its centre, whose deviation is an eighth of its size.

    Near its border a patch lacks context. Source: Isensee et al., nnU-Net, Nature Methods 18, 2021.
    """
    weights = np.ones((), np.float64)
    for edge in size:
        distance = (np.arange(edge) - (edge - 1) / 2) / (edge / 8)
        weights = weights[..., np.newaxis] * np.exp(-0.5 * distance**2)
    return np.maximum(weights, _LEAST_WEIGHT).astype(np.float32)


def predict_patches(
    predict: Callable[[Floats], Any],
    volumes: Any,
    size: Size,
    overlap: float = OVERLAP,
    *,
    batch_size: int = 16,
) -> Floats:
    """Predict volumes of any size with a network of patches.

    Args:
        predict: `(batch, *size, channels)` -> `(batch, *size, classes)`, or `(batch, outputs)`.
        volumes: `(n, depth, height, width, channels)`; see `read_patch`.
        size: of the patches.
        overlap: share of a patch that its neighbours cover too.
        batch_size: patches that are predicted at once.

    Returns:
        `(n, depth, height, width, classes)`: where patches overlap, their mean weighed by `importance`. Or
        `(n, outputs)`: the mean over the patches that have an observed voxel. Answers for the voxels of volumes of
        several shapes are a `Ragged`.
    """
    return cast("Floats", together(each_volume(predict, volumes, size, overlap, batch_size=batch_size)))


def each_volume(
    predict: Callable[[Floats], Any],
    volumes: Any,
    size: Size,
    overlap: float = OVERLAP,
    *,
    batch_size: int = 16,
    channels: int | None = None,
) -> Iterator[Floats]:
    """Predict as `predict_patches` does, one volume at a time, so that not all answers are held at once.

    Of `channels`, the first so many say what is observed, where they are not all of the volumes' own.
    """
    for index in range(len(volumes)):
        shape = shape_of(volumes, index)[:3]
        answers = _answers(predict, volumes, index, size, corners(shape, size, overlap), batch_size, channels)
        first = next(answers)
        answers = itertools.chain([first], answers)
        yield _whole(_bands(answers, shape, size), shape) if first.answer.ndim > 1 else _averaged(answers)


class Band(NamedTuple):
    """Planes of an answer to which no further patch adds anything: the first one's place, and their values."""

    start: int
    values: Floats


def bands(
    predict: Callable[[Floats], Any],
    volumes: Any,
    index: int,
    size: Size,
    overlap: float = OVERLAP,
    *,
    batch_size: int = 16,
    start: int = 0,
) -> Iterator[Band]:
    """Predict the voxels of one volume as `predict_patches` does, and yield its planes as they are finished.

    What is held is no more than the planes of one row of patches. Planes are the same to the last bit wherever the
    work starts: a row of patches goes through the network by itself.

    Args:
        predict, volumes, size, overlap, batch_size: See `predict_patches`; answers are of voxels.
        index: Of the volume.
        start: The first plane that is wanted.

    Yields:
        Bands that follow each other, `(planes, height, width, classes)`; each is gone once the next one is asked for.
    """
    shape = shape_of(volumes, index)[:3]
    places = [corner for corner in corners(shape, size, overlap) if corner[0] + size[0] > start]
    for band in _bands(_answers(predict, volumes, index, size, places, batch_size, None), shape, size):
        done = max(0, start - band.start)
        if done < len(band.values):
            yield Band(band.start + done, band.values[done:])


class _Answer(NamedTuple):
    corner: Corner
    observed: bool
    answer: Floats


def _answers(
    predict: Callable[[Floats], Any],
    volumes: Any,
    index: int,
    size: Size,
    places: list[Corner],
    count: int,
    channels: int | None,
) -> Iterator[_Answer]:
    for _, of_row in itertools.groupby(places, key=lambda corner: corner[0]):
        row = list(of_row)
        for start in range(0, len(row), count):
            some = row[start : start + count]
            patches = np.stack([read_patch(volumes, index, corner, size) for corner in some])
            for corner, patch, answer in zip(some, patches, np.asarray(predict(patches)), strict=True):
                yield _Answer(corner, not np.isnan(patch[..., :channels]).all(), answer)


def _averaged(answers: Iterator[_Answer]) -> Floats:
    """Return the mean over patches; one of nothing has no say, unless all are."""
    held = list(answers)
    seen = [answer for answer in held if answer.observed] or held
    return np.asarray(np.mean([answer.answer for answer in seen], axis=0, dtype=np.float64), np.float32)


def _bands(answers: Iterator[_Answer], shape: tuple[int, ...], size: Size) -> Iterator[Band]:
    """Yield the weighed mean, voxel by voxel, of the patches that hold it, row by row of patches along depth."""
    weights = importance(size)[..., np.newaxis]
    total: Any = None
    sums = np.zeros((min(size[0], shape[0]), *shape[1:], 1), np.float32)
    first = 0
    for depth, row in itertools.groupby(answers, key=lambda answer: answer.corner[0]):
        if total is not None:
            yield _finished(total, sums, first, depth)
        for corner, _, answer in row:
            if total is None:
                first = max(0, depth)
                total = np.zeros((*sums.shape[:3], answer.shape[-1]), np.float32)
            elif depth > first:
                _forward((total, sums), depth - first)
                first = depth
            outer, inner = [], []
            for start, edge, length in zip(corner, answer.shape[:3], shape, strict=True):
                low, high = max(0, start), min(length, start + edge)
                outer.append(slice(low, high))
                inner.append(slice(low - start, high - start))
            outer[0] = slice(outer[0].start - first, outer[0].stop - first)
            total[tuple(outer)] += (answer * weights)[tuple(inner)]
            sums[tuple(outer)] += weights[tuple(inner)]
    yield _finished(total, sums, first, shape[0])


def _finished(total: Floats, sums: Floats, first: int, end: int) -> Band:
    """Divide the planes before `end` in place: they are not needed any more."""
    done = total[: end - first]
    done /= sums[: end - first]
    return Band(first, done)


def _forward(held: Sequence[Floats], step: int) -> None:
    """Move planes to the front, and make room behind them; one by one, since all at once would be copied."""
    for array in held:
        for plane in range(len(array)):
            array[plane] = array[plane + step] if plane + step < len(array) else 0


def _whole(of_bands: Iterator[Band], shape: tuple[int, ...]) -> Floats:
    whole: Any = None
    for start, values in of_bands:
        if whole is None:
            whole = np.empty((*shape, values.shape[-1]), np.float32)
        whole[start : start + len(values)] = values
    return np.asarray(whole)
