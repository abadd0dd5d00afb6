"""What stays of a file that is written anew: observed voxels to the last bit, in every format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
import xarray
import zarr

from voxgap.io import read, scan, write
from voxgap.io.keeping import settled
from voxgap.volume import Volume

RNG = np.random.default_rng(0)
SHAPE = (3, 4, 5)


def hdf5(path: Path, data: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["v"] = data


def from_hdf5(path: Path) -> np.ndarray:
    with h5py.File(path) as file:
        return np.asarray(file["v"][...])


def netcdf(form: str) -> Callable[[Path, np.ndarray], None]:
    return lambda path, data: xarray.Dataset({"v": (("z", "y", "x"), data)}).to_netcdf(path, format=form)


def nifti(path: Path, data: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(data.T, np.eye(4), dtype=data.dtype), path)


def from_netcdf(path: Path) -> np.ndarray:
    return np.asarray(xarray.load_dataset(path, decode_cf=False)["v"].values)


FORMATS: dict[str, tuple[str, Callable[..., Any], Callable[[Path], np.ndarray], str]] = {
    "nifti": (
        ".nii",
        nifti,
        lambda path: np.asanyarray(nibabel.load(path).dataobj).T,
        "u1 i2 u2 i4 i8 f4 f8",
    ),
    "nrrd": (
        ".nrrd",
        lambda path, data: sitk.WriteImage(sitk.GetImageFromArray(data), str(path)),
        lambda path: sitk.GetArrayFromImage(sitk.ReadImage(str(path))),
        "u1 i2 u2 i4 i8 f4 f8",
    ),
    "metaimage": (
        ".mha",
        lambda path, data: sitk.WriteImage(sitk.GetImageFromArray(data), str(path)),
        lambda path: sitk.GetArrayFromImage(sitk.ReadImage(str(path))),
        "u1 i2 u2 i4 i8 f4 f8",
    ),
    "numpy": (".npy", np.save, np.load, "u1 i2 u2 i4 i8 f4 f8"),
    "archive": (
        ".npz",
        lambda path, data: np.savez(path, values=data),
        lambda path: np.load(path)["values"],
        "i2 i4 f8",
    ),
    "hdf5": (".h5", hdf5, from_hdf5, "u1 i2 u2 i4 i8 f4 f8"),
    "netcdf4": (".nc", netcdf("NETCDF4"), from_netcdf, "i2 i4 i8 f8"),
    "netcdf3": (".nc", netcdf("NETCDF3_CLASSIC"), from_netcdf, "i2 i4 f8"),
    "tiff": (".tif", tifffile.imwrite, tifffile.imread, "u1 i2 u2 i4 f4 f8"),
    "zarr": (
        ".zarr",
        lambda path, data: zarr.save_array(str(path), data),
        lambda path: np.asarray(zarr.open_array(str(path), mode="r")[...]),
        "i2 i4 i8 f8",
    ),
}


def numbers(dtype: str) -> np.ndarray:
    """Numbers of which float32 holds few: whole ones from 2^24 on, where there are such."""
    if dtype[0] == "f":
        return RNG.normal(size=SHAPE).astype(dtype)
    start = {"i4": 2**24 + 1, "i8": 2**40 + 1}.get(dtype, 1)
    return (start + RNG.integers(0, 99, SHAPE)).astype(dtype)


@pytest.mark.parametrize("name", FORMATS)
def test_observed_voxels_stay_to_the_last_bit(name: str, tmp_path: Path) -> None:
    suffix, put, get, dtypes = FORMATS[name]
    for dtype in dtypes.split():
        path, same, half, whole = (tmp_path / f"{dtype}{n}{suffix}" for n in range(4))
        data = numbers(dtype)
        put(path, data)
        volume = read(path)
        new = np.zeros(volume.shape, bool)
        new[:, 1:3] = True
        write(same, volume, like=path)
        assert get(same).dtype.newbyteorder("=") == np.dtype(dtype), dtype
        assert np.array_equal(get(same), data), dtype
        for target, value in ((half, 0.5), (whole, 7.0)):
            changed = Volume(np.where(new, np.float32(value), volume.values), volume.affine, volume.spacing)
            write(target, changed, like=path)
            found = get(target)
            away = read(target).values == value
            assert away[new].all()
            wanted = np.where(scan(path).restore(new.astype(np.float32)) > 0, value, data)
            assert np.array_equal(found, wanted), (dtype, value)
            assert (found.dtype.newbyteorder("=") == np.dtype(dtype)) == (value == 7 or dtype[0] == "f"), (
                dtype
            )


@pytest.mark.parametrize("dtype", ["i2", "i4", "f8"])
def test_scaled_numbers_of_nifti_stay(dtype: str, tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(numbers(dtype), np.diag([3, 2, 1, 1]))
    image.header.set_slope_inter(0.01, 7)
    path, same, filled = (tmp_path / f"{n}.nii" for n in range(3))
    path.write_bytes(image.to_bytes())
    before, volume = nibabel.load(path), read(path)
    write(same, volume, like=path)
    after = nibabel.load(same)
    assert np.array_equal(after.dataobj.get_unscaled(), before.dataobj.get_unscaled())
    assert after.dataobj.slope == before.dataobj.slope
    write(filled, Volume(np.where(volume.values > volume.values.mean(), 0.5, volume.values)), like=path)
    found, wanted = nibabel.load(filled).get_fdata(), before.get_fdata()
    there = found != 0.5
    exact = wanted if dtype != "i2" else wanted.astype(np.float32)  # It holds more than 16 bits.
    assert 0 < there.mean() < 1
    assert np.array_equal(found[there], exact[there])


def test_whole_numbers_that_no_float_holds_stay_and_new_ones_are_rounded() -> None:
    stored = np.array([2**60 + 1, 2**60 + 3, 5])
    found = settled(stored, np.array([2**60, 2**60, 1.6], np.float32))
    assert found.new.dtype == stored.dtype
    assert found.new.tolist() == [2**60 + 1, 2**60 + 3, 2]
