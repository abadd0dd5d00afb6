"""NumPy files: `.npy` and `.npz`, read without pickle and measured before any memory is taken."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.volume import Volume, times

CHUNK = 2**22
DEFLATE_LIMIT = 1040
"""Deflate can't expand more than 1032-fold: a header that claims more is lying."""


def read_npy(path: Path, max_bytes: int) -> Volume:
    """Read a `.npy` file of rank 3 or 4 as a volume."""
    with path.open("rb") as stream:
        values = _read_array(stream, path.stat().st_size, str(path), max_bytes)
    return Volume(values, source=path)


def write_npy(stream: BinaryIO, volume: Volume) -> None:
    """Write the values alone."""
    np.save(stream, volume.values, allow_pickle=False)


def read_npz(path: Path, max_bytes: int) -> Volume:
    """Read `values` (and `affine`, `spacing`, `channels`) of a `.npz`, or its one array of rank 3 or 4."""
    names = npz_names(path)
    if "values" in names:
        found = read_npz_arrays(path, max_bytes, ("values", "affine", "spacing", "channels"))
        return Volume(
            found["values"],
            affine=found.get("affine"),
            spacing=None if "spacing" not in found else tuple(found["spacing"].tolist()),
            channels=tuple(map(str, np.atleast_1d(found.get("channels", ())))),
            source=path,
        )
    shapes = npz_shapes(path)
    usable = [name for name, shape in shapes.items() if len(shape) in (3, 4)]
    if len(usable) != 1:
        held = ", ".join(f"{name} {times(shape)}" for name, shape in shapes.items()) or "nothing"
        raise VoxgapError(f"{path}: holds {held}; name the array to use `values`")
    return Volume(read_npz_arrays(path, max_bytes, usable)[usable[0]], source=path)


def write_npz(stream: BinaryIO, volume: Volume) -> None:
    """Write values, geometry and channel names, compressed."""
    fields: dict[str, Any] = {"values": volume.values, "channels": np.array(volume.channels, dtype=np.str_)}
    if volume.affine is not None:
        fields["affine"] = volume.affine
    if volume.spacing is not None:
        fields["spacing"] = np.array(volume.spacing)
    np.savez_compressed(stream, **fields)


def npz_names(path: Path) -> list[str]:
    """Return the names of the arrays in a `.npz` file."""
    return list(_members(path))


def npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return name and shape of each array in a `.npz` file, without reading its values."""
    shapes = {}
    with zipfile.ZipFile(path) as archive:
        for name, info in _members(path).items():
            with archive.open(info) as stream:
                shapes[name] = _header(stream, f"{path}: {name}")[0]
    return shapes


def read_npz_arrays(path: Path, max_bytes: int, names: Any = None) -> dict[str, NDArray[Any]]:
    """Read arrays of numbers or text from a `.npz` file, within a bound.

    Args:
        path: The file.
        max_bytes: The most that all of them may take together.
        names: Which arrays, where they exist; all by default.

    Returns:
        Name to array.

    Raises:
        VoxgapError: An array is pickled, claims more than the file can hold, or they are too large together.
    """
    members = {name: info for name, info in _members(path).items() if names is None or name in names}
    total = sum(info.file_size for info in members.values())
    if total > max_bytes:
        raise VoxgapError(_too_large(str(path), total, max_bytes))
    # Summed, because the members of a crafted archive may share their compressed bytes.
    if total > DEFLATE_LIMIT * path.stat().st_size:
        raise VoxgapError(f"{path}: claims {total} bytes, more than it can hold; copy it again")
    found = {}
    with zipfile.ZipFile(path) as archive:
        for name, info in members.items():
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise VoxgapError(
                    f"{path}: {name} is packed in an unusual way; save with numpy.savez_compressed"
                )
            with archive.open(info) as stream:
                found[name] = _read_array(stream, info.file_size, f"{path}: {name}", max_bytes, text=True)
                stream.read(1)  # The end of a member is where its checksum is compared.
    return found


def check_size(where: str, shape: tuple[int, ...], itemsize: int, max_bytes: int) -> int:
    """Return the bytes that an array takes in its file, or raise a `VoxgapError` if it would not fit."""
    count = math.prod(shape)
    size = count * max(itemsize, 4)
    if min(shape, default=1) < 0 or size > max_bytes:
        raise VoxgapError(_too_large(f"{where}: shape {times(shape)}", size, max_bytes))
    return count * itemsize


def read_exactly(stream: IO[bytes], out: NDArray[Any], where: str) -> None:
    """Fill a flat array with the next bytes of a stream, or raise a `VoxgapError` if it ends before."""
    filled = 0
    for piece in _pieces(out.view(np.uint8).data):
        block = stream.read(len(piece))
        piece[: len(block)] = block
        filled += len(block)
        if len(block) < len(piece):
            raise VoxgapError(f"{where}: ends after {filled} of {out.nbytes} bytes; copy it again")


def _pieces(view: memoryview) -> Iterator[memoryview]:
    return (view[start : start + CHUNK] for start in range(0, len(view), CHUNK))


def _members(path: Path) -> dict[str, zipfile.ZipInfo]:
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
    return {info.filename.removesuffix(".npy"): info for info in infos if info.filename.endswith(".npy")}


def _header(stream: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise VoxgapError(f"{where}: .npy version {version}; save plain numbers with numpy.save")
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran_order, dtype = read_header(stream)
    return shape, fortran_order, dtype


def _read_array(stream: IO[bytes], size: int, where: str, max_bytes: int, text: bool = False) -> NDArray[Any]:
    shape, fortran_order, dtype = _header(stream, where)
    if dtype.kind not in ("biufUS" if text else "biuf"):
        raise VoxgapError(
            f"{where}: dtype {dtype} is not plain numbers, nothing pickled is read; save float32"
        )
    wanted = check_size(where, shape, dtype.itemsize, max_bytes)
    held = size - stream.tell()
    if wanted > held:
        raise VoxgapError(
            f"{where}: shape {times(shape)} needs {wanted} bytes, {held} are there; copy it again"
        )
    flat = np.empty(math.prod(shape), dtype)
    read_exactly(stream, flat, where)
    return flat.reshape(shape, order="F" if fortran_order else "C")


def _too_large(what: str, size: int, max_bytes: int) -> str:
    return (
        f"{what} would take {size / 2**30:.1f} GiB, the limit is {max_bytes / 2**30:.3g}; "
        "crop it, or raise max_bytes"
    )
