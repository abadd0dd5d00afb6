"""Intervals of scores: against SciPy's bootstrap, for groups, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from voxgap import metrics
from voxgap.errors import VoxgapError


def answers(n: int, right: float = 0.8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Targets, and probabilities that are right that often."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    sure = rng.uniform(0.5, 1, n)
    p = np.where(rng.random(n) < right, sure, 1 - sure)
    return y, np.where(np.eye(2)[y] > 0, p[:, None], 1 - p[:, None])


def test_an_interval_is_the_percentile_bootstraps() -> None:
    y, p = answers(120)
    found = metrics.scored("classification", y, p)
    right = (p.argmax(1) == y).astype(float)
    peer = stats.bootstrap((right,), np.mean, method="percentile", n_resamples=5000, random_state=0)
    assert found.intervals["accuracy"] == pytest.approx(tuple(peer.confidence_interval), abs=0.015)
    assert found.scores == metrics.scores("classification", y, p)
    assert (found.n, found.groups, found.words) == (120, None, "n = 120")
    for name, (low, high) in found.intervals.items():
        assert low <= high
        if name != "calibration_error":  # which other draws make larger: it is biased upwards
            assert low <= found.scores[name] <= high, name
    again = metrics.scored("regression", y[:20], p[:20, 1])
    assert again == metrics.scored("regression", y[:20], p[:20, 1])
    assert again.intervals != metrics.scored("regression", y[:20], p[:20, 1], seed=1).intervals


def test_samples_of_one_group_are_drawn_together() -> None:
    y, p = answers(20)
    many = metrics.scored(
        "classification", np.repeat(y, 9), np.repeat(p, 9, 0), groups=np.repeat(np.arange(20), 9)
    )
    alone = metrics.scored("classification", y, p)
    assert many.scores["accuracy"] == pytest.approx(alone.scores["accuracy"])
    assert many.intervals["accuracy"] == pytest.approx(alone.intervals["accuracy"], abs=1e-9)
    assert (many.n, many.groups, many.words) == (180, 20, "n = 180, 20 groups")
    assert np.ptp(many.intervals["accuracy"]) > 1.3 * np.ptp(
        metrics.scored("classification", *answers(180)).intervals["accuracy"]
    )
    assert metrics.scored("classification", y, p, groups=["one"] * 20).intervals == {}
    mixed = metrics.scored("classification", y, p, groups=["a", 1, b"c", 2.5] * 5)
    assert (
        mixed.intervals == metrics.scored("classification", y, p, groups=["2", "0", "3", "1"] * 5).intervals
    )
    for unnamed in (None, np.nan):
        with pytest.raises(VoxgapError, match="groups: sample 1 has none; name one for each"):
            metrics.scored("classification", y, p, groups=["a", unnamed] * 10)
    with pytest.raises(VoxgapError, match="3 groups for 20 samples"):
        metrics.scored("classification", y, p, groups=["a", "b", "c"])


def test_answers_that_are_all_right_are_not_certain() -> None:
    y = np.arange(12) % 2
    found = metrics.scored("classification", y, np.eye(2)[y] * 0.8 + 0.1)
    low, high = found.intervals["accuracy"]
    assert high == pytest.approx(1.0)
    assert low == pytest.approx(stats.binomtest(12, 12).proportion_ci(method="wilson").low, abs=1e-6)
    assert "auc" not in found.intervals
    # A score that is not defined has no interval, and nothing is said of it but that.
    one_class = metrics.scored("classification", np.zeros(9, int), answers(9)[1])
    assert np.isnan(one_class.scores["auc"])
    assert "auc" not in one_class.intervals


def test_what_has_no_interval_says_why() -> None:
    y = np.arange(12) % 2
    right = metrics.scored("classification", y, np.eye(2)[y] * 0.8 + 0.1)
    assert set(right.reasons) == set(right.scores) - set(right.intervals)
    (said,) = metrics.without_interval(right.reasons)
    assert said.startswith("no interval for balanced accuracy, auc, macro f1, ")
    assert "the same in every draw" in said
    alone = metrics.scored("classification", y, answers(12)[1][:, :2], groups=["one"] * 12)
    assert metrics.without_interval(alone.reasons)[0].endswith("from one group alone")
    maps = (np.indices((6, 2, 2, 2))[0] == 0).astype(int) * 2  # one of six has the class at all
    rare = metrics.scored("segmentation", maps, np.eye(3)[maps])
    assert any(
        "dice of tumour" in line and "many draws" in line
        for line in metrics.without_interval(rare.reasons, ("back", "brain", "tumour"))
    )
    assert not any(
        "brain" in line for line in metrics.without_interval(rare.reasons, ("back", "brain", "tumour"))
    )
    assert right.to_json()["reasons"] == right.reasons


@pytest.mark.full
def test_what_is_the_same_in_all_draws_has_no_interval_but_that_of_answers_that_all_agree() -> None:
    y = np.tile([0, 1], 6)
    wrong = metrics.scored("classification", y, np.eye(2)[1 - y]).intervals["accuracy"]
    peer = stats.binomtest(0, 12).proportion_ci(method="wilson")
    assert wrong == pytest.approx((peer.low, peer.high), abs=1e-6)
    pairs = np.repeat(np.arange(6), 2)
    of_groups = metrics.scored("classification", y, np.eye(2)[y], groups=pairs).intervals["accuracy"]
    assert of_groups[0] == pytest.approx(stats.binomtest(6, 6).proportion_ci(method="wilson").low, abs=1e-6)
    # Each group is right once in two: the groups agree, and no group is a trial that was won or lost.
    half = metrics.scored("classification", y, np.tile([[1.0, 0.0]], (12, 1)), groups=pairs)
    assert half.scores["accuracy"] == 0.5
    assert "accuracy" not in half.intervals
    maps = np.zeros((6, 2, 2, 2), int)
    maps[:, 0] = 1
    for answers_of_maps in (np.eye(2)[np.zeros_like(maps)], np.eye(2)[maps]):
        assert metrics.scored("segmentation", maps, answers_of_maps).intervals == {}


def test_maps_and_numbers_have_intervals_too() -> None:
    rng = np.random.default_rng(0)
    maps = rng.integers(-1, 3, (8, 3, 4, 5)).astype(np.int16)
    p = rng.dirichlet(np.ones(3), maps.shape)
    observed = rng.random((*maps.shape, 1)) < 0.7
    found = metrics.scored("segmentation", maps, p, observed=observed)
    assert found.scores == metrics.scores("segmentation", maps, p, observed=observed)
    assert set(found.intervals) == set(found.scores)
    draws = np.random.default_rng(0).integers(0, 8, (1000, 8))
    dice = [metrics.scores("segmentation", maps[d], p[d])["dice"] for d in draws[:60]]
    assert found.intervals["dice"][0] < np.median(dice) < found.intervals["dice"][1]
    y = rng.normal(size=50)
    numbers = metrics.scored("regression", y, y + 0.3 * rng.normal(size=50))
    peer = stats.bootstrap((np.abs(rng.normal(size=50)) * 0.3,), np.mean, random_state=0).confidence_interval
    assert np.ptp(numbers.intervals["mae"]) == pytest.approx(peer.high - peer.low, rel=0.5)


@pytest.mark.full
def test_the_truth_lies_within_as_often_as_said() -> None:
    held = [
        low <= 0.8 <= high
        for seed in range(200)
        for low, high in [metrics.scored("classification", *answers(60, 0.8, seed)).intervals["accuracy"]]
    ]
    assert 0.9 <= np.mean(held) <= 0.99


def test_a_threshold_decides_what_is_scored() -> None:
    y, p = answers(200)
    found = metrics.scores("classification", y, p, threshold=0.9)
    named = (p[:, 1] >= 0.9).astype(int)
    assert found["accuracy"] == (named == y).mean() == metrics.accuracy(y, p, 0.9)
    assert found["balanced_accuracy"] == metrics.balanced_accuracy(y, p, 0.9)
    assert found["macro_f1"] == metrics.macro_f1(y, p, 0.9)
    assert metrics.confusion_matrix(y, p, 0.9)[0, 1] == ((y == 0) & (named == 1)).sum()
    for name in ("auc", "log_loss", "brier", "calibration_error"):
        assert found[name] == metrics.scores("classification", y, p)[name]
    maps, q = y.reshape(2, 4, 5, 5), p.reshape(2, 4, 5, 5, 2)
    both = ((q[..., 1] >= 0.3) & (maps == 1)).sum()
    expected = 2 * both / ((q[..., 1] >= 0.3).sum() + (maps == 1).sum())
    assert metrics.scores("segmentation", maps, q, threshold=0.3)["dice_1"] == pytest.approx(expected)
    assert metrics.dice(maps, q, 0.3)[1] == pytest.approx(expected)
    assert metrics.iou(maps, q, 0.3)[1] == pytest.approx(expected / (2 - expected))
