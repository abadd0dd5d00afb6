"""NumPy files: `.npy` and `.npz`, read without pickle and measured before any memory is taken."""

from __future__ import annotations

import math
import shutil
import threading
import zipfile
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.io.keeping import settled
from voxgap.io.raw import DEFLATE_LIMIT, Block, check_end, read_box, read_exactly
from voxgap.io.rules import Axis
from voxgap.io.source import Box, Options, Source, Stored, arrange, too_large
from voxgap.volume import AXES, Volume, times

# NumPy reads a header as a Python literal, which two threads at once can't before CPython 3.11.8 (gh-106905).
_ONE_HEADER = threading.Lock()

MAX_FIRST = 8
"""A first axis no longer than this, with a last one that is, may hold channels."""


def scan_npy(path: Path, options: Options) -> Source:
    """Describe a `.npy` file of rank 3 or 4."""
    with path.open("rb") as stream:
        shape, fortran_order, dtype = _header(stream, str(path))
        offset = stream.tell()
    _check_plain(dtype, str(path))
    block = Block(path, offset, shape[::-1] if fortran_order else shape, dtype)

    def load(box: Box) -> NDArray[Any]:
        held = path.stat().st_size - offset
        if block.nbytes > held:
            raise VoxgapError(_short(str(path), shape, block.nbytes, held))
        check_end(block, offset + held)
        with path.open("rb") as stream:
            if fortran_order:
                return read_box(stream, block, box[::-1]).T
            return read_box(stream, block, box)

    return arrange(Stored(shape, dtype, load, _convention(shape)), path, options)


def write_npy(stream: BinaryIO, volume: Volume, dtype: Any = np.float32) -> None:
    """Write the values alone."""
    np.save(stream, volume.values.astype(dtype, copy=False), allow_pickle=False)


def write_npy_like(stream: BinaryIO, volume: Volume, source: Source) -> None:
    """Write the values with the axes, byte order and precision of the original."""
    stored = np.load(source.path, allow_pickle=False)
    np.save(stream, _rewritten(stored, source.restore(volume.values)), allow_pickle=False)


def scan_npz(path: Path, options: Options) -> Source:
    """Describe `values` (with `affine`, `spacing`, `channels`, `axes`) of a `.npz`, or its one array."""
    name = options.item or _only_array(path)
    kept = ("affine", "spacing", "channels", "axes") if name == "values" else ()
    found = read_npz_arrays(path, options.max_bytes, kept)
    with zipfile.ZipFile(path) as archive, archive.open(_member(path, name)) as stream:
        shape, _, dtype = _header(stream, f"{path}: {name}")
    _check_plain(dtype, f"{path}: {name}")

    def load(box: Box) -> NDArray[Any]:
        return read_npz_arrays(path, options.max_bytes, (name,))[name][box]

    return arrange(
        Stored(
            shape,
            dtype,
            load,
            tuple(map(Axis, _axis_names(found, len(shape)))) or _convention(shape),
            by_part=False,
        ),
        path,
        options,
        affine=found.get("affine"),
        spacing=None if "spacing" not in found else tuple(found["spacing"].tolist()),
        channels=tuple(map(str, np.atleast_1d(found.get("channels", ())))),
    )


def write_npz(stream: BinaryIO, volume: Volume, dtype: Any = np.float32) -> None:
    """Write values, geometry and channel names, compressed."""
    values, names = volume.values.astype(dtype, copy=False), np.array(volume.channels, dtype=np.str_)
    fields: dict[str, Any] = {"values": values, "channels": names}
    if volume.affine is not None:
        fields["affine"] = volume.affine
    if volume.spacing is not None:
        fields["spacing"] = np.array(volume.spacing)
    if volume.axes != AXES:
        fields["axes"] = np.array(volume.axes, dtype=np.str_)
    np.savez_compressed(stream, **fields)


def write_npz_like(stream: BinaryIO, volume: Volume, source: Source) -> None:
    """Write a copy of the original with other values in the array that was read, compressed."""
    path, options = source.path, source.options
    name = options.item or _only_array(path)
    (stored,) = read_npz_arrays(path, options.max_bytes, (name,)).values()
    values = _rewritten(stored, source.restore(volume.values))
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as target:
        for info in archive.infolist():
            with target.open(info.filename, "w", force_zip64=True) as member:
                if info.filename == f"{name}.npy":
                    npy.write_array(member, values, allow_pickle=False)
                else:
                    with archive.open(info) as other:
                        shutil.copyfileobj(other, member)


