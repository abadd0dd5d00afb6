"""Whether a network looks at the values or at who was scanned, and how: what of its score comes from gaps alone.

Experiments without training: the observed values are blanked and the gaps stay; and the gaps are those of another scan
and the values stay. A scan with the gaps of another shows fewer values than its own, and loses by that whatever the
gaps say; so it is held against the scan with its own gaps that shows no more than both do. Where the gaps are
independent of all else, the two are alike, and nothing is found. The share of the gaps is their Shapley value in a game
of two players, the mean of what they add alone and of what they add to the values: Shapley, A value for n-person games,
1953; for features of a model Lundberg and Lee, NeurIPS 2017.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from voxgap.decision import named
from voxgap.metrics.metrics import counted
from voxgap.ragged import differ
from voxgap.trust.scoring import (
    Answers,
    Change,
    Measure,
    Predict,
    Score,
    answered,
    as_kept,
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
Roles = dict[str, list[Answers]]

_DONORS = 2
SWAPS = 2 * _DONORS
"""Predictions with the gaps of others, and with what both show."""
PREDICTIONS = 1 + SWAPS
"""Of each scan, beside the one as it was recorded."""
FEWEST = 10
"""Scans that an audit is about at least."""
_CHANCE = 10  # shuffles of the answers to blanked scans, which cost nothing
_ROLES = ("recorded", "gaps_alone", "both_show", "values_alone", "neither")


@dataclass(frozen=True)
class Audit:
    """What of a score comes from what is missing.

    Args:
        metric: of the scores.
        recorded: score as recorded.
        gaps_alone: with the observed values blanked.
        both_show: with its own gaps, and of the values those that the gaps of another scan, too, would show.
        values_alone: with those values, and the gaps of the other scan.
        neither: of the answers to other scans, blanked, which is chance.
        share: of the score above chance that comes from the gaps, 0 to 1 but for noise; None where the score is not
            above chance, so that there is nothing to share.
        changed: share of answers that name another class with the gaps of another scan; of a regression, by how much
            they change.
    """

    metric: str
    recorded: Measure
    gaps_alone: Measure
    both_show: Measure
    values_alone: Measure
    neither: Measure
    share: Measure | None
    changed: float

    @property
    def conclusion(self) -> str:
        """What it says, in a sentence."""
        unit = self.metric.replace("_", " ")
        rises = better(self.metric) > 0
        if self.share is None:
            above = "above chance" if rises else "better than chance"
            return (
                f"The network's {unit} is not shown to be {above} here: there is nothing to share between gaps and "
                "values."
            )
        if not self._tells:
            return (
                f"The network's {unit} is too close to chance to tell how much of it comes from what is missing "
                "alone."
            )
        gain = f"its {unit} above chance" if rises else f"what its {unit} gains over chance"
        if self._least <= 0:
            return (
                f"It is not shown that any of {gain} comes from what is missing alone: its share is "
                f"{self.share_words}."
            )
        said = f"Of {gain}, {self.share_words} comes from what is missing alone"
        return said + (": a network that would not do so elsewhere." if self.leans else ".")

    @property
    def share_words(self) -> str:
        """The share as a table has it, no less than none and no more than all; or why there is none."""
        if self.share is None:
            return "not better than chance"
        return _clipped(self.share).words() if self._tells else "too close to chance"

    @property
    def leans(self) -> bool:
        """Whether a part of the score is shown to come from the gaps."""
        return self._tells and self._least > 0.05

    @property
    def _tells(self) -> bool:
        """Whether the share is known more closely than that it is one."""
        if self.share is None:
            return False
        low, high = self.share.interval or (0.0, 0.0)
        return high - low <= 1

    @property
    def _least(self) -> float:
        if self.share is None:
            return 0.0
        return self.share.interval[0] if self.share.interval else self.share.value

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain values."""
        scores = {name: getattr(self, name).to_json() for name in _ROLES}
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
    answers = _answers(data, predict, threshold, seed)
    if answers is None:
        return None
    scores = {
        role: _mean([score_of(data, given, metric, threshold) for given in several])
        for role, several in answers.items()
    }
    return _concluded(
        metric, scores, members_of(data), float(_changed(data.task, answers, threshold).mean()), seed
    )


