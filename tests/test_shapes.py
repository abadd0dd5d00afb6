"""The shape calculator against Keras, PyTorch, one-hot inputs and loops that count."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np
import pytest

from voxgap.errors import VoxgapError
from voxgap.shapes import Layer, from_keras, output_shape, receptive_field, smallest_input, trace

keras = pytest.importorskip("keras")
L = keras.layers
FEW_OR_MANY = [100, pytest.param(5000, marks=pytest.mark.full)]


def random_window(rng: np.random.Generator, axes: int = 3) -> dict[str, Any]:
    """Arguments of a convolution; Keras forbids strides and dilation together."""

    def pick(low: int, high: int) -> Any:
        numbers = tuple(int(n) for n in rng.integers(low, high, axes))
        return numbers if rng.random() < 0.5 else numbers[0]

    window = {"kernel_size": pick(1, 6), "strides": 1, "dilation_rate": 1}
    window["strides" if rng.random() < 0.6 else "dilation_rate"] = pick(1, 4)
    return window


def agrees(reference: Callable[..., Any], shape: tuple[int, ...], *args: Any, **kwargs: Any) -> bool:
    """Compare with `reference(batch shape)`: both give one shape (True) or both refuse (False)."""
    try:
        expected = tuple(reference((1, *shape, 3))[1:-1])
    except (ValueError, RuntimeError):
        expected = (0,)
    if min(expected) < 1:
        with pytest.raises(VoxgapError):
            output_shape(shape, *args, **kwargs)
        return False
    assert output_shape(shape, *args, **kwargs) == expected
    return True


@pytest.mark.parametrize("configurations", FEW_OR_MANY)
def test_output_shape_equals_keras(configurations: int) -> None:
    rng = np.random.default_rng(0)
    fitted = 0
    for _ in range(configurations):
        window = random_window(rng)
        kernel_size, strides = window["kernel_size"], window["strides"]
        shape = tuple(int(n) for n in rng.integers(1, 24, 3))
        padding = str(rng.choice(["valid", "same"]))
        conv = L.Conv3D(2, **window, padding=padding)
        transpose = L.Conv3DTranspose(2, **window, padding=padding)
        pool = L.MaxPooling3D(kernel_size, strides, padding)
        fitted += agrees(conv.compute_output_shape, shape, **window, padding=padding)
        fitted += agrees(transpose.compute_output_shape, shape, **window, padding=padding, transposed=True)
        fitted += agrees(pool.compute_output_shape, shape, kernel_size, strides, padding)
    assert fitted > 2 * configurations


@pytest.mark.parametrize("configurations", FEW_OR_MANY)
def test_explicit_padding_equals_zero_padding_and_valid(configurations: int) -> None:
    rng = np.random.default_rng(1)
    fitted = 0
    for _ in range(configurations):
        window = random_window(rng)
        shape = tuple(int(n) for n in rng.integers(1, 24, 3))
        padding: Any = tuple((int(a), int(b)) for a, b in rng.integers(0, 4, (3, 2)))
        if rng.random() < 0.5:
            padding = tuple(a for a, _ in padding)
        pad, conv = L.ZeroPadding3D(padding), L.Conv3D(2, **window)

        def pad_and_convolve(batch: Any, pad: Any = pad, conv: Any = conv) -> Any:
            return conv.compute_output_shape(pad.compute_output_shape(batch))

        fitted += agrees(pad_and_convolve, shape, **window, padding=padding)
    assert fitted > configurations // 2


@pytest.mark.parametrize("configurations", FEW_OR_MANY)
def test_output_padding_equals_keras_and_torch(configurations: int) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    for _ in range(configurations):
        shape = tuple(int(n) for n in rng.integers(1, 9, 3))
        kernel, strides = int(rng.integers(1, 6)), int(rng.integers(1, 4))
        extra, sides = int(rng.integers(0, strides)), int(rng.integers(0, 3))
        for padding in ("valid", "same"):
            layer = L.Conv3DTranspose(2, kernel, strides, padding, output_padding=extra)
            window = {"kernel_size": kernel, "strides": strides, "padding": padding, "output_padding": extra}
            agrees(layer.compute_output_shape, shape, **window, transposed=True)
        conv = torch.nn.ConvTranspose3d(1, 1, kernel, strides, sides, extra, device="meta")

        def channels_first(batch: Any, conv: Any = conv) -> Any:
            return (1, *conv(torch.empty((1, 1, *batch[1:-1]), device="meta")).shape[2:], 1)

        agrees(channels_first, shape, kernel, strides, sides, transposed=True, output_padding=extra)


def test_output_shape_examples() -> None:
    assert output_shape((32, 32, 32), kernel_size=3, strides=1, padding=1, dilation_rate=1) == (32, 32, 32)
    assert output_shape((10, 20), (3, 5), strides=(1, 2)) == (8, 8)
    assert output_shape(np.array([7]), 3) == (5,)
    assert output_shape((5, 6, 7, 8), 2) == (4, 5, 6, 7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": (3, 3)}, "kernel_size has 2 entries for 3 spatial axes"),
        ({"kernel_size": 0}, "kernel_size must be an integer from 1"),
        ({"kernel_size": 2.5}, "kernel_size must be an integer"),
        ({"kernel_size": 3, "padding": "full"}, "padding must be"),
        ({"kernel_size": 3, "padding": -1}, "padding must be an integer from 0"),
        ({"kernel_size": 3, "padding": ((1, 2, 3),) * 3}, "padding takes voxels, or"),
        ({"kernel_size": 9}, r"too small for the kernel: the smallest that fits is \(9, 9, 9\)"),
    ],
)
def test_bad_arguments_are_one_clear_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(VoxgapError, match=message) as caught:
        output_shape((8, 8, 8), **arguments)
    assert "\n" not in str(caught.value)


def one_axis(n: int) -> tuple[int, int, int]:
    return (n, 1, 1)


def random_stack(rng: np.random.Generator, x: Any, layers: int, spread: Any) -> Any:
    """A random linear network of ones on a Keras tensor; `spread` gives the three axes a number."""
    ones = {"kernel_initializer": "ones", "use_bias": False}
    for _ in range(layers):
        k, s = int(rng.integers(1, 5)), int(rng.integers(1, 4))
        padding = str(rng.choice(["valid", "same"]))
        kind = rng.integers(7)
        if kind == 0:
            x = L.Conv3D(1, spread(k), spread(s), padding, **ones)(x)
        elif kind == 1:
            x = L.Conv3D(1, spread(k), 1, padding, dilation_rate=spread(s), **ones)(x)
        elif kind == 2:
            x = L.AveragePooling3D(spread(k), spread(s), padding)(x)
        elif kind == 3:
            x = L.Conv3DTranspose(1, spread(k), spread(s), padding, **ones)(x)
        elif kind == 4:
            x = L.UpSampling3D(spread(s))(x)
        elif kind == 5:
            sides = tuple((a - 1, b - 1) for a, b in zip(spread(k), spread(s), strict=True))
            x = L.Cropping3D(sides)(L.ZeroPadding3D(sides)(L.ZeroPadding3D(sides)(x)))
        else:
            branch = L.Conv3D(1, spread(k), 1, "same", **ones)(L.Conv3D(1, spread(k), 1, "same", **ones)(x))
            other = L.Conv3D(1, spread(s), 1, "same", **ones)(x)
            x = L.Add()([branch, other]) if s > 1 else L.Add()([branch, other, x])
    return x


@pytest.mark.parametrize("networks", [25, pytest.param(400, marks=pytest.mark.full)])
def test_receptive_field_equals_what_one_hot_inputs_reach(networks: int) -> None:
    rng = np.random.default_rng(3)
    size = 180
    checked = 0
    for _ in range(networks):
        inputs = keras.Input((size, 1, 1, 1))
        try:
            model = keras.Model(inputs, random_stack(rng, inputs, int(rng.integers(1, 6)), one_axis))
        except ValueError:  # the stack shrinks the volume to nothing
            continue
        row = trace(from_keras(model), (size, 1, 1, 1))[-1]
        if row.receptive_field[0] > size // 3 or row.output_shape[0] > 4 * size:
            continue
        one_hot = np.eye(size, dtype="float32").reshape(size, size, 1, 1, 1)
        reached = np.asarray(model(one_hot)).reshape(size, -1) != 0
        used = reached[:, reached.any(axis=0)]
        extent = size - used[::-1].argmax(axis=0) - used.argmax(axis=0)
        assert row.receptive_field[0] == extent.max()
        checked += 1
    assert checked > networks // 2


def layer_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    return {layer.name: tuple(layer.output.shape[1:]) for layer in model.layers}


@pytest.mark.parametrize("networks", [8, pytest.param(150, marks=pytest.mark.full)])
def test_trace_equals_keras_layer_by_layer(networks: int) -> None:
    rng = np.random.default_rng(4)
    checked = 0
    for _ in range(networks):
        shape = tuple(int(n) for n in rng.integers(8, 20, 3))
        inputs = keras.Input((*shape, 2))
        try:
            x = random_stack(rng, inputs, 4, lambda n: (n, 1 + n // 2, 2))
        except ValueError:
            continue
        if prod(x.shape[1:]) > 20_000:
            continue
        x = L.BatchNormalization(scale=bool(rng.integers(2)))(L.Conv3D(4, 1, groups=1)(x))
        x = L.Concatenate()([L.Conv3D(6, 1, groups=2)(x), L.Dropout(0.1)(L.ReLU()(x))])
        x = L.Multiply()([x, L.GlobalMaxPooling3D(keepdims=True)(x)])
        flat = L.Flatten()(x)
        pooled = L.Dense(3)(L.GlobalAveragePooling3D()(x))
        model = keras.Model(inputs, L.Dense(2, use_bias=False)(L.Concatenate()([flat, pooled])))
        rows = {row.name: row for row in trace(from_keras(model), (*shape, 2))}
        assert {name: row.output_shape for name, row in rows.items()} == layer_shapes(model)
        for layer in model.layers:
            assert rows[layer.name].parameters == layer.count_params()
        checked += 1
    assert checked >= networks // 2


def test_free_input_sizes_nested_models_and_shared_layers() -> None:
    shared = L.Conv3D(2, 3, padding="same", name="shared")
    inner_input = keras.Input((None, None, None, 2))
    inner = keras.Model(inner_input, [shared(shared(inner_input)), inner_input], name="inner")
    head = keras.Sequential([L.Conv3D(4, 3, strides=2), L.GlobalAveragePooling3D(), L.Dense(3)], name="head")
    inputs = keras.Input((None, None, None, 2), name="volumes")
    features, same = inner(inputs)
    model = keras.Model(inputs, head(keras.ops.add(features, same) * 2.0))
    rows = trace(from_keras(model), (9, 10, 11, 2))
    by_name = {row.name: row for row in rows}
    assert sum(row.parameters for row in rows) == model.count_params()
    assert by_name["inner/shared@2"].parameters == 0
    assert by_name["inner/shared@2"].macs == by_name["inner/shared"].macs == 9 * 10 * 11 * 27 * 4
    assert rows[-1].output_shape == (3,)
    conv = next(row for row in rows if row.name.startswith("head/conv3d"))
    assert conv.output_shape == head.layers[0].compute_output_shape((1, 9, 10, 11, 2))[1:]
    assert conv.receptive_field == (7, 7, 7)
    assert conv.jump == (2, 2, 2)


def test_an_unbuilt_sequential_is_read_too() -> None:
    layers = from_keras(keras.Sequential([L.Conv3D(4, 3), L.BatchNormalization(), L.MaxPooling3D()]))
    assert [row.parameters for row in trace(layers, (8, 8, 8, 1))] == [0, 112, 16, 0]


def test_layers_of_voxgap() -> None:
    own = pytest.importorskip("voxgap.layers")
    inputs = keras.Input((10, 12, 14, 2), name="volumes")
    values, observed = own.SplitMissing()(inputs)
    x, observed = own.MaskedConv3D(8, 3, strides=2, padding="same", name="masked")([values, observed])
    x = L.ReLU()(own.FastBatchNormalization()(x))
    gated, observed = own.GatedConv3D(8, (3, 1, 3), padding="same", name="gated")([x, observed])
    x = own.SqueezeExcitation3D(2, name="squeeze")(L.Add()([x, gated]))
    x = own.SpatialAttention3D(5, name="attend")([x, observed])
    model = keras.Model(inputs, [x, observed])
    rows = {row.name: row for row in trace(from_keras(model), (10, 12, 14, 2))}
    assert sum(row.parameters for row in rows.values()) == model.count_params()
    assert rows["attend"].output_shape == tuple(x.shape[1:])
    assert rows["gated:1"].output_shape == tuple(observed.shape[1:])
    assert rows["masked"].macs == 5 * 6 * 7 * 27 * 2 * 8
    assert rows["gated"].macs == 5 * 6 * 7 * 9 * (8 + 1) * 16
    assert rows["gated"].receptive_field == (7, 3, 7)
    assert rows["squeeze"].receptive_field == (10, 12, 14)


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("resnet3d", "masked_conv"),
        ("cnn3d", "attention"),
        ("resnet2plus1d", "gated_conv"),
        ("resnet2d", "knn"),
    ],
)
def test_named_models(name: str, strategy: str) -> None:
    models = pytest.importorskip("voxgap.models")
    arguments = {"filters": (4, 6), "input_shape": (8, 8, 8, 2), "outputs": 3}
    model = models.build_model(name, strategy=strategy, **arguments)
    rows = trace(from_keras(model), (8, 8, 8, 2))
    assert sum(row.parameters for row in rows) == model.count_params()
    assert rows[-1].output_shape == (3,)


class Halve(L.Layer):
    def call(self, x: Any) -> Any:
        return x[:, ::2]


class NoConfig(L.Layer):
    def __init__(self, anything: object) -> None:
        super().__init__()
        self.scale = self.add_weight(name="scale", shape=(2,))

    def call(self, x: Any) -> Any:
        return x * self.scale


def sequential(*layers: Any, channels_first: bool = False) -> Any:
    return keras.Sequential([keras.Input((8, 8, 8, 2)), *layers], name="mine")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: sequential(Halve(name="halve")), "layer 'halve' \\(Halve\\) changes the shape"),
        (lambda: sequential(NoConfig(object())), "can't be described: give its layers a get_config"),
        (lambda: sequential(L.Reshape((64, 16))), "changes the shape"),
        (lambda: keras.Model(name="mine"), "has no graph of layers"),
        (lambda: sequential(L.GlobalMaxPooling3D(data_format="channels_first")), "channels first"),
    ],
)
def test_what_cannot_be_followed_is_named(model: Any, message: str) -> None:
    with pytest.raises(VoxgapError, match=message):
        from_keras(model())


def test_an_unknown_layer_keeps_the_shape_and_counts_itself() -> None:
    rows = trace(from_keras(sequential(NoConfig(3), L.Conv3D(4, 3))), (8, 8, 8, 2))
    assert [(row.output_shape, row.parameters) for row in rows[1:]] == [
        ((8, 8, 8, 2), 2),
        ((6, 6, 6, 4), 27 * 2 * 4 + 4),
    ]


def test_the_input_must_be_the_models() -> None:
    layers = from_keras(sequential(L.Conv3D(2, 3)))
    with pytest.raises(VoxgapError, match="takes 8 × 8 × 8 × 2, got 9 × 8 × 8 × 2"):
        trace(layers, (9, 8, 8, 2))


def count_convolution(shape: tuple[int, ...], filters: int, kernel: int, strides: int, pad: int) -> int:
    """Multiply-adds of a convolution, counted one by one."""
    *size, channels = shape
    starts = [range(0, n + 2 * pad - kernel + 1, strides) for n in size]
    count = 0
    for _position in itertools.product(*starts):
        for _tap in itertools.product(range(kernel), repeat=len(size)):
            count += channels * filters
    return count


def count_transposed(shape: tuple[int, ...], filters: int, kernel: int) -> int:
    """Each input voxel is multiplied with the whole kernel."""
    *size, channels = shape
    return sum(
        channels * filters
        for _voxel in np.ndindex(*size)
        for _tap in itertools.product(range(kernel), repeat=len(size))
    )


def test_multiply_adds_equal_a_loop() -> None:
    shape = (5, 6, 7, 3)
    for kernel, strides, pad in itertools.product((1, 2, 3), (1, 2), (0, 1)):
        layer = Layer("conv", filters=4, kernel_size=kernel, strides=strides, padding=pad)
        assert trace([layer], shape)[-1].macs == count_convolution(shape, 4, kernel, strides, pad)
    transpose = Layer("transpose", filters=4, kernel_size=2, strides=2)
    assert trace([transpose], shape)[-1].macs == count_transposed(shape, 4, 2)
    dense = trace([Layer("dense", filters=4)], shape)[-1]
    assert (dense.macs, dense.output_shape) == (5 * 6 * 7 * 3 * 4, (5, 6, 7, 4))


def test_memory_is_bytes_of_a_batch() -> None:
    row = trace([Layer("conv", filters=4, kernel_size=3)], (5, 6, 7, 3), batch=8, dtype_size=2)[-1]
    assert row.memory == np.empty((8, 3, 4, 5, 4), np.float16).nbytes


def unet(padding: Any = "same", kernel_size: int = 3) -> list[Layer]:
    return [
        Layer("conv", "down", filters=4, kernel_size=kernel_size, padding=padding),
        Layer("pool", "half", kernel_size=2),
        Layer("conv", "deep", filters=8, kernel_size=kernel_size, padding="same"),
        Layer("transpose", "up", filters=4, kernel_size=2, strides=2),
        Layer("concatenate", "skip", inputs=("down", "up")),
    ]


def test_branches_join_by_the_largest_receptive_field() -> None:
    rows = trace(unet(), (16, 16, 16, 1))
    assert rows[-1].output_shape == (16, 16, 16, 8)
    # 3 in the skip; 4 after the pool, and two neighbours at a jump of 2 more in the deep branch.
    assert rows[-1].receptive_field == (8, 8, 8)
    assert receptive_field(unet(), (16, 16, 16, 1)) == (8, 8, 8)
    with pytest.raises(VoxgapError, match=r"layer 'skip' joins .* 14 and 15; .* the next .* is 16 × 16 × 16"):
        trace(unet(), (16, 15, 16, 1))
    residual = [Layer("conv", filters=1, kernel_size=3), Layer("merge", inputs=("input", "conv_1"))]
    with pytest.raises(VoxgapError, match="joins branches of different sizes, 6 and 8; no input size mends"):
        trace(residual, (8, 8, 8, 1))


def random_layers(rng: np.random.Generator) -> Iterator[Layer]:
    for _ in range(int(rng.integers(1, 6))):
        kind = str(rng.choice(["conv", "pool", "transpose", "crop"]))
        if kind == "crop":
            yield Layer("crop", padding=int(rng.integers(1, 3)))
        else:
            window = random_window(rng)
            padding = rng.choice(["valid", "same", "1"])
            yield Layer(kind, filters=1, **window, padding=1 if padding == "1" else str(padding))


def fits(layers: list[Layer], shape: tuple[int, ...]) -> bool:
    try:
        trace(layers, (*shape, 1))
    except VoxgapError:
        return False
    return True


@pytest.mark.parametrize("networks", [100, pytest.param(3000, marks=pytest.mark.full)])
def test_smallest_input_fits_and_one_less_does_not(networks: int) -> None:
    rng = np.random.default_rng(5)
    for _ in range(networks):
        layers = list(random_layers(rng))
        smallest = smallest_input(layers)
        assert fits(layers, smallest)
        for axis in range(3):
            less = tuple(n - (i == axis) for i, n in enumerate(smallest))
            assert less[axis] == 0 or not fits(layers, less)
    small = smallest_input(unet("valid", 5))
    assert next(n for n in range(1, 30) if fits(unet("valid", 5), (n,) * 3)) == small[0]


def test_too_small_names_the_layer_and_what_fits() -> None:
    layers = [Layer("conv", filters=2, kernel_size=3), Layer("pool", kernel_size=(2, 4, 4))] * 2
    with pytest.raises(VoxgapError) as caught:
        trace(layers, (8, 30, 30, 1))
    assert str(caught.value) == (
        "layer 'pool_2' needs 2 voxels along depth and gets 1; the input is 8 × 30 × 30, "
        "the smallest input that fits is 10 × 26 × 26"
    )


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([("cnov", {})], "kind 'cnov' is unknown"),
        ([("conv", {"kernel_size": 3})], "filters of layer 'conv' must be an integer"),
        ([("pool", {"name": "a"}), ("pool", {"name": "a"})], "two layers are called 'a'"),
        ([("pool", {"inputs": ("nowhere",)})], "takes 'nowhere', which is no layer before it"),
        ([("conv", {"filters": 2, "groups": 2})], "groups=2 must divide"),
        ([("flatten", {}), ("pool", {})], "needs a volume"),
        ([("upsample", {"kernel_size": 5000})], "more than 4096"),
    ],
)
def test_a_network_that_is_none(layers: list[tuple[str, dict[str, Any]]], message: str) -> None:
    with pytest.raises(VoxgapError, match=message):
        trace([Layer(kind, **fields) for kind, fields in layers], (8, 8, 8, 1))
