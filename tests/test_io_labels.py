"""Label maps in every format that is written: whole numbers of the smallest type, on the scan's own grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
import xarray
import zarr

from voxgap.errors import VoxgapError
from voxgap.io import FORMATS, label_suffix, read, scan, write
from voxgap.volume import Volume

SHAPE = (4, 5, 6)
AFFINE = np.array([[0, 0.2, 1.5, -10], [0, -2.0, 0.1, 20], [3, 0, 0, 30], [0, 0, 0, 1]])


def drawn(highest: int = 2, lowest: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 2, shape) * highest
    values[0, 0, :2] = lowest, highest
    return values


def stored(path: Path) -> np.ndarray:
    """The array as the format's own library reads it."""
    name = path.name
    if name.endswith((".nii", ".nii.gz")):
        return np.asanyarray(nibabel.load(path).dataobj).T
    if name.endswith((".mha", ".nrrd")):
        return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    if name.endswith((".tif", ".tiff")):
        return tifffile.imread(path)
    if name.endswith((".h5", ".hdf5")):
        with h5py.File(path) as file:
            return file["values"][...]
    if name.endswith(".zarr"):
        group = zarr.open(path, mode="r")
        return np.asarray(group["0" if "0" in group else "values"][...])
    if name.endswith((".nc", ".nc4")):
        with xarray.open_dataset(path) as data:
            return data["label"].values
    if name.endswith(".npz"):
        return np.load(path)["values"]
    return np.load(path)


WRITTEN = sorted(name for name, form in FORMATS.items() if form.labels and name not in (".mkv", ".dicom"))


@pytest.mark.parametrize("suffix", WRITTEN)
@pytest.mark.parametrize(
    ("lowest", "highest", "dtype"),
    [(0, 2, "uint8"), (0, 255, "uint8"), (-1, 2, "int8"), (-1, 255, "int16"), (0, 256, "int16")],
)
def test_every_format_holds_label_maps_in_the_smallest_type(
    suffix: str, lowest: int, highest: int, dtype: str, tmp_path: Path
) -> None:
    values, path = drawn(highest, lowest), tmp_path / f"a{suffix}"
    write(path, Volume(values, AFFINE, channels=("label",)), labels=True)
    found = stored(path)
    assert found.dtype.newbyteorder("=") == dtype
    np.testing.assert_array_equal(found.squeeze(), values)
    again = read(path)
    assert again.missing_rate == 0
    np.testing.assert_array_equal(np.sort(again.values, axis=None), np.sort(values, axis=None))
    if suffix not in (".npy", ".nc", ".nc4") and again.affine is not None:
        # Each voxel lies where it did, however its axes are turned.
        where = np.argwhere(values == highest) @ AFFINE[:3, :3].T + AFFINE[:3, 3]
        back = np.argwhere(again.values[..., 0] == highest) @ again.affine[:3, :3].T + again.affine[:3, 3]
        np.testing.assert_allclose(np.sort(where, axis=0), np.sort(back, axis=0), atol=1e-4)


def test_dicom_and_clips_hold_what_they_can(tmp_path: Path) -> None:
    labels = Volume(drawn(255), channels=("label",))
    write(tmp_path / "a.dicom", labels, labels=True)
    slices = sorted(
        (pydicom.dcmread(file) for file in (tmp_path / "a.dicom").glob("[!.]*")),
        key=lambda s: s.InstanceNumber,
    )
    assert slices[0].BitsAllocated == 16
    np.testing.assert_array_equal(
        [s.pixel_array * float(s.RescaleSlope) + float(s.RescaleIntercept) for s in slices], drawn(255)
    )
    clip = Volume(drawn(255, shape=(3, 16, 16)), channels=("label",), axes=("time", "height", "width"))
    write(tmp_path / "a.mkv", clip, labels=True)
    np.testing.assert_array_equal(read(tmp_path / "a.mkv").values, clip.values)
    with pytest.raises(VoxgapError, match="whole numbers from 0 to 255"):
        write(tmp_path / "b.mkv", Volume(drawn(2, -1), channels=("label",)), labels=True)
    assert not (tmp_path / "b.mkv").exists()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.full(SHAPE, 0.5), "holds whole numbers"),
        (np.full(SHAPE, np.nan), "no missing voxels; give them a number"),
        (np.zeros((*SHAPE, 2)), "one channel, not 2"),
        (np.full(SHAPE, 1e10), "beyond 32 bits"),
    ],
)
def test_what_is_no_label_map_is_refused(values: np.ndarray, said: str, tmp_path: Path) -> None:
    with pytest.raises(VoxgapError, match=said):
        write(tmp_path / "a.nii", Volume(values), labels=True)
    assert list(tmp_path.iterdir()) == []


