"""Transforms that change values where they are: never a missing one, and never by one."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voxgap.augment.spatial import check_axes, ends
from voxgap.augment.transform import AXES, Axis, Pointwise, Record, Shape, Spacing
from voxgap.errors import VoxgapError
from voxgap.volume import Values


@dataclass(frozen=True)
class Noise(Pointwise):
    """Add Gaussian noise.

    Args:
        deviation: Lowest and highest standard deviation, relative to that of each channel's observed values.
        p: Probability that anything happens at all.
    """

    deviation: tuple[float, float] = (0.0, 0.1)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_low("Noise: deviation", self.deviation, 0)

    def _draw(self, rng: np.random.Generator, shape: Shape, spacing: Spacing | None) -> Record:
        return {"deviation": float(rng.uniform(*self.deviation)), "seed": int(rng.integers(2**32))}

    @classmethod
    def change(cls, volume: Values, record: Record) -> None:
        """Add noise in place, by the standard deviation of each channel's observed values."""
        rng = np.random.default_rng(record["seed"])
        for channel in np.moveaxis(volume, -1, 0):
            observed = channel[~np.isnan(channel)]
            if observed.size:
                scale = np.float32(record["deviation"] * observed.std(dtype=np.float64))
                channel += scale * rng.standard_normal(channel.shape, np.float32)


@dataclass(frozen=True)
class Blur(Pointwise):
    """Smooth with a Gaussian that leaves out what is missing.

    Source: normalised convolution, Knutsson and Westin, CVPR 1993.

    Args:
        sigma: Lowest and highest standard deviation, in voxels along the finest axis; fewer along axes with a
            larger spacing.
        axes: Which axes are smoothed along.
        p: Probability that anything happens at all.
    """

    sigma: tuple[float, float] = (0.3, 1.0)
    axes: tuple[Axis, ...] = AXES

    def __post_init__(self) -> None:
        super().__post_init__()
        check_axes("Blur", self.axes)
        _check_low("Blur: sigma", self.sigma, 0)

    def _draw(self, rng: np.random.Generator, shape: Shape, spacing: Spacing | None) -> Record:
        sigma = float(rng.uniform(*self.sigma))
        sizes = spacing or (1.0, 1.0, 1.0)
        finest = min(sizes)
        along = [sigma * finest / size for size in sizes]
        return {"sigmas": [s if axis in self.axes else 0.0 for s, axis in zip(along, AXES, strict=True)]}

    @classmethod
    def change(cls, volume: Values, record: Record) -> None:
        """Smooth each channel in place, over its observed voxels only."""
        from scipy.ndimage import gaussian_filter

        for channel in np.moveaxis(volume, -1, 0):
            observed = ~np.isnan(channel)
            total = gaussian_filter(np.where(observed, channel, 0), record["sigmas"], mode="nearest")
            if not observed.all():
                weight = gaussian_filter(observed.astype(np.float32), record["sigmas"], mode="nearest")
                # An observed voxel weighs in itself, so what is kept is never a division by nothing.
                total = np.divide(total, weight, out=np.full_like(total, np.nan), where=observed)
            channel[...] = total


@dataclass(frozen=True)
class Gamma(Pointwise):
    """Raise values to a power, between the lowest and the highest observed value of each channel.

    Args:
        exponent: Lowest and highest exponent, drawn evenly on a logarithmic scale.
        p: Probability that anything happens at all.
    """

    exponent: tuple[float, float] = (0.7, 1.4)

    def __post_init__(self) -> None:
        super().__post_init__()
        if _check_low("Gamma: exponent", self.exponent, 0) == 0:
            raise VoxgapError(f"Gamma: exponent {self.exponent} is out of range; give two positive numbers")

    def _draw(self, rng: np.random.Generator, shape: Shape, spacing: Spacing | None) -> Record:
        return {"exponent": float(np.exp(rng.uniform(*np.log(self.exponent))))}

    @classmethod
    def change(cls, volume: Values, record: Record) -> None:
        """Raise the values of each channel to the record's exponent, in place and within their own range."""
        for channel in np.moveaxis(volume, -1, 0):
            low, high = np.fmin.reduce(channel, axis=None), np.fmax.reduce(channel, axis=None)
            if high > low:
                channel[...] = low + (high - low) * ((channel - low) / (high - low)) ** np.float32(
                    record["exponent"]
                )


@dataclass(frozen=True)
class BiasField(Pointwise):
    """Multiply by a smooth field, as an uneven coil or lamp does: exp of a random polynomial.

    Source: Van Leemput et al., IEEE Transactions on Medical Imaging 18 (1999).

    Args:
        strength: Largest coefficient of the polynomial.
        order: Its degree.
        axes: The axes along which the field varies.
        p: Probability that anything happens at all.
    """

    strength: float = 0.3
    order: int = 3
    axes: tuple[Axis, ...] = AXES

    def __post_init__(self) -> None:
        super().__post_init__()
        check_axes("BiasField", self.axes)
        if not 1 <= self.order <= 6 or not 0 <= self.strength < math.inf:
            raise VoxgapError("BiasField: give an order from 1 to 6 and a strength of 0 or more")

    def _draw(self, rng: np.random.Generator, shape: Shape, spacing: Spacing | None) -> Record:
        coefficients = np.zeros((self.order + 1,) * 3)
        for powers in itertools.product(range(self.order + 1), repeat=3):
            varies = all(n == 0 or axis in self.axes for n, axis in zip(powers, AXES, strict=True))
            if 0 < sum(powers) <= self.order and varies:
                coefficients[powers] = rng.uniform(-self.strength, self.strength)
        return {"coefficients": coefficients.tolist()}

    @classmethod
    def change(cls, volume: Values, record: Record) -> None:
        """Multiply by the record's field in place, the same for all channels."""
        field: NDArray[np.float32] = np.asarray(record["coefficients"], np.float32)
        for size in volume.shape[:3]:
            powers = np.vander(np.linspace(-1, 1, size, dtype=np.float32), field.shape[0], increasing=True)
            # Each contraction takes the first axis and adds the space's own as the last.
            field = np.tensordot(field, powers, axes=(0, 1))
        volume *= np.exp(field)[..., np.newaxis]


def _check_low(what: str, given: tuple[float, float], least: float) -> float:
    low, _ = ends(what, given)
    if low < least:
        raise VoxgapError(f"{what} {given} is out of range; give {least} or more")
    return low
