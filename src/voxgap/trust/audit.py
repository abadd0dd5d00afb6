"""Whether a network looks at the values or at who was scanned, and how: what of its score comes from gaps alone.

Two experiments, each without training: the observed values are blanked and the gaps stay; and the gaps are those of
another scan and the values stay. The share of the gaps is their Shapley value in a game of two players, the mean of
what they add alone and of what they add to the values: Shapley, A value for n-person games, 1953; for features of a
model Lundberg and Lee, NeurIPS 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from voxgap.decision import named
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
    remembered,
    score_of,
)
from voxgap.volume import Values

if TYPE_CHECKING:
    from voxgap.dataset import Dataset

Changed = tuple[NDArray[np.bool_], Values]

SWAPS = 3
_CHANCE = 10  # shuffles of the answers to blanked scans, which cost nothing


@dataclass(frozen=True)
class Audit:
    """What of a score comes from what is missing.

    Args:
        metric: of the scores.
        recorded: score as recorded.
        gaps_alone: with the observed values blanked.
        values_alone: with the gaps of another scan.
        neither: with both, which is chance.
        share: of the score above chance that comes from the gaps, 0 to 1 but for noise; None where the score is not
            above chance, so that there is nothing to share.
        changed: share of answers that name another class with the gaps of another scan; of a regression, by how much
            they change.
    """

    metric: str
    recorded: Measure
    gaps_alone: Measure
    values_alone: Measure
    neither: Measure
    share: Measure | None
    changed: float

    @property
    def conclusion(self) -> str:
        """What it says, in a sentence."""
        unit = self.metric.replace("_", " ")
        if self.share is None:
            return (
                f"The network's {unit} is not shown to be above chance here: there is nothing to share between gaps "
                "and values."
            )
        said = f"Of its {unit} above chance, {self.share.words()} comes from what is missing alone"
        low = self.share.interval[0] if self.share.interval else self.share.value
        return said + (": a network that would not do so elsewhere." if low > 0.05 else ".")

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain values."""
        names = ("recorded", "gaps_alone", "values_alone", "neither")
        scores = {name: getattr(self, name).to_json() for name in names}
        share = None if self.share is None else self.share.to_json()
        facts = {"metric": self.metric, "share": share, "changed": self.changed}
        return facts | scores | {"conclusion": self.conclusion}


def audited(
    data: Dataset,
    predict: Predict,
    metric: str | None = None,
    *,
    threshold: float | None = None,
    seed: int = 0,
) -> Audit | None:
    """Measure how much of a network's score comes from missingness alone.

    Args:
        data: labelled, with its gaps; targets count among the network's classes.
        predict: answers volumes.
        metric: that is shared out: by default accuracy, mae or dice, by the task.
        threshold: by which classes are named.
        seed: of which scan gets whose gaps, and of the intervals.

    Returns:
        None where all scans miss the same, so that nothing could be told from it.
    """
    metric = check_metric(metric, data.task)
    first = np.isnan(data.volumes[0])
    if all(np.array_equal(np.isnan(volume), first) for volume in data.volumes):
        return None
    rng = np.random.default_rng(seed)
    blank = _means(data)
    donors = [_others(len(data), rng) for _ in range(SWAPS)]

    def recorded(volumes: Values, _: NDArray[np.intp]) -> Changed:
        return np.ones(len(volumes), bool), volumes

    def blanked(volumes: Values, _: NDArray[np.intp]) -> Changed:
        return np.ones(len(volumes), bool), np.where(np.isnan(volumes), volumes, blank)

    def swapped(donor: NDArray[np.intp]) -> Change:
        def change(volumes: Values, places: NDArray[np.intp]) -> Changed:
            gaps = np.isnan(np.stack([data.volumes[int(i)] for i in donor[places]]))
            # What a scan lacks and its new gaps would show nobody knows: the mean of what it has says the least new.
            shown = np.where(
                gaps, np.float32(np.nan), np.where(np.isnan(volumes), own_means(volumes, blank), volumes)
            )
            return np.ones(len(volumes), bool), shown

        return change

    everyone = np.arange(len(data))
    changes: dict[str, Change] = {"recorded": recorded, "blanked": blanked}
    changes |= {f"swapped {i}": swapped(donor) for i, donor in enumerate(donors)}
    answers = answered(data, predict, changes, threshold)

    def score(given: Answers) -> Score:
        return score_of(data, given, metric, threshold)

    shuffled = [Answers(everyone, answers["blanked"].values[_others(len(data), rng)]) for _ in range(_CHANCE)]
    both, gaps = score(answers["recorded"]), score(answers["blanked"])
    values = _mean([score(answers[f"swapped {i}"]) for i in range(SWAPS)])
    neither = _mean([score(given) for given in shuffled])

    def share(some: NDArray[np.intp]) -> float:
        full, none = both(some), neither(some)
        if full == none:
            return float("nan")
        return ((gaps(some) - none) + (full - values(some))) / (2 * (full - none))

    def above(some: NDArray[np.intp]) -> float:
        return better(metric) * (both(some) - neither(some))

    wanted = {
        "recorded": both,
        "gaps": gaps,
        "values": values,
        "neither": neither,
        "share": share,
        "above": above,
    }
    found = measured(wanted, members_of(data), seed)
    lies = found["above"].interval
    shared = found["share"] if lies and lies[0] > 0 else None
    changed = float(np.mean([_changed(data.task, answers, i, threshold) for i in range(SWAPS)]))
    return Audit(metric, found["recorded"], found["gaps"], found["values"], found["neither"], shared, changed)


def _changed(task: str, answers: dict[str, Answers], swap: int, threshold: float | None) -> float:
    before, after = answers["recorded"].values, answers[f"swapped {swap}"].values
    if task == "regression":
        return float(np.abs(before - after).mean())
    if task == "classification":
        before, after = named(before, threshold), named(after, threshold)
    return float((before != after).mean())


def _means(data: Dataset) -> NDArray[np.float32]:
    """Return the mean of what is observed in each channel; 0 of one that is always missing."""
    total, count = np.zeros(data.volumes.shape[-1]), np.zeros(data.volumes.shape[-1])
    for volume in data.volumes:
        there = ~np.isnan(volume)
        total += np.where(there, volume, 0).sum(axis=(0, 1, 2), dtype=np.float64)
        count += there.sum(axis=(0, 1, 2))
    return np.asarray(total / np.maximum(count, 1), np.float32)


def own_means(volumes: Values, blank: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean of each channel of each volume, `(n, 1, 1, 1, channels)`; `blank` where it has nothing."""
    there = ~np.isnan(volumes)
    count = there.sum(axis=(1, 2, 3), keepdims=True)
    total = np.where(there, volumes, 0).sum(axis=(1, 2, 3), keepdims=True, dtype=np.float64)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), blank), np.float32)


def _others(count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Another sample for each, every one once."""
    order = rng.permutation(count)
    found = np.empty(count, np.intp)
    found[order] = np.roll(order, 1)
    return found


def _mean(scores: list[Score]) -> Score:
    return remembered(lambda some: float(np.mean([score(some) for score in scores])))
