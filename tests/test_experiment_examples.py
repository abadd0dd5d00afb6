"""Pictures of fills: a volume with gaps, every channel that has some, before and after."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from voxgap.dataset import Dataset
from voxgap.experiment import plan_experiment
from voxgap.experiment.examples import _volumes, fill_examples

RNG = np.random.default_rng(0)


def data(missing: dict[int, list[int]] | None = None, channels: int = 3) -> Dataset:
    """Volumes of which some lack whole channels: channel -> those volumes."""
    volumes = RNG.normal(size=(12, 6, 4, 4, channels)).cumsum(axis=1).astype("float32")
    for channel, those in (missing or {}).items():
        volumes[those, ..., channel] = np.nan
    split = np.array(["train"] * 6 + ["validation"] * 2 + ["test"] * 4)
    return Dataset.from_arrays(
        volumes, np.arange(12) % 2, split=split, channels=("t1", "t2", "flair")[:channels], name="d"
    )


def test_each_channel_is_shown_before_and_after_each_distinct_fill() -> None:
    whole = data()
    plan = plan_experiment(whole, ["mean", "linear", "mask_channel", "complete"], train_rates=0.5, folds=1)
    examples = fill_examples(plan, whole)
    assert [example.channel for example in examples] == ["t1", "t2", "flair"]
    for example in examples:
        assert list(example.versions) == ["complete", "with gaps", "filled: mean", "filled: linear"]
        complete, gapped, mean, linear = example.versions.values()
        assert gapped.shape == (6, 4, 4)
        missing = np.isnan(gapped)
        assert missing.any()
        assert not np.isnan(complete).any()
        for after in (mean, linear):
            assert np.isfinite(after).all()
            np.testing.assert_allclose(after[~missing], gapped[~missing], rtol=1e-6)
        assert (mean[missing] != linear[missing]).any()


def test_channels_that_no_single_volume_lacks_together_come_from_several() -> None:
    native = data({0: [2, 9], 1: [3, 10, 11]})
    examples = fill_examples(plan_experiment(native, ["mean"], folds=1), native)
    assert [example.channel for example in examples] == ["t1", "t2"]
    assert examples[0].case != examples[1].case
    for example in examples:
        assert list(example.versions) == ["with gaps", "filled: mean"]
        assert np.isnan(example.versions["with gaps"]).all()
        assert np.isfinite(example.versions["filled: mean"]).all()


def test_what_has_a_known_orientation_is_shown_upright() -> None:
    native = data({0: [2, 9]})
    plan = plan_experiment(native, ["zero"], folds=1)
    as_it_lies, upright = (fill_examples(plan, replace(native, rises=known))[0] for known in (False, True))
    for name, versions in as_it_lies.versions.items():
        np.testing.assert_array_equal(upright.versions[name], versions[:, ::-1])


def test_where_nothing_is_missing_nothing_is_shown() -> None:
    whole = data(channels=1)
    assert fill_examples(plan_experiment(whole, ["mean"], train_rates=0, folds=1), whole) == ()
    assert fill_examples(plan_experiment(whole, ["complete"], folds=1), whole) == ()


def test_a_channel_with_a_hole_is_shown_rather_than_one_that_is_not_there_at_all() -> None:
    gapped = RNG.normal(size=(4, 3, 3, 3, 2)).astype("float32")
    gapped[0] = np.nan  # nothing of it can be said
    gapped[1, ..., 0] = np.nan
    gapped[2, 0, ..., 0] = np.nan
    assert _volumes(gapped) == {0: 2}
    gapped[1, 1, ..., 1] = np.nan
    assert _volumes(gapped) == {0: 1, 1: 1}, "one volume that shows both"


def test_volumes_of_units_of_their_own_are_filled_as_the_network_fills_them() -> None:
    """The mean of what is normalised, in the volume's own units: no mean of raw values that are far larger."""
    volumes = np.abs(data(channels=1).volumes) + 1
    volumes[:6] *= np.float32(10.0) ** np.arange(6).reshape(-1, 1, 1, 1, 1)
    scaled = Dataset.from_arrays(volumes, np.arange(12) % 2, split=data().split, name="scaled")
    plan = plan_experiment(scaled, ["mean"], train_rates=0.5, folds=1)
    assert plan.architecture.normalize == "volume"
    (example,) = fill_examples(plan, scaled)
    gapped = example.versions["with gaps"]
    filled = example.versions["filled: mean"][np.isnan(gapped)]
    assert filled.mean() == pytest.approx(float(np.nanmean(gapped)), abs=float(np.nanstd(gapped)))
