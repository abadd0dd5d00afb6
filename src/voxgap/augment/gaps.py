"""Missingness as augmentation: gaps that a network will meet, added where it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from voxgap import missingness
from voxgap.augment.spatial import ends
from voxgap.augment.transform import Pointwise, Record, Shape, Spacing
from voxgap.errors import VoxgapError
from voxgap.missingness import MECHANISMS, PATTERNS
from voxgap.volume import Values


@dataclass(frozen=True)
class ExtraGaps(Pointwise):
    """Add gaps of a random pattern and missing rate; gaps that are there already stay.

    Args:
        patterns: The patterns drawn from.
        missing_rate: Lowest and highest share of what is still observed that goes missing.
        mechanism: What it depends on; the same rate in each volume, see `voxgap.missingness.sample_gaps`.
        options: Further arguments of `voxgap.missingness.simulate`, such as `{"axis": "height"}`; JSON-able.
        p: Probability that anything happens at all.
    """

    patterns: tuple[str, ...] = ("slices", "blocks", "voxels")
    missing_rate: tuple[float, float] = (0.0, 0.4)
    mechanism: str = "mcar"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = ends("ExtraGaps: missing_rate", self.missing_rate)
        if low < 0 or high > 1:
            raise VoxgapError(f"ExtraGaps: missing_rate {self.missing_rate} is out of range; give 0 to 1")
        for given, known in ((self.patterns, PATTERNS), ((self.mechanism,), MECHANISMS)):
            if isinstance(given, str) or not given or any(one not in known for one in given):
                raise VoxgapError(
                    f"ExtraGaps: {given!r} is unknown; choose from {', '.join(known)}, as a tuple"
                )

    def _draw(self, rng: np.random.Generator, shape: Shape, spacing: Spacing | None) -> Record:
        return {
            "pattern": str(rng.choice(self.patterns)),
            "missing_rate": float(rng.uniform(*self.missing_rate)),
            "mechanism": self.mechanism,
            "options": dict(self.options),
            "seed": int(rng.integers(2**32)),
        }

    @classmethod
    def change(cls, volume: Values, record: Record) -> None:
        """Simulate the record's gaps, in place; NaN that is there stays."""
        pattern, mechanism = record["pattern"], record["mechanism"]
        rate, options = record["missing_rate"], record.get("options", {})
        volume[...] = missingness.simulate(volume, pattern, rate, mechanism, seed=record["seed"], **options)


@dataclass(frozen=True)
class ChannelDropout(Pointwise):
    """Make whole channels (modalities) missing, never the last one that is observed.

    So of two channels with rates 0.5 and 0.1, both are drawn in one of 20 volumes, one of them stays, and they are
    missing in 0.475 and 0.075.

    Args:
        rate: Probability that a channel is drawn; or one for each channel, about as often as it will be missing later.
        p: Probability that anything happens at all.
    """

    rate: float | tuple[float, ...] = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not np.size(self.rate) or not all(0 <= rate <= 1 for rate in np.atleast_1d(self.rate)):
            raise VoxgapError(f"ChannelDropout: rate {self.rate} is out of range; give a number from 0 to 1")

    def _draw(self, rng: np.random.Generator, shape: Shape, spacing: Spacing | None) -> Record:
        if np.ndim(self.rate) and np.size(self.rate) != shape[3]:
            raise VoxgapError(
                f"ChannelDropout: {np.size(self.rate)} rates for {shape[3]} channels; give one number, or one for each"
            )
        rates = np.broadcast_to(self.rate, shape[3])
        order = rng.permutation(shape[3])
        return {"channels": [int(channel) for channel in order if rng.random() < rates[channel]]}

    @classmethod
    def change(cls, volume: Values, record: Record) -> None:
        """Set the record's channels to NaN, in place, as long as another one is observed."""
        observed = np.atleast_1d(~np.isnan(volume).all(axis=(0, 1, 2)))
        for channel in record["channels"]:
            if observed.sum() > 1 or not observed[channel]:
                volume[..., channel] = np.nan
                observed[channel] = False
