"""How far a score would move with other cases of the same kind: bootstrap intervals, by groups where there are some."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.metrics.metrics import OwnGrids, Scorer, scorer
from voxgap.names import metric_words

LEVEL = 0.95
_DRAWS, _FEWEST_DRAWS = 500, 200
_SAMPLES_IN_ALL = 1_000_000  # scored over all draws: of large data an interval needs no more of them
_DEFINED = 0.9  # a score that fewer of the draws have has no interval

Interval = tuple[float, float]

# Why a score has no interval.
_ALIKE = "the same in every draw of these cases, which says nothing of how sure it is"
_RARE = "many draws of these cases have none"
_ALONE = "what is scored comes from one group alone"


@dataclass(frozen=True)
class Scored:
    """Scores, and what they rest on.

    Attributes:
        scores: of `voxgap.metrics.scores`.
        intervals: 95 % interval of those that have one.
        n: volumes that were scored.
        groups: that they come from (patients, recordings); None where each volume is its own.
        reasons: why the other scores have no interval, in words.
    """

    scores: dict[str, float]
    intervals: dict[str, Interval]
    n: int
    groups: int | None
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """How many volumes, for people: `n = 40, 12 groups`."""
        return f"n = {self.n}" + ("" if self.groups is None else f", {self.groups} groups")

    def cell(self, name: str) -> str:
        """Return one score, with its interval where it has one: `0.9120  (0.880 to 0.944)`."""
        low, high = self.intervals.get(name, (math.nan, math.nan))
        within = "" if math.isnan(low) else f"  ({low:.3f} to {high:.3f})"
        return f"{self.scores[name]:.4f}{within:>18}"

    def to_json(self) -> dict[str, Any]:
        """Return what the scores rest on, as plain values."""
        known = {name: list(interval) for name, interval in self.intervals.items()}
        return {"n": self.n, "groups": self.groups, "intervals": known, "reasons": self.reasons}


def scored(
    task: str,
    targets: Any,
    predictions: Any,
    *,
    observed: Any = None,
    threshold: float | None = None,
    own_grids: OwnGrids | None = None,
    groups: Any = None,
    seed: int = 0,
) -> Scored:
    """Score predictions, and say within which interval each score lies.

    Args:
        task, targets, predictions, observed, threshold, own_grids: As for `voxgap.metrics.scores`.
        groups: A name for each sample: samples of one group are drawn together. None: each is its own.
        seed: Of the draws.

    Raises:
        VoxgapError: As for `voxgap.metrics.scores`, or there is not one name for each sample.
    """
    score, count = scorer(
        task, targets, predictions, observed=observed, threshold=threshold, own_grids=own_grids
    )
    members = np.arange(count) if groups is None else _members(groups, count)
    several = int(members.max()) + 1
    of_groups = None if groups is None or several == count else several
    found = score(np.arange(count))
    drawn = _drawn(score, members, seed, task == "classification")
    known = {name: interval for name, interval in drawn.items() if not isinstance(interval, str)}
    defined = [name for name, value in found.items() if math.isfinite(value)]
    reasons = {name: str(drawn.get(name, _ALONE)) for name in defined if name not in known}
    return Scored(found, known, count, of_groups, reasons)


def without_interval(reasons: Mapping[str, str], classes: Sequence[str] = ()) -> list[str]:
    """Say which scores have no interval and why, a line a reason.

    Args:
        reasons: of `Scored`.
        classes: their names.
    """
    alike: dict[str, list[str]] = {}
    for name, why in reasons.items():
        alike.setdefault(why, []).append(metric_words(name, classes))
    return [f"no interval for {', '.join(names)}: {why}" for why, names in alike.items()]


def _members(groups: Any, count: int) -> NDArray[np.intp]:
    names = np.asarray(groups, dtype=object)
    if names.shape != (count,):
        raise VoxgapError(f"{names.size} groups for {count} samples; give one for each")
    if unnamed := [place for place, name in enumerate(names) if name is None or name != name]:
        # Each of its own, or all in one: the interval would be another.
        raise VoxgapError(f"groups: sample {unnamed[0]} has none; name one for each, or leave groups out")
    return np.unique(names.astype(np.str_), return_inverse=True)[1]


def intervals(
    score: Scorer, members: NDArray[np.intp], seed: int = 0, one_answer_each: bool = False
) -> dict[str, Interval]:
    """Bootstrap the percentiles of scores: groups are drawn with replacement, each with all of its samples.

    Efron and Tibshirani, An Introduction to the Bootstrap, 1993; whole groups as in Davison and Hinkley, Bootstrap
    Methods and their Application, 1997, section 3.8. Where all draws score the same, they say nothing of how sure that
    is, and a score has no interval. Only the accuracy of answers that are all right, or all wrong, then has the one of
    Wilson, JASA 22, 1927, with as many trials as there are groups: the voxels of a volume are no trials.

    Args:
        score: Gives scores for samples by index.
        members: The group of each sample, from 0.
        seed: Of the draws.
        one_answer_each: Whether a sample has one answer, which is right or wrong, and not many.

    Returns:
        Bounds of the 95 % interval by score; those without one are left out.
    """
    drawn = _drawn(score, members, seed, one_answer_each)
    return {name: interval for name, interval in drawn.items() if not isinstance(interval, str)}


def _drawn(
    score: Scorer, members: NDArray[np.intp], seed: int, one_answer_each: bool
) -> dict[str, Interval | str]:
    """Return the interval of each score, or why it has none; nothing where there is one group."""
    count = int(members.max()) + 1
    if count < 2:
        return {}
    order = np.argsort(members, kind="stable")
    samples = np.split(order, np.cumsum(np.bincount(members))[:-1])
    rng = np.random.default_rng(seed)
    draws = max(_FEWEST_DRAWS, min(_DRAWS, _SAMPLES_IN_ALL // len(members)))
    drawn: dict[str, list[float]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a draw may lack a class
        for _ in range(draws):
            some = np.concatenate([samples[group] for group in rng.integers(0, count, count)])
            for name, value in score(some).items():
                drawn.setdefault(name, []).append(value)
    return {
        name: _of_draws(np.array(values), count if one_answer_each and name == "accuracy" else None)
        for name, values in drawn.items()
    }


def _of_draws(values: NDArray[np.float64], trials: int | None) -> Interval | str:
    known = values[np.isfinite(values)]
    if len(known) < _DEFINED * len(values):
        return _RARE
    if known.max() - known.min() < 1e-12:
        return _ALIKE if trials is None or known[0] not in (0, 1) else _wilson(float(known[0]), trials)
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _wilson(share: float, count: int) -> Interval:
    z = 1.959964
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, (middle - half) / (1 + z * z / count)), min(1.0, (middle + half) / (1 + z * z / count))
