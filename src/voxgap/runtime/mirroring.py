"""Mirroring at test time: the mean over a volume's answers and those of its mirror images, turned back."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from voxgap.runtime.engines import Engine
from voxgap.volume import AXES, Values


def mirrored(engine: Engine, axes: Sequence[str], each_voxel: bool) -> Engine:
    """Return an engine that answers a batch along with its mirror images, at twice the cost for each axis.

    Source: Isensee et al., nnU-Net, Nature Methods 18, 2021.

    Args:
        engine: that answers each of them.
        axes: of `depth`, `height` and `width`, those that are mirrored: other mirror images than a training had are
            answered with nonsense.
        each_voxel: whether there is an answer for each voxel, `(batch, depth, height, width, outputs)`.
    """

    def run(batch: Values) -> Values:
        several = [place for place, axis in enumerate(AXES, 1) if axis in axes and batch.shape[place] > 1]
        chosen = [some for n in range(len(several) + 1) for some in itertools.combinations(several, n)]
        total = np.zeros((), np.float64)
        for some in chosen:
            answer = engine(np.ascontiguousarray(np.flip(batch, some)))
            total = total + (np.flip(answer, some) if each_voxel else answer)
        return np.asarray(total / len(chosen), np.float32)

    return run