def _rewritten(stored: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
    new = settled(stored, values).new
    if new is stored:
        return stored
    new = new.astype(new.dtype.newbyteorder(stored.dtype.byteorder), copy=False)
    return np.asfortranarray(new) if np.isfortran(stored) else np.ascontiguousarray(new)


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
        raise VoxgapError(too_large(str(path), total, max_bytes))
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
                found[name] = _read_array(stream, info.file_size, f"{path}: {name}", max_bytes)
                if stream.read(1):  # The end of a member is where its checksum is compared.
                    raise VoxgapError(f"{path}: {name} goes on beyond its shape; save it again")
    return found


def check_size(where: str, shape: tuple[int, ...], itemsize: int, max_bytes: int) -> int:
    """Return the bytes that an array takes in its file, or raise a `VoxgapError` if it would not fit."""
    count = math.prod(shape)
    size = count * max(itemsize, 4)
    if min(shape, default=1) < 0 or size > max_bytes:
        raise VoxgapError(too_large(f"{where}: shape {times(shape)}", size, max_bytes))
    return count * itemsize


def _members(path: Path) -> dict[str, zipfile.ZipInfo]:
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
    return {info.filename.removesuffix(".npy"): info for info in infos if info.filename.endswith(".npy")}


def _header(stream: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise VoxgapError(f"{where}: .npy version {version}; save plain numbers with numpy.save")
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    with _ONE_HEADER:
        shape, fortran_order, dtype = read_header(stream)
    return shape, fortran_order, dtype


def _read_array(stream: IO[bytes], size: int, where: str, max_bytes: int) -> NDArray[Any]:
    shape, fortran_order, dtype = _header(stream, where)
    _check_plain(dtype, where, "biufUS")
    wanted = check_size(where, shape, dtype.itemsize, max_bytes)
    held = size - stream.tell()
    if wanted > held:
        raise VoxgapError(_short(where, shape, wanted, held))
    flat = np.empty(math.prod(shape), dtype)
    read_exactly(stream, flat, where)
    return flat.reshape(shape, order="F" if fortran_order else "C")


def _check_plain(dtype: np.dtype[Any], where: str, kinds: str = "biuf") -> None:
    if dtype.kind not in kinds:
        raise VoxgapError(
            f"{where}: dtype {dtype} is not plain numbers, nothing pickled is read; save float32"
        )


def _short(where: str, shape: tuple[int, ...], wanted: int, held: int) -> str:
    return f"{where}: shape {times(shape)} needs {wanted} bytes, {held} are there; copy it again"


def _member(path: Path, name: str) -> zipfile.ZipInfo:
    members = _members(path)
    if name not in members:
        held = ", ".join(members) or "nothing"
        raise VoxgapError(f"{path}: has no array {name!r}; it holds {held}")
    return members[name]


def _only_array(path: Path) -> str:
    if "values" in npz_names(path):
        return "values"
    shapes = npz_shapes(path)
    usable = [name for name, shape in shapes.items() if len(shape) in (3, 4)]
    if len(usable) != 1:
        held = ", ".join(f"{name} {times(shape)}" for name, shape in shapes.items()) or "nothing"
        raise VoxgapError(f"{path}: holds {held}; name the array to use `values`")
    return usable[0]


def _convention(shape: tuple[int, ...]) -> tuple[Axis, ...]:
    """Return the axes of an array as Python code hands them over, `(depth, height, width, channels)`.

    Nothing where the first is short and the last is not: channels may as well come first.
    """
    if len(shape) != 4 or shape[0] <= MAX_FIRST < shape[3]:
        return ()
    return tuple(Axis(kind=kind) for kind in "zyxc")


def _axis_names(found: dict[str, NDArray[Any]], rank: int) -> tuple[str, ...]:
    names = tuple(map(str, np.atleast_1d(found.get("axes", ()))))
    return (*names, "channel")[:rank] if len(names) == 3 else ()
