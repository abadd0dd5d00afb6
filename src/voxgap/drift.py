"""Whether a stream of scans still is what a network was trained on: a test that may be looked at after every scan.

A conformal test martingale: each scan is ranked among the reference and the scans before it, which under
exchangeability gives independent uniform p-values however small the reference is, and a gambler bets against that. His
capital is an e-process: whatever the data is like, and however often one looks, it reaches 100 with a chance of 1 in
100 at most (Ville). Vovk, Nouretdinov and Gammerman, Testing exchangeability on-line, ICML 2003; the bets change their
direction as in the Simple Jumper of Vovk et al., Retrain or not retrain, COPA 2021; on betting Waudby-Smith and Ramdas,
Estimating means of bounded random variables by betting, JRSS-B 86, 2024.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from voxgap.errors import VoxgapError
from voxgap.missingness.diagnosis import shares_of

FALSE_ALARMS = 0.01
"""The chance of an alarm, ever, for a stream that is like the reference."""
MOST_SCANS = 500
"""Of a training set that are kept as reference: more would not be seen sooner."""
MEMORY = 1000
"""Scans that a stream is ranked among; beyond, one of them is forgotten at random for each that comes."""
_FEWEST = 10  # values of the reference, below which nothing can be told from it
_JUMP = 0.01  # share of the capital that is spread over all bets anew after each scan
_CEILING = 1e100  # beyond any doubt; more would be no number one day
_DIGITS = 6  # of what is kept, of reference and stream alike: ties are ties in both
_VALUES = "values of "
SCAN = "scan"
"""What a scan is known by, among its looks: a number made from its content, which is watched by nothing."""
_REMEMBERED = 4000  # scans that are known again


def looks(volume: Any, channels: Sequence[str], values: bool = True) -> dict[str, float]:
    """Return what is watched of a scan, by name, without what can't be said of it; and `SCAN`.

    Rate: how much of each channel is missing. Pattern: what the gaps consist of. Mechanism: how far the values beside
    the gaps of a channel lie from the others, in standard deviations, and the values of the other channels where one is
    missing as a whole. Values: mean and spread of what is observed.

    Args:
        volume: `(depth, height, width, channels)`, NaN = missing.
        channels: their names.
        values: whether they are in units that all scans share; without, they are left out.
    """
    missing = np.isnan(volume)
    means: dict[str, float] = {}
    found: dict[str, float] = {}
    for index, name in enumerate(channels):
        gaps = missing[..., index]
        seen = volume[..., index][~gaps].astype(np.float64)
        found[f"missing rate of {name}"] = 1 - seen.size / gaps.size
        if not seen.size:
            continue
        means[name], spread = float(seen.mean()), float(seen.std())
        if values:
            found |= {f"{_VALUES}{name}": means[name], f"spread of {name}": spread}
        beside = _beside(gaps) if seen.size < gaps.size else gaps
        if spread and beside.any():
            off = volume[..., index][beside].mean(dtype=np.float64) - means[name]
            found[f"values beside the gaps of {name}"] = float(off / spread)
    found |= {f"share of {name} in the gaps": share for name, share in shares_of([volume]).items()}
    gone = [name for name in channels if name not in means]
    if values:
        found |= {f"{_VALUES}{name} where {one} is missing": means[name] for name in means for one in gone}
    known = {name: float(f"{value:.{_DIGITS}g}") for name, value in found.items()}
    return known | {SCAN: _number_of(volume)}


def _number_of(volume: Any) -> float:
    """Return a number of 48 bits, which a float holds as it is."""
    content = hashlib.blake2b(np.ascontiguousarray(volume, np.float32).data, digest_size=6)
    return float(int.from_bytes(content.digest(), "big"))


def _beside(gaps: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which observed voxels have a missing neighbour along an axis."""
    found = np.zeros_like(gaps)
    for axis in range(gaps.ndim):
        here, there = np.moveaxis(found, axis, 0), np.moveaxis(gaps, axis, 0)
        here[1:] |= there[:-1]
        here[:-1] |= there[1:]
    return found & ~gaps


