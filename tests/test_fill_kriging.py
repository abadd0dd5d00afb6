"""Kriging, nearest and the learnt metric: against NumPy loops, SciPy, and what is hidden in a known field."""

import dataclasses
from functools import partial
from typing import Any

import keras
import numpy as np
import pytest
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter

from voxgap.errors import VoxgapError
from voxgap.fill import Kriging, Learned, LinearInterpolation, Nearest, structure
from voxgap.fill.around import Surroundings
from voxgap.fill.linear import interpolate
from voxgap.fill.nearest import copy_nearest
from voxgap.fill.simulation import conditional
from voxgap.filling import learn


def field(shape: tuple[int, ...], smooth: tuple[float, ...], seed: int = 0) -> np.ndarray:
    """A normal random field that is alike over other lengths along each axis, `(D, H, W, 1)`, mean 5."""
    rough = np.random.default_rng(seed).normal(size=shape)
    values = gaussian_filter(rough, smooth, mode="wrap")
    return (5 + 2 * values / values.std())[..., None].astype(np.float32)


def holed(complete: np.ndarray, share: float = 0.3, seed: int = 1) -> np.ndarray:
    generator = np.random.default_rng(seed)
    x = np.where(generator.random(complete.shape) < share, np.float32(np.nan), complete)
    x[:, 3:7, 4:9] = np.nan
    return x


