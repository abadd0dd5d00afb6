"""Reading and writing volumes: one registry, from suffix to functions.

A scanner takes `(path, options)` and returns a `Source`, from which all or a region is read; a writer takes
`(stream, volume)`, or the path of a new folder, so that every format is written whole or not at all by the
same few lines. Whatever a damaged or hostile file does to a parser ends as one `VoxgapError`.

Example:
    >>> import voxgap as vg
    >>> [suffix for suffix, form in vg.io.FORMATS.items() if form.tell]
    ['.nc', '.nc4']
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from voxgap.errors import VoxgapError
from voxgap.files import replacing
from voxgap.io import arrays, dicom, hdf5, matlab, medical, metaimage, netcdf, nrrd, planes, tiff, video, zarr
from voxgap.io.ancillary import Ancillary
from voxgap.io.beside import Beside, fits
from voxgap.io.folders import replacing_folder
from voxgap.io.labels import WriteLabels, along, as_it_is, whole_type
from voxgap.io.rules import RULES
from voxgap.io.slices import check_kinds
from voxgap.io.source import MAX_BYTES, Options, Region, Source, UnknownAxisError, one_line
from voxgap.registry import Registry
from voxgap.volume import Volume, times

__all__ = [
    "FORMATS",
    "MAX_BYTES",
    "RULES",
    "Ancillary",
    "Format",
    "Source",
    "UnknownAxisError",
    "beside",
    "check_file",
    "check_volume",
    "is_series",
    "is_volume",
    "label_suffix",
    "one_line",
    "read",
    "scan",
    "split_item",
    "suffix",
    "tells",
    "write",
]

SEPARATOR = "::"
OTHERS = ".nii.gz"
"""What label maps are written as where the format of the scan can't hold them."""


class Format(NamedTuple):
    """How one kind of file, or of folder, is described and written; `write` is None where it is only read."""

    scan: Callable[[Path, Options], Source]
    write: Callable[[BinaryIO, Volume], None] | None = None
    write_folder: Callable[[Path, Volume], None] | None = None
    like: Callable[[Any, Volume, Source], None] | None = None
    """Writes as `write` or `write_folder` does, with all that a file of this format says beside the values."""
    labels: WriteLabels | None = None
    """Writes a label map, along the axes of the scan that it is for and with what its header says of where it is."""
    beside: Callable[[Source], list[Beside]] | None = None
    """Lists the variables of a file: those on axes of the volume say something of it, such as where the sea is."""
    tell: Callable[[BinaryIO, Sequence[Ancillary], Source], None] | None = None
    """Adds what is told of each value to a file that `like` has written."""


_TIFF = Format(tiff.scan_tiff, tiff.write_tiff, None, tiff.write_tiff_like, along(tiff.write_tiff))
_NETCDF = Format(
    netcdf.scan_netcdf,
    netcdf.write_netcdf,
    None,
    netcdf.write_netcdf_like,
    netcdf.write_netcdf_labels,
    netcdf.beside_netcdf,
    netcdf.add_netcdf,
)
_HDF5 = Format(hdf5.scan_hdf5, hdf5.write_hdf5, None, hdf5.write_hdf5_like, hdf5.write_hdf5_labels)
_ZARR = Format(
    zarr.scan_zarr, None, zarr.write_zarr, zarr.write_zarr_like, zarr.write_zarr_labels, zarr.beside_zarr
)
_NRRD = Format(nrrd.scan_nrrd, nrrd.write_nrrd, None, nrrd.write_nrrd_like, nrrd.write_nrrd_labels)
_META = Format(
    metaimage.scan_metaimage,
    metaimage.write_metaimage,
    None,
    metaimage.write_metaimage_like,
    metaimage.write_metaimage_labels,
)
_NIFTI = Format(
    medical.scan_nifti, medical.write_nifti, None, medical.write_nifti_like, medical.write_nifti_labels
)
_CLIP = Format(video.scan_video)
_DICOM = (".dcm", ".dicom")

