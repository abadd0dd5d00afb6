"""Files written like another one: what it says beside its values is there again, to independent readers."""

from __future__ import annotations

import gzip
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
import xarray
import zarr
from pydicom.uid import generate_uid

from voxgap.errors import VoxgapError
from voxgap.io import read, write
from voxgap.volume import Volume


def filled(volume: Volume, by: float = 1000.5) -> Volume:
    return Volume(np.where(volume.observed, volume.values, np.float32(by)), volume.affine, volume.spacing)


def again(path: Path, target: Path, item: str = "", **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Read, fill, write like the original; what was observed, and what is read again."""
    volume = read(f"{path}{item}", **options)
    assert 0 < volume.missing_rate < 1
    write(target, filled(volume), like=f"{path}{item}")
    back = read(f"{target}{item}")
    assert back.observed.all()
    assert np.array_equal(back.values[volume.observed], volume.values[volume.observed])
    assert back.axes == volume.axes
    if volume.affine is not None and back.affine is not None:
        assert np.allclose(back.affine, volume.affine)
    assert back.spacing == volume.spacing or np.allclose(back.spacing, volume.spacing)
    return volume.observed, back.values


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["i2", "f4", "f8"])
def test_nifti_keeps_header_extensions_and_orientation(
    order: str, suffix: str, dtype: str, tmp_path: Path
) -> None:
    data = np.random.default_rng(0).integers(1, 99, (6, 5, 4)) * (1 if dtype == "i2" else np.pi)
    data = data.astype(dtype)
    data[2, :3] = 0
    header = nibabel.Nifti1Header(endianness=order)
    header.set_xyzt_units("micron", "sec")
    header["descrip"], header["intent_name"], header["slice_code"] = b"a scan", b"why", 3
    header.set_data_dtype(np.dtype(order + dtype))
    affine = np.array([[0, -2.0, 0, 10], [1.5, 0, 0.1, 20], [0, 0, -3, 30], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(data, affine, header)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"kept"))
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=2)
    path, target = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    path.write_bytes(image.to_bytes() if suffix == ".nii" else gzip.compress(image.to_bytes()))
    again(path, target, missing_values=[0])
    found = nibabel.load(target)
    for name in ("descrip", "intent_name", "slice_code", "xyzt_units", "qform_code", "sform_code", "pixdim"):
        assert np.array_equal(found.header[name], image.header[name]), name
    assert found.header.endianness == order
    assert found.header.extensions[0].get_content().rstrip(b"\0") == b"kept"
    assert np.array_equal(found.affine, image.affine)
    values = np.asanyarray(found.dataobj)
    assert values.dtype.newbyteorder("=") == (np.float64 if dtype == "f8" else np.float32)
    wanted = np.where(data == 0, 1000.5, data)
    assert np.array_equal(values, wanted)  # in the file's own order, and its own precision


def test_scaled_integers_lose_their_scale(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.diag([1, 2, 3, 1]))
    image.header.set_slope_inter(0.5, 7)
    path = tmp_path / "a.nii"
    path.write_bytes(image.to_bytes())
    volume = read(path)
    write(tmp_path / "b.nii", volume, like=path)
    assert np.array_equal(nibabel.load(tmp_path / "b.nii").get_fdata(), nibabel.load(path).get_fdata())


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("kind", [sitk.sitkInt16, sitk.sitkFloat64])
def test_nrrd_and_metaimage_keep_fields_and_geometry(
    suffix: str, kind: int, compressed: bool, tmp_path: Path
) -> None:
    values = np.random.default_rng(0).integers(1, 99, (4, 5, 6))
    values[1] = 0
    image = sitk.Cast(sitk.GetImageFromArray(values), kind)
    image.SetSpacing((0.5, 0.75, 3))
    image.SetOrigin((-10, 20, 30))
    turn = np.deg2rad(10)
    image.SetDirection([-np.cos(turn), np.sin(turn), 0, np.sin(turn), np.cos(turn), 0, 0, 0, -1])
    image.SetMetaData("modality", "MR of a knee")
    path, target = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    sitk.WriteImage(image, str(path), compressed)
    again(path, target, missing_values=[0])
    found = sitk.ReadImage(str(target))
    for one, other in (
        (found.GetSpacing(), image.GetSpacing()),
        (found.GetOrigin(), image.GetOrigin()),
        (found.GetDirection(), image.GetDirection()),
    ):
        assert np.allclose(one, other)
    assert found.GetMetaData("modality") == "MR of a knee"
    assert np.array_equal(sitk.GetArrayFromImage(found), np.where(values == 0, 1000.5, values))


def sea(path: Path, engine: str, packed: bool) -> xarray.Dataset:
    rng = np.random.default_rng(0)
    sst = rng.normal(15, 2, (4, 5, 6)).round(2)
    sst[1] = sst[2, :2] = np.nan
    data = xarray.Dataset(
        {
            "sst": (("time", "lat", "lon"), sst, {"units": "degC", "long_name": "sea surface temperature"}),
            "depth": (("lat", "lon"), rng.normal(size=(5, 6)), {"units": "m"}),
        },
        coords={
            "time": ("time", np.arange(4.0), {"units": "days since 2000-01-01", "calendar": "standard"}),
            "lat": ("lat", np.linspace(10, -10, 5), {"units": "degrees_north", "standard_name": "latitude"}),
            "lon": ("lon", np.arange(0.0, 12, 2), {"units": "degrees_east"}),
        },
        attrs={"title": "a sea", "history": "made"},
    )
    packing = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 15.0, "_FillValue": -999}
    encoding = {"sst": packing if packed else {"_FillValue": 1e20}}
    form = "NETCDF3_CLASSIC" if engine == "scipy" else "NETCDF4"
    data.to_netcdf(path, engine=engine, format=form, encoding=encoding)
    return data


@pytest.mark.parametrize("engine", ["scipy", "h5netcdf", "netcdf4"])
@pytest.mark.parametrize("packed", [False, True])
def test_netcdf_keeps_coordinates_attributes_and_units(engine: str, packed: bool, tmp_path: Path) -> None:
    path, target = tmp_path / "a.nc", tmp_path / "b.nc"
    sea(path, engine, packed)
    observed, _ = again(path, target)
    with xarray.open_dataset(path) as before, xarray.open_dataset(target) as after:
        assert before.attrs == after.attrs
        assert set(before.variables) == set(after.variables)
        for name in before.variables:
            assert before[name].attrs == after[name].attrs, name
            assert before[name].dims == after[name].dims
            if name != "sst":
                xarray.testing.assert_identical(before[name], after[name])
        old, new = before["sst"].values, after["sst"].values
    assert not np.isnan(new).any()
    assert (new[np.isnan(old)] == 1000.5).all()
    there = ~np.isnan(old)
    assert np.isnan(old).sum() == (~observed).sum()
    # To the last bit of the file's own precision, and packed values to that of float32.
    assert np.array_equal(new[there], old[there]) or (
        packed and np.allclose(new[there], old[there], rtol=1e-6)
    )
    with netCDF4.Dataset(target) as file:
        assert file["sst"].dimensions == ("time", "lat", "lon")
        assert file["lat"][:].tolist() == [10, 5, 0, -5, -10]  # not turned


def test_what_is_still_missing_keeps_its_sentinel(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    sea(path, "h5netcdf", True)
    volume = read(path)
    write(tmp_path / "b.nc", volume, like=path)
    before, after = (xarray.load_dataset(tmp_path / name, decode_cf=False) for name in ("a.nc", "b.nc"))
    xarray.testing.assert_identical(before, after)


@pytest.mark.parametrize("engine", ["scipy", "h5netcdf", "netcdf4"])
def test_netcdf_variables_that_are_channels_stay_in_their_order(engine: str, tmp_path: Path) -> None:
    path, target = tmp_path / "a.nc", tmp_path / "b.nc"
    data = sea(path, engine, True).drop_vars("depth").assign(wind=lambda found: found.sst * 2)
    packing = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 273.15, "_FillValue": -999}
    form = "NETCDF3_CLASSIC" if engine == "scipy" else "NETCDF4"
    data.to_netcdf(path, engine=engine, format=form, encoding={"sst": packing, "wind": {"_FillValue": 1e20}})
    again(path, target)  # the packed one is stored anew, the other in its place
    assert read(target).channels == read(path).channels == ("sst", "wind")
    with xarray.open_dataset(path) as before, xarray.open_dataset(target) as after:
        assert list(before.data_vars) == list(after.data_vars)
        there = ~np.isnan(before.wind.values)
        assert np.array_equal(before.wind.values[there], after.wind.values[there])
        assert np.array_equal(before.sst.values.astype("f4")[there], after.sst.values[there])


@pytest.mark.parametrize("form", [2, 3])
def test_zarr_keeps_the_coordinates_beside_a_packed_volume(form: int, tmp_path: Path) -> None:
    path, target = tmp_path / "a.zarr", tmp_path / "b.zarr"
    data = sea(tmp_path / "a.nc", "scipy", False)
    packing = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 273.15, "_FillValue": -999}
    data.to_zarr(path, zarr_format=form, encoding={"sst": packing}, consolidated=False)
    again(path, target)
    with (
        xarray.open_zarr(path, consolidated=False) as before,
        xarray.open_zarr(target, consolidated=False) as after,
    ):
        for name in ("time", "lat", "lon", "depth"):
            xarray.testing.assert_identical(before[name], after[name])
        there = ~np.isnan(before.sst.values)
        assert np.array_equal(before.sst.values.astype("f4")[there], after.sst.values[there])


@pytest.mark.parametrize("dtype", ["f8", "i2"])
def test_hdf5_keeps_everything_else(dtype: str, tmp_path: Path) -> None:
    path, target = tmp_path / "a.h5", tmp_path / "b.h5"
    values = np.random.default_rng(0).integers(1, 99, (3, 4, 5)).astype(dtype)
    values[1] = -1
    with h5py.File(path, "w") as file:
        file.attrs["who"] = "me"
        file["positions/z"] = np.arange(3.0)
        file["positions/z"].make_scale("z")
        image = file.create_dataset("images/ct", data=values, chunks=(1, 4, 5), compression="gzip")
        image.attrs["unit"], image.attrs["_FillValue"] = "HU", np.array(-1, dtype)
        image.dims[0].attach_scale(file["positions/z"])
        image.dims[0].label = "depth"
        file["other"] = [1, 2, 3]
    again(path, target, "::images/ct")
    with h5py.File(target) as file:
        assert file.attrs["who"] == "me"
        assert file["other"][:].tolist() == [1, 2, 3]
        image = file["images/ct"]
        assert image.attrs["unit"] == "HU"
        assert image.dims[0].label == "depth"
        assert image.dims[0][0][:].tolist() == [0, 1, 2]
        assert (image.chunks, image.compression) == ((1, 4, 5), "gzip")
        assert np.array_equal(image[:], np.where(values == -1, 1000.5, values))


@pytest.mark.parametrize("form", [2, 3])
def test_zarr_keeps_attributes_and_chunks(form: int, tmp_path: Path) -> None:
    path, target = tmp_path / "a.zarr", tmp_path / "b.zarr"
    values = np.random.default_rng(0).normal(size=(4, 6, 5))
    values[1] = np.nan
    names = {"dimension_names": ("z", "y", "x")} if form == 3 else {}
    array = zarr.create_array(
        str(path), shape=values.shape, chunks=(2, 3, 5), dtype="f8", zarr_format=form,
        attributes={"unit": "K", "nested": {"a": [1, 2]}}, **names,
    )  # fmt: skip
    array[...] = values
    again(path, target)
    found = zarr.open(str(target), mode="r")
    assert dict(found.attrs) == {"unit": "K", "nested": {"a": [1, 2]}}
    assert found.chunks == (2, 3, 5)
    assert found.metadata.zarr_format == form
    assert np.array_equal(found[...], np.where(np.isnan(values), 1000.5, values))


def test_ome_zarr_keeps_its_header(tmp_path: Path) -> None:
    path, target = tmp_path / "a.zarr", tmp_path / "b.zarr"
    values = np.random.default_rng(0).integers(1, 99, (2, 4, 6, 5)).astype("u2")
    values[1, 2] = 0
    axes = [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]
    levels = [
        {
            "path": str(i),
            "coordinateTransformations": [{"type": "scale", "scale": [1, 2, 0.5 * 2**i, 0.5 * 2**i]}],
        }
        for i in range(2)
    ]
    ome = {
        "version": "0.5",
        "multiscales": [
            {"name": "cells", "axes": [{"name": "c", "type": "channel"}, *axes], "datasets": levels}
        ],
        "omero": {"channels": [{"label": "dapi", "color": "0000FF"}, {"label": "gfp", "color": "00FF00"}]},
    }
    group = zarr.create_group(str(path), zarr_format=3, attributes={"ome": ome, "lab": "ours"})
    for level in (0, 1):
        data = values[..., :: 2**level, :: 2**level]
        group.create_array(str(level), shape=data.shape, dtype="u2")[...] = data
    again(path, target, missing_values=[0])
    found = zarr.open(str(target), mode="r")
    assert found.attrs["lab"] == "ours"
    assert found.attrs["ome"]["omero"] == ome["omero"]
    (scale,) = found.attrs["ome"]["multiscales"]
    assert scale["axes"] == ome["multiscales"][0]["axes"]  # type: ignore[index]
    assert scale["datasets"] == levels[:1]
    assert np.array_equal(found["0"][...], np.where(values == 0, np.float32(1000.5), values))


@pytest.mark.parametrize("axes", ["ZCYX", "CZYX", "TZYX", "ZYX"])
def test_ome_tiff_keeps_its_header(axes: str, tmp_path: Path) -> None:
    path, target = tmp_path / "a.ome.tif", tmp_path / "b.ome.tif"
    shape = tuple({"T": 1, "Z": 4, "C": 2, "Y": 6, "X": 5}[axis] for axis in axes)
    values = np.random.default_rng(0).integers(1, 99, shape).astype("u2")
    values[..., 2:4, :] = 0
    metadata: dict[str, Any] = {
        "axes": axes,
        "PhysicalSizeX": 0.5,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": 0.5,
    }
    metadata |= {"PhysicalSizeZ": 2, "Description": "cells"}
    if "C" in axes:
        metadata["Channel"] = {"Name": ["dapi", "gfp"], "EmissionWavelength": [450, 510]}
    tifffile.imwrite(path, values, metadata=metadata, photometric="minisblack")
    again(path, target, missing_values=[0])
    with tifffile.TiffFile(path) as before, tifffile.TiffFile(target) as after:
        assert after.is_ome
        one, other = (tifffile.xml2dict(f.ome_metadata)["OME"]["Image"] for f in (before, after))
        for name in ("Description", "Name", "AcquisitionDate"):
            assert one.get(name) == other.get(name)
        for header in (one, other):
            for name in ("Type", "TiffData", "BigEndian", "SignificantBits"):
                header["Pixels"].pop(name, None)
        assert one["Pixels"] == other["Pixels"]
        assert after.series[0].axes == before.series[0].axes
        wanted = before.series[0].asarray()
        assert np.array_equal(after.series[0].asarray(), np.where(wanted == 0, np.float32(1000.5), wanted))


@pytest.mark.parametrize("shape", [(1, 4, 1, 6, 5), (1, 4, 2, 6, 5), (3, 1, 1, 6, 5)])
def test_imagej_keeps_its_header(shape: tuple[int, ...], tmp_path: Path) -> None:
    path, target = tmp_path / "a.tif", tmp_path / "b.tif"
    values = np.random.default_rng(0).integers(1, 99, shape).astype("u2")
    values[..., 2, :] = 0
    metadata = {"spacing": 3.0, "unit": "um", "finterval": 0.25, "Info": "about it"}
    tifffile.imwrite(path, values, imagej=True, resolution=(2.0, 4.0), metadata=metadata)
    again(path, target, missing_values=[0])
    with tifffile.TiffFile(path) as before, tifffile.TiffFile(target) as after:
        assert before.imagej_metadata is not None
        assert after.imagej_metadata is not None
        for name in ("spacing", "unit", "finterval", "Info", "images", "channels", "slices", "frames"):
            assert before.imagej_metadata.get(name) == after.imagej_metadata.get(name), name
        for name in ("XResolution", "YResolution", "ResolutionUnit"):
            assert before.pages[0].tags[name].value == after.pages[0].tags[name].value
        wanted = before.asarray()
        assert np.array_equal(after.asarray(), np.where(wanted == 0, np.float32(1000.5), wanted))


def series(folder: Path, lost: int = 2, **tags: Any) -> Path:
    """A CT series of six slices as a scanner writes it, one of them lost."""
    volume = Volume(
        np.random.default_rng(0).integers(-900, 900, (6, 5, 4)),
        affine=np.array([[0, 0, 0.7, -20], [0, 0.7, 0, 30], [-2.5, 0, 0, 100], [0, 0, 0, 1.0]]),
    )
    write(folder / "x.dicom", volume)
    study = generate_uid()
    for index, file in enumerate(sorted((folder / "x.dicom").glob("*.dcm"))):
        ds = pydicom.dcmread(file)
        ds.PatientName, ds.PatientID, ds.StudyInstanceUID = "Doe^Jane", "4711", study
        ds.StudyDate, ds.Manufacturer, ds.KVP, ds.ImageType = (
            "20200101",
            "ACME",
            "120",
            ["ORIGINAL", "PRIMARY", "AXIAL"],
        )
        ds.SliceLocation, ds.RescaleIntercept = float(ds.ImagePositionPatient[2]), -1024
        ds.PixelData = (np.frombuffer(ds.PixelData, "<i2") + 1024).astype("<i2").tobytes()
        for name, value in tags.items():
            setattr(ds, name, value)
        ds.save_as(file)
        if index == lost:
            file.unlink()
    (folder / "x.dicom" / ".voxgap").unlink()
    return (folder / "x.dicom").rename(folder / "series")


def test_dicom_keeps_patient_and_study_in_a_new_series(tmp_path: Path) -> None:
    path = series(tmp_path)
    volume = read(path)
    assert np.isnan(volume.values).all(axis=(1, 2, 3)).sum() == 1
    write(tmp_path / "out", filled(volume, by=12.4), like=path)
    back = read(tmp_path / "out")
    assert np.allclose(back.affine, volume.affine)
    assert np.array_equal(back.values, np.where(volume.observed, volume.values, 12))  # rounded to whole HU
    old = [pydicom.dcmread(file) for file in sorted(path.glob("*.dcm"))]
    new = sorted(
        (pydicom.dcmread(f) for f in (tmp_path / "out").glob("*.dcm")), key=lambda ds: ds.InstanceNumber
    )
    assert [ds.InstanceNumber for ds in new] == [1, 2, 3, 4, 5, 6]
    for name in (
        "PatientName",
        "PatientID",
        "StudyInstanceUID",
        "StudyDate",
        "Manufacturer",
        "KVP",
        "Modality",
    ):
        assert {str(ds.get(name)) for ds in new} == {str(old[0].get(name))}, name
    assert len({ds.SeriesInstanceUID for ds in new}) == 1
    assert not {ds.SeriesInstanceUID for ds in new} & {ds.SeriesInstanceUID for ds in old}
    assert len({ds.SOPInstanceUID for ds in new} | {ds.SOPInstanceUID for ds in old}) == 11
    assert all(ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID for ds in new)
    assert {tuple(ds.ImageType) for ds in new} == {("DERIVED", "PRIMARY", "AXIAL")}
    assert [float(ds.SliceLocation) for ds in new] == [float(ds.ImagePositionPatient[2]) for ds in new]
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "out")))
    image = reader.Execute()
    assert image.GetSize() == (4, 5, 6)
    assert np.allclose(image.GetSpacing(), (0.7, 0.7, 2.5))
    array = sitk.GetArrayFromImage(image)
    assert any(np.array_equal(np.flip(array, turn), back.values[..., 0]) for turn in ((), 0, 1, (0, 1)))


def test_dicom_padding_stays_apart_from_values(tmp_path: Path) -> None:
    path = series(tmp_path, lost=9)
    for file in path.glob("*.dcm"):
        ds = pydicom.dcmread(file)
        pixels = np.frombuffer(ds.PixelData, "<i2").reshape(5, 4).copy()
        pixels[0, 0] = ds.PixelPaddingValue
        ds.PixelData = pixels.tobytes()
        ds.save_as(file)
    volume = read(path)
    write(tmp_path / "out", filled(volume, by=-(2.0**15) - 1024), like=path)
    back = read(tmp_path / "out")
    assert back.observed.all()
    assert (back.values[~volume.observed] == 1 - 2**15 - 1024).all()
    write(tmp_path / "same", volume, like=path)
    assert np.array_equal(read(tmp_path / "same").values, volume.values, equal_nan=True)


def test_a_clip_keeps_its_frame_rate(tmp_path: Path) -> None:
    import av

    frames = np.random.default_rng(0).integers(0, 255, (60, 16, 16, 1)).astype(np.float32)
    frames[7] = np.nan
    path, target = tmp_path / "a.mkv", tmp_path / "b.mkv"
    write(path, Volume(frames, spacing=(1001 / 30000, 1, 1)))
    volume = read(path)
    write(target, filled(volume, by=9), like=path)
    with av.open(str(target)) as container:
        assert container.streams.video[0].average_rate == pytest.approx(Fraction(30000, 1001), rel=1e-3)
    back = read(target)
    assert abs(back.spacing[0] - 1001 / 30000) < 1e-5
    assert np.array_equal(back.values[volume.observed], volume.values[volume.observed])


def test_what_is_not_alike(tmp_path: Path) -> None:
    write(tmp_path / "a.nii", Volume(np.zeros((2, 3, 4))))
    with pytest.raises(VoxgapError, match="can't be written like"):
        write(tmp_path / "b.nii", Volume(np.zeros((2, 3, 5))), like=tmp_path / "a.nii")
    with pytest.raises(VoxgapError, match="is of another format than"):
        write(tmp_path / "b.nrrd", Volume(np.zeros((2, 3, 4))), like=tmp_path / "a.nii")
    np.save(tmp_path / "c.npy", np.zeros((3, 2, 3, 4)))
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["x"] = np.zeros((3, 2, 3, 4))
    part = read(tmp_path / "d.h5", axes=(1, 2, 3), at={0: 1})
    with pytest.raises(VoxgapError, match="can't be written like"):
        write(tmp_path / "e.h5", part, like=tmp_path / "d.h5")
    assert not (tmp_path / "e.h5").exists()
