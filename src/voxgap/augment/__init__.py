"""Augmentation in which gaps move with the data.

A transform draws its parameters into a record of plain numbers and applies it; the record can be kept as
JSON and applied again. All spatial transforms of a `Compose` become one resampling between observed
neighbours, so that a gap neither spreads nor is smeared over. The compiled kernel is imported when a volume
is first resampled.

    augment = Compose([Flip(("width",)), Rotate(15), Scale((0.9, 1.1)), Noise((0, 0.1))])
    batch = augment(volumes, (seed, epoch, index), threads=2)

Example:
    >>> import numpy as np
    >>> from voxgap.augment import Compose, Flip, Translate
    >>> volume = np.arange(4, dtype="float32").reshape(1, 1, 4, 1)
    >>> augment = Compose([Flip(("width",), p=1)])
    >>> record = augment.sample(np.random.default_rng(1), volume.shape)
"""

from voxgap.augment.compose import Compose, OneOf, from_text, mirrors, preset
from voxgap.augment.gaps import ChannelDropout, ExtraGaps
from voxgap.augment.intensity import BiasField, Blur, Gamma, Noise
from voxgap.augment.resample import Border, Geometry
from voxgap.augment.spatial import Crop, Elastic, Flip, Pad, Rotate, Rotate90, Scale, Shear, Translate
from voxgap.augment.transform import Record, Transform, apply, fused, invert

__all__ = [
    "BiasField",
    "Blur",
    "Border",
    "ChannelDropout",
    "Compose",
    "Crop",
    "Elastic",
    "ExtraGaps",
    "Flip",
    "Gamma",
    "Geometry",
    "Noise",
    "OneOf",
    "Pad",
    "Record",
    "Rotate",
    "Rotate90",
    "Scale",
    "Shear",
    "Transform",
    "Translate",
    "apply",
    "from_text",
    "fused",
    "invert",
    "mirrors",
    "preset",
]