def audited_cases(
    data: Dataset, predict: Predict, recorded: Any, *, threshold: float | None = None, seed: int = 0
) -> tuple[dict[str, Any], ...]:
    """Return what an audit of a network counts of each case, so that it can be pooled with those of other networks.

    Args:
        data, predict, threshold, seed: see `audited`.
        recorded: what the network answers to the data as it is.

    Returns:
        A row a case: `changed`, and for each score of `Audit` what the case adds to it, a number, or of label maps
        the parts of Dice, `[parts, wholes]` of each class but the background; nothing where `audited` returns None,
        where there are fewer than two cases, or several shapes, so that no scan can have the gaps of another.
    """
    if len(data) < 2 or differ(data.volumes):
        return ()
    answers = _answers(data, predict, threshold, seed, recorded)
    if answers is None:
        return ()
    columns = {
        role: np.mean([_counts(data, given, threshold) for given in several], axis=0)
        for role, several in answers.items()
    } | {"changed": _changed(data.task, answers, threshold)}
    return tuple({name: _short(held[index]) for name, held in columns.items()} for index in range(len(data)))


def pooled(
    metric: str, rows: Iterable[Mapping[str, Any]], members: Sequence[str], seed: int = 0
) -> Audit | None:
    """Audit several networks in one, from the rows of `audited_cases`.

    Args:
        metric: that decides for the task.
        rows: of all of them.
        members: whose each row is: those of one patient, or of one case that several networks answered, are drawn
            together.
        seed: of the intervals.

    Returns:
        None where there are too few.
    """
    rows = list(rows)
    names, of_row = np.unique(np.asarray(members, np.str_), return_inverse=True)
    if len(names) < FEWEST:
        return None

    def score(role: str) -> Score:
        held = np.array([row[role] for row in rows], np.float64)
        held = np.stack([held, np.ones(len(held))], axis=1)[..., None] if held.ndim == 1 else held
        summed = np.zeros((len(names), *held.shape[1:]))
        np.add.at(summed, of_row, held)
        return remembered(lambda some: _mean_share(*summed[some].sum(axis=0)))

    changed = float(np.mean([row["changed"] for row in rows]))
    return _concluded(metric, {role: score(role) for role in _ROLES}, np.arange(len(names)), changed, seed)


def _answers(
    data: Dataset, predict: Predict, threshold: float | None, seed: int, recorded: Any = None
) -> Roles | None:
    """Return what a network answers in each role, once for each donor or shuffle; None where all miss the same."""
    first = np.isnan(data.volumes[0])
    if all(np.array_equal(np.isnan(volume), first) for volume in data.volumes):
        return None
    rng = np.random.default_rng(seed)
    blank = _means(data)
    donors = [_others(len(data), rng) for _ in range(_DONORS)]

    def as_is(volumes: Values, _: NDArray[np.intp]) -> Changed:
        return np.ones(len(volumes), bool), volumes

    def blanked(volumes: Values, _: NDArray[np.intp]) -> Changed:
        return np.ones(len(volumes), bool), np.where(np.isnan(volumes), volumes, blank)

    def reduced(donor: NDArray[np.intp], swapped: bool) -> Change:
        def change(volumes: Values, places: NDArray[np.intp]) -> Changed:
            others = np.isnan(np.stack([data.volumes[int(i)] for i in donor[places]]))
            both = np.where(others, np.float32(np.nan), volumes)
            # What one of the two lacks nobody knows: the mean of what both show says the least new.
            shown = np.where(np.isnan(both), own_means(both, blank), both)
            gaps = others if swapped else np.isnan(volumes)
            return np.ones(len(volumes), bool), np.where(gaps, np.float32(np.nan), shown)

        return change

    changes: dict[str, Change] = {"blanked": blanked}
    for i, donor in enumerate(donors):
        changes |= {f"own {i}": reduced(donor, False), f"swapped {i}": reduced(donor, True)}
    answers = answered(
        data, predict, changes if recorded is not None else {"recorded": as_is} | changes, threshold
    )
    everyone = np.arange(len(data))
    if recorded is not None:
        answers["recorded"] = Answers(everyone, as_kept(data.task, recorded, threshold))
    gaps = answers["blanked"]
    return {
        "recorded": [answers["recorded"]],
        "gaps_alone": [gaps],
        "both_show": [answers[f"own {i}"] for i in range(_DONORS)],
        "values_alone": [answers[f"swapped {i}"] for i in range(_DONORS)],
        "neither": [Answers(everyone, gaps.values[_others(len(data), rng)]) for _ in range(_CHANCE)],
    }


