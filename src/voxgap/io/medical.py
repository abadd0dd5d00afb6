"""Medical images: NIfTI-1 and NIfTI-2 in one file, `.nii` or `.nii.gz`.

NIfTI stores `(x, y, z[, c])` with x fastest, which is a C-ordered `([c,] z, y, x)`: depth = z, height = y,
width = x, channels = the fourth axis. On reading, the axes are turned to the closest canonical orientation
(x to the right, y to the front, z up), so that two scans of one kind have the same side in the same place.
"""

from __future__ import annotations

import gzip
import math
from io import IOBase
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.io.arrays import CHUNK, DEFLATE_LIMIT, check_size, read_exactly
from voxgap.volume import Values, Volume, times

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

MAX_TRAILING = 2**26
# Reverses the order of the three axes: (x, y, z) <-> (depth, height, width).
_REVERSED = [2, 1, 0, 3]


def read_nifti(path: Path, max_bytes: int) -> Volume:
    """Read a NIfTI file; stored integers are scaled by its slope and intercept.

    Only the header is parsed by nibabel: the file is then read as a stream into memory of a size that was
    checked, so that neither extensions nor a compressed bomb are ever expanded.
    """
    compressed = _is_gzip(path)
    with cast(IO[bytes], gzip.open(path)) if compressed else path.open("rb") as stream:
        header = _header(stream, path)
        shape = _shape(header, path)
        dtype = header.get_data_dtype()
        if dtype.kind not in "biuf":
            raise VoxgapError(f"{path}: data type {dtype} is not a real number; convert it to float32")
        size = check_size(str(path), shape, dtype.itemsize, max_bytes)
        offset = int(header.get_data_offset())
        held = path.stat().st_size * (DEFLATE_LIMIT if compressed else 1)
        if offset < header.sizeof_hdr or offset + size > held:
            raise VoxgapError(f"{path}: its header claims {size} bytes, more than it holds; copy it again")
        stream.seek(offset)
        flat = np.empty(math.prod(shape), dtype)
        read_exactly(stream, flat, str(path))
        _drain(stream, path)
    stored = flat.reshape(shape[::-1])
    return _canonical(_scaled(stored, header), header.get_best_affine(), path)


def write_nifti(stream: BinaryIO, volume: Volume) -> None:
    """Write a NIfTI file of float32; one channel becomes a rank-3 image."""
    import nibabel

    spatial = volume.values.transpose(2, 1, 0, 3)
    data = spatial[..., 0] if spatial.shape[-1] == 1 else spatial
    if volume.affine is None:
        # NIfTI's own default flips the x axis: the spacing, upright, says all that is known.
        affine = np.diag([*reversed(volume.spacing or (1.0, 1.0, 1.0)), 1.0])
    else:
        affine = volume.affine[:, _REVERSED]
    # NIfTI-1 counts its voxels in 16 bits.
    kind = nibabel.Nifti1Image if max(data.shape) < 2**15 else nibabel.Nifti2Image
    image = kind(data, affine)
    image.header.set_xyzt_units("mm")
    image.to_stream(cast(IOBase, stream))


def write_nifti_gz(stream: BinaryIO, volume: Volume) -> None:
    """Write a compressed NIfTI file, the same bytes for the same volume."""
    with gzip.GzipFile("", "wb", compresslevel=4, fileobj=stream, mtime=0) as packed:
        write_nifti(cast(BinaryIO, packed), volume)


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _header(stream: IO[bytes], path: Path) -> Nifti1Header:
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    block = stream.read(Nifti2Header.sizeof_hdr)
    declared = {int.from_bytes(block[:4], order) for order in ("little", "big")}
    for kind in (Nifti1Header, Nifti2Header):
        if kind.sizeof_hdr in declared and len(block) >= kind.sizeof_hdr:
            header = kind(block[: kind.sizeof_hdr], check=True)
            break
    else:
        raise VoxgapError(f"{path}: is not a NIfTI file; check its name and source")
    if not bytes(header["magic"]).startswith(b"n+"):
        raise VoxgapError(f"{path}: keeps its voxels in a second file (.img); save it as one .nii")
    return header


def _shape(header: Nifti1Header, path: Path) -> tuple[int, ...]:
    shape = tuple(int(size) for size in header.get_data_shape())
    if len(shape) == 5 and shape[3] == 1:  # A vector image: its unused time axis stands before the channels.
        shape = (*shape[:3], shape[4])
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise VoxgapError(f"{path}: shape {times(shape)}; voxgap reads (x, y, z) or (x, y, z, channels)")
    return shape


def _drain(stream: IO[bytes], path: Path) -> None:
    # The end of a compressed stream is where its checksum is compared.
    trailing = 0
    while block := stream.read(CHUNK):
        trailing += len(block)
        if trailing > MAX_TRAILING:
            raise VoxgapError(f"{path}: goes on far beyond what its header claims; copy it again")


def _scaled(stored: NDArray[Any], header: Nifti1Header) -> Values:
    from nibabel.volumeutils import apply_read_scaling

    slope, intercept = header.get_slope_inter()
    if slope is None:
        return stored.astype(np.float32)
    values = np.empty(stored.shape, np.float32)
    # Slab by slab: the scaled values are float64 for a moment. What overflows is refused as infinite.
    with np.errstate(all="ignore"):
        for target, slab in zip(values, stored, strict=True):
            target[...] = apply_read_scaling(slab, slope, intercept)
    return values


def _canonical(values: Values, affine: Any, path: Path) -> Volume:
    from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

    spatial = values.T  # (x, y, z[, c]) again
    if not np.isfinite(affine).all():
        raise VoxgapError(f"{path}: its affine is not finite; repair the header")
    orientation = io_orientation(affine)
    if np.isnan(orientation).any():
        raise VoxgapError(f"{path}: its affine gives an axis no direction; repair the header")
    turned = apply_orientation(spatial, orientation)
    affine = affine @ inv_ornt_aff(orientation, spatial.shape[:3])
    return Volume(
        np.ascontiguousarray(turned.transpose(_REVERSED[: turned.ndim])),
        affine=affine[:, _REVERSED],
        source=path,
    )
