"""Where a network begins that does not begin at random: at the encoder of one that learnt to fill, without labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from voxgap.backend import keras
from voxgap.errors import VoxgapError
from voxgap.fill import Learned


class Taken(NamedTuple):
    """What a network took over.

    Attributes:
        stages: how many of its stages, from the first.
        of: how many it has.
        channels: of the filler and of the network; where they differ, the first convolution took means of channels.
        weights: how many numbers were taken over.
        filler, sha256: name of the bundle that they are of, and of its model.
    """

    stages: int
    of: int
    channels: tuple[int, int]
    weights: int
    filler: str = ""
    sha256: str = ""

    def words(self) -> str:
        """Say it in one line."""
        before, now = self.channels
        averaged = "" if before == now else f", the first convolution by means of {before} channels for {now}"
        took = (
            f"begins with {self.stages} of {self.of} stages of the filler's encoder, {self.weights:,} weights"
        )
        return took + averaged


def begin_with(model: keras.Model, filler: Learned) -> Taken:
    """Let the encoder of a network begin with that of a network that learnt to fill.

    The two convolutions of each stage go over, from the first stage on, as long as their shapes agree; what follows
    them, such as normalisation, begins as always. The first one sees values, and perhaps the observed map; where there
    are other channels than the filler had, each gets the mean over its channels, in such a scale that the sum stays
    (Wightman, PyTorch image models 2019, `adapt_input_conv`).

    Args:
        model: from `build_model`, not trained yet.
        filler: trained.

    Raises:
        VoxgapError: no stage agrees.
    """
    network = model.get_layer("network")
    # Of a masked or gated convolution it is the one inside.
    own = [getattr(layer, "convolution", layer) for layer in network.layers if layer.name.startswith("conv_")]
    learnt = [layer for layer in filler.network.layers if isinstance(layer, keras.layers.Conv3D)]
    learnt = learnt[: 2 * len(filler.filters)]
    channels = model.input_shape[-1]
    kinds = own[0].kernel.shape[-2] // channels if own else 1
    kernels = [np.asarray(keras.ops.convert_to_numpy(layer.kernel)) for layer in learnt]
    kernels[0] = _of_channels(kernels[0], filler.volume_shape[-1], channels, kinds)
    stages, count = 0, 0
    while 2 * stages < min(len(own), len(kernels)) and _agree(own, kernels, stages):
        for place in (2 * stages, 2 * stages + 1):
            own[place].kernel.assign(kernels[place])
            count += kernels[place].size
        stages += 1
    if not stages:
        filters = ",".join(map(str, filler.filters))
        raise VoxgapError(
            f"{model.name} has no stage of two convolutions as the filler's, of 3 x 3 x 3 voxels with filters "
            f"{filters}: choose resnet3d, unet3d or resunet3d, --filters {filters} and --kernel-size 3, without gated "
            "convolutions"
        )
    return Taken(stages, len(filler.filters), (filler.volume_shape[-1], channels), count)


def _agree(own: Sequence[Any], kernels: Sequence[Any], stage: int) -> bool:
    places = slice(2 * stage, 2 * stage + 2)
    return [tuple(layer.kernel.shape) for layer in own[places]] == [one.shape for one in kernels[places]]


def _of_channels(kernel: Any, before: int, now: int, kinds: int) -> Any:
    """Return a first kernel for other channels: of values and, as a second kind, of the observed map."""
    parts = []
    for kind in range(kinds):
        part = kernel[..., kind * before : (kind + 1) * before, :]
        if before != now:
            part = np.repeat(part.mean(axis=-2, keepdims=True) * before / now, now, axis=-2)
        parts.append(part)
    return np.concatenate(parts, axis=-2)
