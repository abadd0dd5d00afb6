"""Which frames make one volume: copies, identifiers that lie, and what tells images at one place apart."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from voxgap.errors import VoxgapError
from voxgap.io import read

SLICES, ROWS, COLUMNS = 4, 5, 6
Say = Callable[[Dataset, Any], None]


def base(pixels: np.ndarray, kind: str) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = kind
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.SeriesInstanceUID, ds.SeriesDescription, ds.Modality = "1.2.3", "T2", "MR"
    ds.Rows, ds.Columns = pixels.shape[-2:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 0
    ds.PixelData = pixels.astype("<u2").tobytes()
    return ds


def item(**values: Any) -> Sequence:
    found = Dataset()
    for name, value in values.items():
        setattr(found, name, value)
    return Sequence([found])


def classic(folder: Path, pixels: np.ndarray, say: Callable[[Dataset, int, int], None]) -> Path:
    """Files of `(volumes, slices, rows, columns)`, shuffled, each told by `say` which it is."""
    folder.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(0).permutation(len(pixels) * SLICES)
    for name, number in enumerate(order.tolist()):
        volume, place = divmod(number, SLICES)
        ds = base(pixels[volume, place], MRImageStorage)
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 2.5 * place], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness = [1, 1], 2.5
        say(ds, volume, place)
        ds.save_as(folder / f"{name:03d}", enforce_file_format=True)
    return folder


def enhanced(path: Path, pixels: np.ndarray, say: Callable[[Dataset, int, int], None]) -> Path:
    """One file with frames of `(volumes, slices, rows, columns)`, shuffled."""
    order = np.random.default_rng(0).permutation(len(pixels) * SLICES)
    ds = base(pixels.reshape(-1, ROWS, COLUMNS)[order], EnhancedMRImageStorage)
    ds.NumberOfFrames = len(order)
    shared = Dataset()
    shared.PixelMeasuresSequence = item(PixelSpacing=[1, 1], SliceThickness=2.5)
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for number in order.tolist():
        volume, place = divmod(number, SLICES)
        own = Dataset()
        own.FrameContentSequence = item(InStackPositionNumber=place + 1)
        own.PlanePositionSequence = item(ImagePositionPatient=[0, 0, 2.5 * place])
        say(own, volume, place)
        frames.append(own)
    ds.PerFrameFunctionalGroupsSequence = Sequence(frames)
    ds.save_as(path, enforce_file_format=True)
    return path


def volumes(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4000, (count, SLICES, ROWS, COLUMNS))


def upright(stored: np.ndarray) -> np.ndarray:
    """Rows from front to back and columns from right to left, as voxgap turns them."""
    return stored[:, ::-1, ::-1, None]


def assert_all_can_be_picked(path: Path, pixels: np.ndarray, words: list[str]) -> None:
    held = ", ".join(f"{number} = T2 {said} (4 images)" for number, said in enumerate(words, 1))
    with pytest.raises(VoxgapError) as error:
        read(path)
    assert f"holds {len(words)} series: {held}; choose one with {path.name}::1" in str(error.value)
    for number, said in enumerate(words, 1):
        for name in (f"{path}::{number}", f"{path}::T2 {said}", f"{path}::{said}"):
            assert np.array_equal(read(name).values, upright(pixels[number - 1])), said


def of_file(name: str, values: list[Any]) -> Callable[[Dataset, int, int], None]:
    return lambda ds, volume, place: setattr(ds, name, values[volume])


CLASSIC = {
    "EchoTime": ([10, 80.5], ["echo 10 ms", "echo 80.5 ms"]),
    "EchoNumbers": ([1, 2, 10], ["echo 1", "echo 2", "echo 10"]),
    "InversionTime": ([90, 1000], ["inversion 90 ms", "inversion 1000 ms"]),
    "FlipAngle": ([5, 15], ["flip angle 5°", "flip angle 15°"]),
    "DiffusionBValue": ([0.0, 50.0, 1000.0], ["b 0 s/mm²", "b 50 s/mm²", "b 1000 s/mm²"]),
    "DiffusionGradientOrientation": (
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]],
        ["direction 0\\0\\1", "direction 1\\0\\0"],
    ),
    "ImageType": (
        [["ORIGINAL", "PRIMARY", "M", "IN_PHASE"], ["ORIGINAL", "PRIMARY", "P", "IN_PHASE"]],
        ["ORIGINAL\\PRIMARY\\M\\IN_PHASE", "ORIGINAL\\PRIMARY\\P\\IN_PHASE"],
    ),
    "TemporalPositionIdentifier": ([1, 2, 10], ["time point 1", "time point 2", "time point 10"]),
    "TriggerTime": ([0, 33.5, 100], ["trigger 0 ms", "trigger 33.5 ms", "trigger 100 ms"]),
    "AcquisitionNumber": ([1, 2], ["acquisition 1", "acquisition 2"]),
    "AcquisitionTime": (["093000", "101530.25"], ["acquired 093000", "acquired 101530.25"]),
    "ContentTime": (["093000", "101530.25"], ["content time 093000", "content time 101530.25"]),
    "KVP": ([80, 140], ["80 kV", "140 kV"]),
    "ConvolutionKernel": (["B30f", "B70f"], ["kernel B30f", "kernel B70f"]),
}


@pytest.mark.parametrize("name", CLASSIC)
def test_files_at_one_place_are_told_apart(name: str, tmp_path: Path) -> None:
    values, words = CLASSIC[name]
    pixels = volumes(len(values))
    # A slice is the same in all of them: equal pixels make no copy where the header differs.
    pixels[:, 0] = 7
    assert_all_can_be_picked(classic(tmp_path / "s", pixels, of_file(name, values)), pixels, words)


def in_group(sequence: str, name: str, values: list[Any]) -> Callable[[Dataset, int, int], None]:
    def say(own: Dataset, volume: int, place: int) -> None:
        if sequence not in own:
            setattr(own, sequence, Sequence([Dataset()]))
        setattr(own[sequence][0], name, values[volume])

    return say


def direction(own: Dataset, volume: int, place: int) -> None:
    turned = item(DiffusionGradientOrientation=[[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]][volume])
    own.MRDiffusionSequence = item(DiffusionBValue=1000.0, DiffusionGradientDirectionSequence=turned)


ENHANCED = {
    "echo": (in_group("MREchoSequence", "EffectiveEchoTime", [10.0, 80.5]), ["echo 10 ms", "echo 80.5 ms"]),
    "b": (
        in_group("MRDiffusionSequence", "DiffusionBValue", [0.0, 50.0, 1000.0]),
        ["b 0 s/mm²", "b 50 s/mm²", "b 1000 s/mm²"],
    ),
    "direction": (direction, ["direction 0\\0\\1", "direction 1\\0\\0"]),
    "time": (
        in_group("FrameContentSequence", "TemporalPositionIndex", [1, 2, 10]),
        ["time point 1", "time point 2", "time point 10"],
    ),
    "acquisition": (
        in_group("FrameContentSequence", "FrameAcquisitionNumber", [1, 2]),
        ["acquisition 1", "acquisition 2"],
    ),
    "stack": (in_group("FrameContentSequence", "StackID", ["1", "2"]), ["stack 1", "stack 2"]),
    "offset": (
        in_group("TemporalPositionSequence", "TemporalPositionTimeOffset", [0.0, 2.5]),
        ["time 0 s", "time 2.5 s"],
    ),
    "date": (
        in_group("FrameContentSequence", "FrameAcquisitionDateTime", ["20200101093000", "20200101093001"]),
        ["acquired 20200101093000", "acquired 20200101093001"],
    ),
    "complex": (
        in_group("MRImageFrameTypeSequence", "ComplexImageComponent", ["MAGNITUDE", "PHASE"]),
        ["MAGNITUDE", "PHASE"],
    ),
    "energy": (in_group("CTXRayDetailsSequence", "KVP", [80, 140]), ["80 kV", "140 kV"]),
    "heart": (
        in_group("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime", [0.0, 40.0]),
        ["trigger 0 ms", "trigger 40 ms"],
    ),
    "dimension": (
        lambda own, volume, place: setattr(
            own.FrameContentSequence[0], "DimensionIndexValues", [place + 1, volume + 1]
        ),
        ["dimension 2 1", "dimension 2 2"],
    ),
}


@pytest.mark.parametrize("name", ENHANCED)
def test_frames_of_one_file_are_told_apart(name: str, tmp_path: Path) -> None:
    say, words = ENHANCED[name]
    pixels = volumes(len(words))
    pixels[:, 0] = 7
    assert_all_can_be_picked(enhanced(tmp_path / "a.dcm", pixels, say), pixels, words)


def test_stacks_of_one_direction_are_volumes_of_their_own(tmp_path: Path) -> None:
    def say(own: Dataset, volume: int, place: int) -> None:
        own.FrameContentSequence[0].StackID = str(volume + 1)
        own.PlanePositionSequence = item(ImagePositionPatient=[0, 0, 2.5 * place + 33 * volume])

    pixels = volumes(2)
    assert_all_can_be_picked(enhanced(tmp_path / "a.dcm", pixels, say), pixels, ["stack 1", "stack 2"])


@pytest.mark.parametrize("lost", [None, pytest.param(5, marks=pytest.mark.full)])
def test_two_things_together_tell_images_apart(lost: int | None, tmp_path: Path) -> None:
    pairs = list(itertools.product([10, 80], [1, 2, 3]))

    def say(ds: Dataset, volume: int, place: int) -> None:
        ds.EchoTime, ds.TemporalPositionIdentifier = pairs[volume]

    def say_in_group(own: Dataset, volume: int, place: int) -> None:
        own.MREchoSequence = item(EffectiveEchoTime=float(pairs[volume][0]))
        own.FrameContentSequence[0].TemporalPositionIndex = pairs[volume][1]

    pixels = volumes(6)
    words = [f"echo {echo} ms, time point {time}" for echo, time in pairs]
    folder = classic(tmp_path / "s", pixels, say)
    assert_all_can_be_picked(enhanced(tmp_path / "a.dcm", pixels, say_in_group), pixels, words)
    if lost is None:
        assert_all_can_be_picked(folder, pixels, words)
    else:
        (folder / f"{lost:03d}").unlink()
        found = [read(folder, item=str(number + 1)).values for number in range(6)]
        whole = [values for values in found if values.shape[0] == SLICES and not np.isnan(values).any()]
        assert len(whole) == 5


def test_one_that_has_no_direction_among_those_that_have(tmp_path: Path) -> None:
    def say(ds: Dataset, volume: int, place: int) -> None:
        ds.DiffusionBValue = 1000.0 if volume else 0.0
        if volume:
            ds.DiffusionGradientOrientation = [[], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]][volume]

    pixels = volumes(3)
    folder = classic(tmp_path / "s", pixels, say)
    with pytest.raises(VoxgapError, match=r"3 series: .*direction 0\\1\\0 \(4 images\)"):
        read(folder)
    found = {tuple(read(folder, item=str(n)).values.ravel()) for n in (1, 2, 3)}
    assert found == {tuple(upright(one).astype(np.float32).ravel()) for one in pixels}


def test_an_acquisition_is_called_by_what_is_one_in_it(tmp_path: Path) -> None:
    directions = [[], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]

    def say(ds: Dataset, volume: int, place: int) -> None:
        ds.AcquisitionNumber, ds.DiffusionBValue = volume + 1, [0.0, 1000.0, 1000.0, 2000.0][volume]
        if volume:
            ds.DiffusionGradientOrientation = directions[volume]

    pixels = volumes(4)
    of_each = ["b 0 s/mm², without direction", "b 1000 s/mm², direction 1\\0\\0"]
    of_each += ["b 1000 s/mm², direction 0\\1\\0", "b 2000 s/mm², direction 1\\0\\0"]
    words = [f"{said}, acquisition {number}" for number, said in enumerate(of_each, 1)]
    assert_all_can_be_picked(classic(tmp_path / "s", pixels, say), pixels, words)


def test_times_that_differ_from_slice_to_slice_count_by_their_order(tmp_path: Path) -> None:
    def say(ds: Dataset, volume: int, place: int) -> None:
        ds.AcquisitionTime = f"1000{10 * volume + place:02d}.5"

    pixels = volumes(3)
    words = [f"acquired {number} of 3" for number in (1, 2, 3)]
    assert_all_can_be_picked(classic(tmp_path / "s", pixels, say), pixels, words)


def test_times_in_order_within_echoes(tmp_path: Path) -> None:
    def say(ds: Dataset, volume: int, place: int) -> None:
        ds.EchoTime = 10 + 70 * (volume // 2)
        ds.AcquisitionTime = f"1000{10 * (volume % 2) + place:02d}"

    pixels = volumes(4)
    words = [f"echo {echo} ms, acquired {number} of 2" for echo in (10, 80) for number in (1, 2)]
    assert_all_can_be_picked(classic(tmp_path / "s", pixels, say), pixels, words)


def nothing(ds: Dataset, volume: int, place: int) -> None:
    """Tell nothing."""


def test_what_nothing_tells_apart_is_refused(tmp_path: Path) -> None:
    pixels = volumes(2)
    for path in (classic(tmp_path / "s", pixels, nothing), enhanced(tmp_path / "a.dcm", pixels, nothing)):
        with pytest.raises(VoxgapError, match="lie at one place and differ, and no tag"):
            read(path)


def test_true_copies_count_once(tmp_path: Path) -> None:
    pixels = np.repeat(volumes(1), 2, axis=0)
    for path in (classic(tmp_path / "s", pixels, nothing), enhanced(tmp_path / "a.dcm", pixels, nothing)):
        assert np.array_equal(read(path).values, upright(pixels[0]))


def test_copies_of_a_file_in_another_encoding_count_once(tmp_path: Path) -> None:
    folder = classic(tmp_path / "s", volumes(1), nothing)
    ds = pydicom.dcmread(folder / "001")
    ds.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    ds.save_as(folder / "copy")
    (folder / "more").mkdir()
    shutil.copy(folder / "002", folder / "more" / "002")
    assert np.array_equal(read(folder).values, upright(volumes(1)[0]))


def test_one_identifier_of_different_slices_drops_none(tmp_path: Path) -> None:
    for uid in ("1.2.3.4", None):

        def say(ds: Dataset, volume: int, place: int, uid: str | None = uid) -> None:
            if uid:
                ds.SOPInstanceUID = uid
            else:
                del ds.SOPInstanceUID

        folder = classic(tmp_path / str(uid), volumes(1), say)
        assert np.array_equal(read(folder).values, upright(volumes(1)[0]))


def test_one_identifier_of_different_pixels_is_refused(tmp_path: Path) -> None:
    def say(ds: Dataset, volume: int, place: int) -> None:
        ds.SOPInstanceUID = f"1.2.3.{place}"

    with pytest.raises(VoxgapError, match="lie at one place and differ"):
        read(classic(tmp_path / "s", volumes(2), say))

    def unplaced(ds: Dataset, volume: int, place: int) -> None:
        say(ds, volume, place)
        del ds.ImagePositionPatient
        ds.InstanceNumber = place + 1

    with pytest.raises(VoxgapError, match=r"0\d\d and .*0\d\d: have one SOPInstanceUID and different pixels"):
        read(classic(tmp_path / "t", volumes(2), unplaced))
    copies = np.repeat(volumes(1), 2, axis=0)
    assert np.array_equal(read(classic(tmp_path / "u", copies, unplaced)).values[..., 0], copies[0])


def test_images_without_place_and_identifier_are_all_kept(tmp_path: Path) -> None:
    def say(ds: Dataset, volume: int, place: int) -> None:
        del ds.ImagePositionPatient, ds.SOPInstanceUID
        ds.InstanceNumber = place + 1

    pixels = volumes(1)
    pixels[:] = 7
    assert read(classic(tmp_path / "s", pixels, say)).shape == (SLICES, ROWS, COLUMNS, 1)


def test_a_mosaic_is_refused(tmp_path: Path) -> None:
    say = of_file("ImageType", [["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]])
    with pytest.raises(VoxgapError, match=r"mosaic, .*dcm2niix"):
        read(classic(tmp_path / "s", volumes(1), say))


def test_other_objects_of_a_study_are_no_images(tmp_path: Path) -> None:
    folder = classic(tmp_path / "s", volumes(1), nothing)
    report = Dataset()
    report.SOPClassUID, report.SOPInstanceUID, report.Modality = (
        "1.2.840.10008.5.1.4.1.1.88.11",
        "1.2.9",
        "SR",
    )
    report.file_meta = FileMetaDataset()
    report.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    report.save_as(folder / "report", enforce_file_format=True)
    assert np.array_equal(read(folder).values, upright(volumes(1)[0]))
    with pytest.raises(VoxgapError, match=r"is DICOM, but no image \(SR\)"):
        read(folder / "report")


def test_a_damaged_slice_is_named_and_no_report(tmp_path: Path) -> None:
    folder = classic(tmp_path / "s", volumes(1), nothing)
    content = (folder / "002").read_bytes()
    rows = content.index(b"\x28\x00\x10\x00US")
    for end in range(400, len(content), 7):
        (folder / "002").write_bytes(content[:end])
        words = "cut off" if end < rows else "002: "
        with pytest.raises(VoxgapError, match=words):
            read(folder)
