"""What `voxgap fill` writes beside a filled volume: deviations, sources, a picture."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import xarray
from numpy.testing import assert_array_equal
from PIL import Image

from voxgap import fill as layers
from voxgap import pictures
from voxgap.errors import VoxgapError
from voxgap.filling import learn
from voxgap.filling.files import fill_files
from voxgap.filling.learn import SOURCES
from voxgap.io import read, write
from voxgap.volume import AXES, Volume

AFFINE = np.array([[0, 0, 1.5, -20], [0, -2, 0, 30], [3, 0, 0, -5], [0, 0, 0, 1.0]])
MISSING, OBSERVED, INTERPOLATED, LEARNED, STATISTIC, CONSTANT = range(len(SOURCES))


def gappy(shape: tuple[int, ...] = (6, 7, 8)) -> np.ndarray:
    values = np.random.default_rng(0).normal(5, 1, shape).cumsum(axis=0).astype(np.float32)
    values[2, 1:5, 2:6] = np.nan
    return values


def fill(path: Path, strategy: str, **asked: Any) -> Path:
    fill_files(str(path), path.parent / "out", strategy, **asked)
    return path.parent / "out" / path.name


@pytest.fixture
def sure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fill with deviations that needs no kernel: the mean, and 0.5 for each value."""

    def known(*_: Any) -> learn.Fill:
        def mean(values: np.ndarray, where: Any) -> tuple[np.ndarray, np.ndarray]:
            gaps = np.isnan(values)
            learn._put(values, np.nanmean(values), where)
            deviation = np.where(gaps, np.where(np.isnan(values), np.nan, 0.5), 0).astype(np.float32)
            return np.zeros(values.shape, bool), deviation

        return learn._saying("kriging", mean)

    monkeypatch.setattr(learn, "from_steps", known)


