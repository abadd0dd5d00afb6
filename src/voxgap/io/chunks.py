"""Arrays that are decoded piece by piece: chunks bounded by the header before any is opened, and slabs of a region."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.io.source import Box, box_size, too_large
from voxgap.volume import Values, times

FEW = 2**14
"""So many chunks are opened in seconds, however small they are."""
MANY = 2**18
SMALL = 16**3 // 2
"""Values of a chunk that is worth to be opened; at the borders only half of it may be in the region."""
SPARE = 2**26
"""Bytes that a chunk may take beyond twice its whole array: it is cut off where the array ends."""

SLAB = 2**22
"""Bytes that are decoded at a time."""


def check_chunk(
    where: str, shape: tuple[int, ...], chunks: tuple[int, ...], itemsize: int, limit: int
) -> int:
    """Return the bytes of a chunk once decoded, or raise a `VoxgapError` where they are too many.

    Args:
        where: What an error message calls the array.
        shape, chunks: Of the array, and of each of its chunks.
        itemsize: Bytes of one value.
        limit: The most that a chunk may take.
    """
    if min(chunks, default=1) < 1:
        raise VoxgapError(f"{where}: has chunks of {times(chunks)}, damaged; copy it again")
    size = math.prod(chunks) * itemsize
    if size > limit:
        raise VoxgapError(too_large(f"{where}: one chunk", size, limit))
    if size > SPARE + 2 * math.prod(shape) * itemsize:
        raise VoxgapError(
            f"{where}: one chunk of {times(chunks)} is far larger than the array of {times(shape)}; store it in "
            "chunks no larger than that"
        )
    return size


def check_touched(where: str, chunks: tuple[int, ...], box: Box) -> None:
    """Raise a `VoxgapError` where a region lies in so many chunks that opening them would take too long."""
    count = math.prod(len(part) for part in _places(chunks, box))
    if count > min(max(FEW, box_size(box) // SMALL), MANY):
        raise VoxgapError(
            f"{where}: lies in {count} chunks of {times(chunks)}, which take too long to open; store it in chunks "
            "of 64×64×64, say, or read a smaller region"
        )


def touched(chunks: tuple[int, ...], box: Box) -> Iterator[tuple[int, ...]]:
    """Yield where each chunk starts that a box touches."""
    for place in product(*_places(chunks, box)):
        yield tuple(index * chunk for index, chunk in zip(place, chunks, strict=True))


def _places(chunks: tuple[int, ...], box: Box) -> list[range]:
    return [
        range(part.start // chunk, -(-part.stop // chunk)) for part, chunk in zip(box, chunks, strict=True)
    ]


def slabs(box: Box, chunks: tuple[int, ...], itemsize: int) -> Iterator[Box]:
    """Yield parts of a box that follow each other in C order, each of whole rows of chunks and some `SLAB` bytes."""
    lengths = [part.stop - part.start for part in box]
    each, row, axis = 1, itemsize, 0
    for axis in range(len(box)):
        each, row = chunks[axis], math.prod(lengths[axis + 1 :]) * itemsize
        # Only single places of an axis can be cut further: parts of more would not follow each other.
        if each > 1 or row <= SLAB:
            break
    step = max(1, SLAB // (row * each)) * each
    for outer in product(*(range(part.start, part.stop) for part in box[:axis])):
        start = box[axis].start
        while start < box[axis].stop:
            stop = min(start // each * each + step, box[axis].stop)
            yield (*(slice(place, place + 1) for place in outer), slice(start, stop), *box[axis + 1 :])
            start = stop


def gathered(box: Box, pieces: Iterable[NDArray[Any]]) -> Values:
    """Return the values in a box, float32, from those in its slabs."""
    values = np.empty([part.stop - part.start for part in box], np.float32)
    flat, filled = values.reshape(-1), 0
    for piece in pieces:
        flat[filled : filled + piece.size] = piece.reshape(-1)
        filled += piece.size
    return values
