"""Filling files: land stays missing, masks of a file say where the sea is, time steps are samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
from sklearn.impute import KNNImputer

from voxgap.errors import VoxgapError
from voxgap.fill import LinearInterpolation, MatrixFactorization, statistics
from voxgap.fill.linear import interpolate
from voxgap.filling.files import fill_files
from voxgap.filling.job import in_voxels
from voxgap.io import read, scan, split_item, write
from voxgap.volume import Volume

LAND = np.zeros((5, 6), bool)
LAND[:2, :3] = True
CLOUDED = (4, 5)
"""A place at sea that no step observes."""
UNSEEN = np.zeros_like(LAND)
UNSEEN[CLOUDED] = True


def field(steps: int = 8) -> np.ndarray:
    """`(time, lat, lon)`: clouds over a third, nothing on land, and one place at sea that nobody ever saw."""
    rng = np.random.default_rng(0)
    values = rng.normal(15, 1, (steps, 1, 1)) + rng.normal(0, 0.1, (steps, *LAND.shape))
    values[rng.random(values.shape) < 0.33] = np.nan
    values[0], values[1] = np.nan, 15
    values[:, LAND] = np.nan
    values[(slice(None), *CLOUDED)] = np.nan
    return values.astype(np.float32)


def sea(
    path: Path,
    masks: Mapping[str, tuple[np.ndarray, Mapping[str, Any]]] = {},
    values: np.ndarray | None = None,
    falling: bool = False,
) -> Path:
    """A file with one field, and masks `(lat, lon)` or `(time, lat, lon)` beside it."""
    values = field() if values is None else values
    turn = slice(None, None, -1 if falling else 1)
    coords = {"lat": np.arange(30.0, 35)[turn], "lon": np.arange(6.0), "time": np.arange(float(len(values)))}
    data = xarray.Dataset({"sst": (("time", "lat", "lon"), values[:, turn])}, coords)
    for name, (mask, attributes) in masks.items():
        data[name] = (("time", "lat", "lon")[-mask.ndim :], mask[..., turn, :], dict(attributes))
    if path.suffix == ".zarr":
        data.to_zarr(path, consolidated=False)
    else:
        data.to_netcdf(path, engine="h5netcdf" if path.suffix == ".nc4" else "scipy")
    return path


def filled(path: Path, strategy: str = "linear", **asked: Any) -> tuple[np.ndarray, str]:
    """The filled values `(time, lat, lon)`, latitudes ascending, and all that was said."""
    said: list[str] = []
    file, item = split_item(path)
    if file.suffix == ".zarr":
        path, item = Path(f"{file}::sst"), "sst"
    said.append(fill_files(path, file.parent / "out", strategy, say=said.append, **asked))
    out = file.parent / "out" / (f"{file.stem}-{item}{file.suffix}" if item else file.name)
    return read(out, item="sst").values[..., 0], "\n".join(said)


def test_what_no_step_observes_stays_missing_unless_asked(tmp_path: Path) -> None:
    before, path = field(), sea(tmp_path / "sea.nc")
    after, said = filled(path)
    never = LAND.copy()
    never[CLOUDED] = True
    assert np.array_equal(np.isnan(after), np.broadcast_to(never, after.shape))
    assert np.array_equal(after[~np.isnan(before)], before[~np.isnan(before)])
    assert "7 of 30 voxels (23.3%) are observed at no time step" in said
    assert "56 voxels stay missing" in said
    after, said = filled(path, everywhere=True, overwrite=True)
    assert np.isfinite(after).all()
    assert "missing" not in said


FLAGS = {"flag_values": np.array([0, 1], np.int8), "flag_meanings": "sea land"}
TURNED = {"flag_values": np.array([1, 2], np.int8), "flag_meanings": "land open_sea"}
BITS = {"flag_masks": np.array([1, 2], np.int8), "flag_meanings": "land lake"}


@pytest.mark.parametrize(
    ("name", "mask", "attributes", "said"),
    [
        ("mask", ~LAND, {}, "found by its name: gaps are filled where it is 1; where it is 0, gaps stay"),
        pytest.param("lsm", LAND, {}, "filled where it is 0;", marks=pytest.mark.full),
        ("lsm", LAND * 0.9 + 0.02, {}, "filled where it is 0;"),
        ("land_sea_mask", np.where(LAND, np.nan, 1.0), {}, "filled where it is 1; where it is missing"),
        (
            "ground",
            LAND,
            FLAGS,
            "found by its CF attributes: gaps are filled where it is 0 (sea); where it is 1 (land)",
        ),
        pytest.param(
            "ground", np.where(LAND, 1, 2), TURNED, "filled where it is 2 (open_sea)", marks=pytest.mark.full
        ),
        ("ground", LAND, BITS, "filled where it is 0; where it is 1 (land)"),
        ("ground", LAND, {"standard_name": "land_binary_mask"}, "filled where it is 0 (sea)"),
        ("tmask", np.broadcast_to(~LAND, (8, 5, 6)), {}, "filled where it is 1;"),
    ],
)
def test_a_mask_of_the_file_is_found(
    name: str, mask: np.ndarray, attributes: Mapping[str, Any], said: str, tmp_path: Path
) -> None:
    path = sea(
        tmp_path / "sea.nc", {name: (mask.astype(np.float32), attributes), "depth_of_sea": (LAND * 7.5, {})}
    )
    after, text = filled(path if mask.ndim == 2 else Path(f"{path}::sst"))
    assert said in text
    assert np.array_equal(np.isnan(after), np.broadcast_to(LAND, after.shape))


@pytest.mark.parametrize(
    "attributes",
    [
        {"flag_values": "0b, 1b"},
        {"flag_values": ["a", "b"]},
        {"flag_values": [[0], [1]]},
        {"flag_values": [[0], [1, 2]]},
        {"flag_values": [0, None]},
        {"flag_values": [0.5, 1.0]},
        {"flag_values": {"0": "sea"}},
        {"flag_masks": "1b"},
        {"flag_masks": [float("nan"), 1.0]},
        {"flag_values": [0, 1], "flag_masks": "1b"},
    ],
)
def test_meanings_that_go_by_no_numbers_are_ignored(attributes: Mapping[str, Any]) -> None:
    from voxgap.io.masks import _meanings

    named = {**attributes, "flag_meanings": "sea land"}
    assert _meanings(named, np.array([0.0, 1.0, np.inf])) == {}
    assert _meanings({**named, "standard_name": "land_binary_mask"}, np.array([0.0])) == {0: "sea", 1: "land"}


@pytest.mark.parametrize("suffix", [".zarr", pytest.param(".nc4", marks=pytest.mark.full)])
def test_a_mask_turns_with_falling_latitudes(suffix: str, tmp_path: Path) -> None:
    path = sea(tmp_path / f"sea{suffix}", {"lsm": (LAND.astype(np.int8), FLAGS)}, falling=True)
    after, _ = filled(path)
    assert np.array_equal(np.isnan(after), np.broadcast_to(LAND, after.shape))


def test_a_mask_that_is_named_says_where_to_fill(tmp_path: Path) -> None:
    basins = np.where(LAND, 0, np.where(np.arange(6) < 4, 1, 2)).astype(np.int8)
    meanings = {"flag_values": np.array([0, 1, 2], np.int8), "flag_meanings": "none west east"}
    path = sea(tmp_path / "sea.nc", {"basin": (basins, meanings)})
    for asked in ("basin=2", "basin=east"):
        after, said = filled(path, mask=asked, overwrite=True)
        assert np.isfinite(after[:, basins == 2]).all()
        assert np.array_equal(np.isnan(after[:, basins < 2]), np.isnan(field()[:, basins < 2]))
        assert "where it is 2 (east); where it is 0 (none), 1 (west), gaps stay" in said
    for asked in ("basin=2,2", "basin=east,2"):
        assert np.array_equal(filled(path, mask=asked, overwrite=True)[0], after, equal_nan=True)
    with pytest.raises(
        VoxgapError, match=r"basin=9,south has no such value; it holds 0 \(none\), 1 \(west\), 2"
    ):
        filled(path, mask="basin=east,9,south", overwrite=True)
    after, _ = filled(path, mask="basin", overwrite=True)
    assert np.array_equal(np.isnan(after), np.broadcast_to(LAND, after.shape))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("basin", "has no variable 'basin'.*it holds sst, half, "),
        ("sst", "holds .* different values"),
        ("half", r"does not tell what to fill \(observed of each value: 0: .*--mask half=0"),
        ("half=3", "has no such value; it holds 0, 1"),
        ("other", "on a, b, the volume 8×5×6 on time, lat, lon; name a variable on axes of the volume"),
    ],
)
def test_a_mask_that_does_not_tell_is_refused(asked: str, words: str, tmp_path: Path) -> None:
    path = sea(tmp_path / "sea.nc", {"half": (np.arange(30).reshape(5, 6) % 2, {})})
    with xarray.open_dataset(path, decode_cf=False) as data:
        data.load().assign(other=(("a", "b"), np.zeros((2, 2)))).to_netcdf(path, engine="scipy")
    with pytest.raises(VoxgapError, match=words):
        filled(path, mask=asked)
    assert not (tmp_path / "out" / "sea.nc").exists()


def test_what_looks_like_a_mask_and_does_not_tell_is_said_and_not_used(tmp_path: Path) -> None:
    path = sea(tmp_path / "sea.nc", {"mask": (np.arange(30).reshape(5, 6) % 2, {})})
    after, said = filled(path)
    assert "not used: " in said
    assert "mask mask does not tell what to fill" in said
    assert np.isnan(after[(0, *CLOUDED)])
    sea(path, {"mask": (~LAND, {}), "wet": (~LAND & ~UNSEEN, {})})
    with pytest.raises(VoxgapError, match=r"several masks disagree .*--mask VARIABLE"):
        filled(path, overwrite=True)
    with pytest.raises(VoxgapError, match="--everywhere that all are; give one of them"):
        filled(path, mask="wet", everywhere=True)


def test_of_one_file_the_time_steps_are_samples(tmp_path: Path) -> None:
    before, path = field(), sea(tmp_path / "sea.nc")
    gap = np.isnan(before) & ~np.isnan(before).all(axis=0)
    flat = before.reshape(8, -1)
    expected = {
        "mean": np.broadcast_to(np.nanmean(before[:, ~LAND], axis=0, keepdims=True)[0], (8, 24)),
        "knn": KNNImputer(n_neighbors=2, keep_empty_features=True)
        .fit_transform(flat)
        .reshape(before.shape)[:, ~LAND],
    }
    layer = MatrixFactorization(rank=2)
    layer.adapt(before[:, None, ..., None])
    expected["matrix_factorization"] = np.asarray(layer(before[:, None, ..., None]))[:, 0, ..., 0][:, ~LAND]
    options: dict[str, dict[str, Any]] = {"knn": {"n_neighbors": 2}, "matrix_factorization": {"rank": 2}}
    for strategy, values in expected.items():
        after, said = filled(path, strategy, options=options.get(strategy, {}), overwrite=True)
        assert f"{strategy}: learnt from the 8 steps along time of this file" in said
        assert after[:, ~LAND][gap[:, ~LAND]] == pytest.approx(values[gap[:, ~LAND]], rel=1e-4), strategy


def test_time_is_found_wherever_it_lies(tmp_path: Path) -> None:
    path = sea(tmp_path / "sea.nc")
    plain, _ = filled(path, "mean")
    turned, said = filled(path, "mean", axes=("lat", "lon", "time"), overwrite=True)
    assert "8 steps along time" in said
    assert np.array_equal(plain, turned, equal_nan=True)


@pytest.mark.parametrize(
    "axis", ["lat", *(pytest.param(name, marks=pytest.mark.full) for name in ("time", "lon"))]
)
def test_an_axis_is_called_as_in_the_file(axis: str, tmp_path: Path) -> None:
    before, path = field(), sea(tmp_path / "sea.nc")
    after, _ = filled(path, options={"axis": axis}, everywhere=True)
    layer = LinearInterpolation(axis={"time": "depth", "lat": "height", "lon": "width"}[axis])
    layer.adapt(before[None, ..., None])
    assert np.allclose(after, np.asarray(layer(before[None, ..., None]))[0, ..., 0], atol=1e-5)
    with pytest.raises(
        VoxgapError, match="axis must be blend, depth, height, width, or the file's own time, lat, lon"
    ):
        filled(path, options={"axis": "lev"}, overwrite=True)
    rows = [f"{sea(tmp_path / f'{index}.nc').name},{'ab'[index % 2]}" for index in range(4)]
    (tmp_path / "data.csv").write_text("\n".join(["path,label", *rows]))
    fill_files(tmp_path / "data.csv", tmp_path / "many", options={"axis": axis}, everywhere=True)
    lines = {"time": 0, "lat": 1, "lon": 2}[axis]
    known = np.broadcast_to(~np.isnan(before).all(axis=lines, keepdims=True), before.shape)
    assert np.allclose(read(tmp_path / "many" / "2.nc").values[..., 0][known], after[known], atol=1e-5)


def test_what_no_volume_of_the_data_observes_stays_missing(tmp_path: Path) -> None:
    volumes = np.stack([field(3), field(4)[1:], field(5)[2:], field(6)[3:]])[..., None]
    np.savez(tmp_path / "data.npz", volumes=volumes, labels=[0, 1, 0, 1])
    rows = ["path,label"]
    for index, volume in enumerate(volumes):
        write(tmp_path / f"{index}.nii.gz", Volume(volume, np.eye(4)[[2, 1, 0, 3]]))
        rows.append(f"{index}.nii.gz,{'ab'[index % 2]}")
    (tmp_path / "data.csv").write_text("\n".join(rows))
    seen = ~np.isnan(volumes).all(axis=0)
    for name in ("data.npz", "data.csv"):
        said: list[str] = []
        done = fill_files(tmp_path / name, tmp_path / name[-3:], "mean", say=said.append)
        lost = int((~seen).sum())
        assert any(f"{lost} of 90 voxels" in line and "in no volume" in line for line in said)
        assert f"4 volumes filled, {4 * lost} voxels stay missing" in done
    after = np.load(tmp_path / "npz" / "data.npz")["volumes"]
    assert np.array_equal(np.isfinite(after), np.broadcast_to(seen, after.shape))
    assert np.array_equal(read(tmp_path / "csv" / "1.nii.gz").observed, seen)


@pytest.mark.parametrize("axis", ["blend", 2])
def test_slabs_interpolate_as_the_layer_does(axis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(5, 2, (7, 6, 5, 2)).astype(np.float32)
    values[np.random.default_rng(1).random(values.shape) < 0.6] = np.nan
    layer = LinearInterpolation(axis)
    layer.adapt(values[None])
    expected = np.asarray(layer(values[None]))[0]
    monkeypatch.setattr(statistics, "BLOCK_BYTES", 4 * 5 * 4 * 2 * 20)
    parts = list(interpolate(values, axis, np.asarray(layer.reach) if axis == "blend" else (1, 1, 1)))
    assert len(parts) > 1
    estimate = np.concatenate([part[1] for part in parts])
    found = np.concatenate([part[2] for part in parts])
    lost = np.isnan(values)
    assert estimate[found & lost] == pytest.approx(expected[found & lost], rel=1e-5)
    assert expected[lost & ~found] == pytest.approx(np.asarray(layer.mean)[lost & ~found])


@pytest.mark.parametrize(
    ("reach", "expected"),
    [
        ("3days", [3.0, None, None]),
        ("36 h", [1.5, None, None]),
        ("0.5degrees", [None, 2.0, 2.0]),
    ],
)
def test_a_reach_in_units_is_one_in_voxels(reach: str, expected: list, tmp_path: Path) -> None:
    days = ("time", np.arange(8.0), {"units": "days since 2000-01-01"})
    places = {"lat": ("lat", np.arange(5) / 4, {"units": "degrees_north"})}
    places["lon"] = ("lon", np.arange(6) / 4, {"units": "degrees_east"})
    data = xarray.Dataset({"sst": (("time", "lat", "lon"), field())}, {"time": days, **places})
    data.to_netcdf(tmp_path / "sea.nc")
    assert in_voxels(reach, scan(tmp_path / "sea.nc")) == expected
    with pytest.raises(VoxgapError, match="none of time, lat, lon is measured in mm; give voxels"):
        in_voxels("4mm", scan(tmp_path / "sea.nc"))


def test_a_reach_in_mm_leaves_missing_what_is_too_far(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(9, 6, 5)).astype(np.float32)
    values[2:7] = np.nan
    write(tmp_path / "scan.nii.gz", Volume(values, spacing=(3.0, 1.0, 1.0)))
    assert in_voxels("6 mm", scan(tmp_path / "scan.nii.gz")) == [2.0, 6.0, 6.0]
    asked = {"options": {"axis": "depth", "max_gap": "6mm"}, "evidence": False}
    fill_files(str(tmp_path / "scan.nii.gz"), tmp_path / "filled", "linear", **asked)
    filled = read(tmp_path / "filled" / "scan.nii.gz").values
    assert np.isnan(filled[4]).all()
    assert np.isfinite(np.delete(filled, 4, axis=0)).all()
    for wrong in ("6 parsecs", "mm6", "-3mm"):
        with pytest.raises(VoxgapError, match="max_gap") as caught:
            in_voxels(wrong, scan(tmp_path / "scan.nii.gz"))
        assert "\n" not in str(caught.value)
    write(tmp_path / "other.nii.gz", Volume(values, spacing=(2.0, 1.0, 1.0)))
    (tmp_path / "data.csv").write_text("path,label\nscan.nii.gz,a\nother.nii.gz,b\n")
    with pytest.raises(VoxgapError, match=r"other\.nii\.gz: has other spacings than"):
        fill_files(str(tmp_path / "data.csv"), tmp_path / "all", "linear", options={"max_gap": "6mm"})
