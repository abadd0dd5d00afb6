"""What a network is worth for each subset of channels and each kind of gap, on the same scans throughout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.missingness.simulation import PATTERNS, simulate
from voxgap.names import CERTIFIED_PATTERNS, CERTIFIED_RATES, check
from voxgap.progress import Progress, unseen
from voxgap.trust.conformal import subsets as combinations_of
from voxgap.trust.conformal import without
from voxgap.trust.scoring import (
    Answers,
    Change,
    Measure,
    Predict,
    Score,
    answered,
    better,
    check_metric,
    measured,
    members_of,
    score_of,
)
from voxgap.volume import Values

if TYPE_CHECKING:
    from voxgap.dataset import Dataset

Subsets = str | Sequence[Sequence[str]] | None
"""Which sets of channels that are there are scored; see `certified`."""
_FEWEST = 10  # scans: a score of fewer says nothing
_MOST_CHANNELS = 8  # of which all subsets can be asked for: 255 predictions of each scan


@dataclass(frozen=True)
class Row:
    """A score.

    Args:
        name: what is there, or missing, in words.
        kept: the channels that are left; None for gaps.
        scans: that it is of: all that had what is kept.
        score: of the metric.
        loss: by how much it is worse than as recorded, on the same scans.
    """

    name: str
    kept: tuple[str, ...] | None
    scans: int
    score: Measure
    loss: Measure


@dataclass(frozen=True)
class Step:
    """What one more channel is worth.

    Args:
        had: channels that are there.
        channel: that is added.
        scans: that have all of them.
        worth: by how much the score gets better, on the same scans.
    """

    had: tuple[str, ...]
    channel: str
    scans: int
    worth: Measure


@dataclass(frozen=True)
class Certificate:
    """Scores for every pattern of gaps.

    Args:
        metric: that they are of.
        scans: in all.
        groups: that they come from; None where each is its own.
        rows: as recorded first, then the complete set where not all scans have it, then subsets of channels, then gaps.
        steps: what each further channel is worth.
        predictions: how often the network answered: for each scan, at most.
    """

    metric: str
    scans: int
    groups: int | None
    rows: tuple[Row, ...]
    steps: tuple[Step, ...]
    predictions: int

    @property
    def worst(self) -> Row:
        """The row with the worst score, of those that can be said."""
        able = [row for row in self.rows if row.score.value == row.score.value]
        return min(able, key=lambda row: better(self.metric) * row.score.value)

    def next_of(self, had: Sequence[str]) -> Step | None:
        """Return the channel that is worth most where these are there; None where nobody knows."""
        able = [step for step in self.steps if set(step.had) == set(had)]
        return max(able, key=lambda step: step.worth.value, default=None)

    @property
    def conclusion(self) -> str:
        """The worst row, and the channel that is missed most, in a sentence or two."""
        first, worst = self.rows[0], self.worst
        unit = self.metric.replace("_", " ")
        said = (
            f"As recorded its {unit} is {first.score.words()}; worst is {worst.name}: {worst.score.words()}."
        )
        single = [step for step in self.steps if step.had and len(step.had) == self._most - 1]
        if single:
            missed = max(single, key=lambda step: step.worth.value)
            said += (
                f" Of single channels {missed.channel} is missed most: {missed.worth.words()} worse without it, of the "
                f"{missed.scans} scans that have all."
            )
        return said

    @property
    def _most(self) -> int:
        return len(self.rows[0].kept or ())

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain values, for a manifest's field `certificate`."""
        rows = [
            {
                "name": row.name,
                "kept": None if row.kept is None else list(row.kept),
                "scans": row.scans,
                "score": row.score.to_json(),
                "loss": row.loss.to_json(),
            }
            for row in self.rows
        ]
        steps = [
            {
                "had": list(step.had),
                "channel": step.channel,
                "scans": step.scans,
                "worth": step.worth.to_json(),
            }
            for step in self.steps
        ]
        facts = {
            name: getattr(self, name) for name in ("metric", "scans", "groups", "predictions", "conclusion")
        }
        return facts | {"rows": rows, "steps": steps}


def check_gaps(patterns: Sequence[str], rates: Sequence[float]) -> None:
    """Refuse gaps that can't be made, before anything is read."""
    for pattern in patterns:
        check("pattern", pattern, PATTERNS)
    for rate in rates:
        if not 0 < rate < 1:
            raise VoxgapError(f"rate {rate:g} is out of range: shares between 0 and 1, such as 0.25,0.5")