FORMATS = Registry(
    "formats",
    {
        ".npy": Format(
            arrays.scan_npy, arrays.write_npy, None, arrays.write_npy_like, along(arrays.write_npy)
        ),
        ".npz": Format(
            arrays.scan_npz, arrays.write_npz, None, arrays.write_npz_like, along(arrays.write_npz)
        ),
        ".nii": _NIFTI,
        ".nii.gz": _NIFTI._replace(
            write=medical.write_nifti_gz,
            like=medical.write_nifti_gz_like,
            labels=medical.write_nifti_gz_labels,
        ),
        ".hdr": Format(medical.scan_nifti),
        ".hdr.gz": Format(medical.scan_nifti),
        ".nrrd": _NRRD,
        ".nhdr": Format(nrrd.scan_nrrd),
        ".mha": _META,
        ".mhd": Format(metaimage.scan_metaimage),
        ".dcm": Format(dicom.scan_dicom),
        ".dicom": Format(
            dicom.scan_dicom, None, dicom.write_dicom, dicom.write_dicom_like, as_it_is(dicom.write_dicom)
        ),
        ".tif": _TIFF,
        ".tiff": _TIFF,
        ".zarr": _ZARR,
        ".h5": _HDF5,
        ".hdf5": _HDF5,
        ".mat": Format(matlab.scan_mat),
        ".nc": _NETCDF,
        ".nc4": _NETCDF,
        ".mkv": Format(video.scan_video, video.write_video, labels=as_it_is(video.write_video)),
        ".mp4": _CLIP,
        ".mov": _CLIP,
        ".avi": _CLIP,
        ".webm": _CLIP,
    },
)
"""Suffix -> how files that end so are described and written. An installed package adds its own: see docs/design.md."""


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

    Example:
        >>> import numpy as np, voxgap as vg
        >>> vg.write("scan.nii.gz", vg.Volume(np.ones((4, 5, 6)), spacing=(3, 1, 1)))
        >>> vg.read("scan.nii.gz", missing_values=[1]).missing_rate
        1.0
        >>> vg.read("scan.nii.gz", region=[(0, 2)]).shape
        (2, 5, 6, 1)
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
    missing_slices: Sequence[str] = (),
    labels: bool = False,
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
        missing_slices: Slices that become NaN, `constant`, `duplicated`: see `voxgap.io.slices.KINDS`.
        labels: Whether it is a label map: the numbers of a palette are then labels, and not colours.

    Returns:
        What is there: `shape`, `dtype`, `spacing`, `affine`, `channels`, and `read(region)`.

    Raises:
        VoxgapError: There is no such file, its format is unknown, or it is damaged or too large.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> vg.write("scan.npy", vg.Volume(np.ones((4, 5, 6))))
        >>> source = vg.scan("scan.npy")
        >>> source.shape, str(source.dtype)
        ((4, 5, 6, 1), 'float32')
        >>> source.read([(0, 1)]).shape
        (1, 5, 6, 1)
    """
    path, named = split_item(Path(path))
    options = Options(
        item or named,
        tuple(axes),
        dict(at or {}),
        tuple(missing_values),
        max_bytes,
        rules,
        check_kinds(missing_slices),
        labels,
    )
    with one_line(path):
        if path.is_dir():
            return _scanner(path)(path, options)
        check_file(path)
        return FORMATS[suffix(path)].scan(path, options)


def beside(source: Source, name: str | None = None) -> list[Beside]:
    """Return the variables of a file that lie on axes of a volume in it, or the one of a name.

    Args:
        source: The volume, as `scan` describes it.
        name: A variable; all that fit where none is named.

    Raises:
        VoxgapError: There is no such variable, it lies on other axes, or this format has none beside its values.
    """
    path = source.path
    is_store = path.is_dir() and zarr.is_zarr(path)
    form = FORMATS[".zarr"] if is_store else None if path.is_dir() else FORMATS[suffix(path)]
    with one_line(path):
        found = [] if form is None or form.beside is None else form.beside(source)
    if name is None:
        return [one for one in found if fits(one, source)]
    named = [one for one in found if one.name == name]
    if not named:
        held = ", ".join(one.name for one in found if fits(one, source))
        raise VoxgapError(f"{path}: has no variable {name!r} beside its values; it holds {held or 'none'}")
    if not fits(named[0], source):
        raise VoxgapError(
            f"{path}: {name} is {times(named[0].shape)} on {', '.join(named[0].dims)}, the volume "
            f"{times(source.shape[:3])} on {', '.join(source.axes)}; name a variable on axes of the volume"
        )
    return named


def write(
    path: str | os.PathLike[str],
    volume: Volume,
    *,
    like: str | os.PathLike[str] | Source | None = None,
    labels: bool = False,
    told: Sequence[Ancillary] | None = None,
) -> None:
    """Write one volume; the file or folder appears whole or not at all.

    `.npz`, `.nrrd`, `.h5`, `.zarr`, `.tif` and `.nc` keep values (as float32), geometry, axis and channel
    names; NIfTI and `.mha` values and geometry; `.npy` the values only. A `.dicom` folder is a series of
    16-bit slices, a `.mkv` a clip of 8-bit frames: both leave out what is wholly missing.

    With `like`, the file says all that the original says beside its values: orientation and byte order, header
    fields, coordinates, attributes and units, patient and study. Where a value is that of the original, what is
    stored for it stays. Whole numbers become float32 where the new values need it, float64 where that can't hold
    them, but in DICOM, which has no such type.

    With `labels`, whole numbers are written in the smallest type that holds them: uint8, int8 where one is
    negative, int16 or int32. DICOM has 16 bits for each, and a clip 8. Then `like` is the scan that the label map
    is for: the file has its axes, orientation and place, and in NIfTI, NRRD and MetaImage its header. It may be of
    another format: then only its place is kept.

    Args:
        path: A file with one of these suffixes; one that exists is replaced. A folder of any name where `like`
            is a DICOM series.
        volume: What to write.
        like: The file of the same format that the volume was read from, with `::item` if it was, or what `scan`
            gave for it; of the same shape, but that a label map has one channel.
        labels: Whether the volume is a label map.
        told: What is to stand beside each value, in a format that `tells`; with `like`. What a fill told of other
            values before is removed.

    Raises:
        VoxgapError: The format is unknown or can't hold this volume, `like` is of another format or shape,
            a label map holds something else than whole numbers, or the place can't be written to.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> vg.write("scan.nii.gz", vg.Volume(np.ones((4, 5, 6)), spacing=(3, 1, 1)))
        >>> filled = vg.Volume(np.zeros((4, 5, 6)))
        >>> vg.write("filled.nii.gz", filled, like="scan.nii.gz")
        >>> vg.read("filled.nii.gz").spacing
        (3.0, 1.0, 1.0)
    """
    path = Path(path)
    source = like if like is None or isinstance(like, Source) else scan(like)
    if source and labels and _label_format(source) is not FORMATS[suffix(path)].scan:
        source = None  # In another format, it lies where the scan does, and that is all.
    form = _format_like(path, volume, source, labels) if source else FORMATS[suffix(path)]
    put = _writer(form, volume, source, whole_type(volume, path) if labels else None)
    try:
        # A link stays a link: what it points to is replaced.
        target = os.path.realpath(path)
        if form.write_folder is not None:
            with replacing_folder(Path(target)) as folder:
                _put_into(folder, put, path)
        elif form.write is not None:
            with replacing(target) as beside, beside.open("w+b") as stream:
                put(stream)
                if told is not None and source and form.tell:
                    form.tell(stream, told, source)
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


def _writer(
    form: Format, volume: Volume, source: Source | None, dtype: np.dtype[Any] | None
) -> Callable[[Any], None]:
    """Return what writes a volume into a stream, or an empty folder."""

    def put(target: Any) -> None:
        if dtype is not None and form.labels:
            form.labels(target, volume, dtype, source)
        elif source and form.like:
            form.like(target, volume, source)
        elif write := form.write or form.write_folder:
            write(target, volume)

    return put


def _put_into(folder: Path, put: Callable[[Any], None], path: Path) -> None:
    """Write into a folder that is temporary: what goes wrong is said of the one that was asked for."""
    try:
        put(folder)
    except VoxgapError as error:
        said = str(error).replace(str(folder), str(path)).replace(folder.name, str(path))
        raise VoxgapError(said) from error


def tells(path: Path) -> bool:
    """Return whether a format has room beside each value for what is told of it."""
    path = split_item(path)[0]
    return (
        not path.is_dir() and path.name.lower().endswith(tuple(FORMATS)) and bool(FORMATS[suffix(path)].tell)
    )


def is_series(source: Source) -> bool:
    """Return whether a volume is a DICOM series that says where it lies: a label map can be a Segmentation of it."""
    is_folder = source.path.is_dir()
    scanned = _scanner(source.path) if is_folder else FORMATS[suffix(source.path)].scan
    return scanned is dicom.scan_dicom and source.affine is not None


def label_suffix(path: Path) -> str:
    """Return the suffix of a label map for a volume: that of its format, or `.nii.gz` where that can't hold one.

    DICOM and video could hold whole numbers, but a label map is no slice of a patient's series, nor a clip.
    """
    path = split_item(path)[0]
    if path.is_dir():
        return ".zarr" if zarr.is_zarr(path) else OTHERS
    found = suffix(path)
    scanned = FORMATS[found].scan
    if scanned in (dicom.scan_dicom, video.scan_video):
        return OTHERS
    alike = [name for name, form in FORMATS.items() if form.scan is scanned and form.labels]
    return found if found in alike else OTHERS if OTHERS in alike else next(iter(alike), OTHERS)


def _label_format(source: Source) -> Callable[[Path, Options], Source] | None:
    """Return what describes the format of a scan in which its label map can have the same axes and header."""
    own = FORMATS[label_suffix(source.path)].scan
    return (
        own
        if (_scanner(source.path) if source.path.is_dir() else FORMATS[suffix(source.path)].scan) is own
        else None
    )


def _format_like(path: Path, volume: Volume, source: Source, labels: bool) -> Format:
    """Return the format of a file to be written like another one."""
    if volume.shape[:3] != source.shape[:3] or not (labels or volume.shape == source.shape):
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
    if not found and name.endswith((".img", ".img.gz")):
        header = path.with_name(path.name[: name.rindex(".img")] + ".hdr")
        raise VoxgapError(f"{path}: is the second file of a NIfTI pair; name its header, {header.name}")
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
    """Tell a file of a known format, and a folder that is a Zarr store, a stack of 2D images, or DICOM alone."""
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
