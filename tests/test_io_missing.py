"""What a format's own library calls missing is missing: NetCDF by netCDF4, HDF5 by its chunks, TIFF by GDAL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
import tifffile
import xarray

from voxgap.io import cf, read, write

SHAPE = (3, 4, 5)
DTYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
FORMS = ("NETCDF4", "NETCDF3_CLASSIC", "NETCDF3_64BIT_DATA")


def _values(dtype: str) -> np.ndarray:
    """Small numbers, both ends of the type, and what the library fills with."""
    values = np.arange(60, dtype=dtype).reshape(SHAPE)
    kind = np.dtype(dtype)
    ends = np.iinfo(kind) if kind.kind in "iu" else np.finfo("f4")
    with np.errstate(invalid="ignore"):
        values[0, 0] = np.array([ends.min, ends.max, 7, 0, 1]).astype(dtype)
    values[1, 1, :2] = np.array(netCDF4.default_fillvals[dtype], dtype)
    return values


ATTRIBUTES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "fill": {"_FillValue": 7},
    "missing": {"missing_value": 8},
    "fill and missing": {"_FillValue": 7, "missing_value": [8, 9]},
    "range": {"valid_range": [2, 40]},
    "ends": {"valid_min": 2, "valid_max": 50},
    "one end": {"valid_min": 3, "_FillValue": 7},
    "packed": {"scale_factor": 0.5, "add_offset": 3.0, "_FillValue": 7},
    "packed with a range": {"scale_factor": 0.5, "valid_range": [2, 40], "missing_value": 8},
    "unsigned": {"_Unsigned": "true", "_FillValue": -1, "valid_range": [0, 100]},
    "unsigned without": {"_Unsigned": "true"},
}


def _write(path: Path, form: str, dtype: str, attributes: dict[str, Any]) -> None:
    with netCDF4.Dataset(path, "w", format=form) as file:
        for name, size in zip(("time", "lat", "lon"), SHAPE, strict=True):
            file.createDimension(name, size)
        fill = attributes.get("_FillValue")
        fill = None if fill is None else np.array(fill).astype(dtype).item()
        variable = file.createVariable("v", dtype, ("time", "lat", "lon"), fill_value=fill)
        variable.set_auto_maskandscale(False)
        variable[:] = _values(dtype)
        for name, value in attributes.items():
            if name in ("missing_value", "valid_range", "valid_min", "valid_max"):
                variable.setncattr(name, np.array(value).astype(dtype))
            elif name != "_FillValue":
                variable.setncattr(name, value)


CASES = [
    pytest.param(form, dtype, named, marks=() if named in ("nothing", "fill") else pytest.mark.full)
    for form in FORMS
    for dtype in DTYPES
    for named, attributes in ATTRIBUTES.items()
    if (form != "NETCDF3_CLASSIC" or dtype in ("i1", "i2", "i4", "f4", "f8"))
    and ("_Unsigned" not in attributes or dtype[0] == "i")
]


@pytest.mark.parametrize(("form", "dtype", "named"), CASES)
def test_netcdf_is_missing_where_netcdf4_masks(form: str, dtype: str, named: str, tmp_path: Path) -> None:
    _write(tmp_path / "v.nc", form, dtype, ATTRIBUTES[named])
    with netCDF4.Dataset(tmp_path / "v.nc") as file:
        masked = np.ma.asarray(file["v"][:])
    wanted = masked.astype("f8").filled(np.nan).astype("f4")
    assert np.array_equal(read(tmp_path / "v.nc").values[..., 0], wanted, equal_nan=True)


def test_signed_values_in_an_unsigned_type() -> None:
    stored = np.array([0, 3, 127, 128, 253, 255], "u1")
    found = cf.decode(stored, {"_Unsigned": "false", "_FillValue": 255, "valid_min": 253})
    assert np.array_equal(found, [0, 3, 127, np.nan, -3, np.nan], equal_nan=True)


def test_sentinels_of_eight_bytes_are_compared_exactly() -> None:
    top = np.iinfo("u8").max
    stored = np.array([top, top - 1, 2**60, 2**60 + 1], "u8")
    assert np.array_equal(np.isnan(cf.decode(stored, {"_FillValue": top})), [True, False, False, False])
    signed = stored.view("i8")
    found = cf.decode(signed, {"_FillValue": 2**60, "missing_value": -1})
    assert np.array_equal(np.isnan(found), [True, False, True, False])
    # A number that the type can't hold is no value of it.
    assert cf.decode(np.array([255, 1], "u1"), {"_FillValue": -1}).tolist() == [255, 1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("engine", ["h5netcdf", "netcdf4"])
def test_who_wrote_a_file_says_whether_it_has_fill_values(dtype: str, engine: Any, tmp_path: Path) -> None:
    data = xarray.Dataset({"v": (("time", "lat", "lon"), _values(dtype))})
    data.to_netcdf(tmp_path / "v.nc", engine=engine, encoding={"v": {"_FillValue": None}})
    with netCDF4.Dataset(tmp_path / "v.nc") as file:
        wanted = np.ma.asarray(file["v"][:]).astype("f8").filled(np.nan).astype("f4")
    assert np.isnan(wanted).any() == (engine == "netcdf4" or dtype not in ("i1", "u1"))
    assert np.array_equal(read(tmp_path / "v.nc").values[..., 0], wanted, equal_nan=True)


def test_a_file_that_was_never_filled_is_as_netcdf4_has_it(tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "v.nc", "w") as file:
        file.set_fill_off()
        for name, size in zip(("time", "lat", "lon"), SHAPE, strict=True):
            file.createDimension(name, size)
        file.createVariable("v", "i2", ("time", "lat", "lon"))[:] = _values("i2")
    with netCDF4.Dataset(tmp_path / "v.nc") as file:
        wanted = np.ma.asarray(file["v"][:]).astype("f4").filled(np.nan)
    assert np.array_equal(read(tmp_path / "v.nc").values[..., 0], wanted, equal_nan=True)


@pytest.mark.parametrize("suffix", ["h5", "nc"])
@pytest.mark.parametrize("dtype", ["u1", "i4", "f4"])
@pytest.mark.parametrize("fill", [None, 0, 5])
def test_chunks_never_written_are_missing(suffix: str, dtype: str, fill: int | None, tmp_path: Path) -> None:
    values = np.arange(6 * 8 * 10, dtype=dtype).reshape(6, 8, 10) % 100
    wanted = values.astype("f4")
    with h5py.File(tmp_path / f"v.{suffix}", "w") as file:
        options = {} if fill is None else {"fillvalue": fill}
        data = file.create_dataset("v", values.shape, dtype, chunks=(2, 4, 10), compression="gzip", **options)
        for axis, name in enumerate(("time", "lat", "lon")):
            file[name] = np.arange(float(values.shape[axis]))
            file[name].make_scale(name)
            data.dims[axis].attach_scale(file[name])
        data[:2], data[2:4, :4] = values[:2], values[2:4, :4]
    wanted[2:4, 4:] = wanted[4:] = np.nan
    path = f"{tmp_path}/v.{suffix}::v"
    assert np.array_equal(read(path).values[..., 0], wanted, equal_nan=True)
    part = read(path, region=[(1, 5), (3, 6), (2, 9)])
    assert np.array_equal(part.values[..., 0], wanted[1:5, 3:6, 2:9], equal_nan=True)
    # Written in place of the original, a hole stays one.
    volume = read(path)
    volume.values[0, 0, 0] += 0.5
    write(tmp_path / f"w.{suffix}", volume, like=path)
    again = read(f"{tmp_path}/w.{suffix}::v")
    assert np.array_equal(again.values, volume.values, equal_nan=True)


def test_a_dataset_that_nobody_wrote_to_has_no_value(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_dataset("v", SHAPE, "f4")
        file.create_dataset("w", data=np.zeros(SHAPE, "f4"))
    assert not read(tmp_path / "v.h5", item="v").observed.any()
    assert read(tmp_path / "v.h5", item="w").observed.all()


@pytest.mark.parametrize(
    ("dtype", "nodata", "missing"),
    [
        ("u1", "255", [255]),
        ("u1", "-9999", []),
        ("u1", "-1", []),
        ("i2", "-32768", [-32768]),
        ("u4", "4294967295", [4294967295]),
        ("i4", "-2147483648.0", [-2147483648]),
        ("f4", "-3.4028234663852886e+38", [np.finfo("f4").min]),
        ("f8", "1e+20", [1e20]),
        ("f4", "nan", []),
    ],
)
def test_nodata_of_gdal_is_missing(dtype: str, nodata: str, missing: list[float], tmp_path: Path) -> None:
    values = np.arange(60, dtype=dtype).reshape(SHAPE)
    kind = np.dtype(dtype)
    # A neighbour of the sentinel, which float32 can't tell from it, is a value.
    near = [value - 1 for value in missing if kind.kind in "iu" and value > 0] + [
        value + 1 for value in missing if value < -9
    ]
    near = near if kind.kind in "iu" else []
    values.flat[: len(missing)], values.flat[30 : 30 + len(near)] = missing, near
    tifffile.imwrite(
        tmp_path / "v.tif", values, extratags=[(42113, "s", 0, nodata, True)], photometric="minisblack"
    )
    found = read(tmp_path / "v.tif")
    assert np.array_equal(np.flatnonzero(~found.observed), np.arange(len(missing)))
