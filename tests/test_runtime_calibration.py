"""Calibration: the temperature and the threshold of an exhaustive search, and probabilities that come true."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import log_loss, roc_curve

from voxgap.errors import VoxgapError
from voxgap.runtime.calibration import Calibration, calibrate, fit_temperature, tempered, youden_threshold


def overconfident(n: int = 3000, classes: int = 3, temperature: float = 2.5, seed: int = 0):
    """Probabilities whose logits are too large by `temperature`, and targets drawn from the true ones."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * 1.5
    true = softmax(logits, axis=1)
    targets = np.array([rng.choice(classes, p=p) for p in true])
    return softmax(logits * temperature, axis=1), targets


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


def test_the_threshold_is_youdens() -> None:
    rng = np.random.default_rng(1)
    y = rng.random(500) < 0.2
    scores = np.clip(rng.normal(0.2 + 0.2 * y, 0.1), 0, 1)
    cut = youden_threshold(scores, y.astype(int))
    assert cut is not None
    index = (scores[y] >= cut).mean() + (scores[~y] < cut).mean()
    fpr, tpr, _ = roc_curve(y, scores)
    assert index == pytest.approx(1 + (tpr - fpr).max(), abs=1e-12)
    assert youden_threshold(scores, np.zeros(500, int)) is None
    # Of equally good cuts the one nearest to a half.
    assert youden_threshold([0.1, 0.9], [0, 1]) == pytest.approx(0.5)


def test_calibrating_says_what_it_gains() -> None:
    p, y = overconfident()
    found = calibrate(p, y)
    before, after = found["log_loss"]
    assert before == pytest.approx(log_loss(y, p), abs=1e-9)
    assert after < before
    assert found["threshold"] is None
    assert found["samples"] == len(y)
    binary, targets = overconfident(classes=2)
    assert 0 < calibrate(binary, targets)["threshold"] < 1
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
