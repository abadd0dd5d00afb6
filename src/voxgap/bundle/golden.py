"""Golden inputs: volumes with every kind of gap, and what the trained model answered, kept in the bundle."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxgap.bundle.parity import differences
from voxgap.dataset import Dataset
from voxgap.errors import VoxgapError
from voxgap.missingness import simulate
from voxgap.patches import Size, random_corner, read_patch
from voxgap.ragged import shape_of
from voxgap.runtime.golden import Golden
from voxgap.volume import Values, as_batch

_KEPT, _DRAWN = 2, 6  # inputs of each kind of gap, and how many they are chosen from
_LARGE = 2**24  # values of one volume; of larger ones, one of two is kept
_STEADY = 2e-5


def draw(volumes: Values, size: Size, count: int = _KEPT, seed: int = 0) -> tuple[Values, NDArray[np.str_]]:
    """Draw volumes, and make each kind of gap in them.

    Args:
        volumes: `(n, depth, height, width, channels)`, NaN = missing.
        size: `(depth, height, width)` of the network's input; of larger volumes, a patch is drawn.
        count: of volumes.
        seed: which ones, and where the gaps are.

    Returns:
        The inputs, and the kind of gap in each: `as_recorded`, `complete` (its gaps filled with the channel's
        mean), `voxels`, `slices`, `blocks`, `channel` (where there are several) and `everything`.
    """
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(volumes))[:count])
    cut = [
        read_patch(volumes, int(i), random_corner(shape_of(volumes, int(i))[:3], size, rng), size)
        for i in chosen
    ]
    recorded = np.stack(cut).astype(np.float32)
    complete = np.where(np.isnan(recorded), _channel_means(recorded), recorded)
    block = (min(4, size[0]), min(4, size[1]), min(4, size[2]))
    made = {
        "as_recorded": recorded,
        "complete": complete,
        "voxels": simulate(complete, "voxels", 0.3, seed=rng),
        "slices": simulate(complete, "slices", 0.5, seed=rng),
        "blocks": simulate(complete, "blocks", 0.3, block_size=block, seed=rng),
    }
    channels = recorded.shape[-1]
    if channels > 1:
        absent = np.arange(channels) == rng.integers(channels)
        made["channel"] = np.where(absent, np.float32(np.nan), complete)
    made["everything"] = np.full_like(recorded[:1], np.nan)
    gaps = np.concatenate([np.full(len(inputs), kind) for kind, inputs in made.items()])
    return np.concatenate(list(made.values())).astype(np.float32), gaps


def make(model: Any, dataset: Dataset | None, volumes: Values | None = None) -> Golden:
    """Draw golden inputs and answer them.

    Args:
        model: the trained Keras model.
        dataset: the inputs come from its validation part, or from training where it has none.
        volumes: draw from these instead, `(n, depth, height, width, channels)`; needed where there is no data set.

    Raises:
        VoxgapError: there is no volume to draw from.
    """
    if volumes is None and dataset is not None:
        part = dataset.part("validation")
        volumes = (part if len(part) else dataset.part("train")).volumes
    else:
        volumes = as_batch(volumes, "golden_volumes", allow_empty=True)
    if not len(volumes):
        raise VoxgapError("a bundle needs a training volume, or golden_volumes=, to prove its exports with")
    size = tuple(model.input_shape[1:4])
    kept, drawn = (1, 2) if math.prod(size) * volumes.shape[-1] > _LARGE else (_KEPT, _DRAWN)
    inputs, gaps = draw(volumes, size, drawn)
    outputs = _answers(model, inputs, 4)
    # KNN takes another donor where two are equally near to within rounding, which depends on the batch even in one
    # runtime. What the model itself does not answer twice the same proves nothing of another.
    others = _answers(model, inputs, 1), _answers(model, inputs * np.float32(1 + 2**-20), 4)
    wavering = np.max([differences(outputs, other) for other in others], axis=0) > _STEADY
    chosen = [
        sorted(np.flatnonzero(gaps == kind), key=lambda i: bool(wavering[i]))[:kept]
        for kind in dict.fromkeys(gaps)
    ]
    index = np.concatenate(chosen)
    return Golden(inputs[index], outputs[index], gaps[index])


def _answers(model: Any, inputs: Values, batch_size: int) -> Values:
    from voxgap.backend import answers

    return answers(model, inputs, batch_size).astype(np.float32)


def to_bytes(golden: Golden) -> bytes:
    """Return the golden inputs and outputs as an `.npz`, the same bytes for the same content."""
    file = io.BytesIO()
    np.savez_compressed(file, inputs=golden.inputs, outputs=golden.outputs, gaps=golden.gaps)
    return file.getvalue()


def _channel_means(volumes: Values) -> Values:
    observed = ~np.isnan(volumes)
    axes = tuple(range(volumes.ndim - 1))
    total = np.where(observed, volumes, 0).sum(axis=axes, dtype=np.float64)
    return np.asarray(total / np.maximum(observed.sum(axis=axes), 1), np.float32)
