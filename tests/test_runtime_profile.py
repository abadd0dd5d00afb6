"""Drift: an input that is like the training data passes, one that is not is told what differs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from voxgap.errors import VoxgapError
from voxgap.missingness import simulate
from voxgap.resample import crop_or_pad, extent
from voxgap.runtime.profile import Profile, drift, far_outside, profile
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


def test_fewer_gaps_than_in_training_are_no_doubt() -> None:
    often = COMPLETE[:, :, :, :, :1].copy()
    often[:, 1:4] = np.nan
    known = profile(often, ("t1",))
    complete = np.random.default_rng(5).normal(100, 20, size=(8, 8, 8, 1)).astype(np.float32)
    assert drift(complete, known) == ()
    one_slice = complete.copy()
    one_slice[2] = np.nan
    assert drift(one_slice, known) == ()
    some_voxels = np.where(np.random.default_rng(6).random(complete.shape) < 0.1, np.nan, complete)
    assert [said[:24] for said in drift(some_voxels, known)] == ["the gaps look like voxel"]


def test_each_difference_is_said() -> None:
    nothing = np.full_like(fresh(), np.nan)
    absent, rarer, units, blocks = fresh(), fresh(), fresh(), fresh()
    absent[..., 1] = np.nan
    rarer[:7, :, :, 0] = np.nan
    units[..., 1] /= 1000
    blocks[..., 0] = np.random.default_rng(1).normal(100, 20, (8, 8, 8))
    blocks[2:6, 2:6, 2:6, 0] = np.nan
    for volume, said in (
        (nothing, "no observed voxel"),
        (absent, "channel flair is missing as a whole"),
        (rarer, "channel t1: 88% missing"),
        (units, "channel flair: values from"),
        (blocks, "the gaps look like blocks"),
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
        {"channels": {"t1": 3}, "shares": {}},
        {"channels": {"a": {}}, "shares": {}},
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
    assert "channel t1: 88% missing" in said
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
    assert own.shares == {}
    now = Profile.of(manifest | {"data": {"profile": own.to_json()}}, "here")
    padded = profile(volumes, ("t1",)).to_json()
    del padded["of"]
    before = Profile.of(manifest | {"data": {"profile": padded}}, "here")
    for known in (now, before):
        for volume, steps in zip(volumes, records, strict=True):
            assert drift(volume, known, steps) == ()
            assert drift(volume, known) == ()
    gapped = volumes[0].copy()
    gapped[4:6] = np.nan
    said = drift(gapped, now, records[0])
    assert said[0] == "channel t1: 33% missing, in the training data 0% to 0%"
    assert said[1].startswith("the gaps look like slices along depth")
    assert drift(gapped, before, records[0]) == ()
