"""Which strategy is better, in numbers and in words, from the scores of paired runs.

Scores come as `(splits, seeds)`, NaN where a run failed; `voxgap.metrics.significance` says what counts as a split.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np

from voxgap.errors import VoxgapError
from voxgap.metrics.pairs import BETTER, SAME, UNDECIDED, UNKNOWN, WORSE, Judged, decided, judged, pairs_of
from voxgap.metrics.significance import (
    ALPHA,
    MOST_FURTHER,
    POWER,
    ROPE,
    Estimate,
    Floats,
    estimate,
    further_splits,
    least_shown,
    run_table,
    size_ratio,
)

# Of the metrics in `voxgap.metrics`.
LOWER_IS_BETTER = frozenset({"log_loss", "brier", "calibration_error", "mae", "rmse"})


ENOUGH = 5
"""Folds from which on it is the spread that decides, and not that there are so few.

So do as many degrees of freedom, where pairs borrow from each other."""
Decision = Literal["better", "worse", "same", "undecided", "unknown"]
DECISIONS: dict[int, Decision] = {
    BETTER: "better",
    WORSE: "worse",
    SAME: "same",
    UNDECIDED: "undecided",
    UNKNOWN: "unknown",
}


@dataclasses.dataclass(frozen=True)
class Paired:
    """Two strategies on the same splits.

    Attributes:
        first, second: their names.
        difference: by how much the first is better, in the metric's unit; negative where it is worse.
        low, high: 95 % confidence interval of the difference.
        spread: standard deviation of the difference between splits; where several pairs were judged together it is
            moderated, see `voxgap.metrics.moderation`.
        degrees: of freedom of the spread.
        splits: that both have a score for.
        failed: pairs of runs that are left out, because one of the two has no score.
        ratio: test samples for each training sample.
        rope: differences up to this one don't matter, in the metric's unit.
        p_value: two-sided, of the corrected t-test.
        p_adjusted: the same by Holm over all `comparisons`, and for all looks.
        worse, same, better: probabilities, for the first, of the Bayesian correlated t-test.
        level: share of the level at which it is judged; below 1 where there are several looks, see
            `voxgap.metrics.racing`.
    """

    first: str
    second: str
    difference: float
    low: float
    high: float
    spread: float
    degrees: float
    splits: int
    failed: int
    ratio: float
    rope: float
    p_value: float
    p_adjusted: float
    comparisons: int
    worse: float
    same: float
    better: float
    level: float = 1.0

    @property
    def borrowed(self) -> float:
        """Degrees of freedom of the spread that come from other pairs."""
        return self.degrees - (self.splits - 1)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a comparison says.

    Attributes:
        decision: for the first strategy; `undecided` where the splits don't tell, `unknown` where too few exist.
        words: the same for people.
        further: about how many further splits would decide; None if none are needed, or too many.
    """

    decision: Decision
    words: str
    further: int | None = None


@dataclasses.dataclass(frozen=True)
class Place:
    """One strategy in a ranking.

    Attributes:
        strategy: its name.
        mean: over the splits, corrected for runs that failed.
        low, high: 95 % confidence interval of the mean.
        splits: with a score.
        failed: runs without a score.
        against: this strategy compared with the best, or the reference; None for that one itself.
        verdict: what that says.
    """

    strategy: str
    mean: float
    low: float
    high: float
    splits: int
    failed: int
    against: Paired | None
    verdict: Verdict | None

    @property
    def unsure(self) -> str:
        """Why the mean has no interval, in words; empty where it has one."""
        if not math.isnan(self.low):
            return ""
        return f"the same in all {self.splits} folds" if self.splits > 1 else "one fold, no interval"


def compare_pair(
    first: str,
    first_scores: Any,
    second: str,
    second_scores: Any,
    n_train: Any,
    n_test: Any,
    *,
    rope: float = ROPE,
    lower_is_better: bool = False,
) -> Paired:
    """Compare two strategies on the runs that both finished.

    Args:
        first, second: their names.
        first_scores, second_scores: `(splits,)` or `(splits, seeds)`, same order of splits and seeds, NaN where
            a run failed.
        n_train, n_test: samples in the training and test set of a split, or one number for each split.
        rope: differences up to this one don't matter, in the metric's unit. Choose it before you look.
        lower_is_better: for errors and losses; see `LOWER_IS_BETTER`.

    Raises:
        VoxgapError: The scores are not of the same runs.
    """
    ours, theirs = run_table(first_scores), run_table(second_scores)
    if ours.shape != theirs.shape:
        raise VoxgapError(
            f"scores of {first} are {ours.shape}, of {second} {theirs.shape}; "
            "give (splits, seeds) of the same runs"
        )
    (found,) = _pairs({first: ours, second: theirs}, size_ratio(n_train, n_test), rope, lower_is_better)
    return found


