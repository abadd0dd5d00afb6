"""A label map as a DICOM Segmentation (PS3.3 A.51) of the very images that it was drawn for, through highdicom."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.files import check_new, replacing
from voxgap.io.dicom import stack_of
from voxgap.io.dicom_header import Frame
from voxgap.io.optional import need
from voxgap.io.source import Source
from voxgap.volume import Volume

ENDING = ".seg.dcm"


def can_write() -> bool:
    """Tell whether highdicom is installed."""
    return find_spec("highdicom") is not None


def write_seg(
    path: Path, labels: Volume, source: Source, names: Mapping[int, str], overwrite: bool = False
) -> None:
    """Write a label map as segments of the series that it is for: patient, study and frame of reference are its own.

    Args:
        path: Of the file, which appears whole.
        labels: On the grid of the series.
        source: The series.
        names: Of the values that are segments; others are background.
        overwrite: Whether another file that is there is replaced.

    Raises:
        VoxgapError: highdicom is not installed, or can't describe such a series.
    """
    need("pydicom", path)
    highdicom = need("highdicom", path, extra="seg")
    from voxgap import __version__

    stack = stack_of(source)
    laid = source.restore(labels.values)[..., 0]
    images, order = _images(stack.frames, stack.places.tolist(), path)
    step = 0.0 if stack.affine is None else float(np.linalg.norm(stack.affine[:3, 0]))
    for image in images:
        if "NumberOfFrames" not in image and not image.get("SliceThickness"):  # May be left out or empty.
            image.SliceThickness = f"{step:.10g}"
    numbers = np.zeros((len(order), *laid.shape[1:]), np.uint8)
    for number, value in enumerate(names, 1):
        numbers[laid[order] == value] = number
    codes = need("pydicom.sr.codedict", path).codes
    algorithm = highdicom.AlgorithmIdentificationSequence(
        "voxgap", codes.DCM.ArtificialIntelligence, __version__
    )
    segments = [
        highdicom.seg.SegmentDescription(
            number,
            name[:64] or str(number),
            codes.SCT.AnatomicalStructure,
            codes.SCT.Tissue,
            "AUTOMATIC",
            algorithm,
        )
        for number, name in enumerate(names.values(), 1)
    ]
    # The same for the same map: written again, it is no second series.
    sources = [_series_uid(images), hashlib.sha256(numbers.tobytes()).hexdigest()]
    uid = need("pydicom.uid", path).generate_uid
    instance = uid(entropy_srcs=[*sources, "instance"])
    if os.path.lexists(path) and not overwrite:
        if _is(path, instance):
            return
        check_new([path])
    try:
        made = highdicom.seg.Segmentation(
            images,
            numbers,
            "BINARY",
            segments,
            series_instance_uid=uid(entropy_srcs=[*sources, "series"]),
            series_number=1000,
            sop_instance_uid=instance,
            instance_number=1,
            manufacturer="voxgap",
            manufacturer_model_name="voxgap",
            software_versions=__version__,
            device_serial_number="none",
            content_label="VOXGAP",
            content_description="drawn by a network, not reviewed",
        )
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        lacks = getattr(error, "name", None) if isinstance(error, AttributeError) else None
        said = f"it has no {lacks}" if lacks else " ".join(str(error).split())[:200]
        raise VoxgapError(
            f"{path}: no DICOM SEG of this series ({said}); its label map is there as NIfTI"
        ) from error
    with replacing(path) as temporary:
        made.save_as(temporary)


def _is(path: Path, instance: str) -> bool:
    """Tell whether a file is this very instance."""
    try:
        return str(need("pydicom", path).dcmread(path, stop_before_pixels=True).SOPInstanceUID) == instance
    except Exception:  # whatever a parser says of what is none
        return False


def _series_uid(images: list[Any]) -> str:
    """Return which series images are of."""
    return str(images[0].get("SeriesInstanceUID", ""))


def _images(frames: list[Frame], places: list[int], path: Path) -> tuple[list[Any], NDArray[np.intp]]:
    """Return the data sets of the images, and which slice of the volume each of their frames is.

    Raises:
        VoxgapError: frames of a file are no part of the volume, so that what they would show is not known.
    """
    pydicom = need("pydicom", path)
    found = sorted(zip(frames, places, strict=True), key=lambda pair: (str(pair[0].file), pair[0].part))
    files = list(dict.fromkeys(frame.file for frame, _ in found))
    images = [pydicom.dcmread(file, force=True) for file in files]
    counts = [int(image.get("NumberOfFrames") or 1) for image in images]
    if sum(counts) != len(found) or (len(files) > 1 and max(counts) > 1):
        raise VoxgapError(
            f"{path}: no DICOM SEG of a series that is a part of its files; its label map is there as NIfTI"
        )
    return images, np.array([place for _, place in found], np.intp)
