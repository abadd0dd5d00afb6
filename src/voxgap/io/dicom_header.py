"""What the headers of DICOM files say of each frame: where it lies, how it is scaled, what is padding."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from voxgap.errors import VoxgapError
from voxgap.io.optional import need
from voxgap.io.raw import DEFLATE_LIMIT, inflated_size

DEFLATED = "1.2.840.10008.1.2.1.99"
MAX_FRAMES = 2**17
MAX_HEADER = 2**28
MIN_FRAME = 4
"""Fewer bytes than this can't hold a frame, however compressed."""

_TAGS = (
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "SeriesDescription",
    "SeriesNumber",
    "Modality",
    "InstanceNumber",
    "ImagesInAcquisition",
    "EchoNumbers",
    "EchoTime",
    "TemporalPositionIdentifier",
    "DiffusionBValue",
    "AcquisitionNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "FrameTime",
    "GridFrameOffsetVector",
    "DoseGridScaling",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "BitsAllocated",
    "PixelRepresentation",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "RescaleSlope",
    "RescaleIntercept",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
TELLING_APART = (
    "EchoNumbers",
    "EchoTime",
    "TemporalPositionIdentifier",
    "DiffusionBValue",
    "AcquisitionNumber",
)
"""What tells images at one position apart."""


class Frame(NamedTuple):
    """One slice: a file, or one frame of it."""

    file: Path
    part: int
    deflated: bool
    uid: str
    series: str
    label: str
    number: int
    instance: int | None
    total: int
    apart: tuple[str, ...]
    size: tuple[int, int, int]
    """Rows, columns, samples per pixel."""
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    """Between rows, between columns, in mm; empty where unknown."""
    thickness: float
    between: float
    frame_time: float
    slope: float
    intercept: float
    padding: tuple[float, float] | None
    """Lowest and highest stored value that is padding."""


class Clamped(io.FileIO):
    """A file that never tries to read beyond its end: a length that lies takes no memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, Path(self.name).stat().st_size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left)) or b""


def is_dicom(path: Path) -> bool:
    """True for a file that starts as DICOM files do."""
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def read_frames(path: Path) -> Iterator[Frame]:
    """Read the header of a file and describe each of its frames.

    Raises:
        VoxgapError: It isn't DICOM, holds no image, or claims more frames than it can hold.
    """
    pydicom = need("pydicom", path)
    if not is_dicom(path):
        raise VoxgapError(f"{path}: is not a DICOM file; check its name and source")
    _refuse_bomb(path, pydicom)
    with Clamped(path) as stream:
        header = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(_TAGS))
    if "Rows" not in header or "Columns" not in header:
        raise VoxgapError(f"{path}: is DICOM, but no image ({header.get('Modality', 'no modality')})")
    count = int(header.get("NumberOfFrames") or 1)
    _check_size(path, header, count, pydicom)
    for index in range(count):
        yield _frame(path, index, count, _Groups(header, index))


class _Groups:
    """The values that hold for one frame: its own, the shared ones of an enhanced image, or the file's."""

    def __init__(self, header: Any, index: int) -> None:
        self._header = header
        shared = header.get("SharedFunctionalGroupsSequence") or []
        own = header.get("PerFrameFunctionalGroupsSequence") or []
        self._groups = [*own[index : index + 1], *shared[:1]]
        self.enhanced = bool(self._groups)
        self.deflated = str(header.file_meta.get("TransferSyntaxUID")) == DEFLATED

    def __call__(self, name: str, sequence: str = "") -> Any:
        for group in self._groups if sequence else ():
            for inner in group.get(sequence) or []:
                if name in inner:
                    return inner.get(name)
        return self._header.get(name)

    def number(self, name: str, default: float, sequence: str = "") -> float:
        value = self(name, sequence)
        return default if value in (None, "") else float(value)

    def numbers(self, name: str, count: int, sequence: str = "") -> tuple[float, ...]:
        value = self(name, sequence)
        found = () if value in (None, "") else tuple(float(part) for part in np.atleast_1d(value))
        return found if len(found) == count and np.isfinite(found).all() else ()


def _position(get: _Groups, index: int, count: int) -> tuple[float, ...]:
    """Return where the first voxel of a frame lies, or nothing where the file doesn't say."""
    position = get.numbers("ImagePositionPatient", 3, "PlanePositionSequence")
    if get.enhanced or count == 1 or not position:
        return position
    # Older files with many frames have one position for all of them: dose grids say how far each is from it.
    offsets = get.numbers("GridFrameOffsetVector", count)
    turn = get.numbers("ImageOrientationPatient", 6)
    if not (offsets and turn):
        return ()
    return tuple((np.array(position) + np.cross(turn[:3], turn[3:]) * (offsets[index] - offsets[0])).tolist())


def _frame(path: Path, index: int, count: int, get: _Groups) -> Frame:
    instance = get("InstanceNumber")
    measures, scaling = "PixelMeasuresSequence", "PixelValueTransformationSequence"
    spacing = get.numbers("PixelSpacing", 2, measures)
    return Frame(
        path,
        index,
        get.deflated,
        f"{get('SOPInstanceUID')} {index}",
        str(get("SeriesInstanceUID") or ""),
        " ".join(str(get("SeriesDescription") or get("Modality") or "series").split())[:40],
        int(get.number("SeriesNumber", 0)),
        None if get.enhanced or instance in (None, "") else int(instance),
        int(get.number("ImagesInAcquisition", 0)),
        tuple(str(get(name)) for name in TELLING_APART),
        (int(get("Rows")), int(get("Columns")), int(get("SamplesPerPixel") or 1)),
        _position(get, index, count),
        get.numbers("ImageOrientationPatient", 6, "PlaneOrientationSequence"),
        spacing if all(size > 0 for size in spacing) else (),
        get.number("SliceThickness", 0, measures),
        abs(get.number("SpacingBetweenSlices", 0, measures)),
        get.number("FrameTime", 0),
        get.number("RescaleSlope", get.number("DoseGridScaling", 1), scaling),
        get.number("RescaleIntercept", 0, scaling),
        _padding(get),
    )


def _padding(get: _Groups) -> tuple[float, float] | None:
    value = get("PixelPaddingValue")
    if not isinstance(value, int):
        return None
    limit = get("PixelPaddingRangeLimit")
    ends = [_signed(end, get) for end in (value, limit if isinstance(limit, int) else value)]
    return float(min(ends)), float(max(ends))


def _signed(value: int, get: _Groups) -> int:
    # Writers disagree on the sign of this value: what counts is how the pixels are stored.
    bits = int(get("BitsAllocated") or 16)
    value %= 1 << bits
    return value - (1 << bits) if get("PixelRepresentation") == 1 and value >= 1 << (bits - 1) else value


def _check_size(path: Path, header: Any, count: int, pydicom: Any) -> None:
    rows, columns, samples = (int(header.get(n) or 1) for n in ("Rows", "Columns", "SamplesPerPixel"))
    held = path.stat().st_size
    syntax = pydicom.uid.UID(str(header.file_meta.get("TransferSyntaxUID", "")))
    packed = syntax.is_valid and (syntax.is_deflated or syntax.is_compressed)
    needed = count * (MIN_FRAME if packed else rows * columns * samples * int(header.BitsAllocated) // 8)
    lies = needed > held * (DEFLATE_LIMIT if packed else 1)
    if lies or not 1 <= count <= MAX_FRAMES or min(rows, columns, samples) < 1:
        raise VoxgapError(
            f"{path}: claims {count} frames of {rows}×{columns}, more than it can hold; copy it again"
        )
    if str(header.get("PhotometricInterpretation")) == "PALETTE COLOR":
        raise VoxgapError(f"{path}: its values are colours of a palette, not measurements; convert it to RGB")


def _refuse_bomb(path: Path, pydicom: Any) -> None:
    """Refuse a deflated file that would expand beyond bounds: the library expands it whole."""
    with Clamped(path) as stream:
        stream.seek(132)
        meta = pydicom.filereader.read_dataset(
            stream, False, True, stop_when=lambda tag, vr, length: tag.group != 2
        )
        if meta.get("TransferSyntaxUID") != DEFLATED:
            return
        if "FileMetaInformationGroupLength" in meta:
            # Behind preamble, magic, and the element that holds the length of the others.
            stream.seek(144 + int(meta.FileMetaInformationGroupLength))
        if inflated_size(stream.read(), MAX_HEADER, -zlib.MAX_WBITS) > MAX_HEADER:
            raise VoxgapError(f"{path}: expands beyond {MAX_HEADER >> 20} MiB; save it without deflation")
