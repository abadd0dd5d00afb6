"""DICOM against SimpleITK and pydicom's own files; lost slices, mixed series, padding."""

import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom.data import get_testdata_file

from test_io_images import TO_LPS, assert_same_world, rotation
from voxgap.errors import VoxgapError
from voxgap.io import dicom_files, is_volume, read, scan, write
from voxgap.volume import Volume

AFFINE = np.array([[0, 0, 0.75, -10], [0, 0.5, 0, 20], [2.5, 0, 0, -30], [0, 0, 0, 1.0]])


def example(depth: int = 6, affine: np.ndarray = AFFINE) -> Volume:
    values = np.random.default_rng(0).integers(-1000, 2000, (depth, 4, 5, 1)).astype(np.float32)
    return Volume(values, affine)


def series(folder: Path, volume: Volume | None = None) -> list[Path]:
    write(folder, volume or example())
    return sorted(folder.glob("*.dcm"))


def edit(path: Path, **values: object) -> None:
    ds = pydicom.dcmread(path)
    for name, value in values.items():
        if value is None:
            del ds[name]
        else:
            setattr(ds, name, value)
    ds.save_as(path)


def itk_series(folder: Path, uid: str | None = None) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    names = reader.GetGDCMSeriesFileNames(str(folder), *([uid] if uid else []))
    reader.SetFileNames(names)
    return reader.Execute()


