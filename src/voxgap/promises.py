"""The one rule that turns an answer and the gaps of its input into what is guaranteed of it, in every runtime alike.

What is guaranteed holds for each pattern of gaps by itself: of scans with these channels missing, and about as much of
the others, the share that was asked for is covered. A pattern depends on the network's input alone, so that whoever
computes an answer knows it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError

RATES = (0.0, 0.25, 0.5, 0.75)
"""Between them lie the kinds of missing rates: none, up to a quarter, ... Fixed before any data is seen, as they must
be for the guarantee."""
TOLERANCE = 1e-5
"""How far an answer in float32 may lie from that of the trained network, see `voxgap.bundle.parity`: thresholds are
widened by as much."""

Rests = Literal["pattern", "assumption"]
_MOST_CLAIMS = 2**16


class Pattern(NamedTuple):
    """A pattern of gaps.

    Args:
        missing: indices of the channels of which nothing was observed.
        rate: kind of the missing rate of all the others: how many of `RATES` lie below it.
    """

    missing: tuple[int, ...]
    rate: int

    def words(self, channels: Sequence[str]) -> str:
        """Return the pattern, for people: `flair missing, of the rest up to 25 %`."""
        lacking = ", ".join(channels[i] for i in self.missing)
        if len(self.missing) == len(channels):
            return "everything missing"
        within = f"{RATES[self.rate - 1]:.0%} to " if self.rate > 1 else "up to "
        upper = RATES[self.rate] if self.rate < len(RATES) else 1
        much = f"{within}{upper:.0%}" if self.rate else "nothing"
        if not lacking:
            return f"{much} missing"
        return f"{lacking} missing, and {much} of the rest"


def pattern_of(volume: Any) -> Pattern:
    """Return the pattern of a network's input, `(depth, height, width, channels)`, NaN = missing.

    What a grid adds around a scan is missing from the input as well, and counts.
    """
    return counted(missing_of(volume), math.prod(np.shape(volume)[:-1]))


def missing_of(volume: Any) -> NDArray[np.int64]:
    """How many voxels of each channel are missing, `(channels,)`."""
    gone = np.isnan(volume)
    return np.asarray(gone.reshape(-1, gone.shape[-1]).sum(axis=0), np.int64)


def counted(counts: NDArray[np.int64], voxels: int) -> Pattern:
    """Return the pattern of an input of so many voxels, of which so many are missing in each channel."""
    whole = tuple(np.flatnonzero(counts == voxels).tolist())
    left = len(counts) - len(whole)
    rate = int(counts.sum() - voxels * len(whole)) / (voxels * left) if left else 0.0
    return Pattern(whole, sum(bound < rate for bound in RATES))


@dataclass(frozen=True)
class Claim:
    """What is known of one pattern of gaps.

    Args:
        thresholds: the least probability of a class that is in the set (one number); how far a value may lie from the
            answer, for each output; or the least probability of a voxel that belongs to the region of a class, for
            each class but the first, None where too few scans have it.
        samples: that it was calibrated on; of groups, groups.
        rests: on answers for scans with this very pattern; or on the assumption that channels are missing
            independently of values and label, on scans whose channels were taken away.
    """

    thresholds: tuple[float | None, ...]
    samples: int
    rests: Rests = "pattern"


@dataclass(frozen=True, eq=False)
class Promise:
    """What is guaranteed of one answer.

    Args:
        coverage: share of scans with such gaps for which it holds; of a segmentation, mean share of a class's volume
            that lies within its region.
        pattern: of the gaps, in words.
        rests: see `Claim`; None where nothing is guaranteed for this pattern.
        classes: that the true one is among.
        intervals: that the values lie in, each by itself `(low, high)`.
        regions: names of the classes that have a region: not the first one, and none of which too few scans were
            calibrated on.
        region: which of these regions each voxel is in, `(depth, height, width, regions)`.
    """

    coverage: float
    pattern: str
    rests: Rests | None = None
    classes: tuple[str, ...] | None = None
    intervals: tuple[tuple[float, float], ...] | None = None
    regions: tuple[str, ...] = ()
    region: NDArray[np.bool_] | None = None

    @property
    def voxels(self) -> dict[str, int] | None:
        """How many voxels of the network's input each region has."""
        if self.region is None:
            return None
        counts = self.region.reshape(-1, len(self.regions)).sum(axis=0).tolist()
        return dict(zip(self.regions, counts, strict=True))

    @property
    def words(self) -> str:
        """What it rests on in one line, for people."""
        if self.rests is None:
            return f"nothing is guaranteed for {self.pattern}: too few such scans were calibrated on"
        said = f"{self.coverage:.4g} for {self.pattern}"
        return said + (", if gaps depend on nothing" if self.rests == "assumption" else "")

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain values, of regions how large they are."""
        found: dict[str, Any] = {"coverage": self.coverage, "pattern": self.pattern, "rests": self.rests}
        if self.classes is not None:
            found["classes"] = list(self.classes)
        if self.intervals is not None:
            found["intervals"] = [list(bounds) for bounds in self.intervals]
        if (voxels := self.voxels) is not None:
            found["voxels"] = voxels
        return found


@dataclass(frozen=True)
class Guarantee:
    """What was calibrated on data that a network has never met; it lives in the bundle's manifest.

    Args:
        coverage: that was asked for.
        claims: by pattern; there is none for a pattern of which nothing is known.
        channels: names of the network's.
        samples: that were calibrated on, of all patterns; of groups, groups.
        tolerance: how far the answers of this runtime may lie from those that were calibrated on.
        informative: what the gaps were found to depend on, in words, so that nothing was borrowed between patterns.
    """

    coverage: float
    claims: Mapping[Pattern, Claim]
    channels: tuple[str, ...]
    samples: int = 0
    tolerance: float = TOLERANCE
    informative: str = ""

    def of_answer(self, volume: Any, values: Any, task: str, classes: Sequence[str]) -> Promise:
        """Say what is guaranteed of one answer.

        Args:
            volume: the network's input, `(depth, height, width, channels)`, NaN = missing.
            values: the network's own answer: probabilities `(..., classes)`, or values `(outputs,)`.
            task, classes: of the network.
        """
        pattern = pattern_of(volume)
        claim = self.claims.get(pattern)
        said = Promise(self.coverage, pattern.words(self.channels))
        if claim is None:
            return said
        said = replace(said, rests=claim.rests)
        found = promised(task, values, claim.thresholds, self.tolerance)
        if task == "regression":
            return replace(said, intervals=tuple((low, high) for low, high in found.tolist()))
        if task == "segmentation":
            known = [one is not None for one in claim.thresholds]
            names = tuple(name for name, one in zip(classes[1:], known, strict=True) if one)
            return replace(said, regions=names, region=found[..., known])
        return replace(said, classes=tuple(name for name, held in zip(classes, found, strict=True) if held))

    def within(self, tolerance: float | None) -> Guarantee | None:
        """Return the same for a runtime whose answers lie within this of the network's own; None: nobody knows."""
        if tolerance is None:
            return None
        # What lies between what was calibrated on and the trained network comes on top.
        return replace(self, tolerance=max(self.tolerance, self.tolerance - TOLERANCE + tolerance))

    def words(self) -> str:
        """Return what is guaranteed, in one line, for people."""
        own = sum(claim.rests == "pattern" for claim in self.claims.values())
        more = len(self.claims) - own
        assumed = f", {more} more if gaps depend on nothing" if more else ""
        patterns = f"{own} pattern" + "s" * (own != 1)
        return f"guarantee: coverage {self.coverage:.4g} for {patterns} of gaps{assumed}"

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain values, for a manifest's field `guarantee`."""
        claims = [
            {
                "missing": [self.channels[i] for i in pattern.missing],
                "rate": pattern.rate,
                "thresholds": list(claim.thresholds),
                "samples": claim.samples,
                "rests": claim.rests,
            }
            for pattern, claim in sorted(self.claims.items())
        ]
        said = {"coverage": self.coverage, "tolerance": self.tolerance, "rates": list(RATES)}
        return said | {"samples": self.samples, "informative": self.informative, "claims": claims}

    @classmethod
    def of(cls, manifest: Mapping[str, Any], where: str) -> Guarantee | None:
        """Return the guarantee in a bundle's manifest, None where there is none.

        Raises:
            VoxgapError: the field holds something else, or other kinds of rates than this voxgap knows.
        """
        data = manifest.get("guarantee")
        if not data:
            return None
        channels = tuple(manifest["input"]["channels"])
        outputs = manifest["outputs"]
        count = {"regression": outputs, "segmentation": outputs - 1}.get(manifest["task"], 1)
        try:
            if list(data["rates"]) != list(RATES) or len(data["claims"]) > _MOST_CLAIMS:
                raise ValueError("other rates")
            coverage, tolerance = _number(data["coverage"]), _number(data["tolerance"])
            if not 0 < coverage < 1 or tolerance < 0:
                raise ValueError("no coverage")
            claims = {}
            for entry in data["claims"]:
                pattern = Pattern(
                    tuple(sorted(channels.index(name) for name in entry["missing"])), int(entry["rate"])
                )
                limits = tuple(None if one is None else _number(one) for one in entry["thresholds"])
                sure = manifest["task"] == "segmentation" or None not in limits
                if len(limits) != count or not sure or not 0 <= pattern.rate <= len(RATES):
                    raise ValueError("no claim of this network")
                rests: Rests = "assumption" if entry["rests"] == "assumption" else "pattern"
                claims[pattern] = Claim(limits, int(entry["samples"]), rests)
            said = str(data.get("informative", ""))
            return cls(coverage, claims, channels, int(data["samples"]), tolerance, said)
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError):
            raise VoxgapError(
                f"{where}: field guarantee is not one of this network; make it again with voxgap guarantee"
            ) from None


def promised(
    task: str, values: Any, thresholds: Sequence[float | None], tolerance: float = TOLERANCE
) -> NDArray[Any]:
    """Return the rule itself: what thresholds make of an answer.

    Args:
        task: `classification`, `regression` or `segmentation`.
        values: the network's own answer, `(classes,)`, `(outputs,)` or `(..., classes)`.
        thresholds: of a `Claim`.
        tolerance: by which they are widened, so that an answer from another runtime is covered as well.

    Returns:
        Which classes are in the set, boolean `(classes,)`; bounds `(outputs, 2)`; or which classes but the first have
        a voxel in their region, boolean `(..., classes - 1)`.
    """
    # In float64, as the page compares.
    answer = np.asarray(values, np.float64)
    if task == "regression":
        reach = np.asarray(thresholds, np.float64) + tolerance * np.maximum(1.0, np.abs(answer))
        return np.stack([answer - reach, answer + reach], axis=-1)
    limits = np.array([math.inf if one is None else one - tolerance for one in thresholds])
    return np.asarray((answer[..., 1:] if task == "segmentation" else answer) >= limits)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("not a number")
    return float(value)