def check_subsets(subsets: Subsets, channels: Sequence[str]) -> None:
    """Refuse subsets of channels that there are not, before anything is read.

    Raises:
        VoxgapError: a channel is not the network's, or there are too many for all subsets.
    """
    if subsets == "all" and len(channels) > _MOST_CHANNELS:
        raise VoxgapError(
            f"subsets all: {len(channels)} channels have {2 ** len(channels) - 1}; name those that matter, as in "
            f"{'+'.join(channels[:2])},{channels[0]}, or seen: those that occur"
        )
    if isinstance(subsets, str):
        check("subsets", subsets, ("all", "seen"))
        return
    for subset in subsets or ():
        for name in subset:
            check("channel", name, channels)
        if not subset or len(set(subset)) < len(subset):
            raise VoxgapError(
                f"subset {'+'.join(subset) or 'of nothing'}: name channels that are there, each once"
            )


def certified(
    data: Dataset,
    predict: Predict,
    metric: str | None = None,
    *,
    threshold: float | None = None,
    subsets: Subsets = None,
    patterns: Sequence[str] = CERTIFIED_PATTERNS,
    rates: Sequence[float] = CERTIFIED_RATES,
    seed: int = 0,
    progress: Progress = unseen,
) -> Certificate:
    """Score a network for every subset of channels, and for gaps of some patterns and rates.

    Each subset costs one prediction of the scans that have it, at most 15 for four channels; the data is read once.

    Args:
        data: labelled, with its own gaps, which stay; targets count among the network's classes.
        predict: answers volumes.
        metric: that is shown: by default accuracy, mae or dice, by the task.
        threshold: by which classes are named.
        subsets: of the channels that are there: `all`, `seen` (those that occur), or given ones. By default all of up
            to four channels, of more those that occur and each channel missing alone.
        patterns, rates: of gaps that are made besides, see `voxgap.simulate`.
        seed: of those gaps, and of the intervals.
        progress: see `voxgap.trust.scoring.answered`.

    Raises:
        VoxgapError: too few scans, or no such metric or channel.
    """
    if len(data) < _FEWEST:
        raise VoxgapError(
            f"{data.name}: {len(data)} volumes are too few for a certificate; it takes {_FEWEST}"
        )
    metric = check_metric(metric, data.task)
    check_subsets(subsets, data.channels)
    changes, kept = _subsets(data, subsets)
    changes |= {
        _gap_words(pattern, rate): partial(_with_gaps, pattern, rate, seed)
        for pattern in patterns
        for rate in rates
    }
    answers = {
        name: given
        for name, given in answered(data, predict, changes, threshold, progress).items()
        if len(given.places) >= _FEWEST
    }
    predictions, whole, every = len(answers), next(iter(kept)), " + ".join(data.channels)
    known = frozenset[int]().union(*(kept[name] for name in kept if name in answers and name != whole))
    # What was recorded lacks some channels itself: the last one is worth something where all are there.
    complete = reduce(np.intersect1d, [answers[name].places for name in kept if name in answers])
    if every in answers:
        known, complete = kept[whole], answers[every].places
    elif known == kept[whole] and _FEWEST <= len(complete) < len(data):
        answers[every] = Answers(complete, answers[whole].values[complete])
    if every in answers and len(complete) == len(data):
        del answers[every]
    order = [whole, *[every] * (every in answers), *(name for name in answers if name not in (whole, every))]
    scores = {name: score_of(data, answers[name], metric, threshold) for name in order}
    places = {name: given.places for name, given in answers.items()}
    sign = better(metric)
    if (said := scores[whole](np.arange(len(data)))) != said:
        raise VoxgapError(f"{data.name}: its {metric} can't be said{_one_class(data)}; choose another metric")
    wanted: dict[str, Score] = dict(scores)
    for name in scores:
        wanted[f"loss {name}"] = _difference(scores[whole], scores[name], places[name], len(data), sign)
    pairs = [
        (few, more)
        for few in kept
        for more in kept
        if few in scores and more in scores and kept[few] < kept[more] and len(kept[more] - kept[few]) == 1
    ]
    shared = {
        (few, more): np.intersect1d(places[few], complete if more == whole else places[more])
        for few, more in pairs
    }
    shared = {
        (few, more): both
        for (few, more), both in shared.items()
        # Of given subsets, which may not tell what has every channel, nothing is said of the last one.
        if len(both) >= _FEWEST and (more != whole or known == kept[whole])
    }
    for (few, more), both in shared.items():
        wanted[f"{few} > {more}"] = _difference(scores[more], scores[few], both, len(data), sign)
    found = measured(wanted, members_of(data), seed)
    kept[every] = kept[whole]
    names = data.channels
    rows = tuple(
        Row(
            name,
            tuple(names[i] for i in sorted(kept[name])) if name in kept else None,
            len(places[name]),
            found[name],
            found[f"loss {name}"],
        )
        for name in scores
    )
    steps = tuple(
        Step(
            tuple(names[i] for i in sorted(kept[few])),
            names[next(iter(kept[more] - kept[few]))],
            len(both),
            found[f"{few} > {more}"],
        )
        for (few, more), both in shared.items()
    )
    groups = None if data.groups is None else len(np.unique(data.groups))
    return Certificate(metric, len(data), groups, rows, steps, predictions)