@pytest.mark.parametrize("turn", [(0, 0, 0), (0.2, -0.3, 0.4), (1.4, 0.1, -2.0)])
def test_a_series_written_here_is_the_same_to_simpleitk(turn: tuple[float, ...], tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[:3, :3] = (rotation(turn) * (0.5, 0.75, 2.5))[:, ::-1]  # type: ignore[arg-type]
    volume = example(affine=affine)
    series(tmp_path / "v.dicom", volume)
    assert_same_world(read(tmp_path / "v.dicom"), itk_series(tmp_path / "v.dicom"))


def test_whole_numbers_are_exact_and_others_nearly(tmp_path: Path) -> None:
    volume = example()
    series(tmp_path / "v.dicom", volume)
    back = read(tmp_path / "v.dicom")
    assert np.array_equal(back.values, volume.values)
    assert back.affine is not None
    assert np.allclose(back.affine, AFFINE)
    real = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    real[1, 2] = np.nan
    series(tmp_path / "w.dicom", Volume(real))
    assert np.allclose(
        read(tmp_path / "w.dicom").values[..., 0], real, atol=np.nanmax(abs(real)) / 2**15, equal_nan=True
    )


@pytest.mark.parametrize("lost", range(6))
@pytest.mark.parametrize("turn", [(0, 0, 0), (0.2, -0.3, 0.4), (2.9, 0.1, -2.0)])
def test_any_lost_slice_is_missing_in_its_place(lost: int, turn: tuple[float, ...], tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[:3, :3] = (rotation(turn) * (0.5, 0.75, 2.5))[:, ::-1]  # type: ignore[arg-type]
    files = series(tmp_path / "v.dicom", example(affine=affine))
    whole = read(tmp_path / "v.dicom")
    gone = np.nan_to_num(read(files[lost]).values)
    files[lost].unlink()
    found = read(tmp_path / "v.dicom")
    missing = [i for i in range(6) if np.array_equal(np.sort(whole.values[i].ravel()), np.sort(gone.ravel()))]
    wanted = whole.values.copy()
    wanted[missing] = np.nan
    assert len(missing) == 1
    assert np.array_equal(found.values, wanted, equal_nan=True)
    assert found.affine is not None
    assert whole.affine is not None
    assert np.allclose(found.affine, whole.affine, atol=1e-6)


def test_several_lost_slices_and_shuffled_names(tmp_path: Path) -> None:
    files = series(tmp_path / "v.dicom", example(12))
    whole = read(tmp_path / "v.dicom").values
    for index, file in enumerate(files):
        file.rename(file.with_name(f"{(index * 7) % 12:02d}.ima"))
    gone = [2, 3, 7]
    for index in gone:
        (tmp_path / "v.dicom" / f"{(index * 7) % 12:02d}.ima").unlink()
    whole[gone] = np.nan
    assert np.array_equal(read(tmp_path / "v.dicom").values, whole, equal_nan=True)


def placed_at(folder: Path, heights: list[float]) -> Path:
    for file, height in zip(series(folder, example(len(heights))), heights, strict=True):
        position = pydicom.dcmread(file).ImagePositionPatient
        edit(file, ImagePositionPatient=[*position[:2], height], ImagesInAcquisition=None)
    return folder


@pytest.mark.parametrize(
    "heights",
    [[0, 4, 10], [0, 5, 10, 13], [0, 2, 4.7, 6, 8], [0, 1.5, 2.7, 4.1], [0, 1, 2, 3.2], [0, 3, 6, 9.5]],
)
def test_slices_on_no_regular_grid_are_refused(heights: list[float], tmp_path: Path) -> None:
    with pytest.raises(VoxgapError, match=r"apart, on no regular grid; keep"):
        scan(placed_at(tmp_path / "v.dicom", heights))


@pytest.mark.parametrize("step", [0.625, 1 / 3, 0.7, 3.3])
def test_rounded_positions_lie_on_their_grid_also_with_gaps(step: float, tmp_path: Path) -> None:
    places = [0, 1, 2, 5, 6, 9, 40]
    heights = [round(place * step, 2) for place in places]
    volume = read(placed_at(tmp_path / "v.dicom", heights))
    assert np.flatnonzero(~np.isnan(volume.values[:, 0, 0, 0])).tolist() == places
    assert volume.spacing[0] == pytest.approx(step, rel=1e-3)  # type: ignore[index]


def located_at(folder: Path, locations: list[float]) -> Path:
    for file, location in zip(series(folder, example(len(locations))), locations, strict=True):
        edit(file, ImagePositionPatient=None, SliceLocation=location, ImagesInAcquisition=None)
    return folder


@pytest.mark.parametrize(
    ("locations", "order", "step"),
    [
        ([4, 0, 2], [1, 2, 0], 2),
        ([-6, -2, -4], [0, 2, 1], 2),
        ([9, 0, 3, 15, 6], [1, 2, 4, 0, None, 3], 3),  # one lost
        ([0, 4, 10], [0, 1, 2], None),  # on no regular grid
        ([4, 4, 4], [0, 1, 2], 2.5),  # says nothing: by number
        ([4, 0, 4], [0, 1, 2], 2.5),
    ],
)
def test_slices_without_a_position_lie_where_their_location_says(
    locations: list[float], order: list[int | None], step: float | None, tmp_path: Path
) -> None:
    folder = located_at(tmp_path / "v.dicom", locations)
    values = [pydicom.dcmread(file).pixel_array for file in sorted(folder.glob("*.dcm"))]
    volume = read(folder)
    assert volume.spacing == (None if step is None else pytest.approx((step, 0.5, 0.75)))
    wanted = [np.full((4, 5), np.nan) if i is None else values[i] for i in order]
    assert np.array_equal(volume.values[..., 0], np.array(wanted, np.float32), equal_nan=True)


def test_every_second_slice_lost_is_found_where_number_and_distance_agree(tmp_path: Path) -> None:
    files = series(tmp_path / "v.dicom", example(7))
    for file in files[1::2]:
        file.unlink()
    assert np.isnan(read(tmp_path / "v.dicom").values[1::2]).all()
    assert read(tmp_path / "v.dicom").shape == (7, 4, 5, 1)


def test_without_a_stated_number_of_images_the_ends_are_unknown(tmp_path: Path) -> None:
    files = series(tmp_path / "v.dicom")
    for file in files:
        edit(file, ImagesInAcquisition=None)
    files[0].unlink()
    volume = read(tmp_path / "v.dicom")
    assert volume.shape == (5, 4, 5, 1)
    assert volume.missing_rate == 0


def test_padding_is_missing_before_the_rescale(tmp_path: Path) -> None:
    files = series(tmp_path / "v.dicom")
    edit(files[2], RescaleSlope=2, RescaleIntercept=-7)
    ds = pydicom.dcmread(files[2])
    stored = ds.pixel_array.copy()
    stored[0, :3] = (-2000, -1999, -1998)
    ds.PixelData = stored.tobytes()
    ds.add_new("PixelPaddingValue", "SS", -2000)
    ds.add_new("PixelPaddingRangeLimit", "SS", -1999)
    ds.save_as(files[2])
    values = read(tmp_path / "v.dicom").values[2, ..., 0]
    assert np.isnan(values[0, :2]).all()
    assert values[0, 2] == -1998 * 2 - 7
    assert np.array_equal(values[1:], stored[1:] * 2 - 7)


def test_padding_written_unsigned_for_signed_pixels(tmp_path: Path) -> None:
    files = series(tmp_path / "v.dicom", Volume(np.full((2, 2, 2), -2000.0), AFFINE))
    for file in files:
        ds = pydicom.dcmread(file)
        ds.add_new("PixelPaddingValue", "US", 2**16 - 2000)
        ds.save_as(file)
    assert np.isnan(read(tmp_path / "v.dicom").values).all()


def test_air_outside_the_scanned_circle_is_a_missing_value(tmp_path: Path) -> None:
    volume = example()
    volume.values[:, 0] = -3024
    series(tmp_path / "v.dicom", volume)
    assert np.isnan(read(tmp_path / "v.dicom", missing_values=[-3024]).values[:, 0]).all()
    assert read(tmp_path / "v.dicom").missing_rate == 0


def test_mixed_series_are_told_apart(tmp_path: Path) -> None:
    first, second = example(), example(3)
    series(tmp_path / "all.dicom", first)
    files = series(tmp_path / "other.dicom", second)
    for file in files:
        edit(file, SeriesNumber=2, SeriesDescription="T1 axial")
        shutil.copy(file, tmp_path / "all.dicom" / f"other-{file.name}")
    path = tmp_path / "all.dicom"
    (path / "README.txt").write_text("no image")
    with pytest.raises(VoxgapError, match=r"2 series: 1 = channel_0 \(6 images\), 2 = T1 axial \(3 images\)"):
        read(path)
    uid = pydicom.dcmread(files[0]).SeriesInstanceUID
    for item in ("2", "T1 axial", uid):
        assert np.array_equal(read(path, item=item).values, second.values)
    assert np.array_equal(read(f"{path}::1").values, first.values)
    for item in ("3", "0", "T2"):
        with pytest.raises(VoxgapError, match="no series is"):
            read(path, item=item)


def test_echoes_and_scouts_in_one_series_are_told_apart(tmp_path: Path) -> None:
    files = series(tmp_path / "v.dicom")
    for number, file in enumerate(files):
        copy = file.with_name(f"echo-{file.name}")
        shutil.copy(file, copy)
        edit(copy, EchoNumbers=2, SOPInstanceUID=f"1.2.3.{number}")
        edit(file, EchoNumbers=1)
    with pytest.raises(VoxgapError, match=r"2 series: .*\(6 images\), .*\(6 images\)"):
        read(tmp_path / "v.dicom")
    assert read(tmp_path / "v.dicom", item="2").shape == (6, 4, 5, 1)
    scout = tmp_path / "v.dicom" / "scout.dcm"
    shutil.copy(files[0], scout)
    edit(scout, ImageOrientationPatient=[0, 1, 0, 0, 0, -1], SOPInstanceUID="1.2.3.99")
    with pytest.raises(VoxgapError, match=r"3 series: .*\(1 image\)"):
        read(tmp_path / "v.dicom")


def test_a_copy_of_a_slice_counts_once_and_an_odd_one_is_named(tmp_path: Path) -> None:
    files = series(tmp_path / "v.dicom")
    shutil.copy(files[2], tmp_path / "v.dicom" / "copy.dcm")
    assert read(tmp_path / "v.dicom").shape == (6, 4, 5, 1)
    edit(tmp_path / "v.dicom" / "copy.dcm", SOPInstanceUID="1.2.3")
    assert read(tmp_path / "v.dicom").shape == (6, 4, 5, 1)
    edit(tmp_path / "v.dicom" / "copy.dcm", PixelData=pydicom.dcmread(files[3]).PixelData)
    with pytest.raises(VoxgapError, match="lie at one place"):
        read(tmp_path / "v.dicom")
    (tmp_path / "v.dicom" / "copy.dcm").unlink()
    edit(files[2], ImagePositionPatient=[10, -20, -30 + 2.5 * 2 + 0.9])
    with pytest.raises(VoxgapError, match="on no regular grid"):
        read(tmp_path / "v.dicom")


def test_a_tilted_gantry_shears_the_affine(tmp_path: Path) -> None:
    files = series(tmp_path / "v.dicom")
    for index, file in enumerate(files):
        x, y, z = pydicom.dcmread(file).ImagePositionPatient
        edit(file, ImagePositionPatient=[x, y + 0.7 * index, z])
    affine = read(tmp_path / "v.dicom").affine
    assert affine is not None
    assert np.allclose(affine[:3, 0], (0, -0.7, 2.5))


@pytest.mark.parametrize(
    "name",
    [
        "CT_small.dcm",
        "MR_small.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_RLE.dcm",
        "MR_small_implicit.dcm",
        "image_dfl.dcm",
        "JPEG2000.dcm",
        "MR_small_jp2klossless.dcm",
        "SC_rgb_jpeg_dcmtk.dcm",
        "SC_rgb_small_odd.dcm",
        "SC_rgb_small_odd_big_endian.dcm",
        "rtdose.dcm",
        "rtdose_rle.dcm",
    ],
)
def test_files_of_pydicom_have_the_values_of_simpleitk(name: str) -> None:
    path = Path(str(get_testdata_file(name, download=False)))
    volume = read(path)
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(np.float32)
    if name.startswith("rtdose"):
        image *= float(pydicom.dcmread(path).DoseGridScaling)  # SimpleITK leaves doses as counts.
    if volume.affine is not None:
        # Turned to canonical orientation: to the front and up, by what the position of its corner says.
        turned = np.linalg.inv(volume.affine) @ [*(np.array(position(path)) * TO_LPS), 1]
        flips = tuple(axis for axis in range(3) if turned[axis] > 1e-3)
        image = np.flip(image.reshape(volume.shape), flips)
    # Air outside the scanned circle is padding, which SimpleITK takes for a value.
    wanted = np.where(np.isnan(volume.values), np.nan, image.reshape(volume.shape))
    assert np.allclose(volume.values, wanted, rtol=1e-6, equal_nan=True)
    assert volume.missing_rate < 0.5


def position(path: Path) -> list[float]:
    return [float(place) for place in pydicom.dcmread(path).ImagePositionPatient]


def test_a_folder_of_series_is_a_volume_and_others_are_not(tmp_path: Path) -> None:
    series(tmp_path / "v.dicom")
    assert is_volume(tmp_path / "v.dicom")
    (tmp_path / "empty").mkdir()
    assert not is_volume(tmp_path / "empty")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("x")
    assert not is_volume(tmp_path / "text")
    with pytest.raises(VoxgapError, match="folder without DICOM"):
        read(tmp_path / "text")


def test_links_that_go_in_circles_are_not_followed(tmp_path: Path) -> None:
    series(tmp_path / "v.dicom")
    (tmp_path / "v.dicom" / "loop").symlink_to(tmp_path / "v.dicom")
    (tmp_path / "v.dicom" / "self").symlink_to("self")
    assert read(tmp_path / "v.dicom").shape == (6, 4, 5, 1)


def test_a_region_decodes_its_slices_only(tmp_path: Path) -> None:
    files = series(tmp_path / "v.dicom")
    whole = read(tmp_path / "v.dicom").values
    source = scan(tmp_path / "v.dicom")
    for file in files[3:]:
        file.write_bytes(b"damaged after the scan")
    assert np.array_equal(source.read([(0, 3), (1, 3)]).values, whole[:3, 1:3])
    with pytest.raises(VoxgapError):
        source.read()


def test_files_that_lie(tmp_path: Path) -> None:
    file = series(tmp_path / "v.dicom")[0]
    good = file.read_bytes()
    path = tmp_path / "bad.dcm"
    for content, words in [
        (good[:200], "no image|can't be read"),
        (good[:-10], "can't be|claims"),
        (b"\0" * 500, "not a DICOM file"),
        (
            good.replace(b"\x28\x00\x10\x00US\x02\x00\x04\x00", b"\x28\x00\x10\x00US\x02\x00\xff\xff"),
            "more than it can",
        ),
    ]:
        path.write_bytes(content)
        with pytest.raises(VoxgapError, match=words):
            read(path)
    edit(file, NumberOfFrames=10**6)
    with pytest.raises(VoxgapError, match="claims 1000000 frames"):
        read(file)
    with pytest.raises(VoxgapError, match="no image"):
        read(Path(str(get_testdata_file("rtplan.dcm"))))


def test_a_deflated_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_files, "MAX_HEADER", 2**24)
    packer = zlib.compressobj(9, wbits=-15)
    body = b"".join(packer.compress(bytes(2**20)) for _ in range(20)) + packer.flush()
    uid = b"1.2.840.10008.1.2.1.99"
    meta = struct.pack("<HH2sH", 2, 0x10, b"UI", len(uid)) + uid
    head = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(meta))
    (tmp_path / "v.dcm").write_bytes(bytes(128) + b"DICM" + head + meta + body)
    with pytest.raises(VoxgapError, match="expands beyond 16 MiB"):
        read(tmp_path / "v.dcm")


