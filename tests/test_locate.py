"""Where an exported network parts from Keras: the layer is found and named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import pytest

import tiny
from voxgap.bundle.locate import cuts, first_parting
from voxgap.training import adapt_model


@keras.saving.register_keras_serializable(package="tests")
class OtherWhenConverted(keras.layers.Layer):
    """What a converter that gets a layer wrong looks like: another result in a traced graph."""

    def call(self, x: Any) -> Any:
        import tensorflow as tf

        return x if tf.executing_eagerly() else x * 1.001

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


class NotConvertible(OtherWhenConverted):
    """What can't be converted at all."""

    def call(self, x: Any) -> Any:
        import tensorflow as tf

        if not tf.executing_eagerly():
            raise TypeError("no such operation")
        return x


def network_with(layer: keras.layers.Layer) -> Any:
    def network(values: Any, observed: Any) -> Any:
        x = keras.layers.Conv3D(2, 3, name="first")(values)
        return keras.layers.Conv3D(2, 3, name="last")(layer(x))

    return network


@pytest.mark.parametrize("kind", [pytest.param("savedmodel", marks=pytest.mark.full), "onnx"])
@pytest.mark.parametrize("layer", [OtherWhenConverted, pytest.param(NotConvertible, marks=pytest.mark.full)])
def test_the_layer_where_they_part_is_named(kind: str, layer: Any, tmp_path: Path) -> None:
    model = tiny.model(network_with(layer(name="culprit")), "mask_channel")
    adapt_model(model, tiny.dataset().part("train"))
    part = first_parting(
        model, kind, tiny.volumes(2), precision="float32", tolerance=1e-5, folder=tmp_path / "cuts"
    )
    assert part == "network/culprit"


@pytest.mark.full
def test_where_nothing_parts_no_layer_is_named(tmp_path: Path) -> None:
    model = tiny.model("cnn3d", "mean", filters=(2,))
    adapt_model(model, tiny.dataset().part("train"))
    arguments = {"precision": "float32", "tolerance": 1e-5, "folder": tmp_path}
    assert first_parting(model, "savedmodel", tiny.volumes(2), **arguments) is None


def test_cuts_go_through_both_models_in_order() -> None:
    names = [cut.name for cut in cuts(tiny.model("cnn3d", "masked_conv", filters=(2,)))]
    assert names[:3] == ["prepare/fill", "prepare/normalize", "prepare/observed"]
    assert names[-3:] == ["network/activation_1", "network/average", "network/output"]
    flat = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(2, name="a"), keras.layers.Dense(1, name="b")]
    )
    assert [cut.name for cut in cuts(flat)] == ["a", "b"]
    assert cuts(flat)[0].build().output_shape == (None, 2)