class Bets:
    """The gambler, for one stream or for many at once.

    Args:
        reference: `(..., scans, looks)`, NaN where nothing can be said; leading axes are streams.
        memory: how many scans are ranked among; the reference holds no more.
    """

    def __init__(self, reference: NDArray[Any], memory: int = MEMORY) -> None:
        *streams, self.scans, count = reference.shape
        self.seen = np.full((*streams, count, max(memory, self.scans)), np.nan)
        self.seen[..., : self.scans] = np.moveaxis(reference, -2, -1)
        kinds = len(_bets(0.5))
        self.capital = np.full((*streams, count, kinds), 1 / kinds)

    @property
    def evidence(self) -> NDArray[np.float64]:
        """Against nothing having changed, `(...)`: the mean capital of the bets on all that is watched."""
        return np.asarray(self.capital.sum(axis=-1).mean(axis=-1))

    def update(self, values: NDArray[Any], ties: NDArray[Any], forgotten: NDArray[Any]) -> None:
        """Bet on one more scan of each stream.

        Args:
            values: of its looks, `(..., looks)`, NaN where nothing can be said.
            ties: uniform in [0, 1), likewise: how ties are broken.
            forgotten: uniform in [0, 1), `(...)`: which scan is forgotten where there is no room.
        """
        held, now = self.seen[..., : self.scans], values[..., None]
        known, below, same = (
            np.count_nonzero(each, axis=-1) for each in (held == held, held < now, held == now)
        )
        ranks = below + ties * (same + 1)
        stake = (1 - _JUMP) * self.capital + _JUMP * self.capital.mean(axis=-1, keepdims=True)
        paid = np.minimum(stake * _bets(ranks / (known + 1)), _CEILING)
        self.capital = np.where(np.isnan(now), self.capital, paid)
        room = self.seen.shape[-1]
        if self.scans < room:
            self.seen[..., self.scans] = values
            self.scans += 1
            return
        # Each of those held and the new one are as likely to go: which one it was, nothing that comes can tell.
        slot = np.asarray(np.floor(forgotten * (room + 1)), np.intp)[..., None, None]
        kept = np.minimum(slot, room - 1) + np.zeros((*values.shape, 1), np.intp)
        stays = np.take_along_axis(self.seen, kept, axis=-1)
        np.put_along_axis(self.seen, kept, np.where(slot < room, now, stays), axis=-1)


def _bets(p: ArrayLike) -> NDArray[np.float64]:
    """Return what each bet pays for a stake of 1: on nothing, larger, smaller, more extreme and more usual values."""
    p = np.asarray(p, np.float64)
    aside = np.abs(p - 0.5)
    return np.stack([np.ones_like(p), 2 * p, 2 - 2 * p, 4 * aside, 2 - 4 * aside], axis=-1)