def _concluded(
    metric: str, scores: Mapping[str, Score], members: NDArray[np.intp], changed: float, seed: int
) -> Audit:
    """Conclude from the score of each role."""
    full, gaps, own, other, none = (scores[role] for role in _ROLES)

    def share(some: NDArray[np.intp]) -> float:
        above = full(some) - none(some)
        return (
            ((gaps(some) - none(some)) + (own(some) - other(some))) / (2 * above) if above else float("nan")
        )

    def above(some: NDArray[np.intp]) -> float:
        return better(metric) * (full(some) - none(some))

    found = measured({**scores, "share": share, "above": above}, members, seed)
    lies = found["above"].interval
    shared = found["share"] if lies and lies[0] > 0 else None
    return Audit(metric, **{role: found[role] for role in _ROLES}, share=shared, changed=changed)


def _clipped(share: Measure) -> Measure:
    """Return a share as one can be: what is beyond is noise."""
    value, *interval = (min(1.0, max(0.0, bound)) for bound in (share.value, *(share.interval or ())))
    return Measure(value, (interval[0], interval[1]) if interval else None)


def _counts(data: Dataset, given: Answers, threshold: float | None) -> NDArray[np.float64]:
    """Return what each case adds to the score: a number, or of label maps `(2, classes - 1)`; see `audited_cases`."""
    truth, values = np.asarray(data.targets), given.values
    if data.task == "segmentation":
        tables = [counted(t, v, len(data.classes)) for t, v in zip(truth, values, strict=True)]
        return np.array([[2 * np.diag(one), one.sum(axis=0) + one.sum(axis=1)] for one in tables])[..., 1:]
    if data.task == "classification":
        return np.asarray(named(values, threshold) == truth, np.float64)
    return np.abs(truth.reshape(len(truth), -1) - values.reshape(len(truth), -1)).mean(
        axis=1, dtype=np.float64
    )


def _mean_share(parts: NDArray[np.float64], wholes: NDArray[np.float64]) -> float:
    """Return the mean share over what there is any of; NaN where there is nothing."""
    there = wholes > 0
    return float((parts[there] / wholes[there]).mean()) if there.any() else float("nan")


def _short(value: Any) -> Any:
    """Return numbers in six digits, which are enough of a mean over a few answers."""
    return [_short(one) for one in value] if np.ndim(value) else float(f"{value:.6g}")


def _changed(task: str, answers: Roles, threshold: float | None) -> NDArray[np.float64]:
    """Return how much of each case's answer another scan's gaps change."""
    found = []
    for one, other in zip(answers["both_show"], answers["values_alone"], strict=True):
        before, after = one.values, other.values
        if task == "classification":
            before, after = named(before, threshold), named(after, threshold)
        apart = np.abs(before - after) if task == "regression" else before != after
        found.append(apart.reshape(len(apart), -1).mean(axis=1, dtype=np.float64))
    return np.asarray(np.mean(found, axis=0))


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
