"""How often the drift test cries wolf, and how soon it sees one: streams, each with a finite reference drawn anew.

python benchmarks/drift.py [--streams 10000] [--reference 120] [--scans 400] [--memory 300]

All streams are walked at once, by the code that is shipped (`voxgap.drift.Bets`); a few minutes on one core. Memory is
smaller here than what is shipped, so that scans are forgotten, too.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from voxgap.drift import FALSE_ALARMS, Bets

Draw = Callable[[tuple[int, ...], np.random.Generator], NDArray[np.float64]]
AT_ONCE = 250
"""Streams that are in memory together."""


def scans(
    shape: tuple[int, ...],
    rng: np.random.Generator,
    rate: float = 0.0,
    values: float = 0.0,
    absent: float = 0.2,
    mechanism: float = 0.0,
    lines: float = 0.7,
) -> NDArray[np.float64]:
    """Return looks `(*shape, 6)`: with ties, skew, dependence between them, and a channel that is missing now and then.

    Args:
        shape: streams and scans.
        rng: draws.
        rate, values: by how many standard deviations missing rate and values are higher.
        absent: share of scans that lack the second channel.
        mechanism: by how many standard deviations the values beside gaps lie higher.
        lines: mean share of missing slices among the gaps.
    """
    missing = np.round(np.clip(rng.normal(0.3 + 0.1 * rate, 0.1, shape), 0, 1), 2)
    first = rng.exponential(1.0, shape) + values + missing
    gone = rng.random(shape) < absent
    second = np.where(gone, np.nan, first + rng.normal(size=shape))
    beside = np.where(missing == 0, np.nan, rng.normal(0.2 * mechanism, 0.2, shape))
    share = np.where(missing == 0, np.nan, rng.beta(10 * lines, 10 * (1 - lines), shape))
    return np.stack([missing, first, gone.astype(float), second, beside, share], axis=-1)


CHANGES: dict[str, dict[str, float]] = {
    "missing rate 0.5 SD higher": {"rate": 0.5},
    "missing rate 1 SD higher": {"rate": 1.0},
    "missing rate 2 SD higher": {"rate": 2.0},
    "values 0.5 SD higher": {"values": 0.5},
    "values 1 SD higher": {"values": 1.0},
    "second channel missing in 60 %, not 20 %": {"absent": 0.6},
    "gaps where values are 1 SD higher (mechanism)": {"mechanism": 1.0},
    "slices half as often among the gaps (pattern)": {"lines": 0.35},
}


def walked(
    reference: NDArray[np.float64], stream: NDArray[np.float64], rng: np.random.Generator, memory: int
) -> NDArray[np.float64]:
    """Return the highest evidence so far after each scan, `(streams, scans)`."""
    bets, (streams, length, count) = Bets(reference, memory), stream.shape
    found = np.empty((streams, length))
    highest = np.ones(streams)
    for place in range(length):
        bets.update(stream[:, place], rng.random((streams, count)), rng.random(streams))
        highest = np.maximum(highest, bets.evidence)
        found[:, place] = highest
    return found


def false_alarms(streams: int, reference: int, length: int, memory: int) -> None:
    """Print the share of streams without a change in which there ever is an alarm, with its Monte Carlo error."""
    highest = np.concatenate(
        [
            walked(scans((some, reference), rng), scans((some, length), rng), rng, memory)[:, -1]
            for start in range(0, streams, AT_ONCE)
            for some, rng in [(min(AT_ONCE, streams - start), np.random.default_rng([1, reference, start]))]
        ]
    )
    for stated in (0.2, 0.05, FALSE_ALARMS):
        rate = float((highest >= 1 / stated).mean())
        error = math.sqrt(max(rate * (1 - rate), 1 / streams) / streams)
        print(
            f"false alarms: stated {stated:.2%}, found {rate:.2%} ± {error:.2%} ({streams} streams of {length} scans, "
            f"references of {reference})",
            flush=True,
        )


def delays(streams: int, reference: int, before: int, after: int, memory: int) -> None:
    """Print after how many scans each change is seen, that comes after some scans without one."""
    for number, (name, change) in enumerate(CHANGES.items()):
        rng = np.random.default_rng([2, number])
        stream = np.concatenate(
            [scans((streams, before), rng), scans((streams, after), rng, **change)], axis=1
        )
        alarms = walked(scans((streams, reference), rng), stream, rng, memory) >= 1 / FALSE_ALARMS
        quiet = alarms[~alarms[:, before - 1]]
        late = quiet[quiet[:, -1]].argmax(axis=1) + 1 - before
        low, middle, high = np.percentile(late, (10, 50, 90)) if late.size else (math.nan,) * 3
        print(
            f"{name}: seen in {late.size} of {len(quiet)} streams, after {middle:.0f} scans (median; 10 to 90 %: "
            f"{low:.0f} to {high:.0f})",
            flush=True,
        )


def main() -> None:
    """Print false alarms for the size of a training set and for a tiny one, and delays to detection."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name, default in (("streams", 10_000), ("reference", 120), ("scans", 400), ("memory", 300)):
        asked.add_argument(f"--{name}", type=int, default=default)
    given = asked.parse_args()
    false_alarms(given.streams, given.reference, given.scans, given.memory)
    false_alarms(given.streams, 20, given.scans, given.memory)
    delays(min(given.streams, 1000), given.reference, 100, 300, given.memory)


if __name__ == "__main__":
    main()