def labelled(path: Path, target: Path, **options: Any) -> np.ndarray:
    """Write a label map like a scan whose values are its own numbers; the map is 1 where they are even."""
    volume = read(path, **options)
    even = volume.values[..., :1] % 2 == 0
    labels = Volume(even, volume.affine, volume.spacing, ("label",), axes=volume.axes)
    write(target, labels, like=scan(path, **options), labels=True)
    again = read(target, **options)
    np.testing.assert_array_equal(again.values, even)
    assert again.axes == volume.axes
    for one, other in ((again.affine, volume.affine), (again.spacing, volume.spacing)):
        assert (one is None) == (other is None)
        assert one is None or np.allclose(one, other, atol=1e-5)
    return stored(target)


NUMBERS = np.random.default_rng(1).permutation(120).reshape(SHAPE)


@pytest.mark.parametrize("channels", [0, 1, 3])
@pytest.mark.parametrize(
    ("suffix", "target"), [(".nii", ".nii.gz"), (".nii.gz", ".nii.gz"), (".hdr", ".nii.gz")]
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_nifti_says_where_it_lies_as_the_scan_does(
    order: str, suffix: str, target: str, channels: int, tmp_path: Path
) -> None:
    data = NUMBERS.T.astype(order + "i2")
    data = np.stack([data] * channels, axis=-1) if channels else data
    header = (
        nibabel.Nifti1Header(endianness=order)
        if suffix != ".hdr"
        else nibabel.nifti1.Nifti1PairHeader(endianness=order)
    )
    header.set_xyzt_units("micron", "sec")
    header.set_data_dtype(np.dtype(order + "i2"))
    header["descrip"], header["slice_code"], header["cal_max"] = b"a scan", 3, 119
    turned = AFFINE[:, [2, 1, 0, 3]] * [-1, 1, 1, 1]
    image = (nibabel.Nifti1Image if suffix != ".hdr" else nibabel.Nifti1Pair)(data, turned, header)
    image.set_sform(turned, code=4)
    image.set_qform(np.diag([1.5, 2, 3, 1]), code=1)
    nibabel.save(image, tmp_path / f"a{suffix}")
    found = labelled(tmp_path / f"a{suffix}", tmp_path / f"b{target}")
    assert found.dtype.newbyteorder("=") == np.uint8
    np.testing.assert_array_equal(found.reshape(SHAPE), NUMBERS % 2 == 0)
    image, labels = nibabel.load(tmp_path / f"a{suffix}"), nibabel.load(tmp_path / f"b{target}")
    np.testing.assert_array_equal(labels.affine, image.affine)
    for name in (
        "qform_code",
        "sform_code",
        "xyzt_units",
        "descrip",
        "slice_code",
        "srow_x",
        "quatern_b",
        "qoffset_x",
    ):
        np.testing.assert_array_equal(labels.header[name], image.header[name], name)
    np.testing.assert_array_equal(labels.header["pixdim"][:4], image.header["pixdim"][:4])
    np.testing.assert_array_equal(labels.get_qform(), image.get_qform())
    assert labels.shape == (image.shape if channels < 2 else image.shape[:3])
    assert labels.header.get_data_dtype() == np.uint8
    assert labels.header.get_intent()[0] == "label"
    assert (labels.header["cal_max"], labels.header.endianness) == (0, image.header.endianness)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("suffix", "target"), [(".nrrd", ".nrrd"), (".mha", ".mha"), (".mhd", ".mha"), (".nhdr", ".nrrd")]
)
def test_itk_finds_the_map_on_the_grid_of_the_scan(
    suffix: str, target: str, channels: int, tmp_path: Path
) -> None:
    values = NUMBERS.astype(np.int16)
    image = sitk.GetImageFromArray(
        np.stack([values] * channels, -1) if channels > 1 else values, isVector=channels > 1
    )
    image.SetSpacing((0.5, 0.75, 3))
    image.SetOrigin((-10, 20, 30))
    turn = np.deg2rad(10)
    image.SetDirection([-np.cos(turn), np.sin(turn), 0, np.sin(turn), np.cos(turn), 0, 0, 0, -1])
    image.SetMetaData("modality", "MR of a knee")
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    found = labelled(tmp_path / f"a{suffix}", tmp_path / f"b{target}")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, values % 2 == 0)
    labels = sitk.ReadImage(str(tmp_path / f"b{target}"))
    assert labels.GetSize() == image.GetSize()
    assert labels.GetNumberOfComponentsPerPixel() == 1
    for one, other in (
        (labels.GetSpacing(), image.GetSpacing()),
        (labels.GetOrigin(), image.GetOrigin()),
        (labels.GetDirection(), image.GetDirection()),
    ):
        np.testing.assert_allclose(one, other, atol=1e-9)
    assert channels > 1 or labels.GetMetaData("modality") == "MR of a knee"
    # What ITK refuses where grids differ.
    sitk.Mask(sitk.VectorIndexSelectionCast(image, 0) if channels > 1 else image, labels)