def test_what_a_series_cannot_hold(tmp_path: Path) -> None:
    sheared = AFFINE.copy()
    sheared[0, 1] = 0.3
    for volume, words in [
        (Volume(np.zeros((2, 2, 2, 2))), "one channel"),
        (Volume(np.full((2, 2, 2), np.nan)), "no voxel is observed"),
        (Volume(np.zeros((2, 2, 2)), sheared), "right angles"),
    ]:
        with pytest.raises(VoxgapError, match=words):
            write(tmp_path / "v.dicom", volume)
    assert not list(tmp_path.iterdir())


def test_values_too_far_apart_for_16_bits_are_refused(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 20, 20)).astype(np.float32)
    far = values.copy()
    far[1, 2, 3] = 1e30
    with pytest.raises(VoxgapError, match=r"v\.dicom: .* too coarse .* write \.nii\.gz"):
        write(tmp_path / "v.dicom", Volume(far))
    assert not list(tmp_path.iterdir())
    sparse = np.zeros((3, 20, 20), np.float32)
    sparse[1, 2:5] = 0.25 + values[0, :3]  # Most of it is one value, and what differs is kept.
    for fine in (values, sparse, np.full((2, 3, 4), 0.5, np.float32)):
        write(tmp_path / "w.dicom", Volume(fine))
        assert np.abs(read(tmp_path / "w.dicom").values[..., 0] - fine).max() < 1e-4