def _pairs(
    tables: Mapping[str, Floats],
    ratio: float,
    rope: float,
    lower_is_better: bool,
    reference: str | None = None,
    level: float = 1.0,
) -> list[Paired]:
    """Judge all pairs, each strategy with those that come after it; `rank` says what the arguments are."""
    if not 0 <= rope < math.inf:
        raise VoxgapError(f"rope {rope:g} is no width; give 0 or more, in the unit of the metric")
    names = [*tables]
    scores = np.stack([*tables.values()]) * (-1 if lower_is_better else 1)
    place = None if reference is None else names.index(reference)
    found = judged(scores, ratio, rope=rope, reference=place, level=level)
    comparisons = max(1, int(np.isfinite(found.p_adjusted).sum()))
    return [
        _paired(
            (names[a], names[b]),
            Judged(*(values[place] for values in found)),
            ratio,
            rope,
            comparisons,
            level,
        )
        for place, (a, b) in enumerate(pairs_of(len(names)))
    ]


def _paired(
    names: tuple[str, str], found: Judged, ratio: float, rope: float, comparisons: int, level: float
) -> Paired:
    difference, spread, degrees = float(found.difference), float(found.spread), float(found.degrees)
    gain = Estimate(difference, spread, float(found.error), int(found.splits))
    low, high = gain.interval(degrees=degrees)
    return Paired(
        first=names[0],
        second=names[1],
        difference=difference,
        low=low,
        high=high,
        spread=spread,
        degrees=degrees,
        splits=int(found.splits),
        failed=int(found.failed),
        ratio=ratio,
        rope=rope,
        p_value=float(found.p_value),
        p_adjusted=float(found.p_adjusted),
        comparisons=comparisons,
        worse=float(found.worse),
        same=float(found.same),
        better=float(found.better),
        level=level,
    )


def _turned(pair: Paired) -> Paired:
    """Return the same for the other of the two."""
    return dataclasses.replace(
        pair,
        first=pair.second,
        second=pair.first,
        difference=-pair.difference,
        low=-pair.high,
        high=-pair.low,
        worse=pair.better,
        better=pair.worse,
    )


def verdict(pair: Paired, *, alpha: float = ALPHA, power: float = POWER, most: int = MOST_FURTHER) -> Verdict:
    """Say what a comparison shows, and no more.

    `better` takes both a p-value, two-sided and adjusted for all comparisons, of at most alpha, and a probability
    of at least 1 - alpha that the difference exceeds the region of equivalence. `same` takes that probability of
    lying inside the region. So a false `better` or `worse` anywhere in a ranking has at most the chance alpha.

    Args:
        pair: from `compare_pair` or `rank`.
        alpha: between 0 and 1.
        power, most: for the number of further splits, see `voxgap.metrics.significance.further_splits`.
    """
    both, note = f"{pair.first} and {pair.second}", _failed_note(pair.failed)
    decision = DECISIONS[int(decided(pair, pair.rope, alpha=alpha, level=pair.level))]
    if decision == "unknown":
        return Verdict(decision, f"{both} can't be compared: {_folds(pair.splits)} with both, 2 needed{note}")
    if pair.spread == 0:
        return Verdict(decision, _without_spread(pair) + note)
    if decision == "better":
        return Verdict(decision, f"{pair.first} is better than {pair.second} ({_p(pair.better)}){note}")
    if decision == "worse":
        return Verdict(decision, f"{pair.second} is better than {pair.first} ({_p(pair.worse)}){note}")
    if decision == "same":
        return Verdict(decision, f"{both} are practically the same ({_p(pair.same)}){note}")
    kind = f"difference of more than {pair.rope:g}" if pair.p_adjusted <= alpha else "difference"
    words = f"no {kind} between {both} can be shown with these {_folds(pair.splits)}"
    seen = abs(pair.difference)
    if seen <= pair.rope:
        return Verdict("undecided", f"{words}; the one seen, {seen:.2g}, is too small to matter{note}")
    if pair.degrees < ENOUGH - 1:
        return Verdict("undecided", f"{words}; {_more_folds(pair, alpha)}{note}")
    further = further_splits(
        *(seen, pair.spread, pair.splits, pair.ratio),
        rope=pair.rope,
        comparisons=pair.comparisons,
        alpha=alpha * pair.level,
        borrowed=pair.borrowed,
        power=power,
        most=most,
    )
    needed = f"about {further} more" if further else f"more than {most} more, or more samples,"
    return Verdict("undecided", f"{words}; {needed} would be needed{note}", further)


