"""Bundles: what is saved answers the same when it is loaded, and nothing foreign or damaged is."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import stand_in
import tiny
from voxgap import runtime
from voxgap.bundle import save_bundle
from voxgap.dataset import load_data
from voxgap.errors import VoxgapError
from voxgap.history import History
from voxgap.io import read, write
from voxgap.metrics import Scored
from voxgap.recipe import Strategy
from voxgap.resample import inverse, resample
from voxgap.runtime import MANIFEST, load
from voxgap.training import adapt_model
from voxgap.volume import Volume

DATA = tiny.dataset()
STRATEGY = Strategy("linear", mask_channel=True, conv="masked", gap_dropout=0.2)
HISTORY = History(({"loss": 1.0, "val_loss": 1.0, "seconds": 1.0},) * 2, "val_loss", 1, 2, "epochs")
SCORED = {"test": Scored({"accuracy": 0.5, "auc": float("nan")}, {}, 6, None)}


def trained(seed: int = 0, task: str = "classification") -> keras.Model:
    model = tiny.model("resnet3d", STRATEGY, task=task, filters=(4, 6), seed=seed)
    adapt_model(model, tiny.dataset(task).part("train"))
    return model


def save(folder: Path, model: keras.Model, data: Any = DATA) -> Path:
    return save_bundle(folder, model, data, strategy=STRATEGY, history=HISTORY, scored=SCORED)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return trained()


@pytest.fixture(scope="module")
def original(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("bundles") / "bundle", model)


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A bundle that a test may damage."""
    return Path(shutil.copytree(original, tmp_path / "bundle"))


def manifest_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / MANIFEST).read_text())


def change(folder: Path, **fields: Any) -> None:
    (folder / MANIFEST).write_text(json.dumps(manifest_of(folder) | fields))


def change_grid(folder: Path, grid: Any) -> None:
    change(folder, input=manifest_of(folder)["input"] | {"grid": grid})


def replace_model(folder: Path, data: bytes) -> None:
    """Put another file in the model's place, and make the manifest vouch for it, as an attacker would."""
    name = manifest_of(folder)["files"]["keras"]["path"]
    (folder / name).write_bytes(data)
    change(folder, files={"keras": {"path": name, "sha256": hashlib.sha256(data).hexdigest()}})


def assert_refused(folder: Path, said: str) -> None:
    with pytest.raises(VoxgapError, match=said) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


# --- round trip --------------------------------------------------------------------------------------------


def test_a_bundle_answers_as_the_model_did(model: keras.Model, original: Path) -> None:
    predictor = load(original)
    x = tiny.volumes(5, seed=3)
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(predictor.predict(x), expected, atol=1e-6)
    np.testing.assert_allclose(predictor.predict(x, batch_size=2), expected, atol=1e-6)
    np.testing.assert_allclose(predictor.predict(x[1]), expected[1:2], atol=1e-6)
    as_volumes = [Volume(v) for v in x[:2]]
    np.testing.assert_allclose(predictor.predict(as_volumes), expected[:2], atol=1e-6)
    np.testing.assert_allclose(predictor.predict(as_volumes[0]), expected[:1], atol=1e-6)
    assert predictor.predict(x).dtype == np.float32
    assert predictor.classes == tiny.CLASSES
    assert predictor.task == "classification"
    assert predictor.input_shape == tiny.SHAPE


@pytest.mark.full
def test_a_regression_answers_in_its_units(tmp_path: Path) -> None:
    model = trained(task="regression")
    predictor = load(save(tmp_path / "b", model, tiny.dataset("regression")))
    x = tiny.volumes(3)
    np.testing.assert_allclose(predictor.predict(x), model.predict(x, verbose=0), rtol=1e-6)
    assert predictor.predict(x).mean() > 500
    assert predictor.classes == ()


@pytest.mark.full
def test_predicting_is_the_same_every_time(original: Path) -> None:
    predictor = load(original)
    x = tiny.volumes(2)
    np.testing.assert_array_equal(predictor.predict(x), predictor.predict(x), "gap dropout at inference")