class Watch:
    """A drift test over a stream of scans.

    Args:
        reference: what is watched, by name: of scans that the stream is to be like, `(scans,)` each, NaN where it can't
            be said. They may be few.
        false_alarms: the chance of an alarm, ever, where nothing has changed.
        seed: of how ties are broken, and of what is forgotten.
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
        self.names = tuple(reference)
        self._known: dict[float, None] = {}
        self._bets = Bets(np.array([np.asarray(values, np.float64) for values in reference.values()]).T)

    @property
    def evidence(self) -> float:
        """Against nothing having changed: the mean capital of the bets on all that is watched, 1 at the start."""
        return float(self._bets.evidence)

    @property
    def alarmed(self) -> bool:
        """Whether the evidence has ever reached what it reaches by chance this rarely."""
        return self.highest >= 1 / self.false_alarms

    def update(self, look: Mapping[str, float]) -> float:
        """Take one more scan into account, and return the evidence.

        A scan that is there already, by its content or value for value, is that scan once more, and no news.

        Args:
            look: what is watched of it, by name; what is not there can't be said.
        """
        values = np.array([float(look.get(name, np.nan)) for name in self.names])
        if self._met(values) or self._known_again(look.get(SCAN)):
            return self.evidence
        # Of seed and place, so that a watch that is restarted goes on as it would have.
        *ties, forgotten = np.random.default_rng([self.seed, self.scans]).random(len(values) + 1)
        self.scans += 1
        self._bets.update(values, np.array(ties), np.array(forgotten))
        self.highest = max(self.highest, self.evidence)
        return self.evidence

    def _known_again(self, scan: float | None) -> bool:
        if scan is None or scan in self._known:
            return scan is not None
        self._known[scan] = None
        if len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]
        return False

    def _met(self, values: NDArray[np.float64]) -> bool:
        # Rates and patterns of different scans may well be the same; the means of their values are not.
        telling = [name.startswith(_VALUES) for name in self.names] & ~np.isnan(values)
        if not telling.any():
            return False
        held = self._bets.seen[:, : self._bets.scans]
        return bool(
            ((held == values[:, None]) | np.isnan(held) & np.isnan(values)[:, None]).all(axis=0).any()
        )

    def words(self) -> str:
        """Return the finding in one line, for people."""
        if not self.alarmed:
            return f"no drift found in {self.scans} scans (false alarms: {self.false_alarms:.2%} of streams, ever)"
        most = self.names[int(self._bets.capital.sum(axis=-1).argmax())]
        return (
            f"these scans are not like those of the training any more, above all by {most}: evidence "
            f"{self.highest:.3g} after {self.scans} scans, where {1 / self.false_alarms:.3g} is reached by chance in "
            f"{self.false_alarms:.2%} of streams"
        )

    def found(self) -> dict[str, Any]:
        """Return what was found so far, as plain values."""
        facts = ("scans", "evidence", "highest", "false_alarms", "alarmed")
        return {name: getattr(self, name) for name in facts} | {"words": self.words()}

    def to_json(self) -> dict[str, Any]:
        """All of its state as plain values: what is made of it goes on where this one was."""
        facts = {name: getattr(self, name) for name in ("false_alarms", "seed", "scans", "highest")}
        seen = self._bets.seen[:, : self._bets.scans].T
        return (
            facts
            | _plain(self.names, seen)
            | {"capital": self._bets.capital.tolist(), "known": [*self._known]}
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Watch:
        """Go on from the state of another.

        Raises:
            VoxgapError: it is none.
        """
        try:
            made = cls(_columns(data), float(data["false_alarms"]), int(data["seed"]))
            made.scans, made.highest = int(data["scans"]), float(data["highest"])
            # Earlier versions of voxgap kept none.
            made._known = dict.fromkeys(map(float, data.get("known", ())))
            made._bets.capital = np.array(data["capital"], np.float64).reshape(made._bets.capital.shape)
        except (KeyError, TypeError, ValueError) as error:
            raise VoxgapError(f"not the state of a watch ({error}); begin it anew") from error
        return made


def reference_of(found: Iterable[Mapping[str, float]], seed: int = 0) -> dict[str, Any] | None:
    """Return what a bundle keeps of its training scans, as plain values; None where they are too few to be told from.

    Args:
        found: the looks of each; of scans that belong together, one.
        seed: of which are kept, where they are many.
    """
    scans = list(found)
    order = np.random.default_rng(seed).permutation(len(scans))[:MOST_SCANS]
    some = [scans[i] for i in order]
    every = dict.fromkeys(name for one in some for name in one if name != SCAN)
    names = [name for name in every if sum(name in one for one in some) >= _FEWEST]
    return _plain(names, [[one.get(name, np.nan) for name in names] for one in some]) if names else None


def read_watch(file: Path, seed: int = 0) -> Watch:
    """Begin a watch over a stream that is to be like the reference in a file.

    Raises:
        VoxgapError: it is no reference.
    """
    try:
        return Watch(_columns(json.loads(file.read_bytes())), seed=seed)
    except (KeyError, TypeError, ValueError, RecursionError):
        raise VoxgapError(f"{file}: not what a drift test goes by; train the bundle again") from None


def drifted(watch: Watch, found: Iterable[Mapping[str, float]], seed: int = 0) -> str | None:
    """Say in a line whether scans that are there all at once, in no order of time, are unlike the reference.

    Args:
        watch: that has seen none.
        found: the looks of each.
        seed: of the order in which they are taken: files that are sorted, by hospital say, are no stream.
    """
    scans = list(found)
    for index in np.random.default_rng(seed).permutation(len(scans)):
        watch.update(scans[index])
    return watch.words() if watch.alarmed else None


def _plain(names: Sequence[str], rows: Any) -> dict[str, Any]:
    seen = [[None if value != value else value for value in row] for row in np.asarray(rows, float).tolist()]
    return {"names": list(names), "seen": seen}


def _columns(data: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    names, rows = list(map(str, data["names"])), np.array(data["seen"], np.float64)
    if rows.ndim != 2 or rows.shape[1] != len(names) or len({*names}) < len(names) or np.isinf(rows).any():
        raise ValueError("rows of looks are expected")
    return dict(zip(names, rows.T, strict=True))
