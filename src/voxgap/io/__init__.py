"""Reading and writing volumes: one registry, from suffix to functions.

A scanner takes `(path, options)` and returns a `Source`, from which all or a region is read; a writer takes
`(stream, volume)`, or the path of a new folder, so that every format is written whole or not at all by the
same few lines. Whatever a damaged or hostile file does to a parser ends as one `VoxgapError`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from voxgap.errors import VoxgapError
from voxgap.files import replacing
from voxgap.io import arrays, dicom, hdf5, matlab, medical, metaimage, netcdf, nrrd, planes, tiff, video, zarr
from voxgap.io.folders import replacing_folder
from voxgap.io.rules import RULES
from voxgap.io.source import MAX_BYTES, Options, Region, Source, UnknownAxisError, one_line
from voxgap.volume import Volume, times

__all__ = [
    "FORMATS",
    "MAX_BYTES",
    "RULES",
    "Format",
    "Source",
    "UnknownAxisError",
    "check_file",
    "check_volume",
    "is_volume",
    "one_line",
    "read",
    "scan",
    "split_item",
    "suffix",
    "write",
]

SEPARATOR = "::"


class Format(NamedTuple):
    """How one kind of file, or of folder, is described and written; `write` is None where it is only read."""

    scan: Callable[[Path, Options], Source]
    write: Callable[[BinaryIO, Volume], None] | None = None
    write_folder: Callable[[Path, Volume], None] | None = None
    like: Callable[[Any, Volume, Source], None] | None = None
    """Writes as `write` or `write_folder` does, with all that a file of this format says beside the values."""


_TIFF = Format(tiff.scan_tiff, tiff.write_tiff, like=tiff.write_tiff_like)
_NETCDF = Format(netcdf.scan_netcdf, netcdf.write_netcdf, like=netcdf.write_netcdf_like)
_HDF5 = Format(hdf5.scan_hdf5, hdf5.write_hdf5, like=hdf5.write_hdf5_like)
_ZARR = Format(zarr.scan_zarr, write_folder=zarr.write_zarr, like=zarr.write_zarr_like)
_NRRD = Format(nrrd.scan_nrrd, nrrd.write_nrrd, like=nrrd.write_nrrd_like)
_META = Format(metaimage.scan_metaimage, metaimage.write_metaimage, like=metaimage.write_metaimage_like)
_CLIP = Format(video.scan_video)
_DICOM = (".dcm", ".dicom")

FORMATS = {
    ".npy": Format(arrays.scan_npy, arrays.write_npy, like=arrays.write_npy_like),
    ".npz": Format(arrays.scan_npz, arrays.write_npz, like=arrays.write_npz_like),
    ".nii": Format(medical.scan_nifti, medical.write_nifti, like=medical.write_nifti_like),
    ".nii.gz": Format(medical.scan_nifti, medical.write_nifti_gz, like=medical.write_nifti_gz_like),
    ".hdr": Format(medical.scan_nifti),
    ".hdr.gz": Format(medical.scan_nifti),
    ".nrrd": _NRRD,
    ".nhdr": Format(nrrd.scan_nrrd),
    ".mha": _META,
    ".mhd": Format(metaimage.scan_metaimage),
    ".dcm": Format(dicom.scan_dicom),
    ".dicom": Format(dicom.scan_dicom, write_folder=dicom.write_dicom, like=dicom.write_dicom_like),
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".zarr": _ZARR,
    ".h5": _HDF5,
    ".hdf5": _HDF5,
    ".mat": Format(matlab.scan_mat),
    ".nc": _NETCDF,
    ".nc4": _NETCDF,
    ".mkv": Format(video.scan_video, video.write_video),
    ".mp4": _CLIP,
    ".mov": _CLIP,
    ".avi": _CLIP,
    ".webm": _CLIP,
}


def read(
    path: str | os.PathLike[str],
    *,
    region: Region | None = None,
    item: str | None = None,
    axes: Sequence[str | int] = (),
    at: Mapping[str | int, int] | None = None,
    missing_values: Sequence[float] = (),
    max_bytes: int = MAX_BYTES,
) -> Volume:
    """Read one volume, in canonical orientation, with NaN where it is missing.

    Args:
        path, item, axes, at, missing_values, max_bytes: As for `scan`.
        region: A slice or `(start, stop)` per axis, in the order depth, height, width, channels: only this
            part is read.

    Returns:
        The volume, `(depth, height, width, channels)`.

    Raises:
        VoxgapError: As for `scan`, or the values are damaged.
    """
    source = scan(path, item=item, axes=axes, at=at, missing_values=missing_values, max_bytes=max_bytes)
    return source.read(region)


def scan(
    path: str | os.PathLike[str],
    *,
    item: str | None = None,
    axes: Sequence[str | int] = (),
    at: Mapping[str | int, int] | None = None,
    missing_values: Sequence[float] = (),
    max_bytes: int = MAX_BYTES,
    rules: int = RULES,
) -> Source:
    """Describe one volume without reading its values; `scan(path).read(region)` reads a part of it.

    Args:
        path: A file of a format in `FORMATS`, a Zarr store, or a folder with a DICOM series or 2D images;
            `file.h5::images/ct` names one item of several in it.
        item: The same without the `::`: a dataset of an HDF5 file, variables of a NetCDF file (`sst` or
            `sst,airt`), an array of a Zarr, MATLAB or `.npz` file, a series of a DICOM folder or TIFF file (its
            number from 1, or its UID), a stream of a video by its number, `grey`, `rgb`, or `2,grey`.
        axes: Which of the file's axes, by name or number, are depth, height, width, and perhaps channels.
            By default found from their names.
        at: One index of each axis that a volume has no place for: `{"time": 0}`.
        missing_values: Values that stand for missing: they become NaN.
        max_bytes: Refuse a volume that would take more memory than this, before it takes any.
        rules: Version of the rules of reading: see `voxgap.io.rules.RULES`.

    Returns:
        What is there: `shape`, `dtype`, `spacing`, `affine`, `channels`, and `read(region)`.

    Raises:
        VoxgapError: There is no such file, its format is unknown, or it is damaged or too large.
    """
    path, named = split_item(Path(path))
    options = Options(item or named, tuple(axes), dict(at or {}), tuple(missing_values), max_bytes, rules)
    with one_line(path):
        if path.is_dir():
            return _scanner(path)(path, options)
        check_file(path)
        return FORMATS[suffix(path)].scan(path, options)


def write(
    path: str | os.PathLike[str], volume: Volume, *, like: str | os.PathLike[str] | Source | None = None
) -> None:
    """Write one volume; the file or folder appears whole or not at all.

    `.npz`, `.nrrd`, `.h5`, `.zarr`, `.tif` and `.nc` keep values (as float32), geometry, axis and channel
    names; NIfTI and `.mha` values and geometry; `.npy` the values only. A `.dicom` folder is a series of
    16-bit slices, a `.mkv` a clip of 8-bit frames: both leave out what is wholly missing.

    With `like`, the file says all that the original says beside its values: orientation and byte order, header
    fields, coordinates, attributes and units, patient and study. Where a value is that of the original, what is
    stored for it stays. Whole numbers become float32 where the new values need it, but in DICOM, which has none.

    Args:
        path: A file with one of these suffixes; one that exists is replaced. A folder of any name where `like`
            is a DICOM series.
        volume: What to write.
        like: The file of the same format that the volume was read from, with `::item` if it was, or what `scan`
            gave for it; of the same shape.

    Raises:
        VoxgapError: The format is unknown or can't hold this volume, `like` is of another format or shape, or
            the place can't be written to.
    """
    path = Path(path)
    source = like if like is None or isinstance(like, Source) else scan(like)
    form = _format_like(path, volume, source) if source else FORMATS[suffix(path)]
    try:
        # A link stays a link: what it points to is replaced.
        target = os.path.realpath(path)
        if form.write_folder is not None:
            with replacing_folder(Path(target)) as folder:
                if source and form.like:
                    form.like(folder, volume, source)
                else:
                    form.write_folder(folder, volume)
        elif form.write is not None:
            with replacing(target) as beside, beside.open("w+b") as stream:
                if source and form.like:
                    form.like(stream, volume, source)
                else:
                    form.write(stream, volume)
        else:
            known = ", ".join(name for name, form in FORMATS.items() if form.write or form.write_folder)
            raise VoxgapError(f"{path}: this format is only read; write one of {known}")
    except OSError as error:
        raise VoxgapError(f"{path}: can't be written ({error.strerror or error})") from error


def _scanner(folder: Path) -> Callable[[Path, Options], Source]:
    """Return what describes a folder: a Zarr store, a stack of 2D images, or else a DICOM series."""
    if zarr.is_zarr(folder):
        return zarr.scan_zarr
    return planes.scan_planes if planes.is_planes(folder) else dicom.scan_dicom


def _format_like(path: Path, volume: Volume, source: Source) -> Format:
    """Return the format of a file to be written like another one."""
    if volume.shape != source.shape:
        raise VoxgapError(
            f"{path}: a volume of {times(volume.shape)} can't be written like {source.path}, which holds "
            f"{times(source.shape)}; leave out like="
        )
    if source.path.is_dir() and planes.is_planes(source.path):
        return FORMATS[suffix(path)]._replace(like=None)  # Images have no header to keep.
    if source.path.is_dir() and not zarr.is_zarr(source.path):
        return FORMATS[".dicom"]
    form, original = FORMATS[suffix(path)], FORMATS[suffix(source.path)]
    if form.scan is not original.scan:
        raise VoxgapError(
            f"{path}: is of another format than {source.path}; leave out like=, or choose its suffix"
        )
    return form


def suffix(path: Path) -> str:
    """Return the registered suffix that the name ends with, or raise a `VoxgapError` that lists them.

    Scanners name DICOM files by number: they are known by what they hold.
    """
    name = path.name.lower()
    found = [known for known in FORMATS if name.endswith(known) and len(name) > len(known)]
    if not found and path.is_file() and dicom.is_dicom(path):
        return ".dcm"
    if not found:
        raise VoxgapError(f"{path}: unknown format; voxgap reads and writes {', '.join(FORMATS)}")
    return max(found, key=len)


def split_item(path: Path) -> tuple[Path, str | None]:
    """Split `file.h5::images/ct` into the file and the item in it, None where none is named."""
    before, separator, item = str(path).partition(SEPARATOR)
    if not separator or not before or path.exists():
        return path, None
    return Path(before), item or None


def is_volume(path: Path) -> bool:
    """True for a file of a known format, and a folder that is a Zarr store, a stack of 2D images, or DICOM alone."""
    if path.name.startswith("."):
        return False
    if path.is_dir():
        others = [name for name in FORMATS if name not in _DICOM]
        return zarr.is_zarr(path) or planes.is_planes(path) or dicom.is_series(path, others)
    return path.is_file() and (path.name.lower().endswith(tuple(FORMATS)) or dicom.is_dicom(path))


def check_volume(path: Path) -> None:
    """Raise a `VoxgapError` unless `path` can be a volume: a file of a known format, or such a folder."""
    path = split_item(path)[0]
    if not path.is_dir():
        check_file(path)
        suffix(path)
    elif not is_volume(path):
        raise VoxgapError(f"{path}: is a folder without DICOM or a stack of images; name one file in it")


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
