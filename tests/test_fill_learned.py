"""The learned fill: what is hidden to learn from, what its loss counts, where it begins, and what it gains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter

from voxgap.errors import VoxgapError
from voxgap.fill import Deviating, Learned, restoring
from voxgap.fill.learned import _pooled
from voxgap.fill.restoring import HiddenError
from voxgap.fill.trial import punched
from voxgap.filling.train import _Kept
from voxgap.missingness import simulate


def smooth(count: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    rough = np.random.default_rng(seed).normal(size=(count, *shape))
    values = gaussian_filter(rough, (0, 1.5, 1.5, 1.5, 0))
    return (5 + 2 * values / values.std()).astype(np.float32)


@pytest.mark.parametrize("pattern", ["slices", "voxels", "blocks", "channels", "none"])
@pytest.mark.parametrize("count", [1, 5])
def test_what_is_hidden_was_observed_and_is_told(pattern: str, count: int) -> None:
    complete = smooth(count, (8, 6, 7, 3))
    volumes = complete if pattern == "none" else simulate(complete, pattern, 0.4, seed=1)
    before = volumes.copy()
    for seed in range(5):
        seen, hidden = punched(volumes, np.random.default_rng(seed))
        assert_array_equal(volumes, before)
        away = ~np.isnan(hidden)
        assert_array_equal(hidden[away], complete[away])
        assert_array_equal(np.isnan(seen), np.isnan(volumes) | away)
        assert_array_equal(seen[~np.isnan(seen)], complete[~np.isnan(seen)])
        share = away.sum(axis=(1, 2, 3, 4)) / (~np.isnan(volumes)).sum(axis=(1, 2, 3, 4))
        assert (share > 0).all()
        assert (share < 0.7).all()
        again = punched(volumes, np.random.default_rng(seed))
        assert_array_equal(np.isnan(again[0]), np.isnan(seen))


def test_what_is_hidden_has_the_shape_of_the_gaps() -> None:
    volumes = simulate(smooth(12, (10, 5, 6, 1)), "slices", 0.4, seed=2)
    sizes = set()
    for seed in range(10):
        away = ~np.isnan(punched(volumes, np.random.default_rng(seed))[1])
        whole = away.all(axis=(2, 3, 4))
        assert_array_equal(whole, away.any(axis=(2, 3, 4)))
        sizes |= set(whole.sum(axis=1).tolist())
    assert len(sizes) > 2  # few and many


def test_nothing_can_be_hidden_of_nothing() -> None:
    volumes = np.full((2, 3, 4, 5, 1), np.nan, np.float32)
    seen, hidden = punched(volumes, np.random.default_rng(0))
    assert np.isnan(seen).all()
    assert np.isnan(hidden).all()


def test_the_loss_counts_hidden_voxels_in_their_channels_units() -> None:
    generator = np.random.default_rng(0)
    shape, scale = (3, 2, 3, 4, 2), np.array([2.0, 0.5])
    truth = np.where(generator.random(shape) < 0.4, np.nan, generator.normal(size=shape)).astype(np.float32)
    value, sure = generator.normal(size=shape), generator.uniform(0.5, 2, shape)
    said = np.concatenate([value, sure], axis=-1).astype(np.float32)
    squared, log, count = 0.0, 0.0, 0
    for place in zip(*np.nonzero(~np.isnan(truth)), strict=True):
        unit = scale[place[-1]]
        error, deviation = (truth[place] - value[place]) / unit, sure[place] / unit
        squared += error**2 / 2
        log += error**2 / deviation**2 / 2 + np.log(deviation)
        count += 1
    found = float(HiddenError(scale.tolist())(truth, said))
    assert found == pytest.approx((squared + log) / count, rel=1e-5)
    assert float(HiddenError(scale.tolist())(np.full(shape, np.nan, np.float32), said)) == 0


@pytest.mark.parametrize("arguments", [{"filters": ()}, {"filters": (4, 0)}, {"steps": -1}])
def test_impossible_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(VoxgapError, match="filters must be positive whole numbers and steps at least 0"):
        Learned(**arguments)


def arrays(pair: Any) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(one) for one in pair]


@pytest.mark.parametrize("shape", [(4, 6, 2), (5, 1, 7), (1, 3, 8)])
def test_it_pools_as_keras_does(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype(np.float32)
    expected = keras.ops.convert_to_numpy(keras.layers.MaxPooling3D(2, padding="same")(x))
    assert_array_equal(keras.ops.convert_to_numpy(_pooled(keras.ops.convert_to_tensor(x))), expected)


def test_it_begins_as_kriging() -> None:
    volumes = simulate(smooth(2, (3, 4, 5, 1)), "voxels", 0.4, seed=1)
    layer = Learned(filters=(2, 3), steps=0)
    layer.adapt(volumes)
    for found, expected in zip(
        arrays(layer.with_deviation(volumes)), arrays(layer.closed.with_deviation(volumes)), strict=True
    ):
        assert_array_equal(found, expected)
    observed = ~np.isnan(volumes)
    both = keras.ops.convert_to_numpy(Deviating(layer)(volumes))
    assert_array_equal(both[..., :1][observed], volumes[observed])
    assert (both[..., 1:][observed] == 0).all()
    assert (both[..., 1:][~observed] > 0).all()


def bent(count: int, seed: int) -> np.ndarray:
    """Fields whose slices are one pattern, of another strength each: what no variogram knows."""
    generator = np.random.default_rng(seed)
    pattern = np.random.default_rng(9).normal(size=(1, 1, 8, 8, 1))
    strength = gaussian_filter(generator.normal(size=(count, 8, 1, 1, 1)), (0, 1.5, 0, 0, 0))
    return (10 + 3 * pattern * np.sign(strength)).astype(np.float32)


@pytest.mark.full
def test_it_learns_from_gaps_alone_what_kriging_can_not_know() -> None:
    complete, test = bent(48, 0), bent(24, 1)
    train, gapped = (simulate(one, "blocks", 0.4, seed=3) for one in (complete, test))
    layer = Learned(filters=(8, 16), steps=1200, seed=0)
    looks: list[restoring.Look] = []
    layer.steps = 0
    layer.adapt(train)
    looks += restoring.train(layer, train, steps=1200)
    hidden = np.isnan(gapped)
    value, deviation = arrays(layer.with_deviation(gapped))
    kriging = arrays(layer.closed.with_deviation(gapped))[0]
    errors = [(one - test)[hidden] for one in (value, kriging)]
    learned, closed = (float(np.sqrt(np.mean(one**2))) for one in errors)
    assert learned < 0.9 * closed
    assert 0.6 < np.mean(np.abs(errors[0]) < deviation[hidden]) < 0.78
    assert min(look["val_loss"] for look in looks) < looks[0]["val_loss"]


@pytest.mark.full
def test_a_file_of_it_with_deviations_answers_the_same(tmp_path: Path) -> None:
    volumes = simulate(smooth(6, (5, 6, 7, 2)), "slices", 0.4, seed=1)
    layer = Learned(filters=(2, 3), steps=4)
    layer.adapt(volumes)
    inputs = keras.Input(volumes.shape[1:])
    model = keras.Model(inputs, Deviating(layer)(inputs))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert_allclose(again.predict(volumes, verbose=0), model.predict(volumes, verbose=0), rtol=1e-6)
    assert again.output_shape == (None, 5, 6, 7, 4)


@pytest.mark.full
def test_training_twice_gives_the_same_network() -> None:
    volumes = simulate(smooth(6, (5, 6, 7, 1)), "slices", 0.4, seed=1)
    made = []
    for _ in range(2):
        layer = Learned(filters=(2,), steps=3, seed=5)
        layer.adapt(volumes)
        made.append(layer.network.get_weights())
    for one, other in zip(*made, strict=True):
        assert_allclose(one, other, rtol=1e-4, atol=1e-6)


class KilledError(BaseException):
    """As a kill would, it passes every `except Exception`."""


@pytest.mark.full
def test_a_killed_training_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring, "EVERY", 2)
    volumes = simulate(smooth(6, (3, 4, 5, 1)), "voxels", 0.4, seed=1)

    def learnt(
        kept: Any = None, look: Any = None, punch: Any = punched
    ) -> tuple[list[np.ndarray], list[Any]]:
        layer = Learned(filters=(2,), steps=0)
        layer.adapt(volumes)
        looks = restoring.train(layer, volumes, steps=7, look=look, kept=kept, punch=punch)
        assert not layer.network.trainable
        return [*layer.network.get_weights(), np.asarray(layer.calibration)], looks

    def keeping(**asked: Any) -> _Kept:
        return _Kept(tmp_path / "state", {"seed": 0, **asked}, volumes, None, anew=False)

    def killed_after(calls: int, function: Any = lambda *_: None) -> Any:
        left = iter(range(calls))

        def call(*arguments: Any) -> Any:
            if next(left, None) is None:
                raise KilledError
            return function(*arguments)

        return call

    weights, looks = learnt()
    assert len(looks) == 5
    for calls in (
        {"punch": killed_after(2, punched)},
        {"look": killed_after(2)},
        {"punch": killed_after(2, punched)},
    ):
        with pytest.raises(KilledError):
            learnt(keeping(), **calls)
    with pytest.raises(VoxgapError, match="seed was 0, is 1"):
        learnt(keeping(seed=1))
    steps: list[int] = []

    def punch(some: Any, generator: Any) -> Any:
        steps.append(len(some))
        return punched(some, generator)

    again, seen = learnt(keeping(), punch=punch)
    assert len(steps) == 1 + 3  # what is held out, and the steps that were left: 4, 5, 6
    assert [{k: v for k, v in look.items() if k not in ("seconds",)} for look in seen] == [
        {k: v for k, v in look.items() if k not in ("seconds",)} for look in looks
    ]
    for one, other in zip(again, weights, strict=True):
        assert_array_equal(one, other)


@pytest.mark.full
def test_inside_a_network_it_is_frozen() -> None:
    import voxgap as vg

    data = vg.Dataset.from_arrays(
        simulate(smooth(12, (6, 6, 6, 1)), "slices", 0.3, seed=1),
        labels=np.arange(12) % 2,
        split=["train"] * 8 + ["validation"] * 4,
    )
    fill = vg.Strategy(fill="learned", fill_options={"filters": [2], "steps": 2})
    model = vg.build_model("cnn3d", (6, 6, 6, 1), 2, strategy=fill, filters=(4,))
    other = vg.build_model("cnn3d", (6, 6, 6, 1), 2, strategy="mean", filters=(4,))
    layer = model.get_layer("prepare").get_layer("fill")
    assert len(model.trainable_weights) == len(other.trainable_weights)
    vg.train(model, data, epochs=1, verbose=False)
    assert len(model.trainable_weights) == len(other.trainable_weights)
    assert not layer.trainable_weights
    learnt = layer.network.get_weights()
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    model.train_on_batch(data.volumes, data.targets)
    for one, before in zip(layer.network.get_weights(), learnt, strict=True):
        assert_allclose(one, before, rtol=0, atol=0)


def test_it_takes_over_what_another_has_learnt() -> None:
    volumes = simulate(smooth(2, (3, 4, 5, 1)), "voxels", 0.4, seed=1)
    one, other, foreign = (
        Learned(filters=filters, steps=0, seed=seed) for filters, seed in (((2,), 0), ((2,), 1), ((3,), 1))
    )
    for layer in (one, other, foreign):
        layer.build((None, 3, 4, 5, 1))
    one.calibration.assign([1.5])
    one.network.layers[-1].kernel.assign(np.ones((1, 1, 1, 2, 2), np.float32))
    other.take(one)
    other.adapt(volumes)
    for mine, learnt in zip(other.network.get_weights(), one.network.get_weights(), strict=True):
        assert_array_equal(mine, learnt)
    assert float(other.calibration[0]) == 1.5
    with pytest.raises(VoxgapError, match=r"1 channels with filters \(2,\), the network for 1 with \(3,\)"):
        foreign.take(one)
