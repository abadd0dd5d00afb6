"""Mirroring at test time: the mean over mirror images, against a loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stand_in
import tiny
import voxgap as vg
from voxgap import augment
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


def by_hand(engine: Any, batch: np.ndarray, axes: tuple[str, ...], each_voxel: bool) -> np.ndarray:
    answers = []
    for depth in (1, -1) if "depth" in axes else (1,):
        for height in (1, -1) if "height" in axes else (1,):
            for width in (1, -1) if "width" in axes else (1,):
                answer = engine(batch[:, ::depth, ::height, ::width])
                answers.append(answer[:, ::depth, ::height, ::width] if each_voxel else answer)
    return np.mean(answers, axis=0)


@pytest.mark.parametrize(("engine", "each_voxel"), [(leaning, True), (whole, False)])
@pytest.mark.parametrize("axes", [("depth", "height", "width"), ("width",)])
@pytest.mark.parametrize("shape", [SHAPE, (1, 4, 5, 1)])
def test_mirror_images_are_answered_and_turned_back(
    engine: Any, each_voxel: bool, axes: tuple[str, ...], shape: tuple[int, ...]
) -> None:
    batch = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    batch[0, :, 1] = np.nan
    found = mirrored(engine, axes, each_voxel)(batch)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_hand(engine, batch, axes, each_voxel), rtol=1e-5)
    assert np.abs(found - engine(batch)).max() > 1e-3


def test_draws_are_not_mirrored() -> None:
    predictor = Predictor(stand_in.manifest(), whole, mirrored=True)
    with pytest.raises(VoxgapError, match="leave out one of the two"):
        predictor.check_draws(5)


OWN = augment.Compose(
    [augment.OneOf([augment.Flip(("height",)), augment.Noise()]), augment.Flip(("depth",), p=0)]
)


@pytest.mark.parametrize(
    ("asked", "axes"),
    [("none", ()), ("flip", ("width",)), ("default", ("width",)), ("rotate:5,noise", ()), (OWN, ("height",))],
)
def test_only_mirror_images_that_the_training_saw_are_asked_for(
    asked: Any, axes: tuple[str, ...], tmp_path: Path
) -> None:
    data = tiny.dataset()
    model = tiny.model("cnn3d", "mean", filters=(4,))
    history = vg.train(model, data, epochs=1, augment=asked, verbose=False)
    folder = vg.save_bundle(tmp_path / "bundle", model, data, strategy="mean", history=history)
    if not axes:
        with pytest.raises(VoxgapError, match="saw no mirror images"):
            vg.load(folder, mirror=True)
        return
    plain, both = (vg.load(folder, engine="keras", mirror=one) for one in (False, True))
    assert both.manifest.input.mirrors == axes

    def engine(batch: np.ndarray) -> np.ndarray:
        return plain.predict(batch)

    found = both.predict(data.volumes)
    np.testing.assert_allclose(found, by_hand(engine, data.volumes, axes, False), atol=1e-6)
