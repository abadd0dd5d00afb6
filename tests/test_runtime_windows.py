"""Volumes deeper than a network's input: windows along depth, their mean, and clips that keep their length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

import server_cases as cases
import stand_in
from voxgap.errors import VoxgapError
from voxgap.grid import Grid
from voxgap.io import write
from voxgap.runtime import Manifest, Predictor
from voxgap.server import create_app
from voxgap.volume import Volume

SHAPE = (4, 3, 5, 1)


def manifest(task: str = "classification", **fields: Any) -> Manifest:
    entry = {"shape": list(SHAPE), "channels": ["c0"], "grid": Grid().to_json()} | fields
    return stand_in.manifest(
        task=task,
        classes=[] if task == "regression" else ["dim", "bright"],
        input=entry,
    )


def brightness(batch: np.ndarray) -> np.ndarray:
    """A probability that follows the mean of what is observed; only volumes of the network's own shape."""
    assert batch.shape[1:] == SHAPE
    bright = np.nan_to_num(batch).mean(axis=(1, 2, 3, 4))
    return np.stack([1 - bright, bright], axis=1).astype(np.float32)


def above(batch: np.ndarray) -> np.ndarray:
    bright = (np.nan_to_num(batch) > 0.5).astype(np.float32)
    return np.concatenate([1 - bright, bright], axis=-1)


def clip(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((frames, *SHAPE[1:])).astype(np.float32)


def mean_over_windows(values: np.ndarray, starts: list[int]) -> np.ndarray:
    """The independent way: each window by hand."""
    return np.mean([brightness(values[s : s + SHAPE[0]][None])[0] for s in starts], axis=0)


@pytest.mark.parametrize(
    ("frames", "starts"), [(4, [0]), (5, [0, 1]), (6, [0, 2]), (8, [0, 2, 4]), (11, [0, 2, 4, 5, 7])]
)
def test_a_longer_clip_is_the_mean_over_windows_that_cover_it(frames: int, starts: list[int]) -> None:
    predictor = Predictor(manifest(), brightness)
    values = clip(frames)
    answer = predictor.answer(values)
    assert answer.windows == len(starts) == answer.to_json()["windows"]
    np.testing.assert_allclose(answer.values, mean_over_windows(values, starts), atol=1e-6)
    np.testing.assert_array_equal(predictor.predict(values)[0], answer.values)


def test_a_window_of_nothing_has_no_say_and_a_regression_is_a_mean_too() -> None:
    values = clip(8)
    values[:4] = np.nan
    seen = mean_over_windows(values, [2, 4])
    np.testing.assert_allclose(Predictor(manifest(), brightness).predict(values)[0], seen, atol=1e-6)
    one = Predictor(manifest("regression"), lambda batch: brightness(batch)[:, 1:])
    np.testing.assert_allclose(one.answer(values).values, seen[1:], atol=1e-6)


def test_a_label_map_of_a_longer_volume_covers_it() -> None:
    values = clip(9)
    answer = Predictor(manifest("segmentation"), above).answer(values)
    np.testing.assert_array_equal(answer.values.argmax(-1), values[..., 0] > 0.5)
    assert answer.windows == 4


def test_only_depth_may_be_longer() -> None:
    predictor = Predictor(manifest(), brightness)
    for shape in ((3, 3, 5, 1), (4, 4, 5, 1), (8, 3, 6, 1), (8, 3, 5, 2)):
        with pytest.raises(VoxgapError, match="this network takes 4×3×5×1 or deeper"):
            predictor.predict(np.zeros(shape, np.float32))


def frames_at(path: Path, count: int, seconds: float) -> Path:
    """A clip of whole numbers, each frame its own grey; as a video has it, or in NetCDF."""
    values = np.repeat(np.arange(count, dtype=np.float32), 15).reshape(count, 3, 5, 1)
    axes = ("time", "height", "width") if path.suffix == ".mkv" else ("depth", "height", "width")
    write(path, Volume(values, spacing=(seconds, 1.0, 1.0), axes=axes))
    return path


@pytest.mark.parametrize("grid", [Grid(size=(4, 3, 5)), Grid(size=(4, 3, 5), spacing=(0.04, 1, 1))])
def test_a_clip_on_file_keeps_its_length_at_the_step_of_the_training_data(grid: Grid, tmp_path: Path) -> None:
    predictor = Predictor(manifest(grid=grid.to_json(), spacing=[0.04, 1.0, 1.0]), brightness)
    same, longer, quicker = (
        predictor.read(frames_at(tmp_path / f"{name}.mkv", count, seconds))[0]
        for name, count, seconds in (("same", 4, 0.04), ("longer", 10, 0.04), ("quicker", 20, 0.02))
    )
    assert [same.shape, longer.shape, quicker.shape] == [SHAPE, (10, 3, 5, 1), (10, 3, 5, 1)]
    np.testing.assert_allclose(longer.values[:, 0, 0, 0], np.arange(10))
    np.testing.assert_allclose(quicker.values[1:-1, 0, 0, 0], np.arange(10)[1:-1] * 2 + 0.5, atol=0.3)
    scan = predictor.read(frames_at(tmp_path / "scan.nii", 10, 0.04))[0]
    assert scan.shape == SHAPE, "a scan is placed as those that the network was trained on"


def test_without_a_common_step_a_clip_is_squeezed_as_the_training_data_was(tmp_path: Path) -> None:
    predictor = Predictor(manifest(grid=Grid(size=(4, 3, 5)).to_json(), spacing=None), brightness)
    assert predictor.read(frames_at(tmp_path / "longer.mkv", 10, 0.04))[0].shape == SHAPE


def test_the_server_says_how_many_windows(tmp_path: Path) -> None:
    long = np.concatenate([cases.volume(1), cases.volume(2)])
    bundle, load = cases.windowed(tmp_path / "b")
    with TestClient(create_app(bundle, load=load), cases.HERE) as server:
        (said,) = cases.predictions(server.post("/v1/predict", **cases.raw(long)))
        assert said["windows"] == 3
        each = [cases.expected(long[s : s + 4])[1] for s in (0, 2, 4)]
        assert said["probabilities"]["bright"] == pytest.approx(np.mean(each), abs=1e-5)
        (one,) = cases.predictions(server.post("/v1/predict", **cases.raw(long[:4])))
        assert one["windows"] == 1
        cases.refused(server.post("/v1/predict", **cases.raw(long[:3])), 422, "or deeper")
        view = server.post("/v1/view", **cases.raw(long))
        assert view.headers["x-shape"] == "8,6,8,1"
