"""What a network looked at: how its answer falls when a block of the volume goes missing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from itertools import product

import numpy as np

from voxgap.volume import Values

MAX_BLOCKS = 512
Box = tuple[slice, slice, slice]


async def occlusion_map(
    volume: Values,
    output: int,
    block: int | None,
    predict: Callable[[Values], Awaitable[Values]],
    at_once: int,
) -> Values:
    """Make each block missing in turn, and see how much the answer falls.

    Occlusion sensitivity (Zeiler and Fergus, ECCV 2014). They painted a grey square; here a block of NaN, which
    the network has learnt to take for what it is: missing.

    Args:
        volume: `(depth, height, width, channels)`.
        output: Which of the network's outputs.
        block: Edge of a block in voxels; by default a sixth of the longest side. It is enlarged where there
            would be more than 512 blocks.
        predict: Takes `(n, depth, height, width, channels)`, returns `(n, outputs)`.
        at_once: Volumes for each call.

    Returns:
        float32 `(depth, height, width, 1)`: the output with the block minus without; NaN where nothing was
        observed, which can't be made missing.
    """
    base = float((await predict(volume[None]))[0, output])
    shape = (volume.shape[0], volume.shape[1], volume.shape[2])
    boxes = [box for box in blocks(shape, block) if not np.isnan(volume[box]).all()]
    found = np.full((*shape, 1), np.nan, np.float32)
    for start in range(0, len(boxes), at_once):
        part = boxes[start : start + at_once]
        occluded = np.repeat(volume[None], len(part), axis=0)
        for one, box in zip(occluded, part, strict=True):
            one[box] = np.nan
        for box, answer in zip(part, await predict(occluded), strict=True):
            found[box] = base - float(answer[output])
    return found


def blocks(shape: tuple[int, int, int], edge: int | None = None) -> Iterator[Box]:
    """Cut a volume into cubes of `edge` voxels, smaller ones at the far sides."""
    size = edge or max(1, -(-max(shape) // 6))
    while np.prod([-(-n // size) for n in shape]) > MAX_BLOCKS:
        size += 1
    starts = (range(0, n, size) for n in shape)
    for depth, height, width in product(*starts):
        yield slice(depth, depth + size), slice(height, height + size), slice(width, width + size)
