"""Moments of observed values: those of NumPy, however the volumes are cut into pieces."""

from __future__ import annotations

import numpy as np
import pytest

from voxgap.observed import blocks, moments, voxel_means


def volumes() -> np.ndarray:
    """Far from 0, so that cancellation would show; a channel that is lost in one volume, and one voxel in all."""
    rng = np.random.default_rng(0)
    x = rng.normal(1e6, 3.0, (5, 3, 4, 5, 2))
    x[rng.random(x.shape) < 0.3] = np.nan
    x[1, ..., 1] = np.nan
    x[:, 0, 0, 0, 0] = np.nan
    return x


@pytest.mark.parametrize("together", [2**23, 200, 16])
def test_moments_are_those_of_numpy(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voxgap.observed.BLOCK_VOXELS", together)
    x = volumes()
    found = moments(x)
    for volume, channel in np.ndindex(5, 2):
        values = x[volume, ..., channel]
        values = values[~np.isnan(values)]
        assert found.observed[volume, channel] == values.size
        if values.size:
            expected = values.mean(), values.std(), values.min(), values.max()
            each = (of[volume, channel] for of in (found.mean, found.deviation, found.low, found.high))
            assert list(each) == pytest.approx(expected, rel=1e-9)
    assert (found.mean[1, 1], found.deviation[1, 1], found.low[1, 1], found.high[1, 1]) == (
        0,
        0,
        np.inf,
        -np.inf,
    )
    assert found.pooled().mean == pytest.approx(np.nanmean(x, axis=(0, 1, 2, 3)), rel=1e-12)
    assert found.pooled().deviation == pytest.approx(np.nanstd(x, axis=(0, 1, 2, 3)), rel=1e-9)
    assert found.pooled(None).deviation == pytest.approx(np.nanstd(x), rel=1e-9)


def test_means_of_voxels_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voxgap.observed.BLOCK_VOXELS", 250)
    x = volumes()
    assert [len(block) for block in blocks(x)] == [2, 2, 1]
    # As float32, which is what blocks are.
    known = x.astype(np.float32).astype(np.float64)
    expected = np.where(np.isnan(x).all(axis=0), np.nanmean(known, axis=(0, 1, 2, 3)), np.nan)
    there = np.isnan(expected)
    expected[there] = (np.nansum(known, axis=0) / np.maximum((~np.isnan(known)).sum(axis=0), 1))[there]
    assert voxel_means(x) == pytest.approx(expected, rel=1e-9)
    assert not voxel_means(np.full((2, 1, 1, 2, 1), np.nan)).any()
