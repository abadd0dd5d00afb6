"""Intervals and tests against scikit-learn's worked example, baycomp, SciPy and simulated experiments."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import make_moons
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
from sklearn.svm import SVC

from voxgap.errors import VoxgapError
from voxgap.metrics.significance import (
    bayesian_t_test,
    corrected_t_test,
    estimate,
    further_splits,
    holm,
    power_to_show,
)

# Accuracies of two classifiers, 5 folds under 3 shufflings.
FIRST = np.array(
    [
        *(0.891, 0.833, 0.885, 0.79, 0.832),
        *(0.852, 0.893, 0.795, 0.89, 0.809),
        *(0.811, 0.886, 0.887, 0.858, 0.832),
    ]
)
SECOND = np.array(
    [
        *(0.837, 0.779, 0.906, 0.776, 0.815),
        *(0.827, 0.873, 0.789, 0.863, 0.809),
        *(0.792, 0.854, 0.892, 0.836, 0.831),
    ]
)


def correlated(rng: np.random.Generator, shape: tuple[int, ...], ratio: float) -> np.ndarray:
    """Normal differences of spread 1 whose splits, the last axis, correlate as the correction supposes."""
    shared = np.sqrt(ratio) * rng.normal(size=(*shape[:-1], 1))
    return shared + rng.normal(size=shape)


def cross_validated(
    rng: np.random.Generator, signals: tuple[float, float], folds: int, repeats: int, samples: int = 100
) -> np.ndarray:
    """Differences in accuracy of nearest-centroid classifiers, each on features of its own, on fresh data."""
    classes = np.arange(samples) % 2
    features = rng.normal(size=(2, samples, 6))
    features += np.multiply.outer(signals, 2 * classes - 1)[..., None]
    differences = []
    for _ in range(repeats):
        fold = np.empty(samples, int)
        for label in (0, 1):
            fold[rng.permutation(np.flatnonzero(classes == label))] = np.arange(samples // 2) % folds
        for tested in range(folds):
            train, test = fold != tested, fold == tested
            right = []
            for values in features:
                low, high = (values[train & (classes == label)].mean(axis=0) for label in (0, 1))
                predicted = (values[test] - (low + high) / 2) @ (high - low) > 0
                right.append((predicted == classes[test]).mean())
            differences.append(right[0] - right[1])
    return np.array(differences)


def rate_bounds(rate: float, repetitions: int) -> tuple[float, float]:
    """Where a share of repetitions falls, all but once in a thousand times, if `rate` is true."""
    low, high = stats.binom.interval(0.999, repetitions, rate)
    return low / repetitions, high / repetitions


@pytest.fixture(scope="module")
def moons() -> dict[str, np.ndarray]:
    """Scores of scikit-learn's example 'Statistical comparison of models using grid search'."""
    x, y = make_moons(noise=0.352, random_state=1, n_samples=100)
    splits = RepeatedStratifiedKFold(n_splits=10, n_repeats=10, random_state=0)
    models = {"rbf": {"kernel": "rbf"}, "linear": {"kernel": "linear"}, "3_poly": {"kernel": "poly"}}
    return {
        name: cross_val_score(SVC(random_state=0, **kind), x, y, scoring="roc_auc", cv=splits)
        for name, kind in models.items()
    }


def test_the_example_of_scikit_learn_is_reproduced(moons: dict[str, np.ndarray]) -> None:
    # Printed on scikit-learn.org, auto_examples/model_selection/plot_grid_search_stats (1.3): corrected t 0.750,
    # one-sided p 0.227; uncorrected 2.611 and 0.005; in its text the intervals and probabilities.
    differences = moons["rbf"] - moons["linear"]
    corrected = corrected_t_test(differences, 90, 10, "greater")
    assert corrected == pytest.approx((0.750, 0.227, 99), abs=5e-4)
    assert corrected_t_test(differences, 90, 0, "greater") == pytest.approx((2.611, 0.005, 99), abs=5e-4)
    mean = estimate(differences, 90, 10)
    assert mean.interval(0.50) == pytest.approx((0.000977, 0.019023), abs=5e-7)
    assert mean.interval(0.75) == pytest.approx((-0.005422, 0.025422), abs=5e-7)
    assert mean.interval(0.95) == pytest.approx((-0.016445, 0.036445), abs=5e-7)
    linear, poly = (
        bayesian_t_test(differences, 90, 10),
        bayesian_t_test(moons["rbf"] - moons["3_poly"], 90, 10),
    )
    assert (linear.worse, linear.same) == pytest.approx((0.068, 0.43), abs=5e-3)
    assert (poly.worse, poly.same) == pytest.approx((0.018, 0.10), abs=5e-3)


