"""A finite input gives a finite answer or one clear error, whatever the runtime and the strategy."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stand_in
import tiny
from voxgap.bundle import export, save_bundle
from voxgap.errors import VoxgapError
from voxgap.grid import Grid
from voxgap.io import write
from voxgap.recipe import PRESETS
from voxgap.runtime import Predictor, load, profile
from voxgap.runtime.inputs import Item
from voxgap.runtime.job import Wanted, local
from voxgap.runtime.predictor import Running
from voxgap.training import adapt_model
from voxgap.volume import Volume

TRAINED = tiny.volumes(12)
LARGEST = float(np.finfo(np.float32).max)
SIZES = (1e4, 1e10, 1e19, 1e20, 1e30, 1e37, LARGEST)
FORMATS = ("onnx", "openvino", "litert", "h5", "savedmodel", "pt2")


def summing(batch: np.ndarray) -> np.ndarray:
    """Overflows as networks do: in float32, from 1e38 or so on."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.nansum(batch, axis=(1, 2, 3, 4), dtype=np.float32)
        return np.stack([total, total - total * 2 + total], axis=1)


def predictor(task: str = "regression", engine: Any = summing) -> Predictor:
    known = {"profile": profile(TRAINED, ("t1",)).to_json()}
    classes = [] if task == "regression" else ["a", "b"]
    manifest = stand_in.manifest(classes, task=task, outputs=2, data=known)
    return Predictor(manifest, engine)


def test_a_predictor_is_printed_as_what_it_takes_and_answers() -> None:
    assert repr(predictor()) == (
        "Predictor for regression\ntakes     8×8×8×1 or deeper (depth, height, width, channels: t1)"
    )
    manifest = stand_in.manifest(
        task="segmentation",
        classes=[str(index) for index in range(12)],
        input={
            "shape": [8, 8, 8, 2],
            "channels": ["t1", "flair"],
            "grid": Grid((8, 8, 8), (2.5, 1, 1), "observed").to_json(),
        },
        network="unet3d",
        strategy=PRESETS["gap_dropout"].to_json(),
    )
    assert str(Predictor(manifest, summing, Running("onnx", "bf16"))).splitlines() == [
        "Predictor for segmentation",
        "takes     8×8×8×2 or deeper (depth, height, width, channels: t1, flair); files are cropped to what is "
        "observed, resampled to voxels of 2.5 × 1 × 1, brought to that size",
        "classes   0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more",
        "network   unet3d",
        "strategy  fill mean, mask_channel, gap_dropout 0.2, gap_pattern slices",
        "decision  the most probable class",
        "engine    onnx, bf16",
    ]


def test_an_answer_that_is_not_finite_is_one_clear_error() -> None:
    batch = tiny.volumes(3)
    batch[1] = np.abs(batch[1]) * 1e37
    for ask in (lambda: predictor().predict(batch), lambda: list(predictor().answers(batch))):
        with pytest.raises(
            VoxgapError, match=r"volume 1: the network's answer is not finite for values"
        ) as said:
            ask()
        assert "in the training data -" in str(said.value)
        assert "units of the training data" in str(said.value)
    maps = predictor("segmentation", lambda x: np.concatenate([np.nan_to_num(x) * 100, x * 0], -1))
    with pytest.raises(VoxgapError, match="volume 1: the network's answer is not finite"):
        maps.predict(np.nan_to_num(batch[:2]))
    with pytest.raises(VoxgapError, match="the network is damaged"):
        predictor(engine=lambda x: np.full((len(x), 2), np.nan, np.float32)).answer(
            np.full(tiny.SHAPE, np.nan)
        )


def test_values_far_outside_of_the_training_data_are_warned_of() -> None:
    one = tiny.volumes(2)
    one[0, 0, 0, 0] = 1e20
    with pytest.warns(
        UserWarning, match=r"channel t1 holds values far outside of the training data's, -[\d.]+ to"
    ):
        predictor().predict(one)
    assert "values from" in predictor().answer(one[0]).drift[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictor().predict(tiny.volumes(2))


def test_a_file_without_a_finite_answer_keeps_no_other_from_its_own(tmp_path: Path) -> None:
    batch = tiny.volumes(3)
    batch[1] = np.abs(batch[1]) * 1e37
    items = []
    for index, values in enumerate(batch):
        write(tmp_path / f"{index}.npy", Volume(values))
        items.append(Item(f"{index}.npy", (str(tmp_path / f"{index}.npy"),)))
    rows = list(local(predictor(), Wanted())(items))
    assert [bool(row.get("error")) for row in rows] == [False, True, False]
    assert rows[1]["error"].startswith("the network's answer is not finite")


def bundle(folder: Path, strategy: str, formats: tuple[str, ...]) -> Path:
    data = tiny.dataset()
    model = tiny.model("cnn3d", strategy, filters=(4, 6), seed=0)
    adapt_model(model, data.part("train"))
    save_bundle(folder, model, data, strategy=strategy)
    if formats:
        export(folder, formats)
    return folder


def check(folder: Path, engine: str) -> None:
    """Whatever the size, in one voxel or in all: a finite answer that is doubted, or the error."""
    found = load(folder, engine=engine)
    refused = 0
    for size in SIZES:
        everywhere, once = tiny.volumes(2)
        everywhere = np.clip(everywhere, -1, 1) * np.float32(size)
        once[0, 0, 0, 0] = size
        for volume in (everywhere, once):
            answer = None
            with contextlib.suppress(VoxgapError):
                answer = found.answer(volume)
            if answer is None:
                with pytest.raises(VoxgapError, match="not finite for values from"):
                    found.predict(volume)
                refused += 1
            else:
                assert np.isfinite(answer.values).all()
                assert any("check the units" in said for said in answer.drift), (size, answer.drift)
    assert refused < 2 * len(SIZES), "nothing is answered at all"


def test_a_runtime_answers_or_refuses(tmp_path: Path) -> None:
    check(bundle(tmp_path / "bundle", "mean", ()), "keras")


@pytest.mark.full
def test_every_runtime_answers_or_refuses(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "bundle", "mask_channel", FORMATS)
    for engine in ("keras", *FORMATS):
        check(folder, engine)


@pytest.mark.full
@pytest.mark.parametrize("strategy", PRESETS)
def test_every_strategy_answers_or_refuses(tmp_path: Path, strategy: str) -> None:
    formats = ("onnx", "openvino", "litert")
    folder = bundle(tmp_path / "bundle", strategy, formats)
    for engine in ("keras", *formats):
        check(folder, engine)
