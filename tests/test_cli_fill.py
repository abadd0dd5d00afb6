"""`voxgap fill`: observed voxels to the last bit, the files' own format and geometry, whole, resumable."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import xarray
from sklearn.impute import KNNImputer
from typer.testing import CliRunner

from voxgap.cli.fill import fill
from voxgap.dataset import load_data
from voxgap.errors import VoxgapError
from voxgap.filling import FILLS, files
from voxgap.io import read, write
from voxgap.missingness import simulate
from voxgap.recipe import FILLS as LAYERS
from voxgap.volume import Volume

# Kriging compiles its kernel, and a network is trained; both have tests of their own by default.
EACH = [pytest.param(name, marks=[pytest.mark.full] * (name in ("kriging", "learned"))) for name in FILLS]
APP = typer.Typer()
APP.command()(fill)
AFFINE = np.array([[0, 0, 1.5, -20], [0, -2, 0, 30], [3, 0, 0, -5], [0, 0, 0, 1.0]])


def values(count: int = 12, channels: int = 1) -> np.ndarray:
    complete = np.random.default_rng(0).normal(5, 2, size=(count, 5, 4, 6, channels))
    return simulate(complete.astype(np.float32), "slices", 0.3, per_channel=True)


def run(*arguments: object) -> str:
    result = CliRunner().invoke(APP, [str(part) for part in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def check(before: np.ndarray, after: np.ndarray) -> None:
    assert before.dtype == after.dtype
    assert np.isfinite(after).all()
    observed = ~np.isnan(before)
    assert before[observed].tobytes() == after[observed].tobytes()


def manifest(folder: Path, suffix: str = ".nii.gz", split: bool = True) -> Path:
    """Two channels in files of their own, below folders; the second is missing for some samples."""
    rows = []
    for index, volume in enumerate(values(8, 2)):
        row = {"t1": f"p{index}/t1{suffix}", "t2": f"p{index}/t2{suffix}" if index % 4 else ""}
        row |= {"label": "ab"[index % 2], "group": f"g{index}"}
        if split:
            row["split"] = ["train", "train", "val", "test"][index // 2]
        for channel, name in enumerate(("t1", "t2")):
            if row[name]:
                (folder / row[name]).parent.mkdir(exist_ok=True, parents=True)
                write(folder / row[name], Volume(volume[..., channel], affine=AFFINE))
        rows.append(row)
    with (folder / "data.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "data.csv"


def test_each_channel_has_a_fill_of_its_own(tmp_path: Path) -> None:
    held = values(8, 2)
    np.savez(tmp_path / "data.npz", volumes=held, labels=np.arange(8) % 2, channels=np.array(["sst", "mask"]))
    text = run(
        tmp_path / "data.npz", "--strategy", "mask=zero,sst=mean", "--option", "sst.per=channel", "--out", tmp_path
        / "filled"
    )  # fmt: skip
    with np.load(tmp_path / "filled" / "data.npz", allow_pickle=False) as filled:
        after = filled["volumes"]
    check(held, after)
    gaps = np.isnan(held)
    assert (after[..., 1][gaps[..., 1]] == 0).all()
    np.testing.assert_allclose(after[..., 0][gaps[..., 0]], np.nanmean(held[..., 0]), rtol=1e-5)
    assert "mask=zero,sst=mean: learnt from all 8 volumes" in text


def test_one_file_and_files_of_patients_have_fills_by_channel(tmp_path: Path) -> None:
    table = manifest(tmp_path / "data")
    run(table, "--strategy", "t2=zero,t1=nearest", "--out", tmp_path / "filled")
    before, after = (
        read(folder / "p1" / "t2.nii.gz").values for folder in (table.parent, tmp_path / "filled")
    )
    check(before, after)
    assert (after[np.isnan(before)] == 0).all()
    volume = values(1, 2)[0]
    write(tmp_path / "one.npz", Volume(volume))
    run(tmp_path / "one.npz", "--strategy", "0=zero,channel_1=linear", "--out", tmp_path / "filled")
    filled = read(tmp_path / "filled" / "one.npz").values
    check(volume, filled)
    assert (filled[..., 0][np.isnan(volume[..., 0])] == 0).all()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("t1=zero,t3=zero",), "no channel 't3'; there are t1, t2"),
        (("t1=zero",), "channel 't2' has none; give each of t1, t2 one"),
        (("t1=zero,t2=spline",), "--strategy of channel 't2' must be one of zero, mean"),
        (("t1=zero,t2=knn", "--option", "t3.n_neighbors=3"), "--option: no channel 't3'"),
        (("t1=zero,t2=knn", "--option", "t2.neighbours=3"), "fill_options of knn"),
    ],
)
def test_fills_that_do_not_suit_the_channels_are_refused(asked: tuple, said: str, tmp_path: Path) -> None:
    table = manifest(tmp_path / "data")
    with pytest.raises(VoxgapError, match=said) as caught:
        run(table, "--strategy", *asked, "--out", tmp_path / "filled")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "filled" / "p0").exists()


def test_slices_that_are_taken_for_missing_are_filled(tmp_path: Path) -> None:
    scan = np.random.default_rng(0).normal(100, 9, (12, 8, 8, 1)).astype(np.float32)
    scan[4] = 0
    write(tmp_path / "scan.nii.gz", Volume(scan, spacing=(3, 1, 1)))
    # The nearest slice once more is a duplicate, and yet what was asked for.
    asked = ("--strategy", "nearest", "--missing-slices", "constant,duplicated", "--no-evidence")
    run(tmp_path / "scan.nii.gz", *asked, "--out", tmp_path / "filled")
    filled = read(tmp_path / "filled" / "scan.nii.gz").values
    assert (filled[4] > 0).all()
    kept = np.arange(12) != 4
    assert filled[kept].tobytes() == scan[kept].tobytes()


def test_the_names_are_those_of_the_layers() -> None:
    assert list(LAYERS) == list(FILLS)


@pytest.mark.filterwarnings("ignore:.*the most frequent value means little")
@pytest.mark.parametrize("strategy", EACH)
def test_every_fill_writes_an_npz(strategy: str, tmp_path: Path) -> None:
    held = {"volumes": values(), "labels": np.arange(12) % 2, "extra": np.array(["kept"])}
    np.savez(tmp_path / "data.npz", **held)
    text = run(tmp_path / "data.npz", "--strategy", strategy, "--out", tmp_path / "filled")
    with np.load(tmp_path / "filled" / "data.npz", allow_pickle=False) as filled:
        check(held["volumes"], filled["volumes"])
        assert set(filled) == set(held)
        assert filled["extra"] == held["extra"]
    assert ("all 12 volumes: the data names no split" in text) == (strategy != "zero")


@pytest.mark.full
def test_knn_is_fitted_on_the_training_part_or_on_all(tmp_path: Path) -> None:
    before, split = values(), np.array(["train"] * 8 + ["validation"] * 2 + ["test"] * 2)
    np.savez(tmp_path / "data.npz", volumes=before, labels=np.arange(12) % 2, split=split)
    for fit_on, learnt_from in (("train", before[:8]), ("all", before)):
        arguments = ("--option", "n_neighbors=2", "--fit-on", fit_on, "--out", tmp_path / fit_on)
        run(tmp_path / "data.npz", "--strategy", "knn", *arguments)
        filled = np.load(tmp_path / fit_on / "data.npz")["volumes"]
        imputer = KNNImputer(n_neighbors=2, keep_empty_features=True).fit(
            learnt_from.reshape(len(learnt_from), -1)
        )
        expected = imputer.transform(before.reshape(12, -1)).reshape(before.shape)
        somewhere = ~np.isnan(learnt_from).all(axis=0)
        assert filled[:, somewhere] == pytest.approx(expected[:, somewhere], rel=1e-4, abs=1e-4)


def test_the_type_of_the_file_stays_and_sentinels_are_filled(tmp_path: Path) -> None:
    volumes = np.random.default_rng(1).normal(size=(8, 4, 4, 4))
    volumes[2, 1] = np.nan
    np.savez(tmp_path / "double.npz", volumes=volumes, labels=np.arange(8) % 2)
    run(tmp_path / "double.npz", "--strategy", "mean", "--out", tmp_path / "out")
    check(volumes, np.load(tmp_path / "out" / "double.npz")["volumes"])
    whole = np.random.default_rng(1).integers(0, 9, (8, 4, 4, 4)).astype(np.int16)
    whole[3, 2] = -3024
    np.savez(tmp_path / "whole.npz", volumes=whole, labels=np.arange(8) % 2)
    arguments = ("--strategy", "mean", "--missing-values", "-3024", "--out", tmp_path / "sentinel")
    run(tmp_path / "whole.npz", *arguments)
    filled = np.load(tmp_path / "sentinel" / "whole.npz")["volumes"]
    assert filled.dtype == np.float32
    assert filled[3, 2] == pytest.approx(np.delete(whole[:, 2], 3, axis=0).mean(axis=0), rel=1e-6)
    assert np.array_equal(np.delete(filled, 3, axis=0), np.delete(whole, 3, axis=0))


@pytest.mark.parametrize(
    "suffix",
    [
        ".nii.gz",
        ".npz",
        *(pytest.param(s, marks=pytest.mark.full) for s in (".mha", ".nrrd", ".tif", ".zarr")),
    ],
)
def test_a_manifest_keeps_paths_formats_and_geometry(suffix: str, tmp_path: Path) -> None:
    source = manifest(tmp_path / "in", suffix)
    text = run(source, "--strategy", "mean", "--out", tmp_path / "out")
    assert "learnt from 4 volumes of the training part" in text
    before, after = load_data(source), load_data(tmp_path / "out" / "data.csv")
    check(before.volumes, after.volumes)
    assert after.channels == before.channels == ("t1", "t2")
    for field in ("targets", "split", "groups"):
        assert np.array_equal(getattr(before, field), getattr(after, field))
    train = before.volumes[before.split == "train"]
    seen = ~np.isnan(train).all(axis=0)
    gap = np.isnan(before.volumes[7]) & seen
    assert after.volumes[7][gap] == pytest.approx(np.nanmean(train[:, seen], axis=0)[gap[seen]], rel=1e-5)
    one, other = (read(tmp_path / where / f"p1/t1{suffix}") for where in ("in", "out"))
    assert np.array_equal(one.affine, other.affine)
    # A channel that was never acquired gets a file, with the geometry of the one that was.
    rows = list(csv.DictReader((tmp_path / "out" / "data.csv").open()))
    assert rows[0]["t2"] == f"p0/t1-t2{suffix}"
    assert np.allclose(read(tmp_path / "out" / rows[0]["t2"]).affine, one.affine)


def test_targets_and_label_maps_stay(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    lines = ["path,label_map,target_x,target_y"]
    for index, volume in enumerate(values(6)):
        write(folder / f"v{index}.npz", Volume(volume))
        write(folder / f"m{index}.nii", Volume((volume[..., 0] > 5).astype(np.float32)))
        lines.append(f"v{index}.npz,m{index}.nii,{index}.5,{-index}")
    (folder / "data.csv").write_text("\n".join(lines))
    run(folder / "data.csv", "--strategy", "linear", "--out", tmp_path / "out")
    before, after = load_data(folder / "data.csv"), load_data(tmp_path / "out" / "data.csv")
    check(before.volumes, after.volumes)
    assert np.array_equal(before.targets, after.targets)
    assert np.array_equal(before.label_maps, after.label_maps)


def test_a_folder_per_class(tmp_path: Path) -> None:
    for index, volume in enumerate(values(8)):
        (tmp_path / "in" / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
        write(tmp_path / "in" / "ab"[index % 2] / f"{index}.nrrd", Volume(volume, spacing=(3, 2, 1)))
    run(tmp_path / "in", "--strategy", "median", "--out", tmp_path / "out")
    before, after = load_data(tmp_path / "in"), load_data(tmp_path / "out")
    check(before.volumes, after.volumes)
    assert before.spacing == after.spacing
    with pytest.raises(VoxgapError, match="lies in the data that is filled"):
        run(tmp_path / "in", "--strategy", "zero", "--out", tmp_path / "in" / "filled")


@pytest.mark.parametrize("strategy", EACH)
def test_one_volume(strategy: str, tmp_path: Path) -> None:
    volume = Volume(values()[0], affine=AFFINE)
    write(tmp_path / "scan.nii.gz", volume)
    arguments = (tmp_path / "scan.nii.gz", "--strategy", strategy, "--out", tmp_path / "out")
    if strategy in ("knn", "matrix_factorization"):
        with pytest.raises(VoxgapError, match="fills from other volumes; give a data set"):
            run(*arguments)
        return
    assert ("this volume alone" in run(*arguments)) == (strategy != "zero")
    filled = read(tmp_path / "out" / "scan.nii.gz")
    check(read(tmp_path / "scan.nii.gz").values, filled.values)
    assert np.allclose(filled.affine, read(tmp_path / "scan.nii.gz").affine)
    if strategy == "mean":
        gap = np.isnan(read(tmp_path / "scan.nii.gz").values)
        assert filled.values[gap] == pytest.approx(np.nanmean(volume.values), rel=1e-5)


def test_a_sample_becomes_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"volumes": values(), "targets": np.arange(12) % 2, "task": "classification"}
    small |= {"classes": ("a", "b"), "split": np.repeat(["train", "validation", "test"], 4), "name": "tiny"}
    monkeypatch.setattr("voxgap.samples.load", lambda _: small)
    run("sample:brain", "--strategy", "mean", "--out", tmp_path)
    after = load_data(tmp_path / "brain.npz")
    check(small["volumes"], after.volumes)
    assert after.classes == ("a", "b")
    assert np.array_equal(after.split, small["split"])


def test_a_stopped_job_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, written = manifest(tmp_path / "in"), []
    genuine = files._fill_sample

    def stop_after_three(job: Any, sample: Any, *rest: Any) -> int:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(sample)
        return genuine(job, sample, *rest)

    monkeypatch.setattr(files, "_fill_sample", stop_after_three)
    with pytest.raises(AssertionError, match="130"):
        run(source, "--strategy", "mean", "--out", tmp_path / "out")
    monkeypatch.setattr(files, "_fill_sample", genuine)
    assert not (tmp_path / "out" / "data.csv").exists()
    first = (tmp_path / "out/p1/t1.nii.gz").stat().st_mtime_ns
    with pytest.raises(VoxgapError, match="was filled in another way"):
        run(source, "--strategy", "median", "--out", tmp_path / "out")
    assert "5 volumes filled, 3 were there already" in run(
        source, "--strategy", "mean", "--out", tmp_path / "out"
    )
    assert (tmp_path / "out/p1/t1.nii.gz").stat().st_mtime_ns == first
    check(load_data(source).volumes, load_data(tmp_path / "out" / "data.csv").volumes)
    text = run(source, "--strategy", "median", "--overwrite", "--out", tmp_path / "out")
    assert "8 volumes filled:" in text.replace("\n", " ")
    assert json.loads((tmp_path / "out" / "fill.json").read_text())["strategy"] == "median"


def test_a_folder_may_hold_files_that_were_filled_in_several_ways(tmp_path: Path) -> None:
    for name in ("a", "b"):
        values = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
        values[2] = np.nan
        np.save(tmp_path / f"{name}.npy", values)
    out = tmp_path / "filled"
    run(tmp_path / "a.npy", "--strategy", "linear", "--option", "axis=depth", "--out", out)
    text = run(tmp_path / "b.npy", "--strategy", "zero", "--out", out)
    assert "1 volume filled" in text
    assert (np.load(out / "b.npy")[2] == 0).all()
    assert "was there already" in run(
        tmp_path / "a.npy", "--strategy", "linear", "--option", "axis=depth", "--out", out
    )
    with pytest.raises(
        VoxgapError, match=r"a.npy: was filled in another way \(strategy linear, not zero; axis "
    ):
        run(tmp_path / "a.npy", "--strategy", "zero", "--out", out)
    run(tmp_path / "a.npy", "--strategy", "zero", "--overwrite", "--out", out)
    with pytest.raises(VoxgapError, match=r"b.npy: was filled in another way \(everywhere false, not true;"):
        run(tmp_path / "b.npy", "--strategy", "zero", "--everywhere", "--out", out)
    record = json.loads((out / "fill.json").read_text())
    assert (record["files"], record["others"][0]["files"]) == (["a.npy"], ["b.npy"])
    # As an earlier version left it: one record for all that is there.
    (out / "fill.json").write_text(
        json.dumps({k: v for k, v in record.items() if k not in ("files", "others")})
    )
    with pytest.raises(VoxgapError, match="in another way"):
        run(tmp_path / "b.npy", "--strategy", "mean", "--out", out)


def test_the_input_is_never_written_over(tmp_path: Path) -> None:
    source = manifest(tmp_path)
    np.savez(tmp_path / "data.npz", volumes=values(), labels=np.arange(12) % 2)
    (tmp_path / "link").symlink_to(tmp_path)
    for data in (source, tmp_path / "data.npz", tmp_path / "p1" / "t1.nii.gz"):
        content = data.read_bytes()
        for folder in (data.parent, tmp_path / "link" / data.parent.relative_to(tmp_path)):
            with pytest.raises(VoxgapError, match="would be overwritten; choose another --out"):
                run(data, "--strategy", "zero", "--overwrite", "--out", folder)
        assert data.read_bytes() == content


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--strategy", "masked_conv"), "is no fill; choose one of zero, mean"),
        (("--fit-on", "test"), "--fit-on must be train or all"),
        (("--option", "axis"), "give name=value"),
        (
            ("--strategy", "knn", "--option", "neighbours=3"),
            "fill_options of knn: no option 'neighbours'; there are n_",
        ),
        (
            ("--strategy", "kriging", "--option", "learns_across=maybe"),
            "learns_across must be true or false, got 'maybe'",
        ),
        (("--option", "axis=up"), "axis must be"),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_read(
    arguments: tuple, words: str, tmp_path: Path
) -> None:
    with pytest.raises(VoxgapError, match=words):
        run(tmp_path / "nowhere.csv", *arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_formats_that_would_change_what_is_observed(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (6, 16, 16, 1)).astype(np.float32)
    (tmp_path / "clip.mp4").write_bytes(b"1")
    with pytest.raises(VoxgapError, match=r"\.mp4 is only read; convert"):
        run(tmp_path / "clip.mp4", "--strategy", "zero", "--out", tmp_path / "out")
    write(tmp_path / "exact.npy", Volume(frames))
    assert "1 volume filled" in run(tmp_path / "exact.npy", "--strategy", "zero", "--out", tmp_path / "out")


def test_a_file_that_did_not_keep_what_is_observed_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "scan.npy", Volume(values()[0]))

    def rounding(path: Path, volume: Volume, **_: object) -> None:
        write(path, Volume(volume.values.round()))

    monkeypatch.setattr(files, "write", rounding)
    with pytest.raises(VoxgapError, match="can't keep the observed values exactly"):
        run(tmp_path / "scan.npy", "--strategy", "zero", "--out", tmp_path / "out")
    assert not (tmp_path / "out" / "scan.npy").exists()


def test_two_rows_never_share_a_target(tmp_path: Path) -> None:
    write(tmp_path / "v.npz", Volume(values()[0]))
    (tmp_path / "data.csv").write_text("path,label\nv.npz,a\nv.npz,b\nv.npz,a\nv.npz,b\n")
    with pytest.raises(VoxgapError, match="give each row its files"):
        run(tmp_path / "data.csv", "--strategy", "mean", "--out", tmp_path / "out")


@pytest.mark.full
def test_a_manifest_of_dicom_folders(tmp_path: Path) -> None:
    rows = ["t1,t2,label"]
    for index in range(6):
        volume = np.random.default_rng(index).integers(0, 500, (5, 4, 6)).astype(np.float32)
        for name in ("t1", "t2"):
            write(tmp_path / f"data/p{index}/{name}.dicom", Volume(volume, affine=AFFINE))
            (tmp_path / f"data/p{index}/{name}.dicom").rename(tmp_path / f"data/p{index}/{name}")
        (tmp_path / f"data/p{index}/t1/00003.dcm").unlink()
        rows.append(f"p{index}/t1,{f'p{index}/t2' if index else ''},{'ab'[index % 2]}")
    (tmp_path / "data/data.csv").write_text("\n".join(rows))
    run(tmp_path / "data/data.csv", "--strategy", "mean", "--everywhere", "--out", tmp_path / "out")
    before, after = load_data(tmp_path / "data/data.csv"), load_data(tmp_path / "out/data.csv")
    assert np.isnan(before.volumes[:, 2, ..., 0]).all()
    assert np.isnan(before.volumes[0, ..., 1]).all()
    check(before.volumes, after.volumes)
    assert np.array_equal(before.targets, after.targets)


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_packed_values_beside_others_and_falling_latitudes_are_filled(suffix: str, tmp_path: Path) -> None:
    sst = np.random.default_rng(0).integers(0, 3000, (4, 5, 6)) * 0.01 + 273.15
    sst[1] = np.nan
    dims = ("time", "lat", "lon")
    data = xarray.Dataset({"sst": (dims, sst), "wind": (dims, sst / 3)}, {"lat": np.arange(5.0)[::-1]})
    packing = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 273.15, "_FillValue": -999}
    path = tmp_path / f"sea{suffix}"
    if suffix == ".nc":
        data.to_netcdf(path, engine="h5netcdf", encoding={"sst": packing})
    else:
        data[["sst"]].to_zarr(path, zarr_format=2, encoding={"sst": packing}, consolidated=False)
    run(path, "--out", tmp_path / "out", "--strategy", "zero")
    before, after = read(path), read(tmp_path / "out" / path.name)
    assert after.channels == before.channels
    assert np.array_equal(after.values, np.where(before.observed, before.values, 0))


def test_items_of_netcdf_files_are_filled_in_copies(tmp_path: Path) -> None:
    rows = ["path,label"]
    for index in range(6):
        sst = np.random.default_rng(index).normal(size=(4, 3, 5))
        sst[1] = np.nan
        grid = {"time": np.arange(4.0), "lat": np.linspace(9, 1, 3), "lon": np.arange(5.0)}
        other = (("time", "lat", "lon", "lev"), np.zeros((4, 3, 5, 2)))
        data = xarray.Dataset({"sst": (tuple(grid), sst, {"units": "K"}), "other": other}, coords=grid)
        data.to_netcdf(tmp_path / f"{index}.nc", engine="h5netcdf")
        rows.append(f"{index}.nc::sst,{'ab'[index % 2]}")
    (tmp_path / "data.csv").write_text("\n".join(rows))
    run(tmp_path / "data.csv", "--strategy", "linear", "--option", "axis=depth", "--out", tmp_path / "out")
    assert "2-sst.nc::sst" in (tmp_path / "out/data.csv").read_text()
    check(load_data(tmp_path / "data.csv").volumes, load_data(tmp_path / "out/data.csv").volumes)
    with xarray.open_dataset(tmp_path / "out/2-sst.nc") as found:
        assert found["sst"].attrs == {"units": "K"}
        assert found["lat"].values.tolist() == [9, 5, 1]
        assert found["other"].shape == (4, 3, 5, 2)
    assert "0 volumes filled" in run(
        tmp_path / "data.csv", "--strategy", "linear", "--option", "axis=depth", "--out", tmp_path / "out"
    )


def test_files_of_a_patient_on_two_grids_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a.nii", Volume(values()[0], affine=AFFINE))
    moved = AFFINE.copy()
    moved[0, 3] += 5
    write(tmp_path / "b.nii", Volume(values()[0], affine=moved))
    (tmp_path / "data.csv").write_text("t1,t2,label\na.nii,b.nii,x\n")
    with pytest.raises(VoxgapError, match=r"lies on another grid than .*; voxgap fill needs"):
        run(tmp_path / "data.csv", "--strategy", "mean", "--out", tmp_path / "out")


@pytest.mark.parametrize("strategy", ["zero", "linear"])
def test_scans_of_every_size(strategy: str, tmp_path: Path) -> None:
    rows, scans = ["path,label"], []
    for index in range(4):
        scan = np.random.default_rng(index).normal(5, 2, (4 + index, 6, 5 + index % 2)).astype(np.float32)
        scan[1:3] = np.nan
        if index == 3:
            scan[:, :, 2] = np.nan  # nothing before or after it
        scans.append(scan)
        write(tmp_path / f"{index}.nii.gz", Volume(scan, affine=AFFINE))
        rows.append(f"{index}.nii.gz,{'ab'[index % 2]}")
    (tmp_path / "data.csv").write_text("\n".join(rows))
    options = ["--option", "axis=depth"] if strategy == "linear" else []
    run(tmp_path / "data.csv", "--strategy", strategy, *options, "--out", tmp_path / "out")
    mean = np.nanmean(np.concatenate([scan.ravel() for scan in scans]))
    for index, before in enumerate(scans):
        # Written upside down, as the affine says: voxgap turns both alike.
        found = read(tmp_path / f"{index}.nii.gz").values[..., 0]
        after = read(tmp_path / f"out/{index}.nii.gz").values[..., 0]
        check(found, after)
        lost = np.isnan(found)
        if strategy == "zero":
            assert (after[lost] == 0).all()
        elif index < 3:
            ends = found[0], found[3]
            assert np.allclose(after[1], ends[0] * 2 / 3 + ends[1] / 3, atol=1e-5)
        else:
            assert np.allclose(after[:, :, 2], mean, atol=1e-5)
        assert before.shape == after.shape