def _subsets(data: Dataset, wanted: Subsets) -> tuple[dict[str, Change], dict[str, frozenset[int]]]:
    """Ways to take channels away, by name, and which channels each leaves; as recorded first."""
    channels = data.volumes.shape[-1]
    changes: dict[str, Change] = {}
    kept: dict[str, frozenset[int]] = {}
    for missing in dict.fromkeys([(), *_missing(data, wanted)]):
        left = [i for i in range(channels) if i not in missing]
        if left:
            name = " + ".join(data.channels[i] for i in left) if missing else "as recorded"
            changes[name], kept[name] = partial(_take_away, missing, left), frozenset(left)
    if wanted is not None and not isinstance(wanted, str) and any(len(one) == channels for one in wanted):
        changes[" + ".join(data.channels)] = _complete
    return changes, kept


def _missing(data: Dataset, wanted: Subsets) -> list[tuple[int, ...]]:
    """Which channels are missing in each subset that is wanted."""
    channels = data.volumes.shape[-1]
    if wanted == "all":
        return combinations_of(channels, [], 2**channels)
    if wanted is not None and not isinstance(wanted, str):
        return [tuple(i for i, name in enumerate(data.channels) if name not in kept) for kept in wanted]
    if wanted is None and channels <= 4:
        return combinations_of(channels, [])
    # For those sets that occur the data is looked at once more.
    seen = [tuple(np.flatnonzero(~_there(v[None])[0]).tolist()) for v in data.volumes]
    return sorted(set(seen)) if wanted == "seen" else combinations_of(channels, seen)


def _there(volumes: Values) -> NDArray[np.bool_]:
    """Which channels hold something, `(n, channels)`."""
    return np.asarray(~np.isnan(volumes).all(axis=(1, 2, 3)))


def _take_away(
    missing: Sequence[int], left: Sequence[int], volumes: Values, _: NDArray[np.intp]
) -> tuple[NDArray[np.bool_], Values]:
    # As recorded is of all scans, whatever they lack; a subset is of those that have all of it.
    able = np.ones(len(volumes), bool)
    if missing:
        able = np.asarray(_there(volumes)[:, list(left)].all(axis=1))
    return able, without(volumes[able], missing)


def _complete(volumes: Values, _: NDArray[np.intp]) -> tuple[NDArray[np.bool_], Values]:
    able = np.asarray(_there(volumes).all(axis=1))
    return able, volumes[able]


def _one_class(data: Dataset) -> str:
    """Say that one class is all there is, where it is."""
    if data.task != "classification":
        return ""
    there = np.unique(np.asarray(data.targets)).tolist()
    return f": all {len(data)} volumes are {data.classes[there[0]]}" if len(there) == 1 else ""


def _with_gaps(
    pattern: str, rate: float, seed: int, volumes: Values, places: NDArray[np.intp]
) -> tuple[NDArray[np.bool_], Values]:
    rng = np.random.default_rng([seed, int(places[0])])
    return np.ones(len(volumes), bool), simulate(volumes, pattern, rate, seed=rng)


def _gap_words(pattern: str, rate: float) -> str:
    return f"{rate:.0%} of {pattern} missing"


def _difference(first: Score, second: Score, places: NDArray[np.intp], count: int, sign: int) -> Score:
    """By how much the first is better than the second, on the samples that both have an answer for."""
    shared = np.zeros(count, bool)
    shared[places] = True

    def score(some: NDArray[np.intp]) -> float:
        both = some if shared.all() else some[shared[some]]
        return sign * (first(both) - second(both))

    return score
