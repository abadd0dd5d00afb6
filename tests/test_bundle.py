"""Writing a bundle: whole or not at all, with golden inputs of every kind of gap and nothing that could be executed."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import stand_in
import tiny
from voxgap import table
from voxgap.bundle import check_free, golden, save_bundle
from voxgap.bundle.evidence import EVIDENCE
from voxgap.bundle.parity import differences, measure
from voxgap.bundle.placing import place, workspace, write_manifest
from voxgap.dataset import Dataset
from voxgap.dataset.names import case_names
from voxgap.errors import VoxgapError
from voxgap.evidence import NO_TEST
from voxgap.history import History
from voxgap.runtime import MANIFEST, Bundle, load
from voxgap.runtime.engines import open_engine
from voxgap.runtime.golden import Golden, read_golden
from voxgap.runtime.manifest import Entry
from voxgap.training import adapt_model
from voxgap.training.examples import Examples

HISTORY = History(({"loss": 1.0, "val_loss": 1.0, "seconds": 1.0},) * 2, "val_loss", 1, 2, "epochs")


def trained(seed: int = 0) -> keras.Model:
    model = tiny.model("cnn3d", "masked_conv", filters=(4,), seed=seed)
    adapt_model(model, tiny.dataset().part("train"))
    return model


def save(folder: Path, model: keras.Model, **more: Any) -> Path:
    return save_bundle(folder, model, tiny.dataset(), strategy="masked_conv", **more)


def answers(folder: Path, x: np.ndarray) -> np.ndarray:
    return open_engine("keras", Bundle.open(folder).model("keras"))(x)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return trained()


@pytest.fixture(scope="module")
def original(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("bundles") / "bundle", model, history=HISTORY)


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A bundle that a test may damage."""
    return Path(shutil.copytree(original, tmp_path / "bundle"))


# --- what is in it -----------------------------------------------------------------------------------------


def test_the_manifest_names_each_file_and_nothing_else_is_there(original: Path) -> None:
    manifest = stand_in.written(original)
    named = {manifest[part]["path"] for part in ("golden", "cases", "reference")} | {
        manifest["files"]["keras"]["path"]
    }
    others = {MANIFEST, "history.csv", "history.png", EVIDENCE}
    assert {path.name for path in original.iterdir()} == {*others, *named}
    assert manifest["files"]["keras"]["precision"] == "float32"
    assert "unseen" not in manifest
    (part,) = manifest["files"]["keras"]["parts"]
    assert part["bytes"] == (original / part["path"]).stat().st_size
    assert Bundle.open(original).model("keras").name == part["path"]


def test_a_bundle_remembers_the_patches_of_its_training_and_that_nothing_was_tested_on(
    tmp_path: Path,
) -> None:
    data = tiny.dataset()
    data = dataclasses.replace(data, split=np.where(data.split == "test", "train", data.split))
    shape = (4, 4, 4, data.volumes.shape[-1])
    patches = tiny.build_model("cnn3d", shape, len(data.classes), strategy="masked_conv", filters=(4,))
    adapt_model(patches, Examples.of(data.part("train")).tiles((4, 4, 4)))
    history = dataclasses.replace(HISTORY, patch_size=(4, 4, 4))
    folder = save_bundle(tmp_path / "bundle", patches, data, strategy="masked_conv", history=history)
    assert stand_in.written(folder)["input"]["patches"]["size"] == [4, 4, 4]
    assert stand_in.written(folder)["unseen"] == NO_TEST
    assert load(folder).predict(data.volumes[:1]).shape == (1, len(data.classes))


def test_the_evidence_has_a_row_for_each_case_that_was_not_trained_on(
    original: Path, model: keras.Model
) -> None:
    data = tiny.dataset()
    assert {path.name for path in (original / EVIDENCE).iterdir()} == {"predictions.csv", "report.html"}
    header, rows, _ = table.read(original / EVIDENCE / "predictions.csv")
    found = {name: [row.cells[i] for row in rows] for i, name in enumerate(header)}
    held_out = data.take(np.flatnonzero(data.split != "train"))
    assert found["case"] == case_names(held_out)
    assert found["split"] == held_out.split.tolist()
    assert found["label"] == [data.classes[i] for i in held_out.targets]
    said = load(original).predict(held_out.volumes)
    p = np.array([found[f"p_{name}"] for name in data.classes], float).T
    np.testing.assert_allclose(p, said, atol=1e-5)
    assert found["class"] == [data.classes[i] for i in said.argmax(axis=1)]
    page = (original / EVIDENCE / "report.html").read_text()
    assert all(
        f"<h2>{title}</h2>" in page for title in ("Classes", "Probabilities", "Worst cases", "Training")
    )


