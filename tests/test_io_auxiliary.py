"""Latitudes and longitudes beside the values: what one and two axes of them decide, over each format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray

from voxgap.grid import Grid
from voxgap.io import read, scan, write
from voxgap.volume import Volume
from xarray_cases import FORMATS, written

FIELD = np.random.default_rng(0).normal(size=(3, 4, 5)).astype("f4")
LAT, LON = np.linspace(30.0, 60.0, 4), np.linspace(0.0, 40.0, 5)
# A grid turned by a few degrees is not straight, but runs along one axis each.
BENT_LAT = LAT[:, None] + 3 * np.sin(np.linspace(0, np.pi, 5))
BENT_LON = LON + 3 * np.cos(np.linspace(0, 2 * np.pi, 4))[:, None]
Coordinates = dict[str, tuple[tuple[str, ...], Any, dict[str, Any]]]


def _xarray(
    path: Path,
    values: np.ndarray,
    dims: tuple[str, ...],
    coordinates: Coordinates,
    among: str = "coordinates",
) -> Path:
    data = xarray.Dataset({"v": (dims, values)}, coords=coordinates)
    data = data if among == "coordinates" else data.reset_coords()
    return written(path, data)


ROMS = ("ocean_time", "eta_rho", "xi_rho")
NORTH, EAST = {"units": "degrees_north"}, {"standard_name": "longitude"}
HOLE = np.where(np.arange(20).reshape(4, 5) == 7, np.nan, LAT[:, None] + np.linspace(0, 0.5, 5))
FOUND: dict[str, tuple[tuple[str, ...], Coordinates]] = {
    "of two axes, by names": (
        ROMS,
        {"lat_rho": (ROMS[1:], BENT_LAT, {}), "lon_rho": (ROMS[1:], BENT_LON, {})},
    ),
    "of two axes, by attributes": (
        ("time", "y", "x"),
        {"p": (("y", "x"), BENT_LAT, NORTH), "q": (("y", "x"), BENT_LON, EAST)},
    ),
    "of one axis": (("time", "y", "x"), {"latitude": (("y",), LAT, {}), "q": (("x",), LON, EAST)}),
    "of one axis beside a count": (
        ("time", "y", "x"),
        {
            "latitude": (("y",), LAT, {}),
            "longitude": (("x",), LON, {}),
            "y": (("y",), np.arange(4), {}),
        },
    ),
    "beside the numbers of a part": (
        ("time", "y", "x"),
        {"nav_lat": (("y", "x"), BENT_LAT, {}), "nav_lon": (("y", "x"), BENT_LON, {})}
        | {"y": (("y",), np.arange(7, 15, 2), {}), "x": (("x",), np.arange(5.0) + 3, {"units": "1"})},
    ),
    "beside numbers that fall": (
        ("time", "y", "x"),
        {"latitude": (("y",), LAT, {}), "longitude": (("x",), LON, {})}
        | {
            "y": (("y",), np.arange(7, -1, -2), {"axis": "Y"}),
            "x": (("x",), np.arange(5)[::-1], {"axis": "X"}),
        },
    ),
    "the same at every time": (
        ("Time", "south_north", "west_east"),
        {
            "XLAT": (("Time", "south_north", "west_east"), np.stack([BENT_LAT] * 3), NORTH),
            "XLONG": (("Time", "south_north", "west_east"), np.stack([BENT_LON] * 3), {}),
        },
    ),
    "tilted a little, with a hole": (
        ("time", "y", "x"),
        {"lat": (("y", "x"), HOLE, {}), "lon": (("y", "x"), LON + LAT[:, None] / 20, {})},
    ),
    "beside what is no latitude": (
        ("time", "y", "x"),
        {
            "lat": (("y", "x"), BENT_LAT, {}),
            "lon": (("y", "x"), BENT_LON, {}),
            "sway": (("y", "x"), BENT_LAT * 0, NORTH),
        },
    ),
}


def _turned(one: tuple[tuple[str, ...], Any, dict[str, Any]], backwards: dict[str, int], name: str) -> Any:
    dims, values, about = one
    # The numbers of a count stay what they are, however the values lie.
    steps = tuple(slice(None, None, 1 if name == dims[0] else backwards[dim]) for dim in dims)
    return dims, np.asarray(values)[steps], about


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("case", FOUND)
def test_a_field_reads_alike_whichever_way_it_is_stored(form: str, case: str, tmp_path: Path) -> None:
    dims, coordinates = FOUND[case]
    for down, left in ((1, 1), (-1, 1), (-1, -1)):
        way = dict(zip(dims, (1, down, left), strict=True))
        laid = {name: _turned(one, way, name) for name, one in coordinates.items()}
        path = _xarray(tmp_path / f"v{down}{left}{form}", FIELD[:, ::down, ::left], dims, laid)
        source = scan(path)
        assert source.turned == (False, down < 0, left < 0)
        assert np.array_equal(source.read([(1, 3), (0, 2), (1, 4)]).values[..., 0], FIELD[1:3, 0:2, 1:4])
        assert np.array_equal(source.restore(FIELD[..., np.newaxis]), FIELD[:, ::down, ::left])
        assert source.axes == dims
        assert source.rises
    if case == "beside numbers that fall":  # They turned what is read before, too.
        return
    with pytest.warns(UserWarning, match=f"rules 3.*{dims[1]} and {dims[2]} would be turned to ascend"):
        assert Grid(rules=3).scan(path).turned == (False, False, False)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "case", ["of two axes, by names", "beside numbers that fall", "the same at every time"]
)
def test_a_label_map_lies_as_its_volume_does(form: str, case: str, tmp_path: Path) -> None:
    dims, coordinates = FOUND[case]
    way = dict(zip(dims, (1, -1, 1), strict=True))
    path = _xarray(
        tmp_path / f"v{form}",
        FIELD[:, ::-1],
        dims,
        {name: _turned(one, way, name) for name, one in coordinates.items()},
    )
    source = scan(path)
    labels = Volume((FIELD[..., np.newaxis] > 0).astype("f4"), channels=("label",), axes=source.axes)
    target = tmp_path / f"labels{'.zarr' if 'zarr' in form else '.h5' if form == '.h5' else '.nc'}"
    write(target, labels, like=source, labels=True)
    assert np.array_equal(read(target).values, labels.values)
    if target.suffix == ".h5":
        for engine in ("h5netcdf", "netcdf4"):
            with xarray.open_dataset(target, engine=engine) as opened:
                assert opened["values"].dims == (*dims, "channel")
                assert set(dims) & set(opened.coords) == set(dims) & set(coordinates)


@pytest.mark.parametrize("form", FORMATS)
def test_longitude_first_becomes_width(form: str, tmp_path: Path) -> None:
    dims = ("time", "i", "j")
    coordinates: Coordinates = {
        "nav_lat": (("i", "j"), BENT_LAT[::-1].T, NORTH),
        "nav_lon": (("i", "j"), BENT_LON[::-1].T, {"units": "degrees_east"}),
    }
    path = _xarray(tmp_path / f"v{form}", FIELD[:, ::-1].transpose(0, 2, 1), dims, coordinates)
    assert np.array_equal(read(path).values[..., 0], FIELD)


YX = ("y", "x")
NOTHING: dict[str, tuple[Coordinates, str]] = {
    "curved": ({"lat": (YX, np.abs(BENT_LAT - 45)[::-1], {})}, "lat: latitude .* of y, x"),
    "along both": ({"lat": (YX, (BENT_LAT[:, :1] + LON)[::-1], {})}, "latitude"),
    "holes": ({"lat": (YX, np.where(np.arange(20).reshape(4, 5) < 11, np.nan, BENT_LAT[::-1]), {})}, "holes"),
    "zero over land": ({"lat": (YX, np.where(np.arange(5) < 2, 0, BENT_LAT[::-1]), {})}, "jumps"),
    "another at each time": (
        {"XLAT": (("time", *YX), BENT_LAT[::-1] + np.arange(3)[:, None, None] / 10, {})},
        "XLAT: .* of y, x",
    ),
    "along what is said to run east": (
        {"lat": (YX, BENT_LAT[::-1], {}), "y": (("y",), np.arange(4), {"axis": "X"})},
        "latitude",
    ),
    "across the date line": ({"lon": (YX, np.tile([10.0, 5.0, 0.0, 355.0, 350.0], (4, 1)), {})}, "longitude"),
    "across it, of one axis": ({"lon": (("x",), [10.0, 5.0, 0.0, 355.0, 350.0], {})}, "longitude"),
    "a track": ({"lat": (("y",), LAT[::-1], {}), "lon": (("y",), LAT, {})}, "latitude and longitude"),
    "two that disagree": ({"lat": (YX, BENT_LAT[::-1], {}), "latitude": (YX, BENT_LAT, {})}, "lat"),
    "height is no latitude": ({"height": (YX, BENT_LAT[::-1], {})}, ""),
    "along time": ({"lat": (("time",), [3.0, 2.0, 1.0], {})}, ""),
    "its own go first": (
        {
            "lat": (YX, BENT_LAT[::-1], {}),
            "lon": (YX, BENT_LON[:, ::-1], {}),
            "y": (("y",), LAT * 1e5, {"standard_name": "projection_y_coordinate", "units": "m"}),
            "x": (("x",), LON * 1e5, {"standard_name": "projection_x_coordinate", "units": "m"}),
        },
        "",
    ),
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("case", NOTHING)
def test_what_says_no_direction_is_never_mirrored_and_said(
    form: str, case: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    coordinates, said = NOTHING[case]
    path = _xarray(tmp_path / f"v{form}", FIELD, ("time", "y", "x"), coordinates)
    _check_nothing(path, said, recwarn)


def _check_nothing(path: Path, said: str, recwarn: pytest.WarningsRecorder) -> None:
    recwarn.clear()
    assert np.array_equal(read(path).values[..., 0], FIELD)
    heard = [str(one.message) for one in recwarn if "not turned" in str(one.message)]
    assert len(heard) == bool(said)
    if said:
        with pytest.warns(UserWarning, match=f"v.*: .*{said}"):
            read(path)


DATA: Coordinates = {
    "lat_error": (YX, BENT_LAT[::-1], {}),
    "lat_of_storms": (YX, BENT_LAT[::-1], {}),
    "lon_std": (YX, BENT_LON[:, ::-1], {"units": "degrees_east"}),
    "sway": (YX, np.abs(BENT_LAT - 45), NORTH),
}


@pytest.mark.parametrize("form", FORMATS)
def test_data_that_are_no_coordinates_decide_nothing_and_are_no_doubt(
    form: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path = _xarray(tmp_path / f"v{form}", FIELD, ("time", "y", "x"), DATA, among="data")
    _check_nothing(path, "", recwarn)


@pytest.mark.parametrize("form", FORMATS)
def test_those_that_the_values_name_go_first(form: str, tmp_path: Path) -> None:
    dims = ("time", "y", "x")
    data = {"lat_u": (YX, BENT_LAT, {}), "lat_rho": (YX, BENT_LAT[::-1], {})}
    path = _xarray(tmp_path / f"v{form}", FIELD[:, ::-1], dims, data)
    _name(Path(str(path).partition("::")[0]), "lat_rho")
    source = scan(path)
    assert np.array_equal(source.read().values[..., 0], FIELD)
    labels = Volume((FIELD[..., np.newaxis] > 0).astype("f4"), channels=("label",), axes=source.axes)
    target = tmp_path / f"labels{'.zarr' if 'zarr' in form else '.h5' if form == '.h5' else '.nc'}"
    write(target, labels, like=source, labels=True)
    assert np.array_equal(read(target).values, labels.values)


def test_hdf5_follows_the_path_of_those_that_the_values_name(tmp_path: Path) -> None:
    path, target = _xarray(tmp_path / "v.h5", FIELD[:, ::-1], ("time", "y", "x"), {}), tmp_path / "labels.h5"
    for named in ("/geo/latitude /not/there", "geo/latitude"):
        with h5py.File(tmp_path / "v.h5", "r+") as file:
            if "geo" not in file:
                file["geo/latitude"] = BENT_LAT[::-1]
                for place, dim in enumerate("yx"):
                    file["geo/latitude"].dims[place].attach_scale(file[dim])
            file["v"].attrs["coordinates"] = named
        source = scan(path)
        assert np.array_equal(source.read().values[..., 0], FIELD)
    labels = Volume((FIELD[..., np.newaxis] > 0).astype("f4"), channels=("label",), axes=source.axes)
    write(target, labels, like=source, labels=True)
    assert np.array_equal(read(target).values, labels.values)


def _name(path: Path, which: str) -> None:
    """Write the attribute that names coordinates, by the library of the format."""
    if path.suffix == ".zarr":
        import zarr

        zarr.open(path, mode="r+")["v"].attrs["coordinates"] = which
    elif path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            file["v"].attrs["coordinates"] = which
    else:
        import netCDF4

        with netCDF4.Dataset(path, "r+") as file:
            file["v"].coordinates = which