@pytest.mark.full
def test_a_volume_without_an_observed_voxel_is_answered_with_a_warning(original: Path) -> None:
    x = tiny.volumes(3)
    x[1] = np.nan
    with pytest.warns(UserWarning, match="no observed voxel in volume 1:"):
        answer = load(original).predict(x)
    assert np.isfinite(answer).all()


def test_files_are_read_and_checked(original: Path, tmp_path: Path) -> None:
    predictor = load(original)
    np.save(tmp_path / "good.npy", tiny.volumes(1)[0])
    np.save(tmp_path / "small.npy", tiny.volumes(1)[0, :4])
    volume, records = predictor.read(tmp_path / "good.npy")
    assert (volume.shape, records) == (tiny.SHAPE, [])
    with pytest.raises(VoxgapError, match=r"small\.npy: shape 4×8×8×1, but this network takes 8×8×8×1"):
        predictor.read(tmp_path / "small.npy")


def test_files_are_brought_onto_the_grid_of_the_training_data(model: keras.Model, tmp_path: Path) -> None:
    raw = np.random.default_rng(0).normal(size=(5, 12, 9)).astype("float32")
    raw[2] = -3024
    write(tmp_path / "scan.nii.gz", Volume(raw, spacing=(2, 1, 1)))
    data = load_data(DATA, size=tiny.SHAPE[:3], missing_values=[-3024])
    predictor = load(save(tmp_path / "bundle", model, data))
    assert predictor.manifest.input.grid.missing_values == (-3024.0,)
    volume, records = predictor.read(tmp_path / "scan.nii.gz")
    expected, record = resample(Volume(np.where(raw == -3024, np.nan, raw)), size=tiny.SHAPE[:3])
    assert np.isnan(volume.values).any()
    np.testing.assert_array_equal(volume.values, expected.values)
    assert records == [record]
    np.testing.assert_array_equal(predictor.predict(volume), predictor.predict(expected))
    drawn = dataclasses.replace(volume, values=np.ones(tiny.SHAPE[:3]))
    back = inverse(drawn, records, method="nearest")
    assert back.shape == (5, 12, 9, 1)
    np.testing.assert_allclose(back.affine, read(tmp_path / "scan.nii.gz").affine, atol=1e-9)


def test_a_file_for_each_channel(tmp_path: Path) -> None:
    x = tiny.volumes(1, (8, 8, 8, 2))[0]
    for name, values in zip("ab", np.moveaxis(x, -1, 0), strict=True):
        np.save(tmp_path / f"{name}.npy", values)
    manifest = stand_in.manifest(input={"shape": [8, 8, 8, 2], "channels": ["a", "b"]})
    predictor = runtime.Predictor(manifest, None)
    volume, _ = predictor.read([tmp_path / "a.npy", str(tmp_path / "b.npy")])
    np.testing.assert_array_equal(volume.values, x)
    volume, _ = predictor.read([None, tmp_path / "b.npy"])
    np.testing.assert_array_equal(volume.values[..., 1], x[..., 1])
    assert np.isnan(volume.values[..., 0]).all()
    for files, said in (([tmp_path / "a.npy"], "1 files for 2 channels"), ([None, None], "at least one")):
        with pytest.raises(VoxgapError, match=said):
            predictor.read(files)


@pytest.mark.parametrize(
    ("volumes", "said"),
    [
        (np.zeros((2, 8, 8, 9, 1)), "this network takes"),
        (np.zeros((2, 8, 8, 8, 2)), "this network takes"),
        (np.zeros((8, 8, 8)), "."),
        (np.zeros(3), "."),
        (np.float32(1), "."),
        (np.full((1, 8, 8, 8, 1), np.inf), "infinit"),
        (np.full((1, 8, 8, 8, 1), "x"), "."),
        ([Volume(np.zeros((8, 8, 4, 1)))], "volume 0: shape"),
        (np.zeros((0, 8, 8, 8, 1)), "."),
        ([], "."),
    ],
    ids=lambda v: str(getattr(v, "shape", v))[:30],
)
def test_what_does_not_fit_is_one_line(volumes: Any, said: str, original: Path) -> None:
    with pytest.raises(VoxgapError, match=said) as caught:
        load(original).predict(volumes)
    assert "\n" not in str(caught.value)


