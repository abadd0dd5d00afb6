"""LiteRT's pooling: planar twice, with the values of pooling in three directions."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import tiny
from voxgap.bundle.pooling import PlanarMaxPooling3D, without_pooling_3d
from voxgap.training import adapt_model


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(
    ("size", "strides"), [((3, 3, 3), (2, 2, 2)), ((2, 3, 1), (1, 2, 3)), ((1, 2, 2), (1, 1, 1))]
)
def test_planar_pooling_is_pooling(padding: str, size: Any, strides: Any) -> None:
    x = np.random.default_rng(0).normal(size=(2, 7, 6, 5, 3)).astype(np.float32)
    expected = keras.layers.MaxPooling3D(size, strides, padding)(x)
    np.testing.assert_array_equal(PlanarMaxPooling3D(size, strides, padding)(x), expected)


def test_only_a_model_with_pooling_is_rebuilt() -> None:
    plain, pooling = (tiny.model("cnn3d", name, filters=(2,)) for name in ("mean", "attention"))
    adapt_model(pooling, tiny.dataset().part("train"))
    assert without_pooling_3d(plain) is plain
    rebuilt = without_pooling_3d(pooling)
    x = tiny.volumes(2)
    np.testing.assert_array_equal(rebuilt(x), pooling(x))