def test_evidence_is_never_read_and_never_of_another_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table_file = folder / EVIDENCE / "predictions.csv"
    table_file.write_bytes(b"\xff nonsense")
    load(folder)
    shutil.rmtree(folder / EVIDENCE)
    load(folder)
    # Without a history there is no page; and what was there before goes with its model, whatever comes then.
    save(folder, trained())
    assert [path.name for path in (folder / EVIDENCE).iterdir()] == ["predictions.csv"]

    def ends(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("voxgap.bundle.saving.write_evidence", ends)
    with pytest.raises(KeyboardInterrupt):
        save(folder, trained(seed=1))
    assert not (folder / EVIDENCE).exists()
    load(folder)


def test_golden_inputs_have_every_kind_of_gap(original: Path, model: keras.Model) -> None:
    stored = Bundle.open(original).golden()
    missing = {kind: np.isnan(stored.inputs[stored.gaps == kind]) for kind in np.unique(stored.gaps)}
    assert set(missing) == {"as_recorded", "complete", "voxels", "slices", "blocks", "everything"}
    assert not missing["complete"].any()
    assert missing["everything"].all()
    assert missing["voxels"].mean() == pytest.approx(0.3, abs=0.01)
    assert (missing["slices"].all(axis=(2, 3, 4)).sum(axis=1) == 4).all()
    np.testing.assert_allclose(stored.outputs, model.predict(stored.inputs, verbose=0), atol=1e-6)
    # They are volumes of the validation part, and complete they keep what was observed.
    held_out = tiny.dataset().part("validation").volumes
    for recorded, complete in zip(
        stored.inputs[stored.gaps == "as_recorded"], stored.inputs[stored.gaps == "complete"], strict=True
    ):
        assert any(np.array_equal(recorded, volume, equal_nan=True) for volume in held_out)
        np.testing.assert_array_equal(complete[~np.isnan(recorded)], recorded[~np.isnan(recorded)])


def test_golden_inputs_of_several_channels_lack_one() -> None:
    inputs, gaps = golden.draw(tiny.volumes(6, (5, 6, 7, 3)), (5, 6, 7))
    absent = np.isnan(inputs[gaps == "channel"]).all(axis=(1, 2, 3))
    assert (absent.sum(axis=1) == 1).all()


def test_golden_inputs_are_drawn_by_a_seed_and_stored_without_pickle(original: Path, tmp_path: Path) -> None:
    x = tiny.volumes(9)
    (a, kinds), (b, _), (c, _) = (golden.draw(x, (8, 8, 8), seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c, equal_nan=True)
    stored = Golden(a, np.zeros((len(a), 3), np.float32), kinds)
    assert golden.to_bytes(stored) == golden.to_bytes(stored)
    np.savez(tmp_path / "evil.npz", inputs=np.array([{}]), outputs=np.zeros(1), gaps=np.zeros(1))
    with pytest.raises(VoxgapError, match="not golden inputs"):
        read_golden(tmp_path / "evil.npz")


def test_what_the_model_does_not_answer_twice_the_same_is_not_golden() -> None:
    data = tiny.dataset()
    steady = golden.make(trained(), data)

    class Wavering:
        """Answers every second of the inputs drawn by what else is in its batch, as ties in KNN do."""

        input_shape = (None, *tiny.SHAPE)
        asked_alone = 0

        def predict_on_batch(self, x: np.ndarray) -> np.ndarray:
            answers = np.full((len(x), 2), 0.5, np.float32)
            if len(x) == 1:
                answers[:, 0] += 1e-3 * (self.asked_alone % 2 == 0)
                self.asked_alone += 1
            return answers

    chosen = golden.make(Wavering(), data)
    drawn, kinds = golden.draw(data.part("validation").volumes, tiny.SHAPE[:3], 6)
    assert chosen.gaps.tolist() == steady.gaps.tolist()
    for volume, kind in zip(chosen.inputs, chosen.gaps, strict=True):
        found = [i for i, other in enumerate(drawn) if np.array_equal(volume, other, equal_nan=True)]
        assert kind == "everything" or any(i % 2 for i in found)
        assert kinds[found[0]] == kind


def test_golden_volumes_of_ones_own_keep_the_data_out(tmp_path: Path, model: keras.Model) -> None:
    own = np.full((1, *tiny.SHAPE), 7, np.float32)
    folder = save(tmp_path / "b", model, golden_volumes=own)
    stored = Bundle.open(folder).golden()
    assert set(np.unique(stored.inputs[~np.isnan(stored.inputs)])) == {7.0}


def test_of_volumes_larger_than_the_input_a_patch_is_golden() -> None:
    x = np.arange(12 * 9 * 8, dtype=np.float32).reshape(1, 12, 9, 8, 1)
    inputs, gaps = golden.draw(x, (4, 4, 4))
    complete = inputs[gaps == "complete"][0]
    assert complete.shape == (4, 4, 4, 1)
    assert (np.diff(complete[..., 0], axis=0) == 9 * 8).all(), "not a part of the volume"


def test_units_of_channels_are_kept_and_checked(tmp_path: Path, model: keras.Model) -> None:
    folder = save(tmp_path / "b", model, units={"t1": "arbitrary, as scanned"})
    assert stand_in.written(folder)["units"] == {"t1": "arbitrary, as scanned"}
    with pytest.raises(VoxgapError, match="units: no channel 'ct'; there are t1"):
        save(tmp_path / "c", model, units={"ct": "HU"})
    assert not (tmp_path / "c").exists()


def test_a_data_set_without_a_volume_is_refused(tmp_path: Path, model: keras.Model) -> None:
    empty = tiny.dataset().take(np.arange(0))
    with pytest.raises(VoxgapError, match="needs a training volume"):
        save_bundle(tmp_path / "b", model, empty, strategy="mean")


# --- how a difference is measured --------------------------------------------------------------------------


def test_differences_are_absolute_up_to_one_and_relative_beyond() -> None:
    expected = np.array([[0.5, 0.5], [1000.0, -2000.0], [0.0, 1.0]], np.float32)
    got = expected + np.array([[0.1, 0.0], [1.0, 0.0], [0.0, 0.0]], np.float32)
    np.testing.assert_allclose(differences(expected, got), [0.1, 1e-3, 0], rtol=1e-4)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_infinitely_far(wrong: float) -> None:
    expected = np.array([[0.5, 0.5]])
    assert differences(expected, np.array([[0.5, wrong]])) == [np.inf]
    assert differences(np.array([[0.5, np.nan]]), np.array([[0.5, np.nan]])) == [0]
    assert not measure(expected, np.array([[wrong, 0.5]]), True, 1e9).holds
    assert differences(expected, expected[:, :1]) == [np.inf]


def test_agreement_counts_voxels_of_a_segmentation() -> None:
    expected = np.zeros((1, 2, 2, 2, 3))
    expected[..., 0] = 1
    got = expected.copy()
    got[0, 0, 0, 0] = [0, 1, 0]
    proof = measure(expected, got, True, 1e-5)
    assert (proof.class_agreement, proof.max_difference, proof.holds) == (7 / 8, 1.0, False)
    assert measure(expected, got, False, 1e-5).class_agreement is None


# --- whole or not at all -----------------------------------------------------------------------------------


def fail(*_: Any, **__: Any) -> None:
    raise OSError("No space left on device")


@pytest.mark.parametrize(
    "where",
    [
        "model.save",
        "saving.place",
        pytest.param("saving.describe", marks=pytest.mark.full),
        pytest.param("placing.write_bytes", marks=pytest.mark.full),
    ],
)
def test_a_bundle_survives_a_failure_to_replace_it(
    where: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = tiny.volumes(2)
    before = answers(folder, x)
    new = trained(seed=1)

    def half_written(file: Path) -> None:
        Path(file).write_bytes(b"PK half")
        fail()

    if where == "model.save":
        monkeypatch.setattr(new, "save", half_written)
    else:
        monkeypatch.setattr(f"voxgap.bundle.{where}", fail)
    with pytest.raises(OSError, match="No space"):
        save(folder, new)
    monkeypatch.undo()
    np.testing.assert_array_equal(answers(folder, x), before)
    assert not list(folder.glob(".writing-*"))
    # And the next attempt replaces it whole, leftovers included.
    save(folder, new)
    np.testing.assert_allclose(answers(folder, x), new.predict(x, verbose=0), atol=1e-6)
    assert len(list(folder.glob("model-*.keras"))) == len(list(folder.glob("golden-*.npz"))) == 1


@pytest.mark.parametrize("where", ["saving.write_manifest", "placing.write_bytes"])
def test_a_failure_of_the_first_bundle_leaves_none(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"voxgap.bundle.{where}", fail)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path / "b", trained())
    with pytest.raises(VoxgapError, match="no bundle here") as caught:
        load(tmp_path / "b")
    assert "\n" not in str(caught.value)


@pytest.mark.full
def test_a_bundle_leaves_other_files_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    save(tmp_path, trained())
    save(tmp_path, trained(seed=1))
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_folder_that_is_taken_is_refused_before_training(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(VoxgapError, match="holds a bundle already"):
        check_free(folder)
    check_free(folder, overwrite=True)
    check_free(tmp_path / "new")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(VoxgapError, match="is a file"):
        check_free(tmp_path / "file", overwrite=True)


def test_other_files_and_what_others_are_writing_stay(folder: Path, model: keras.Model) -> None:
    (folder / "notes.txt").write_text("mine")
    (folder / "model-notes.keras").write_text("mine")
    (folder / ".writing-now").mkdir()
    abandoned = folder / ".writing-before"
    abandoned.mkdir()
    os.utime(abandoned, (time.time() - 7200,) * 2)
    (folder / "model-0123456789ab.onnx").write_text("of someone who was killed")
    (folder / "model-0123456789ab.savedmodel").mkdir()
    save(folder, model)
    left = {path.name for path in folder.iterdir()}
    assert {"notes.txt", "model-notes.keras", ".writing-now"} <= left
    assert not left & {".writing-before", "model-0123456789ab.onnx", "model-0123456789ab.savedmodel"}


def test_a_folder_and_a_pair_of_files_are_placed_by_their_content(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for _ in range(2):  # the second time it is there already
        with workspace(bundle) as work:
            (work / "m.savedmodel" / "variables").mkdir(parents=True)
            (work / "m.savedmodel" / "a.pb").write_bytes(b"graph")
            (work / "m.savedmodel" / "variables" / "v").write_bytes(b"weights")
            tree = place(bundle, work / "m.savedmodel")
            (work / "m.xml").write_bytes(b"<net/>")
            (work / "m.bin").write_bytes(b"weights")
            pair = place(bundle, work / "m.xml")
        assert [part["path"] for part in tree["parts"]] == [
            f"{tree['path']}/a.pb",
            f"{tree['path']}/variables/v",
        ]
        assert [Path(part["path"]).suffix for part in pair["parts"]] == [".xml", ".bin"]
        for entry in (tree, pair):
            assert Bundle(bundle, stand_in.manifest()).verified(Entry.from_json(entry, "x"), "x").exists()
        assert len(list(bundle.iterdir())) == 3


REPLACING = """
import itertools, sys, time
from pathlib import Path
from voxgap.bundle.placing import place, workspace, write_manifest
from voxgap.runtime import Bundle
folder = Path(sys.argv[1])
print("ready", flush=True)
for i in itertools.count(time.time_ns()):
    manifest = dict(Bundle.open(folder).manifest.written)
    with workspace(folder) as work:
        (work / "m.xml").write_bytes(b"%d" % i * 1000)
        (work / "m.bin").write_bytes(b"%d" % i * 10_000)
        manifest["files"]["openvino"] = place(folder, work / "m.xml")
    write_manifest(folder, manifest)
"""


@pytest.mark.full
def test_a_bundle_is_whole_whenever_its_writer_is_killed(folder: Path) -> None:
    x = tiny.volumes(1)
    before = answers(folder, x)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(20):
        writer = subprocess.Popen([sys.executable, "-c", REPLACING, str(folder)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(float(rng.uniform(0, 0.5)))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        manifest = stand_in.written(folder)
        for kind in manifest["files"]:
            Bundle.open(folder).model(kind)
        seen.add(json.dumps(manifest["files"].get("openvino")))
    assert len(seen) > 5, "killed before anything was written"
    np.testing.assert_array_equal(answers(folder, x), before)


def test_a_score_that_is_not_defined_is_null(folder: Path) -> None:
    manifest = stand_in.written(folder)
    write_manifest(folder, manifest | {"scores": {"test": {"auc": float("nan"), "accuracy": 0.5}}})
    assert stand_in.written(folder)["scores"] == {"test": {"auc": None, "accuracy": 0.5}}


def test_a_regression_bundle_has_no_calibration(tmp_path: Path) -> None:
    data: Dataset = tiny.dataset("regression")
    model = tiny.model("cnn3d", "mean", task="regression", filters=(4,))
    adapt_model(model, data.part("train"))
    manifest = stand_in.written(save_bundle(tmp_path / "b", model, data, strategy="mean"))
    assert manifest["calibration"] == {}
    assert manifest["data"]["profile"]["channels"]["t1"]["missing_rate"]
