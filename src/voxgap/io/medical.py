"""Medical images: NIfTI-1 and NIfTI-2 in one file, `.nii` or `.nii.gz`, or in two, `.hdr` and `.img`.

NIfTI stores `(x, y, z[, c])` with x fastest, which is a C-ordered `([c,] z, y, x)`: depth = z, height = y,
width = x, channels = the one further axis that is longer than 1, or the colours of a voxel. On reading, the axes
are turned to the closest canonical orientation (x to the right, y to the front, z up), so that two scans of one
kind have the same side in the same place.
"""

from __future__ import annotations

import gzip
import logging
from collections.abc import Callable
from io import IOBase
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from voxgap.arrays import planes
from voxgap.errors import VoxgapError
from voxgap.io.raw import Block, read_block, rewritten
from voxgap.io.rules import Axis, millimetres
from voxgap.io.source import Box, Options, Source, Stored, arrange, as_stored, oriented, placed
from voxgap.volume import Volume, times

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

# What nibabel would print of a damaged header is said in one line by the error.
_SILENT = logging.getLogger("voxgap.nifti")
_SILENT.setLevel(logging.CRITICAL + 1)

# Reverses the order of the three axes: (x, y, z) <-> (depth, height, width).
_REVERSED = [2, 1, 0, 3]


def scan_nifti(path: Path, options: Options) -> Source:
    """Describe a NIfTI file; stored integers are scaled by its slope and intercept.

    Only the header is parsed by nibabel: the voxels are read as a stream, so that neither extensions nor a
    compressed bomb are ever expanded.
    """
    with cast(IO[bytes], gzip.open(path)) if _is_gzip(path) else path.open("rb") as stream:
        header = _header(stream, path)
    block = _block(path, header)
    scaling = None if header.get_data_dtype().names else _scaling(header)

    def load(box: Box) -> NDArray[Any]:
        return read_block(block, box, scaling)

    stored = Stored(block.shape, block.dtype, load, _axes(header, path), by_part=not block.packing)
    affine = np.asarray(header.get_best_affine(), np.float64)[:, _REVERSED]
    if options.rules > 1:
        affine[:3] *= millimetres(_unit(header))
    return oriented(arrange(stored, path, options, affine=affine))


def _unit(header: Any) -> str:
    """Return the unit of length, by the lowest three bits alone: nibabel raises at a time unit that it doesn't know."""
    from nibabel.nifti1 import unit_codes

    code = int(header["xyzt_units"]) & 7
    return str(unit_codes.label[code]) if code in unit_codes.label else ""


def write_nifti(stream: BinaryIO, volume: Volume, dtype: Any = np.float32) -> None:
    """Write a NIfTI file; one channel becomes a rank-3 image."""
    import nibabel

    spatial = volume.values.astype(dtype, copy=False).transpose(2, 1, 0, 3)
    data = spatial[..., 0] if spatial.shape[-1] == 1 else spatial
    # NIfTI's own default flips the x axis: without an affine, the spacing, upright, says all that is known.
    affine = placed(volume)[:, _REVERSED]
    # NIfTI-1 counts its voxels in 16 bits.
    kind = nibabel.Nifti1Image if max(data.shape) < 2**15 else nibabel.Nifti2Image
    image = kind(data, affine)
    image.header.set_xyzt_units("mm")
    image.to_stream(cast(IOBase, stream))


def write_nifti_gz(stream: BinaryIO, volume: Volume) -> None:
    """Write a compressed NIfTI file, the same bytes for the same volume."""
    with gzip.GzipFile("", "wb", compresslevel=4, fileobj=stream, mtime=0) as packed:
        write_nifti(cast(BinaryIO, packed), volume)


def write_nifti_like(stream: BinaryIO, volume: Volume, source: Source) -> None:
    """Write a NIfTI file with the header, extensions, byte order and orientation of the original."""
    path = source.path
    header, extensions = _whole_header(path)
    if header.get_data_dtype().names:
        raise VoxgapError(f"{path}: holds colours, which have no room for other values; leave out like=")
    found = rewritten(_block(path, header), source.restore(volume.values), _scaling(header) or np.asarray)
    scale = header.get_slope_inter() if found.own else (1, 0)
    _write_below(stream, header, extensions, found.new, scale=scale)


def write_nifti_labels(stream: BinaryIO, labels: Volume, dtype: Any, source: Source | None) -> None:
    """Write a label map of whole numbers, with the header of the scan that it is for as far as it fits."""
    laid = labels if source is None else as_stored(labels, source)
    if source is None:
        return write_nifti(stream, laid, dtype)
    header, extensions = _whole_header(source.path)
    shape = header.get_data_shape()
    if shape[:3] != laid.shape[2::-1]:  # The axes of space are others than those of the header.
        return write_nifti(stream, labels, dtype)
    if max(shape[3:], default=1) > 1:
        header.set_data_shape(shape[:3])
    # What is said of the values is said of the scan's.
    header["cal_min"] = header["cal_max"] = 0
    header.set_intent("label")
    _write_below(stream, header, extensions, laid.values[..., 0], np.dtype(dtype))


def write_nifti_gz_labels(stream: BinaryIO, labels: Volume, dtype: Any, source: Source | None) -> None:
    """Write the same, compressed."""
    with gzip.GzipFile("", "wb", compresslevel=4, fileobj=stream, mtime=0) as packed:
        write_nifti_labels(cast(BinaryIO, packed), labels, dtype, source)