@pytest.mark.parametrize(
    ("runs", "rope", "better", "same", "worse"),
    [
        (1, 0.01, 0.7224637755207256, 0.18393379682030198, 0.09360242765897242),
        (1, 0.0, 0.8365805643167298, 0, 0.16341943568327022),
        (3, 0.01, 0.743614299275472, 0.24163363483816636, 0.014752065886361687),
        (3, 0.0, 0.9279880130255428, 0, 0.07201198697445721),
        (3, 0.03, 0.14911402857133496, 0.8504190320884565, 0.0004669393402085831),
    ],
)
def test_probabilities_equal_those_of_baycomp(
    runs: int, rope: float, better: float, same: float, worse: float
) -> None:
    # baycomp 1.0.3: two_on_single(FIRST[: 5 * runs], SECOND[: 5 * runs], rope=rope, runs=runs).
    differences = (FIRST - SECOND)[: 5 * runs]
    assert bayesian_t_test(differences, 4, 1, rope) == pytest.approx((worse, same, better), abs=1e-12)


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
@pytest.mark.parametrize("sign", [1, -1])
def test_without_a_shared_part_the_test_is_that_of_scipy(alternative: str, sign: int) -> None:
    differences = sign * (FIRST - SECOND)
    wanted = stats.ttest_1samp(differences, 0, alternative=alternative)
    found = corrected_t_test(differences, 80, 0, alternative)
    assert found == pytest.approx((wanted.statistic, wanted.pvalue, 14))
    interval = stats.ttest_1samp(differences, 0).confidence_interval(0.9)
    assert estimate(differences, 80, 0).interval(0.9) == pytest.approx(tuple(interval))


def test_sizes_may_differ_between_splits() -> None:
    assert estimate(FIRST[:3], [79, 80, 81], [21, 20, 19]) == estimate(FIRST[:3], 80, 20)


def test_seeds_are_averaged_within_their_split() -> None:
    table = FIRST.reshape(5, 3)
    assert estimate(table, 4, 1) == estimate(table.mean(axis=1), 4, 1)
    assert estimate(np.repeat(FIRST[:, None], 10, axis=1), 4, 1) == pytest.approx(estimate(FIRST, 4, 1))


def test_failed_runs_are_left_out() -> None:
    table = np.array([[0.8, np.nan], [np.nan, np.nan], [0.6, 0.8], [np.inf, 0.9]])
    assert estimate(table, 4, 1) == estimate([0.8, 0.7, 0.9], 4, 1)
    assert estimate([None, 0.5, 0.7], 4, 1) == estimate([0.5, 0.7], 4, 1)