def test_an_error_names_the_folder_that_was_asked_for(tmp_path: Path) -> None:
    for suffix, volume in (
        (".dicom", Volume(np.zeros((2, 2, 2, 2)))),
        (".dicom", Volume(np.full((2, 2, 2), np.nan))),
    ):
        path = tmp_path / f"v{suffix}"
        with pytest.raises(VoxgapError) as caught:
            write(path, volume)
        assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("spacing", [[0, 0], None])
def test_pixels_of_no_size_have_no_spacing_but_lie_as_they_do(
    spacing: list[int] | None, tmp_path: Path
) -> None:
    files = series(tmp_path / "v.dicom")
    wanted = read(tmp_path / "v.dicom")
    for file in files:
        edit(file, PixelSpacing=spacing)
    volume = read(tmp_path / "v.dicom")
    assert (volume.spacing, volume.affine) == (None, None)
    assert np.array_equal(volume.values, wanted.values)


def test_a_jump_of_hundreds_of_slices_is_no_gap(tmp_path: Path) -> None:
    files = series(tmp_path / "v.dicom")
    for steps, refused in ((90, False), (800, True)):
        place = position(files[-2])
        edit(files[-1], ImagePositionPatient=[*place[:2], place[2] + steps * 2.5])
        if refused:
            with pytest.raises(VoxgapError, match=r"lie 800 slices of 2\.5 mm apart; repair"):
                read(tmp_path / "v.dicom")
        else:
            assert read(tmp_path / "v.dicom").shape[0] == 5 + steps


def test_a_foreign_folder_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "v.dicom").mkdir()
    (tmp_path / "v.dicom" / "mine.txt").write_text("keep")
    with pytest.raises(VoxgapError, match="not written by voxgap"):
        write(tmp_path / "v.dicom", example())
    assert (tmp_path / "v.dicom" / "mine.txt").read_text() == "keep"
    series(tmp_path / "w.dicom", example(3))
    series(tmp_path / "w.dicom", example(2))
    assert read(tmp_path / "w.dicom").shape[0] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v.dicom", "w.dicom"]
