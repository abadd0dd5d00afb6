"""Chunks of Zarr and HDF5: how many a region touches and how large they are, bounded before any is opened."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

from voxgap.errors import VoxgapError
from voxgap.io.source import Box, box_size, too_large
from voxgap.volume import times

FEW = 2**14
"""So many chunks are opened in seconds, however small they are."""
MANY = 2**18
SMALL = 16**3 // 2
"""Values of a chunk that is worth to be opened; at the borders only half of it may be in the region."""
SPARE = 2**26
"""Bytes that a chunk may take beyond twice its whole array: it is cut off where the array ends."""


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
