"""What a training minimises is what a loop makes of it, and decay leaves alone what has no size."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from voxgap.training.objective import compile_model


def small() -> keras.Model:
    layers = [
        keras.layers.Dense(5),
        keras.layers.BatchNormalization(),
        keras.layers.Dense(3, activation="softmax"),
    ]
    return keras.Sequential([keras.Input((4,)), *layers])


def test_smoothed_labels_are_those_of_a_loop() -> None:
    model, rng = small(), np.random.default_rng(0)
    encode, counts = compile_model(model, "classification", None, "adam", 0.01, label_smoothing=0.3)
    targets = np.array([0, 2, 1, 1, 0, 2])
    answers = rng.dirichlet(np.ones(3), len(targets)).astype(np.float32)
    expected = 0.0
    for target, answer in zip(targets, answers, strict=True):
        for label, probability in enumerate(answer):
            share = 0.3 / 3 + (0.7 if label == target else 0.0)
            expected -= share * np.log(probability) / len(targets)
    found = float(keras.ops.convert_to_numpy(model.compute_loss(y=encode(targets), y_pred=answers)))
    assert found == pytest.approx(expected, rel=1e-5)
    assert counts is not None
    counts.update_state(encode(targets), answers)
    right = answers.argmax(axis=1) == targets
    assert float(keras.ops.convert_to_numpy(counts.result())) == pytest.approx(right.mean())


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_decay_is_decoupled_and_spares_biases_and_normalisations(optimizer: str) -> None:
    model = small()
    compile_model(model, "classification", None, optimizer, 0.5, weight_decay=0.1)
    before = [np.ones(v.shape, np.float32) for v in model.trainable_variables]
    for variable, value in zip(model.trainable_variables, before, strict=True):
        variable.assign(value)
    # Without a gradient only decay moves anything, whatever the optimizer makes of gradients.
    zeros = [keras.ops.zeros(v.shape) for v in model.trainable_variables]
    model.optimizer.apply(zeros, model.trainable_variables)
    for variable in model.trainable_variables:
        expected = 1 - 0.5 * 0.1 if variable.name == "kernel" else 1
        np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), expected, rtol=1e-6)


def test_an_optimizer_of_one_s_own_keeps_its_decay() -> None:
    model = small()
    compile_model(
        model, "classification", None, keras.optimizers.SGD(0.1, weight_decay=0.3), 0.5, weight_decay=0.1
    )
    assert model.optimizer.weight_decay == 0.3
