"""The layers: each through `check_layer`, and against its definition in NumPy or its sibling in Keras."""

from __future__ import annotations

import importlib.util
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.lib.stride_tricks import sliding_window_view

import layer_cases
from layer_cases import CASES, gappy, split
from voxgap import fill, layers
from voxgap.errors import VoxgapError

RNG = np.random.default_rng


def numpy(x: object) -> np.ndarray:
    return keras.ops.convert_to_numpy(keras.ops.cast(x, "float32"))


# --- every layer -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_layer_contract(name: str) -> None:
    CASES[name].check()


def test_every_public_layer_has_a_case() -> None:
    public = {
        getattr(m, n)
        for m in (layers, fill)
        for n in m.__all__
        if n not in ("split_missing", "FillLayer", "make")
    }
    assert {type(case.make()) for case in CASES.values()} == public


def on_torch(*names: str) -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed: pip install voxgap[torch]")
    here = Path(layer_cases.__file__)
    run = subprocess.run(
        [sys.executable, here.name, *names],
        cwd=here.parent,
        env=os.environ | {"KERAS_BACKEND": "torch", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    count = len(names or CASES)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
    assert f"torch: {count} layers passed, 0 failed" in run.stdout


def test_layer_contract_on_pytorch() -> None:
    on_torch(*layer_cases.REPRESENTATIVE)


@pytest.mark.full
def test_layer_contract_on_pytorch_for_all_layers() -> None:
    on_torch()


# --- SplitMissing ------------------------------------------------------------------------------------------


def test_split_missing_is_the_definition() -> None:
    x = gappy()
    x[0, 0, 0, 0] = (-0.0, 1e-42)
    values, observed = (numpy(v) for v in layers.SplitMissing()(x))
    np.testing.assert_array_equal(observed, ~np.isnan(x))
    np.testing.assert_array_equal(values, np.where(np.isnan(x), 0, x))


# --- convolutions ------------------------------------------------------------------------------------------


def windows(x: np.ndarray, kernel: tuple, strides: tuple, padding: str, dilation: tuple) -> np.ndarray:
    """All patches of `(n, d, h, w, c)` under a kernel: `(n, *out, c, *kernel)`; padding by Keras's `same`."""
    pads = [(0, 0)]
    for size, k, s, r in zip(x.shape[1:4], kernel, strides, dilation, strict=True):
        reach = (k - 1) * r + 1
        total = max((-(-size // s) - 1) * s + reach - size, 0) if padding == "same" else 0
        pads.append((total // 2, total - total // 2))
    padded = np.pad(x, [*pads, (0, 0)])
    reach = [(k - 1) * r + 1 for k, r in zip(kernel, dilation, strict=True)]
    view = sliding_window_view(padded, reach, (1, 2, 3))
    steps = tuple(slice(None, None, s) for s in strides)
    holes = tuple(slice(None, None, r) for r in dilation)
    return view[(slice(None), *steps, slice(None), *holes)]


def masked_reference(
    values: np.ndarray, observed: np.ndarray, layer: layers.MaskedConv3D
) -> tuple[np.ndarray, np.ndarray]:
    """Partial convolution by its definition: Liu et al. 2018, equations 1 and 2, voxel by voxel in float64.

    Each of the layer's outputs is a weighted sum over observed inputs, times how many inputs there could be
    over how many there are, missing channels counted; and 0 where there are none.
    """
    where = (layer.kernel_size, layer.strides, layer.padding, layer.dilation_rate)
    everywhere = np.broadcast_to(observed, values.shape).astype(np.float64)
    x = windows(np.where(everywhere > 0, values, 0).astype(np.float64), *where)
    seen, inside = windows(everywhere, *where), windows(np.ones_like(everywhere), *where)
    kernel = numpy(layer.convolution.kernel).astype(np.float64)
    bias = numpy(layer.convolution.bias) if layer.use_bias else np.zeros(layer.filters)
    features = np.zeros((*x.shape[:4], layer.filters))
    found = np.zeros((*x.shape[:4], 1))
    for place in np.ndindex(*x.shape[:4]):
        count = seen[place].sum()
        if count:
            total = np.einsum("cijk,ijkcf->f", x[place] * seen[place], kernel)
            features[place] = total * inside[place].sum() / count + bias
            found[place] = 1
    return features, found


CONVOLUTIONS = [
    {"kernel_size": k, "strides": s, "dilation_rate": d, "padding": p, "use_bias": b, "activation": a}
    for k, (s, d), p, b, a in itertools.product(
        (1, 2, 3, (1, 3, 3), (3, 1, 2)),
        ((1, 1), (2, 1), ((1, 2, 3), 1), (1, 2), (1, (2, 1, 2))),
        ("same", "valid"),
        (True, False),
        (None, "relu", "gelu"),
    )
]
SOME_CONVOLUTIONS = [CONVOLUTIONS[i] for i in RNG(0).choice(len(CONVOLUTIONS), 12, replace=False)]


def assert_equals_conv3d(arguments: dict) -> None:
    rng = RNG(1)
    x = rng.normal(size=(2, 7, 6, 8, 3)).astype("float32")
    initial = {"kernel_initializer": keras.initializers.HeNormal(seed=2), "bias_initializer": "ones"}
    plain = keras.layers.Conv3D(4, **arguments, **initial)
    masked = layers.MaskedConv3D(4, **arguments, **initial)
    ones = np.ones_like(x)
    plain.build(x.shape)
    masked.build([x.shape, x.shape])
    masked.set_weights(plain.get_weights())

    @tf.function(jit_compile=False)
    def both(x: tf.Tensor, ones: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return plain(x), *masked([x, ones]), *masked([x, ones[..., :1]])

    expected, features, observed, features_1, observed_1 = (y.numpy() for y in both(x, ones))
    for got in (features, features_1):
        np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32), str(arguments))
    assert observed.min() == observed_1.min() == 1
    assert masked.compute_output_shape([x.shape, x.shape])[0] == plain.compute_output_shape(x.shape)


@pytest.mark.parametrize("arguments", SOME_CONVOLUTIONS, ids=str)
def test_masked_conv_on_complete_data_is_conv3d_to_the_last_bit(arguments: dict) -> None:
    assert_equals_conv3d(arguments)


@pytest.mark.full
def test_masked_conv_on_complete_data_is_conv3d_everywhere() -> None:
    for arguments in CONVOLUTIONS:
        assert_equals_conv3d(arguments)


def assert_equals_reference(arguments: dict, channels_of_observed: int) -> None:
    rng = RNG(3)
    x = rng.normal(size=(3, 5, 6, 7, 2)).astype("float32")
    observed = (rng.random((*x.shape[:4], channels_of_observed)) < 0.5).astype("float32")
    observed[0, 1:4] = 0  # whole slices
    observed[1, ..., 0] = 0  # a whole channel, where there are two
    observed[2] = 0  # everything
    layer = layers.MaskedConv3D(
        3, **arguments, kernel_initializer=keras.initializers.HeNormal(seed=4), bias_initializer="ones"
    )
    features, found = (numpy(y) for y in layer([x, observed]))
    expected, expected_found = masked_reference(x, observed, layer)
    np.testing.assert_array_equal(found, expected_found)
    expected = numpy(layer.activation(expected.astype("float32")))
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5, err_msg=str(arguments))
    assert not features[2].any()
    assert not found[2].any()


@pytest.mark.parametrize("channels_of_observed", [1, 2])
@pytest.mark.parametrize("arguments", SOME_CONVOLUTIONS[:6], ids=str)
def test_masked_conv_with_gaps_is_the_definition(arguments: dict, channels_of_observed: int) -> None:
    assert_equals_reference(arguments, channels_of_observed)


@pytest.mark.full
def test_masked_conv_with_gaps_is_the_definition_everywhere() -> None:
    for arguments, channels in itertools.product(CONVOLUTIONS, (1, 2)):
        assert_equals_reference(arguments, channels)


def test_observed_of_other_channels_is_refused() -> None:
    with pytest.raises(VoxgapError, match="observed has 3 channels"):
        layers.MaskedConv3D(2, 1)([np.ones((1, 2, 2, 2, 4), "float32"), np.ones((1, 2, 2, 2, 3), "float32")])


def test_masked_conv_has_no_part_in_what_is_missing() -> None:
    values, observed = split(gappy(rate=0.5))
    layer = layers.MaskedConv3D(3, 3, padding="same", activation="relu")

    def gradients(values: np.ndarray) -> list[np.ndarray]:
        x = tf.Variable(values)
        with tf.GradientTape() as tape:
            features, _ = layer([x, observed])
            loss = tf.reduce_sum(features**2)
        return [features.numpy(), *(g.numpy() for g in tape.gradient(loss, [x, *layer.trainable_weights]))]

    before = gradients(values)
    after = gradients(np.where(observed > 0, values, 1e6).astype("float32"))
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)
    of_values = before[1]
    assert not of_values[observed == 0].any()
    assert of_values[observed > 0].any()


@pytest.mark.parametrize("arguments", SOME_CONVOLUTIONS[:4], ids=str)
def test_gated_conv_is_the_definition(arguments: dict) -> None:
    values, observed = split(gappy(3, (5, 6, 7, 2)))
    layer = layers.GatedConv3D(
        3, **arguments, kernel_initializer=keras.initializers.HeNormal(seed=4), bias_initializer="ones"
    )
    features, found = (numpy(y) for y in layer([values, observed]))
    where = (layer.kernel_size, layer.strides, layer.padding, layer.dilation_rate)
    x = windows(np.concatenate([values, observed], axis=-1).astype(np.float64), *where)
    both = np.einsum("ndhwcijk,ijkcf->ndhwf", x, numpy(layer.convolution.kernel).astype(np.float64))
    both += numpy(layer.convolution.bias) if layer.use_bias else 0
    activated = numpy(layer.activation(both[..., :3].astype("float32")))
    np.testing.assert_allclose(features, activated / (1 + np.exp(-both[..., 3:])), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found[..., 0], windows(observed, *where).sum(axis=(4, 5, 6, 7)) > 0)


# --- normalisation -----------------------------------------------------------------------------------------


def fresh_normalisations(dtype: str) -> tuple[keras.layers.Layer, keras.layers.Layer]:
    ours = layers.FastBatchNormalization(dtype=dtype)
    stock = keras.layers.BatchNormalization(momentum=0.9, dtype=dtype)
    rng = RNG(5)
    weights = [rng.normal(size=3), rng.normal(size=3), rng.normal(size=3), rng.random(3) + 0.5]
    for layer in (ours, stock):
        layer.build((None, 4, 5, 6, 3))
        layer.set_weights(weights)
    return ours, stock


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("mixed_bfloat16", 0.02)])
@pytest.mark.parametrize("batch", [1, 4])
def test_fast_batch_normalization_is_keras_s(dtype: str, tolerance: float, batch: int) -> None:
    ours, stock = fresh_normalisations(dtype)
    values = (RNG(6).normal(size=(batch, 4, 5, 6, 3)) * (1, 4, 0.2) + (0, 3, -1)).astype("float32")
    weight = RNG(7).normal(size=values.shape).astype("float32")

    def run(layer: keras.layers.Layer) -> list[np.ndarray]:
        x = tf.Variable(values)
        with tf.GradientTape() as tape:
            y = layer(x, training=True)
            loss = tf.reduce_sum(tf.cast(y, "float32") * weight)
        gradients = tape.gradient(loss, [x, layer.gamma, layer.beta])
        moving = [layer.moving_mean, layer.moving_variance]
        return [numpy(v) for v in (y, *gradients, *moving, layer(x, training=False))]

    names = ("outputs", "d x", "d gamma", "d beta", "moving mean", "moving variance", "inference")
    for name, a, b in zip(names, run(ours), run(stock), strict=True):
        scale = max(1.0, float(np.abs(b).max()))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale, err_msg=name)


def test_fast_batch_normalization_that_is_frozen_does_not_learn() -> None:
    ours, stock = fresh_normalisations("float32")
    ours.trainable = stock.trainable = False
    before = ours.get_weights()
    x = np.nan_to_num(gappy(2, (4, 5, 6, 3)))
    np.testing.assert_allclose(numpy(ours(x, training=True)), numpy(stock(x, training=True)), atol=1e-5)
    for a, b in zip(before, ours.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_observed_normalization_is_nanmean_and_nanvar(offset: float) -> None:
    x = gappy(9, (4, 5, 6, 3), seed=8) * np.float32(2) + np.float32(offset)
    layer = layers.ObservedNormalization()
    layer.adapt(x)
    exact = x.astype(np.float64)
    mean, variance = np.nanmean(exact, axis=(0, 1, 2, 3)), np.nanvar(exact, axis=(0, 1, 2, 3))
    np.testing.assert_allclose(numpy(layer.mean), mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(numpy(layer.variance), variance, rtol=1e-6)
    np.testing.assert_allclose(
        numpy(layer(np.nan_to_num(x))), (np.nan_to_num(x) - mean) / np.sqrt(variance), atol=1e-3
    )


def test_observed_normalization_does_not_cancel() -> None:
    x = (RNG(0).normal(size=(4, 4, 4, 4, 1)) * 1e-2 + 1e4).astype("float32")
    layer = layers.ObservedNormalization()
    layer.adapt(x)
    np.testing.assert_allclose(numpy(layer.variance), x.astype(np.float64).var(), rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, -1234.567])
@pytest.mark.parametrize("count", [1, 3, 7])
def test_a_constant_or_never_observed_channel_is_only_shifted(value: float, count: int) -> None:
    x = gappy(count + 1, (3, 5, 7, 3), seed=9)
    x[..., 1] = value
    x[..., 2] = np.nan
    layer = layers.ObservedNormalization()
    layer.adapt(x)
    # 0.1 is not constant to the last bit when it is averaged; the deviation must not become the unit.
    assert numpy(layer.variance)[1] == numpy(layer.variance)[2] == 1
    assert numpy(layer.mean)[2] == 0
    y = numpy(layer(np.full((1, 1, 1, 1, 3), value + 0.5, "float32")))[0, 0, 0, 0]
    assert y[1] == pytest.approx(0.5, abs=1e-3)


def test_observed_normalization_inverts() -> None:
    x = np.nan_to_num(gappy(4))
    forward, back = layers.ObservedNormalization(), layers.ObservedNormalization(invert=True)
    forward.adapt(x)
    back.adapt(x)
    np.testing.assert_allclose(numpy(back(forward(x))), x, atol=1e-5)


def test_observed_normalization_of_nothing_says_so() -> None:
    with pytest.raises(VoxgapError, match="no voxel"):
        layers.ObservedNormalization().adapt(np.full((2, 2, 2, 2, 1), np.nan, "float32"))


# --- GapDropout --------------------------------------------------------------------------------------------

UNITS = {
    # Axes along which a unit extends whole; blocks have their own test.
    "voxels": (4,),
    "slices": (2, 3, 4),
    "channels": (1, 2, 3),
}


@pytest.mark.parametrize("pattern", UNITS)
def test_gap_dropout_drops_whole_units_at_the_rate(pattern: str) -> None:
    x = np.ones((200, 6, 5, 4, 3), "float32")
    missing = np.isnan(numpy(layers.GapDropout(0.3, pattern, seed=1)(x, training=True)))
    units = missing.all(axis=UNITS[pattern])
    np.testing.assert_array_equal(units, missing.any(axis=UNITS[pattern]))
    spread = np.sqrt(0.3 * 0.7 / units.size)
    assert abs(units.mean() - 0.3) < 4 * spread


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_gap_dropout_drops_slices_across_its_axis(axis: int) -> None:
    x = np.ones((20, 6, 5, 4, 2), "float32")
    missing = np.isnan(numpy(layers.GapDropout(0.5, "slices", axis=axis, seed=1)(x, training=True)))
    across = tuple(a for a in (1, 2, 3, 4) if a != axis)
    np.testing.assert_array_equal(missing.all(axis=across), missing.any(axis=across))
    assert 0 < missing.mean() < 1


def test_gap_dropout_drops_whole_blocks_at_the_rate() -> None:
    x = np.ones((100, 7, 6, 5, 2), "float32")
    missing = np.isnan(numpy(layers.GapDropout(0.3, "blocks", block_size=3, seed=1)(x, training=True)))
    units = []
    for d, h, w in itertools.product(range(0, 7, 3), range(0, 6, 3), range(0, 5, 3)):
        block = missing[:, d : d + 3, h : h + 3, w : w + 3]
        np.testing.assert_array_equal(block.all(axis=(1, 2, 3, 4)), block.any(axis=(1, 2, 3, 4)))
        units.append(block[:, 0, 0, 0, 0])
    assert abs(np.mean(units) - 0.3) < 4 * np.sqrt(0.3 * 0.7 / np.size(units))


@pytest.mark.parametrize("pattern", ["voxels", "slices", "blocks", "channels"])
def test_gap_dropout_only_ever_takes_away_and_only_in_training(pattern: str) -> None:
    x = gappy(8)
    layer = layers.GapDropout(0.5, pattern, seed=2)
    for inference in (layer(x), layer(x, training=False)):
        np.testing.assert_array_equal(numpy(inference), x)
    y = numpy(layer(x, training=True))
    assert np.isnan(y[np.isnan(x)]).all()
    np.testing.assert_array_equal(y[~np.isnan(y)], x[~np.isnan(y)])
    assert np.isnan(y).sum() > np.isnan(x).sum()


def test_gap_dropout_replays_from_its_seed_and_moves_on() -> None:
    x = np.ones((4, 4, 4, 4, 1), "float32")

    def draw(seed: int) -> list[np.ndarray]:
        layer = layers.GapDropout(0.5, seed=seed)
        return [np.isnan(numpy(layer(x, training=True))) for _ in range(2)]

    first, again, other = draw(3), draw(3), draw(4)
    np.testing.assert_array_equal(first, again)
    assert (first[0] != first[1]).any()
    assert (first[0] != other[0]).any()


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"rate": 1.0}, "rate"),
        ({"rate": -0.1}, "rate"),
        ({"rate": float("nan")}, "rate"),
        ({"rate": 0.1, "pattern": "holes"}, "pattern"),
        ({"rate": 0.1, "axis": 0}, "axis"),
        ({"rate": 0.1, "block_size": 0}, "block_size"),
    ],
)
def test_gap_dropout_says_which_argument_is_wrong(arguments: dict, field: str) -> None:
    with pytest.raises(VoxgapError, match=field) as caught:
        layers.GapDropout(**arguments)
    assert "\n" not in str(caught.value)


