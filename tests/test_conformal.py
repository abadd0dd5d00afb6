"""Thresholds of conformal prediction, against their definitions and by simulation, and what is borrowed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from voxgap.dataset import Dataset, load_data
from voxgap.errors import VoxgapError
from voxgap.promises import Pattern, promised
from voxgap.trust.conformal import (
    LEVELS,
    calibrated,
    claimed,
    least_for,
    quantile,
    region_threshold,
    scores_of,
    subsets,
)


@pytest.mark.parametrize(("count", "coverage"), [(9, 0.9), (60, 0.9), (99, 0.99), (57, 0.77), (19, 0.95)])
def test_the_threshold_is_the_score_of_that_rank(count: int, coverage: float) -> None:
    scores = np.random.default_rng(0).permutation(count).astype(float)
    rank = math.ceil(round(coverage * (count + 1), 9))
    assert quantile(scores, np.arange(count), coverage) == rank - 1
    few = math.ceil(round(coverage / (1 - coverage), 9)) - 1
    assert quantile(scores[:few], np.arange(few), coverage) is None


def test_samples_of_one_group_weigh_as_one_and_groups_count() -> None:
    scores, members = np.arange(40.0), np.repeat(np.arange(20), 2)
    # Hierarchical conformal prediction: 0.9 · 21 = 18.9 groups' weight, so the 38th half.
    assert quantile(scores, members, 0.9) == 37
    found = claimed("regression", scores[:, None], [Pattern((), 0)] * 40, members, 0.9)
    assert not found, "40 scans of 20 groups are 20"


def test_regions_are_chosen_by_the_definition_of_risk_control() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, (70, 2, 4, 4))
    truth[:5][truth[:5] == 2] = 0
    answers = rng.dirichlet([1, 1, 1], truth.shape)
    missed = scores_of("segmentation", truth, answers)
    for label in (1, 2):
        losses = [
            [(p[t == label, label] < level).mean() for level in LEVELS[::40]]
            for p, t in zip(answers, truth, strict=True)
            if (t == label).any()
        ]
        kept = missed[~np.isnan(missed[:, label - 1, 0]), label - 1]
        np.testing.assert_allclose(kept[:, ::40], losses)
        threshold = region_threshold(missed[:, label - 1], np.arange(70), 0.8)
        assert threshold is not None
        n = len(kept)
        risk = (kept.sum(axis=0) + 1) / (n + 1)
        assert risk[threshold == LEVELS] <= 0.2 < risk[np.flatnonzero(threshold == LEVELS)[0] + 1]
    assert region_threshold(missed[:30, 0], np.arange(30), 0.8) is None


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_patterns_are_covered_each_by_itself(task: str) -> None:
    """Two patterns, of which one is answered much worse: 50 draws of 60 and 60, exactly at their ranks."""
    rng = np.random.default_rng(2)
    patterns = [Pattern((), 0)] * 60 + [Pattern((0,), 0)] * 60
    noise = np.repeat([0.3, 2.0], 60)
    held = []
    for _ in range(50):
        truth = rng.normal(size=(2, 120)) if task == "regression" else rng.integers(0, 3, (2, 120))
        seen = rng.normal(size=(2, 120, 1)) * noise[:, None] + truth[..., None]
        if task == "regression":
            answers = seen
        else:
            odds = np.exp(-(((seen - np.arange(3)) / noise[:, None]) ** 2) / 2)
            answers = odds / odds.sum(axis=-1, keepdims=True)
        claims = claimed(task, scores_of(task, truth[0], answers[0]), patterns, np.arange(120), 0.9)
        found = [
            promised(task, a, claims[p].thresholds, 0.0) for a, p in zip(answers[1], patterns, strict=True)
        ]
        if task == "regression":
            held.append([low <= t <= high for ((low, high),), t in zip(found, truth[1], strict=True)])
        else:
            held.append([one[t] for one, t in zip(found, truth[1], strict=True)])
    expected = math.ceil(0.9 * 61) / 61
    error = math.sqrt(0.1 * 0.9 / 50 * (1 / 60 + 1 / 62))
    for share in np.mean(held, axis=0).reshape(2, 60).mean(axis=1):
        assert abs(share - expected) < 4 * error


def data(count: int, informative: bool, seed: int = 0) -> Dataset:
    """Scans of two channels, each the class and noise; the second one is missing in a few, of any class or of one."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    volumes = (labels[:, None, None, None, None] + rng.normal(size=(count, 1, 1, 2, 2))).astype(np.float32)
    gone = rng.random(count) < np.where(informative & (labels == 0), 0.0, 0.2)
    volumes[gone, ..., 1] = np.nan
    split = np.full(count, "test")
    return Dataset(volumes, labels, "classification", ("no", "yes"), split, channels=("a", "b"))


def predict(volumes: Any) -> Any:
    second = 1 / (1 + np.exp(-2 * (np.nanmean(volumes, axis=(1, 2, 3, 4)) - 0.5)))
    return np.stack([1 - second, second], axis=1)


def test_rare_patterns_borrow_by_masking_more_unless_gaps_depend_on_something() -> None:
    given = data(150, informative=False)
    found = calibrated(given, predict)
    own, borrowed = found.claims[Pattern((), 0)], found.claims[Pattern((1,), 0)]
    assert (own.rests, borrowed.rests) == ("pattern", "assumption")
    assert borrowed.samples == 150, "all of them, without the channel"
    alone = scores_of(
        "classification", given.targets, predict(np.where([False, True], np.nan, given.volumes))
    )
    assert borrowed.thresholds == (-quantile(-alone[:, 0], np.arange(150), 0.9),)  # type: ignore[operator]
    told = calibrated(data(300, informative=True), predict)
    assert "depends on the label" in told.informative
    assert {claim.rests for claim in told.claims.values()} == {"pattern"}


@pytest.mark.full
def test_of_nodules_only_what_was_calibrated_by_pattern_is_guaranteed() -> None:
    given = load_data("sample:nodules").part("test")

    def predict(volumes: Any) -> Any:
        second = 1 / (1 + np.exp(-20 * (np.nanmean(volumes, axis=(1, 2, 3, 4)) - 0.1)))
        return np.stack([1 - second, second], axis=1)

    # A sixteenth of the voxels says as much about what is missing.
    made = calibrated(given.with_volumes(given.volumes[:, ::4, ::4]), predict)
    assert made.informative, "nobody drew what looked like nothing"
    assert {pattern.missing for pattern in made.claims} == {()}
    assert {claim.rests for claim in made.claims.values()} == {"pattern"}
    assert "if gaps depend on nothing" not in made.words()


def test_what_can_be_asked_for() -> None:
    assert [least_for(c) for c in (0.5, 0.9, 0.99, 0.999)] == [50, 50, 99, 999]
    with pytest.raises(VoxgapError, match="coverage must be a number between 0 and 1"):
        calibrated(data(60, False), predict, 1.0)
    assert len(subsets(4, [])) == 15
    assert subsets(6, [(1, 3), ()]) == [(), (0,), (1,), (2,), (3,), (4,), (5,), (1, 3)]
