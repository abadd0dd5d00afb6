"""Options that say how DATA is read: what `train` was told, `evaluate` and `predict` do as well."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import xarray
from typer.testing import CliRunner

from voxgap.cli import app
from voxgap.cli.data import grid_arguments, load
from voxgap.dataset import medmnist
from voxgap.dataset.door import is_one_volume
from voxgap.errors import VoxgapError
from voxgap.io import RULES, write
from voxgap.runtime import load as load_bundle
from voxgap.volume import Volume

QUICK = ("--model", "cnn3d", "--filters", "3", "--epochs", "1", "--precision", "float32")


def voxgap(*arguments: object) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans of three shapes, 0 or 100 on average, -3024 outside the circle."""
    folder = tmp_path_factory.mktemp("scans")
    rng = np.random.default_rng(0)
    lines = ["path,label,split"]
    for index in range(12):
        values = rng.normal(100 * (index % 2), 1, [(6, 8, 8), (8, 6, 9), (5, 7, 8)][index % 3])
        values[:, :2] = -3024
        write(folder / f"{index}.nii.gz", Volume(values, spacing=(2, 1, 1)))
        lines.append(f"{index}.nii.gz,{'high' if index % 2 else 'low'},{'train' if index < 8 else 'test'}")
    (folder / "scans.csv").write_text("\n".join(lines))
    return folder


@pytest.mark.full
def test_serving_does_what_training_was_told(scans: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    options = ("--size", "6,6,6", "--missing-values", "-3024,-1000", "--crop", "observed")
    voxgap("train", scans / "scans.csv", "--out", bundle, *QUICK, *options)
    manifest = json.loads((bundle / "manifest.json").read_text())
    grid = {"size": [6, 6, 6], "spacing": None, "crop": "observed", "missing_values": [-3024.0, -1000.0]}
    grid |= {"reference": None, "axes": [], "at": {}, "rules": RULES}
    assert manifest["input"]["grid"] == grid
    assert manifest["input"]["shape"] == [6, 6, 6, 1]
    assert manifest["data"]["missingness"]["missing_rate"] == 0
    scores = json.loads(voxgap("evaluate", bundle, scans / "scans.csv", "--json"))
    assert scores["test"] == pytest.approx(manifest["scores"]["test"], nan_ok=True)
    files = [scans / f"{index}.nii.gz" for index in range(3)]
    rows = list(csv.DictReader(io.StringIO(voxgap("predict", bundle, *files))))
    predictor = load_bundle(bundle)
    for row, file in zip(rows, files, strict=True):
        volume, records = predictor.read(file)
        assert [record["step"] for record in records] == ["crop", "resample"]
        assert float(row["p_low"]) == pytest.approx(predictor.predict(volume)[0, 1], abs=1e-5)
        assert float(row["missing_rate"]) == 0


def test_options_that_are_no_numbers() -> None:
    assert grid_arguments("3,4,5", "1,0.5,2", "observed", "-3024") == {
        "size": (3, 4, 5),
        "spacing": (1, 0.5, 2),
        "crop": "observed",
        "missing_values": (-3024,),
        "reference": None,
        "axes": (),
        "at": {},
        "missing_slices": (),
    }
    found = grid_arguments(None, None, None, None, None, "time, lat,lon", "lev=0,ens=2")
    assert found["axes"] == ("time", "lat", "lon")
    assert found["at"] == {"lev": 0, "ens": 2}
    for given, words in (
        (("3,4,x", None, None, None), "--size takes integers"),
        ((None, "1;1;1", None, None), "--spacing takes numbers"),
        ((None, None, None, "air"), "--missing-values takes numbers"),
    ):
        with pytest.raises(VoxgapError, match=words):
            grid_arguments(*given)


def test_a_set_is_fetched_before_it_is_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arrays = {f"{part}_images": np.zeros((4, 3, 3, 3), np.uint8) for part in ("train", "val", "test")}
    arrays |= {f"{part}_labels": np.array([[0], [1]] * 2) for part in ("train", "val", "test")}
    np.savez(tmp_path / "set.npz", **arrays)
    asked: list[bool] = []

    def find(data: str, report: object = None) -> Path:
        asked.append(report is not None)
        if callable(report):
            report(10, None)
            report(20, 20)
        return tmp_path / "set.npz"

    monkeypatch.setattr(medmnist, "find", find)
    assert len(load("medmnist:organmnist3d")) == 12
    assert asked == [True, False]


def test_one_volume_and_a_data_set_are_told_apart(tmp_path: Path) -> None:
    volume = Volume(np.random.default_rng(0).normal(size=(3, 4, 5)), spacing=(1, 1, 1))
    for name in ("a.dicom", "a.zarr", "a.h5", "a.nii.gz", "a.npz"):
        write(tmp_path / name, volume)
        assert is_one_volume(str(tmp_path / name)), name
    next((tmp_path / "a.dicom").glob("*.dcm")).rename(tmp_path / "IM0001")
    for name in ("a.h5::values", "a.zarr::values", "a.npz::values", "none.nii", "IM0001"):
        assert is_one_volume(str(tmp_path / name)), name
    np.savez(tmp_path / "set.npz", volumes=np.zeros((2, 3, 3, 3, 1)), labels=[0, 1])
    (tmp_path / "classes" / "sick").mkdir(parents=True)
    for name in ("set.npz", "classes", "none", "none.csv"):
        assert not is_one_volume(str(tmp_path / name)), name
    for name in ("sample:brain", "medmnist:organmnist3d"):
        assert not is_one_volume(name)


@pytest.mark.full
def test_axes_are_said_once_and_stand_in_the_bundle(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = ["path,label"]
    for index in range(16):
        values = rng.normal(index % 2, 1, (2, 6, 5, 4)).astype("f4")
        names = ("member", "eta_rho", "xi_rho", "s_rho")
        xarray.Dataset({"v": (names, values)}).to_netcdf(tmp_path / f"{index}.nc", engine="h5netcdf")
        rows.append(f"{index}.nc,{('low', 'high')[index % 2]}")
    (tmp_path / "data.csv").write_text("\n".join(rows))
    other = values.transpose(0, 3, 1, 2)
    xarray.Dataset({"v": (("m", "z", "b", "a"), other)}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(VoxgapError, match=r"--axes eta_rho,xi_rho,s_rho --at member=0"):
        voxgap("train", tmp_path / "data.csv", "--out", tmp_path / "bundle", *QUICK)
    said = ("--axes", "s_rho,eta_rho,xi_rho", "--at", "member=1")
    facts = json.loads(voxgap("inspect", tmp_path / "0.nc", *said, "--json"))
    assert facts["description"]["shape"][-4:] == [4, 6, 5, 1]
    voxgap("train", tmp_path / "data.csv", "--out", tmp_path / "bundle", *said, *QUICK)
    voxgap("evaluate", tmp_path / "bundle", tmp_path / "data.csv", "--json")
    of_training = voxgap("predict", tmp_path / "bundle", tmp_path / "15.nc")
    renamed = voxgap("predict", tmp_path / "bundle", tmp_path / "other.nc", "--axes", "z,b,a", "--at", "m=1")
    first, second = (next(csv.DictReader(io.StringIO(text))) for text in (of_training, renamed))
    assert first["p_low"] == second["p_low"]
    voxgap("fill", tmp_path / "15.nc", "--axes", "s_rho,eta_rho,xi_rho,member", "--out", tmp_path / "filled")
    with xarray.open_dataset(tmp_path / "filled" / "15.nc") as data:
        assert np.array_equal(data["v"].values, values)
