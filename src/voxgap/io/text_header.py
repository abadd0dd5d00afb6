"""What the text headers of NRRD and MetaImage share: lines, whole numbers, the data files they name, a world."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError

MAX_HEADER = 2**20
MAX_RANK = 8
MAX_FILES = 100_000
_NUMBER = re.compile(r"%(0?[0-9]{0,2})[diu]")


def header_lines(path: Path, last: str = "", start: int = 0) -> tuple[list[str], int]:
    """Return the lines up to the first empty one, or up to the one that starts with `last`, and their end."""
    lines, end = [], start
    with path.open("rb") as stream:
        stream.seek(start)
        while raw := stream.readline(MAX_HEADER - (end - start) + 1):
            end += len(raw)
            if end - start > MAX_HEADER:
                raise VoxgapError(f"{path}: has no end of its header; check its name and source")
            line = raw.decode("latin-1").strip()
            if not (line or last):
                break
            lines.append(line)
            if last and line.startswith(last):
                break
    return lines, end


def whole(fields: dict[str, str], key: str, path: Path) -> list[int]:
    """Return the whole numbers of a field."""
    words = fields.get(key, "").split()
    if not 1 <= len(words) <= MAX_RANK or not all(re.fullmatch(r"[+-]?[0-9]{1,18}", word) for word in words):
        raise VoxgapError(f"{path}: {key} is {fields.get(key, 'missing')[:40]!r}; repair the header")
    return [int(word) for word in words]


def beside(path: Path, name: str) -> Path:
    """Return a data file that a header names.

    Raises:
        VoxgapError: It lies outside the folder of the header, or is reached by a link, which could lead anywhere.
    """
    named = Path(name)
    if not named.parts or named.is_absolute() or named.drive or ".." in named.parts or "\0" in name:
        raise VoxgapError(
            f"{path}: names the data file {name!r}; it must lie in the same folder, or below: move it there"
        )
    place = path.parent
    for part in named.parts:
        place = place / part
        if place.is_symlink():
            raise VoxgapError(
                f"{path}: its data file {name!r} is a link, not a file beside it; copy it there"
            )
    if not place.is_file():
        raise VoxgapError(f"{path}: its data file {name!r} is not a file beside it; copy it there")
    return place


def is_numbered(text: str) -> bool:
    """Tell whether the name of a data file stands for several: `slice%03d.raw`."""
    return len(_NUMBER.findall(text)) == 1


def numbered(path: Path, pattern: str, first: int, last: int, step: int) -> list[str]:
    """Return the names that `slice%03d.raw` stands for."""
    if step == 0 or abs(last - first) // abs(step) >= MAX_FILES:
        raise VoxgapError(
            f"{path}: numbers its data files {first} to {last} by {step}; at most {MAX_FILES} can be read"
        )
    numbers = range(first, last + (1 if step > 0 else -1), step)
    if not numbers or min(numbers) < 0:
        raise VoxgapError(f"{path}: numbers its data files {first} to {last} by {step}; repair the header")
    before, spec, after = _NUMBER.split(pattern)
    return [f"{before}{format(number, spec + 'd')}{after}" for number in numbers]


def check_count(path: Path, names: Sequence[str], shape: tuple[int, ...], each: int) -> None:
    """Raise a `VoxgapError` unless so many files make the array.

    Args:
        path: The header.
        names: The files.
        shape: Of the array, the fastest axis last.
        each: How many axes each file holds; all of them where the slowest is cut into slabs.
    """
    outer = math.prod(shape[: len(shape) - each])
    fits = len(names) == outer if each < len(shape) else len(names) and shape[0] % len(names) == 0
    if not fits:
        raise VoxgapError(
            f"{path}: names {len(names)} data files for {outer if each < len(shape) else shape[0]} parts of its "
            "voxels; copy all of them beside it, or repair the header"
        )


def world(columns: NDArray[Any], origin: NDArray[Any], left: bool, posterior: bool) -> NDArray[np.float64]:
    """Return the affine of `(depth, height, width)` in RAS+ from the columns of x, y, z.

    Args:
        columns: Where a step along x, y, z leads, `(3, 3)`.
        origin: Where the first voxel lies.
        left, posterior: Whether the file's first axis of the world runs to the left, its second to the back.
    """
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = columns, origin
    affine[0] *= -1 if left else 1
    affine[1] *= -1 if posterior else 1
    return affine[:, [2, 1, 0, 3]]