def rank(
    scores: Mapping[str, Any],
    n_train: Any,
    n_test: Any,
    *,
    rope: float = ROPE,
    lower_is_better: bool = False,
    reference: str | None = None,
    alpha: float = ALPHA,
    left: Collection[str] = (),
    level: float = 1.0,
) -> tuple[Place, ...]:
    """Order strategies from the best, and compare each with the best or with a reference.

    All pairs are judged together, so that their spreads borrow from each other. The best is only known from the
    scores, so Holm's correction then counts all pairs. A reference that was chosen beforehand costs less: only
    its own pairs count. Leave baselines such as `complete` out.

    Args:
        scores: by strategy, `(splits,)` or `(splits, seeds)` of the same runs, NaN where a run failed.
        n_train, n_test, rope, lower_is_better: as for `compare_pair`.
        reference: strategy to compare with, instead of the best.
        alpha: level of all comparisons together.
        left: strategies that were given up before the others, and so come after them.
        level: share of `alpha` at which they are judged; below 1 where there are several looks, see
            `voxgap.metrics.racing`.

    Returns:
        Strategies without any score come last. The mean of one with failed runs is what it would be over all
        runs if these were as hard for it as for the others, so that failing on hard splits wins nothing.

    Raises:
        VoxgapError: No scores, scores of different runs, or an unknown reference.
    """
    tables = {name: run_table(values) for name, values in scores.items()}
    if len({table.shape for table in tables.values()}) != 1:
        raise VoxgapError(
            "strategies have scores of different runs; give (splits, seeds), NaN where a run failed"
        )
    if reference is not None and reference not in tables:
        raise VoxgapError(f"reference {reference!r} has no scores; use one of {', '.join(tables)}")
    means = dict(zip(tables, _adjusted_means(np.stack(list(tables.values()))), strict=True))
    direction = 1 if lower_is_better else -1
    order = sorted(means, key=lambda name: (math.isnan(means[name]), name in left, direction * means[name]))
    target = order[0] if reference is None else reference
    found = _pairs(tables, size_ratio(n_train, n_test), rope, lower_is_better, reference, level)
    against = {
        pair.first: pair
        for given in found
        if target in (given.first, given.second)
        for pair in [given if given.second == target else _turned(given)]
    }
    return tuple(
        _place(name, tables[name], means[name], n_train, n_test, against.get(name), alpha) for name in order
    )


def _place(
    name: str, table: Floats, mean: float, n_train: Any, n_test: Any, against: Paired | None, alpha: float
) -> Place:
    score = estimate(table, n_train, n_test)._replace(mean=float(mean))
    return Place(
        name,
        score.mean,
        *score.interval(),
        splits=score.splits,
        failed=int(np.isnan(table).sum()),
        against=against,
        verdict=verdict(against, alpha=alpha) if against else None,
    )


def _adjusted_means(scores: Floats) -> Floats:
    """Return strategies' least-squares means over all runs `(strategies, splits, seeds)`, where some may lack."""
    values = scores.reshape(len(scores), -1)
    values = values[:, ~np.isnan(values).all(axis=0)]
    if not values.size:
        return np.full(len(scores), np.nan)
    strategy, run = np.nonzero(~np.isnan(values))
    design = np.zeros((len(run), sum(values.shape)))
    design[np.arange(len(run)), strategy] = 1
    design[np.arange(len(run)), len(values) + run] = 1
    effects = np.linalg.lstsq(design, values[strategy, run], rcond=None)[0]
    means = effects[: len(values)] + effects[len(values) :].mean()
    return np.where(np.isnan(values).all(axis=1), np.nan, means)


def _without_spread(pair: Paired) -> str:
    both, folds = f"{pair.first} and {pair.second}", f"in all {_folds(pair.splits)}"
    seen = abs(pair.difference)
    if seen <= pair.rope:
        return f"{both} score practically the same {folds}"
    return f"{both} differ by {seen:.2g} {folds}, so chance can't be judged; more or larger folds are needed"


def _more_folds(pair: Paired, alpha: float) -> str:
    """Warn where Student's distribution has so few degrees of freedom that hardly anything can be shown."""
    ratio = min(pair.ratio, 1 / (ENOUGH - 1))  # more folds leave more to train on
    least = least_shown(
        *(pair.spread, ENOUGH, ratio),
        rope=pair.rope,
        comparisons=pair.comparisons,
        alpha=alpha * pair.level,
        borrowed=pair.borrowed,
    )
    advice = f"so few show hardly any: give --folds {ENOUGH} or more"
    if abs(pair.difference) >= least:
        return f"{advice}, which would show one from {least:.2g} on (seen: {abs(pair.difference):.2g})"
    return (
        f"{advice}, and more samples: even {ENOUGH} would show one only from {least:.2g} on "
        f"(seen: {abs(pair.difference):.2g})"
    )


def _folds(count: int) -> str:
    return f"{count} fold" if count == 1 else f"{count} folds"


def _p(chance: float) -> str:
    return "P > 0.99" if chance >= 0.995 else f"P = {chance:.2f}"


def _failed_note(failed: int) -> str:
    if not failed:
        return ""
    return f" ({failed} failed {'pair of runs is' if failed == 1 else 'pairs of runs are'} left out)"
