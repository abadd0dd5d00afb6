"""Every fill in every format: values and deviations as Keras answers them, in deviations of the channel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from voxgap import fill
from voxgap.bundle.exporting import convert_and_prove
from voxgap.bundle.formats import FORMATS
from voxgap.fill.across import Across
from voxgap.missingness import simulate
from voxgap.runtime.engines import open_engine
from voxgap.runtime.golden import Golden

WITHIN = 1e-5
"""Of the channel's standard deviation."""
SCALES = np.float32([4, 0.02]), np.float32([20, -0.3])
KINDS = [kind for kind in FORMATS if kind != "keras"]
FILLS: dict[str, Callable[[], Any]] = {
    "linear": fill.LinearInterpolation,
    "linear of height": lambda: fill.LinearInterpolation(axis="height", max_gap=(2, 1, None)),
    "nearest": lambda: fill.Nearest(max_gap=3),
    "kriging": fill.Kriging,
    "kriging with a reach": lambda: fill.Kriging(max_gap=2),
    "learned": lambda: fill.Learned(filters=(4, 6, 8), steps=6, seed=1),
    "by channel": lambda: fill.make({"0": "kriging", "1": "linear"}, {"0": {"max_gap": 2}}),
    "learned by channel": lambda: fill.make({"1": "learned", "0": "nearest"}, {"1": {"steps": 4}}),
}
pytestmark = pytest.mark.filterwarnings("ignore:.*HDF5 file:UserWarning")


def fields(count: int, shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Smooth fields of two channels in units of their own."""
    rough = np.random.default_rng(seed).normal(size=(count, *shape, 2)).cumsum(axis=1).cumsum(axis=2)
    spread, mean = SCALES
    return ((rough - rough.mean()) / rough.std() * spread + mean).astype(np.float32)


def hard(volumes: np.ndarray) -> np.ndarray:
    """Every kind of gap: single voxels, slices along each axis, a block, a channel, all but one voxel, everything."""
    x = simulate(volumes[:8], "voxels", 0.3, seed=1)
    _, depth, height, width, _ = x.shape
    x[1, : depth // 2] = np.nan
    x[2, :, ::2] = np.nan
    x[3, :, :, width // 2 :] = np.nan
    x[4, :, 1 : height // 2, 1 : width // 2] = np.nan
    x[5, ..., 0] = np.nan
    x[6] = np.nan
    x[6, 0, height // 2, width // 2] = volumes[6, 0, height // 2, width // 2]
    x[7] = np.nan
    return x


@pytest.mark.full
@pytest.mark.parametrize("shape", [(5, 7, 6), (1, 9, 8)], ids=str)
@pytest.mark.parametrize("name", FILLS)
def test_every_fill_answers_alike_in_every_format(
    name: str, shape: tuple[int, int, int], tmp_path: Path
) -> None:
    complete = fields(24, shape)
    layer = FILLS[name]()
    layer.adapt(simulate(complete, "slices" if shape[0] > 1 else "blocks", 0.3, seed=2))
    if name == "kriging":  # the gaps are those of both channels, which then learn nothing from each other
        layer._take(Across(*np.float32([[[0, 0.7], [-0.4, 0]], [[0, 0.5], [0.3, 0]]])))
    inputs = keras.Input((*shape, 2))
    sure = hasattr(layer, "with_deviation")
    model = keras.Model(inputs, (fill.Deviating(layer) if sure else layer)(inputs))
    x = hard(complete)
    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "model.keras")
    golden = Golden(x, expected, np.full(len(x), "hard"))
    files, _ = convert_and_prove(tmp_path, tmp_path / "model.keras", golden, KINDS, "float32", np.inf)
    spread = np.tile(SCALES[0], 1 + sure)
    for kind, file in files.items():
        answer = open_engine(kind, file)
        for got in (answer(x), np.concatenate([answer(x[i : i + 3]) for i in range(0, len(x), 3)])):
            off = np.abs(got.astype(float) - expected) / spread
            assert off.max() <= WITHIN, (kind, off.max(axis=(1, 2, 3, 4)))
