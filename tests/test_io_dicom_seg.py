"""DICOM Segmentations: what pydicom and highdicom read of them is the label map, on the images that it is for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

import stand_in
import voxgap as vg
from voxgap.errors import VoxgapError
from voxgap.io.dicom_seg import write_seg
from voxgap.runtime import job
from voxgap.runtime.inputs import list_items
from voxgap.runtime.predictor import Predictor

highdicom = pytest.importorskip("highdicom")


def predictor() -> Predictor:
    about = {"shape": [4, 4, 4, 1], "channels": ["ct"], "patches": {"size": [4, 4, 4], "overlap": 0.5}}
    classes = ("back", "liver", "tumour")
    manifest = stand_in.manifest(classes, task="segmentation", outputs=3, label_values=[0, 1, 7], input=about)
    return Predictor(manifest, lambda batch: -np.abs(np.nan_to_num(batch) - np.float32([0, 100, 200])))


@pytest.mark.parametrize("thickness", [None, ""])
def test_a_thickness_that_is_left_out_stops_no_segmentation(thickness: str | None, tmp_path: Path) -> None:
    path = tmp_path / "ct.dicom"
    vg.write(path, vg.Volume(np.arange(60, dtype=np.float32).reshape(3, 4, 5), spacing=(2.5, 1, 1)))
    for file in path.iterdir():
        if file.suffix == ".dcm":
            ds = pydicom.dcmread(file)
            del ds.SliceThickness
            if thickness is not None:
                ds.SliceThickness = None
            ds.save_as(file)
    source = vg.scan(path)
    labels = vg.Volume((source.read().values > 30).astype(np.float32), source.affine)
    write_seg(tmp_path / "a.seg.dcm", labels, source, {1: "liver"})
    shared = pydicom.dcmread(tmp_path / "a.seg.dcm").SharedFunctionalGroupsSequence[0]
    assert shared.PixelMeasuresSequence[0].SliceThickness == 2.5
    for file in path.glob("*.dcm"):
        ds = pydicom.dcmread(file)
        del ds.StudyInstanceUID
        ds.save_as(file)
    with pytest.raises(VoxgapError, match=r"series \(it has no StudyInstanceUID\); its label map"):
        write_seg(tmp_path / "b.seg.dcm", labels, source, {1: "liver"})


@pytest.mark.parametrize("flipped", [False, True])
def test_a_series_gets_segments_that_lie_where_its_images_do(flipped: bool, tmp_path: Path) -> None:
    values = np.zeros((5, 6, 7), np.float32)
    values[1:4, 2:5, 1:3] = 100
    values[2, 3, 4:] = 200
    affine = np.array([[0, 0, -1.5, 4], [0, -1.0, 0, 2], [-2.5 if flipped else 2.5, 0, 0, 9], [0, 0, 0, 1.0]])
    vg.write(tmp_path / "in" / "ct.dicom", vg.Volume(values, affine))
    maps = tmp_path / "maps"
    items, wanted = list_items([tmp_path / "in" / "ct.dicom"], ["ct"]), job.Wanted(maps=str(maps))
    (row,) = job.local(predictor(), wanted)(items)
    assert (row.get("error"), row["warnings"]) == (None, "")
    file = maps / "ct.seg.dcm"
    labels = vg.read(row["label_map"])
    assert row["ml_liver"] == pytest.approx(row["voxels_liver"] * 1.5 * 2.5 / 1000)
    # The standard's own fields, by pydicom.
    images = {
        ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, (tmp_path / "in" / "ct.dicom").glob("*.dcm"))
    }
    ds = pydicom.dcmread(file)
    one = next(iter(images.values()))
    assert ds.SOPClassUID == pydicom.uid.SegmentationStorage
    assert (ds.StudyInstanceUID, ds.FrameOfReferenceUID) == (one.StudyInstanceUID, one.FrameOfReferenceUID)
    assert [segment.SegmentLabel for segment in ds.SegmentSequence] == ["liver", "tumour"]
    assert {segment.SegmentAlgorithmType for segment in ds.SegmentSequence} == {"AUTOMATIC"}
    for frame, pixels in zip(ds.PerFrameFunctionalGroupsSequence, ds.pixel_array, strict=True):
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        stored = images[source].pixel_array
        np.testing.assert_array_equal(pixels == 1, stored == {1: 100, 2: 200}[number])
        np.testing.assert_allclose(
            frame.PlanePositionSequence[0].ImagePositionPatient, images[source].ImagePositionPatient
        )
    # highdicom's own reader puts it where the label map lies.
    volume = highdicom.seg.segread(file).get_volume(combine_segments=True)
    inside = np.argwhere(volume.array == 2)
    lps = volume.map_indices_to_reference(inside)
    places = np.c_[lps * (-1, -1, 1), np.ones(len(lps))]
    found = np.rint(places @ np.linalg.inv(labels.affine).T).astype(int)
    assert {tuple(place[:3]) for place in found} == set(map(tuple, np.argwhere(labels.values[..., 0] == 7)))
    # Written again it is the same instance; another's file is not replaced.
    before = file.read_bytes()
    (row,) = job.local(predictor(), wanted)(items)
    assert (row["warnings"], file.read_bytes()) == ("", before)
    file.write_bytes(b"mine")
    (row,) = job.local(predictor(), wanted)(items)
    assert "ct.seg.dcm is there already" in row["warnings"]
    assert file.read_bytes() == b"mine"
