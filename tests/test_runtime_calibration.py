"""Calibration: the temperature of an exhaustive search, probabilities that come true, and few samples."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import log_loss

from voxgap.errors import VoxgapError
from voxgap.promises import Pattern, pattern_of
from voxgap.runtime.calibration import (
    LEAST_SAMPLES,
    Calibration,
    calibrate,
    fit_temperature,
    tempered,
    too_few,
)


def overconfident(n: int = 3000, classes: int = 3, temperature: float = 2.5, seed: int = 0):
    """Probabilities whose logits are too large by `temperature`, and targets drawn from the true ones."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * 1.5
    true = softmax(logits, axis=1)
    targets = np.array([rng.choice(classes, p=p) for p in true])
    return softmax(logits * temperature, axis=1), targets


@pytest.mark.full
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_is_found(temperature: float) -> None:
    p, y = overconfident(temperature=temperature)
    found = fit_temperature(p, y)
    assert found == pytest.approx(temperature, rel=0.1)
    grid = np.exp(np.linspace(np.log(0.1), np.log(10), 301))
    losses = [log_loss(y, softmax(np.log(p) / t, axis=1)) for t in grid]
    assert found == pytest.approx(grid[int(np.argmin(losses))], rel=0.02)


def test_tempering_is_softmax_of_divided_logits() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 3, 4))
    np.testing.assert_allclose(tempered(softmax(logits, -1), 3.0), softmax(logits / 3, -1), atol=1e-12)
    certain = tempered([[1.0, 0.0, 0.0]], 2.0)
    assert np.isfinite(certain).all()
    assert certain.argmax() == 0


@pytest.mark.parametrize("sure", [0.6, 0.9, 0.999, 1 - 1e-9])
@pytest.mark.parametrize("count", [10, 20, 300])
def test_samples_that_are_all_right_make_nothing_certain(count: int, sure: float) -> None:
    y = np.arange(count) % 2
    p = np.where(np.eye(2)[y] > 0, sure, 1 - sure)
    found = fit_temperature(p, y)
    assert 0.25 <= found <= 1
    # The evidence of n samples: not surer than one error in some ten times as many, or than the network was.
    assert tempered(p, found).min() > min(1 - sure, 0.01 / count) * 0.5
    assert bool(calibrate(p, y)) == (count >= LEAST_SAMPLES)


def test_the_prior_is_that_of_a_few_samples() -> None:
    p, y = overconfident(temperature=2.5)
    few, all_of_them = fit_temperature(p[:30], y[:30]), fit_temperature(p, y)
    alone = np.exp(np.linspace(np.log(0.25), np.log(10), 201))
    unaided = alone[int(np.argmin([log_loss(y[:30], tempered(p[:30], t), labels=[0, 1, 2]) for t in alone]))]
    assert abs(np.log(few)) < abs(np.log(unaided))
    assert all_of_them == pytest.approx(2.5, rel=0.1)
    assert 0.25 <= fit_temperature(np.full((50, 2), 0.5), np.arange(50) % 2) <= 10
    wrong = 1 - np.where(np.eye(2)[np.arange(50) % 2] > 0, 0.999, 0.001)
    assert fit_temperature(wrong, np.arange(50) % 2) <= 10


def test_why_there_is_no_calibration_is_said() -> None:
    assert too_few(np.arange(40) % 3) is None
    assert too_few(np.arange(19) % 2) == (
        "no calibrated probabilities: 19 validation volumes; it takes 20 of two classes or more"
    )
    assert "40 validation volumes of one class" in str(too_few(np.zeros(40, int)))
    assert calibrate(np.full((40, 2), 0.5), np.zeros(40, int)) == {}


def test_calibrating_says_what_it_gains() -> None:
    p, y = overconfident()
    found = calibrate(p, y)
    before, after = found["log_loss"]
    assert before == pytest.approx(log_loss(y, p), abs=1e-9)
    assert after < before
    assert found["samples"] == len(y)
    assert "threshold" not in calibrate(*overconfident(classes=2)), "a decision that nobody asked for"
    assert calibrate(np.zeros((0, 3)), []) == {}


@pytest.mark.parametrize(
    ("p", "y"), [(np.ones((3, 2)) / 2, [0, 1]), (np.ones((2, 2)) / 2, [0, 2]), (np.ones(3), [0, 1, 1])]
)
def test_what_does_not_fit_is_refused(p: object, y: object) -> None:
    with pytest.raises(VoxgapError, match="calibration takes"):
        calibrate(p, y)


@pytest.mark.parametrize(
    "data",
    [
        [],
        {"temperature": 0},
        {"temperature": True},
        {"temperature": "1"},
        {"temperature": 1, "threshold": 2},
        3,
    ],
)
def test_a_manifest_with_another_calibration_is_refused(data: object) -> None:
    if not data:
        assert Calibration.of({"calibration": data}, "m") is None
        return
    with pytest.raises(VoxgapError, match="field calibration"):
        Calibration.of({"calibration": data}, "m")


def by_pattern(n: int, temperatures: tuple[float, ...], seed: int = 0):
    """Each pattern as often, and overconfident by a temperature of its own."""
    parts = [overconfident(n, temperature=t, seed=seed + i) for i, t in enumerate(temperatures)]
    patterns = [Pattern((i,), i) for i in range(len(parts)) for _ in range(n)]
    return np.concatenate([p for p, _ in parts]), np.concatenate([y for _, y in parts]), patterns


def test_patterns_have_temperatures_of_their_own_where_that_is_better() -> None:
    p, y, patterns = by_pattern(300, (0.7, 3.0))
    made = calibrate(p, y, patterns)
    manifest = {"calibration": json.loads(json.dumps(made))}
    known = Calibration.of(manifest, "m")
    assert known is not None
    assert known.of_gaps(patterns[0]) == pytest.approx(0.7, rel=0.2)
    assert known.of_gaps(patterns[-1]) == pytest.approx(3.0, rel=0.2)
    assert known.of_gaps(Pattern((5,), 0)) == known.temperature == fit_temperature(p, y)
    assert made["log_loss"][1] < calibrate(p, y)["log_loss"][1]
    volume = np.zeros((4, 4, 4, 3))
    volume[..., 0] = np.nan
    assert known.of_input(volume) == known.of_gaps(patterns[0])
    volume[:1, ..., 1] = np.nan
    assert pattern_of(volume) == Pattern((0,), 1)
    assert known.of_input(volume) == known.temperature
    for damaged in ([{"missing": [0]}], [{"missing": [0], "rate": 0, "temperature": -1, "samples": 3}], 3):
        manifest["calibration"]["patterns"] = damaged
        with pytest.raises(VoxgapError, match=r"calibration\.patterns"):
            Calibration.of(manifest, "m")


def test_where_patterns_are_alike_one_temperature_serves_all() -> None:
    own = sum("patterns" in calibrate(*by_pattern(60, (1.5, 1.5), 10 * seed)) for seed in range(6))
    assert own <= 2


def test_a_rare_pattern_is_near_to_the_common_temperature() -> None:
    """One sample that was wrong at great sureness says little."""
    p, y, patterns = by_pattern(300, (0.7, 3.0))
    sure = np.array([[0.98, 0.01, 0.01]])
    made = calibrate(np.concatenate([p, sure]), [*y, 2], [*patterns, Pattern((), 0)])
    rare = next(one for one in made["patterns"] if one["samples"] == 1)
    assert 1 < rare["temperature"] / made["temperature"] < 2.5
