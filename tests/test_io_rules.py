"""Each rule of reading over each format that can say what it is about: direction, units, calendars, unknown axes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
import tifffile
import xarray
import zarr

from voxgap.errors import VoxgapError
from voxgap.grid import Grid
from voxgap.io import read, rules, scan, write
from voxgap.io.rules import Axis
from voxgap.volume import Volume
from xarray_cases import FORMATS, written

FIELD = np.random.default_rng(0).normal(size=(3, 4, 5)).astype("f4")
LAT, LON = np.linspace(30.0, 60.0, 4), np.linspace(0.0, 40.0, 5)


def _xarray(path: Path, values: np.ndarray, coordinates: dict[str, tuple[Any, dict[str, Any]]]) -> Path:
    """Write one variable with coordinates in the format of the suffix."""
    coords = {name: (name, places, attributes) for name, (places, attributes) in coordinates.items()}
    data = xarray.Dataset({"v": (tuple(coordinates), values)}, coords=coords)
    return written(path, data)


NAMES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "names": ("lat", "lon", {}, {}),
    "long names": ("latitude", "longitude", {}, {}),
    "units": ("a", "b", {"units": "degrees_north"}, {"units": "degrees_east"}),
    "axis": ("a", "b", {"axis": "Y"}, {"axis": "X"}),
    "projection": (
        *("row_of", "column_of"),
        {"standard_name": "projection_y_coordinate", "units": "m"},
        {"standard_name": "projection_x_coordinate", "units": "m"},
    ),
    "one each": ("lat", "b", {}, {"units": "degrees_east"}),
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("named", NAMES)
def test_a_field_reads_alike_whichever_way_it_is_stored(form: str, named: str, tmp_path: Path) -> None:
    y, x, about_y, about_x = NAMES[named]
    found = []
    for down, left in ((1, 1), (-1, 1), (1, -1), (-1, -1)):
        coordinates = {"time": (np.arange(3.0), {}), y: (LAT[::down], about_y), x: (LON[::left], about_x)}
        path = _xarray(tmp_path / f"v{down}{left}{form}", FIELD[:, ::down, ::left], coordinates)
        source = scan(path)
        assert np.array_equal(source.read().values[..., 0], FIELD)
        part = source.read([(1, 3), (0, 2), (1, 4)])
        assert np.array_equal(part.values[..., 0], FIELD[1:3, 0:2, 1:4])
        # What is written in place of the values is stored the way they were.
        stored = source.restore(FIELD[..., np.newaxis])
        assert np.array_equal(stored, FIELD[:, ::down, ::left])
        found.append(source.turned)
    assert found == [(False, False, False), (False, True, False), (False, False, True), (False, True, True)]


NEVER_TURNED = {
    "across the date line": ("lon", np.array([350.0, 355.0, 0.0, 5.0, 10.0])),
    "westward across it": ("lon", np.array([10.0, 5.0, 0.0, 355.0, 350.0])),
    "one jump": ("lat", np.array([60.0, 50.0, 55.0, 40.0, 30.0])),
    "two alike": ("lat", np.array([60.0, 50.0, 50.0, 40.0, 30.0])),
    "a hole": ("lat", np.array([60.0, np.nan, 50.0, 40.0, 30.0])),
    "levels": ("lev", np.array([1000.0, 850.0, 500.0, 250.0, 100.0])),
    "time": ("time", np.array([5.0, 4.0, 3.0, 2.0, 1.0])),
    "unknown": ("xi_rho", np.array([5.0, 4.0, 3.0, 2.0, 1.0])),
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("why", NEVER_TURNED)
def test_what_says_no_direction_is_never_mirrored(form: str, why: str, tmp_path: Path) -> None:
    name, places = NEVER_TURNED[why]
    attributes = {"units": "degrees_east"} if name == "lon" else {}
    path = _xarray(
        tmp_path / f"v{form}",
        FIELD,
        {"p": (np.arange(3.0), {}), "q": (np.arange(4.0), {}), name: (places, attributes)},
    )
    assert np.array_equal(read(path).values[..., 0], FIELD)


def test_geotiff_rows_run_from_north_to_south(tmp_path: Path) -> None:
    tags = [(33550, "d", 3, (0.5, 0.5, 0.0), True), (33922, "d", 6, (0, 0, 0, 10.0, 60.0, 0.0), True)]
    tifffile.imwrite(tmp_path / "v.tif", FIELD, extratags=tags, photometric="minisblack")
    assert np.array_equal(read(tmp_path / "v.tif").values[..., 0], FIELD[:, ::-1])
    tifffile.imwrite(tmp_path / "w.tif", FIELD, photometric="minisblack")
    assert np.array_equal(read(tmp_path / "w.tif").values[..., 0], FIELD)


# --- units -------------------------------------------------------------------------------------------------

LENGTHS = {"mm": 1.0, "millimeter": 1.0, "m": 1e3, "meters": 1e3, "cm": 10.0, "km": 1e6}
LENGTHS |= {
    "micrometer": 1e-3,
    "um": 1e-3,
    "µm": 1e-3,
    "micron": 1e-3,
    "nm": 1e-6,
    "nanometre": 1e-6,
    "inch": 25.4,
}
SIZES = (2.0, 0.5, 0.25)
"""Of a voxel, along depth, height and width, in mm."""


def _coordinates(path: Path, unit: str, each: float) -> Path:
    axes = zip(("z", "y", "x"), FIELD.shape, SIZES, strict=True)
    return _xarray(path, FIELD, {n: (np.arange(s) * step / each, {"units": unit}) for n, s, step in axes})


def _ome_tiff(path: Path, unit: str, each: float) -> Path:
    sizes = {f"PhysicalSize{a}": size / each for a, size in zip("ZYX", SIZES, strict=True)}
    units = {f"PhysicalSize{a}Unit": unit for a in "ZYX"}
    target = path.with_suffix(".ome.tif")
    tifffile.imwrite(target, FIELD, ome=True, metadata={"axes": "ZYX", **sizes, **units})
    return target


def _ome_zarr(path: Path, unit: str, each: float) -> Path:
    axes = [{"name": n, "type": "space", "unit": unit} for n in "zyx"]
    scale = [{"type": "scale", "scale": [size / each for size in SIZES]}]
    scales = [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}]
    target = path.with_suffix(".zarr")
    group = zarr.create_group(str(target), zarr_format=2, attributes={"multiscales": scales})
    group.create_array("0", shape=FIELD.shape, dtype="f4")[...] = FIELD
    return target


def _imagej(path: Path, unit: str, each: float) -> Path:
    about = {"axes": "ZYX", "spacing": SIZES[0] / each, "unit": unit.replace("µ", "\\u00B5")}
    target = path.with_suffix(".tif")
    tifffile.imwrite(
        target, FIELD, imagej=True, resolution=(each / SIZES[2], each / SIZES[1]), metadata=about
    )
    return target


def _nifti(path: Path, unit: str, each: float) -> Path:
    affine = np.diag([*(size / each for size in SIZES[::-1]), 1.0])
    image = nibabel.Nifti1Image(FIELD.transpose(2, 1, 0), affine)
    image.header.set_xyzt_units({"m": "meter", "mm": "mm", "micron": "micron"}[unit])
    nibabel.save(image, path.with_suffix(".nii"))
    return path.with_suffix(".nii")


UNITS: dict[str, tuple[Callable[[Path, str, float], Path], tuple[str, ...]]] = {
    **{form: (_coordinates, tuple(LENGTHS)) for form in FORMATS},
    "ome.tif": (_ome_tiff, ("mm", "m", "cm", "km", "µm", "nm")),
    "ome.zarr": (_ome_zarr, ("millimeter", "micrometer", "nanometre", "inch")),
    "imagej": (_imagej, ("mm", "cm", "um", "µm", "micron", "nm", "inch")),
    "nifti": (_nifti, ("m", "mm", "micron")),
}
FEW = ("mm", "millimeter", "µm", "micron", "micrometer")
CASES = [
    pytest.param(form, unit, marks=() if unit in FEW else pytest.mark.full, id=f"{form}-{unit}")
    for form, (_, units) in UNITS.items()
    for unit in units
]


@pytest.mark.parametrize(("form", "unit"), CASES)
def test_sizes_are_in_mm_whatever_the_unit_of_the_file(form: str, unit: str, tmp_path: Path) -> None:
    make = UNITS[form][0]
    path = make(tmp_path / (f"v{form}" if form in FORMATS else "v"), unit, LENGTHS[unit])
    volume = read(path)
    assert volume.spacing == pytest.approx(SIZES, rel=1e-5)
    if volume.affine is not None:
        assert np.allclose(np.abs(volume.affine[:3, :3]).sum(axis=0), SIZES, rtol=1e-5)
    # As older bundles read it.
    if LENGTHS[unit] != 1:
        assert scan(path, rules=1).spacing != pytest.approx(SIZES, rel=1e-5)


TIMES = {
    "seconds since 2000-01-01": 1.0,
    "minutes since 2000-01-01": 60.0,
    "hours since 2000-01-01 00:00:0.0": 3600.0,
    "days since 1850-01-01": 86400.0,
    "ms": 1e-3,
    "s": 1.0,
}


@pytest.mark.parametrize("form", FORMATS)
def test_times_are_in_seconds(form: str, tmp_path: Path) -> None:
    for index, (unit, each) in enumerate(TIMES.items()):
        coordinates = {"time": (np.arange(3.0) * 7, {"units": unit}), "lat": (LAT, {}), "lon": (LON, {})}
        assert read(_xarray(tmp_path / f"v{index}{form}", FIELD, coordinates)).spacing == (
            7 * each,
            10.0,
            10.0,
        )


@pytest.mark.parametrize(
    ("calendar", "days"),
    [("360_day", 30), ("noleap", 365 / 12), ("julian", 365.25 / 12), ("standard", 365.242198781 / 12)],
)
def test_the_calendar_says_how_long_a_month_is(calendar: str, days: float) -> None:
    about = {"units": "months since 2000-01-01", "calendar": calendar}
    assert rules.step(Axis("time", places=[0, 1, 2], attributes=about)) == pytest.approx(days * 86400)


def test_steps_of_coordinates_in_single_precision() -> None:
    places = (np.arange(43200) / 120.0).astype("f4").tolist()  # 1/120 of a degree, as satellites have it.
    assert rules.step(Axis("lon", places=places)) == pytest.approx(1 / 120, rel=1e-3)
    assert rules.step(Axis("lon", places=[0.0, 1.0, 3.0])) is None
    assert rules.step(Axis("lev", places=[0, 2, 4], attributes={"units": "hPa"})) == 2.0
    # Sizes in a unit that is none of length or time are no sizes; Mm is not mm.
    for unit in ("pixel", "parsec", "Mm", "reference frame"):
        assert rules.step(Axis("x", step=2.0, unit=unit)) is None
    assert rules.step(Axis("x", step=2.0)) == 2.0


def test_a_day_that_is_not_stored_is_said(tmp_path: Path) -> None:
    coordinates = {"time": (np.array([1.0, 2.0, 4.0]), {}), "lat": (LAT, {}), "lon": (LON, {})}
    path = _xarray(tmp_path / "v.nc", FIELD, coordinates)
    with pytest.warns(UserWarning, match="steps along time are uneven.* off by up to 17% of their"):
        assert scan(path).spacing is None


# --- unknown axes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_four_unknown_axes_are_refused_with_what_helps(form: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 4, 6, 5)).astype("f4")
    names = ("ocean_time", "s_rho", "eta_rho", "xi_rho")
    coordinates = {name: (np.arange(float(n)), {}) for name, n in zip(names, values.shape, strict=True)}
    path = _xarray(tmp_path / f"v{form}", values, coordinates)
    with pytest.raises(VoxgapError, match=r"--axes s_rho,eta_rho,xi_rho --at ocean_time=0$"):
        read(path)
    found = read(path, axes=("s_rho", "eta_rho", "xi_rho"), at={"ocean_time": 1})
    assert np.array_equal(found.values[..., 0], values[1])
    assert np.array_equal(read(path, axes=("1", "2", "3", "0")).values, values.transpose(1, 2, 3, 0))


@pytest.mark.parametrize("shape", [(2, 10, 12, 11), (12, 10, 16, 16), (30, 10, 16, 16)], ids=str)
def test_channels_first_without_names_is_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype("f4")
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["v"] = values
    zarr.create_array(str(tmp_path / "v.zarr"), shape=shape, dtype="f4")[...] = values
    header = (
        f"NRRD0004\ntype: float\ndimension: 4\nsizes: {' '.join(map(str, shape[::-1]))}\nendian: little\n"
    )
    (tmp_path / "v.nrrd").write_bytes(header.encode() + b"encoding: raw\n\n" + values.tobytes())
    names = ["v.h5", "v.zarr", "v.nrrd"]
    if shape[0] == 2:  # Of NumPy's own files the last axis is that of channels, as of arrays in Python, else.
        np.save(tmp_path / "v.npy", values)
        np.savez(tmp_path / "v.npz", values)
        names += ["v.npy", "v.npz"]
    for name in names:
        with pytest.raises(VoxgapError, match=rf"has the axes 0 {shape[0]}, .*; say which .* --axes 1,2,3"):
            read(tmp_path / name)
        found = read(tmp_path / name, axes=(1, 2, 3, 0))
        assert np.array_equal(found.values, values.transpose(1, 2, 3, 0))


def test_channels_last_without_names_are_read(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(10, 12, 11, 4)).astype("f4")
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["v"] = values
    assert read(tmp_path / "v.h5").shape == values.shape
    many = np.zeros((12, 9, 9, 200), "f4")
    write(tmp_path / "w.npy", Volume(many))
    assert read(tmp_path / "w.npy").shape == many.shape


# --- older bundles -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_an_older_bundle_reads_as_it_was_trained_and_says_so(form: str, tmp_path: Path) -> None:
    about = {"units": "degrees_north"} if form[:3] != ".nc" else {}
    coordinates = {"time": (np.arange(3.0), {}), "lat": (LAT[::-1], about), "lon": (LON, {})}
    path = _xarray(tmp_path / f"v{form}", FIELD[:, ::-1], coordinates)
    with pytest.warns(UserWarning, match=r"rules 1.*lat would be turned to ascend.*train again"):
        source = Grid(rules=1).scan(path)
    assert np.array_equal(source.read().values[..., 0], FIELD[:, ::-1])
    assert np.array_equal(Grid().scan(path).read().values[..., 0], FIELD)


def test_an_older_bundle_keeps_the_unit_of_its_files(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path = _ome_tiff(tmp_path / "v", "µm", 1e-3)
    with pytest.warns(UserWarning, match=r"a voxel of 2000 × 500 × 250 would be 2 × 0.5 × 0.25 \(mm, s\)"):
        assert Grid(rules=1).scan(path).spacing == pytest.approx((2000.0, 500.0, 250.0))
    recwarn.clear()
    write(tmp_path / "w.ome.tif", read(path))
    assert Grid(rules=1).scan(tmp_path / "w.ome.tif").spacing == pytest.approx(SIZES)
    assert not recwarn.list


@pytest.mark.parametrize("days", [(21, 22, 24, 25), (0, 1, 2, 10), (9, 5, 4), (0.0, 1.0, 2.5)])
def test_how_far_off_a_line_over_uneven_steps_may_be(days: tuple[float, ...]) -> None:
    days = np.sort(days)
    off = []
    for place in range(1, len(days) - 1):
        known = np.delete(days, place), np.delete(np.arange(len(days)) * 1.0, place)
        real = np.interp(days[place], known[0], known[1])  # of a slope of one for each step
        after, before = known[1][place], known[1][place - 1]
        off.append(abs(real - place) / (after - before))
    assert rules.bend(Axis("time", places=days)) == pytest.approx(max(off))
