"""Writing a DICOM series: one 16-bit CT slice per file, in a folder."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.io.dicom_header import Frame
from voxgap.io.dicom_pixels import is_padding, scaled, stored_values
from voxgap.io.optional import need
from voxgap.io.source import placed
from voxgap.volume import Values, Volume

PADDING = -(2**15)
_LEVELS = 2**16 - 2
_COARSE = 0.01
"""A step of 16 bits larger than this share of the standard deviation destroys the values."""
_SAMPLE = 2**20
_TO_LPS = np.array([-1.0, -1.0, 1.0])


def write_dicom(folder: Path, volume: Volume) -> None:
    """Write each slice that holds an observed voxel as one file; missing voxels are padding.

    Whole numbers within 16 bits are kept exactly, others to 1/65534 of their range, where that is fine enough.

    Args:
        folder: An empty folder.
        volume: One channel; its height and width at right angles.

    Raises:
        VoxgapError: It has several channels, no observed voxel, axes that DICOM can't describe, or values so
            far apart that 16 bits would destroy most of them.
    """
    pydicom = need("pydicom", folder)
    if volume.shape[3] != 1:
        raise VoxgapError(
            f"{folder.name}: a DICOM series holds one channel, not {volume.shape[3]}; write .npz"
        )
    values = volume.values[..., 0]
    observed = ~np.isnan(values)
    if not observed.any():
        raise VoxgapError(f"{folder.name}: no voxel is observed; there is no slice to write")
    slope, intercept = _scale(values, folder.name)
    base = _series(pydicom, volume, slope, intercept)
    affine = placed(volume)
    for index in np.flatnonzero(observed.any(axis=(1, 2))).tolist():
        with np.errstate(invalid="ignore"):
            stored = np.rint((values[index].astype(np.float64) - intercept) / slope)
        stored = np.where(observed[index], stored.clip(1 - 2**15, 2**15 - 1), PADDING)
        corner = (affine[:3, 3] + affine[:3, 0] * index) * _TO_LPS
        _write_slice(pydicom, folder, base, stored.astype("<i2"), index, corner)


def new_series(path: Path, values: Values) -> str:
    """Return a UID for what becomes of a series, the same for the same values."""
    uid = need("pydicom", path).uid
    return str(uid.generate_uid(entropy_srcs=[str(path), hashlib.sha256(values.tobytes()).hexdigest()]))


def numbered(place: int, numbers: dict[int, int | None]) -> int:
    """Return the instance number of a slice, also of one that was lost, where the others count by place."""
    known = {at: number for at, number in numbers.items() if number is not None}
    first, last = (min(known, default=0), max(known, default=0))
    rising = known.get(last, 0) >= known.get(first, 0)
    wanted = known.get(place, known.get(first, 1) + (place - first if rising else first - place))
    return wanted if place in known or wanted not in known.values() else max(known.values()) + 1 + place


def write_slice_like(
    folder: Path,
    frame: Frame,
    cells: NDArray[Any] | None,
    values: Values,
    series: str,
    number: int,
    corner: NDArray[np.float64],
) -> None:
    """Write one slice with the header of another: a new image of a new series, derived from it.

    Args:
        folder: Where to.
        frame: Of the original, or of the neighbour of a slice that was lost.
        cells: The pixels of the original as stored, None for a slice that was lost.
        values: `(rows, columns)`, in the units of the frame. Where `cells` say the same, it stays; others are
            rounded to what the frame's bits hold.
        series: UID of the new series.
        number: Of the instance.
        corner: Where its first pixel lies, in mm.
    """
    pydicom = need("pydicom", folder)
    from pydicom.valuerep import DSfloat

    ds = pydicom.dcmread(frame.file, force=True)
    pixels = _as_stored(ds, frame, cells, values)
    ds.SeriesInstanceUID = series
    ds.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[series, str(number), str(corner.tolist())])
    ds.ImageType = ["DERIVED", *list(ds.get("ImageType") or ["", "SECONDARY"])[1:]]
    ds.DerivationDescription = "missing values filled"
    for name in ("SmallestImagePixelValue", "LargestImagePixelValue"):
        if name in ds:
            delattr(ds, name)
    if cells is None:
        ds.InstanceNumber = number
        ds.ImagePositionPatient = [DSfloat(float(place), auto_format=True) for place in corner]
        if "SliceLocation" in ds:
            turn = np.array(frame.orientation)
            ds.SliceLocation = DSfloat(float(np.cross(turn[:3], turn[3:]) @ corner), auto_format=True)
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OW"
    ds.HighBit = ds.BitsStored - 1
    if "SOPClassUID" not in ds:
        ds.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    pydicom.dcmwrite(
        folder / f"{number:05d}-{ds.SOPInstanceUID[-6:]}.dcm",
        ds,
        implicit_vr=False,
        little_endian=True,
        enforce_file_format=True,
    )


def _as_stored(ds: Any, frame: Frame, cells: NDArray[Any] | None, values: Values) -> NDArray[Any]:
    """Return values as the frame stores them."""
    bits, signed = int(ds.BitsStored), int(ds.PixelRepresentation) == 1
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    missing, padded = np.isnan(values), np.zeros(values.shape, bool)
    with np.errstate(invalid="ignore"):
        new = np.rint((values.astype(np.float64) - frame.intercept) / frame.slope).clip(low, high)
    if frame.padding is not None:
        # What is filled must not read as padding.
        first, last, _ = frame.padding
        padded = padded if cells is None else is_padding(frame, cells)
        beside = last + 1 if last < high else first - 1
        new = np.where((new >= first) & (new <= last), beside, new)
        new = np.where(missing, first, new)
    elif missing.any():
        raise VoxgapError(f"{frame.file}: has no PixelPaddingValue for what is still missing; write .nii.gz")
    if cells is not None:
        before = scaled(frame, stored_values(frame, cells))
        new = np.where(np.where(padded, missing, before == values), stored_values(frame, cells), new)
    return new.astype(f"<{'i' if signed else 'u'}{int(ds.BitsAllocated) // 8}")


def _scale(values: Values, where: str) -> tuple[float, float]:
    """Return slope and intercept, as exact as DICOM's decimal strings of 16 characters keep them."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    whole = all(bool((np.rint(slab) == slab)[~np.isnan(slab)].all()) for slab in values)
    if whole and low > PADDING and high < 2**15:
        return 1.0, 0.0
    slope = float(f"{(high - low) / _LEVELS or 1.0:.9g}")
    spread = _spread(values)
    if high > low and slope > spread * _COARSE:
        raise VoxgapError(
            f"{where}: from {low:.3g} to {high:.3g}, 16 bits have steps of {slope:.2g}, too coarse for values that "
            f"mostly spread by {spread:.2g}; write .nii.gz, or clip what stands out"
        )
    return slope, float(f"{(low + high) / 2:.9g}")


