"""What the headers of DICOM files say of each frame: where it lies, how it is scaled, what is padding."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from voxgap.errors import VoxgapError
from voxgap.io.dicom_files import is_dicom, opened, read_header
from voxgap.io.dicom_pixels import IMAGE_PIXEL, Encoded, Padding, encoding
from voxgap.io.optional import need


class Telling(NamedTuple):
    """One thing that may tell images at one place apart: words for it, and the fields that say it."""

    words: str
    fields: tuple[str, ...]
    in_time: bool = False
    """Whether it grows from image to image, so that its order counts and not its values."""


TELLING_APART = (
    Telling("stack {}", ("StackID",)),
    Telling("segment {}", ("ReferencedSegmentNumber",)),
    Telling("echo {} ms", ("EffectiveEchoTime", "EchoTime")),
    Telling("echo {}", ("EchoNumbers",)),
    Telling("inversion {} ms", ("InversionTimes", "InversionTime")),
    Telling("repetition {} ms", ("RepetitionTime",)),
    Telling("flip angle {}°", ("FlipAngle",)),
    Telling("b {} s/mm²", ("DiffusionBValue",)),
    Telling("direction {}", ("DiffusionGradientOrientation",)),
    Telling("diffusion {}", ("DiffusionDirectionality",)),
    Telling("{}", ("ComplexImageComponent",)),
    Telling("{}", ("FrameType", "ImageType")),
    Telling("contrast {}", ("AcquisitionContrast",)),
    Telling("bolus {}", ("ContrastBolusAgentPhase",)),
    Telling("{} kV", ("KVP",)),
    Telling("{} keV", ("MonoenergeticEnergyEquivalent",)),
    Telling("kernel {}", ("ConvolutionKernel",)),
    Telling("velocity direction {}", ("VelocityEncodingDirection",)),
    Telling("velocity {} cm/s", ("VelocityEncodingMaximumValue",)),
    Telling("time point {}", ("TemporalPositionIndex", "TemporalPositionIdentifier")),
    Telling("phase {}", ("PhaseNumber",)),
    Telling("{} % of the heart beat", ("NominalPercentageOfCardiacPhase",)),
    Telling("trigger {} ms", ("NominalCardiacTriggerDelayTime", "TriggerTime"), True),
    Telling("breath {} ms", ("NominalRespiratoryTriggerDelayTime",), True),
    Telling("time {} s", ("TemporalPositionTimeOffset",), True),
    Telling("reference time {} ms", ("FrameReferenceTime",), True),
    Telling("acquisition {}", ("FrameAcquisitionNumber", "AcquisitionNumber")),
    Telling("optical path {}", ("OpticalPathIdentifier",)),
    Telling("acquired {}", ("FrameAcquisitionDateTime", "AcquisitionDateTime"), True),
    Telling("acquired {}", ("AcquisitionTime",), True),
    Telling("content time {}", ("ContentTime",), True),
)
"""In the order in which they are tried."""

_OF_IMAGES = r"Image Storage|^RT Dose|^Segmentation|^Parametric Map"
_FILE = """SOPClassUID SOPInstanceUID SeriesInstanceUID SeriesDescription SeriesNumber Modality InstanceNumber
    ImagesInAcquisition FrameTime GridFrameOffsetVector DoseGridScaling PixelPaddingValue PixelPaddingRangeLimit
    SliceLocation FloatPixelPaddingValue FloatPixelPaddingRangeLimit DoubleFloatPixelPaddingValue
    DoubleFloatPixelPaddingRangeLimit NumberOfFrames""".split()  # noqa: SIM905
_PER_FRAME = """ImagePositionPatient ImageOrientationPatient PixelSpacing SliceThickness SpacingBetweenSlices
    RescaleSlope RescaleIntercept DimensionIndexValues""".split()  # noqa: SIM905
_PER_FRAME += [name for telling in TELLING_APART for name in telling.fields]
_GROUPS = """PlanePositionSequence PlaneOrientationSequence PixelMeasuresSequence FrameContentSequence
    PixelValueTransformationSequence MREchoSequence MRDiffusionSequence DiffusionGradientDirectionSequence
    MRTimingAndRelatedParametersSequence MRModifierSequence MRVelocityEncodingSequence
    MRImageFrameTypeSequence CTImageFrameTypeSequence PETFrameTypeSequence ParametricMapFrameTypeSequence
    CTXRayDetailsSequence CTReconstructionSequence MultienergyCTProcessingSequence TemporalPositionSequence
    CardiacSynchronizationSequence RespiratorySynchronizationSequence SegmentIdentificationSequence
    ContrastBolusUsageSequence OpticalPathIdentificationSequence""".split()  # noqa: SIM905
_SEQUENCES = ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "DimensionIndexSequence"]
_TAGS = [*_FILE, *_PER_FRAME, *_SEQUENCES, *IMAGE_PIXEL]


class Frame(NamedTuple):
    """One slice: a file, or one frame of it."""

    file: Path
    part: int
    encoded: Encoded
    uid: str
    """Of the instance and the frame in it; empty where the file gives none."""
    series: str
    label: str
    number: int
    instance: int | None
    total: int
    apart: Mapping[str, str]
    """What may tell it from others at its place: a value by the first field of each `Telling`, where there is one."""
    size: tuple[int, int, int]
    """Rows, columns, channels."""
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    location: tuple[float, ...]
    """Of the slice along its normal, in mm, from a place that nobody knows; empty where unknown."""
    spacing: tuple[float, ...]
    """Between rows, between columns, in mm; empty where unknown."""
    thickness: float
    between: float
    frame_time: float
    slope: float
    intercept: float
    padding: Padding | None


def read_frames(path: Path) -> Iterator[Frame]:
    """Read the header of a file and describe each of its frames.

    Raises:
        VoxgapError: It isn't DICOM, holds no image, or claims more frames than it can hold.
    """
    if not is_dicom(path):
        path.open("rb").close()
        raise VoxgapError(f"{path}: is not a DICOM file; check its name and source")
    pydicom = need("pydicom", path)
    with opened(path) as stream:
        header = read_header(stream, path, _TAGS)
        if "Rows" not in header or "Columns" not in header:
            raise _no_image(path, header, pydicom)
        count = int(header.get("NumberOfFrames") or 1)
        encoded = encoding(stream, path, header, count)
    tags = _Tags(pydicom)
    of_file = {name: header.get(name) for name in (*_FILE, *_PER_FRAME) if name in header}
    shared = header.get("SharedFunctionalGroupsSequence") or []
    own = list(header.get("PerFrameFunctionalGroupsSequence") or [])
    enhanced = bool(shared or own)
    for group in shared[:1]:
        tags.collect(group, of_file)
    dimensions = _dimensions(pydicom, header)
    del header, shared
    for index in range(count):
        values = dict(of_file)
        if index < len(own):
            tags.collect(own[index], values)
            own[index] = None  # What is parsed of one takes far more memory than the frame that it describes.
        get = _Values(path, values, enhanced)
        yield _frame(get, index, count, encoded, dimensions)


class NoImageError(VoxgapError):
    """A DICOM object of another kind: a report, a plan, the index of a disc."""


def _no_image(path: Path, header: Any, pydicom: Any) -> VoxgapError:
    said = f"{path}: is DICOM, but no image ({header.get('Modality', 'no modality')})"
    kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or ""
    if kind and not re.search(_OF_IMAGES, pydicom.uid.UID(str(kind)).name):
        return NoImageError(said)
    # One of many slices that is damaged must not pass for a report.
    return VoxgapError(f"{said}: it is cut off; copy it again from its source")


class _Tags:
    """Finds the fields that are wanted in functional groups; only these are parsed."""

    def __init__(self, pydicom: Any) -> None:
        tag = pydicom.datadict.tag_for_keyword
        self._sequences = {tag(name) for name in _GROUPS}
        self._fields = {tag(name): name for name in _PER_FRAME}

    def collect(self, group: Any, found: dict[str, Any]) -> None:
        for tag in group.keys():  # noqa: SIM118 - a data set yields its elements, not their tags
            if tag in self._sequences:
                for item in reversed(group[tag].value or []):
                    self.collect(item, found)
            elif tag in self._fields:
                found[self._fields[tag]] = group[tag].value


class _Values:
    """The values that hold for one frame: its own, the shared ones of an enhanced image, or the file's."""

    def __init__(self, path: Path, values: Mapping[str, Any], enhanced: bool) -> None:
        self.path, self.enhanced = path, enhanced
        self.get = values.get

    def number(self, name: str, default: float) -> float:
        value = self.get(name)
        return default if value in (None, "") else float(value)

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        value = self.get(name)
        if value in (None, ""):
            return ()
        found = tuple(map(float, value)) if _is_list(value) else (float(value),)
        return found if len(found) == count and all(map(math.isfinite, found)) else ()


