"""Whether the audit of shortcuts names the share that is true, on planted data: label in the gaps, the values, or both.

The network is a formula of the missing rate and of the mean of what is observed. What is true is computed without any
volume, from a million draws of the two alone: each by itself, both, and neither.

    python benchmarks/audit.py
"""

from __future__ import annotations

from typing import Any

import numpy as np

from voxgap.dataset import Dataset
from voxgap.trust.audit import audited

PLANTED = {
    "gaps": (0.9, 0.5, 2.0, 0.0),
    "values": (0.5, 0.9, 0.0, 2.0),
    "both, values lead": (0.75, 0.9, 1.0, 2.0),
    "both, gaps lead": (0.9, 0.75, 2.0, 1.0),
    "both, mixed": (0.8, 0.8, 1.0, 1.2),
}
"""How often the gaps, and the values, say the label; and how much the network goes by each."""
NOISE, RATES, SHAPE, SCANS = 0.8, (0.1, 0.3), (6, 6, 6, 1), 2000


def answer(gap: Any, level: Any, by_gap: float, by_level: float) -> Any:
    """The logit of the second class."""
    return by_gap * gap + by_level * level


def true_share(gap: float, value: float, by_gap: float, by_level: float, draws: int = 1_000_000) -> float:
    """The Shapley value of the gaps in the accuracy above chance."""
    rng = np.random.default_rng(1)
    label = 2 * rng.integers(0, 2, draws) - 1
    many = np.where(rng.random(draws) < gap, label, -label)
    level = np.where(rng.random(draws) < value, label, -label) + NOISE * rng.normal(size=draws)

    def right(gaps: Any, values: Any) -> float:
        logit = answer(gaps, values, by_gap, by_level)
        return float(np.mean(np.where(logit == 0, 0.5, (logit > 0) == (label > 0))))

    other, blank = rng.permutation(many), np.zeros(draws)
    both, gaps, values, none = (
        right(many, level),
        right(many, blank),
        right(other, level),
        right(other, blank),
    )
    return ((gaps - none) + (both - values)) / (2 * (both - none))


def planted(gap: float, value: float, by_gap: float, by_level: float, seed: int = 0) -> tuple[Dataset, Any]:
    """Scans with gaps, and the network."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(SCANS) % 2)
    many = np.where(rng.random(SCANS) < gap, labels, 1 - labels) == 1
    level = 2 * np.where(rng.random(SCANS) < value, labels, 1 - labels) - 1 + NOISE * rng.normal(size=SCANS)
    volumes = (level[:, None, None, None, None] + 0.1 * rng.normal(size=(SCANS, *SHAPE))).astype(np.float32)
    volumes[rng.random(volumes.shape) < np.where(many, RATES[1], RATES[0])[:, None, None, None, None]] = (
        np.nan
    )

    def predict(batch: Any) -> Any:
        more = np.where(np.isnan(batch).mean(axis=(1, 2, 3, 4)) > np.mean(RATES), 1.0, -1.0)
        logit = answer(more, np.nanmean(batch, axis=(1, 2, 3, 4)), by_gap, by_level)
        second = 1 / (1 + np.exp(-logit))
        return np.stack([1 - second, second], axis=1)

    return Dataset(volumes, labels, "classification", ("no", "yes"), np.full(SCANS, "test")), predict


def main() -> None:
    """Print the share that is true and the one that is found, with its interval."""
    for name, how in PLANTED.items():
        found = audited(*planted(*how))
        assert found is not None
        assert found.share is not None
        true, share = true_share(*how), found.share
        off = share.value - true
        print(f"{name:<20} true {true:+.3f}   found {share.words(signed=True)}   off {off:+.3f}")


if __name__ == "__main__":
    main()
