"""Networks on volumes of several shapes, through every command's own function: trained, kept, scored, compared."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import voxgap as vg
from voxgap.bundle import save_bundle
from voxgap.cli import app
from voxgap.dataset import Dataset
from voxgap.experiment import open_store, train_and_score
from voxgap.io import read, write
from voxgap.recipe import Architecture, Recipe, Training
from voxgap.runtime import Bundle
from voxgap.volume import Volume

pytestmark = pytest.mark.full
TINY = Training(epochs=2, batch_size=4, precision="float32")
SPACINGS = [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (1.0, 0.5, 1.0), (1.0, 1.0, 1.0)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`images/` and `labels/` of a bright box in scans of several shapes and spacings; a slice of each is missing."""
    root = tmp_path_factory.mktemp("task")
    for index in range(12):
        spacing = SPACINGS[index % 4]
        shape = tuple(round((6 + (index + axis) % 3) / size) for axis, size in enumerate(spacing))
        drawn = np.zeros(shape, np.int16)
        drawn[tuple(slice(n // 4, n // 4 + n // 2) for n in shape)] = 1
        values = drawn + np.random.default_rng(index).normal(0, 0.1, shape)
        values[index % shape[0]] = np.nan
        write(root / "images" / f"{index}.nii.gz", Volume(values, spacing=spacing))
        write(root / "labels" / f"{index}.nii.gz", Volume(drawn, spacing=spacing))
    return root


def voxgap(*arguments: object) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_from_two_folders_to_label_maps_without_an_option(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    Path("data.csv").write_text(voxgap("manifest", "images", "labels"))
    # No option is needed; a smaller network than the usual one is a matter of time.
    said = voxgap("train", "data.csv", "--filters", "2,4", "--epochs", "2")
    table = Path("runs/data/evidence/predictions.csv")
    assert str(table) in said
    rows = list(csv.DictReader(table.open()))
    assert {"case", "dice", "dice_1"} <= set(rows[0])
    bundle = Bundle.open("runs/data").manifest
    assert bundle.network == "unet3d"
    assert bundle.input.grid.spacing == (1, 1, 1)
    assert bundle.input.patches is not None
    voxgap("predict", "runs/data", "images", "--out", tmp_path / "maps")
    for index in range(12):
        scan, drawn = read(f"images/{index}.nii.gz"), read(tmp_path / "maps" / f"{index}.nii.gz")
        assert drawn.shape == scan.shape
        assert drawn.spacing == pytest.approx(scan.spacing)
    voxgap("evaluate", "runs/data", "data.csv", "--split", "all", "--cases", tmp_path / "cases.csv")
    cases = list(csv.DictReader((tmp_path / "cases.csv").open()))
    assert [float(row["dice"] or 2) for row in cases] == sorted(float(row["dice"] or 2) for row in cases)
    assert (tmp_path / "cases.png").read_bytes().startswith(b"\x89PNG")
    for row in cases:
        truth = read(Path("labels") / Path(row["case"]).name)
        size = np.prod(truth.spacing) / 1000
        drawn = read(tmp_path / "maps" / Path(row["case"]).name).values
        assert float(row["volume_1"]) == pytest.approx(truth.values.sum() * size, rel=1e-5)
        assert float(row["volume_difference_1"]) == pytest.approx(
            (drawn.sum() - truth.values.sum()) * size, rel=1e-4, abs=1e-6
        )


@pytest.mark.parametrize("network", ["resnet3d", "cnn3d"])
def test_a_class_of_a_whole_volume(network: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    volumes = [rng.normal(index % 2, 0.1, tuple(rng.integers(4, 9, 3))).astype("f4") for index in range(20)]
    for volume in volumes:
        volume[0] = np.nan
    data = Dataset.from_arrays(volumes, np.arange(20) % 2)
    recipe = Recipe(network, architecture=Architecture(filters=(2,), normalize="auto"), training=TINY)
    found = train_and_score(data, recipe, verbose=False)
    assert found.recipe.training.patch_size == (8, 8, 8)
    save_bundle(tmp_path / "b", found.model, data, recipe=found.recipe, scored=found.scored)
    scored = vg.evaluate(tmp_path / "b", data)
    assert scored.scored.scores == pytest.approx(found.scores["test"], nan_ok=True, abs=1e-5)
    predictor = vg.load(tmp_path / "b")
    together = predictor.predict(data.volumes)
    for one, volume in zip(together, volumes, strict=True):
        np.testing.assert_allclose(predictor.predict(volume[np.newaxis, ..., np.newaxis])[0], one, atol=1e-5)
    vg.export(tmp_path / "b", formats=["onnx"])


def test_a_model_of_the_user(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    volumes = [rng.normal(size=tuple(rng.integers(4, 9, 3))).astype("f4") for _ in range(12)]
    data = Dataset.from_arrays(volumes, label_maps=[volume > 0 for volume in volumes])
    model = vg.build_model("unet3d", data.input_shape, 2, "segmentation", filters=(2, 4))
    vg.train(model, data, epochs=1, verbose=False)
    assert vg.evaluate(model, data, pattern="slices").scored.n == (data.split == "test").sum()


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_strategies_are_compared(task: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    volumes = [rng.normal(index % 2, 0.5, tuple(rng.integers(5, 9, 3))).astype("f4") for index in range(20)]
    wanted = (
        {"labels": np.arange(20) % 2}
        if task == "classification"
        else {"label_maps": [v > 0.5 for v in volumes]}
    )
    data = Dataset.from_arrays(volumes, **wanted)
    architecture = {"filters": (2, 4) if task == "segmentation" else (2,)}
    vg.compare(
        data,
        ["mask_channel", "drop"],
        folds=2,
        out=tmp_path / "c.db",
        processes=1,
        architecture=architecture,
        epochs=1,
        batch_size=8,
        precision="float32",
    )
    with open_store(tmp_path / "c.db") as store:
        (experiment,) = store.experiments()
        found = {outcome.status: outcome.reason for _, outcome in store.outcomes(experiment)}
    assert found.keys() <= {"done", "not possible"}, (
        found
    )  # with half of the slices gone, no volume is complete
    assert "done" in found
