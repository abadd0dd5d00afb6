"""The fill layers: one contract for all, and each against an independent reference."""

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.impute import KNNImputer, SimpleImputer

from voxgap.errors import VoxgapError
from voxgap.fill import (
    KNN,
    Kriging,
    Learned,
    LinearInterpolation,
    MatrixFactorization,
    Mean,
    Median,
    Mode,
    Nearest,
    Zero,
    make,
    statistics,
)

SHAPE = (6, 5, 7, 2)
# Arguments other than the defaults, so that a config which isn't saved shows.
LAYERS: dict[str, Callable[[], Any]] = {
    "zero": Zero,
    "mean": Mean,
    "mean_channel": lambda: Mean(per="channel"),
    "median": Median,
    "mode": Mode,
    "linear_blend": LinearInterpolation,
    "linear_height": lambda: LinearInterpolation(axis="height", max_gap=(2, 1, None)),
    "nearest": lambda: Nearest(max_gap=3),
    "kriging": Kriging,
    "kriging_max_gap": lambda: Kriging(max_gap=2),
    "learned": lambda: Learned(filters=(2, 3), steps=3, seed=1),
    "knn": lambda: KNN(n_neighbors=3, max_rank=8, max_donors=20, seed=1),
    "matrix_factorization": lambda: MatrixFactorization(rank=3, ridge=0.1, sweeps=3, seed=1),
    "per_channel": lambda: make({"1": "mean", "0": "knn"}, {"0": {"n_neighbors": 3, "max_donors": 20}}),
    "per_channel_large": lambda: make({"0": "kriging", "1": "linear"}, {"0": {"max_gap": 2}}),
}
# Their graphs are large; tests/test_fill_kriging.py holds one representative to all of this. Parts of a fill by channel
# are held to it by themselves.
LARGE = {"nearest", "kriging", "kriging_max_gap", "learned", "per_channel", "per_channel_large"}
each_layer = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.full] * (name in LARGE)) for name in LAYERS]
)
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*HDF5 file:UserWarning", "ignore:.*distinct values:UserWarning"
)


