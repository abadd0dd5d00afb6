"""`check_layer`: what every layer of voxgap must stand, on TensorFlow and on PyTorch.

Keras has such a function (`run_layer_test`), but keeps it private.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from voxgap.layers import SplitMissing

POLICIES = ("float32", "mixed_bfloat16")
# bfloat16 keeps 8 bits: what a few roundings leave, relative to the largest value.
BFLOAT16_TOLERANCE = 0.05


def check_layer(
    make: Callable[[], keras.layers.Layer],
    inputs: np.ndarray | list[np.ndarray],
    *,
    adapt: np.ndarray | None = None,
    float32: bool = False,
) -> None:
    """Put a layer through shapes, dtypes, config, files, one training step and single-sample batches.

    Args:
        make: builds a new layer, always with the same arguments.
        inputs: the float32 array or arrays that the layer is called on, at least two samples.
        adapt: what the layer is adapted to, for layers with `adapt`.
        float32: whether the layer computes in float32 under every dtype policy, bit by bit the same.
    """
    with tempfile.TemporaryDirectory() as folder:
        layer = _built(make, inputs, adapt)
        expected = _run(layer, inputs)
        _check_shapes(layer, inputs, expected)
        _check_policies(make, inputs, layer.get_weights(), expected, float32)
        _check_config(layer, inputs, expected)
        for suffix in ("keras", "h5"):
            _check_file(layer, inputs, expected, Path(folder) / f"layer.{suffix}")
        _check_single_samples(layer, inputs, expected)
        for policy in POLICIES:
            _check_training_step(make, inputs, adapt, policy)


def _built(make: Callable[[], keras.layers.Layer], inputs: Any, adapt: Any) -> keras.layers.Layer:
    layer = make()
    if adapt is not None:
        layer.adapt(adapt)
    if not layer.built:
        _run(layer, inputs)
    return layer


def _run(layer: Any, inputs: Any) -> list[np.ndarray]:
    """The outputs at inference, as float32 NumPy arrays."""
    outputs = layer(inputs, training=False) if _takes_training(layer) else layer(inputs)
    return [_numpy(x) for x in _listed(outputs)]


def _takes_training(layer: Any) -> bool:
    return isinstance(layer, keras.Model) or layer._call_has_training_arg


def _numpy(x: Any) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(keras.ops.cast(x, "float32")))


def _listed(x: Any) -> list[Any]:
    return list(x) if isinstance(x, list | tuple) else [x]


@contextlib.contextmanager
def _policy(name: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _symbolic(inputs: Any) -> Any:
    tensors = [keras.Input(x.shape[1:], dtype="float32") for x in _listed(inputs)]
    return tensors if isinstance(inputs, list) else tensors[0]


def _check_shapes(layer: Any, inputs: Any, expected: list[np.ndarray]) -> None:
    shapes = [x.shape for x in inputs] if isinstance(inputs, list) else inputs.shape
    computed = layer.compute_output_shape(shapes)
    computed = list(computed) if isinstance(computed[0], tuple) else [computed]
    assert [tuple(s) for s in computed] == [x.shape for x in expected], "compute_output_shape"
    symbolic = _listed(layer(_symbolic(inputs)))
    assert [tuple(s.shape[1:]) for s in symbolic] == [x.shape[1:] for x in expected], "symbolic shape"


def _check_policies(
    make: Callable[[], keras.layers.Layer],
    inputs: Any,
    weights: list[np.ndarray],
    expected: list[np.ndarray],
    float32: bool,
) -> None:
    for name in POLICIES:
        with _policy(name):
            layer = make()
            symbolic = _listed(layer(_symbolic(inputs)))
            layer.set_weights(weights)
            eager = _listed(layer(inputs))
        dtypes = [keras.backend.standardize_dtype(x.dtype) for x in eager]
        assert [keras.backend.standardize_dtype(x.dtype) for x in symbolic] == dtypes, "compute_output_spec"
        assert all(keras.backend.standardize_dtype(w.dtype) == "float32" for w in layer.weights)
        features = "float32" if float32 or name == "float32" else "bfloat16"
        assert dtypes[0] == features, f"{dtypes[0]} under {name}"
        # What is observed is counted, and counts need float32.
        assert set(dtypes[1:]) <= {"float32"}
        for got, want in zip(map(_numpy, eager), expected, strict=True):
            if float32 or name == "float32":
                np.testing.assert_array_equal(got, want, f"under {name}")
            else:
                tolerance = BFLOAT16_TOLERANCE * max(1e-3, float(np.abs(want).max()))
                np.testing.assert_allclose(got, want, rtol=0, atol=tolerance, err_msg=f"under {name}")


def _check_config(layer: Any, inputs: Any, expected: list[np.ndarray]) -> None:
    config = layer.get_config()
    # What a file keeps: JSON of the serialised config, which turns tuples into lists.
    stored = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    twin = keras.saving.deserialize_keras_object(stored, safe_mode=True)
    assert type(twin) is type(layer)
    assert twin.get_config() == config
    twin(_symbolic(inputs))
    assert [w.shape for w in twin.weights] == [w.shape for w in layer.weights]
    twin.set_weights(layer.get_weights())
    _assert_equal(_run(twin, inputs), expected, "from_config")


def _check_file(layer: Any, inputs: Any, expected: list[np.ndarray], file: Path) -> None:
    tensors = _symbolic(inputs)
    outputs = _listed(layer(tensors))
    model = keras.Model(tensors, outputs if len(outputs) > 1 else outputs[0])
    model.save(file)
    loaded = keras.saving.load_model(file, compile=False, safe_mode=True)
    _assert_equal(_run(loaded, inputs), expected, file.suffix)


def _check_single_samples(layer: Any, inputs: Any, expected: list[np.ndarray]) -> None:
    for i in range(len(_listed(inputs)[0])):
        one = [x[i : i + 1] for x in inputs] if isinstance(inputs, list) else inputs[i : i + 1]
        for got, want in zip(_run(layer, one), expected, strict=True):
            np.testing.assert_allclose(
                got, want[i : i + 1], rtol=1e-5, atol=1e-6, err_msg=f"sample {i} alone"
            )


def _check_training_step(
    make: Callable[[], keras.layers.Layer], inputs: Any, adapt: Any, policy: str
) -> None:
    with _policy(policy):
        layer = make()
        if adapt is not None:
            layer.adapt(adapt)
        tensors = _symbolic(inputs)
        # NaN is a fair output of a layer that makes gaps, but no loss can come of it.
        finite = [SplitMissing()(x)[0] for x in _listed(layer(tensors))]
        flat = keras.layers.Concatenate(dtype="float32")(
            [keras.layers.Flatten(dtype="float32")(x) for x in finite]
        )
        answer = keras.layers.Dense(
            1, dtype="float32", kernel_initializer=keras.initializers.HeNormal(seed=0)
        )(flat)
        model = keras.Model(tensors, answer)
        model.compile(optimizer=keras.optimizers.SGD(0.05), loss="mse", jit_compile=False)
    learnt = [keras.ops.convert_to_numpy(w).copy() for w in layer.trainable_weights]
    adapted = layer.get_weights() if adapt is not None else []
    count = len(_listed(inputs)[0])
    loss = model.train_on_batch(inputs, np.arange(1.0, count + 1, dtype="float32").reshape(-1, 1))
    assert np.isfinite(loss), f"loss {loss} under {policy}"
    for weight, before in zip(layer.trainable_weights, learnt, strict=True):
        after = keras.ops.convert_to_numpy(weight)
        assert np.isfinite(after).all()
        assert not np.array_equal(after, before), f"{weight.path} did not learn under {policy}"
    if adapt is not None:
        assert not layer.trainable_weights
        _assert_equal(layer.get_weights(), adapted, "training changed adapted statistics")


def _assert_equal(got: list[np.ndarray], expected: list[np.ndarray], where: str) -> None:
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b, where)