@pytest.mark.parametrize("engine", ["h5netcdf", pytest.param("scipy", marks=pytest.mark.full)])
@pytest.mark.parametrize("falling", [False, pytest.param(True, marks=pytest.mark.full)])
def test_a_netcdf_file_says_it_beside_each_value(
    engine: Any, falling: bool, sure: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    values = gappy()
    values[:, 6, 6:] = np.nan
    lat = np.arange(7.0)[:: -1 if falling else 1]
    coords = {"time": np.arange(6.0), "lat": lat, "lon": np.arange(8.0)}
    about = {"units": "K", "standard_name": "sea_surface_temperature", "ancillary_variables": "quality"}
    data = xarray.Dataset({"sst": (tuple(coords), values, about), "quality": ("lat", lat)}, coords)
    data.to_netcdf(tmp_path / "sea.nc", engine=engine)
    out = fill(tmp_path / "sea.nc", "kriging")
    with xarray.open_dataset(out) as found:
        assert found["sst"].attrs["ancillary_variables"] == "quality sst_standard_deviation sst_source"
        deviation, source = found["sst_standard_deviation"], found["sst_source"]
        assert deviation.dims == source.dims == found["sst"].dims
        assert_array_equal(found["lat"], lat)
        assert deviation.attrs["units"] == "K"
        assert deviation.attrs["standard_name"] == "sea_surface_temperature standard_error"
        assert source.attrs["standard_name"] == "sea_surface_temperature status_flag"
        assert source.attrs["flag_meanings"].split() == list(SOURCES)
        assert source.attrs["flag_values"].tolist() == list(range(len(SOURCES)))
        assert source.dtype == source.attrs["flag_values"].dtype == np.int8
        gaps, never = np.isnan(values), np.isnan(values).all(axis=0) & np.ones_like(values, bool)
        expected = np.where(gaps, np.where(never, MISSING, INTERPOLATED), OBSERVED)
        assert_array_equal(source, expected)
        assert_array_equal(deviation, np.where(gaps, np.where(never, np.nan, 0.5), 0))
        assert found["sst"].values[~gaps].tobytes() == values[~gaps].tobytes()
    # It is still the volume that it was, and is filled again as it was.
    assert read(out).channels == ("sst",)
    again = tmp_path / "again"
    fill_files(str(out), again, "kriging", everywhere=True)
    with xarray.open_dataset(again / "sea.nc") as found:
        assert_array_equal(found["sst_source"], np.where(never, INTERPOLATED, OBSERVED))
        assert "sst_source_of_fill" not in found
    # What another fill says of other values goes, or it would be said of these.
    monkeypatch.undo()
    for told, options in ((["sst_source"], {}), ([], {"evidence": False})):
        fill_files(str(out), tmp_path / "other", "zero", everywhere=True, overwrite=True, **options)
        with xarray.open_dataset(tmp_path / "other" / "sea.nc") as found:
            assert "sst_standard_deviation" not in found
            assert found["sst"].attrs["ancillary_variables"].split() == ["quality", *told]


@pytest.mark.full
def test_names_that_are_taken_stay(tmp_path: Path, sure: None) -> None:
    dims = ("time", "lat", "lon")
    data = xarray.Dataset({"sst": (dims, gappy()), "sst_source": (("lat", "lon"), np.ones((7, 8)))})
    data.to_netcdf(tmp_path / "sea.nc", engine="h5netcdf")
    with xarray.open_dataset(fill(tmp_path / "sea.nc", "kriging")) as found:
        assert (found["sst_source"] == 1).all()
        assert (found["sst_source_of_fill"] <= INTERPOLATED).all()


@pytest.mark.parametrize(
    "name",
    [
        "scan.nii.gz",
        "scan.npy",
        *(
            pytest.param(f"scan{s}", marks=pytest.mark.full)
            for s in (".nrrd", ".mha", ".npz", ".h5", ".tif", ".zarr")
        ),
    ],
)
def test_other_formats_have_files_beside(
    name: str, sure: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(tmp_path / name, Volume(gappy(), affine=None if name.endswith((".npy", ".tif")) else AFFINE))
    before = read(tmp_path / name)
    out = fill(tmp_path / name, "kriging")
    stem, ending = name[:4], name[4:]
    deviation, source = (read(out.with_name(f"{stem}_{word}{ending}")) for word in ("deviation", "source"))
    assert_array_equal(deviation.values, np.where(before.observed, 0, 0.5))
    assert_array_equal(source.values, np.where(before.observed, OBSERVED, INTERPOLATED))
    if before.affine is not None:
        assert np.allclose(deviation.affine, before.affine)
        assert np.allclose(source.affine, before.affine)
    if name == "scan.nii.gz":
        assert nibabel.load(out.with_name("scan_source.nii.gz")).get_data_dtype() == np.uint8
    with Image.open(out.with_name("scan_filled.png")) as picture:
        assert np.asarray(picture.convert("L")).std() > 10
    monkeypatch.undo()
    fill_files(str(tmp_path / name), out.parent, "zero", overwrite=True)
    assert not out.with_name(f"{stem}_deviation{ending}").exists()
    assert out.with_name(f"{stem}_source{ending}").exists()


def test_a_dicom_series_has_maps_where_it_lies(sure: None, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 900, (6, 7, 8)).astype(np.float32)
    values[2:4] = np.nan
    write(tmp_path / "scan.dicom", Volume(values, affine=AFFINE))
    out = fill(tmp_path / "scan.dicom", "kriging")
    gaps = np.isnan(values)[..., np.newaxis]
    source, deviation = (read(out.with_name(f"scan_{word}.nii.gz")) for word in ("source", "deviation"))
    assert_array_equal(source.values, np.where(gaps, INTERPOLATED, OBSERVED))
    assert_array_equal(deviation.values, np.where(gaps, 0.5, 0))
    assert np.allclose(source.affine, read(out).affine)
    assert np.allclose(deviation.affine, read(tmp_path / "scan.dicom").affine)


@pytest.mark.full
def test_a_fill_without_deviations_says_only_where_values_come_from(tmp_path: Path) -> None:
    write(tmp_path / "scan.npy", Volume(gappy()))
    for strategy, kind in (("linear", INTERPOLATED), ("mean", STATISTIC), ("zero", CONSTANT)):
        out = fill(tmp_path / "scan.npy", strategy, overwrite=True)
        source = read(out.with_name("scan_source.npy")).values[..., 0]
        assert_array_equal(source, np.where(np.isnan(gappy()), kind, OBSERVED))
    assert not out.with_name("scan_deviation.npy").exists()
    alone = np.full((3, 3, 3, 2), np.nan, np.float32)
    alone[0, 0, 0, 0] = 1
    made = learn.from_any_sizes("linear", {}, [alone])(alone.copy(), None)
    assert made.source[0, 0, 1, 0] == INTERPOLATED  # it lies on a line with what is observed
    assert (made.source[..., 1] == STATISTIC).all()
    stack = np.stack([gappy()[..., None]] * 2)
    assert (learn.from_samples("knn", {"n_neighbors": 1}, stack)(stack[0].copy(), None).source > 0).all()


def test_a_data_set_stays_one_unless_asked(sure: None, tmp_path: Path) -> None:
    for index in range(4):
        write(tmp_path / f"{index}.npy", Volume(gappy()))
    rows = [f"{index}.npy,{'ab'[index % 2]}" for index in range(4)]
    (tmp_path / "data.csv").write_text("\n".join(["path,label", *rows]))
    fill_files(str(tmp_path / "data.csv"), tmp_path / "plain", "mean", everywhere=True)
    assert not list((tmp_path / "plain").glob("*_source*"))
    fill_files(str(tmp_path / "data.csv"), tmp_path / "told", "mean", everywhere=True, evidence=True)
    assert len(list((tmp_path / "told").glob("*_source.npy"))) == 4
    write(tmp_path / "scan.npy", Volume(gappy()))
    fill_files(str(tmp_path / "scan.npy"), tmp_path / "none", "mean", evidence=False)
    assert {file.name for file in (tmp_path / "none").iterdir()} == {"scan.npy", "fill.json"}


def test_what_no_fill_has_written_is_not_replaced(tmp_path: Path) -> None:
    write(tmp_path / "scan.npy", Volume(gappy()))
    (tmp_path / "out").mkdir()
    mine = tmp_path / "out" / "scan_source.npy"
    mine.write_bytes(b"mine")
    with pytest.raises(VoxgapError, match=r"scan_source.npy: is there already; --overwrite replaces it"):
        fill(tmp_path / "scan.npy", "zero")
    assert mine.read_bytes() == b"mine"
    assert not (tmp_path / "out" / "scan.npy").exists()


@pytest.mark.full
def test_what_another_fill_has_written_makes_no_file_of_a_user_its_own(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        write(tmp_path / f"{name}.npy", Volume(gappy()))
    fill(tmp_path / "one.npy", "zero", everywhere=True)
    mine = tmp_path / "out" / "two_source.npy"
    mine.write_bytes(b"mine")
    with pytest.raises(VoxgapError, match=r"two_source.npy: is there already; --overwrite replaces it"):
        fill(tmp_path / "two.npy", "zero", everywhere=True)
    (tmp_path / "data.csv").write_text("path,label\ntwo.npy,a\nthree.npy,b\n")
    with pytest.raises(VoxgapError, match=r"two_source.npy: is there already"):
        fill_files(str(tmp_path / "data.csv"), tmp_path / "out", "zero", everywhere=True, evidence=True)
    assert mine.read_bytes() == b"mine"
    mine.unlink()
    fill(tmp_path / "two.npy", "zero", everywhere=True)
    # Its own it writes again, where a job was stopped before the volume.
    (tmp_path / "out" / "two.npy").unlink()
    assert fill(tmp_path / "two.npy", "zero", everywhere=True).exists()


@pytest.mark.full
def test_deviations_of_files_are_those_of_kriging(tmp_path: Path) -> None:
    write(tmp_path / "scan.npy", Volume(gappy((8, 16, 16))))
    out = fill(tmp_path / "scan.npy", "kriging")
    values = gappy((8, 16, 16))[..., None]
    field = layers.around.Surroundings.learn([values])
    ((_, value, deviation),) = field.fill(values)
    assert_array_equal(read(out.with_name("scan_deviation.npy")).values, deviation)
    assert_array_equal(read(out).values, np.where(np.isnan(values), value, values))


def test_where_nobody_can_know_how_sure_a_fill_is_a_warning_says_so(tmp_path: Path) -> None:
    once = np.full((6, 7, 8), np.nan, np.float32)
    once[1, 2, 3] = 7
    for name, channels in (("both", [gappy(), once]), ("known", [gappy(), gappy() + 1])):
        write(tmp_path / f"{name}.npy", Volume(np.stack(channels, axis=-1)))
    with pytest.warns(UserWarning, match="of 1 of 2 channels no two observed values differ: .* mean nothing"):
        fill(tmp_path / "both.npy", "kriging", everywhere=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fill(tmp_path / "known.npy", "kriging", overwrite=True)


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        (("time", "lat", "lon"), ("time 2, before", "lon", "lat")),
        (AXES, ("slice 2, before", "width", "height")),
    ],
    ids=str,
)
def test_the_picture_calls_the_axes_as_the_file_does(
    axes: tuple[str, str, str], said: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: list[Any] = []
    png = pictures.png
    monkeypatch.setattr(pictures, "png", lambda figure: drawn.append(figure) or png(figure))
    data = xarray.Dataset({"sst": (axes, gappy())}, coords={axes[0]: np.arange(6.0)})
    data.to_netcdf(tmp_path / "sea.nc", engine="h5netcdf")
    fill(tmp_path / "sea.nc", "mean", everywhere=True)
    first = drawn[0].axes[0]
    assert (first.get_title(), first.get_xlabel(), first.get_ylabel()) == said