def test_the_manifest_says_what_using_the_bundle_takes(original: Path) -> None:
    manifest = manifest_of(original)
    assert manifest["schema_version"] == runtime.SCHEMA_VERSION
    assert manifest["task"] == "classification"
    assert manifest["classes"] == list(tiny.CLASSES)
    assert manifest["outputs"] == 3
    assert manifest["input"]["shape"] == [8, 8, 8, 1]
    assert manifest["input"]["channels"] == ["t1"]
    assert manifest["input"]["spacing"] == [2.0, 1.0, 1.0]
    assert Strategy(**manifest["strategy"]) == STRATEGY
    assert manifest["network"] == "resnet3d"
    assert {"voxgap", "python", "keras", "tensorflow", "numpy"} <= set(manifest["versions"])
    assert manifest["training"]["best_epoch"] == 2
    # NaN is not JSON: a score that is not defined is null.
    assert manifest["scores"]["test"] == {"accuracy": 0.5, "auc": None}
    entry = manifest["files"]["keras"]
    data = (original / entry["path"]).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    assert entry["parts"] == [{"path": entry["path"], "sha256": digest, "bytes": len(data)}]
    names = {p.name for p in original.iterdir()}
    own = {entry["path"], *(manifest[part]["path"] for part in ("golden", "cases", "reference"))}
    assert names == {MANIFEST, *own, "history.csv", "history.png", "evidence"}


# --- what is refused ---------------------------------------------------------------------------------------


def damage_manifest(text: bytes | str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / MANIFEST).write_bytes(text if isinstance(text, bytes) else text.encode())

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damage_manifest("{"), "not valid JSON"),
        (damage_manifest(""), "not valid JSON"),
        (damage_manifest(b"\xff\xfe\x00"), "not valid JSON"),
        (damage_manifest("[" * 200_000), "not valid JSON"),
        (damage_manifest('{"schema_version": ' + "9" * 10_000 + "}"), "not valid JSON"),
        (damage_manifest(" " * (16 * 2**20) + "{}"), "larger than 16 MiB"),
        (damage_manifest("[]"), "not a manifest"),
        (damage_manifest("{}"), "schema_version"),
        (lambda f: (f / MANIFEST).unlink(), "no bundle here"),
        (lambda f: change(f, schema_version=2), "update voxgap"),
        (lambda f: change(f, schema_version="1"), "schema_version"),
        (lambda f: change(f, schema_version=True), "schema_version"),
        (lambda f: change(f, task=None), "field task"),
        (lambda f: change(f, task="translation"), "task"),
        (lambda f: change(f, task="segmentation"), "outputs 8×8×8×3 is not the model's 3"),
        (lambda f: change(f, classes="abc"), "field classes"),
        (lambda f: change(f, classes=["a", "b"]), "classes"),
        (lambda f: change(f, classes=[1, 2, 3]), "classes"),
        (lambda f: change(f, outputs=4), "classes"),
        (lambda f: change(f, outputs=4, classes=list("abcd")), "outputs"),
        (lambda f: change(f, files=[]), "field files"),
        (lambda f: change(f, files={}), "files.keras is missing"),
        (lambda f: change(f, files={"keras": {"path": 3}}), "files.keras must name a path"),
        (lambda f: change(f, input={}), "input.shape"),
        (lambda f: change(f, input={"shape": [8, 8, 8]}), "input.shape"),
        (lambda f: change(f, input={"shape": [8, 8, 9, 1], "channels": ["t1"]}), "not the model's"),
        (lambda f: change(f, input={"shape": [8, 8, True, 1]}), "input.shape"),
        (lambda f: change(f, input={"shape": [8, 8, 8, 1], "channels": 5}), "channels"),
        (lambda f: change_grid(f, []), "field input.grid must hold size"),
        (lambda f: change_grid(f, {"size": [8, 8, -8]}), "field input.grid: size"),
        (lambda f: change_grid(f, {"size": [8, 8, 9]}), "size 8×8×9 is not that of input.shape"),
        (lambda f: change_grid(f, {"missing_values": "0"}), "field input.grid: missing_values"),
        (lambda f: change(f, input={"shape": [8, 8, 8, 1], "channels": ["a", "b"]}), "channels"),
    ],
)
def test_a_bad_manifest_is_one_line(damage: Callable[[Path], object], said: str, folder: Path) -> None:
    damage(folder)
    assert_refused(folder, said)