def volumes(count: int, seed: int, missing: float = 0.3, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Volumes that resemble each other, with single missing voxels."""
    basis = np.random.default_rng(99).normal(size=(3, *shape)).cumsum(axis=1)
    rng = np.random.default_rng(seed)
    values = (
        20 + np.tensordot(rng.normal(size=(count, 3)), basis, 1) + rng.normal(scale=0.1, size=(count, *shape))
    )
    values[rng.random(values.shape) < missing] = np.nan
    return values.astype(np.float32)


def hard_volumes() -> np.ndarray:
    """Every kind of gap: nothing observed, a channel, slices along each axis, a block, one voxel left."""
    x = volumes(8, seed=5)
    x[0] = np.nan
    x[1, ..., 0] = np.nan
    x[2, 1:5] = np.nan
    x[3, :, 2:4] = np.nan
    x[4, :, :, 3:] = np.nan
    x[5, 1:4, 1:4, 1:4] = np.nan
    x[6] = np.nan
    x[6, 2, 2, 2, 1] = 7.0
    x[7, 0, 0, 0] = (-0.0, 1e-42)
    return x


def adapted(name: str, train: np.ndarray | None = None) -> Any:
    layer = LAYERS[name]()
    layer.adapt(volumes(30, seed=1) if train is None else train)
    return layer


def filled(layer: Any, x: np.ndarray, **kwargs: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(layer(x, **kwargs))


def functional(layer: Any) -> keras.Model:
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, layer(inputs))


def assert_filled(y: np.ndarray, x: np.ndarray) -> None:
    assert y.dtype == np.float32
    assert np.isfinite(y).all()
    observed = ~np.isnan(x)
    assert_array_equal(y.view(np.uint32)[observed], x.view(np.uint32)[observed])


@pytest.fixture
def mixed_precision() -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy(before)


# One contract for all


@each_layer
@pytest.mark.parametrize("training", [False, True])
def test_fills_every_gap_and_keeps_observed_bits(name: str, training: bool) -> None:
    x = hard_volumes()
    before = x.copy()
    assert_filled(filled(adapted(name), x, training=training), x)
    assert_array_equal(x, before)


@each_layer
def test_wholly_missing_volume_gets_the_statistic_of_training(name: str) -> None:
    train = volumes(30, seed=1)
    expected = {
        "zero": 0.0,
        "mean_channel": np.nanmean(train, axis=(0, 1, 2, 3), keepdims=True)[0],
        "median": np.nanmedian(train, axis=0),
        "mode": np.nanmin(train, axis=0),
    }.get(name, np.nanmean(train, axis=0))
    fill = filled(adapted(name), np.full((1, *SHAPE), np.nan, np.float32))[0]
    assert_allclose(fill, np.broadcast_to(expected, SHAPE), rtol=1e-5)


@each_layer
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_survives_saving(name: str, suffix: str, tmp_path: Path) -> None:
    model, x = functional(adapted(name)), hard_volumes()
    model.save(tmp_path / f"model{suffix}")
    restored = keras.models.load_model(tmp_path / f"model{suffix}")
    for before, after in zip(model.get_weights(), restored.get_weights(), strict=True):
        assert_array_equal(before, after)
    # TensorFlow may sum in another order in the other graph: the last bit is its own.
    assert_allclose(restored.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-6)
    assert restored.layers[-1].get_config() == model.layers[-1].get_config()


@each_layer
def test_ignores_the_dtype_policy(name: str, mixed_precision: None) -> None:
    layer = adapted(name)
    assert {weight.dtype for weight in layer.weights} <= {"float32"}
    x = hard_volumes()
    assert_filled(functional(layer).predict(x, verbose=0), x)


@each_layer
def test_learns_from_training_volumes_only(name: str) -> None:
    layer = adapted(name)
    learnt = [w.copy() for w in layer.get_weights()]
    model = functional(layer)
    for test in (hard_volumes(), 1000 * volumes(4, seed=8)):
        filled(layer, test, training=True)
        model(test)
    for before, after in zip(learnt, layer.get_weights(), strict=True):
        assert_array_equal(before, after)


@each_layer
def test_adapting_in_blocks_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = hard_volumes()
    whole = filled(adapted(name), x)
    monkeypatch.setattr(statistics, "BLOCK_BYTES", 1500)
    monkeypatch.setattr("voxgap.observed.BLOCK_VOXELS", 375)
    assert_allclose(filled(adapted(name), x), whole, rtol=1e-5)


@each_layer
def test_refuses_what_it_cannot_learn_from(name: str) -> None:
    infinite = volumes(5, seed=0)
    infinite[3, 0, 0, 0, 0] = np.inf
    with pytest.raises(VoxgapError, match=r"training volume 3 .*infinite"):
        adapted(name, infinite)
    with pytest.raises(VoxgapError, match="no observed voxel"):
        adapted(name, np.full((3, *SHAPE), np.nan, np.float32))
    for wrong in (volumes(5, seed=0)[0], np.empty((0, *SHAPE), np.float32)):
        with pytest.raises(VoxgapError, match="adapt needs volumes of shape"):
            adapted(name, wrong)
    with pytest.raises(VoxgapError, match="was built for volumes of shape"):
        adapted(name).adapt(volumes(5, seed=0, shape=(6, 5, 7, 1)))


@pytest.mark.parametrize("name", [name for name in LAYERS if name not in {"zero", *LARGE}])
def test_refuses_to_fill_before_it_has_learnt(name: str) -> None:
    with pytest.raises(VoxgapError, match=r"call adapt\("):
        LAYERS[name]()(hard_volumes())


@each_layer
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_any_finite_values_stay_finite(name: str, data: st.DataObject) -> None:
    def arrays(count: int, limit: float) -> st.SearchStrategy[np.ndarray]:
        limit = float(np.float32(limit))
        values = st.floats(-limit, limit, width=32) | st.just(float("nan"))
        return hnp.arrays(np.float32, (count, 2, 3, 1, 2), elements=values)

    train = data.draw(arrays(3, 0.99e30))
    train[0, 0, 0, 0, 0] = 1.0
    x = data.draw(arrays(2, np.finfo(np.float32).max))
    assert_filled(filled(adapted(name, train), x), x)


@pytest.mark.full
@pytest.mark.parametrize("names", [("knn",), tuple(LAYERS)], ids=["representative", "all"])
def test_pytorch_gives_the_same_numbers(names: tuple[str, ...], tmp_path: Path) -> None:
    x = hard_volumes()
    np.save(tmp_path / "x.npy", x)
    expected = {}
    for name in names:
        model = functional(adapted(name))
        model.save(tmp_path / f"{name}.keras")
        expected[name] = model.predict(x, verbose=0)
    script = (
        "import sys, keras, numpy as np, voxgap.fill\n"
        "folder, *names = sys.argv[1:]\n"
        "x = np.load(folder + '/x.npy')\n"
        "models = {n: keras.models.load_model(f'{folder}/{n}.keras') for n in names}\n"
        "np.savez(folder + '/y.npz', **{n: m.predict(x, verbose=0) for n, m in models.items()})\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path), *names]
    subprocess.run(command, env={**os.environ, "KERAS_BACKEND": "torch"}, check=True, capture_output=True)
    with np.load(tmp_path / "y.npz") as result:
        for name in names:
            assert_filled(result[name], x)
            assert_allclose(result[name], expected[name], rtol=1e-5, atol=1e-5)


# Mean, Median, Mode


@pytest.mark.parametrize(
    ("layer", "strategy"),
    [(Mean, "mean"), (Median, "median"), (Mode, "most_frequent")],
    ids=lambda v: str(v)[-8:],
)
def test_constants_equal_simple_imputer(layer: Any, strategy: str) -> None:
    train, test = np.round(volumes(25, seed=1)), np.round(volumes(6, seed=2))
    reference = SimpleImputer(strategy=strategy).fit(train.reshape(25, -1)).transform(test.reshape(6, -1))
    fill = layer()
    fill.adapt(train)
    assert_allclose(filled(fill, test).reshape(6, -1), reference, rtol=1e-6)


@pytest.mark.parametrize("count", [1, 10, 11])
def test_channel_constants_equal_numpy(count: int) -> None:
    train = np.round(volumes(count, seed=3) - 20) / 4
    for c in range(2):
        values = train[..., c][~np.isnan(train[..., c])]
        distinct, counts = np.unique(values, return_counts=True)
        assert statistics.mean(train, "channel")[0, 0, 0, c] == pytest.approx(values.mean(), rel=1e-5)
        assert statistics.median(train, "channel")[0, 0, 0, c] == np.median(values)
        assert statistics.mode(train, "channel")[0, 0, 0, c] == distinct[np.argmax(counts)]


@pytest.mark.parametrize("layer", [Mean, Median, Mode])
def test_never_observed_voxel_gets_its_channel_and_never_observed_channel_gets_zero(layer: Any) -> None:
    train = np.full((4, 2, 2, 2, 2), np.nan, np.float32)
    train[:, 0, :, :, 0] = 3.0
    fill = layer()
    fill.adapt(train)
    y = filled(fill, np.full((1, 2, 2, 2, 2), np.nan, np.float32))
    assert_array_equal(y[..., 0], 3.0)
    assert_array_equal(y[..., 1], 0.0)


def test_mode_warns_on_continuous_values_only() -> None:
    with pytest.warns(UserWarning, match="distinct values"):
        Mode().adapt(volumes(20, seed=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Mode().adapt(np.round(volumes(20, seed=1)))


# LinearInterpolation


def interpolated(x: np.ndarray, mean: np.ndarray, axis: int) -> np.ndarray:
    """numpy.interp along each line of one axis; the mean on empty lines."""
    lines, means = np.moveaxis(x.copy(), axis, -1), np.moveaxis(np.broadcast_to(mean, x.shape), axis, -1)
    for index in np.ndindex(lines.shape[:-1]):
        at = np.flatnonzero(~np.isnan(lines[index]))
        everywhere = np.arange(lines.shape[-1])
        lines[index] = np.interp(everywhere, at, lines[index][at]) if len(at) else means[index]
    return np.moveaxis(lines, -1, axis)


@pytest.mark.parametrize("axis", ["depth", "height", "width", 1, 2, 3])
def test_linear_equals_numpy_interp(axis: Any) -> None:
    train, x = volumes(10, seed=1), hard_volumes()
    layer = LinearInterpolation(axis=axis)
    layer.adapt(train)
    number = {"depth": 1, "height": 2, "width": 3}.get(axis, axis)
    assert_allclose(
        filled(layer, x), interpolated(x, np.nanmean(train, axis=0), number), rtol=1e-5, atol=1e-5
    )


@settings(max_examples=40, deadline=None)
@given(
    line=hnp.arrays(np.float32, st.integers(1, 40), elements=st.sampled_from([np.nan, -3.0, 0.0, 1.5, 8.0]))
)
def test_linear_equals_numpy_interp_on_any_line(line: np.ndarray) -> None:
    layer = LinearInterpolation(axis="depth")
    x = line.reshape(1, -1, 1, 1, 1)
    layer.adapt(np.full_like(x, 2.0))
    assert_allclose(filled(layer, x), interpolated(x, np.float32(2.0), 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_blend_equals_the_right_axis_on_missing_slices(axis: int) -> None:
    x = volumes(4, seed=2, missing=0.0)
    x[(slice(None),) * axis + ([0, 2, 3],)] = np.nan
    layer = LinearInterpolation()
    layer.adapt(x)
    assert_allclose(filled(layer, x), interpolated(x, np.float32(0), axis), rtol=1e-5)


def test_blend_beats_each_axis_on_missing_voxels() -> None:
    grid = np.meshgrid(*[np.linspace(0, 4, 12)] * 3, indexing="ij")
    complete = np.sin(grid[0] + np.sin(2 * grid[1]) + grid[2] ** 2 / 4)[None, ..., None].astype(np.float32)
    x = np.where(np.random.default_rng(0).random(complete.shape) < 0.5, np.float32(np.nan), complete)
    errors = {}
    for axis in ("depth", "height", "width", "blend"):
        layer = LinearInterpolation(axis=axis)
        layer.adapt(x)
        errors[axis] = np.abs(filled(layer, x) - complete).mean()
    assert errors["blend"] < 0.8 * min(errors[axis] for axis in ("depth", "height", "width"))


# KNN


def rows(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1)


@pytest.mark.parametrize("n_neighbors", [1, 5])
@pytest.mark.parametrize("missing", [0.2, 0.8])
def test_knn_equals_knn_imputer(n_neighbors: int, missing: float) -> None:
    train, test = volumes(40, seed=1, missing=missing), volumes(10, seed=2, missing=missing)
    layer = KNN(n_neighbors=n_neighbors, max_rank=40, max_donors=40)
    layer.adapt(train)
    imputer = KNNImputer(n_neighbors=n_neighbors).fit(rows(train))
    assert_allclose(rows(filled(layer, test)), imputer.transform(rows(test)), rtol=1e-5, atol=1e-5)
    assert_allclose(rows(filled(layer, train)), imputer.transform(rows(train)), rtol=1e-5, atol=1e-5)


def test_knn_takes_donors_that_have_the_voxel_among_the_nearest() -> None:
    train, test = volumes(20, seed=1, missing=0.6), volumes(6, seed=2, missing=0.6)
    layer = KNN(n_neighbors=3, max_rank=5)
    layer.adapt(train)
    expected, mean = rows(test.copy()), np.nanmean(rows(train), axis=0)
    for x in expected:
        distance = np.nanmean((rows(train).astype(np.float64) - x) ** 2, axis=1)
        nearest = rows(train)[np.argsort(distance)[:5]]
        for v in np.flatnonzero(np.isnan(x)):
            having = nearest[~np.isnan(nearest[:, v]), v][:3]
            x[v] = having.mean() if len(having) else mean[v]
    assert_allclose(rows(filled(layer, test)), expected, rtol=1e-5)


def test_knn_error_is_the_same_on_training_and_test_samples() -> None:
    train, test = volumes(60, seed=1, missing=0.1), volumes(60, seed=2, missing=0.1)
    layer = KNN()
    layer.adapt(train)

    def error(x: np.ndarray, training: bool) -> float:
        hidden = np.random.default_rng(3).random(x.shape) < 0.3
        fill = filled(layer, np.where(hidden, np.float32(np.nan), x), training=training)
        return float(np.sqrt(np.nanmean((fill - x)[hidden] ** 2)))

    assert error(train, training=True) == pytest.approx(error(test, training=False), rel=0.1)
    # What the rule prevents: a training sample that is its own donor.
    assert error(train, training=False) < 0.9 * error(test, training=False)


def test_knn_samples_donors_with_its_seed_and_leaves_out_empty_volumes() -> None:
    train = volumes(50, seed=1)
    train[::2] = np.nan
    chosen = [KNN(max_donors=10, seed=seed)._choose(train).tolist() for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(set(chosen[0])) == 10
    assert all(index % 2 for index in chosen[0])


def test_knn_keeps_a_donor_value_equal_to_the_mean() -> None:
    train = np.array([[1.0, 5.0, 9.0], [1.0, 6.0, np.nan]], np.float32).reshape(2, 3, 1, 1, 1)
    layer = KNN(n_neighbors=1, max_rank=2)
    layer.adapt(train)
    x = np.array([np.nan, 6.0, np.nan], np.float32).reshape(1, 3, 1, 1, 1)
    assert_allclose(filled(layer, x).ravel(), [1.0, 6.0, 9.0], rtol=1e-6)


@pytest.mark.parametrize(
    "arguments", [{"n_neighbors": 0}, {"n_neighbors": 9, "max_rank": 8}, {"max_donors": 0}]
)
def test_knn_refuses_impossible_numbers(arguments: dict[str, int]) -> None:
    with pytest.raises(VoxgapError, match="must be"):
        KNN(**arguments)


# MatrixFactorization


def ridge_solution(design: np.ndarray, target: np.ndarray, penalty: float) -> np.ndarray:
    """Ridge regression as ordinary least squares with extra rows."""
    size = design.shape[1]
    stacked = np.vstack([design, np.sqrt(penalty) * np.eye(size)])
    return np.linalg.lstsq(stacked, np.concatenate([target, np.zeros(size)]), rcond=None)[0]


def test_factorization_equals_alternating_least_squares() -> None:
    train, test = rows(volumes(25, seed=1, shape=(3, 4, 3, 1))), rows(volumes(5, seed=2, shape=(3, 4, 3, 1)))
    layer = MatrixFactorization(rank=2, ridge=0.05, sweeps=300, seed=0)
    layer.adapt(train.reshape(25, 3, 4, 3, 1))

    mean = np.nanmean(train.astype(np.float64), axis=0)
    scale = np.sqrt(np.nanmean((train - mean) ** 2))
    penalty = 0.05 * (np.sqrt(25) + np.sqrt(36))
    data = (train - mean) / scale
    basis = np.random.default_rng(7).normal(size=(2, 36))
    for _ in range(300):
        factors = np.array(
            [ridge_solution(basis[:, o].T, d[o], penalty) for d in data if (o := ~np.isnan(d)).any()]
        )
        basis = np.array(
            [ridge_solution(factors[o], d[o], penalty) for d in data.T if (o := ~np.isnan(d)).any()]
        ).T

    expected = test.copy()
    for x in expected:
        seen = ~np.isnan(x)
        fit = ridge_solution(basis[:, seen].T, (x[seen] - mean[seen]) / scale, penalty)
        x[~seen] = (mean + scale * fit @ basis)[~seen]
    assert_allclose(rows(filled(layer, test.reshape(5, 3, 4, 3, 1))), expected, rtol=1e-4)


def test_factorization_recovers_low_rank_volumes() -> None:
    complete = volumes(60, seed=1, missing=0.0)
    x = np.where(np.random.default_rng(0).random(complete.shape) < 0.3, np.float32(np.nan), complete)
    # The volumes have rank 3; the mean of what is observed is off by a fourth.
    layer = MatrixFactorization(rank=4, ridge=0.02)
    layer.adapt(x)
    missing = np.isnan(x)
    error = np.sqrt(np.mean((filled(layer, x) - complete)[missing] ** 2))
    assert error < 0.1 * np.std((complete - np.nanmean(x, axis=0))[missing])