# --- attention ---------------------------------------------------------------------------------------------


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_squeeze_excitation_is_the_definition() -> None:
    x = np.nan_to_num(gappy(3, (4, 5, 6, 16)))
    layer = layers.SqueezeExcitation3D(ratio=4)
    y = numpy(layer(x))
    w1, b1, w2, b2 = layer.get_weights()
    assert w1.shape == (16, 4)
    weights = sigmoid(np.maximum(x.mean(axis=(1, 2, 3)) @ w1 + b1, 0) @ w2 + b2)
    np.testing.assert_allclose(y, x * weights[:, None, None, None], rtol=1e-4, atol=1e-6)


def test_spatial_attention_is_the_definition() -> None:
    x, observed = split(gappy(3, (4, 5, 6, 3)))
    layer = layers.SpatialAttention3D(kernel_size=3)
    y = numpy(layer([x, observed]))
    kernel, bias = layer.get_weights()
    summary = np.stack([x.mean(-1), x.max(-1), observed.mean(-1)], axis=-1)
    patches = windows(summary, (3, 3, 3), (1, 1, 1), "same", (1, 1, 1))
    weights = sigmoid(np.einsum("ndhwcijk,ijkcf->ndhwf", patches, kernel) + bias)
    np.testing.assert_allclose(y, x * weights, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("observed", [None, 1, 2])
def test_instance_normalization_is_the_definition(observed: int | None) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (3, 4, 5, 6, 2)).astype("float32")
    layer = layers.InstanceNormalization(epsilon=1e-3)
    seen = np.ones(x.shape[:-1], bool)
    inputs: Any = x
    if observed:
        held = (rng.random((*x.shape[:-1], observed)) < 0.4).astype("float32")
        held[2] = 0  # a volume of which nothing is observed
        seen, inputs = held.any(-1), [x, held]
    layer.build([value.shape for value in inputs] if observed else x.shape)
    gamma, beta = np.array([2.0, 0.5], "float32"), np.array([1.0, -1.0], "float32")
    layer.set_weights([gamma, beta])
    expected = np.empty_like(x)
    for i in range(3):
        for c in range(2):
            values = x[i, ..., c][seen[i]].astype(float)
            mean, variance = (values.mean(), values.var()) if values.size else (0.0, 0.0)
            expected[i, ..., c] = (x[i, ..., c] - mean) / np.sqrt(variance + 1e-3) * gamma[c] + beta[c]
    np.testing.assert_allclose(layer(inputs), expected, rtol=1e-4, atol=1e-4)
    if observed is None:
        stock = keras.layers.GroupNormalization(groups=-1, epsilon=1e-3)
        stock.build(x.shape)
        stock.set_weights([gamma, beta])
        np.testing.assert_allclose(layer(x), stock(x), rtol=1e-4, atol=1e-4)


def test_coarser_stages_answer_in_training_only() -> None:
    rng = np.random.default_rng(0)
    answer = rng.random((2, 5, 4, 3, 3)).astype("float32")
    coarse = rng.normal(size=(2, 3, 2, 3, 4)).astype("float32")
    layer = layers.DeepSupervision([(2, 2, 1)], [7])
    np.testing.assert_array_equal(layer([answer, coarse], training=False), answer)
    found = np.asarray(layer([answer, coarse], training=True))
    kernel, bias = layer.get_weights()
    for where in np.ndindex(2, 5, 4, 3):
        i, z, y, x = where
        logits = coarse[i, z // 2, y // 2, x] @ kernel + bias
        expected = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(found[where], [*answer[where], *expected], rtol=1e-5)
