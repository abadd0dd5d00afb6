"""What the tests of augmentation share: a volume with gaps, every transform, one turn."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from voxgap import augment as va

SHAPE = (9, 12, 11, 2)
AXES = ("depth", "height", "width")
EVERY: dict[str, va.Transform] = {
    "flip": va.Flip(AXES),
    "rotate90": va.Rotate90(),
    "rotate": va.Rotate(40),
    "scale": va.Scale((0.7, 1.4), same=False),
    "translate": va.Translate(0.2),
    "shear": va.Shear(0.2),
    "elastic": va.Elastic(0.05),
    "pad": va.Pad((12, 12, 12)),
    "crop": va.Crop((7, 8, 9)),
    "noise": va.Noise((0.05, 0.1)),
    "blur": va.Blur(),
    "gamma": va.Gamma(),
    "bias_field": va.BiasField(),
    "extra_gaps": va.ExtraGaps(missing_rate=(0.1, 0.4)),
    "channel_dropout": va.ChannelDropout(0.5),
    "compose": va.preset("scan", "strong"),
    "one_of": va.OneOf((va.Rotate(), va.Noise())),
}
POINTWISE = ("noise", "blur", "gamma", "bias_field")


def gapped(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    """A volume with missing voxels, one missing slice and one missing block in one channel."""
    rng = np.random.default_rng(seed)
    volume = rng.random(shape, dtype=np.float32)
    volume[rng.random(shape) < 0.1] = np.nan
    volume[shape[0] // 3] = np.nan
    volume[1:4, 2:6, 3:5, 0] = np.nan
    return volume


def smooth(size: int) -> np.ndarray:
    z, y, x = np.meshgrid(*[np.linspace(0, 3, size)] * 3, indexing="ij")
    return (np.sin(z) + np.cos(y) * x / 3)[..., None].astype(np.float32)


def same_bits(first: np.ndarray, second: np.ndarray) -> bool:
    return first.shape == second.shape and first.tobytes() == second.tobytes()


def affine(steps: list[va.Record], **border: Any) -> va.Record:
    return {"transform": "compose", "steps": steps, "border": border}


TURNED = [
    {"transform": "rotate", "degrees": [20.0, -15.0, 35.0], "spacing": [1.0, 1.0, 1.0]},
    {"transform": "scale", "factors": [1.1, 0.9, 1.2]},
    {"transform": "translate", "voxels": [0.4, -1.3, 2.2]},
]


def reference(
    volume: np.ndarray, matrix: np.ndarray, size: tuple[int, int, int], threshold: float
) -> np.ndarray:
    """The gap rule as it is written down: loops, double precision, no fast path."""
    out = np.full((*size, volume.shape[-1]), np.nan)
    for index in np.ndindex(*size):
        place = matrix[:3, :3] @ index + matrix[:3, 3]
        low = np.floor(place).astype(int)
        for channel in range(volume.shape[-1]):
            total = weight = 0.0
            for corner in np.ndindex(2, 2, 2):
                at = low + corner
                if (at < 0).any() or (at >= volume.shape[:3]).any():
                    continue
                value = float(volume[(*at, channel)])
                share = float(np.prod(np.where(corner, place - low, 1 - (place - low))))
                if not math.isnan(value):
                    total, weight = total + share * value, weight + share
            if abs(weight - threshold) < 1e-6:
                out[(*index, channel)] = np.inf
            elif weight >= threshold:
                out[(*index, channel)] = total / weight
    return out
