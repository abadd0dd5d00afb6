"""Drift: an input that is like the training data passes, one that is not is told what differs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from voxgap.errors import VoxgapError
from voxgap.missingness import simulate
from voxgap.resample import crop_or_pad, extent
from voxgap.runtime.profile import Profile, drift, far_outside, own_part, profile
from voxgap.volume import Volume

RNG = np.random.default_rng(0)
COMPLETE = RNG.normal(100, 20, size=(12, 8, 8, 8, 2)).astype(np.float32)
TRAIN = COMPLETE.copy()
TRAIN[..., 0] = simulate(COMPLETE[..., :1], "slices", 0.25, seed=1)[..., 0]
KNOWN = profile(TRAIN, ("t1", "flair"))


def fresh(seed: int = 5) -> np.ndarray:
    x = np.random.default_rng(seed).normal(100, 20, size=(8, 8, 8, 2)).astype(np.float32)
    x[[1, 4], :, :, 0] = np.nan
    return x


def test_the_profile_is_what_the_volumes_are() -> None:
    rates = np.isnan(TRAIN).mean(axis=(1, 2, 3))
    for index, channel in enumerate(KNOWN.channels.values()):
        assert channel.missing_rate == (rates[:, index].min(), rates[:, index].max())
        assert channel.values == (np.nanmin(TRAIN[..., index]), np.nanmax(TRAIN[..., index]))
    assert KNOWN.channels["flair"].missing_rate == (0, 0)
    manifest = {
        "data": {"profile": json.loads(json.dumps(KNOWN.to_json()))},
        "input": {"channels": ["t1", "flair"]},
    }
    assert Profile.of(manifest, "m") == KNOWN


def test_what_is_like_the_training_data_passes() -> None:
    assert drift(fresh(), KNOWN) == ()
    for volume in TRAIN:
        assert drift(volume, KNOWN) == ()


def test_how_much_is_missing_and_in_which_pattern_is_no_doubt_of_one_input() -> None:
    """A stream of such is: `voxgap.drift` has a test for that, with a rate of false alarms."""
    often = COMPLETE[:, :, :, :, :1].copy()
    often[:, 1:4] = np.nan
    known = profile(often, ("t1",))
    complete = np.random.default_rng(5).normal(100, 20, size=(8, 8, 8, 1)).astype(np.float32)
    for share in (0.0, 0.1, 0.9):
        some = np.where(np.random.default_rng(6).random(complete.shape) < share, np.nan, complete)
        assert drift(some, known) == ()
    assert drift(np.full_like(complete, np.nan), known)


def test_each_difference_is_said() -> None:
    nothing = np.full_like(fresh(), np.nan)
    absent, units = fresh(), fresh()
    absent[..., 1] = np.nan
    units[..., 1] /= 1000
    for volume, said in (
        (nothing, "no observed voxel"),
        (absent, "channel flair is missing as a whole"),
        (units, "channel flair: values from"),
    ):
        assert any(said in sentence for sentence in drift(volume, KNOWN)), (said, drift(volume, KNOWN))
    assert drift(nothing, None) == drift(nothing, KNOWN)
    assert drift(absent, None) == ()


@pytest.mark.parametrize(
    "data",
    [
        3,
        [],
        {},
        {"channels": {}},
        {"channels": {"t1": 3}},
        {"channels": {"a": {}}},
    ],
)
def test_a_manifest_with_another_profile_is_refused(data: object) -> None:
    with pytest.raises(VoxgapError, match=r"field data\.profile"):
        Profile.of({"data": {"profile": data}, "input": {"channels": ["t1"]}}, "m")


def test_a_value_far_outside_is_said_and_a_missing_rate_hides_no_values() -> None:
    one, both = fresh(), fresh()
    one[0, 0, 0, 1] = 1e20
    both[:7, :, :, 0] = np.nan
    both[7, :, :, 0] *= 1000
    assert any("channel flair: values from" in said for said in drift(one, KNOWN))
    said = " ".join(drift(both, KNOWN))
    assert "channel t1: values from" in said
    assert far_outside(np.stack([fresh(), one]), KNOWN)[0].startswith(
        "channel flair holds values far outside"
    )
    assert far_outside(TRAIN, KNOWN) == ()
    assert far_outside(np.stack([one]), None) == ()


def test_one_far_value_in_a_large_volume_is_said() -> None:
    """Too few to be a share, and too few to be seen in the deviation."""
    large = np.random.default_rng(0).normal(100, 20, (8, 64, 64, 2)).astype(np.float32)
    large[[1, 4], :, :, 0] = np.nan
    large[0, 0, 0, 1] = 5000
    assert any("channel flair: values from" in said for said in drift(large, KNOWN))


def test_what_a_grid_adds_around_a_scan_is_no_gap_of_it() -> None:
    rng = np.random.default_rng(5)
    manifest = {"input": {"channels": ["t1"], "grid": {"size": [12, 8, 8], "spacing": [1, 1, 1]}}}
    volumes, records = np.full((6, 12, 8, 8, 1), np.nan, np.float32), []
    for index in range(6):
        scan = Volume(rng.normal(size=(6 + index, 8, 6, 1)).astype(np.float32), spacing=(1.0, 1.0, 1.0))
        placed, record = crop_or_pad(scan, (12, 8, 8))
        volumes[index] = placed.values
        records.append([record])
    own = profile(volumes, ("t1",), boxes=[extent(steps, volumes.shape[1:]) for steps in records])
    assert own.channels["t1"].missing_rate == (0, 0)
    now = Profile.of(manifest | {"data": {"profile": own.to_json()}}, "here")
    padded = profile(volumes, ("t1",)).to_json()
    # As earlier versions wrote it, with the shares of patterns.
    before = Profile.of(manifest | {"data": {"profile": padded | {"shares": {"blocks": 1.0}}}}, "here")
    for known in (now, before):
        for volume, steps in zip(volumes, records, strict=True):
            assert drift(volume, known, steps) == ()
            assert drift(volume, known) == ()
    assert now is not None
    for volume, steps in zip(volumes, records, strict=True):
        assert not np.isnan(own_part(volume, now, steps)).any()
        assert not np.isnan(own_part(volume, now)).any()
    gapped = volumes[0].copy()
    gapped[4:6] = np.nan
    assert np.isnan(own_part(gapped, now, records[0])).mean() == pytest.approx(1 / 3)
