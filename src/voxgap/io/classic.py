"""Whether the header of a NetCDF 3 file says one thing: the sizes of its axes, its variables and the file agree.

The libraries believe the axes alone, so that a damaged one gives a field of another shape. Source: NetCDF classic
format specification, docs.unidata.ucar.edu/netcdf-c/current/file_format_specifications.html.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import BinaryIO

from voxgap.errors import VoxgapError
from voxgap.volume import times

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8}
_UNKNOWN = 2**32 - 1
"""Number of records of a file that was still being written, and size of a variable beyond what fits."""
MAX_ENTRIES = 100_000


def check_classic(path: Path) -> None:
    """Raise a `VoxgapError` where the sizes in the header of a NetCDF 3 file contradict each other."""
    with path.open("rb") as stream:
        wide = stream.read(4)[3] == 2
        records = _number(stream)
        sizes = []
        for _ in range(_count(stream, path)):
            _skip(stream, _number(stream))
            sizes.append(_number(stream))
        _skip_attributes(stream, path)
        begins, steps = [], []
        for _ in range(_count(stream, path)):
            name = stream.read(length := _number(stream)).decode("utf-8", "replace")
            stream.seek(-length % 4, 1)
            shape = [sizes[_number(stream)] for _ in range(_number(stream))]
            _skip_attributes(stream, path)
            item, held = _SIZES[_number(stream)], _number(stream)
            begin = int.from_bytes(stream.read(8 if wide else 4), "big")
            over = 0 in shape[:1]  # Along the axis of records, which has no size of its own.
            size = item * math.prod(shape[over:])
            if held not in (_UNKNOWN, size, size + -size % 4) and size < 2**31:
                raise VoxgapError(
                    f"{path}: its axes make {name!r} {times(tuple(shape))}, its size {held} bytes, damaged; copy it "
                    "again"
                )
            if over:
                begins.append(begin)
                steps.append(size)
    # Records are padded to four bytes, those of a single variable are not.
    step = steps[0] if len(steps) == 1 else sum(size + -size % 4 for size in steps)
    if steps and records != _UNKNOWN and path.stat().st_size >= min(begins) + (records + 1) * max(step, 1):
        raise VoxgapError(
            f"{path}: holds more than the {records} records of its header, damaged; copy it again"
        )


def _number(stream: BinaryIO) -> int:
    block = stream.read(4)
    if len(block) < 4:
        raise EOFError("its header ends early")
    return int.from_bytes(block, "big")


def _count(stream: BinaryIO, path: Path) -> int:
    """Return the length of a list, behind the word that says of what it is."""
    _number(stream)
    count = _number(stream)
    if count > MAX_ENTRIES:
        raise VoxgapError(f"{path}: its header lists {count} entries, damaged; copy it again")
    return count


def _skip_attributes(stream: BinaryIO, path: Path) -> None:
    for _ in range(_count(stream, path)):
        _skip(stream, _number(stream))
        size = _SIZES[_number(stream)]
        _skip(stream, size * _number(stream))


def _skip(stream: BinaryIO, size: int) -> None:
    stream.seek(size + -size % 4, 1)
