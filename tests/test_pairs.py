"""All pairs at once: against loops, against one pair alone, and what the samples themselves would say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from voxgap.metrics.moderation import prior
from voxgap.metrics.pairs import judged, pairs_of
from voxgap.metrics.significance import bayesian_t_test, corrected_t_test, holm


def test_two_strategies_alone_are_compared_by_the_corrected_tests() -> None:
    scores = np.random.default_rng(0).normal(0.8, 0.02, size=(2, 5, 3))
    scores[0, 1, 2] = scores[1, 4] = np.nan
    found = judged(scores, 1 / 4)
    gains = scores[0] - scores[1]
    assert found.p_value == pytest.approx(corrected_t_test(gains, 4, 1).p_value)
    assert np.ravel([found.worse, found.same, found.better]) == pytest.approx(bayesian_t_test(gains, 4, 1))
    assert (found.splits, found.failed, found.degrees) == (4, 4, 3)


def test_several_borrow_from_each_other_as_a_loop_says() -> None:
    scores = np.random.default_rng(3).normal(0.8, [[[0.02]], [[0.02]], [[0.03]], [[0.01]]], size=(4, 3, 2))
    found = judged(scores, 1 / 2, rope=0.005)
    gains = [(scores[a] - scores[b]).mean(axis=1) for a, b in pairs_of(4)]
    seen = np.array([np.var(gain, ddof=1) for gain in gains])
    known = prior(seen, 2, 1 / 5)
    degrees = min(2 + known.degrees, (4 - 1) * (3 - 1) - 1)
    p_values = []
    for place, gain in enumerate(gains):
        weight = 1 if known.degrees == np.inf else known.degrees / (known.degrees + 2)
        variance = max(seen[place], weight * known.variance + (1 - weight) * seen[place])
        error = np.sqrt(variance * (1 / 3 + 1 / 2))
        p_values.append(2 * stats.t.sf(abs(gain.mean()) / error, degrees))
        assert found.p_value[place] == pytest.approx(p_values[-1])
        assert found.better[place] == pytest.approx(stats.t.sf((0.005 - gain.mean()) / error, degrees))
    assert found.p_adjusted == pytest.approx(holm(p_values))
    assert found.worse + found.same + found.better == pytest.approx(1)


def test_many_experiments_at_once_are_each_by_itself() -> None:
    scores = np.random.default_rng(4).normal(size=(5, 4, 6, 1))
    scores[1, 2, 3:] = scores[3, 0, 0] = scores[4, 1] = np.nan
    together = judged(scores, 1 / 4, reference=2)
    for place, one in enumerate(scores):
        for whole, alone in zip(together, judged(one, 1 / 4, reference=2), strict=True):
            assert whole[place] == pytest.approx(alone, nan_ok=True)


def test_the_samples_of_balanced_splits_add_nothing_to_their_means() -> None:
    # Mixed model of per-sample differences with splits and trainings as random effects: F = mean square between splits
    # against its expectation, which the samples within them are part of. Here by the sums of squares of its ANOVA.
    rng = np.random.default_rng(5)
    splits, seeds, cases = 5, 2, 40
    right = rng.normal(size=(2, splits, 1, 1)) + rng.normal(size=(2, splits, seeds, 1))
    right = right + rng.normal(size=(2, splits, seeds, cases))
    gains = right[0] - right[1]
    between = seeds * cases * np.var(gains.mean(axis=(1, 2)), ddof=1)
    statistic = gains.mean() ** 2 * gains.size / between
    found = judged(right.mean(axis=-1), 0.0)
    assert found.p_value == pytest.approx(stats.f.sf(statistic, 1, splits - 1))
