"""Which missing channel of one scan is worth acquiring next, by the certificate that a bundle's manifest keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from voxgap.errors import VoxgapError

COLUMNS = ("acquire_next", "worth", "worth_low", "worth_high", "advice")
"""Of a table, where advice is asked for."""
TEXTS = {"acquire_next", "advice"}
"""Those of them that hold no numbers."""
_MOST_STEPS = 2**16


@dataclass(frozen=True)
class Worth:
    """What one more channel was worth to the scans of a certificate.

    Args:
        channel: that was added to those that were there.
        value: by how much the metric got better.
        interval: 95 %, `(low, high)`; None where the draws don't say.
        scans: that had all of them.
    """

    channel: str
    value: float
    interval: tuple[float, float] | None
    scans: int


@dataclass(frozen=True)
class Advice:
    """What to acquire next for one scan.

    Args:
        metric: of the worths.
        had: channels of which something is there.
        missing: channels of which nothing is there.
        worths: of the missing channels that were measured beside these, the best first.
    """

    metric: str
    had: tuple[str, ...]
    missing: tuple[str, ...]
    worths: tuple[Worth, ...] = ()

    @property
    def words(self) -> str:
        """The same in one line, for people."""
        if not self.missing:
            return "every channel is there"
        beside = " + ".join(self.had) or "nothing"
        if not self.worths:
            return f"no certificate of scans with {beside} says what {', '.join(self.missing)} is worth"
        said = (f"{worth.channel} {_number(worth)} (of {worth.scans} scans)" for worth in self.worths)
        return f"beside {beside}, better {self.metric.replace('_', ' ')} by: {', '.join(said)}"

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain values."""
        worths = [
            {
                "channel": one.channel,
                "worth": one.value,
                "interval": None if one.interval is None else list(one.interval),
                "scans": one.scans,
            }
            for one in self.worths
        ]
        return {"metric": self.metric, "missing": list(self.missing), "worths": worths}

    def row(self) -> dict[str, Any]:
        """Return the best in `COLUMNS`; without one, nothing but the line that says why."""
        if not self.worths:
            return {"advice": self.words}
        best = self.worths[0]
        low, high = best.interval or (None, None)
        return dict(zip(COLUMNS, (best.channel, best.value, low, high, self.words), strict=True))


@dataclass(frozen=True)
class Worths:
    """What a certificate measured of single channels.

    Args:
        metric: of the worths.
        channels: of the network.
        steps: by the channels that are there, the best first.
    """

    metric: str
    channels: tuple[str, ...]
    steps: Mapping[frozenset[str], tuple[Worth, ...]]

    def of_volume(self, volume: Any) -> Advice:
        """Say what to acquire next for a network's input, `(depth, height, width, channels)`, NaN = missing."""
        gone = np.isnan(volume).all(axis=(0, 1, 2)).tolist()
        missing = tuple(name for name, lacks in zip(self.channels, gone, strict=True) if lacks)
        had = tuple(name for name in self.channels if name not in missing)
        return Advice(self.metric, had, missing, self.steps.get(frozenset(had), ()))

    @classmethod
    def of(cls, manifest: Mapping[str, Any], where: str) -> Worths | None:
        """Return the worths in a bundle's manifest, None where there is no certificate.

        Raises:
            VoxgapError: the field holds something else.
        """
        data = manifest.get("certificate")
        if not data:
            return None
        channels = tuple(manifest["input"]["channels"])
        try:
            found: dict[frozenset[str], list[Worth]] = {}
            if len(data["steps"]) > _MOST_STEPS:
                raise ValueError("too many steps")
            for step in data["steps"]:
                had, channel, worth = frozenset(step["had"]), step["channel"], step["worth"]
                if not {*had, channel} <= {*channels} or channel in had:
                    raise ValueError("no channel of this network")
                if worth["value"] is not None:
                    low, high = map(_finite, worth["interval"] or (0, 0))
                    interval = (low, high) if worth["interval"] else None
                    one = Worth(channel, _finite(worth["value"]), interval, int(step["scans"]))
                    found.setdefault(had, []).append(one)
            steps = {had: tuple(sorted(some, key=lambda one: -one.value)) for had, some in found.items()}
            return cls(str(data["metric"]), channels, steps)
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError):
            raise VoxgapError(
                f"{where}: field certificate is not one of this network; make it again with voxgap certify"
            ) from None


def _number(worth: Worth) -> str:
    within = f" ({worth.interval[0]:+.3f} to {worth.interval[1]:+.3f})" if worth.interval else ""
    return f"{worth.value:+.3f}{within}"


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("not a number")
    return float(value)
