"""DICOM as old archives and discs hold it: without suffix, preamble or meta header, among other files."""

from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from fuzz import ONE_FOLDER, mutate, read_or_refuse
from test_io_dicom_pixels import SYNTAXES, image, reference, save
from test_io_dicom_series import classic, enhanced, in_group, nothing, upright, volumes
from voxgap.errors import VoxgapError
from voxgap.io import check_volume, is_volume, read, scan, write

BARE = {"implicit": ImplicitVRLittleEndian, "explicit": ExplicitVRLittleEndian, "big": ExplicitVRBigEndian}


def bare(path: Path, kind: str, meta: bool = False) -> None:
    """Leave the data set alone, or behind its meta header without preamble."""
    ds = pydicom.dcmread(path)
    implicit, little = BARE[kind].is_implicit_VR, BARE[kind].is_little_endian
    if not little:
        ds.PixelData = np.frombuffer(ds.PixelData, "<u2").byteswap().tobytes()
    ds.file_meta.TransferSyntaxUID = BARE[kind]
    if meta:
        pydicom.dcmwrite(path, ds, enforce_file_format=True, implicit_vr=implicit, little_endian=little)
        path.write_bytes(path.read_bytes()[132:])
        return
    ds.file_meta = FileMetaDataset()
    pydicom.dcmwrite(path, ds, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
    content = path.read_bytes()
    path.write_bytes(content[132:] if content[128:132] == b"DICM" else content)


@pytest.mark.parametrize("kind", [*BARE, "implicit behind a meta header", "explicit behind a meta header"])
def test_a_bare_data_set_is_read(kind: str, tmp_path: Path) -> None:
    pixels = volumes(1)
    folder = classic(tmp_path / "s", pixels, nothing)
    for file in folder.iterdir():
        bare(file, kind.split()[0], "meta" in kind)
        assert file.read_bytes()[128:132] != b"DICM"
    assert is_volume(folder)
    assert np.array_equal(read(folder).values, upright(pixels[0]))
    file = folder / "001"
    assert is_volume(file)
    check_volume(file)
    assert read(file).shape == (1, 5, 6, 1)
    write(tmp_path / "out", read(folder), like=folder)
    assert np.array_equal(read(tmp_path / "out").values, upright(pixels[0]))


@pytest.mark.parametrize("name", ["no_meta_group_length.dcm", "meta_missing_tsyntax.dcm", "MR_small.dcm"])
def test_files_of_pydicom_by_number(name: str, tmp_path: Path) -> None:
    original = Path(str(get_testdata_file(name, download=False)))
    (tmp_path / "1.2.840.42").write_bytes(original.read_bytes())
    if "Rows" in pydicom.dcmread(original, force=True):
        assert np.array_equal(read(tmp_path / "1.2.840.42").values, read(original).values, equal_nan=True)
    else:
        with pytest.raises(VoxgapError, match="no image"):
            read(tmp_path / "1.2.840.42")


@pytest.mark.parametrize("beside", ["before", "after"])
def test_a_series_is_known_whatever_lies_beside_it(beside: str, tmp_path: Path) -> None:
    folder = classic(tmp_path / "s", volumes(1), nothing)
    others = ("README", ".DS_Store", "DICOMDIR", "Thumbs.db", "report.pdf", "a.txt", "b.txt", "c.txt", "d")
    for name in others:
        file = folder / (name if beside == "before" or name[0] in ".DT" else f"zz{name}")
        file.write_bytes(b"not an image, whatever its name is " * 9)
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "0").write_bytes((folder / "000").read_bytes())
    assert is_volume(folder)
    assert np.array_equal(read(folder).values, upright(volumes(1)[0]))
    # With a volume of another format in it, it is a folder of volumes.
    np.save(folder / "v.npy", np.zeros((2, 2, 2)))
    assert not is_volume(folder)
    assert np.array_equal(read(folder).values, upright(volumes(1)[0]))


def test_no_other_file_is_taken_for_dicom(tmp_path: Path) -> None:
    path = tmp_path / "file"
    rng = np.random.default_rng(0)
    contents = [rng.bytes(1000) for _ in range(300)] + [
        file.read_bytes() for file in Path(__file__).parent.glob("*.py")
    ]
    starts = [
        b"\x08\x00\x05\x00CS",
        b"\x08\x00\x16\x00UI",
        b"\x08\x00\x00\x00",
        b"\x02\x00\x00\x00UL\x04\x00",
        b"\x00\x08\x00\x16UI",
    ]
    contents += [start + rng.bytes(400) for start in starts for _ in range(50)]
    contents += [start + bytes(400) for start in starts] + [b"", b"\x08\x00", bytes(500)]
    for content in contents:
        path.write_bytes(content)
        assert not is_volume(path)
    with pytest.raises(VoxgapError, match="unknown format"):
        read(path)


