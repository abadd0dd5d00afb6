"""Writing a DICOM series: one 16-bit CT slice per file, in a folder."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.io.optional import need
from voxgap.io.source import placed
from voxgap.volume import Values, Volume

PADDING = -(2**15)
_LEVELS = 2**16 - 2
_TO_LPS = np.array([-1.0, -1.0, 1.0])


def write_dicom(folder: Path, volume: Volume) -> None:
    """Write each slice that holds an observed voxel as one file; missing voxels are padding.

    Whole numbers within 16 bits are kept exactly, others to 1/65534 of their range.

    Args:
        folder: An empty folder.
        volume: One channel; its height and width at right angles.

    Raises:
        VoxgapError: It has several channels, no observed voxel, or axes that DICOM can't describe.
    """
    pydicom = need("pydicom", folder)
    if volume.shape[3] != 1:
        raise VoxgapError(f"{folder.name}: a DICOM series holds one channel,write .npz")
    values = volume.values[..., 0]
    observed = ~np.isnan(values)
    if not observed.any():
        raise VoxgapError(f"{folder.name}: no voxel is observed; there is no slice to write")
    slope, intercept = _scale(values)
    base = _series(pydicom, volume, slope, intercept)
    affine = placed(volume)
    for index in np.flatnonzero(observed.any(axis=(1, 2))).tolist():
        with np.errstate(invalid="ignore"):
            stored = np.rint((values[index].astype(np.float64) - intercept) / slope)
        stored = np.where(observed[index], stored.clip(1 - 2**15, 2**15 - 1), PADDING)
        corner = (affine[:3, 3] + affine[:3, 0] * index) * _TO_LPS
        _write_slice(pydicom, folder, base, stored.astype("<i2"), index, corner)


def _scale(values: Values) -> tuple[float, float]:
    """Return slope and intercept, as exact as DICOM's decimal strings of 16 characters keep them."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    whole = all(bool((np.rint(slab) == slab)[~np.isnan(slab)].all()) for slab in values)
    if whole and low > PADDING and high < 2**15:
        return 1.0, 0.0
    slope = float(f"{(high - low) / _LEVELS or 1.0:.9g}")
    return slope, float(f"{(low + high) / 2:.9g}")


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
