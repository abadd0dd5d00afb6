"""Training one strategy and scoring it: the scores are those of the trained network on each part."""

from __future__ import annotations

import dataclasses
import importlib
import warnings

import numpy as np
import pytest

import tiny
from voxgap import metrics
from voxgap.experiment import fill_volumes, train_and_score
from voxgap.history import History
from voxgap.recipe import PRESETS, Architecture, Recipe, Training

single = importlib.import_module("voxgap.experiment.single")
DATA = tiny.dataset()
QUICK = Training(epochs=3, batch_size=8, learning_rate=0.03, precision="float32")


def test_scores_are_of_the_best_weights_on_each_part() -> None:
    result = train_and_score(DATA, Recipe(tiny.network, PRESETS["mask_channel"], training=QUICK), seed=2)
    assert set(result.scores) == {"validation", "test"}
    for split, scores in result.scores.items():
        part = DATA.part(split)
        expected = metrics.scores(
            "classification", part.targets, result.model.predict(part.volumes, verbose=0)
        )
        assert scores == pytest.approx(expected, nan_ok=True)
    assert result.scores["validation"]["accuracy"] == pytest.approx(result.history.best["val_accuracy"])
    assert result.model.name == "network"
    assert result.recipe.strategy.mask_channel
    assert result.seconds >= result.history.seconds


@pytest.mark.full
def test_data_without_a_test_part_is_scored_without_it() -> None:
    split = np.where(DATA.split == "test", "train", DATA.split)
    result = train_and_score(dataclasses.replace(DATA, split=split), Recipe(tiny.network, training=QUICK))
    assert set(result.scores) == {"validation"}


def test_outputs_follow_from_the_data() -> None:
    assert DATA.outputs == 3
    assert tiny.dataset("regression", outputs=2).outputs == 2
    one = tiny.dataset("regression", outputs=1)
    assert dataclasses.replace(one, targets=one.targets[:, 0]).outputs == 1


@pytest.mark.full
def test_a_regression_with_one_value_a_volume(tmp_path: object) -> None:
    data = tiny.dataset("regression", outputs=1)
    data = dataclasses.replace(data, targets=data.targets[:, 0])
    result = train_and_score(data, Recipe("cnn3d", architecture=Architecture((3,)), training=QUICK))
    assert np.isfinite(result.scores["test"]["mae"])


def test_filled_volumes_are_in_raw_units() -> None:
    model = tiny.model(tiny.network, "linear")
    from voxgap.training import adapt_model

    adapt_model(model, DATA.part("train"))
    x = DATA.volumes[:5] + 100
    filled = fill_volumes(model, x, batch_size=2)
    assert filled.shape == x.shape
    assert np.isfinite(filled).all()
    np.testing.assert_array_equal(filled[~np.isnan(x)], x[~np.isnan(x)])


@pytest.mark.parametrize("threshold", [0.5, 0.2])
def test_a_class_is_never_named_by_the_rule_that_names_classes(
    threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that all lean to the first class a little: by a low threshold the second is named all the same."""
    keep = DATA.targets < 2
    two = dataclasses.replace(DATA.take(np.flatnonzero(keep)), classes=("healthy", "tumour"))
    monkeypatch.setattr(
        single, "predictions_of", lambda model, volumes, size: np.tile([0.7, 0.3], (len(volumes), 1))
    )
    ran = History(({"val_loss": 0.5, "loss": 0.5, "seconds": 1.0},), "val_loss", 0, 1, "epochs", never=(0, 1))
    monkeypatch.setattr(single, "train", lambda *_, **__: ran)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        result = train_and_score(
            two, Recipe("cnn3d", architecture=Architecture((3,)), threshold=str(threshold))
        )
    (said,) = [str(one.message) for one in heard if "never names" in str(one.message)]
    never = (1,) if threshold == 0.5 else (0,)
    assert result.history.never == never
    assert f"never names class {two.classes[never[0]]} " in said


def test_a_class_of_label_maps_is_never_named_where_no_voxel_is() -> None:
    targets = np.array([[[[-1, 0, 1]]], [[[2, 2, 0]]]])
    answers = np.eye(3)[[[[[0, 0, 1]]], [[[0, 0, 0]]]]]
    assert single.never_named(targets, answers, None) == (2,)
    assert single.never_named(targets, answers[..., :2], 1e-9) == (2,)
    assert single.never_named(np.minimum(targets, 1), answers[..., :2], 1e-9) == ()
    assert single.never_named(np.minimum(targets, 1), answers[..., :2], 1.0 + 1e-9) == (1,)
