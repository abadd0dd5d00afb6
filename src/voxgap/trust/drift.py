"""Whether a stream of scans still is what a network was trained on: a test that may be looked at after every scan.

A conformal test martingale: each scan is ranked among the reference and all scans before it, which under
exchangeability gives independent uniform p-values however small the reference is, and a gambler bets against that. His
capital is an e-process: whatever the data is like, and however often one looks, it reaches 20 with a chance of 1 in 20
at most (Ville). Vovk, Nouretdinov and Gammerman, Testing exchangeability on-line, ICML 2003; the bets change their
direction as in the Simple Jumper of Vovk et al., Retrain or not retrain, COPA 2021; on betting Waudby-Smith and Ramdas,
Estimating means of bounded random variables by betting, JRSS-B 86, 2024.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError

FALSE_ALARMS = 0.01
"""The chance of an alarm, ever, for a stream that is like the reference."""
_JUMP = 0.01  # share of the capital that is spread over all bets anew after each scan
_CEILING = 1e100  # beyond any doubt; more would be no number one day


def looks(volume: Any, channels: Sequence[str]) -> dict[str, float]:
    """Return what is watched of a scan `(depth, height, width, channels)`: missing rate and observed mean, by channel.

    NaN is what can't be said, such as the mean of a channel that is missing.
    """
    there = ~np.isnan(volume)
    voxels = there[..., 0].size
    counts = there.reshape(voxels, -1).sum(axis=0)
    totals = np.where(there, volume, 0).reshape(voxels, -1).sum(axis=0, dtype=np.float64)
    found: dict[str, float] = {}
    for name, count, total in zip(channels, counts.tolist(), totals.tolist(), strict=True):
        found[f"missing rate of {name}"] = 1 - count / voxels
        found[f"values of {name}"] = total / count if count else float("nan")
    return found


class Watch:
    """A drift test over a stream of scans.

    Args:
        reference: what is watched, by name: of scans that the stream is to be like, `(scans,)` each, NaN where it can't
            be said. They may be few.
        false_alarms: the chance of an alarm, ever, where nothing has changed.
        seed: of how ties are broken.
    """

    def __init__(
        self,
        reference: Mapping[str, Sequence[float] | NDArray[Any]],
        false_alarms: float = FALSE_ALARMS,
        seed: int = 0,
    ) -> None:
        if not reference or not 0 < false_alarms < 1:
            raise VoxgapError("a watch takes something to watch, and a rate of false alarms between 0 and 1")
        self.false_alarms, self.seed, self.scans = false_alarms, seed, 0
        self.highest = 1.0
        """Highest evidence so far: what the alarm goes by."""
        self._seen = {
            name: sorted(v for v in map(float, values) if v == v) for name, values in reference.items()
        }
        self._capital = {name: np.full(len(_bets(0.5)), 1 / len(_bets(0.5))) for name in self._seen}

    @property
    def evidence(self) -> float:
        """Against nothing having changed: the mean capital of the bets on all that is watched, 1 at the start."""
        return float(np.mean([capital.sum() for capital in self._capital.values()]))

    @property
    def alarmed(self) -> bool:
        """Whether the evidence has ever reached what it reaches by chance this rarely."""
        return self.highest >= 1 / self.false_alarms

    def update(self, look: Mapping[str, float]) -> float:
        """Take one more scan into account, and return the evidence.

        Args:
            look: what is watched of it, by name.
        """
        # Of seed and place, so that a watch that is restarted goes on as it would have.
        ties = np.random.default_rng([self.seed, self.scans]).random(len(self._seen))
        self.scans += 1
        for (name, seen), tie in zip(self._seen.items(), ties.tolist(), strict=True):
            value = float(look[name])
            if value != value:
                continue
            low, high = bisect.bisect_left(seen, value), bisect.bisect_right(seen, value)
            p = (low + tie * (high - low + 1)) / (len(seen) + 1)
            seen.insert(high, value)
            capital = self._capital[name]
            spread = (1 - _JUMP) * capital + _JUMP * capital.mean()
            self._capital[name] = np.minimum(spread * _bets(p), _CEILING)
        self.highest = max(self.highest, self.evidence)
        return self.evidence

    def words(self) -> str:
        """Return the finding in one line, for people."""
        if not self.alarmed:
            return f"no drift found in {self.scans} scans (false alarms: {self.false_alarms:.2%} of streams, ever)"
        most = max(self._capital, key=lambda name: float(self._capital[name].sum()))
        return (
            f"these scans are not like those of the training any more, above all by {most}: evidence "
            f"{self.highest:.3g} after {self.scans} scans, where {1 / self.false_alarms:.3g} is reached by chance in "
            f"{self.false_alarms:.2%} of streams"
        )

    def to_json(self) -> dict[str, Any]:
        """All of its state as plain values: what is made of it goes on where this one was."""
        capital = {name: values.tolist() for name, values in self._capital.items()}
        facts = {name: getattr(self, name) for name in ("false_alarms", "seed", "scans", "highest")}
        return facts | {"seen": self._seen, "capital": capital}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Watch:
        """Go on from the state of another.

        Raises:
            VoxgapError: it is none.
        """
        try:
            made = cls(data["seen"], float(data["false_alarms"]), int(data["seed"]))
            made.scans, made.highest = int(data["scans"]), float(data["highest"])
            made._capital = {name: np.array(data["capital"][name], np.float64) for name in made._seen}
        except (KeyError, TypeError, ValueError) as error:
            raise VoxgapError(f"not the state of a watch ({error}); begin it anew") from error
        return made


def _bets(p: float) -> NDArray[np.float64]:
    """Return what each bet pays for a stake of 1: on nothing, larger, smaller, more extreme and more usual values."""
    aside = abs(p - 0.5)
    return np.array([1.0, 2 * p, 2 - 2 * p, 4 * aside, 2 - 4 * aside])