def arrays(layer: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    value, deviation = layer.with_deviation(x)
    return keras.ops.convert_to_numpy(value), keras.ops.convert_to_numpy(deviation)


def neighbours(rest: np.ndarray, at: tuple[int, ...]) -> list[tuple[np.ndarray, float]]:
    """Offset and value of the nearest observed voxel in each of six directions, by walking."""
    found = []
    for axis in range(3):
        for sign in (-1, 1):
            place = list(at)
            place[axis] += sign
            while 0 <= place[axis] < rest.shape[axis]:
                if not np.isnan(rest[tuple(place)]):
                    found.append((np.subtract(place, at).astype(float), float(rest[tuple(place)])))
                    break
                place[axis] += sign
    return found


def solved(known: structure.Structure, near: list[tuple[np.ndarray, float]]) -> tuple[float, float]:
    """Prediction and variance of simple kriging, by numpy.linalg."""
    offsets, values = np.array([offset for offset, _ in near]), np.array([value for _, value in near])
    matrix = structure.covariance(offsets[:, None] - offsets[None], known.lengths, known.weights)
    matrix += known.nugget * np.eye(len(near))
    right = structure.covariance(offsets, known.lengths, known.weights)
    weights = np.linalg.solve(matrix, right)
    return float(weights @ values), float(known.weights.sum() + known.nugget - weights @ right)


def test_kriging_equals_a_numpy_loop_keeps_what_is_observed_and_says_how_sure_it_is() -> None:
    complete = field((6, 12, 14), (1.0, 2.0, 3.0))
    x = holed(complete)[None]
    layer = Kriging()
    layer.adapt(x)
    value, deviation = arrays(layer, x)
    assert_array_equal(value, keras.ops.convert_to_numpy(layer(x)))
    observed = ~np.isnan(x)
    assert_array_equal(value[observed].view(np.uint32), x[observed].view(np.uint32))
    assert (deviation[observed] == 0).all()
    assert (deviation[~observed] > 0).all()

    known = structure.learn([x[0]])
    standard = (x[0] - known.mean) / known.spread
    mean, share = structure.local_mean(standard, known.reach)
    rest = (standard - mean)[..., 0]
    factor, exponent = np.asarray(layer.calibration)
    for at in np.argwhere(~observed[0, ..., 0])[::7]:
        predicted, variance = solved(known, neighbours(rest, tuple(at)))
        here = (*at, 0)
        # Where little is around it tends to the training mean of the voxel, here the channel's.
        expected = share[here] * (known.mean[0] + known.spread[0] * (mean[here] + predicted))
        expected += (1 - share[here]) * float(layer.mean[here])
        assert value[0][here] == pytest.approx(expected, rel=1e-4)
        variance = max(variance, 0) * share[here] + 1 - share[here]
        wanted = factor * variance ** (exponent / 2) * known.spread[0]
        assert deviation[0][here] == pytest.approx(wanted, rel=1e-3)


@pytest.mark.full
def test_files_are_filled_from_the_nearest_voxels_in_the_learnt_metric() -> None:
    complete = field((6, 12, 14), (1.0, 2.0, 3.0))
    x = holed(complete)
    filler = Surroundings.learn([x])
    ((part, value, deviation),) = filler.fill(x)
    assert part == slice(0, 6)
    assert (deviation[~np.isnan(x)] == 0).all()
    known = filler.structure
    mean, _ = structure.local_mean((x - known.mean) / known.spread, known.reach)
    rest = ((x - known.mean) / known.spread - mean)[..., 0]
    places = np.argwhere(~np.isnan(rest))
    for at in np.argwhere(np.isnan(rest))[::11]:
        apart = np.linalg.norm((places - at) / known.reach, axis=1)
        order = np.argsort(apart, kind="stable")
        if np.isclose(apart[order[15]], apart[order[16]]):
            continue  # of equally near ones the tree takes any
        near = [(places[i] - at.astype(float), float(rest[tuple(places[i])])) for i in order[:16]]
        expected = known.mean[0] + known.spread[0] * (mean[(*at, 0)] + solved(known, near)[0])
        assert value[(*at, 0)] == pytest.approx(expected, rel=1e-4)


@pytest.mark.full
def test_slabs_change_little_and_what_was_filled_is_no_observation(monkeypatch: pytest.MonkeyPatch) -> None:
    x = holed(field((40, 12, 14), (1.0, 2.0, 3.0)))
    filler = Surroundings.learn([x])
    whole = np.concatenate([value for _, value, _ in filler.fill(x)])
    monkeypatch.setattr("voxgap.fill.around.SLAB", 4 * x[0].size)
    filled = x.copy()
    for part, value, _ in filler.fill(filled):
        np.copyto(filled[part], value, where=np.isnan(filled[part]))
    gaps = np.isnan(x)
    # Of equally near voxels either takes any.
    assert np.sqrt(np.mean((filled - whole)[gaps] ** 2)) < 0.01 * np.nanstd(x)


def test_a_channel_that_is_seen_somewhere_is_seen_in_every_slab(monkeypatch: pytest.MonkeyPatch) -> None:
    x = field((40, 6, 7), (1.0, 1.0, 1.0))
    filler = Surroundings.learn([holed(x)])
    x[4:] = np.nan
    elsewhere = np.float32([[[[9.0]]]])
    whole = [next(filler.fill(x, mean=elsewhere))[i] for i in (1, 2)]
    monkeypatch.setattr("voxgap.fill.around.SLAB", 2 * x[0].size)
    slabs = [np.concatenate([part[i] for part in filler.fill(x, mean=elsewhere)]) for i in (1, 2)]
    for found, expected in zip(slabs, whole, strict=True):
        np.testing.assert_allclose(found[4:], expected[4:], atol=0.05 * float(filler.structure.spread[0]))


def test_the_reach_follows_each_axis_and_its_spacing() -> None:
    reach = structure.metric([field((24, 48, 48), (1.0, 2.0, 4.0))])[2]
    assert reach[1] / reach[0] == pytest.approx(2, rel=0.3)
    assert reach[2] / reach[0] == pytest.approx(4, rel=0.3)
    # Every other plane: half as many voxels for the same length.
    sparse = structure.metric([field((24, 48, 48), (1.0, 2.0, 4.0))[:, :, ::2]])[2]
    assert sparse[2] / reach[2] == pytest.approx(0.5, rel=0.1)


def test_semivariances_equal_a_loop_over_pairs() -> None:
    x = holed(field((4, 9, 10), (1, 1, 1)))
    lags, gamma, count = structure.semivariances([x[None]], x.shape[:3])
    one = x[..., 0]
    for index in range(0, len(lags), 5):
        squares = []
        for a in np.argwhere(~np.isnan(one)):
            for b in {
                (a[0] + i * lags[index][0], a[1] + j * lags[index][1], a[2] + k * lags[index][2])
                for i in (1, -1)
                for j in (1, -1)
                for k in (1, -1)
            }:
                if all(0 <= q < n for q, n in zip(b, one.shape, strict=True)):
                    squares.append((one[tuple(a)] - one[tuple(int(q) for q in b)]) ** 2)
        known = np.array(squares)[~np.isnan(squares)]
        assert count[index] == len(known) / 2  # each pair from both of its ends
        assert gamma[index] == pytest.approx(known.mean() / 2, rel=1e-4)


@pytest.mark.full
def test_deviations_are_calibrated_on_what_is_hidden_elsewhere() -> None:
    complete = field((8, 40, 44), (0.7, 3.0, 3.0))
    x = holed(complete, share=0.1)
    layer = Kriging()
    layer.adapt(x[None])
    value, deviation = arrays(layer, x[None])
    gaps = np.isnan(x)
    inside = np.abs(value[0] - complete)[gaps] < deviation[0][gaps]
    assert 0.55 < inside.mean() < 0.8


def test_beyond_max_gap_nothing_is_invented() -> None:
    x = field((4, 20, 20), (1, 2, 2))
    x[:, 4:16, 4:16] = np.nan
    for kind in (Kriging, Nearest, LinearInterpolation):
        layer = kind(max_gap=3)
        layer.adapt(x[None])
        value = keras.ops.convert_to_numpy(layer(x[None]))[0]
        mean = np.asarray(layer.mean)
        assert_array_equal(value[:, 7:13, 7:13], mean[:, 7:13, 7:13])
        assert not np.isclose(value[:, 4:7], mean[:, 4:7]).all()
    ((_, value, _),) = Surroundings.learn([x], max_gap=3).fill(x)
    copied, lines = x.copy(), x.copy()
    copy_nearest(copied, np.ones(3, np.float32), 3, None)
    ((_, found, near),) = interpolate(x.copy(), max_gap=3)
    lines[np.isnan(x)] = np.where(near, found, np.nan)[np.isnan(x)]
    for filled in (value, copied, lines):
        assert np.isnan(filled[:, 7:13, 7:13]).all()
        assert np.isfinite(filled[:, 4:7, 4:16]).all()
    for wrong in (0, -1.0, (1, 2), "12mm"):
        with pytest.raises(VoxgapError, match="max_gap"):
            Kriging(max_gap=wrong)


def test_a_reach_may_differ_along_the_axes() -> None:
    x = field((4, 20, 20), (1, 2, 2))
    x[:, 4:16, 4:16] = np.nan
    far = np.zeros(x.shape, bool)
    far[:, 7:13, 5:15] = True
    copied, lines = x.copy(), x.copy()
    reach = (None, 3, 1)
    copy_nearest(copied, np.ones(3, np.float32), reach, None)
    ((_, found, near),) = interpolate(x.copy(), max_gap=reach)
    lines[np.isnan(x)] = np.where(near, found, np.nan)[np.isnan(x)]
    assert_array_equal(np.isnan(lines), far)
    assert np.isnan(copied[far]).all()
    assert np.isfinite(copied[:, 4:7, 5:15]).all()
    layer = LinearInterpolation(max_gap=reach)
    layer.adapt(x[None])
    value = keras.ops.convert_to_numpy(layer(x[None]))[0]
    assert_array_equal(value[far], np.asarray(layer.mean)[far])


def test_nearest_copies_what_is_nearest() -> None:
    x = holed(field((5, 11, 12), (1, 1, 1)))
    layer = Nearest()
    layer.adapt(x[None])
    value = keras.ops.convert_to_numpy(layer(x[None]))[0]
    assert np.isin(value, x).all()
    reach = np.asarray(layer.reach)
    for at in np.argwhere(np.isnan(x[..., 0]))[::5]:
        near = neighbours(x[..., 0], tuple(at))
        apart = [np.linalg.norm(offset / reach) for offset, _ in near]
        assert value[(*at, 0)] in [
            v for (_, v), d in zip(near, apart, strict=True) if np.isclose(d, min(apart))
        ]
    copied = x.copy()
    copy_nearest(copied, reach, None, None)
    places = np.argwhere(~np.isnan(x[..., 0]))
    for at in np.argwhere(np.isnan(x[..., 0]))[::5]:
        apart = np.linalg.norm((places - at) / reach, axis=1)
        nearest = places[np.isclose(apart, apart.min())]
        assert copied[(*at, 0)] in [x[(*place, 0)] for place in nearest]


@pytest.mark.full
def test_what_is_alike_along_one_axis_is_filled_along_it() -> None:
    generator = np.random.default_rng(0)
    # A random walk along the depth, of lines that know nothing of each other.
    complete = generator.normal(size=(24, 12, 12, 1)).cumsum(axis=0).astype(np.float32)
    x = np.where(generator.random(complete.shape) < 0.4, np.float32(np.nan), complete)

    def error(layer: Any) -> float:
        layer.adapt(x[None])
        value = keras.ops.convert_to_numpy(layer(x[None]))[0]
        return float(np.sqrt(np.mean((value - complete)[np.isnan(x)] ** 2)))

    along = error(LinearInterpolation(axis="depth"))
    # Neither is told which axis it is.
    assert error(LinearInterpolation()) < 1.05 * along
    assert error(Kriging()) < 1.15 * along


@pytest.mark.full
def test_kriging_beats_linear_on_a_field_that_is_alike_all_around() -> None:
    complete = field((12, 16, 16), (2, 2, 2))
    x = np.where(np.random.default_rng(0).random(complete.shape) < 0.4, np.float32(np.nan), complete)
    errors = {}
    for kind in (LinearInterpolation, Kriging):
        layer = kind()
        layer.adapt(x[None])
        errors[kind] = np.square(keras.ops.convert_to_numpy(layer(x[None]))[0] - complete)[np.isnan(x)].mean()
    assert errors[Kriging] < 0.95 * errors[LinearInterpolation]


def two(shape: tuple[int, int, int], alike: float, seed: int = 0) -> np.ndarray:
    """Two fields of one structure that correlate, in units and about means of their own, `(D, H, W, 2)`."""
    a, own = (field(shape, (0.7, 1.5, 1.5), seed + i) - 5 for i in (0, 50))
    b = alike * a + np.sqrt(1 - alike**2) * own
    return np.concatenate([3 + a, 40 - 10 * b], axis=-1).astype(np.float32)


def apart(complete: np.ndarray, seed: int = 1) -> np.ndarray:
    """Gaps of each channel by itself: single voxels and a block."""
    x = np.where(np.random.default_rng(seed).random(complete.shape) < 0.15, np.float32(np.nan), complete)
    x[:, 3:8, 4:9, 0] = np.nan
    x[:, 9:14, 10:14, 1] = np.nan
    return x


def cokriged(
    known: structure.Structure, alike: float, near: list[tuple[np.ndarray, float, float]], here: float
) -> tuple[float, float]:
    """Prediction and variance of the whole system of co-kriging: both channels at neighbours, the other one here."""
    offsets = np.array([*(offset for offset, _, _ in near), np.zeros(3)])
    spatial = structure.covariance(offsets[:, None] - offsets[None], known.lengths, known.weights)
    spatial += known.nugget * np.eye(len(offsets))
    joint = np.kron([[1, alike], [alike, 1]], spatial)
    wanted = len(near)
    data = np.delete(np.arange(len(joint)), wanted)
    values = np.array([*(a for _, a, _ in near), *(b for _, _, b in near), here])
    weights = np.linalg.solve(joint[np.ix_(data, data)], joint[data, wanted])
    return float(weights @ values), float(joint[wanted, wanted] - weights @ joint[data, wanted])


def test_other_channels_are_used_as_the_whole_system_of_cokriging_does() -> None:
    x = two((4, 12, 13), 0.8)
    x[..., 0] = apart(x)[..., 0]  # the other one is observed everywhere
    known, alike = structure.learn([x]), -0.8
    each = np.float32([[0, alike], [alike, 0]])
    layer = Kriging()
    layer.build((None, *x.shape))
    learnt = (known.reach, known.lengths, known.weights, known.nugget, each, each**2)
    for name, one in zip(
        ("reach", "lengths", "variances", "nugget", "across", "shares"), learnt, strict=True
    ):
        getattr(layer, name).assign(one)
    standard = ((x - known.mean) / known.spread).astype(np.float32)
    value, variance = layer._tried(standard[None], None)
    # Neighbours are those at which the channel itself is observed.
    seen = np.where(np.isnan(standard[..., :1]), np.float32(np.nan), standard)
    mean, share = structure.local_mean(seen, known.reach)
    rest = seen - mean
    for at in map(tuple, np.argwhere(np.isnan(x[..., 0]))[::9]):
        near = [
            (offset, own, float(rest[tuple(np.add(at, offset).astype(int))][1]))
            for offset, own in neighbours(rest[..., 0], at)
        ]
        step, left = cokriged(known, alike, near, standard[at][1] - mean[at][1])
        assert value[0][at][0] == pytest.approx(mean[at][0] + step, abs=1e-4)
        left = left * share[at][0] + (1 - alike**2) * (1 - share[at][0])
        assert variance[0][at][0] == pytest.approx(left, rel=1e-3)


def hidden_error(layer: Kriging, x: np.ndarray, complete: np.ndarray) -> tuple[np.ndarray, float]:
    """Errors of each channel, and the share of them within a deviation."""
    layer.adapt(x[None])
    value, deviation = (one[0] for one in arrays(layer, x[None]))
    off = np.where(np.isnan(x), value - complete, np.float32(np.nan))
    inside = np.abs(off)[np.isnan(x)] < deviation[np.isnan(x)]
    return np.sqrt(np.nanmean(off**2, axis=(0, 1, 2))), float(inside.mean())


def test_channels_that_correlate_help_each_other_where_they_are_missing_apart() -> None:
    complete = two((4, 16, 16), 0.9)
    x = apart(complete)
    alone, _ = hidden_error(Kriging(learns_across=False), x, complete)
    layer = Kriging()
    error, inside = hidden_error(layer, x, complete)
    assert (error < 0.7 * alone).all()
    assert 0.6 < inside < 0.8
    field = layer.surroundings()
    assert field.across is not None
    assert_array_equal(field.across.weights, np.asarray(layer.across))


@pytest.mark.full
def test_channels_of_files_help_each_other_where_they_are_missing_apart() -> None:
    complete = two((8, 24, 24), 0.9)
    x = apart(complete)
    known = structure.learn([x])
    off = {}
    for learns in (False, True):
        field = Surroundings.learn([x], learns_across=learns)
        ((_, value, deviation),) = field.fill(x)
        error = np.abs(value - complete)[np.isnan(x)]
        off[learns] = np.sqrt(np.mean(np.square(np.where(np.isnan(x), value - complete, 0) / known.spread)))
        assert 0.58 < np.mean(error < deviation[np.isnan(x)]) < 0.8
    assert off[True] < 0.6 * off[False]
    # Draws of both where both are missing go together as errors did from which it was learnt: less than is planted,
    # since each channel was kriged from voxels of its own.
    x[2:4] = np.nan
    value, deviation = field.standard(x, np.isnan(x))
    draws = np.stack([(one - known.mean) / known.spread for one in conditional(field, x, default_rng(0), 20)])
    left = ((draws - value) / np.maximum(deviation, 1e-9))[:, 2:4].reshape(-1, 2)
    assert field.across is not None
    assert np.corrcoef(left.T)[0, 1] == pytest.approx(-float(field.across.precision[0, 1]), abs=0.05)
    assert -0.95 < np.corrcoef(left.T)[0, 1] < -0.6
    assert_allclose(left.std(axis=0), 1, atol=0.1)


@pytest.mark.full
def test_channels_that_say_nothing_of_each_other_are_left_to_themselves() -> None:
    def together(complete: np.ndarray) -> np.ndarray:
        return np.where(np.isnan(apart(complete)[..., :1]), np.nan, complete)

    for alike, gaps in ((0.0, apart), (0.9, together)):
        x = np.float32(gaps(two((5, 18, 18), alike)))
        layer = Kriging()
        layer.adapt(x[None])
        assert not np.asarray(layer.across).any()
        assert Surroundings.learn([x]).across is None
        alone = Kriging(learns_across=False)
        alone.adapt(x[None])
        for one, other in zip(arrays(layer, x[None]), arrays(alone, x[None]), strict=True):
            assert_array_equal(one, other)


@pytest.mark.full
def test_layers_of_before_channels_were_learnt_from_each_other_answer_as_they_did() -> None:
    x = apart(two((2, 6, 7), 0.9))[None]
    for kind in (Kriging, partial(Learned, filters=(2,), steps=0)):
        old = kind(learns_across=False)
        old.adapt(x)
        config = old.get_config()
        del config["learns_across"]
        again = type(old).from_config(config)
        again.build(x.shape)
        again.set_weights(old.get_weights())
        for one, other in zip(arrays(again, x), arrays(old, x), strict=True):
            assert_array_equal(one, other)


def test_a_channel_that_is_wholly_missing_is_told_from_the_others_in_files_as_in_networks() -> None:
    complete = np.stack([two((4, 12, 12), 0.9, seed) for seed in range(1, 9)])
    complete -= complete.mean(axis=(1, 2, 3), keepdims=True) - np.float32([3, 40])
    x = np.stack([apart(one, seed) for seed, one in enumerate(complete)])
    layer = Kriging()
    layer.adapt(x[:6])
    field, mean = layer.surroundings(), np.asarray(layer.mean)
    asked = complete[6:].copy()
    asked[..., 1] = np.nan
    asked[1, 2:, :, :, 0] = np.nan  # there nothing is known of either
    value, deviation = arrays(layer, asked)
    for index, volume in enumerate(asked):
        ((_, own, sure),) = field.fill(volume, mean=mean)
        told = ~np.isnan(volume[..., 0])
        assert_array_equal(field.untold(volume)[..., 1], ~told)
        assert_allclose(own[told, 1], value[index][told, 1], atol=1e-4 * float(layer.spread[1]))
        assert_allclose(sure[told, 1], deviation[index][told, 1], rtol=1e-4)
    off = np.abs(value - complete[6:])[0, ..., 1]
    assert np.sqrt(np.mean(off**2)) < 0.6 * np.sqrt(np.mean(np.square(mean - complete[6])[..., 1]))
    assert 0.5 < np.mean(off < deviation[0, ..., 1]) < 0.85
    # Files of a data set: what the others say nothing of is the mean, and is called so.
    errors = {}
    for learns, kind in ((False, "statistic"), (True, "learned")):
        filled = asked[0].copy()
        made = learn.from_samples("kriging", {"learns_across": learns}, x[:6])(filled, None)
        assert (made.source[..., 1] == learn.SOURCES.index(kind)).all()
        assert (made.source[..., 0] == learn.SOURCES.index("observed")).all()
        assert made.deviation is not None
        off = np.abs(filled - complete[6])[..., 1]
        errors[learns] = np.sqrt(np.mean(off**2))
        assert 0.5 < np.mean(off < made.deviation[..., 1]) < 0.85
        if not learns:
            assert_allclose(filled[..., 1], mean[..., 1], rtol=1e-5)
    assert errors[True] < 0.75 * errors[False]


def test_of_files_a_reach_leaves_what_was_learnt_as_it_is() -> None:
    x = apart(two((4, 16, 16), 0.9))
    whole, near = (Surroundings.learn([x], max_gap=reach) for reach in (None, 1))
    assert near.max_gap == 1
    assert dataclasses.replace(near, max_gap=None).calibration == whole.calibration
    assert near.across is not None
    assert whole.across is not None
    assert_array_equal(near.across.weights, whole.across.weights)
    ((_, value, deviation),) = near.fill(x)
    filled = np.isnan(x) & ~np.isnan(value)
    assert 0.5 < filled.sum() / np.isnan(x).sum() <= 1
    assert (deviation[filled] > 0).all()
