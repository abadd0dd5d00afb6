"""Every layer of voxgap.layers and voxgap.fill, with arguments and inputs that `check_layer` puts it through.

Run as a script, it checks the named cases (all without arguments) on Keras's current backend.
"""

from __future__ import annotations

import dataclasses
import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np

from check_layer import check_layer
from voxgap import fill, layers

SHAPE = (4, 5, 6, 2)


def gappy(count: int = 3, shape: tuple[int, ...] = SHAPE, seed: int = 0, rate: float = 0.3) -> np.ndarray:
    """Normal volumes of which a share is missing, and the last one wholly."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, *shape)).astype("float32")
    x[rng.random(x.shape) < rate] = np.nan
    x[-1] = np.nan
    return x


def split(x: np.ndarray) -> list[np.ndarray]:
    """Finite values and the observed map, float32 0/1."""
    return [np.nan_to_num(x), (~np.isnan(x)).astype("float32")]


@dataclasses.dataclass(frozen=True)
class Case:
    """How one layer is made and called: see `check_layer`."""

    make: Callable[[], keras.layers.Layer]
    inputs: Any
    adapt: np.ndarray | None = None
    float32: bool = False

    def check(self) -> None:
        check_layer(self.make, self.inputs, adapt=self.adapt, float32=self.float32)


GAPPY = gappy()
FINITE = np.nan_to_num(GAPPY[:2])
PAIR = split(GAPPY)
# Small integers, on which a most frequent value means something.
TRAINING = np.round(2 * gappy(12, seed=1))[:11]
SEED = keras.initializers.HeNormal(seed=1)


def _fill(kind: type, **arguments: Any) -> Case:
    return Case(partial(kind, **arguments), GAPPY, TRAINING, float32=True)


CASES: dict[str, Case] = {
    "SplitMissing": Case(layers.SplitMissing, GAPPY, float32=True),
    **{
        f"GapDropout-{pattern}": Case(partial(layers.GapDropout, 0.4, pattern, seed=3), GAPPY, float32=True)
        for pattern in ("voxels", "slices", "blocks", "channels")
    },
    **{
        f"VolumeNormalization-{method}": Case(
            partial(layers.VolumeNormalization, method, -1.0, 2.0), GAPPY, float32=True
        )
        for method in ("volume", "percentile", "window")
    },
    "MaskedConv3D": Case(partial(layers.MaskedConv3D, 3, 3, kernel_initializer=SEED), PAIR),
    "MaskedConv3D-full": Case(
        partial(
            layers.MaskedConv3D,
            3,
            (2, 3, 3),
            (1, 2, 2),
            "same",
            activation="gelu",
            kernel_initializer=SEED,
            kernel_regularizer="l2",
        ),
        PAIR,
    ),
    "MaskedConv3D-dilated": Case(
        partial(layers.MaskedConv3D, 3, 2, dilation_rate=2, use_bias=False, kernel_initializer=SEED),
        [PAIR[0], PAIR[1][..., :1]],
    ),
    "GatedConv3D": Case(partial(layers.GatedConv3D, 3, 3, kernel_initializer=SEED), PAIR),
    "GatedConv3D-full": Case(
        partial(
            layers.GatedConv3D,
            3,
            (1, 3, 3),
            2,
            "same",
            activation="elu",
            use_bias=False,
            kernel_initializer=SEED,
        ),
        [PAIR[0], PAIR[1][..., :1]],
    ),
    "SqueezeExcitation3D": Case(
        partial(layers.SqueezeExcitation3D, 2, SEED),
        np.abs(gappy(2, (3, 3, 3, 8), rate=0.0))[:1].repeat(2, 0),
    ),
    "SpatialAttention3D": Case(partial(layers.SpatialAttention3D, (1, 3, 3), SEED), PAIR),
    "UpsampleLike3D": Case(partial(layers.UpsampleLike3D, (2, 3, 1)), [FINITE[:, :2, :2], FINITE]),
    "FastBatchNormalization": Case(layers.FastBatchNormalization, FINITE),
    "FastBatchNormalization-plain": Case(
        partial(layers.FastBatchNormalization, 0.8, 1e-2, center=False, scale=False), FINITE
    ),
    "InstanceNormalization": Case(layers.InstanceNormalization, FINITE),
    "InstanceNormalization-observed": Case(partial(layers.InstanceNormalization, 1e-3), PAIR),
    "DeepSupervision": Case(
        partial(layers.DeepSupervision, [(2, 3, 1)], [1]), [FINITE, FINITE[:, :2, :2]], float32=True
    ),
    "ObservedNormalization": Case(layers.ObservedNormalization, FINITE, TRAINING, float32=True),
    "ObservedNormalization-invert": Case(
        partial(layers.ObservedNormalization, invert=True),
        FINITE[:, 0, 0, 0],
        TRAINING[:, 0, 0, 0],
        float32=True,
    ),
    "Zero": _fill(fill.Zero),
    **{
        f"{kind.__name__}-{per}": _fill(kind, per=per)
        for kind in (fill.Mean, fill.Median, fill.Mode)
        for per in ("voxel", "channel")
    },
    "LinearInterpolation": _fill(fill.LinearInterpolation),
    "LinearInterpolation-depth": _fill(fill.LinearInterpolation, axis="depth"),
    "Nearest": _fill(fill.Nearest, max_gap=2.0),
    "Kriging": _fill(fill.Kriging),
    "Kriging-max_gap": _fill(fill.Kriging, max_gap=2.0),
    "Learned": _fill(fill.Learned, filters=(2, 3), steps=2, seed=1),
    "KNN": _fill(fill.KNN, n_neighbors=2, max_rank=4, max_donors=8),
    "MatrixFactorization": _fill(fill.MatrixFactorization, rank=3, sweeps=3),
    "PerChannel": Case(
        partial(fill.make, {"0": "linear", "1": "median"}, {"1": {"per": "channel"}}),
        GAPPY,
        TRAINING,
        float32=True,
    ),
}

# One of each kind of computation: what `make test` checks on PyTorch too.
REPRESENTATIVE = (
    "GapDropout-slices",
    "MaskedConv3D-full",
    "GatedConv3D",
    "SpatialAttention3D",
    "UpsampleLike3D",
    "FastBatchNormalization",
    "ObservedNormalization",
    "Mean-voxel",
    "LinearInterpolation",
    "KNN",
    "MatrixFactorization",
)


def main(names: list[str]) -> int:
    failed = 0
    for name in names or list(CASES):
        try:
            CASES[name].check()
        except Exception:
            failed += 1
            print(f"{name} on {keras.backend.backend()}:\n{traceback.format_exc()[-1500:]}")
    print(f"{keras.backend.backend()}: {len(names or CASES) - failed} layers passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