@pytest.mark.parametrize(
    "name", ["../secret.keras", "/etc/passwd", "sub/model.keras", "..", ".", "", "a\0b", "nothing.keras"]
)
def test_a_manifest_cannot_name_files_elsewhere(name: str, folder: Path) -> None:
    (folder / "sub").mkdir()
    entry = manifest_of(folder)["files"]["keras"]
    for target in (folder.parent / "secret.keras", folder / "sub" / "model.keras"):
        shutil.copy(folder / entry["path"], target)
    change(folder, files={"keras": entry | {"path": name}})
    assert_refused(folder, ".")


def test_a_link_to_a_file_elsewhere_is_refused(folder: Path) -> None:
    name = manifest_of(folder)["files"]["keras"]["path"]
    outside = (folder / name).rename(folder.parent / "outside.keras")
    (folder / name).symlink_to(outside)
    assert_refused(folder, "inside the bundle")


def test_a_tampered_model_is_refused(folder: Path) -> None:
    file = folder / manifest_of(folder)["files"]["keras"]["path"]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert_refused(folder, "SHA-256 differs")


def test_a_model_that_was_not_copied_whole_is_refused(folder: Path) -> None:
    file = folder / manifest_of(folder)["files"]["keras"]["path"]
    file.write_bytes(file.read_bytes()[:-100])
    assert_refused(folder, "SHA-256 differs")
    file.unlink()
    assert_refused(folder, "it is missing")


@pytest.mark.full
def test_another_bundle_s_manifest_is_refused(folder: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "other", trained(seed=1))
    shutil.copy(other / MANIFEST, folder / MANIFEST)
    assert_refused(folder, "missing")
    name = manifest_of(other)["files"]["keras"]["path"]
    old = next(folder.glob("model-*.keras"))
    old.rename(folder / name)
    assert_refused(folder, "SHA-256 differs")


@pytest.mark.parametrize("cut", [0, 10, 0.5, 0.95])
def test_a_model_file_that_is_no_archive_is_refused(cut: float, folder: Path) -> None:
    data = next(folder.glob("model-*.keras")).read_bytes()
    replace_model(folder, data[: int(cut * len(data)) if cut < 1 else int(cut)])
    assert_refused(folder, "can't be loaded")


def test_a_model_that_runs_code_is_refused(folder: Path, tmp_path: Path) -> None:
    inputs = keras.Input(tiny.SHAPE)
    x = keras.layers.Lambda(lambda x: x[:, 0, 0, 0, :] * 0 + 1)(inputs)
    keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x)).save(tmp_path / "evil.keras")
    replace_model(folder, (tmp_path / "evil.keras").read_bytes())
    assert_refused(folder, "can't be loaded")


def test_a_model_of_unknown_layers_is_refused(folder: Path, tmp_path: Path) -> None:
    class Mine(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x

    inputs = keras.Input(tiny.SHAPE)
    keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(Mine()(inputs)))).save(
        tmp_path / "m.keras"
    )
    replace_model(folder, (tmp_path / "m.keras").read_bytes())
    assert_refused(folder, "can't be loaded")


@pytest.mark.parametrize("place", ["nowhere", "file"])
def test_what_is_no_folder_is_no_bundle(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert_refused(tmp_path / place, "no bundle here")