def test_too_few_splits_give_nan() -> None:
    for scores, mean in (([0.5], 0.5), ([[0.4, 0.6]], 0.5), ([np.nan, 0.5], 0.5), ([np.nan], np.nan)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = estimate(scores, 4, 1)
            assert found.mean == pytest.approx(mean, nan_ok=True)
            assert np.isnan([found.spread, found.error, *found.interval()]).all()
            assert np.isnan(corrected_t_test(scores, 4, 1).p_value)
            assert np.isnan(bayesian_t_test(scores, 4, 1)).all()


def test_differences_without_spread_are_certain() -> None:
    rounded = np.array([0.3, 0.4, 0.5]) - np.array([0.2, 0.3, 0.4])
    assert np.std(rounded) > 0
    assert corrected_t_test(rounded, 4, 1) == (np.inf, 0, 2)
    assert corrected_t_test(-rounded, 4, 1) == (-np.inf, 0, 2)
    assert corrected_t_test([0, 0, 0], 4, 1) == (0, 1, 2)
    assert bayesian_t_test(rounded, 4, 1) == (0, 0, 1)
    assert bayesian_t_test([0, 0, 0], 4, 1) == (0, 1, 0)
    assert bayesian_t_test([0, 0, 0], 4, 1, rope=0) == (0.5, 0, 0.5)


def test_holm_equals_statsmodels() -> None:
    # statsmodels 0.15.0: multipletests(p, method="holm").
    assert holm([0.01, 0.04, 0.03, 0.005, 0.2, 0.03]) == pytest.approx([0.05, 0.12, 0.12, 0.03, 0.2, 0.12])


@pytest.mark.parametrize("seed", range(5))
def test_holm_rejects_step_by_step_and_ignores_nan(seed: int) -> None:
    p_values = np.random.default_rng(seed).uniform(0, 0.1, 9)
    adjusted = holm([*p_values, np.nan])
    assert np.isnan(adjusted[-1])
    for level in np.linspace(0.001, 0.5, 60):
        passed = np.sort(p_values) <= level / np.arange(9, 0, -1)
        assert (adjusted <= level).sum() == np.logical_and.accumulate(passed).sum()
    assert holm([]).shape == (0,)


@pytest.mark.parametrize("repetitions", [1500, pytest.param(20_000, marks=pytest.mark.full)])
@pytest.mark.parametrize(("splits", "ratio"), [(5, 1 / 4), (3, 1 / 2), (30, 1 / 9)])
def test_false_positives_and_coverage_under_the_model(splits: int, ratio: float, repetitions: int) -> None:
    differences = correlated(np.random.default_rng(splits), (repetitions, splits), ratio)
    low, high = rate_bounds(0.05, repetitions)
    p_values = np.array([corrected_t_test(row, 1, ratio).p_value for row in differences])
    assert low <= (p_values <= 0.05).mean() <= high
    assert stats.kstest(p_values, "uniform").pvalue > 0.001
    chances = np.array([bayesian_t_test(row, 1, ratio, rope=0).better for row in differences])
    assert low <= (chances >= 0.95).mean() <= high
    intervals = np.array([estimate(row, 1, ratio).interval() for row in differences])
    assert low <= ((intervals[:, 0] > 0) | (intervals[:, 1] < 0)).mean() <= high
    # What the correction is for: without it, false alarms are far above their level.
    assert (stats.ttest_1samp(differences, 0, axis=1).pvalue <= 0.05).mean() > 2 * 0.05


@pytest.mark.parametrize("repetitions", [800, pytest.param(10_000, marks=pytest.mark.full)])
def test_seeds_that_share_a_split_raise_no_false_alarms(repetitions: int) -> None:
    rng = np.random.default_rng(3)
    splits = correlated(rng, (repetitions, 5), 1 / 4)
    runs = splits[..., None] + 0.2 * rng.normal(size=(repetitions, 5, 6))
    p_values = np.array([corrected_t_test(table, 4, 1).p_value for table in runs])
    low, high = rate_bounds(0.05, repetitions)
    assert low <= (p_values <= 0.05).mean() <= high
    as_splits = np.array([corrected_t_test(table.ravel(), 4, 1).p_value for table in runs])
    assert (as_splits <= 0.05).mean() > 2 * 0.05


@pytest.mark.parametrize(
    ("folds", "repeats", "repetitions"),
    [
        (5, 1, 300),
        pytest.param(5, 1, 5000, marks=pytest.mark.full),
        pytest.param(5, 6, 1500, marks=pytest.mark.full),
        pytest.param(10, 10, 500, marks=pytest.mark.full),
    ],
)
def test_false_positives_of_equal_learners_in_cross_validation(
    folds: int, repeats: int, repetitions: int
) -> None:
    rng = np.random.default_rng(folds)
    differences = [cross_validated(rng, (0.3, 0.3), folds, repeats) for _ in range(repetitions)]
    p_values = np.array([corrected_t_test(row, folds - 1, 1).p_value for row in differences])
    assert (p_values <= 0.05).mean() <= rate_bounds(0.05, repetitions)[1]
    assert abs(np.mean(differences)) < 0.01
    if repeats > 1:
        uncorrected = stats.ttest_1samp(differences, 0, axis=1).pvalue
        assert (uncorrected <= 0.05).mean() > 0.3


def test_a_better_learner_is_found_in_cross_validation() -> None:
    rng = np.random.default_rng(9)
    rows = [cross_validated(rng, (0.6, 0.2), 5, 4) for _ in range(40)]
    p_values = np.array([corrected_t_test(row, 4, 1, "greater").p_value for row in rows])
    assert (p_values <= 0.05).mean() > 0.9


@pytest.mark.parametrize("repetitions", [1500, pytest.param(20_000, marks=pytest.mark.full)])
@pytest.mark.parametrize(("difference", "splits"), [(1.5, 5), (1.5, 20), (3.0, 4)])
def test_power_is_what_simulation_gives(difference: float, splits: int, repetitions: int) -> None:
    rng = np.random.default_rng(splits)
    rows = difference + correlated(rng, (repetitions, splits), 1 / 4)
    shown = np.mean([corrected_t_test(row, 4, 1).p_value <= 0.05 for row in rows])
    low, high = rate_bounds(power_to_show(difference, 1, splits, 1 / 4), repetitions)
    # The test also rejects on the wrong side, very seldom.
    assert low - 0.001 <= shown <= high + 0.001


def test_power_to_exceed_the_rope_is_what_simulation_gives() -> None:
    rows = 2.5 + correlated(np.random.default_rng(2), (1500, 8), 1 / 4)
    shown = np.mean([bayesian_t_test(row, 4, 1, rope=1).better >= 0.95 for row in rows])
    low, high = rate_bounds(power_to_show(2.5, 1, 8, 1 / 4, rope=1), 1500)
    assert low <= shown <= high


def test_further_splits_are_the_fewest_that_reach_the_power() -> None:
    for difference, rope, comparisons in ((1.5, 0, 1), (2, 0.2, 1), (-3, 0, 28), (1.45, 0, 1)):
        options = {"rope": rope, "comparisons": comparisons}
        count = further_splits(difference, 1, 5, 1 / 4, **options)
        assert count is not None
        assert power_to_show(difference, 1, 5 + count, 1 / 4, **options) >= 0.8
        if count > 1:
            assert power_to_show(difference, 1, 4 + count, 1 / 4, **options) < 0.8
        powers = [power_to_show(difference, 1, splits, 1 / 4, **options) for splits in range(2, 60)]
        assert (np.diff(powers) > -1e-9).all()


def test_without_a_shared_part_power_is_that_of_statsmodels() -> None:
    # statsmodels 0.15.0: TTestPower().power(difference, splits, 0.05), and solve_power(1 and 0.5, power=0.8).
    # It adds the chance of a significant difference on the wrong side, here below 1e-5.
    for difference, splits, power in ((1.5, 5, 0.7107026739), (1, 9, 0.7480170922), (1, 10, 0.8030968566)):
        assert power_to_show(difference, 1, splits, 0) == pytest.approx(power, abs=1e-5)
    for difference, needed in ((1, 9.94), (0.5, 33.4)):
        assert further_splits(difference, 1, 5, 0) == np.ceil(needed) - 5


def test_no_number_of_splits_shows_what_shared_training_samples_hide() -> None:
    # However many, the statistic of a difference as large as the spread stays at sqrt(n_train / n_test) = 2.
    assert further_splits(1, 1, 5, 1 / 4, most=100_000) is None
    assert further_splits(3, 1, 2, 1 / 4, most=1) is None
    assert further_splits(0, 1, 5, 0, most=10) is None


def test_power_is_a_number_at_the_extremes() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for difference, splits in itertools.product((0, 1e-9, 1, 1e3, 1e9), (2, 5, 100, 5000)):
            assert 0 <= power_to_show(difference, 1, splits, 1 / 4, comparisons=28) <= 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: estimate([], 4, 1), "give \\(splits,\\) or"),
        (lambda: estimate(np.zeros((2, 2, 2)), 4, 1), "3 axes"),
        (lambda: estimate([1, 2], 0, 1), "no counts of samples"),
        (lambda: estimate([1, 2], 4, -1), "no counts of samples"),
        (lambda: estimate([1, 2], np.nan, 1), "no counts of samples"),
        (lambda: estimate([1, 2], 4, 1).interval(95), "not between 0 and 1"),
        (lambda: corrected_t_test([1, 2], 4, 1, "more"), "use two-sided, greater or less"),
        (lambda: bayesian_t_test([1, 2], 4, 1, -0.1), "is no width"),
        (lambda: bayesian_t_test([1, 2], 4, 1, np.nan), "is no width"),
    ],
)
def test_what_makes_no_sense_is_refused(call: object, words: str) -> None:
    with pytest.raises(VoxgapError, match=words):
        call()  # type: ignore[operator]
