"""Mirroring at test time: the mean over mirror images, against a loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import stand_in
from voxgap.errors import VoxgapError
from voxgap.runtime import Predictor
from voxgap.runtime.mirroring import mirrored

SHAPE = (3, 4, 5, 1)


def leaning(batch: np.ndarray) -> np.ndarray:
    """An answer for each voxel that depends on where it lies."""
    place = np.arange(np.prod(batch.shape[1:]), dtype=np.float32).reshape(batch.shape[1:])
    one = 1 / (1 + np.exp(-np.nan_to_num(batch) * place / place.max()))
    return np.concatenate([1 - one, one], axis=-1).astype(np.float32)


def whole(batch: np.ndarray) -> np.ndarray:
    return leaning(batch)[:, -1, -1, 1]


def by_hand(engine: Any, batch: np.ndarray, each_voxel: bool) -> np.ndarray:
    answers = []
    for depth in (1, -1):
        for height in (1, -1):
            for width in (1, -1):
                answer = engine(batch[:, ::depth, ::height, ::width])
                answers.append(answer[:, ::depth, ::height, ::width] if each_voxel else answer)
    return np.mean(answers, axis=0)


@pytest.mark.parametrize(("engine", "each_voxel"), [(leaning, True), (whole, False)])
@pytest.mark.parametrize("shape", [SHAPE, (1, 4, 5, 1)])
def test_mirror_images_are_answered_and_turned_back(
    engine: Any, each_voxel: bool, shape: tuple[int, ...]
) -> None:
    batch = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    batch[0, :, 1] = np.nan
    found = mirrored(engine, each_voxel)(batch)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_hand(engine, batch, each_voxel), rtol=1e-5)
    assert np.abs(found - engine(batch)).max() > 1e-3


def test_draws_are_not_mirrored() -> None:
    predictor = Predictor(stand_in.manifest(), whole, mirrored=True)
    with pytest.raises(VoxgapError, match="leave out one of the two"):
        predictor.check_draws(5)
