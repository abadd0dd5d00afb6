"""Draws of what gaps may hide: as likely as kriging says, and pooled into an answer that knows its doubts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import server_cases as cases
import stand_in
import tiny
from voxgap.bundle import save_bundle
from voxgap.errors import VoxgapError
from voxgap.fill.across import Across
from voxgap.fill.around import Surroundings
from voxgap.fill.base import filling
from voxgap.fill.simulation import conditional, unconditional
from voxgap.fill.structure import Structure
from voxgap.models import build_model
from voxgap.recipe import Strategy
from voxgap.runtime import Bundle, Predictor, load
from voxgap.runtime.draws import pooled
from voxgap.runtime.job import Wanted, columns_of, row_of
from voxgap.training import adapt_model

LEARNT = Structure(
    mean=np.array([5.0], np.float32),
    spread=np.array([2.0], np.float32),
    reach=np.array([1.0, 2.0, 3.0], np.float32),
    lengths=np.array([[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]], np.float32),
    weights=np.array([0.6, 0.3], np.float32),
    nugget=0.1,
)


def test_fields_have_the_covariance_that_they_are_drawn_with() -> None:
    shape, rng = (8, 9, 10, 200), np.random.default_rng(0)
    drawn = unconditional(LEARNT, shape, rng).astype(float)
    assert drawn.var() == pytest.approx(1.0, abs=0.03)
    for lag in ((1, 0, 0), (0, 2, 0), (0, 0, 3), (1, 1, 1), (3, 0, 0)):
        a = drawn[tuple(slice(None, n - step) for n, step in zip(shape[:3], lag, strict=True))]
        b = drawn[tuple(slice(step, None) for step in lag)]
        expected = sum(
            weight * np.exp(-np.sqrt(sum((step / length) ** 2 for step, length in zip(lag, lengths, strict=True))))
            for weight, lengths in zip(LEARNT.weights, LEARNT.lengths, strict=True)
        )  # fmt: skip
        assert np.mean(a * b) == pytest.approx(expected, abs=0.03), lag


def gappy() -> np.ndarray:
    values = 5 + 2 * unconditional(LEARNT, (6, 7, 8, 1), np.random.default_rng(1))
    values[2:4] = np.nan
    values[np.random.default_rng(2).random(values.shape) < 0.3] = np.nan
    return values


@pytest.mark.full
def test_draws_have_the_mean_and_the_deviation_of_kriging_and_hold_what_is_observed() -> None:
    values, field = gappy(), Surroundings(LEARNT, (1.3, 0.9))
    draws = np.stack(list(conditional(field, values, np.random.default_rng(3), 200)))
    ((_, value, deviation),) = field.fill(values.copy())
    gaps = np.isnan(values)
    assert (draws[:, ~gaps] == values[~gaps]).all()
    # Mean and deviation of 200 draws are off by 7 and 5 % of the deviation, at most of these gaps four times so.
    np.testing.assert_allclose((draws.mean(0) - value)[gaps] / deviation[gaps], 0, atol=0.3)
    np.testing.assert_allclose(draws.std(0, ddof=1)[gaps] / deviation[gaps], 1, atol=0.22)
    assert np.mean(draws.std(0, ddof=1)[gaps] / deviation[gaps]) == pytest.approx(1, abs=0.03)
    again = list(conditional(field, values, np.random.default_rng(3), 2))
    np.testing.assert_array_equal(again, draws[:2])


def test_gaps_that_lie_side_by_side_are_drawn_alike() -> None:
    values = np.full((1, 12, 1, 1), np.nan, np.float32)
    values[0, 0] = 5.0
    smooth = dataclasses.replace(LEARNT, lengths=np.full((2, 3), 4.0, np.float32), nugget=0.001)
    found = conditional(Surroundings(smooth), values, np.random.default_rng(0), 300)
    draws = np.stack(list(found))[:, 0, 1:, 0, 0]
    found = np.corrcoef(draws[:, 6], draws[:, 7])[0, 1]
    assert found > 0.6
    assert found > np.corrcoef(draws[:, 3], draws[:, 10])[0, 1] + 0.2


def of_correlation(alike: np.ndarray) -> Across:
    """What channels of a correlation say of each other, where all of it holds."""
    inverse = np.linalg.inv(alike)
    weights = np.eye(len(alike)) - inverse / np.diag(inverse)[:, None]
    return Across(np.float32(weights), np.zeros(alike.shape, np.float32))


def test_what_channels_say_of_each_other_is_their_correlation() -> None:
    rows = np.random.default_rng(0).normal(size=(4, 9))
    alike = np.corrcoef(rows)
    found = np.linalg.inv(of_correlation(alike).precision)
    scale = np.sqrt(np.diag(found))
    np.testing.assert_allclose(found / np.outer(scale, scale), alike, atol=1e-4)


def test_what_pairs_of_channels_say_may_be_too_much_together() -> None:
    weights = np.float32(0.9 * (1 - np.eye(3)))  # no three channels can be so much alike that nothing else is
    assert np.linalg.eigvalsh(np.eye(3) - weights)[0] < 0
    assert np.linalg.eigvalsh(Across(weights, np.zeros((3, 3), np.float32)).precision)[0] > 0


def test_channels_that_are_missing_together_are_drawn_as_they_go_together() -> None:
    alike = np.array([[1, 0.8, -0.5], [0.8, 1, -0.2], [-0.5, -0.2, 1]])
    three = dataclasses.replace(LEARNT, mean=np.zeros(3, np.float32), spread=np.float32([1, 2, 5]))
    field = Surroundings(three, across=of_correlation(alike))
    values = unconditional(three, (5, 6, 7, 3), np.random.default_rng(0)) * three.spread
    values[1:3] = np.nan  # of all, and of the first two
    values[4, ..., :2] = np.nan
    gaps = np.isnan(values)
    value, deviation = field.standard(values, gaps)
    draws = np.stack(list(conditional(field, values, np.random.default_rng(1), 150))) / three.spread
    off = (draws - value)[:, gaps.any(-1)] / np.maximum(deviation[gaps.any(-1)], 1e-9)
    everything = gaps.all(-1)[gaps.any(-1)]
    np.testing.assert_allclose(np.corrcoef(off[:, everything].reshape(-1, 3).T), alike, atol=0.04)
    # Where the third is observed, that much less is open of what the first two have in common with it.
    left = alike[:2, :2] - np.outer(alike[:2, 2], alike[:2, 2])
    partial = left[0, 1] / np.sqrt(left[0, 0] * left[1, 1])
    assert np.corrcoef(off[:, ~everything].reshape(-1, 3)[:, :2].T)[0, 1] == pytest.approx(partial, abs=0.04)
    np.testing.assert_allclose(off[:, everything].std((0, 1)), 1, atol=0.04)
    np.testing.assert_allclose(off[:, ~everything].std((0, 1))[:2], 1, atol=0.04)


def test_rubins_rule_of_a_linear_network_is_its_closed_form() -> None:
    values = np.full((1, 3, 4, 1), np.nan, np.float32)
    values[0, [0, 1, 2], [0, 2, 3], 0] = (4.0, 7.0, 6.0)
    gaps = np.isnan(values)[..., 0].ravel()
    places = np.argwhere(np.ones(values.shape[:3])).astype(float)
    apart = (places[:, None] - places[None])[..., None, :] / LEARNT.lengths
    covariance = (np.exp(-np.sqrt((apart**2).sum(-1))) * LEARNT.weights).sum(-1) + 0.1 * np.eye(12)
    solved = np.linalg.solve(covariance[np.ix_(~gaps, ~gaps)], covariance[np.ix_(~gaps, gaps)])
    left = covariance[np.ix_(gaps, gaps)] - covariance[np.ix_(gaps, ~gaps)] @ solved
    field = Surroundings(LEARNT)
    ((_, _, deviation),) = field.fill(values.copy())
    scale = deviation[..., 0].ravel()[gaps] / np.sqrt(np.diag(left))  # to the deviation that is stated
    network = np.random.default_rng(5).normal(size=12)
    weights = network[gaps] * scale
    m = 600
    draws = conditional(field, values, np.random.default_rng(6), m)
    mean, total = pooled(np.array([network @ draw.ravel()]) for draw in draws)
    assert total[0] == pytest.approx(np.sqrt((1 + 1 / m) * weights @ left @ weights), rel=0.1)
    ((_, value, _),) = field.fill(values.copy())
    filled = np.where(np.isnan(values), value, values).ravel()
    assert mean[0] == pytest.approx(network @ filled, abs=4 * total[0] / np.sqrt(m))


def test_pooling_follows_rubin() -> None:
    answers = np.random.default_rng(0).normal(size=(7, 2, 3)).astype(np.float32)
    found = pooled(iter(answers))
    np.testing.assert_allclose(found.values, answers.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.fill_deviation, np.sqrt((1 + 1 / 7) * answers.var(0, ddof=1)), rtol=1e-5)


class Known:
    """Draws that are known: gaps hold 0, 1, 2, ... in turn, and an answer is the mean of a volume, and 1."""

    def completed(self, volume: np.ndarray, draws: int, seed: int) -> Iterator[np.ndarray]:
        for index in range(draws):
            whole = np.where(np.isnan(volume), np.float32(index + seed), volume)
            yield np.concatenate([volume, whole], axis=-1)

    def run(self, both: np.ndarray) -> np.ndarray:
        mean = both[..., both.shape[-1] // 2 :].mean(axis=(1, 2, 3, 4))
        return np.stack([mean, np.ones_like(mean)], axis=1)


def known(predictor: Predictor) -> Predictor:
    predictor._drawing = Known()
    return predictor


def test_an_answer_says_what_the_fill_leaves_open() -> None:
    manifest = stand_in.manifest([], task="regression", outputs=2)
    predictor = known(Predictor(manifest, lambda batch: np.zeros((len(batch), 2), np.float32)))
    x = np.zeros((2, *tiny.SHAPE), np.float32)
    x[1, :2] = np.nan
    found = predictor.predict(x, draws=5)
    np.testing.assert_allclose(found.values, [[0, 0], [2 / 4, 1]])
    np.testing.assert_allclose(found.fill_deviation, [[0, 0], [np.sqrt(1.2 * 2.5) / 4, 0]])
    answer = predictor.answer(x[1], draws=5, seed=3)
    np.testing.assert_allclose(answer.values, [5 / 4, 1])
    # Of a deeper volume that of its windows, of which one lies in the gap and two see half of it or nothing.
    deep = np.concatenate([x[1], x[0]])
    assert predictor.answer(deep, draws=5).fill_deviation[0] < found.fill_deviation[1, 0]
    wanted = Wanted(draws=5)
    row = row_of(predictor, "a.nii", answer, wanted)
    assert row["fill_sd_value_0"] == pytest.approx(np.sqrt(3) / 4)
    assert {"fill_sd_value_0", "fill_sd_value_1"} <= set(columns_of(predictor, wanted))
    assert predictor.answer(x[1]).fill_deviation is None


def test_a_server_says_it_too(tmp_path: Path) -> None:
    values = cases.volume() / 1000
    with cases.client(cases.make_bundle(tmp_path / "lamp")) as server:
        known(server.app.state.service.live.current.predictor)
        (said,) = cases.predictions(server.post("/v1/predict?draws=4", **cases.raw(values)))
        assert said["fill_deviation"]["bright"] == 0
        assert said["fill_deviation"]["dim"] == pytest.approx(np.sqrt(1.25 * 5 / 3) / 4)
        (plain,) = cases.predictions(server.post("/v1/predict", **cases.raw(values)))
        assert "fill_deviation" not in plain


def bundle(folder: Path, strategy: Strategy, **arguments: Any) -> Path:
    data = tiny.dataset()
    model = build_model("cnn3d", tiny.SHAPE, 3, strategy=strategy, filters=(4,), **arguments)
    adapt_model(model, data.part("train"))
    return save_bundle(folder, model, data, strategy=strategy)


@pytest.mark.full
@pytest.mark.parametrize(
    ("strategy", "arguments"),
    [
        (Strategy("kriging"), {}),
        (Strategy("kriging", conv="gated"), {}),
        (Strategy("kriging", mask_channel=True), {"normalize": "volume"}),
        (Strategy({"0": "kriging"}), {"normalize": "percentile"}),
    ],
)
def test_a_bundle_answers_draws(strategy: Strategy, arguments: dict, tmp_path: Path) -> None:
    predictor = load(bundle(tmp_path / "b", strategy, **arguments))
    x = tiny.volumes(3, seed=4)
    x[0] = np.nan_to_num(x[0])
    x[1, 2:4], x[2, 5] = np.nan, np.nan
    found = predictor.predict(x, draws=8, seed=1)
    np.testing.assert_allclose(found.values[0], predictor.predict(x[:1])[0], atol=1e-6)
    assert (found.fill_deviation[0] == 0).all()
    assert (found.fill_deviation[1:] > 0).all()
    np.testing.assert_allclose(found.values.sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(predictor.predict(x[2], draws=8, seed=1).values[0], found.values[2])
    assert (predictor.predict(x[2], draws=8, seed=2).values != found.values[2:]).any()
    # Given the model's own fill in place of a draw, what follows answers as the model does: it sees the gaps.
    filled = filling(Bundle.open(tmp_path / "b").keras_model()).predict_on_batch(x)
    np.testing.assert_allclose(
        predictor.check_draws(8).run(np.concatenate([x, filled], -1)), predictor.predict(x), atol=1e-5
    )
    deep = np.concatenate([x[1], x[2]])
    whole = predictor.answer(deep, draws=3)
    assert whole.windows > 1
    assert whole.fill_deviation is not None
    assert whole.to_json()["fill_deviation"] == whole.fill_deviation.tolist()


@pytest.mark.full
def test_a_fill_without_a_deviation_is_refused(tmp_path: Path) -> None:
    predictor = load(bundle(tmp_path / "b", Strategy("linear")))
    with pytest.raises(
        VoxgapError, match="its fill, linear, says no deviation that draws could have"
    ) as caught:
        predictor.predict(tiny.volumes(1), draws=5)
    assert "\n" not in str(caught.value)
    masked = load(bundle(tmp_path / "masked", Strategy("kriging", conv="masked")))
    with pytest.raises(VoxgapError, match="nothing depends on what fills them: no draws"):
        masked.predict(tiny.volumes(1), draws=5)
    for draws in (0, 1, 1001, True):
        with pytest.raises(VoxgapError, match="draws must be a whole number from 2 to 1000"):
            predictor.predict(tiny.volumes(1), draws=draws)
