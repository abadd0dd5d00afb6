"""What gaps alone tell of the classes: planted, against scikit-learn, and never more than there is."""

from __future__ import annotations

import numpy as np
import pytest

import voxgap as vg
from voxgap.missingness.alone import _answers, told_by_gaps


def volumes(count: int, seed: int, by_label: str) -> tuple[np.ndarray, np.ndarray]:
    """Half of them of the second class, which has other gaps at the same rate, or the same ones."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    x = rng.normal(size=(count, 8, 8, 8, 1)).astype(np.float32)
    for volume, label in zip(x, labels, strict=True):
        if by_label == "pattern" and label:
            volume[rng.random(volume.shape) < 0.25] = np.nan
        elif by_label == "place":
            volume[rng.permutation(4)[:2] + 4 * label] = np.nan
        else:
            volume[rng.permutation(8)[:2]] = np.nan
    return x, labels


@pytest.mark.parametrize("by_label", ["pattern", "place"])
def test_a_pattern_or_a_place_that_goes_with_the_label_is_found_at_the_same_rate(by_label: str) -> None:
    found = told_by_gaps(*volumes(60, 0, by_label))
    assert found is not None
    assert found.auc > 0.95
    assert "a network may learn that" in found.conclusion


def test_gaps_that_know_nothing_are_no_better_than_guessing() -> None:
    shown = 0
    for seed in range(4):
        found = told_by_gaps(*volumes(40, seed, "none"), seed=seed)
        assert found is not None
        shown += found.interval is not None and found.interval[0] > 0.5
    assert shown <= 1
    assert "not shown to be better than guessing" in found.conclusion


@pytest.mark.full
def test_groups_stay_together_and_too_few_say_nothing() -> None:
    """Each patient has gaps and a class of its own: what is learnt of him says nothing of others."""
    areas = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(120, 6, 2, 2, 1)).astype(np.float32)
        groups = np.repeat(np.arange(24), 5)
        for volume, group in zip(x, groups, strict=True):
            volume[np.random.default_rng([seed, group]).permutation(6)[:3]] = np.nan
        labels = rng.permutation(np.arange(24) % 2)[groups]
        found = told_by_gaps(x, labels, groups, seed)
        assert found is not None
        areas.append(found.auc)
    assert np.mean(areas) < 0.62
    assert told_by_gaps(x, labels, np.arange(120)).auc > np.mean(areas) + 0.05, (
        "were they torn apart, much would be told"
    )
    assert told_by_gaps(x, labels, groups // 4) is None
    assert told_by_gaps(np.nan_to_num(x), labels) is None


@pytest.mark.full
def test_the_regression_is_that_of_scikit_learn() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    gaps, new = rng.normal(size=(80, 5)), rng.normal(size=(20, 5))
    positive = gaps[:, 0] + rng.normal(size=80) > 0.3
    mean, spread = gaps.mean(axis=0), gaps.std(axis=0)
    known = linear.LogisticRegression(tol=1e-10, max_iter=1000).fit((gaps - mean) / spread, positive)
    np.testing.assert_allclose(
        _answers(gaps, positive, new), known.predict_proba((new - mean) / spread)[:, 1], atol=1e-6
    )


def test_inspect_says_it() -> None:
    x, labels = volumes(60, 0, "pattern")
    found = vg.inspect(vg.Dataset.from_arrays(x, labels=labels))
    assert "What is missing alone tells the classes apart with an AUC of" in repr(found)
    assert found.to_json()["evidence"]["gaps_alone"]["auc"] == found.alone.auc