def test_a_file_without_pixels_says_so(tmp_path: Path) -> None:
    path = save(image(np.zeros((2, 3, 4), "<u2")), tmp_path / "a.dcm")
    ds = pydicom.dcmread(path)
    del ds.PixelData
    ds.save_as(path)
    with pytest.raises(VoxgapError, match="has no pixels"):
        read(path)
    ds.add_new("PixelData", "OW", bytes(40))
    ds.NumberOfFrames = 2  # 48 are needed; what lies behind are no pixels.
    ds.add_new(0x7FE10011, "LO", "x" * 60)
    ds.save_as(path)
    with pytest.raises(VoxgapError, match="claims 2 frames of 3×4"):
        read(path)


def test_reading_takes_little_more_memory_than_the_volume(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 999, (40, 256, 256)).astype("<u2")
    colours = np.random.default_rng(0).integers(0, 255, (1, 1000, 1000, 3)).astype("u1")
    for number, pixels in enumerate((frames, frames.reshape(1, 1280, 2048), colours, colours)):
        ds = image(pixels)
        if number == 3:
            ds.PhotometricInterpretation = "YBR_FULL"
        path = save(ds, tmp_path / f"{number}.dcm")
        read(path, region=[(0, 1), (0, 1)])
        tracemalloc.start()
        values = read(path).values
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1.3 * values.nbytes + pixels[0].nbytes + 2**20
        assert np.array_equal(values.reshape(pixels.shape), reference(path).reshape(pixels.shape))


def calls_to_describe(path: Path) -> int:
    """How many functions are called: time, without the noise."""
    count = 0

    def profile(*_: object) -> None:
        nonlocal count
        count += 1

    sys.setprofile(profile)
    try:
        scan(path).read([(0, 1)])
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("syntax", ["explicit", "RLE"])
def test_many_frames_are_described_in_linear_time(syntax: str, tmp_path: Path) -> None:
    say = in_group("FrameContentSequence", "TemporalPositionIndex", list(range(1, 2000)))
    calls = []
    for count in (10, 40):
        path = enhanced(tmp_path / f"{count}.dcm", np.zeros((count, 4, 5, 6), int), say)
        if syntax == "RLE":
            ds = pydicom.dcmread(path)
            ds.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
            ds.save_as(path)
        scan(path, item="1")
        calls.append(calls_to_describe(Path(f"{path}::1")))
    assert calls[1] < 5 * calls[0]


SEEDS = ("explicit", "implicit", "RLE", "deflated", "big endian", "enhanced", "bare", "palette")


def seed(folder: Path, name: str) -> bytes:
    path = folder / "seed"
    pixels = np.random.default_rng(0).integers(0, 999, (3, 4, 5)).astype("<u2")
    if name == "enhanced":
        enhanced(path, volumes(2), in_group("MREchoSequence", "EffectiveEchoTime", [10.0, 80.5]))
    elif name == "bare":
        bare(save(image(pixels), path), "implicit")
    elif name == "palette":
        from test_io_dicom_pixels import KINDS

        save(KINDS["short palette"](), path)
    else:
        save(image(pixels), path, SYNTAXES[name])
    return path.read_bytes()


@settings(max_examples=120, deadline=None, suppress_health_check=ONE_FOLDER)
@given(st.data(), st.sampled_from(SEEDS))
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_read_or_refused(tmp_path: Path, data: st.DataObject, name: str) -> None:
    damage(tmp_path, data, name)


@pytest.mark.full
@settings(max_examples=8_000, deadline=None, suppress_health_check=ONE_FOLDER)
@given(st.data(), st.sampled_from(SEEDS))
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_read_or_refused_many(tmp_path: Path, data: st.DataObject, name: str) -> None:
    damage(tmp_path, data, name)


def damage(folder: Path, data: st.DataObject, name: str) -> None:
    good = folder / f"{name}.good"
    if not good.exists():
        good.write_bytes(seed(folder, name))
    path = folder / "fuzz.dcm"
    path.write_bytes(mutate(data.draw, bytearray(good.read_bytes())))
    read_or_refuse(path)
