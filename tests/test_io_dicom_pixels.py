"""The pixels of DICOM against pydicom's own functions: transfer syntaxes × kinds of pixels, padding, tables."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_color_lut, apply_modality_lut
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from voxgap.errors import VoxgapError
from voxgap.io import read, scan

FRAMES, ROWS, COLUMNS = 3, 5, 6
SYNTAXES = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "RLE": RLELossless,
}


def image(pixels: np.ndarray, **fields: Any) -> Dataset:
    """An ultrasound clip: frames without a place, so that nothing is turned."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.3.1", "1.2.3.4"
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, "1.2.3.4"
    ds.SeriesInstanceUID, ds.Modality = "1.2.3", "US"
    ds.NumberOfFrames, ds.Rows, ds.Columns = pixels.shape[:3]
    ds.SamplesPerPixel = pixels.shape[3] if pixels.ndim == 4 else 1
    ds.PhotometricInterpretation = "RGB" if pixels.ndim == 4 else "MONOCHROME2"
    if pixels.ndim == 4:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = ds.BitsStored = 8 * pixels.dtype.itemsize
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(pixels.dtype.kind == "i")
    for name, value in fields.items():
        setattr(ds, name, value)
    ds.HighBit = fields.get("HighBit", ds.BitsStored - 1)
    name = {"f4": "FloatPixelData", "f8": "DoubleFloatPixelData"}.get(pixels.dtype.str[1:], "PixelData")
    setattr(ds, name, pixels.tobytes())
    if name == "PixelData":
        ds["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    return ds


def save(ds: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write a little-endian data set in this transfer syntax."""
    if syntax == RLELossless:
        ds.compress(RLELossless, generate_instance_uid=False)
    elif syntax == ExplicitVRBigEndian and "PixelData" in ds and ds.BitsAllocated > 8:
        ds.PixelData = np.frombuffer(ds.PixelData, f"<u{ds.BitsAllocated // 8}").byteswap().tobytes()
    elif syntax == ExplicitVRBigEndian and "PixelData" not in ds:
        name, size = ("FloatPixelData", 4) if "FloatPixelData" in ds else ("DoubleFloatPixelData", 8)
        setattr(ds, name, np.frombuffer(getattr(ds, name), f"u{size}").byteswap().tobytes())
    ds.file_meta.TransferSyntaxUID = syntax
    little, implicit = syntax != ExplicitVRBigEndian, syntax == ImplicitVRLittleEndian
    pydicom.dcmwrite(path, ds, enforce_file_format=True, implicit_vr=implicit, little_endian=little)
    return path


def numbers(dtype: str, low: int, high: int, samples: tuple[int, ...] = ()) -> np.ndarray:
    shape = (FRAMES, ROWS, COLUMNS, *samples)
    return np.random.default_rng(0).integers(low, high, shape, endpoint=True).astype(dtype)


def bits(values: np.ndarray, low_bit: int, stored: int, signed: bool) -> np.ndarray:
    """Values in some bits of 16, the others filled with what is none of theirs."""
    cells = np.random.default_rng(1).integers(0, 2**16, values.shape)
    mask = ((1 << stored) - 1) << low_bit
    return ((cells & ~mask) | ((values.astype(int) << low_bit) & mask)).astype("<i2" if signed else "<u2")


def table(count: int, first: int, depth: int = 16, vr: str = "US", pixels: str = "US") -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", pixels, [count % 2**16, first, depth])
    entries = np.random.default_rng(2).integers(0, 2**depth, count)
    value = entries.tolist() if vr == "US" else entries.astype("<u2").tobytes()
    item.add_new("LUTData", vr, value)
    item.ModalityLUTType = "US"
    return Sequence([item])


def palette(count: int, first: int, depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for seed, colour in enumerate(("Red", "Green", "Blue")):
        entries = np.random.default_rng(seed).integers(0, 2**depth, count).astype(f"<u{depth // 8}")
        found[f"{colour}PaletteColorLookupTableDescriptor"] = [count, first, depth]
        found[f"{colour}PaletteColorLookupTableData"] = entries.tobytes()
    return found


RGB = numbers("u1", 0, 255, (3,))
PAIRS = numbers("u1", 0, 255, (2,))
BYTES, WORDS, SIGNED = numbers("u1", 0, 255), numbers("<u2", 0, 999), numbers("<i2", -500, 500)
KINDS: dict[str, Callable[[], Dataset]] = {
    "u1": lambda: image(BYTES),
    "i1": lambda: image(numbers("i1", -128, 127)),
    "u2": lambda: image(numbers("<u2", 0, 2**16 - 1)),
    "i2": lambda: image(numbers("<i2", -(2**15), 2**15 - 1)),
    "u4": lambda: image(numbers("<u4", 0, 2**32 - 1)),
    "i4": lambda: image(numbers("<i4", -(2**31), 2**31 - 1)),
    "f4": lambda: image(numbers("<i4", -999, 999).astype("<f4") / 7),
    "f8": lambda: image(numbers("<i4", -999, 999).astype("<f8") / 7),
    "12 of 16 bits": lambda: image(bits(numbers("<i4", 0, 4095), 0, 12, False), BitsStored=12),
    "12 of 16 bits, signed": lambda: image(bits(numbers("<i4", -2048, 2047), 0, 12, True), BitsStored=12),
    "scaled": lambda: image(SIGNED, RescaleSlope="0.37", RescaleIntercept="-1024"),
    "shown inverted": lambda: image(WORDS, PhotometricInterpretation="MONOCHROME1"),
    "RGB": lambda: image(RGB),
    "RGB in planes": lambda: image(np.ascontiguousarray(np.moveaxis(RGB, 3, 1)), **planes()),
    "YBR_FULL": lambda: image(RGB, PhotometricInterpretation="YBR_FULL"),
    "YBR_FULL_422": lambda: image(
        PAIRS, SamplesPerPixel=3, PhotometricInterpretation="YBR_FULL_422", Rows=ROWS, Columns=COLUMNS
    ),
    "palette": lambda: image(BYTES, **palette(256, 0, 16)),
    "short palette": lambda: image(BYTES, **palette(100, 20, 8)),
    "palette of words": lambda: image(WORDS, **palette(700, 100, 16)),
    "table": lambda: image(WORDS, ModalityLUTSequence=table(1000, 0)),
    "short table": lambda: image(WORDS, ModalityLUTSequence=table(300, 200, vr="OW")),
    "full table": lambda: image(numbers("<u2", 0, 2**16 - 1), ModalityLUTSequence=table(2**16, 0, vr="OW")),
    "table of bytes": lambda: image(BYTES, ModalityLUTSequence=table(256, 0, 8)),
    "table from below 0": lambda: image(SIGNED, ModalityLUTSequence=table(400, -200, pixels="SS")),
}
NO_RLE = ("u4", "i4", "f4", "f8", "12 of 16 bits", "12 of 16 bits, signed", "YBR_FULL_422")


def planes() -> dict[str, Any]:
    return {
        "SamplesPerPixel": 3,
        "PhotometricInterpretation": "RGB",
        "PlanarConfiguration": 1,
        "Rows": ROWS,
        "Columns": COLUMNS,
    }


def reference(path: Path) -> np.ndarray:
    """What pydicom makes of it."""
    ds = pydicom.dcmread(path)
    found = ds.pixel_array
    if ds.PhotometricInterpretation == "PALETTE COLOR":
        return apply_color_lut(found, ds)
    return apply_modality_lut(found, ds) if ds.SamplesPerPixel == 1 else found


def can_be_written(syntax: str, kind: str) -> bool:
    # pydicom takes the bytes of big-endian tables for little-endian ones; and it can't pack all kinds.
    of_table = "palette" in kind or "table" in kind
    return not (syntax == "RLE" and kind in NO_RLE) and not (syntax == "big endian" and of_table)


@pytest.mark.parametrize(
    ("syntax", "kind"), [(s, k) for s in SYNTAXES for k in KINDS if can_be_written(s, k)]
)
def test_all_pixels_are_those_of_pydicom(syntax: str, kind: str, tmp_path: Path) -> None:
    path = save(KINDS[kind](), tmp_path / "a.dcm", SYNTAXES[syntax])
    wanted = reference(path).astype(np.float32)
    found = read(path)
    assert np.array_equal(found.values, wanted.reshape(FRAMES, ROWS, COLUMNS, -1))
    assert found.channels == (("red", "green", "blue") if found.shape[3] == 3 else ("channel_0",))
    region = scan(path).read([(1, 3), (2, 5), (1, 4)])
    assert np.array_equal(region.values, found.values[1:3, 2:5, 1:4])


@pytest.mark.parametrize("kind", ["palette of words", "table", "short table"])
def test_a_table_in_a_big_endian_file(kind: str, tmp_path: Path) -> None:
    little = read(save(KINDS[kind](), tmp_path / "a.dcm"))
    ds = KINDS[kind]()
    for name in (f"{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")):
        if name in ds:
            setattr(ds, name, np.frombuffer(getattr(ds, name), "<u2").byteswap().tobytes())
    for item in ds.get("ModalityLUTSequence", []):
        if item["LUTData"].VR == "OW":
            item.LUTData = np.frombuffer(item.LUTData, "<u2").byteswap().tobytes()
    assert np.array_equal(read(save(ds, tmp_path / "b.dcm", ExplicitVRBigEndian)).values, little.values)


@pytest.mark.parametrize("stored", [1, 7, 10, 12, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_values_lie_where_the_high_bit_says(stored: int, signed: bool, tmp_path: Path) -> None:
    low = -(1 << stored - 1) if signed else 0
    values = numbers("<i4", low, low + (1 << stored) - 1)
    for low_bit in range(0, 17 - stored, 2):
        cells = bits(values, low_bit, stored, signed)
        ds = image(cells, BitsStored=stored, HighBit=low_bit + stored - 1)
        assert np.array_equal(read(save(ds, tmp_path / "a.dcm")).values[..., 0], values)
    with pytest.raises(VoxgapError, match="up to bit"):
        read(save(image(cells, BitsStored=stored, HighBit=16), tmp_path / "a.dcm"))


def test_a_table_that_pydicom_clips_wrongly(tmp_path: Path) -> None:
    """Bytes that a table of more entries maps, and a palette of bytes that words index."""
    ds = image(BYTES, ModalityLUTSequence=table(1000, 0))
    entries = np.array(ds.ModalityLUTSequence[0].LUTData)
    assert np.array_equal(read(save(ds, tmp_path / "a.dcm")).values[..., 0], entries[BYTES])
    ds = image(WORDS, **palette(1000, 0, 8))
    red = np.frombuffer(ds.RedPaletteColorLookupTableData, "u1")
    assert np.array_equal(read(save(ds, tmp_path / "b.dcm")).values[..., 0], red[WORDS])


def test_tables_that_are_none(tmp_path: Path) -> None:
    short = table(1000, 0)
    short[0].LUTData = [1, 2, 3]
    bare = table(1000, 0)
    del bare[0].LUTData
    segmented = palette(256, 0, 8)
    segmented["SegmentedRedPaletteColorLookupTableData"] = segmented.pop("RedPaletteColorLookupTableData")
    for fields, words in [
        ({"ModalityLUTSequence": short}, "LUTData has 6 of 1000 entries|LUTData has 3 of 1000"),
        ({"ModalityLUTSequence": bare}, "has no LUTData"),
        (segmented, "or a segmented one"),
    ]:
        with pytest.raises(VoxgapError, match=words):
            read(save(image(WORDS, **fields), tmp_path / "a.dcm"))


REAL = """SC_rgb_dcmtk_+eb+cr SC_rgb_dcmtk_+eb+cy+n2 SC_rgb_jpeg SC_rgb_jpeg_app14_dcmd 693_J2KI liver_1frame
    SC_jpeg_no_color_transform examples_ybr_color examples_jpeg2k SC_rgb_rle_16bit_2frame MR_small_padded
    SC_ybr_full_422_uncompressed J2K_pixelrep_mismatch examples_palette SC_rgb_rle_32bit_2frame"""


@pytest.mark.parametrize("name", REAL.split())
@pytest.mark.filterwarnings("ignore")
def test_real_files_are_converted_once(name: str) -> None:
    path = Path(str(get_testdata_file(f"{name}.dcm", download=False)))
    found, wanted = read(path), reference(path).astype(np.float32).reshape(scan(path).shape)
    turns = [axes for count in range(4) for axes in combinations((0, 1, 2), count)]
    if found.affine is None:
        turns = [()]
    # Padding, which pydicom takes for a value, is missing.
    assert any(
        np.array_equal(np.where(found.observed, np.flip(wanted, axes), np.nan), found.values, equal_nan=True)
        for axes in turns
    )
    assert found.missing_rate < 0.5


def test_colours_of_another_kind_are_refused(tmp_path: Path) -> None:
    for colours in ("YBR_PARTIAL_422", "HSV", "YBR_ICT"):
        with pytest.raises(VoxgapError, match=r"a\.dcm: .*" + colours):
            read(save(image(RGB, PhotometricInterpretation=colours), tmp_path / "a.dcm"))


CELLS = {"u1": (0, 3, 254), "i1": (-128, -3, 127), "u2": (0, 2000, 65533), "i2": (-32768, -2000, 32767)}
CELLS |= {"u4": (0, 2000, 2**32 - 9), "i4": (-(2**31), -2000, 2**31 - 9)}


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("dtype", CELLS)
@pytest.mark.parametrize("vr", ["US", "SS", "UN", "OW", "OB"])
def test_padding_is_compared_with_what_is_stored(dtype: str, vr: str, width: int, tmp_path: Path) -> None:
    for value in CELLS[dtype]:
        ends = (value, value + width - 1) if value <= 0 else (value, value - width + 1)
        if not all(-(2**15) <= end < 2**16 for end in ends):
            continue
        if vr in ("US", "SS"):  # Also in the sign that the pixels have not.
            words = [int(np.array(end).astype("u2" if vr == "US" else "i2")) for end in ends]
            if dtype in ("u4", "i4") and words != list(ends):
                continue  # No file says which 32-bit value a 16-bit one of another sign stands for.
        else:
            if dtype in ("u4", "i4"):
                continue  # Two words: no single value of this element.
            words = [int(end % 2 ** (8 * int(dtype[1]))).to_bytes(int(dtype[1]), "little") for end in ends]
            words = [word + bytes(len(word) % 2) for word in words]
        pixels = np.full((FRAMES, ROWS, COLUMNS), 100, f"<{dtype}")
        around = np.arange(min(ends) - 1, max(ends) + 2)
        kept = [int(v) for v in around if np.iinfo(dtype).min <= v <= np.iinfo(dtype).max]
        pixels[0, 0, : len(kept)] = kept
        ds = image(pixels, RescaleSlope=2, RescaleIntercept=-7)
        ds.add_new("PixelPaddingValue", vr, words[0])
        if width > 1:
            ds.add_new("PixelPaddingRangeLimit", vr, words[1])
        found = read(save(ds, tmp_path / "a.dcm")).values[..., 0]
        wanted = pixels.astype(np.float32) * 2 - 7
        wanted[(pixels >= min(ends)) & (pixels <= max(ends))] = np.nan
        assert np.array_equal(found, wanted, equal_nan=True), (value, words)


def test_padding_of_fewer_bits(tmp_path: Path) -> None:
    values = numbers("<i4", -2048, 2047)
    values[0, 0, :3] = (-2000, -1999, 96)
    for said in (("SS", -2000), ("US", 2**16 - 2000), ("US", 2**12 - 2000)):
        ds = image(bits(values, 0, 12, True), BitsStored=12)
        ds.add_new("PixelPaddingValue", *said)
        found = read(save(ds, tmp_path / "a.dcm")).values[..., 0]
        assert np.array_equal(found, np.where(values == -2000, np.nan, values), equal_nan=True)
    # A value that the stored bits can't hold is that of a whole cell.
    cells = numbers("<u2", 0, 4095)
    cells[0, 0, :2] = (63536, 63536 % 4096)
    ds = image(cells, BitsStored=12)
    ds.add_new("PixelPaddingValue", "US", 63536)
    found = read(save(ds, tmp_path / "a.dcm")).values[..., 0]
    assert np.array_equal(np.isnan(found), cells == 63536)
    assert found[0, 0, 1] == 63536 % 4096


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_padding_of_floating_point(dtype: str, tmp_path: Path) -> None:
    pixels = numbers("<i4", -999, 999).astype(f"<{dtype}") / 7
    pixels[0, 0, :4] = (-1.5, -1.2, -1.0, np.nan)
    ds = image(pixels)
    name = "FloatPixelPadding" if dtype == "f4" else "DoubleFloatPixelPadding"
    setattr(ds, f"{name}Value", -1.5)
    setattr(ds, f"{name}RangeLimit", -1.1)
    found = read(save(ds, tmp_path / "a.dcm")).values[..., 0]
    wanted = np.where((pixels >= -1.5) & (pixels <= -1.1), np.nan, pixels).astype(np.float32)
    assert np.array_equal(found, wanted, equal_nan=True)
    assert np.isnan(found[0, 0, [0, 1, 3]]).all()


def test_padding_before_a_table_and_never_of_colours(tmp_path: Path) -> None:
    ds = image(WORDS, ModalityLUTSequence=table(1000, 0), PixelPaddingValue=int(WORDS[0, 0, 0]))
    missing = np.isnan(read(save(ds, tmp_path / "a.dcm")).values[..., 0])
    assert np.array_equal(missing, np.equal(WORDS, WORDS[0, 0, 0]))
    assert not np.isnan(
        read(save(image(RGB, PixelPaddingValue=int(RGB[0, 0, 0, 0])), tmp_path / "b.dcm")).values
    ).any()


def test_padding_that_is_nonsense(tmp_path: Path) -> None:
    for vr, value, words in [
        ("US", [7, 7], None),
        ("US", [7, 8], "PixelPaddingValue is not one number"),
        ("LO", "air", "PixelPaddingValue is not one number"),
        ("US", None, None),
        ("SS", -2000, None),
    ]:
        ds = image(BYTES)
        ds.add_new("PixelPaddingValue", vr, value)
        path = save(ds, tmp_path / "a.dcm")
        if words:
            with pytest.raises(VoxgapError, match=words):
                read(path)
        else:
            missing = np.isnan(read(path).values[..., 0])
            assert np.array_equal(missing, (BYTES == 7) & (value == [7, 7]))


@pytest.mark.parametrize("slope", ["0", "nan", "inf"])
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_a_scale_that_leaves_nothing(slope: str, tmp_path: Path) -> None:
    with pytest.raises(VoxgapError, match="repair RescaleSlope"):
        read(save(image(WORDS, RescaleSlope=slope, RescaleIntercept=0), tmp_path / "a.dcm"))


def test_bytes_behind_a_deflated_data_set(tmp_path: Path) -> None:
    path = save(image(WORDS), tmp_path / "a.dcm", DeflatedExplicitVRLittleEndian)
    path.write_bytes(path.read_bytes() + b"\0")
    assert np.array_equal(read(path).values[..., 0], WORDS)
