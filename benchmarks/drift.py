"""How often the drift test cries wolf, and how soon it sees one: streams, each with a finite reference drawn anew.

python benchmarks/drift.py
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from voxgap.trust.drift import FALSE_ALARMS, Watch

STREAMS, REFERENCE, LENGTH, CHANGE = 10_000, 100, 200, 100


def draw(count: int, rng: np.random.Generator, moved: float = 0.0) -> Mapping[str, NDArray[np.float64]]:
    """Scans whose missing rate has ties, whose values are skewed, and which lack a channel now and then."""
    rate = np.round(np.clip(rng.normal(0.3 + moved, 0.1, count), 0, 1), 2)
    values = rng.exponential(1.0, count) + rate
    other = np.where(rng.random(count) < 0.2, np.nan, rng.normal(size=count))
    return {"missing rate of t1": rate, "values of t1": values, "values of t2": other}


def watched(seed: int, length: int, change: int, moved: float) -> list[float]:
    """The highest evidence so far, after each scan."""
    rng = np.random.default_rng(seed)
    watch = Watch(draw(REFERENCE, rng), seed=seed)
    before, after = draw(change, rng), draw(length - change, rng, moved)
    found = []
    for scan in range(length):
        part, place = (before, scan) if scan < change else (after, scan - change)
        watch.update({name: float(values[place]) for name, values in part.items()})
        found.append(watch.highest)
    return found


def main(streams: int = STREAMS) -> None:
    """Print the rate of false alarms with its error, and delays to detection."""
    highest = np.array([watched(seed, LENGTH, LENGTH, 0.0)[-1] for seed in range(streams)])
    for stated in (0.2, 0.05, 0.01):
        rate = float((highest >= 1 / stated).mean())
        error = math.sqrt(max(rate, 1 / streams) / streams)
        print(
            f"false alarms: stated {stated:.2%}, found {rate:.2%} ± {error:.2%} of {streams} streams of {LENGTH} scans"
        )
    for moved in (0.05, 0.1, 0.2):
        curves = np.array([watched(seed, 400, CHANGE, moved) for seed in range(200)]) >= 1 / FALSE_ALARMS
        late = [alarms.argmax() + 1 - CHANGE for alarms in curves if alarms.any() and not alarms[CHANGE - 1]]
        print(
            f"missing rate {moved / 0.1:g} standard deviations higher after {CHANGE} scans: seen in {len(late)} of 200 "
            f"streams, after {np.median(late):.0f} scans (median)"
        )


if __name__ == "__main__":
    main()
