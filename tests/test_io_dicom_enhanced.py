"""Enhanced DICOM: many frames in one file, each with a place of its own in the functional groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid

from voxgap.errors import VoxgapError
from voxgap.io import read, scan, write

COUNT, ROWS, COLUMNS = 6, 5, 4
TURNS = {"upright": (1, 0, 0, 0, 1, 0), "oblique": (0.8, 0.6, 0, -0.6, 0.8, 0)}


def item(**values: Any) -> Sequence:
    found = Dataset()
    for name, value in values.items():
        setattr(found, name, value)
    return Sequence([found])


def enhanced(
    path: Path,
    pixels: np.ndarray,
    places: list[int],
    turn: tuple[float, ...] = TURNS["upright"],
    slopes: list[float] | None = None,
) -> None:
    """Write frames at these places, 2.5 mm apart, in the order given."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = EnhancedMRImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.Modality = generate_uid(), generate_uid(), "MR"
    ds.Rows, ds.Columns, ds.NumberOfFrames = ROWS, COLUMNS, len(places)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 0
    shared = Dataset()
    shared.PixelMeasuresSequence = item(PixelSpacing=[0.7, 0.6], SliceThickness=2.5)
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=list(turn))
    if slopes is None:
        shared.PixelValueTransformationSequence = item(RescaleSlope=2, RescaleIntercept=-10, RescaleType="US")
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for index, place in enumerate(places):
        own = Dataset()
        own.FrameContentSequence = item(
            DimensionIndexValues=[place + 1], StackID="1", InStackPositionNumber=place + 1
        )
        own.PlanePositionSequence = item(ImagePositionPatient=[10.0, -20.0, 30 + 2.5 * place])
        if slopes is not None:
            own.PixelValueTransformationSequence = item(
                RescaleSlope=slopes[index], RescaleIntercept=0, RescaleType="US"
            )
        frames.append(own)
    ds.PerFrameFunctionalGroupsSequence = Sequence(frames)
    ds.PixelData = pixels.astype("<u2").tobytes()
    pydicom.dcmwrite(path, ds, enforce_file_format=True)


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4000, (COUNT, ROWS, COLUMNS))


def upright(stored: np.ndarray) -> np.ndarray:
    """Rows from front to back and columns from right to left, as voxgap turns them."""
    return stored[:, ::-1, ::-1]


@pytest.mark.parametrize("turn", TURNS)
def test_a_whole_stack_lies_where_simpleitk_says(turn: str, tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    enhanced(path, pixels(), list(range(COUNT)), TURNS[turn])
    volume = read(path)
    assert np.array_equal(volume.values[..., 0], upright(pixels() * 2.0 - 10))
    assert np.allclose(volume.spacing, (2.5, 0.7, 0.6))
    image = sitk.ReadImage(str(path))
    assert image.GetSize() == (COLUMNS, ROWS, COUNT)
    assert volume.affine is not None
    for corner in np.ndindex(2, 2, 2):
        z, y, x = np.array(corner) * (COUNT - 1, ROWS - 1, COLUMNS - 1)
        place = image.TransformIndexToPhysicalPoint((int(COLUMNS - 1 - x), int(ROWS - 1 - y), int(z)))
        assert np.allclose((volume.affine @ [z, y, x, 1])[:3], np.array(place) * (-1, -1, 1), atol=1e-4)


@pytest.mark.parametrize("lost", range(1, COUNT - 1))
def test_any_lost_frame_is_missing_in_its_place(lost: int, tmp_path: Path) -> None:
    places = [place for place in range(COUNT) if place != lost]
    order = np.random.default_rng(lost).permutation(len(places))
    stored = pixels()
    path = tmp_path / "a.dcm"
    enhanced(path, stored[places][order], [places[i] for i in order])
    volume = read(path)
    wanted = upright(stored * 2.0 - 10)
    wanted[lost] = np.nan
    assert np.array_equal(volume.values[..., 0], wanted, equal_nan=True)
    region = scan(path).read([(lost - 1, lost + 1)])
    assert np.array_equal(region.values[..., 0], wanted[lost - 1 : lost + 1], equal_nan=True)


def test_each_frame_has_its_own_scale(tmp_path: Path) -> None:
    slopes = [1, 0.5, 2, 3, 0.25, 1]
    enhanced(tmp_path / "a.dcm", pixels(), list(range(COUNT)), slopes=slopes)
    wanted = upright(pixels() * np.array(slopes)[:, None, None])
    assert np.array_equal(read(tmp_path / "a.dcm").values[..., 0], wanted)


@pytest.mark.parametrize("slopes", [None, [1, 0.5, 2, 3, 0.25, 1]])
def test_padding_is_found_before_the_scale_of_each_frame(slopes: list[float] | None, tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    stored = pixels()
    stored[:, 0] = [0, 1, 2, 3]
    enhanced(path, stored, list(range(COUNT)), slopes=slopes)
    ds = pydicom.dcmread(path)
    ds.add_new("PixelPaddingValue", "US", 1)
    ds.add_new("PixelPaddingRangeLimit", "US", 2)
    ds.save_as(path)
    scaled = stored * 2.0 - 10 if slopes is None else stored * np.array(slopes)[:, None, None]
    wanted = upright(np.where((stored >= 1) & (stored <= 2), np.nan, scaled))
    assert np.array_equal(read(path).values[..., 0], wanted, equal_nan=True)


def test_frames_of_one_file_are_no_series_to_write(tmp_path: Path) -> None:
    enhanced(tmp_path / "a.dcm", pixels(), list(range(COUNT)))
    with pytest.raises(VoxgapError, match=r"slices in files of their own; write \.nii\.gz"):
        write(tmp_path / "b.dicom", read(tmp_path / "a.dcm"), like=tmp_path / "a.dcm")
