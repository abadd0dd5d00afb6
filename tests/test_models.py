"""The models: every network with every strategy takes gaps, answers, and survives a file."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import tiny
from voxgap import layers
from voxgap.errors import VoxgapError
from voxgap.models import NETWORKS, build_model
from voxgap.recipe import PRESETS, Strategy
from voxgap.training import adapt_model

COMPOSED = {
    "mask_channel + masked": Strategy("zero", mask_channel=True, conv="masked"),
    "mask_channel + gated + attention": Strategy("linear", mask_channel=True, conv="gated", attention=True),
    "masked + attention + gap_dropout": Strategy(
        "median", {"per": "channel"}, conv="masked", attention=True, gap_dropout=0.3, gap_pattern="channels"
    ),
}
STRATEGIES = {**PRESETS, **COMPOSED}


def build(
    network: Any = "cnn3d", strategy: Any = "mean", task: str = "classification", **more: Any
) -> keras.Model:
    shape = more.pop("input_shape", (8, 8, 8, 2))
    outputs = more.pop("outputs", 3)
    return build_model(
        network, shape, outputs, task, strategy, **{"filters": (4, 6), "kernel_size": 3} | more
    )


def adapted(model: keras.Model, task: str = "classification", seed: int = 0) -> keras.Model:
    rng = np.random.default_rng(seed)
    training = tiny.volumes(12, model.input_shape[1:], seed) * 3 + 20
    targets = (
        rng.integers(0, 3, 12) if task == "classification" else rng.normal(500, 20, (12, 3)).astype("float32")
    )
    adapt_model(model, _Samples(np.round(training), targets, task))
    return model


class _Samples:
    def __init__(self, volumes: np.ndarray, targets: np.ndarray, task: str) -> None:
        self.volumes, self.targets, self.task = volumes, targets, task


def run(model: Any, x: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(x, training=False))


def assert_works(network: str, strategy: Any, task: str, folder: Path) -> None:
    model = adapted(build(network, strategy, task), task)
    x = tiny.volumes(3, (8, 8, 8, 2), seed=1) * 3 + 20
    x[1] = np.nan
    answer = run(model, x)
    assert answer.shape == (3, 3)
    assert answer.dtype == np.float32
    assert np.isfinite(answer).all()
    if task == "classification":
        np.testing.assert_allclose(answer.sum(axis=1), 1, rtol=1e-5)
        assert (answer >= 0).all()
    else:
        assert (np.abs(answer - 500) < 1000).all(), "values are not in the units of the targets"
    model.save(folder / "model.keras")
    loaded = keras.saving.load_model(folder / "model.keras", compile=False, safe_mode=True)
    np.testing.assert_array_equal(run(loaded, x), answer)


@pytest.mark.parametrize(
    ("network", "strategy", "task"),
    [
        ("cnn3d", "zero", "regression"),
        ("cnn3d", "mask_channel + gated + attention", "classification"),
        ("resnet3d", "masked_conv", "classification"),
        ("resnet3d", "attention", "regression"),
        ("resnet2d", "gated_conv", "classification"),
        ("resnet2d", "mask_channel + masked", "classification"),
        ("resnet2plus1d", "gap_dropout", "classification"),
        ("resnet2plus1d", "masked + attention + gap_dropout", "regression"),
    ],
)
def test_a_model_takes_gaps_and_survives_a_file(
    network: str, strategy: str, task: str, tmp_path: Path
) -> None:
    assert_works(network, STRATEGIES[strategy], task, tmp_path)


@pytest.mark.parametrize(
    "strategy", [name for name in PRESETS if name not in ("zero", "masked_conv", "attention", "learned")]
)
def test_every_preset_builds(strategy: str) -> None:
    model = adapted(build("cnn3d", strategy, filters=(4,)))
    assert np.isfinite(run(model, np.full((1, 8, 8, 8, 2), np.nan, "float32"))).all()


@pytest.mark.full
@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_with_every_strategy(network: str, strategy: str, task: str, tmp_path: Path) -> None:
    assert_works(network, STRATEGIES[strategy], task, tmp_path)


# --- what prepare does -------------------------------------------------------------------------------------


def test_prepare_fills_in_raw_units_then_normalises_by_observed_training_values() -> None:
    model = build("cnn3d", "mean")
    training = tiny.volumes(12, (8, 8, 8, 2), seed=3) * 5 + 100
    adapt_model(model, _Samples(training, np.zeros(12, int), "classification"))
    exact = training.astype(np.float64)
    filled = np.where(np.isnan(exact), np.nanmean(exact, axis=0), exact)
    expected = (filled - np.nanmean(exact, axis=(0, 1, 2, 3))) / np.nanstd(exact, axis=(0, 1, 2, 3))
    np.testing.assert_allclose(run(model.get_layer("prepare"), training), expected, atol=1e-4)


def test_gap_dropout_comes_before_the_fill_and_only_in_training() -> None:
    model = adapted(build("cnn3d", Strategy("zero", mask_channel=True, gap_dropout=0.5)))
    prepare = model.get_layer("prepare")
    x = np.full((4, 8, 8, 8, 2), 7.0, "float32")
    values, observed = (keras.ops.convert_to_numpy(v) for v in prepare(x, training=True))
    dropped = observed == 0
    assert 0.1 < dropped.mean() < 0.9
    # Zero in raw units, normalised: what is dropped was filled, what is left was not touched.
    assert len(np.unique(values[dropped])) <= 2
    assert np.abs(values[dropped]).min() > np.abs(values[~dropped]).max()
    _, observed = prepare(x, training=False)
    assert keras.ops.convert_to_numpy(observed).all()


def test_missing_values_never_reach_a_masked_network() -> None:
    """Whatever the fill invents, masked convolution does not look at it."""
    x = tiny.volumes(4, (8, 8, 8, 2), seed=2)
    answers = []
    for fill in ("zero", "mean"):
        model = build("resnet3d", Strategy(fill, conv="masked"), seed=5)
        adapt_model(model, _Samples(tiny.volumes(9, (8, 8, 8, 2)) + 4, np.zeros(9, int), "classification"))
        answers.append(run(model, x))
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-6)


# --- the 2D / 3D question ----------------------------------------------------------------------------------


def last_grid(model: keras.Model) -> keras.Model:
    """The network up to its features, before they are averaged."""
    network = model.get_layer("network")
    average = next(x for x in network.layers if isinstance(x, keras.layers.GlobalAveragePooling3D))
    return keras.Model(network.inputs, average.input)


@pytest.mark.parametrize("strategy", ["mean", "mask_channel", "masked_conv", "gated_conv"])
def test_resnet2d_mixes_no_slices(strategy: str) -> None:
    model = adapted(build("resnet2d", strategy))
    inputs = model.get_layer("prepare")(tiny.volumes(2, (8, 8, 8, 2), seed=4) * 3 + 20, training=False)
    inputs = [
        keras.ops.convert_to_numpy(v).copy() for v in (inputs if isinstance(inputs, list) else [inputs])
    ]
    grid = last_grid(model)
    before = run(grid, inputs)
    inputs[0][:, 3] += 1.0
    if len(inputs) > 1:
        inputs[1][:, 3] = 1.0
    changed = np.abs(run(grid, inputs) - before).max(axis=(0, 2, 3, 4))
    assert before.shape[1] == 8
    np.testing.assert_array_equal(np.flatnonzero(changed), [3])


@pytest.mark.parametrize("strategy", ["zero", "mask_channel", "masked_conv", "attention"])
def test_the_order_of_slices_matters_in_3d_only(strategy: str) -> None:
    x = tiny.volumes(2, (8, 8, 8, 2), seed=5, missing_rate=0.2)
    order = np.random.default_rng(0).permutation(8)
    differences = {}
    for network in ("resnet2d", "resnet3d", "resnet2plus1d"):
        model = build(network, Strategy(**PRESETS[strategy].to_json() | {"fill": "zero"}))
        adapt_model(model, _Samples(x, np.zeros(2, int), "classification"))
        differences[network] = np.abs(run(model, x) - run(model, x[:, order])).max()
    assert differences["resnet2d"] < 1e-5
    assert differences["resnet3d"] > 1e-4
    assert differences["resnet2plus1d"] > 1e-4


def test_resnet2plus1d_has_about_the_parameters_of_resnet3d() -> None:
    counts = {name: build(name, filters=(8, 16, 32)).count_params() for name in ("resnet3d", "resnet2plus1d")}
    assert counts["resnet2plus1d"] == pytest.approx(counts["resnet3d"], rel=0.1)


# --- sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [11, 12, 13])
@pytest.mark.parametrize("network", ["resnet3d", "resnet2plus1d"])
def test_valid_padding_fits_odd_sizes(network: str, size: int) -> None:
    assert_valid_padding_fits(network, size, 3, 2)


def assert_valid_padding_fits(network: str, size: int, kernel_size: Any, strides: Any) -> None:
    shape = (size, size + 1, size + 2, 1)
    model = adapted(
        build(
            network,
            "masked_conv",
            padding="valid",
            input_shape=shape,
            filters=(2, 3),
            kernel_size=kernel_size,
            strides=strides,
        )
    )
    assert np.isfinite(run(model, tiny.volumes(1, shape))).all()


@pytest.mark.full
@pytest.mark.parametrize("network", ["resnet3d", "resnet2d", "resnet2plus1d"])
@pytest.mark.parametrize("kernel_size", [2, 3, (2, 3, 4)])
@pytest.mark.parametrize("strides", [1, 2, 3, (1, 2, 2)])
def test_valid_padding_fits_every_size_from_the_smallest_on(
    network: str, kernel_size: Any, strides: Any
) -> None:
    with pytest.raises(VoxgapError, match="smallest input that fits is") as caught:
        assert_valid_padding_fits(network, 1, kernel_size, strides)
    smallest = max(map(int, str(caught.value).rpartition(" is ")[2].split(" × ")))
    for size in range(smallest, smallest + 6):
        assert_valid_padding_fits(network, size, kernel_size, strides)


def test_the_shortcut_is_centred_on_what_it_adds_to() -> None:
    """With `valid` padding the block trims its borders evenly, and so must the shortcut."""
    model = build("resnet3d", "zero", padding="valid", filters=(1,), input_shape=(9, 9, 9, 1), outputs=2)
    grid = last_grid(model)
    x = np.zeros((1, 9, 9, 9, 1), "float32")
    for layer in model.get_layer("network").layers:
        if isinstance(layer, keras.layers.Conv3D):  # a kernel that passes its centre on
            kernel = np.zeros(layer.kernel.shape, "float32")
            kernel[1, 1, 1] = 1
            layer.set_weights([kernel])
    x[0, 4, 4, 4] = 1
    y = run(grid, [x])[0, ..., 0]
    assert y.shape == (5, 5, 5)
    assert np.unravel_index(y.argmax(), y.shape) == (2, 2, 2)
    assert y[2, 2, 2] == pytest.approx(2, rel=0.01), "block and shortcut meet in the same voxel"


@pytest.mark.parametrize("network", [name for name in NETWORKS if "unet" not in name])  # which takes any size
def test_a_volume_that_is_too_small_names_the_layer(network: str) -> None:
    with pytest.raises(VoxgapError, match="smallest input that fits") as caught:
        build(network, "masked_conv", padding="valid", input_shape=(4, 4, 4, 1))
    assert "layer '" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_small_volumes_and_other_arguments_are_fine_where_they_fit() -> None:
    model = build(
        "resnet3d", "attention", input_shape=(1, 2, 3, 1), filters=[3], kernel_size=(1, 2, 3), dropout=0.5
    )
    assert run(adapted(model), np.zeros((1, 1, 2, 3, 1), "float32")).shape == (1, 3)
    strided = build("cnn3d", strides=(1, 2, 4), activation="gelu", filters=(2, 3))
    assert last_grid(strided).output_shape == (None, 8, 4, 2, 3)


# --- a user's own network ----------------------------------------------------------------------------------


def test_a_users_network_gets_values_and_observed() -> None:
    seen = {}

    def own(values: Any, observed: Any) -> Any:
        seen["shapes"] = (values.shape, observed.shape)
        features, observed = layers.MaskedConv3D(4, 3)([values, observed])
        return keras.layers.Flatten()(features)

    model = adapted(build(own, "mask_channel"))
    assert model.name == "own"
    # mask_channel adds the observed map to the values; it is itself always observed.
    assert seen["shapes"] == ((None, 8, 8, 8, 4), (None, 8, 8, 8, 4))
    x = tiny.volumes(2, (8, 8, 8, 2))
    np.testing.assert_allclose(run(model, x).sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("strategy", ["masked_conv", "gated_conv", "attention"])
def test_a_users_network_brings_its_own_convolutions(strategy: str) -> None:
    with pytest.raises(VoxgapError, match="your own network"):
        build(tiny.network, strategy)


# --- seeds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("network", "strategy"), [("cnn3d", "attention"), ("resnet3d", "gated_conv")])
def test_a_seed_fixes_the_weights_and_leaves_the_global_generators_alone(network: str, strategy: str) -> None:
    def weights(seed: int) -> list[np.ndarray]:
        model = build(network, strategy, seed=seed, dropout=0.5)
        return [keras.ops.convert_to_numpy(w) for w in model.trainable_weights]

    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    python, legacy = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first, again, other = weights(0), weights(0), weights(1)
    assert random.getstate() == python
    assert np.random.get_state()[1].tolist() == legacy  # noqa: NPY002
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    kernels = [(a, b) for a, b in zip(first, other, strict=True) if a.ndim > 1]
    assert all((a != b).any() for a, b in kernels)


def test_no_two_layers_start_equal() -> None:
    kernels = [w for w in build("resnet3d", "attention", filters=(4, 4, 4)).get_weights() if w.ndim > 1]
    for i, a in enumerate(kernels):
        assert not any(a.shape == b.shape and np.array_equal(a, b) for b in kernels[:i])


def test_training_twice_drops_the_same() -> None:
    x = tiny.volumes(4, (8, 8, 8, 2))

    def outputs() -> list[np.ndarray]:
        model = build("cnn3d", "gap_dropout", dropout=0.5, seed=3)
        adapt_model(model, _Samples(x, np.zeros(4, int), "classification"))
        return [keras.ops.convert_to_numpy(model(x, training=True)) for _ in range(2)]

    first, again = outputs(), outputs()
    np.testing.assert_array_equal(first, again)
    assert (first[0] != first[1]).any()


# --- wrong arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"network": "vgg"}, "no model 'vgg'"),
        ({"network": None}, "no model None"),
        ({"strategy": "best"}, "no strategy 'best'"),
        ({"task": "detection"}, "task must be"),
        ({"outputs": 1}, "at least 2"),
        ({"outputs": 0, "task": "regression"}, "at least 1"),
        ({"input_shape": (8, 8, 8)}, "input_shape must be"),
        ({"input_shape": (8, 8, 0, 1)}, "input_shape must be"),
        ({"input_shape": (8, None, 8, 1)}, "input_shape must be"),
        ({"input_shape": 8}, "input_shape must be"),
        ({"filters": ()}, "filters"),
        ({"filters": (4, 0)}, "filters"),
        ({"filters": 8}, "filters"),
        ({"filters": (2.5,)}, "filters"),
        ({"kernel_size": 0}, "kernel_size"),
        ({"kernel_size": (3, 3)}, "kernel_size"),
        ({"kernel_size": 2.5}, "kernel_size"),
        ({"strides": 0}, "strides"),
        ({"padding": "full"}, "padding"),
        ({"activation": "swoosh"}, "activation"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": "half"}, "dropout"),
        ({"kernel": 3}, "kernel"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_one_line(arguments: dict, said: str) -> None:
    with pytest.raises(VoxgapError, match=said) as caught:
        build(**arguments)
    assert "\n" not in str(caught.value)
