"""A plain Keras model with a fill layer: exported by one call, proven, and the same in every format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import tiny
from test_export import answering
from voxgap import fill
from voxgap.bundle import export_model, exporting
from voxgap.errors import VoxgapError
from voxgap.runtime.engines import open_engine


def own_model(layer: keras.layers.Layer, shape: tuple[int, ...] = tiny.SHAPE) -> keras.Model:
    volumes = keras.Input(shape)
    x = keras.layers.Conv3D(2, 3)(layer(volumes))
    model = keras.Model(volumes, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling3D()(x)))
    layer.adapt(tiny.volumes(12, shape))
    model.compile("adam", "mse")
    return model


def test_a_model_of_ones_own_is_exported_and_proven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, volumes = own_model(fill.Mean()), tiny.volumes(4, seed=1)
    monkeypatch.setattr(exporting, "_convert", answering(0))
    entries = export_model(model, tmp_path, ["litert"], volumes=volumes)
    assert (tmp_path / "model.tflite").read_bytes() == b"litert"
    assert [p.name for p in tmp_path.iterdir()] == ["model.tflite"]
    assert entries["litert"]["path"] == str(tmp_path / "model.tflite")
    assert entries["litert"]["parity"]["max_difference"] == 0
    monkeypatch.setattr(exporting, "_convert", answering(0.5))
    monkeypatch.setattr(exporting, "_where", lambda *_: "")
    with pytest.raises(VoxgapError, match=r"--tolerance 0\.6 accepts it"):
        export_model(model, tmp_path, ["litert"], volumes=volumes)
    assert [p.name for p in tmp_path.iterdir()] == ["model.tflite"]
    with pytest.raises(VoxgapError, match="web is made from a bundle"):
        export_model(model, tmp_path, ["web"], volumes=volumes)
    with pytest.raises(VoxgapError, match="one output and one input"):
        export_model(
            keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]), tmp_path, ["onnx"], volumes=volumes
        )


@pytest.mark.full
@pytest.mark.parametrize("layer", [fill.KNN, fill.LinearInterpolation, fill.MatrixFactorization])
def test_a_model_of_ones_own_answers_the_same_in_every_format(layer: Any, tmp_path: Path) -> None:
    model, kinds = own_model(layer()), ["keras", "savedmodel", "onnx", "openvino", "litert", "pt2"]
    entries = export_model(model, tmp_path, kinds, volumes=tiny.volumes(4, seed=1))
    x = tiny.volumes(3, seed=2)
    for kind, entry in entries.items():
        engine = open_engine(kind, Path(entry["path"]))
        np.testing.assert_allclose(engine(x), model.predict(x, verbose=0), atol=1e-5, err_msg=kind)
