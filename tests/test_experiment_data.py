"""Splits and gaps of runs: the same for every strategy, each sample tested once a repeat, groups never torn."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

import planted
import tiny
from voxgap.dataset.splits import make_folds
from voxgap.errors import VoxgapError
from voxgap.experiment.data import (
    NotPossibleError,
    content_key,
    divide,
    missing_units,
    weights_seed,
    with_gaps,
)
from voxgap.experiment.plan import Run
from voxgap.missingness import simulate
from voxgap.recipe import Gaps, Recipe

DATA = tiny.dataset(count=72)
GROUPED = dataclasses.replace(DATA, groups=np.array([f"patient {i // 4}" for i in range(72)]))


def a_run(**changes: Any) -> Run:
    run = Run("tiny", content_key(DATA), "mean", Recipe("cnn3d"), Gaps(), (0.5,), 0, 0, 3, 0)
    return planted.changed(run, **changes)


@pytest.mark.parametrize("data", [DATA, GROUPED, tiny.dataset("regression", 72)])
def test_each_sample_is_tested_once_a_repeat_and_never_trained_on_then(data: Any) -> None:
    for repeat in range(2):
        tested = []
        for fold in range(3):
            parts = divide(a_run(repeat=repeat, fold=fold), data)
            together = np.concatenate([parts.train, parts.validation, parts.test])
            assert sorted(together) == list(range(72))
            tested += list(parts.test)
            if data.groups is not None:
                groups = [set(data.groups[part]) for part in (parts.train, parts.validation, parts.test)]
                assert sum(map(len, groups)) == len(set.union(*groups))
        assert sorted(tested) == list(range(72))


def test_splits_differ_between_repeats_and_not_between_strategies() -> None:
    base = divide(a_run(), DATA)
    other = divide(a_run(strategy="knn", model="resnet3d", seed=9, train_rate=0.1, pattern="voxels"), DATA)
    assert all(np.array_equal(getattr(base, name), getattr(other, name)) for name in ("train", "test"))
    assert not np.array_equal(base.test, divide(a_run(repeat=1), DATA).test)
    assert not np.array_equal(base.test, divide(a_run(split_seed=1), DATA).test)


def test_one_fold_is_the_own_split_of_the_data() -> None:
    parts = divide(a_run(folds=1), DATA)
    for name in ("train", "validation", "test"):
        assert np.array_equal(getattr(parts, name), np.flatnonzero(DATA.split == name))
    without = dataclasses.replace(DATA, split=np.where(DATA.split == "test", "train", DATA.split))
    with pytest.raises(VoxgapError, match="no test part"):
        divide(a_run(folds=1), without)


@pytest.mark.parametrize("seed", range(4))
def test_folds_are_as_even_as_those_of_scikit_learn(seed: int) -> None:
    """Worst deviation of a class's share in a fold: not above the reference's by more than a group or so."""
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 40, 400)
    targets = (rng.random(400) < 0.2 + 0.4 * (groups % 2)).astype(int)

    def unevenness(folds: np.ndarray) -> float:
        table = np.zeros((4, 2))
        np.add.at(table, (folds, targets), 1)
        return float(np.abs(table / table.sum(axis=0) - 0.25).max())

    reference = np.empty(400, int)
    splitter = StratifiedGroupKFold(4, shuffle=True, random_state=seed)
    for fold, (_, test) in enumerate(splitter.split(targets, targets, groups)):
        reference[test] = fold
    ours = make_folds(targets, groups, 4, seed)
    assert all(len(set(ours[groups == group])) == 1 for group in np.unique(groups))
    assert unevenness(ours) <= unevenness(reference) + 0.05


def test_too_few_groups_for_the_folds_are_refused() -> None:
    with pytest.raises(VoxgapError, match="2 groups are too few for 3 parts"):
        make_folds([0, 1] * 6, ["a", "b"] * 6, 3)


def test_gaps_are_the_same_whatever_is_trained_on_them() -> None:
    base = missing_units(a_run(), DATA, 0.5)
    assert base is not None
    changes = {"strategy": "knn", "model": "unet3d", "seed": 5, "fold": 2, "train_rate": 0.1}
    assert np.array_equal(base, missing_units(a_run(**changes), DATA, 0.5))
    for other in (a_run(split_seed=1), a_run(repeat=1), a_run(repeat=2)):
        assert not np.array_equal(base, missing_units(other, DATA, 0.5))
    np.testing.assert_array_equal(
        np.isnan(with_gaps(a_run(), DATA, np.arange(len(DATA)), 0.5).volumes),
        np.isnan(simulate(DATA.volumes, pattern="slices", missing_rate=0.5, seed=0)),
    )
    assert missing_units(a_run(), DATA, 0.0) is None


def test_weights_are_drawn_anew_in_each_split_and_for_all_strategies_alike() -> None:
    splits = [(repeat, fold) for repeat in range(3) for fold in range(3)]
    drawn = [weights_seed(a_run(repeat=repeat, fold=fold)) for repeat, fold in splits]
    assert len(set(drawn)) == len(splits)
    assert drawn[0] == a_run().seed
    for (repeat, fold), seed in zip(splits, drawn, strict=True):
        assert weights_seed(a_run(repeat=repeat, fold=fold, strategy="knn", train_rate=0.1)) == seed
        assert weights_seed(a_run(repeat=repeat, fold=fold, seed=1)) != seed


def test_more_missing_is_missing_besides() -> None:
    """A higher rate takes the same units and more: test rates differ in how much is missing, not in where."""
    low, high = (missing_units(a_run(), DATA, rate) for rate in (0.25, 0.5))
    assert low is not None
    assert high is not None
    assert (high | ~low).mean() > 0.99


@pytest.mark.parametrize("mechanism", ["mcar", "mnar"])
def test_gaps_come_on_top_of_the_gaps_of_the_data(mechanism: str) -> None:
    parts = divide(a_run(), DATA)
    seen = with_gaps(a_run(mechanism=mechanism), DATA, parts.test, 0.5).volumes
    own = DATA.volumes[parts.test]
    assert np.isnan(seen[np.isnan(own)]).all()
    kept = ~np.isnan(seen)
    np.testing.assert_array_equal(seen[kept], own[kept])
    assert 0.3 < np.isnan(seen[~np.isnan(own)]).mean() < 0.7


def test_gaps_are_the_same_from_a_cache(tmp_path: Any) -> None:
    fresh = missing_units(a_run(), DATA, 0.5)
    for _ in range(2):
        np.testing.assert_array_equal(missing_units(a_run(), DATA, 0.5, tmp_path), fresh)


class TestDrop:
    """Train on complete volumes only."""

    def test_only_complete_volumes_are_trained_on_and_all_are_tested(self) -> None:
        volumes = DATA.volumes.copy()
        volumes[:] = np.nan_to_num(volumes)
        data = DATA.with_volumes(volumes)
        run = a_run(strategy="drop", train_rate=0.05)
        parts = divide(run, data)
        gaps = missing_units(run, data, 0.05)
        assert gaps is not None
        assert not gaps[parts.train].any()
        assert not gaps[parts.validation].any()
        np.testing.assert_array_equal(parts.test, divide(a_run(), data).test)
        expected = (~gaps.any(axis=(1, 2, 3, 4))).sum() - (~gaps[parts.test].any(axis=(1, 2, 3, 4))).sum()
        assert len(parts.train) + len(parts.validation) == expected

    def test_too_few_complete_volumes_of_a_class_are_said(self) -> None:
        volumes = np.nan_to_num(DATA.volumes)
        volumes[DATA.targets == 1, 0, 0, 0, 0] = np.nan
        with pytest.raises(NotPossibleError, match="class 'middling' has 0 complete training volumes"):
            divide(a_run(strategy="drop", train_rate=0.0), DATA.with_volumes(volumes))
        with pytest.raises(NotPossibleError, match="no volume is complete"):
            divide(a_run(strategy="drop"), DATA)


def test_the_key_of_the_data_follows_everything_that_counts() -> None:
    volumes = DATA.volumes.copy()
    volumes[3, 0, 0, 0, 0] += 1  # an observed one
    others = [
        DATA.with_volumes(volumes),
        dataclasses.replace(DATA, targets=np.roll(DATA.targets, 1)),
        dataclasses.replace(DATA, split=np.roll(DATA.split, 1)),
        GROUPED,
    ]
    keys = {content_key(data) for data in (DATA, *others)}
    assert len(keys) == 5
    assert content_key(dataclasses.replace(DATA, name="renamed")) == content_key(DATA)
