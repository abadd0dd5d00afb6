"""`voxgap train`, `evaluate`, `predict` and `demo` as a user meets them: one line when they fail."""

from __future__ import annotations

import contextlib
import csv
import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.main import get_command

import server_cases as cases
import tiny
from voxgap.bundle import goes_on
from voxgap.bundle.continuing import outdated
from voxgap.cli import app, main
from voxgap.errors import VoxgapError
from voxgap.files import unfinished

# The module; the package has a function of that name.
cli_train = importlib.import_module("voxgap.cli.train")
QUICK = ("--model", "cnn3d", "--filters", "4,8", "--epochs", "2", "--learning-rate", "0.01")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An `.npz` data set of 48 volumes with gaps, three classes."""
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    sample = tiny.dataset()
    np.savez(path, volumes=sample.volumes, labels=sample.targets, split=sample.split)
    return path


@pytest.fixture(scope="session")
def bundle(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["voxgap", "train", str(data), "--out", str(folder), *QUICK])
        with pytest.raises(SystemExit) as stop:
            main()
    assert stop.value.code == 0
    return folder


def test_training_leaves_a_bundle_and_no_checkpoint_but_what_more_epochs_need(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["strategy"]["fill"] == "mean"
    assert manifest["arguments"]["architecture"]["filters"] == [4, 8]
    assert set(manifest["scores"]) == {"validation", "test"}
    assert (bundle / "history.png").read_bytes().startswith(b"\x89PNG")
    assert "<h2>Worst cases</h2>" in (bundle / "evidence" / "report.html").read_text()
    with (bundle / "history.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]
    assert not (bundle / "checkpoint").exists()
    assert {p.suffix for p in (bundle / "training-state").iterdir()} == {
        ".json",
        ".npz",
        ".toml",
    }


def test_what_a_training_left_that_was_killed_as_it_ended_goes_where_another_is_refused(
    bundle: Path, data: Path, tmp_path: Path, voxgap
) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (folder / unfinished().replace(f"-{os.getpid()}-", f"-{gone.pid}-")).mkdir()
    (folder / ".training.lock").touch()
    done = voxgap("train", data, "--out", folder, *QUICK)
    assert (done.code, "holds a bundle already" in done.err) == (2, True)
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def epochs_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "history.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.full
def test_more_epochs_go_on_from_the_bundle(bundle: Path, data: Path, tmp_path: Path, voxgap) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    done = voxgap("train", data, "--out", folder, *QUICK)
    assert done.code == 2
    assert "trained for 2 epochs; --epochs 3 or more goes on from it" in done.err
    done = voxgap("train", data, "--out", folder, *QUICK, "--epochs", "3")
    assert done.code == 0, done.err
    assert "epoch 1/3" not in done.out
    assert epochs_of(folder)[:2] == epochs_of(bundle)
    assert json.loads((folder / "manifest.json").read_text())["training"]["epochs"] == 3
    # Of another training, nothing goes on: not by its options, not by the schedule, not by the data.
    shutil.copy(data, tmp_path / "d.npz")
    with np.load(data) as file:
        np.savez(tmp_path / "d.npz", **{**file, "volumes": file["volumes"] * 2})
    recipe = folder / "training-state" / "recipe.toml"
    for given, said in {
        (data, "--seed", "1"): "--seed was 0, is 1",
        (data, "--patience", "1", "--min-delta", "9"): "--patience was 10, is 1, --min-delta was 0.0, is 9.0",
        (tmp_path / "d.npz", "--seed", "0"): "its data, as it was read, are not these",
    }.items():
        done = voxgap("train", *given[:1], "--out", folder, *QUICK, "--epochs", "4", *given[1:])
        assert done.code == 2
        assert f"{folder} keeps a training by other settings: {said}" in done.err
        assert len(epochs_of(folder)) == 3
    # What it says does go on, or begins anew.
    assert f"--config {recipe}" in done.err
    done = voxgap("train", "--config", recipe, "--out", folder, "--epochs", "4", "--threshold", "0.5")
    assert (done.code, "epoch 3/4" in done.out) == (0, False), done.err
    assert len(epochs_of(folder)) == 4
    done = voxgap("train", tmp_path / "d.npz", "--out", folder, *QUICK, "--seed", "1", "--overwrite")
    assert done.code == 0, done.err
    assert len(epochs_of(folder)) == 2


OTHERWISE = {
    **{
        "model": "resnet3d",
        "strategy": "knn",
        "optimizer": "sgd",
        "class-weight": "balanced",
        "precision": "float32",
    },
    **{"monitor": "val_accuracy", "augment": "flip", "augment-kind": "video", "padding": "valid"},
    **{"activation": "elu", "conv": "masked", "gap-dropout": "0.2", "loss": "mse", "task": "segmentation"},
    **{"size": "8,8,8", "spacing": "1,1,1", "crop": "observed", "missing-values": "-1", "reference": "t1"},
    **{"axes": "z,y,x", "at": "lev=0", "normalize": "volume", "patch-size": "8,8,8", "pattern": "slices"},
    **{
        "mechanism": "mar",
        "filters": "8,16",
        "kernel-size": "5",
        "strides": "1",
        "dropout": "0.5",
        "seed": "3",
    },
    **{
        "batch-size": "8",
        "learning-rate": "0.1",
        "missing-rate": "0.3",
        "mask-channel": None,
        "attention": None,
    },
    **{"missing-slices": "constant", "coverage": "0.9", "fill": "zero", "ema": "2.0", "plan": "none"},
    **{"norm": "instance", "deep-supervision": None, "patches-per-volume": "4"},
    **{"validation-share": "0.1", "test-share": "0.0", "from": "sea"},
    **{"schedule": "cosine", "warmup": "2.0", "weight-decay": "0.01", "label-smoothing": "0.1"},
    "consistency": "0.5",
}


@pytest.mark.parametrize("names", [("batch-size",), pytest.param(tuple(OTHERWISE), marks=pytest.mark.full)])
def test_each_option_that_makes_another_training_is_named_before_anything_is_read(
    names: tuple[str, ...], bundle: Path, voxgap, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    options = {
        param.opts[0].removeprefix("--")
        for param in get_command(app).commands["train"].params
        if param.name != "data"
    }
    elsewhere = {"out", "config", "overwrite", "cache"}
    assert options - elsewhere - set(OTHERWISE) == (cli_train._MAY_CHANGE | cli_train._SCHEDULE) - {"data"}
    was = tomllib.loads((folder / "recipe.toml").read_text())
    for name in names:
        value = OTHERWISE[name]
        given = [f"--{name}"] if value is None else [f"--{name}", value]
        done = voxgap("train", "gone.npz", "--out", folder, *QUICK, "--epochs", "9", *given)
        now = "true" if value is None else type(was.get(name, ""))(value)
        if name == "from":  # a path, as seen from here
            now = Path(os.path.relpath(value)).as_posix()
        assert f"settings: --{name} was {was.get(name, 'not given')}, is {now};" in done.err, done.err
        assert done.code == 2


def test_what_is_said_of_a_bundle_whose_training_is_over(bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    manifest = json.loads((folder / "manifest.json").read_text())

    def ended(reason: str, epochs: int, patience: int) -> bool:
        manifest["training"]["reason"] = reason
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return goes_on(folder, epochs, patience)

    assert ended("epochs", 3, 10)
    assert ended("interrupted", 3, 10)
    assert ended("callback", 3, 10)
    assert ended("patience", 3, 11)
    with pytest.raises(VoxgapError, match=r"patience ran out after epoch 2: --patience 11 or more"):
        ended("patience", 3, 10)
    with pytest.raises(VoxgapError, match="NaN in epoch 2"):
        ended("diverged", 3, 10)
    shutil.rmtree(folder / "training-state")
    assert not ended("epochs", 3, 10)
    assert not goes_on(tmp_path / "nothing", 3, 10)


@pytest.mark.full  # tests/test_training.py interrupts a training by default
@pytest.mark.parametrize("epoch", [0, 1])
def test_ctrl_c_exits_with_130_and_says_what_is_kept(
    epoch: int, data: Path, tmp_path: Path, voxgap, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: str) -> Any:
        def at(progress: Any) -> None:
            if progress.epoch == epoch:
                raise KeyboardInterrupt

        return contextlib.nullcontext(at)

    monkeypatch.setattr(cli_train, "training_progress", interrupted)
    done = voxgap("train", data, "--out", tmp_path / "b", *QUICK)
    assert done.code == 130
    assert done.err.splitlines()[-1].startswith("Interrupted")
    assert (tmp_path / "b" / "manifest.json").exists() == bool(epoch)
    if epoch:
        assert "the network of epoch 1, the best of 1, is kept; the same command goes on" in done.err
        assert goes_on(tmp_path / "b", 2, 10)
    else:
        assert "nothing is kept" in done.err
        assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--strategy", "magic"), "no strategy 'magic'"),
        (("--model", "resnet"), "no model 'resnet': did you mean resnet3d?"),
        (("--loss", "mean_square"), "no loss 'mean_square': did you mean mean_squared_error?"),
        (("--optimizer", "magic"), "no optimizer 'magic'"),
        (("--schedule", "cosinus"), "no schedule 'cosinus': did you mean cosine?"),
        (("--activation", "rel"), "no activation 'rel': did you mean relu?"),
        (("--conv", "magic"), "conv must be"),
        (("--gap-dropout", "2"), "gap_dropout must be"),
    ],
)
def test_a_wrong_name_is_refused_before_data_or_keras_are_touched(
    arguments: tuple[str, ...], said: str, tmp_path: Path, voxgap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_train, "import_keras", None)
    done = voxgap("train", tmp_path / "nowhere.npz", "--out", tmp_path / "b", *arguments)
    assert done.code == 2
    assert said in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--warmup", "nan"), "warmup must be a finite number of epochs, at least 0, got nan"),
        (("--warmup", "2", "--schedule", "cosine"), "fewer than the 2 over which the rate falls"),
        (("--weight-decay", "-1"), "weight_decay must be a finite number, at least 0, got -1"),
        (("--weight-decay", "inf"), "weight_decay must be a finite number, at least 0, got inf"),
        (("--label-smoothing", "1"), "label_smoothing must be in [0, 1), got 1"),
        (("--consistency", "nan"), "consistency must be a weight, 0 for none, got nan"),
    ],
)
def test_a_number_that_is_not_possible_is_one_line(
    arguments: tuple[str, ...], said: str, data: Path, tmp_path: Path, voxgap
) -> None:
    done = voxgap("train", data, "--out", tmp_path / "b", *QUICK, *arguments)
    assert done.code == 2
    assert said in done.err.splitlines()[-1]
    assert not (tmp_path / "b" / "manifest.json").exists()


@pytest.mark.full
def test_named_devices_share_the_training(data: Path, tmp_path: Path, voxgap) -> None:
    done = voxgap("train", data, "--out", tmp_path / "b", *QUICK, "--devices", "CPU:0")
    assert done.code == 0, done.err
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert manifest["arguments"]["training"]["distribute"] == ["CPU:0"]


def test_evaluating_gives_the_scores_that_training_wrote(bundle: Path, data: Path, voxgap) -> None:
    done = voxgap("evaluate", bundle, data, "--json")
    assert done.code == 0
    written = json.loads((bundle / "manifest.json").read_text())["scores"]["test"]
    assert json.loads(done.out)["test"] == pytest.approx(written, abs=1e-5)


def test_predictions_are_the_predictors(bundle: Path, tmp_path: Path, voxgap) -> None:
    import voxgap as vg

    volumes = tiny.volumes(3, seed=9)
    volumes[2] = np.nan
    paths = [tmp_path / f"{i}.npy" for i in range(3)]
    for path, volume in zip(paths, volumes, strict=True):
        np.save(path, volume)
    done = voxgap("predict", bundle, *paths, "--out", tmp_path / "answers.csv")
    assert done.code == 0
    assert "no observed voxel" in done.err
    rows = list(csv.DictReader(io.StringIO((tmp_path / "answers.csv").read_text())))
    with pytest.warns(UserWarning, match="no observed voxel in volume 2"):
        expected = vg.load(bundle).predict(volumes)
    found = [[float(row[name]) for name in row if name.startswith("p_")] for row in rows]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert rows[2]["missing_rate"] == "1.0000"


def test_a_bundle_is_replaced_only_when_told(bundle: Path, data: Path, voxgap) -> None:
    before = (bundle / "manifest.json").read_bytes()
    done = voxgap("train", data, "--out", bundle, *QUICK)
    assert done.code == 2
    assert "--overwrite" in done.err
    assert (bundle / "manifest.json").read_bytes() == before


def _npz(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)
    return path


def _bad_data(folder: Path) -> dict[str, tuple[Path, str]]:
    x, y = tiny.volumes(12), np.arange(12) % 3
    infinite = x.copy()
    infinite[3, 2, 2, 2] = np.inf
    lonely = np.array([0] * 6 + [1] * 5 + [2])
    text = folder / "text.npz"
    text.write_text("not an archive")
    damaged = folder / "damaged.npz"
    damaged.write_bytes(_npz(folder / "whole.npz", volumes=x, labels=y).read_bytes()[:-200])
    return {
        "infinite": (_npz(folder / "inf.npz", volumes=infinite, labels=y), "infinite"),
        "empty": (_npz(folder / "empty.npz", volumes=x[:0], labels=y[:0]), "no voxel|empty|no volume"),
        "labels": (_npz(folder / "labels.npz", volumes=x, labels=y[:-1]), "11"),
        "lonely class": (_npz(folder / "lonely.npz", volumes=x, labels=lonely), "class"),
        "never observed": (_npz(folder / "nan.npz", volumes=x * np.nan, labels=y), "observed"),
        "wrong rank": (_npz(folder / "rank.npz", volumes=x[0, ..., 0], labels=y[:8]), "rank 3"),
        "text": (text, "text.npz"),
        "damaged": (damaged, "damaged.npz"),
        "missing": (folder / "nowhere.npz", "nowhere.npz"),
    }


def test_bad_data_is_one_line_and_leaves_nothing(tmp_path: Path, voxgap) -> None:
    for name, (path, words) in _bad_data(tmp_path).items():
        out = tmp_path / "never"
        done = voxgap("train", path, "--out", out, *QUICK)
        assert done.code == 2, name
        assert len(done.err.strip().splitlines()) == 1, (name, done.err)
        assert done.err.startswith("Error:"), (name, done.err)
        assert re.search(words, done.err), (name, done.err)
        assert not (out / "manifest.json").exists(), name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--strategy", "magic"), "no strategy 'magic'"),
        (("--model", "transformer"), "no model 'transformer'"),
        (("--filters", "many"), "--filters takes integers"),
        (("--padding", "valid", "--kernel-size", "9"), "smallest input"),
        (("--optimizer", "magic"), "no optimizer 'magic'"),
        (("--loss", "magic"), "no loss 'magic'"),
        (("--precision", "half"), "precision must be"),
        (("--learning-rate", "-1"), "learning_rate must be positive"),
        (("--class-weight", "heavy"), "--class-weight"),
        (("--pattern", "holes"), "pattern 'holes'"),
        (("--epochs", "0"), "epochs"),
        (("--devices", "CPU:0,GPU:7"), "no device 'GPU:7'"),
    ],
)
def test_a_bad_argument_is_one_line(
    arguments: tuple[str, ...], words: str, data: Path, tmp_path: Path, voxgap
) -> None:
    done = voxgap("train", data, "--out", tmp_path / "never", *QUICK, *arguments)
    assert done.code == 2
    assert words in done.err.splitlines()[-1]
    assert not (tmp_path / "never" / "manifest.json").exists()


def test_a_volume_or_data_that_does_not_fit_the_bundle(bundle: Path, tmp_path: Path, voxgap) -> None:
    np.save(tmp_path / "small.npy", tiny.volumes(1)[0][:5])
    np.save(tmp_path / "flat.npy", tiny.volumes(1)[0, 0, :, :, 0])
    (tmp_path / "foreign.nii").write_bytes(b"MZ" * 300)
    for name in ("small.npy", "flat.npy", "foreign.nii", "absent.npy"):
        done = voxgap("predict", bundle, tmp_path / name)
        assert done.code == 2
        assert name in done.err
        assert len(done.err.strip().splitlines()) == 1
    four = _npz(tmp_path / "four.npz", volumes=tiny.volumes(12), labels=np.arange(12) % 4)
    done = voxgap("evaluate", bundle, four, "--split", "all")
    assert done.code == 2
    assert "classes" in done.err


def test_not_a_bundle(tmp_path: Path, voxgap) -> None:
    done = voxgap("predict", tmp_path, tmp_path / "any.npy")
    assert done.code == 2
    assert "no bundle here" in done.err


@pytest.mark.full
@pytest.mark.parametrize("sample", ["brain", "motion"])
def test_the_demo_tells_its_story(sample: str, tmp_path: Path, voxgap) -> None:
    done = voxgap("demo", "--sample", sample, "--epochs", "1", "--out", tmp_path)
    assert done.code == 0, done.err
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") + page.count("<svg") >= 4
    assert 'src="http' not in page
    answer = voxgap("predict", tmp_path / "bundle", tmp_path / "volume-with-gaps.npz")
    row = next(csv.DictReader(io.StringIO(answer.out)))
    assert sum(float(row[name]) for name in row if name.startswith("p_")) == pytest.approx(1, abs=1e-4)


def test_exports_of_the_network_before_are_said(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    folder.mkdir()
    assert outdated(folder) == []
    kinds = {"keras": "float32", "onnx": "float32", "litert": "float32", "openvino": "int8"}
    files: Any = {
        kind: {
            "path": kind,
            "sha256": "0" * 64,
            "parts": [{"path": kind, "sha256": "0" * 64, "bytes": 1}],
            "precision": precision,
        }
        for kind, precision in kinds.items()
    }
    manifest = json.loads((cases.make_bundle(tmp_path / "whole") / "manifest.json").read_text())
    manifest |= {"schema_version": 1, "strategy": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest | {"files": files}))
    (tmp_path / "b-web").mkdir()
    assert outdated(folder, ["litert"]) == [
        f"removed onnx: exported from the network before; to have them of this one: voxgap export {folder} --to onnx",
        "removed openvino: exported from the network before; to have them of this one: voxgap export "
        f"{folder} --to openvino --precision int8",
        f"b-web still holds the network before; to have this one there: voxgap export {folder} --to web",
    ]
    assert "removed litert:" in outdated(folder, ["web", "onnx"])[0]
    assert len(outdated(folder, ["web", "onnx"])) == 2
