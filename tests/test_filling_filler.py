"""Fillers as bundles: which folder is one, how files are filled with it, and the way from gaps to a filled file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from numpy.testing import assert_array_equal
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

import voxgap as vg
from voxgap.cli import app as cli
from voxgap.cli.fill import fill, progress
from voxgap.cli.filler import as_strategy
from voxgap.errors import VoxgapError
from voxgap.filling import files as files_of
from voxgap.filling import filler, learn, refuse_unfinished, streamed
from voxgap.filling.check import Check, check_fills
from voxgap.filling.train import patch_of, tiled, unbeaten
from voxgap.history import History
from voxgap.metrics.overlap import digests, known_cases
from voxgap.runtime import Bundle, Manifest, Predictor
from voxgap.volume import Volume

APP = typer.Typer()
APP.command()(fill)


def manifest(task: str = "fill", outputs: int = 2, **changes: Any) -> dict[str, Any]:
    patches = {"size": [2, 3, 4], "overlap": 0.5}
    return {
        "schema_version": 1,
        "task": task,
        "classes": [],
        "input": {"shape": [2, 3, 4, 1], "channels": ["0"], "patches": patches, "spacing": None, "grid": {}},
        "outputs": outputs,
        "network": "learned",
        "strategy": {},
        "files": {},
    } | changes


def doubling(patches: np.ndarray) -> np.ndarray:
    """A filler that knows one number, and is surer of it the fewer voxels there are."""
    value = np.where(np.isnan(patches), np.float32(7), patches * np.float32(1.0000001))
    return np.concatenate([value, np.isnan(patches) * np.float32(0.5)], axis=-1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle that fills."""
    place = tmp_path / "filler"
    place.mkdir()
    (place / "manifest.json").write_text(json.dumps(manifest()))
    monkeypatch.setattr(filler, "load", lambda where: Predictor(Bundle.open(where).manifest, doubling))
    return place


