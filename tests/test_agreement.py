"""Consistency: the loss is what a loop makes of two answers, the target has no gradient, and gaps are only added."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import tiny
from test_segmentation import DATA as TISSUES
from voxgap.experiment import execute as execution
from voxgap.experiment.plan import Experiment
from voxgap.models import build_model
from voxgap.recipe import PRESETS, Training
from voxgap.training import adapt_model, fit, train
from voxgap.training.agreement import Agreeing, as_they_are, further_gaps
from voxgap.training.examples import Examples
from voxgap.training.loader import Loader
from voxgap.training.objective import compile_model

QUICK: dict[str, Any] = {"precision": "float32", "verbose": False, "learning_rate": 0.01}


def plain(values: Any, observed: Any) -> Any:
    """A network of one's own in which a training step is as any other: nothing random, no batch statistics."""
    return keras.layers.Conv3D(3, 3, padding="same", activation="relu")(values)


def divergence(task: str, target: np.ndarray, answer: np.ndarray) -> float:
    """What two answers differ by, one number after the other."""
    total, pairs = 0.0, list(zip(target.reshape(-1, 3), answer.reshape(-1, 3), strict=True))
    for wanted, said in pairs:
        for p, q in zip(wanted.tolist(), said.tolist(), strict=True):
            total += (p - q) ** 2 / 3 if task == "regression" else p * np.log(p / q)
    return total / len(pairs)


@pytest.mark.parametrize("task", ["classification", "regression", "segmentation"])
def test_the_loss_gains_what_a_loop_makes_of_both_answers(task: Any) -> None:
    data = TISSUES if task == "segmentation" else tiny.dataset(task)
    part = Examples.of(data.part("train"))
    model = build_model(plain, part.volumes.shape[1:], 3, task)
    adapt_model(model, part)
    network = Agreeing(model, 2.5, task)
    encode, _ = compile_model(network, task, None, "adam", 0.01)
    volumes = np.asarray(part.volumes[:7])
    further = further_gaps(volumes, np.random.default_rng(0))
    targets = encode(np.asarray(part.targets[:7]))
    weights = np.linspace(0.5, 2, 7, dtype=np.float32)  # of samples: no part of the divergence
    answers = [keras.ops.convert_to_numpy(model(x, training=False)) for x in (volumes, further)]

    def loss(training: bool) -> float:
        said = network([volumes, further], training=training)
        np.testing.assert_allclose(keras.ops.convert_to_numpy(said), answers[0], rtol=1e-4, atol=1e-6)
        found = network.compute_loss((volumes, further), targets, said, weights, training)
        return float(keras.ops.convert_to_numpy(found))

    added = divergence(task, *(a.astype(np.float64) for a in answers))
    assert added > 1e-5
    assert loss(True) - loss(False) == pytest.approx(2.5 * added, rel=1e-3)


def test_no_gradient_goes_through_the_answer_to_more() -> None:
    tf = pytest.importorskip("tensorflow")
    part = Examples.of(tiny.dataset().part("train"))
    model = build_model(plain, tiny.SHAPE, 3)
    adapt_model(model, part)
    network = Agreeing(model, 1.0, "classification")
    compile_model(network, "classification", None, "adam", 0.01)
    volumes = part.volumes[:6]
    further = further_gaps(volumes, np.random.default_rng(0))
    target = keras.ops.convert_to_numpy(model(volumes))

    with tf.GradientTape() as tape:
        answer = network([volumes, further], training=True)
        # Nothing of the task itself: all samples weigh 0.
        loss = network.compute_loss((volumes, further), part.targets[:6], answer, np.zeros(6, "float32"))
    found = tape.gradient(loss, network.trainable_variables)
    with tf.GradientTape() as tape:
        answer = model(further, training=True)
        loss = -tf.reduce_mean(tf.reduce_sum(target * tf.math.log(answer), -1))
    for one, other in zip(found, tape.gradient(loss, model.trainable_variables), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_batches_have_further_gaps_beside_them_that_follow_from_seed_epoch_and_index() -> None:
    volumes, targets = tiny.volumes(22), np.arange(22)
    loader = Loader(volumes, targets, 5, seed=7, second=further_gaps)
    seen = []
    for epoch in (0, 1, 0):
        loader.begin(epoch)
        (first, second), chosen = loader[2]
        np.testing.assert_array_equal(first, volumes[chosen])
        kept = ~np.isnan(second)
        np.testing.assert_array_equal(second[kept], first[kept])
        share = 1 - kept.sum() / (~np.isnan(first)).sum()
        assert 0.01 < share < 0.6
        seen.append(second)
    np.testing.assert_array_equal(seen[0], seen[2])
    assert not np.array_equal(seen[0], seen[1], equal_nan=True)
    (first, second), _ = Loader(volumes, targets, 5, second=as_they_are)[0]
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("maps", [False, pytest.param(True, marks=pytest.mark.full)])
def test_it_trains_and_what_comes_out_is_a_network_as_any_other(maps: bool) -> None:
    network: Any = "unet3d" if maps else tiny.network
    data = TISSUES if maps else tiny.dataset()
    deep = {"deep_supervision": True} if maps else {}
    weights, losses = [], []
    for consistency in (0.0, 0.5):
        shape, task = data.volumes.shape[1:], data.task
        model = build_model(network, shape, 3, task, "gap_dropout", filters=(2, 3, 4), **deep)
        history = train(model, data, epochs=2, consistency=consistency, ema=1, **QUICK)
        assert len(model.inputs) == 1
        assert not model.compiled
        weights.append(np.concatenate([w.ravel() for w in model.get_weights()]))
        losses.append([epoch["val_loss"] for epoch in history.epochs])
        assert set(history.epochs[0]) >= {"loss", "val_loss", "accuracy", "val_accuracy"}
    assert np.isfinite(losses).all()
    assert (weights[0] != weights[1]).any()


def test_an_experiment_fills_anew_in_each_step_where_gaps_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, seen = tiny.dataset(), []

    def watched(model: keras.Model, *rest: Any, **how: Any) -> Any:
        seen.append([layer.name for layer in model.layers])
        return fit(model, *rest, **how)

    monkeypatch.setattr("voxgap.experiment.execute.fit", watched)
    training = Training(epochs=1, consistency=1.0, precision="float32")
    strategies = (("mask_channel", PRESETS["mask_channel"]),)
    plan = Experiment("tiny", "0", strategies, ("cnn3d",), folds=1, training=training)
    outcome = execution.execute(plan.runs()[0], data, cache=tmp_path)
    assert (outcome.status, outcome.reason) == ("done", "epochs")
    assert "prepare" in seen[0]
