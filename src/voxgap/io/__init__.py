"""Reading and writing volumes: one registry, from suffix to functions.

A reader takes `(path, max_bytes)`; a writer takes `(stream, volume)`, so that every format is written whole
or not at all by the same few lines. Whatever a damaged or hostile file does to a parser ends as one
`VoxgapError`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from voxgap.errors import VoxgapError
from voxgap.files import replacing
from voxgap.io import arrays, medical
from voxgap.volume import Volume

MAX_BYTES = 16 * 2**30
"""Largest volume that is read, as float32 in memory, unless told otherwise: 16 GiB."""


class Format(NamedTuple):
    """How one kind of file is read and written."""

    read: Callable[[Path, int], Volume]
    write: Callable[[BinaryIO, Volume], None]


FORMATS = {
    ".npy": Format(arrays.read_npy, arrays.write_npy),
    ".npz": Format(arrays.read_npz, arrays.write_npz),
    ".nii": Format(medical.read_nifti, medical.write_nifti),
    ".nii.gz": Format(medical.read_nifti, medical.write_nifti_gz),
}


def read(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> Volume:
    """Read one volume, in canonical orientation, with NaN where it is missing.

    Args:
        path: A `.npy`, `.npz`, `.nii` or `.nii.gz` file.
        max_bytes: Refuse a volume that would take more memory than this, before it takes any.

    Returns:
        The volume, `(depth, height, width, channels)`.

    Raises:
        VoxgapError: There is no such file, its format is unknown, or it is damaged or too large.
    """
    path = Path(path)
    with one_line(path):
        check_file(path)
        return FORMATS[suffix(path)].read(path, max_bytes)


def write(path: str | os.PathLike[str], volume: Volume) -> None:
    """Write one volume; the file appears whole or not at all.

    `.npz` keeps everything. NIfTI keeps values and affine (as float32; without one, the spacing), not the
    channel names. `.npy` keeps the values only.

    Args:
        path: A `.npy`, `.npz`, `.nii` or `.nii.gz` file; one that exists is replaced.
        volume: What to write.

    Raises:
        VoxgapError: The format is unknown, or the place can't be written to.
    """
    path = Path(path)
    write_stream = FORMATS[suffix(path)].write
    try:
        # A link stays a link: what it points to is replaced.
        with replacing(os.path.realpath(path)) as beside, beside.open("wb") as stream:
            write_stream(stream, volume)
    except OSError as error:
        raise VoxgapError(f"{path}: can't be written ({error.strerror or error})") from error


def suffix(path: Path) -> str:
    """Return the registered suffix that the name ends with, or raise a `VoxgapError` that lists them."""
    name = path.name.lower()
    found = [known for known in FORMATS if name.endswith(known) and len(name) > len(known)]
    if not found:
        raise VoxgapError(f"{path}: unknown format; voxgap reads and writes {', '.join(FORMATS)}")
    return max(found, key=len)


def check_file(path: Path) -> None:
    """Raise a `VoxgapError` unless `path` is a file that has something in it."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise VoxgapError(f"{path}: no such file; check the path") from None
    if path.is_dir():
        raise VoxgapError(f"{path}: is a folder; name one file in it")
    if not path.is_file():
        raise VoxgapError(f"{path}: is not a regular file; copy it to one")
    if size == 0:
        raise VoxgapError(f"{path}: is empty (0 bytes); copy it again from its source")


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
