"""Work shared by plain threads, in no pool that outlives it: safe inside other threads and after a fork."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from voxgap.errors import VoxgapError


def share(work: Callable[[int, int], None], count: int, threads: int) -> None:
    """Run `work(first, last)` over even parts of [0, count), the first of them on this thread.

    Raises:
        VoxgapError: `threads` is below 1.
    """
    if threads < 1:
        raise VoxgapError(f"threads {threads} is out of range; give 1 or more")
    parts = min(threads, count)
    if parts < 2:
        work(0, count)
        return
    bounds = [count * part // parts for part in range(parts + 1)]
    with ThreadPoolExecutor(len(bounds) - 2) as pool:
        others = [pool.submit(work, *part) for part in itertools.pairwise(bounds[1:])]
        work(bounds[0], bounds[1])
        for other in others:
            other.result()
