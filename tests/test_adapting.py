"""A layer that learns from data answers, and is trained with, only when it has; its file remembers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import tiny
from voxgap import fill
from voxgap.errors import VoxgapError
from voxgap.layers import ObservedNormalization
from voxgap.runtime.engines import load_keras
from voxgap.training import adapt_model

X = tiny.volumes(4)
FILLS = ("Mean", "Median", "Mode", "LinearInterpolation", "KNN", "MatrixFactorization")
SAID = r"^\w+ has learnt nothing yet: call adapt\(training volumes\) first"


def around(layer: keras.layers.Layer) -> keras.Model:
    """A plain Keras model of one's own."""
    volumes = keras.Input(tiny.SHAPE)
    return keras.Model(volumes, keras.layers.Dense(2)(keras.layers.Flatten()(layer(volumes))))


def refused(what: Callable[[], Any]) -> None:
    with pytest.raises(VoxgapError, match=SAID) as caught:
        what()
    assert "\n" not in str(caught.value)


def fitted(model: keras.Model) -> Any:
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    return model.fit(X, np.arange(4) % 2, verbose=0)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in ("Mean", "KNN") else pytest.mark.full) for kind in FILLS]
)
def test_a_layer_alone_and_what_is_saved(kind: str, tmp_path: Path) -> None:
    layer = getattr(fill, kind)()
    refused(lambda: layer(X))
    refused(lambda: layer(keras.ops.convert_to_tensor(X)))
    model = around(getattr(fill, kind)())
    refused(lambda: model(X))
    model.save(tmp_path / "new.keras")
    assert not load_keras(tmp_path / "new.keras").layers[1].adapted
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Mode's, of continuous data
        model.layers[1].adapt(X)
    assert np.isfinite(model(X)).all()
    model.save(tmp_path / "adapted.keras")
    loaded = load_keras(tmp_path / "adapted.keras")
    assert loaded.layers[1].adapted
    np.testing.assert_array_equal(loaded(X), model(X))


def test_what_is_traced_is_refused_too_until_it_is_adapted() -> None:
    model = around(fill.Mean())
    refused(lambda: model.predict(X, verbose=0))
    refused(lambda: fitted(model))
    unbuilt = keras.Sequential([fill.Mean(), keras.layers.Flatten(), keras.layers.Dense(2)])
    refused(lambda: unbuilt.predict(X, verbose=0))
    model.layers[1].adapt(X)
    fitted(model)
    assert np.isfinite(model.predict(X, verbose=0)).all()


@pytest.mark.full
def test_normalising_and_the_models_of_voxgap() -> None:
    refused(lambda: ObservedNormalization()(np.nan_to_num(X)))
    assert np.isfinite(around(fill.Zero())(X)).all()  # nothing to learn
    assert np.isfinite(tiny.model("cnn3d", "zero", filters=(2,), normalize="none")(X)).all()
    for strategy in ("zero", "mean"):
        model = tiny.model("cnn3d", strategy, filters=(2,))
        refused(lambda model=model: model(X))
        adapt_model(model, tiny.dataset().part("train"))
        assert np.isfinite(model(X)).all()
