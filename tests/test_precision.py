"""Precision: a twin in bfloat16 with the same weights, and the check that keeps wrong ones out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tiny
from voxgap.errors import VoxgapError
from voxgap.recipe import PRESETS
from voxgap.training import adapt_model, precision
from voxgap.training.precision import agrees, choose, with_policy

X = tiny.volumes(4)
FLOAT32_ALWAYS = ("gap_dropout", "fill", "normalize", "observed", "output", "denormalize")


def built(
    network: Any = "cnn3d", strategy: str = "mask_channel", task: str = "classification", offset: float = 0.0
) -> Any:
    more = {"filters": (4, 6)} if isinstance(network, str) else {}
    model = tiny.model(network, strategy, task=task, **more)
    data = tiny.dataset(task)
    adapt_model(model, data.with_volumes(data.volumes + np.float32(offset)).part("train"))
    return model


def leaves(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from leaves(layer)
        else:
            yield layer


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("strategy", ["gap_dropout", "masked_conv"])
def test_the_twin_computes_in_bfloat16_between_float32_ends(strategy: str, task: str) -> None:
    model = built(strategy=strategy, task=task)
    twin = with_policy(model, "mixed_bfloat16")
    for layer in leaves(twin):
        if isinstance(layer, keras.layers.InputLayer):
            continue
        expected = "float32" if layer.name in FLOAT32_ALWAYS else "bfloat16"
        assert layer.compute_dtype == expected, layer.name
    for a, b in zip(twin.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    answer = twin(X, training=False)
    assert keras.backend.standardize_dtype(answer.dtype) == "float32"
    exact = np.array(model(X, training=False))
    scale = np.abs(exact - exact.mean(axis=0)).max() if task == "regression" else 1
    np.testing.assert_allclose(answer, exact, rtol=0, atol=0.05 * scale)


@pytest.mark.parametrize("strategy", [name for name in PRESETS if name != "learned"])
def test_there_and_back_is_the_same_model(strategy: str) -> None:
    model = built(strategy=strategy)
    back = with_policy(with_policy(model, "mixed_bfloat16"), "float32")
    assert all(layer.compute_dtype == "float32" for layer in leaves(back))
    np.testing.assert_array_equal(back(X, training=False), model(X, training=False))
    assert [layer.name for layer in leaves(back)] == [layer.name for layer in leaves(model)]


def test_a_twin_leaves_its_original_alone() -> None:
    model = built()
    before = [w.copy() for w in model.get_weights()]
    twin = with_policy(model, "mixed_bfloat16")
    twin.set_weights([np.zeros_like(w) for w in twin.get_weights()])
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert all(layer.compute_dtype == "float32" for layer in leaves(model))


def test_a_compiled_and_trained_model_has_a_twin(tmp_path: Path) -> None:
    model = built()
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.save(tmp_path / "m.keras")
    twin = with_policy(keras.saving.load_model(tmp_path / "m.keras"), "mixed_bfloat16")
    assert np.isfinite(np.array(twin(X, training=False))).all()


@keras.saving.register_keras_serializable(package="voxgap-tests")
class Wrong(keras.layers.Layer):
    """Right in float32; in bfloat16 its answer, its gradient or its last column is wrong."""

    def __init__(self, kind: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kind = kind

    def call(self, x: Any) -> Any:
        if self.compute_dtype != "bfloat16":
            return x
        if self.kind == "answer":
            return -x
        if self.kind == "nan":
            return x * tf.cast(np.nan, x.dtype)
        if self.kind == "column":
            return tf.concat([x[:, :, :, :-1], 0 * x[:, :, :, -1:] + 3], axis=3)

        @tf.custom_gradient
        def bad(x: Any) -> Any:
            return tf.identity(x), lambda upstream: -upstream

        return bad(x)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"kind": self.kind}


def wrong_network(kind: str) -> Any:
    def network(values: Any, observed: Any) -> Any:
        x = keras.layers.Conv3D(
            4, 3, strides=2, activation="relu", kernel_initializer=keras.initializers.HeNormal(seed=1)
        )(values)
        return Wrong(kind)(x)

    return network


@pytest.mark.parametrize("kind", ["answer", "nan", "column", "gradient"])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_a_network_that_computes_wrong_is_found(kind: str, offset: float) -> None:
    model = built(wrong_network(kind), "mean", offset=offset)
    assert not agrees(model)
    assert choose(model, "auto") == "float32"
    with pytest.raises(VoxgapError, match="use float32"):
        choose(model, "bfloat16")


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_right_networks_agree(task: str, offset: float) -> None:
    assert agrees(built("resnet3d", "masked_conv", task=task, offset=offset))


@pytest.mark.full
@pytest.mark.parametrize("strategy", PRESETS)
@pytest.mark.parametrize("network", ["cnn3d", "resnet3d", "resnet2d", "resnet2plus1d"])
def test_every_network_agrees(network: str, strategy: str) -> None:
    assert agrees(built(network, strategy))


def test_choose_follows_the_processor_and_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built()
    monkeypatch.setattr(precision, "faster", lambda model, batch_size: True)
    monkeypatch.setattr(precision, "has_bfloat16", lambda: False)
    assert choose(model, "auto") == "float32"
    assert choose(model, "float32") == "float32"
    assert choose(model, "bfloat16") == "mixed_bfloat16"
    monkeypatch.setattr(precision, "has_bfloat16", lambda: True)
    assert choose(model, "auto") == "mixed_bfloat16"
    monkeypatch.setattr(precision, "faster", lambda model, batch_size: False)
    assert choose(model, "auto") == "float32"
    with pytest.raises(VoxgapError, match="precision must be"):
        choose(model, "half")  # type: ignore[arg-type]


def test_trying_both_precisions_leaves_the_model_alone() -> None:
    model = built()
    before = model.get_weights()
    assert precision.faster(model, 2) in (True, False)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("text", "has"),
    [
        ("flags : fpu avx512_bf16 x", True),
        ("flags : amx_bf16", True),
        ("flags : avx512f", False),
        ("", False),
    ],
)
def test_the_processor_s_flags_are_read(
    text: str, has: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(precision, "Path", lambda _: tmp_path / "cpuinfo")
    assert precision.has_bfloat16() is has