@pytest.mark.parametrize("suffix", [".nc", ".h5", ".zarr2", ".zarr3"])
def test_coordinates_that_fall_stay_as_they_are(suffix: str, tmp_path: Path) -> None:
    lat, lon = np.linspace(10, -10, 5), np.arange(0.0, 12, 2)
    data = xarray.Dataset(
        {"sst": (("time", "lat", "lon"), NUMBERS.astype(np.float32), {"units": "degC"})},
        coords={
            "time": ("time", np.arange(4.0), {"units": "days since 2000-01-01"}),
            "lat": ("lat", lat, {"units": "degrees_north"}),
            "lon": ("lon", lon, {"units": "degrees_east"}),
        },
    )
    path, target = tmp_path / f"a{suffix[:5]}", tmp_path / f"b{suffix[:5]}"
    if suffix.startswith(".zarr"):
        data.to_zarr(path, zarr_format=int(suffix[5:]), consolidated=False)
    else:
        data.to_netcdf(path, engine="h5netcdf")
    assert read(path).values[0, 0, 0, 0] == NUMBERS[0, -1, 0], "voxgap reads latitudes ascending"
    found = labelled(path, target)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found.reshape(SHAPE), NUMBERS % 2 == 0)
    if suffix == ".h5":
        with h5py.File(target) as file:
            np.testing.assert_array_equal(file["values"].dims[1][0][...], lat)
        return
    opened = xarray.open_zarr(target, consolidated=False) if "zarr" in suffix else xarray.open_dataset(target)
    with opened as labels, xarray.open_dataset(tmp_path / "a.nc") if suffix == ".nc" else data as before:
        held = labels["label" if suffix == ".nc" else "values"]
        assert held.dims == ("time", "lat", "lon")
        np.testing.assert_array_equal(labels.lat, lat)
        np.testing.assert_array_equal(labels.lon, before.lon)
        assert held.dtype == np.uint8


def test_axes_that_are_named_by_the_user_stay_in_the_order_of_the_file(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", NUMBERS.T)
    found = labelled(tmp_path / "a.npy", tmp_path / "b.npy", axes=(2, 1, 0))
    np.testing.assert_array_equal(found[..., 0], NUMBERS.T % 2 == 0)
    channels_first = np.stack([NUMBERS] * 9)
    np.save(tmp_path / "c.npy", channels_first)
    volume = read(tmp_path / "c.npy", axes=(3, 2, 1, 0))
    write(
        tmp_path / "d.npy",
        Volume(volume.values[..., 0] % 2 == 0, channels=("label",)),
        like=scan(tmp_path / "c.npy", axes=(3, 2, 1, 0)),
        labels=True,
    )
    np.testing.assert_array_equal(np.load(tmp_path / "d.npy")[..., 0], NUMBERS % 2 == 0)


def test_the_format_of_a_map_is_that_of_the_scan_where_it_can_be(tmp_path: Path) -> None:
    wanted = {".hdr": ".nii.gz", ".hdr.gz": ".nii.gz", ".nhdr": ".nrrd", ".mhd": ".mha", ".nii": ".nii"}
    for suffix, form in FORMATS.items():
        found = label_suffix(Path(f"scan{suffix}"))
        assert FORMATS[found].labels
        own = form.labels and suffix not in (".mkv", ".dicom")
        assert found == wanted.get(suffix, suffix if own else ".nii.gz"), suffix
    write(tmp_path / "a.dicom", Volume(NUMBERS))
    assert label_suffix(tmp_path / "a.dicom") == ".nii.gz"
    series = read(tmp_path / "a.dicom")
    write(tmp_path / "b.nii", Volume(NUMBERS, series.affine), like=tmp_path / "a.dicom", labels=True)
    np.testing.assert_allclose(read(tmp_path / "b.nii").affine, series.affine)


def test_the_map_of_an_ome_image_is_a_label_image_that_names_it(tmp_path: Path) -> None:
    write(tmp_path / "in" / "ct.zarr", Volume(NUMBERS[..., None], spacing=(3.0, 2.0, 1.0)))
    write(
        tmp_path / "maps" / "ct.zarr",
        Volume(NUMBERS[..., None] * 0 + 2, spacing=(3.0, 2.0, 1.0)),
        like=tmp_path / "in" / "ct.zarr",
        labels=True,
    )
    label, image = (zarr.open_group(tmp_path / folder / "ct.zarr", mode="r") for folder in ("maps", "in"))
    said = label.attrs["ome"]["image-label"]
    assert said["version"] == label.attrs["ome"]["version"] == "0.5"
    assert (tmp_path / "maps" / "ct.zarr" / said["source"]["image"]).resolve() == tmp_path / "in" / "ct.zarr"
    assert label.attrs["ome"]["multiscales"][0]["axes"] == image.attrs["ome"]["multiscales"][0]["axes"]
    assert label["0"].dtype == np.uint8
    assert label["0"].shape == image["0"].shape
