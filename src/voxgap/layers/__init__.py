"""Keras layers for volumes with gaps; they know arrays and tensors, no Volume.

Example:
    >>> import keras, voxgap as vg
    >>> volumes = keras.Input((16, 16, 16, 1))
    >>> x = vg.layers.MaskedConv3D(8, 3)(vg.layers.SplitMissing()(volumes))[0]
    >>> keras.Model(volumes, x).output_shape
    (None, 14, 14, 14, 8)
"""

import voxgap.backend  # noqa: F401  (first, so that Keras comes quietly)
from voxgap.layers.attention import SpatialAttention3D, SqueezeExcitation3D
from voxgap.layers.convolution import GatedConv3D, MaskedConv3D
from voxgap.layers.intensity import VolumeNormalization
from voxgap.layers.missing import GapDropout, SplitMissing, split_missing
from voxgap.layers.normalization import FastBatchNormalization, InstanceNormalization, ObservedNormalization
from voxgap.layers.supervision import DeepSupervision
from voxgap.layers.upsampling import UpsampleLike3D

__all__ = [
    "DeepSupervision",
    "FastBatchNormalization",
    "GapDropout",
    "GatedConv3D",
    "InstanceNormalization",
    "MaskedConv3D",
    "ObservedNormalization",
    "SpatialAttention3D",
    "SplitMissing",
    "SqueezeExcitation3D",
    "UpsampleLike3D",
    "VolumeNormalization",
    "split_missing",
]
