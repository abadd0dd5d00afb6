"""Units of intensity: per volume or of the data, in the graph as in NumPy, chosen by what the data shows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

import voxgap as vg
from voxgap import intensity, names
from voxgap.bundle import save_bundle
from voxgap.cli import app
from voxgap.errors import VoxgapError
from voxgap.experiment import fill_volumes, train_and_score
from voxgap.fill.base import filling
from voxgap.layers import VolumeNormalization
from voxgap.layers.intensity import Normalized
from voxgap.missingness import simulate
from voxgap.recipe import PRESETS, Architecture, Recipe, Training
from voxgap.training import adapt_model

SHAPE = (6, 7, 8, 2)


def volumes(count: int = 6, seed: int = 0, rate: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.gamma(2.0, 3.0, (count, *SHAPE)).astype("f4")
    x[rng.random(x.shape) < rate] = np.nan
    return x


def in_numpy(x: np.ndarray, method: str) -> np.ndarray:
    """Each volume and channel by a loop."""
    found = np.empty_like(x)
    for index in np.ndindex(len(x), x.shape[-1]):
        values = x[index[0], ..., index[1]].astype("f8")
        seen = values[~np.isnan(values)]
        if method == "volume":
            low, size = seen.mean(), seen.std()
        elif method == "percentile":
            low, high = np.percentile(seen, (0.5, 99.5), method="inverted_cdf")
            size = high - low
        else:
            low, size = -1.0, 13.0
        found[index[0], ..., index[1]] = (values - low) / size
    return found if method == "volume" else np.clip(found, 0, 1)


@pytest.mark.parametrize("method", ["volume", "percentile", "window"])
def test_the_layer_does_what_a_loop_does(method: Any) -> None:
    x = volumes()
    values, shift, scale = map(keras.ops.convert_to_numpy, VolumeNormalization(method, -1.0, 12.0)(x))
    assert np.allclose(values, in_numpy(x, method), rtol=1e-5, atol=2e-6, equal_nan=True)
    assert np.array_equal(np.isnan(values), np.isnan(x))
    inside = (values > 0) & (values < 1) if method != "volume" else ~np.isnan(x)
    assert inside.mean() > 0.2
    assert np.allclose((values * scale + shift)[inside], x[inside], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["volume", "percentile"])
@pytest.mark.parametrize("factor", [1e-30, 0.01, 100.0, 1e28])
def test_a_factor_changes_nothing(method: Any, factor: float) -> None:
    x = volumes()
    layer = VolumeNormalization(method)
    plain, scaled = (keras.ops.convert_to_numpy(layer(v)[0]) for v in (x, x * np.float32(factor)))
    assert np.allclose(plain, scaled, rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("method", ["volume", "percentile"])
def test_volumes_that_say_nothing_stay_finite(method: Any) -> None:
    x = np.full((4, *SHAPE), np.nan, "f4")
    x[1], x[2], x[3, 0, 0, 0] = 5.0, 0.0, 7.0
    values = keras.ops.convert_to_numpy(VolumeNormalization(method)(x)[0])
    assert np.array_equal(np.isnan(values), np.isnan(x))
    assert np.abs(values[~np.isnan(x)]).max() < 1e-5


def test_what_a_fill_is_adapted_to_is_read_when_asked_for() -> None:
    x = volumes()
    layer = VolumeNormalization("volume")
    whole = keras.ops.convert_to_numpy(layer(x)[0])
    view = Normalized(x, layer)
    assert (view.shape, len(view)) == (x.shape, len(x))
    for key in (2, slice(1, 4), (3, 1, slice(2, 5)), slice(0, 0)):
        assert np.allclose(view[key], whole[key], rtol=1e-6, atol=1e-6, equal_nan=True)


QUICK = {("volume", "mean"), ("percentile", "knn"), ("window:0,20", "linear"), ("none", "masked_conv")}


@pytest.mark.parametrize(
    ("normalize", "strategy"),
    [
        pytest.param(n, s, marks=() if (n, s) in QUICK else pytest.mark.full, id=f"{n}-{s}")
        for n in ("volume", "percentile", "window:0,20", "none")
        for s in PRESETS
        if s != "mode"  # Of values that are all different.
    ],
)
def test_every_fill_borrows_in_common_units(normalize: str, strategy: str) -> None:
    x = volumes(8)
    model = vg.build_model("cnn3d", SHAPE, 2, strategy=strategy, normalize=normalize, filters=(4,), seed=0)
    data = vg.Dataset.from_arrays(x, labels=np.arange(8) % 2, split=["train"] * 8)
    adapt_model(model, data.part("train"))
    answer = model.predict(x, verbose=0)
    assert np.isfinite(answer).all()
    filled = fill_volumes(model, x)
    assert np.isfinite(filled).all()
    assert np.array_equal(filled[~np.isnan(x)], x[~np.isnan(x)])
    if normalize in ("volume", "percentile") and strategy != "zero":
        factors = np.float32([1, 100, 0.01, 1, 1, 1, 1, 1]).reshape(-1, 1, 1, 1, 1)
        assert np.allclose(model.predict(x * factors, verbose=0), answer, atol=1e-4)
        assert np.allclose(fill_volumes(model, x * factors), filled * factors, rtol=1e-3, atol=1e-3)


def test_a_window_cuts_off_what_is_outside() -> None:
    x = volumes(4)
    wide = np.where(x > 20, 1e6, x).astype("f4")
    model = vg.build_model(
        "cnn3d", SHAPE, 2, strategy="linear", normalize="window:0,20", filters=(4,), seed=0
    )
    adapt_model(model, vg.Dataset.from_arrays(x, labels=[0, 1, 0, 1], split=["train"] * 4))
    prepare = model.get_layer("prepare")
    assert np.allclose(
        prepare.predict(wide, verbose=0), prepare.predict(np.minimum(x, 20), verbose=0), atol=1e-4
    )


def test_saved_and_filled_in_raw_units(tmp_path: Path) -> None:
    x = volumes(8)
    data = vg.Dataset.from_arrays(x, labels=np.arange(8) % 2, split=["train"] * 6 + ["validation"] * 2)
    model = vg.build_model("cnn3d", SHAPE, 2, strategy="mean", normalize="volume", filters=(4,), seed=0)
    adapt_model(model, data.part("train"))
    save_bundle(tmp_path / "b", model, data, strategy="mean")
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    # No range of values is that of another volume.
    assert all(channel["values"] is None for channel in manifest["data"]["profile"]["channels"].values())
    predictor = vg.load(tmp_path / "b", engine="keras")
    assert np.allclose(predictor.predict(x * 1000), model.predict(x, verbose=0), atol=1e-4)
    assert not predictor.answer(x[0] * 1000).drift
    again = keras.saving.load_model(tmp_path / "b" / manifest["files"]["keras"]["path"], compile=False)
    assert np.allclose(filling(again).predict(x, verbose=0), filling(model).predict(x, verbose=0), atol=1e-4)


# --- the choice --------------------------------------------------------------------------------------------


def test_the_choice_is_by_scale_and_not_by_level() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(3, 1, (40, 4, 5, 6, 1)).astype("f4")
    factors = np.ones((40, 1, 1, 1, 1), "f4")
    assert intensity.choose(x).method == "dataset"
    # A class may be a level: units are the same.
    assert intensity.choose(x + 100 * (np.arange(40) % 2).reshape(-1, 1, 1, 1, 1)).method == "dataset"
    factors[:5] = 300  # As of 33 of 260 hippocampus scans.
    found = intensity.choose(x * factors)
    assert found.method == "volume"
    assert "-fold" in found.why
    two = np.concatenate([x, x * factors], axis=-1)
    assert "in channel t2" in intensity.choose(two, ("t1", "t2")).why
    two[:, :2] = np.nan
    two[3] = np.nan
    assert intensity.choose(two, ("t1", "t2")).method == "volume"
    assert intensity.choose(np.full((3, 2, 2, 2, 1), np.nan, "f4")).method == "dataset"
    assert intensity.choose(np.zeros((3, 2, 2, 2, 1), "f4")).method == "dataset"


@pytest.mark.parametrize(
    "name",
    [*(pytest.param(n, marks=pytest.mark.full) for n in ("motion", "nodules")), "brain", "brain-tissue"],
)
def test_the_samples_are_in_common_units(name: str) -> None:
    volumes = vg.load_data(f"sample:{name}").part("train").volumes
    assert intensity.choose(volumes[:200]).method == "dataset"


@pytest.mark.parametrize(
    "method", ["z-score", "window", "window:1", "window:2,1", "window:a,b", "window:nan,1", "", "volume:1"]
)
def test_unknown_methods_are_refused_in_one_line(method: str) -> None:
    with pytest.raises(VoxgapError, match=r"normalize must be one of auto, dataset, volume"):
        vg.build_model("cnn3d", SHAPE, 2, normalize=method)
    assert names.normalization("window:-100,400") == "window:-100,400"


def test_a_network_of_patches_says_that_it_sees_no_volume() -> None:
    x = volumes() * np.float32([1, 1, 1, 1, 1, 1000]).reshape(-1, 1, 1, 1, 1)
    with pytest.raises(VoxgapError, match="needs whole volumes"):
        intensity.resolve("volume", x, patch_size=(1, 1, 1))
    assert "normalise the files" in intensity.resolve("auto", x, patch_size=(1, 1, 1)).why


@pytest.mark.full
def test_scans_of_different_scale_are_learnt_from(tmp_path: Path) -> None:
    """The fault that it was made for: a few scans hundreds of times brighter, and nothing was learnt."""
    rng = np.random.default_rng(0)
    truth = np.zeros((40, 8, 8, 8, 1), "f4")
    for index in range(40):
        axis = index % 2
        truth[index] = np.sin(np.arange(8) * 1.5).reshape([8 if a == axis else 1 for a in range(4)])
    x = simulate(
        truth + 3 + rng.normal(0, 0.3, truth.shape).astype("f4"), pattern="slices", missing_rate=0.2, seed=0
    )
    x *= np.where(np.arange(40) % 8 < 2, 400, 1).reshape(-1, 1, 1, 1, 1)
    data = vg.Dataset.from_arrays(x, labels=np.arange(40) % 2, seed=0)
    scores = {}
    for normalize in ("dataset", "auto"):
        training = Training(epochs=12, learning_rate=3e-3, precision="float32")
        recipe = Recipe("cnn3d", PRESETS["linear"], Architecture((8,), normalize=normalize), training)
        scores[normalize] = train_and_score(data, recipe).scores["test"]["accuracy"]
    assert scores["auto"] >= 0.9
    assert scores["auto"] > scores["dataset"]


@pytest.mark.full
def test_the_command_says_what_it_chose(tmp_path: Path) -> None:
    x = volumes(20) * np.where(np.arange(20) % 5 == 0, 500, 1).reshape(-1, 1, 1, 1, 1).astype("f4")
    np.savez(tmp_path / "x.npz", volumes=x, labels=np.arange(20) % 2)
    words = ["train", tmp_path / "x.npz", "--out", tmp_path / "b", "--model", "cnn3d", "--filters", "4"]
    done = CliRunner().invoke(
        app, [*map(str, words), "--epochs", "1", "--precision", "float32"], catch_exceptions=False
    )
    assert "normalize: volume (scales of the volumes differ up to" in done.stderr
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert manifest["arguments"]["architecture"]["normalize"] == "volume"


def test_a_value_that_looks_like_a_mark_is_named() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(300, 50, (6, 5, 6, 7, 2)).astype("f4")
    assert intensity.suspects(x) == []
    x[rng.random(x.shape) < 0.13] = -1000
    x[..., 1] = np.abs(x[..., 1])
    (said, *_) = intensity.suspects(x, ("ct", "pet"))
    assert re.match(r"-1000 stands in 1[34]% of the voxels of channel ct", said)
    assert said.endswith("--missing-values -1000")
    assert intensity.suspects([x[0], x[1, :3], x[2, :, :4]], ("ct", "pet")), "of volumes of any shapes"
    # Zeros around a head lie at the end of the values, not beyond it.
    head = np.round(np.abs(rng.normal(0, 50, (4, 5, 6, 7, 1)))).astype("f4")
    head[:, :2] = 0
    masks = (rng.random((4, 5, 6, 7, 1)) < 0.1).astype("f4") * 255
    assert intensity.suspects(head) == []
    assert intensity.suspects(masks) == []
    assert intensity.suspects(np.full((2, 2, 2, 2, 1), np.nan, "f4")) == []