def _is_list(value: Any) -> TypeGuard[Iterable[Any]]:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes)


def _dimensions(pydicom: Any, header: Any) -> list[str]:
    """Return the fields by which the frames of an enhanced image are indexed."""
    pointers = [item.get("DimensionIndexPointer") for item in header.get("DimensionIndexSequence") or []]
    return [pydicom.datadict.keyword_for_tag(pointer) if pointer else "" for pointer in pointers]


def _apart(get: _Values, dimensions: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for telling in TELLING_APART:
        text = next((text for name in telling.fields if (text := _text(get.get(name)))), "")
        if text:
            found[telling.fields[0]] = text
    value: Any = get.get("DimensionIndexValues")
    indices = list(value) if _is_list(value) else [value] if isinstance(value, int) else []
    for number, index in enumerate(indices, 1):
        name = dimensions[number - 1] if number <= len(dimensions) else ""
        found.setdefault(name or f"dimension {number}", _text(index))
    return found


def _text(value: Any) -> str:
    if _is_list(value):
        return "\\".join(map(_text, value))
    # Times of day are text, and stay as they are.
    return f"{value:.6g}" if isinstance(value, int | float) else " ".join(str(value or "").split())[:80]


def _position(get: _Values, index: int, count: int) -> tuple[float, ...]:
    """Return where the first voxel of a frame lies, or nothing where the file doesn't say."""
    position = get.numbers("ImagePositionPatient", 3)
    if get.enhanced or count == 1 or not position:
        return position
    # Older files with many frames have one position for all of them: dose grids say how far each is from it.
    offsets = get.numbers("GridFrameOffsetVector", count)
    turn = get.numbers("ImageOrientationPatient", 6)
    if not (offsets and turn):
        return ()
    return tuple((np.array(position) + np.cross(turn[:3], turn[3:]) * (offsets[index] - offsets[0])).tolist())


def _frame(get: _Values, index: int, count: int, encoded: Encoded, dimensions: list[str]) -> Frame:
    instance = get.get("InstanceNumber")
    uid = str(get.get("SOPInstanceUID") or "")
    spacing = get.numbers("PixelSpacing", 2)
    slope, intercept = (
        get.number("RescaleSlope", get.number("DoseGridScaling", 1)),
        get.number("RescaleIntercept", 0),
    )
    if not slope or not math.isfinite(slope) or not math.isfinite(intercept):
        raise VoxgapError(
            f"{get.path}: scales its values by {slope:g} and {intercept:g}; repair RescaleSlope, RescaleIntercept"
        )
    return Frame(
        get.path,
        index,
        encoded,
        f"{uid} {index}" if uid else "",
        str(get.get("SeriesInstanceUID") or ""),
        " ".join(str(get.get("SeriesDescription") or get.get("Modality") or "series").split())[:40],
        int(get.number("SeriesNumber", 0)),
        None if get.enhanced or instance in (None, "") else int(instance),
        int(get.number("ImagesInAcquisition", 0)),
        _apart(get, dimensions),
        encoded.size,
        _position(get, index, count),
        get.numbers("ImageOrientationPatient", 6),
        get.numbers("SliceLocation", 1),
        spacing if all(size > 0 for size in spacing) else (),
        get.number("SliceThickness", 0),
        abs(get.number("SpacingBetweenSlices", 0)),
        get.number("FrameTime", 0),
        slope,
        intercept,
        _padding(get, encoded),
    )


def _padding(get: _Values, encoded: Encoded) -> Padding | None:
    # Only grey values are padded: PS3.3, C.7.5.1.1.2.
    if not encoded.grey:
        return None
    name = encoded.keyword.removesuffix("Data")
    first, limit = (_single(get, f"{name}Padding{end}", encoded) for end in ("Value", "RangeLimit"))
    if first is None:
        return None
    return encoded.padding(first, first if limit is None else limit)


def _single(get: _Values, name: str, encoded: Encoded) -> float | None:
    value = get.get(name)
    if value in (None, "", b""):
        return None
    if isinstance(value, bytes):  # Of a VR that doesn't say what it holds.
        value = int.from_bytes(value, "little" if encoded.little else "big")
    if _is_list(value):
        # A repeated value says one thing.
        value = next(iter(value)) if len(set(value)) == 1 else None
    if not isinstance(value, int | float):
        raise VoxgapError(f"{get.path}: its {name} is not one number; repair or remove it")
    return value