def _spread(values: Values) -> float:
    """Return the standard deviation of what differs, by its quartiles: of one huge value, it would be that value."""
    flat = values.reshape(-1)[:: max(1, values.size // _SAMPLE)]
    low, high = np.percentile(np.unique(flat[~np.isnan(flat)]), (25, 75)) if flat.size else (0, 0)
    return float((high - low) / 1.349)


def _series(pydicom: Any, volume: Volume, slope: float, intercept: float) -> Any:
    from pydicom.valuerep import DSfloat

    uid, digest = pydicom.uid, hashlib.sha256(volume.values.tobytes()).hexdigest()
    affine = placed(volume)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    directions = (affine[:3, :3] / lengths) * _TO_LPS[:, None]
    if abs(directions[:, 1] @ directions[:, 2]) > 1e-3:
        raise VoxgapError("DICOM can't describe rows and columns that are not at right angles; write .nii.gz")

    def decimals(numbers: NDArray[Any]) -> list[Any]:
        return [DSfloat(float(number), auto_format=True) for number in numbers]

    ds = pydicom.Dataset()
    ds.SOPClassUID = uid.CTImageStorage
    ds.StudyInstanceUID = uid.generate_uid(entropy_srcs=[digest, "study"])
    ds.SeriesInstanceUID = uid.generate_uid(entropy_srcs=[digest, "series"])
    ds.FrameOfReferenceUID = uid.generate_uid(entropy_srcs=[digest, "frame"])
    ds.Modality, ds.SeriesNumber, ds.SeriesDescription = "CT", 1, volume.channels[0][:64]
    for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"):
        setattr(ds, name, "")
    for name in ("StudyID", "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator"):
        setattr(ds, name, "")
    ds.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    ds.ImagesInAcquisition = volume.shape[0]
    ds.Rows, ds.Columns, ds.SamplesPerPixel = volume.shape[1], volume.shape[2], 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.ImageOrientationPatient = decimals(np.concatenate([directions[:, 2], directions[:, 1]]))
    ds.PixelSpacing = decimals(lengths[1:])
    ds.SliceThickness, ds.SpacingBetweenSlices = decimals(np.array([lengths[0], lengths[0]]))
    ds.RescaleSlope, ds.RescaleIntercept = decimals(np.array([slope, intercept]))
    ds.add_new("PixelPaddingValue", "SS", PADDING)
    return ds


def _write_slice(
    pydicom: Any, folder: Path, base: Any, stored: NDArray[Any], index: int, corner: NDArray[Any]
) -> None:
    from pydicom.valuerep import DSfloat

    base.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[base.SeriesInstanceUID, str(index)])
    base.InstanceNumber = index + 1
    base.ImagePositionPatient = [DSfloat(float(place), auto_format=True) for place in corner]
    base.PixelData = stored.tobytes()
    base.file_meta = pydicom.dataset.FileMetaDataset()
    base.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    base.file_meta.MediaStorageSOPClassUID = base.SOPClassUID
    base.file_meta.MediaStorageSOPInstanceUID = base.SOPInstanceUID
    base.save_as(folder / f"{index + 1:05d}.dcm", enforce_file_format=True)