def _whole_header(path: Path) -> tuple[Nifti1Header, bytes]:
    """Return a header as that of one file, and the extensions behind it."""
    with cast(IO[bytes], gzip.open(path)) if _is_gzip(path) else path.open("rb") as original:
        header = _header(original, path)
        original.seek(header.sizeof_hdr)
        extensions = original.read(max(0, int(header.get_data_offset()) - header.sizeof_hdr))
    return header, extensions


def _write_below(
    stream: BinaryIO,
    header: Nifti1Header,
    extensions: bytes,
    values: NDArray[Any],
    dtype: np.dtype[Any] | None = None,
    scale: tuple[float | None, float | None] = (1, 0),
) -> None:
    """Write values, the slowest axis first, below a header that says how they are stored."""
    if not extensions:  # The header of a pair becomes that of one file.
        extensions = bytes(4)
        header["magic"] = bytes(header["magic"]).replace(b"ni", b"n+")
    header.set_data_offset(header.sizeof_hdr + len(extensions))
    header.set_data_dtype((dtype or values.dtype).newbyteorder(header.endianness))
    header.set_slope_inter(*scale)
    stream.write(header.binaryblock + extensions)
    for slab in planes(values):
        stream.write(np.ascontiguousarray(slab, header.get_data_dtype()).data)


def write_nifti_gz_like(stream: BinaryIO, volume: Volume, source: Source) -> None:
    """Write the same, compressed."""
    with gzip.GzipFile("", "wb", compresslevel=4, fileobj=stream, mtime=0) as packed:
        write_nifti_like(cast(BinaryIO, packed), volume, source)


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _header(stream: IO[bytes], path: Path) -> Nifti1Header:
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    block = stream.read(Nifti2Header.sizeof_hdr)
    declared = {int.from_bytes(block[:4], order) for order in ("little", "big")}
    if _is_pair(path) and block[344:347] not in (b"ni1", b"n+1") and 348 in declared:
        raise VoxgapError(f"{path}: is Analyze 7.5, which doesn't tell left from right; convert it to .nii")
    for kind in (Nifti1Header, Nifti2Header):
        if kind.sizeof_hdr in declared and len(block) >= kind.sizeof_hdr:
            header = kind(block[: kind.sizeof_hdr], check=False)
            header.check_fix(logger=_SILENT)
            break
    else:
        raise VoxgapError(f"{path}: is not a NIfTI file; check its name and source")
    if not bytes(header["magic"]).startswith(b"n+") and not _is_pair(path):
        raise VoxgapError(
            f"{path}: keeps its voxels in a second file (.img); name its header .hdr, or save it as one .nii"
        )
    return header


def _is_pair(path: Path) -> bool:
    return path.name.lower().removesuffix(".gz").endswith(".hdr")


def _voxels(path: Path, header: Nifti1Header) -> Path:
    """Return the file that holds the voxels: the one itself, or the `.img` beside its `.hdr`."""
    if bytes(header["magic"]).startswith(b"n+"):
        return path
    stem = path.name[: path.name.lower().rindex(".hdr")]
    names = [stem + suffix for suffix in (".img", ".img.gz", ".IMG")]
    found = next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)
    if found is None:
        raise VoxgapError(f"{path}: keeps its voxels in {names[0]}, which is not beside it; copy it there")
    return found


def _block(path: Path, header: Nifti1Header) -> Block:
    shape, offset = tuple(size for _, size in _sizes(header, path)), int(header.get_data_offset())
    place = _voxels(path, header)
    if place == path and offset < header.sizeof_hdr:
        raise VoxgapError(f"{path}: its voxels start inside its header, damaged; copy it again")
    dtype = header.get_data_dtype()
    if dtype.names:  # The colours of a voxel.
        shape, dtype = (len(dtype.names), *shape), np.dtype(np.uint8)
    return Block(place, offset, shape[::-1], dtype, "gzip" if _is_gzip(place) else "")


def _axes(header: Nifti1Header, path: Path) -> tuple[Axis, ...]:
    """Return the axes as stored, the slowest first."""
    further = [name for name, _ in _sizes(header, path)[3:]]
    colours = ["colour"] if header.get_data_dtype().names else []
    if len(further) + len(colours) < 2:
        return tuple(Axis(kind=kind) for kind in (*"c" * len(further), *"zyx", *"c" * len(colours)))
    return (*map(Axis, (*further[::-1], "z", "y", "x")), *(Axis(name, "c") for name in colours))


def _sizes(header: Nifti1Header, path: Path) -> list[tuple[str, int]]:
    """Return name and size of each axis, the fastest first, without further ones of size 1."""
    shape = tuple(int(size) for size in header.get_data_shape())
    if len(shape) < 3 or min(shape) < 1:
        raise VoxgapError(f"{path}: shape {times(shape)}; voxgap reads (x, y, z) or (x, y, z, channels)")
    named = list(zip("xyztcuv", shape, strict=False))
    return named[:3] + [(name, size) for name, size in named[3:] if size > 1]


def _scaling(header: Nifti1Header) -> Callable[[NDArray[Any]], Any] | None:
    from nibabel.volumeutils import apply_read_scaling

    slope, intercept = header.get_slope_inter()
    if slope is None:
        return None
    return lambda piece: apply_read_scaling(piece, slope, intercept)