def gappy(shape: tuple[int, ...] = (5, 6, 7), seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    values = gaussian_filter(generator.normal(size=shape), 1.5)
    values = (5 + values / values.std()).astype(np.float32)
    values[generator.random(shape) < 0.3] = np.nan
    values[2] = np.nan
    return values


def test_a_file_is_filled_by_patches_with_deviations(folder: Path, tmp_path: Path) -> None:
    before = gappy()
    vg.write(tmp_path / "scan.nii.gz", Volume(before))
    given = [str(folder), str(tmp_path / "scan.nii.gz"), "--everywhere", "--out", str(tmp_path / "filled")]
    result = CliRunner().invoke(APP, given, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "learnt from" not in result.output
    after, deviation, source = (
        vg.read(tmp_path / "filled" / f"scan{ending}.nii.gz").values[..., 0]
        for ending in ("", "_deviation", "_source")
    )
    gaps = np.isnan(before)
    assert before[~gaps].tobytes() == after[~gaps].tobytes()
    np.testing.assert_allclose(after[gaps], 7, rtol=1e-6)
    assert (deviation[~gaps] == 0).all()
    np.testing.assert_allclose(deviation[gaps], 0.5, rtol=1e-6)
    assert_array_equal(
        source, np.where(gaps, learn.SOURCES.index("learned"), learn.SOURCES.index("observed"))
    )
    both = CliRunner().invoke(APP, [*given, "--strategy", "mean"])
    assert "both say how to fill" in str(both.exception)


def test_what_is_not_wanted_stays_missing(folder: Path) -> None:
    values = gappy()[..., None]
    gaps, where = np.isnan(values), np.zeros(values.shape, bool)
    where[:3] = True
    made = filler.from_bundle(str(folder))(values, where)
    assert_array_equal(np.isnan(values), gaps & ~where)
    assert made.deviation is not None
    assert_array_equal(np.isnan(made.deviation), gaps & ~where)


def test_a_filler_stands_beside_the_fills(folder: Path, tmp_path: Path) -> None:
    vg.write(tmp_path / "scan.nii.gz", Volume(gappy((8, 8, 8))))
    found = check_fills(tmp_path / "scan.nii.gz", str(folder), fills=("zero",), seeds=1)
    assert {row.strategy for row in found.rows} == {str(folder), "zero"}
    assert found.best.strategy == str(folder)
    assert found.best.scores is not None
    assert found.best.scores.crps is not None


def test_a_filler_that_met_the_volumes_is_said_to(folder: Path, tmp_path: Path) -> None:
    volumes = [gappy((8, 8, 8), seed) for seed in (0, 1)]
    for name, values in zip(("met", "new"), volumes, strict=True):
        vg.write(tmp_path / f"{name}.nii.gz", Volume(values))
    cases = json.dumps(known_cases(digests([volumes[0][..., None]]), ["train"])).encode()
    (folder / "cases.json").write_bytes(cases)
    entry = {"path": "cases.json", "sha256": hashlib.sha256(cases).hexdigest(), "bytes": len(cases)}
    (folder / "manifest.json").write_text(json.dumps(manifest(cases=entry)))
    met, new = (
        check_fills(tmp_path / f"{name}.nii.gz", str(folder), fills=("zero",), seeds=1)
        for name in ("met", "new")
    )
    assert "1 of 1 volumes were in training of this bundle: these scores are too good" in str(met)
    assert not new.notes
    assert not check_fills(tmp_path / "met.nii.gz", "zero", fills=(), seeds=1).notes


def test_a_filler_is_evaluated_beside_kriging(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def check(*data: Any, **how: Any) -> Check:
        asked.update(how)
        return Check("", "", 0, 1, "", (), "")

    monkeypatch.setattr(vg, "check_fills", check)
    result = CliRunner().invoke(cli, ["evaluate", str(folder), "scan.nii.gz"])
    assert result.exit_code == 0, result.output
    assert asked["fills"] == ("kriging",)
    assert asked["progress"] is progress


def test_a_filler_is_loaded_once_for_all_draws(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vg.write(tmp_path / "scan.nii.gz", Volume(gappy((8, 8, 8))))
    load, loaded = filler.load, []
    monkeypatch.setattr(filler, "load", lambda where: loaded.append(where) or load(where))
    found = check_fills(tmp_path / "scan.nii.gz", str(folder), fills=("zero",), seeds=3)
    assert loaded == [str(folder)]
    assert len(found.rows) == 2


def test_a_filler_that_kriging_equals_is_said_to_be() -> None:
    def scores(rmse: float) -> dict[str, dict[str, float]]:
        return {"kriging": {"rmse": 0.367}, "learned": {"rmse": rmse}}

    said = unbeaten(scores(0.374))
    assert said == (
        "learned did not beat kriging on what was held out (RMSE 0.374 against 0.367): more data or steps, or "
        "--strategy kriging"
    )
    assert "was hidden" in unbeaten(scores(0.367), held_out=False)
    assert unbeaten(scores(0.366)) == ""
    assert unbeaten(scores(float("nan")))
    epoch = {"loss": 1.0, "val_loss": 1.0, "seconds": 1.0}
    history = History((epoch,), "val_loss", 0, 1, "epochs", unbeaten=said)
    assert history.remarks() == [said]
    assert history.to_json()["unbeaten"] == said
    assert "unbeaten" not in History((epoch,), "val_loss", 0, 1, "epochs").to_json()


@pytest.mark.parametrize("held", ["training-state", ".training.lock"])
def test_a_training_that_was_not_finished_is_no_bundle(held: str, tmp_path: Path) -> None:
    (tmp_path / "sea" / held).mkdir(parents=True)
    with pytest.raises(
        VoxgapError, match="no bundle yet: its training was not finished; give the train command"
    ):
        refuse_unfinished(str(tmp_path / "sea"))
    with pytest.raises(VoxgapError, match="sea: no bundle yet"):
        vg.fill_files("scan.nii.gz", tmp_path / "out", str(tmp_path / "sea"))
    with pytest.raises(VoxgapError, match="sea: no bundle yet"):
        as_strategy(str(tmp_path / "sea"))


def test_a_path_is_no_name_of_a_fill(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("some").mkdir()
    for path, why in {
        "runs/sea": "no such folder",
        "runs/": "no such folder",
        f"{tmp_path}/some": "holds no",
    }.items():
        with pytest.raises(VoxgapError, match=why):
            refuse_unfinished(path)
    for name in ("kriging", "nonsense", "0=mean", str(folder), {"0": "mean"}):
        refuse_unfinished(name)


def test_what_is_no_filler_is_refused(folder: Path, tmp_path: Path) -> None:
    vg.write(tmp_path / "scan.nii.gz", Volume(gappy()))
    data, out = tmp_path / "scan.nii.gz", tmp_path / "filled"
    with pytest.raises(VoxgapError, match="is no fill; choose one of"):
        vg.fill_files(data, out, "nothing")
    with pytest.raises(VoxgapError, match=r"--option rank: .* is trained, and takes none"):
        vg.fill_files(data, out, str(folder), options={"rank": 3})
    (folder / "manifest.json").write_text(json.dumps(manifest("regression")))
    with pytest.raises(VoxgapError, match="is for regression; train one that fills"):
        vg.fill_files(data, out, str(folder))
    with pytest.raises(VoxgapError, match="a value and a deviation for each channel"):
        Manifest.from_json(manifest(outputs=3))
    (folder / "manifest.json").write_text(json.dumps(manifest()))
    with pytest.raises(VoxgapError, match=r"says how well, or voxgap evaluate"):
        vg.evaluate(Predictor(Bundle.open(folder).manifest, doubling), "sample:brain")


def test_files_are_read_as_those_of_the_training(folder: Path, tmp_path: Path) -> None:
    before = np.nan_to_num(gappy(), nan=-99)
    vg.write(tmp_path / "scan.nii.gz", Volume(before))
    trained_on = manifest()
    trained_on["input"]["grid"] = {"missing_values": [-99.0]}
    (folder / "manifest.json").write_text(json.dumps(trained_on))
    vg.fill_files(tmp_path / "scan.nii.gz", tmp_path / "out", str(folder), everywhere=True, evidence=False)
    after = vg.read(tmp_path / "out" / "scan.nii.gz").values[..., 0]
    np.testing.assert_allclose(after[before == -99], 7, rtol=1e-6)


def test_volumes_are_cut_and_some_are_held_out() -> None:
    volumes = [gappy((40, 6, 9), seed)[..., None] for seed in range(3)]
    size = patch_of([*volumes, gappy((35, 7, 8))[..., None]])
    assert size == (32, 6, 8)
    tiles, apart = tiled(volumes, size, 0)
    assert apart is not None
    assert tiles.shape[1:] == apart.shape[1:] == (32, 6, 8, 1)
    # Those of one volume are in one part.
    assert (len(tiles), len(apart)) == (8, 4)
    single, held = tiled(volumes[:1], (10, 6, 9), 0)
    assert held is not None
    assert (len(single), len(held)) == (3, 1)
    assert tiled([volumes[0][:10]], (10, 6, 9), 0)[1] is None
    with pytest.raises(VoxgapError, match="nothing is observed"):
        tiled([np.full((3, 4, 5, 1), np.nan, np.float32)], (3, 4, 5), 0)


@pytest.mark.full
def test_from_gaps_to_a_filled_file_in_every_format(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    values = gaussian_filter(generator.normal(size=(8, 20, 20)), (1, 3, 3))
    values = (15 + 4 * values / values.std()).astype(np.float32)
    for day in values:
        cloud = gaussian_filter(generator.normal(size=day.shape), 3)
        day[cloud > np.quantile(cloud, 0.6)] = np.nan
    data = tmp_path / "sea.nii.gz"
    vg.write(data, Volume(values))
    scores = vg.train_filler(data, tmp_path / "filler", filters=(4, 8), epochs=1, patch_size=(8, 16, 16))
    assert scores["learned"]["rmse"] < 1.3 * scores["kriging"]["rmse"]
    assert 0.3 < scores["learned"]["within_68"] < 0.95
    with pytest.raises(VoxgapError, match="holds a bundle already"):
        vg.train_filler(data, tmp_path / "filler")
    entries = vg.export(tmp_path / "filler", ["onnx", "openvino", "litert", "savedmodel", "pt2", "h5"])
    assert all(entry["parity"]["max_difference"] <= 1e-5 for entry in entries.values())
    with pytest.raises(VoxgapError, match="choose model files"):
        vg.export(tmp_path / "filler", ["web"])
    found = [
        vg.load(tmp_path / "filler", engine=engine).predict(values[..., None])[0]
        for engine in ("onnx", "keras")
    ]
    observed = ~np.isnan(values)
    for answer in found:
        assert_array_equal(answer[..., 0][observed], values[observed])
        assert (answer[..., 1][observed] == 0).all()
        assert (answer[..., 1][~observed] > 0).all()
    assert vg.fill_files(data, tmp_path / "filled", str(tmp_path / "filler"), everywhere=True).startswith(
        "1 volume"
    )
    after = vg.read(tmp_path / "filled" / "sea.nii.gz").values[..., 0]
    assert np.isfinite(after).all()
    np.testing.assert_allclose(after, found[1][..., 0], atol=1e-4)


@pytest.mark.full
@pytest.mark.parametrize("suffix", [".zarr", ".nii", ".h5"])
def test_a_large_file_is_filled_part_by_part_to_the_same_bits(
    suffix: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files(out: str) -> dict[str, vg.Volume]:
        return {path.name: vg.read(path) for path in sorted((tmp_path / out).glob(f"scan*{suffix}"))}

    file = tmp_path / f"scan{suffix}"
    vg.write(file, Volume(gappy((9, 6, 7)), np.diag([3.0, 2, 1, 1])[[2, 1, 0, 3]]))
    vg.fill_files(file, tmp_path / "at once", str(folder))
    monkeypatch.setattr(streamed, "LARGE", 0)
    monkeypatch.setattr(files_of, "_read", None)  # nothing is read as a whole any more
    left = 3

    def dying(patches: np.ndarray) -> np.ndarray:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        return doubling(patches)

    with monkeypatch.context() as patched:
        patched.setattr(filler, "load", lambda where: Predictor(Bundle.open(where).manifest, dying))
        for batches in (3, 2, 2):
            left = batches
            with pytest.raises(KeyboardInterrupt):
                vg.fill_files(file, tmp_path / "parts", str(folder))
    done = vg.fill_files(file, tmp_path / "parts", str(folder))
    assert done == f"1 volume filled: {tmp_path / 'parts'}"
    expected, found = files("at once"), files("parts")
    assert (
        list(found) == list(expected) == [f"scan{suffix}", f"scan_deviation{suffix}", f"scan_source{suffix}"]
    )
    for name, volume in expected.items():
        assert found[name].values.tobytes() == volume.values.tobytes(), name
        np.testing.assert_array_equal(found[name].affine, volume.affine)
    pictures = [(tmp_path / out / "scan_filled.png").read_bytes() for out in ("at once", "parts")]
    assert pictures[0] == pictures[1]
    assert not [path.name for path in (tmp_path / "parts").iterdir() if path.name.startswith(".")]
