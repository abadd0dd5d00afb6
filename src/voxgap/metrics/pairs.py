"""All pairs of strategies at once, of one experiment or of many: the one analysis that verdicts rest on.

Means of paired differences over splits, variances that borrow from each other (`voxgap.metrics.moderation`) and allow
for overlapping training sets (`voxgap.metrics.significance`), p-values by Holm, and probabilities around the region of
practical equivalence.

It is the mixed model with splits as random effects, in closed form. Where each split has as many samples and seeds, the
samples' own differences enter its test through the means of splits alone: what scatters between samples, between seeds
and between trainings is all in the scatter of these means, and in the shares in which it makes their error.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap.metrics.moderation import moderated
from voxgap.metrics.significance import ALPHA, ROPE, Floats, holm

WORSE, UNDECIDED, SAME, BETTER, UNKNOWN = -1, 0, 1, 2, 3


class Judged(NamedTuple):
    """What is found of each pair, for its first strategy: arrays `(..., pairs)`, NaN where too few splits have both.

    Attributes:
        difference: by how much it is better. spread: of that between splits, moderated. degrees: of freedom of it.
        error: standard error of the difference. splits: that have both. failed: pairs of runs without both scores.
        p_value: two-sided. p_adjusted: by Holm over those pairs that count, at this look.
        worse, same, better: probabilities; they sum to 1.
    """

    difference: Floats
    spread: Floats
    degrees: Floats
    error: Floats
    splits: NDArray[np.int_]
    failed: NDArray[np.int_]
    p_value: Floats
    p_adjusted: Floats
    worse: Floats
    same: Floats
    better: Floats


def pairs_of(strategies: int) -> list[tuple[int, int]]:
    """Return the pairs of so many strategies in the order in which they are judged, each as two indices."""
    return list(itertools.combinations(range(strategies), 2))


def judged(
    scores: Any,
    ratio: float,
    *,
    rope: float = ROPE,
    reference: int | None = None,
    level: float = 1.0,
) -> Judged:
    """Judge all pairs.

    Args:
        scores: `(..., strategies, splits, seeds)`, higher is better, NaN where there is none.
        ratio: test samples for each training sample.
        rope: half the width of the region of practical equivalence, in the metric's unit.
        reference: index of the strategy whose pairs alone count in Holm's correction; None: all pairs do, since any
            strategy could have come out best.
        level: share of the level at which they are judged; below 1 where there are several looks, see
            `voxgap.metrics.racing`.
    """
    from scipy import stats

    table = np.asarray(scores, dtype=np.float64)
    strategies = table.shape[-3]
    first, second = np.array(pairs_of(strategies), dtype=int).reshape(-1, 2).T
    gains = table[..., first, :, :] - table[..., second, :, :]
    failed = np.isnan(gains).sum(axis=(-2, -1))
    means, _ = _mean(gains)
    difference, splits = _mean(means)
    squares = np.where(np.isnan(means), 0, (means - difference[..., None]) ** 2).sum(axis=-1)
    largest = np.where(np.isnan(means), 0, np.abs(means)).max(axis=-1, initial=0)
    enough = splits > 1
    variance = np.where(enough, squares / np.maximum(splits - 1, 1), np.nan)
    # Equal differences of rounded scores differ in the last bits, which is no spread.
    variance = np.where(variance < (1e-9 * largest) ** 2, 0.0, variance)
    variance, degrees = moderated(variance, splits - 1.0, strategies, _residual(table))
    error = np.sqrt(variance * (1 / np.maximum(splits, 1) + ratio))

    def quotient(distance: Floats) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where((distance == 0) & (error == 0), 0.0, distance / error)

    free = np.maximum(degrees, 1)
    p_value = 2 * stats.t.sf(np.abs(quotient(difference)), free)
    counts = np.ones(len(first), bool) if reference is None else (first == reference) | (second == reference)
    adjusted = holm(np.where(counts & enough, np.minimum(p_value / level, 1), np.nan))
    worse = stats.t.cdf(quotient(-rope - difference), free)
    better = stats.t.sf(quotient(rope - difference), free)
    same = np.maximum(0.0, 1 - worse - better)
    chances = (np.where(enough, chance, np.nan) for chance in (p_value, adjusted, worse, same, better))
    return Judged(difference, np.sqrt(variance), degrees, error, splits, failed, *chances)


def decided(found: Any, rope: float, *, alpha: float = ALPHA, level: float = 1.0) -> NDArray[np.int_]:
    """Return what is shown of each pair: BETTER, WORSE, SAME, UNDECIDED, or UNKNOWN where too few splits have both.

    Args:
        found: a `Judged`, or whatever has its fields.
        rope: as for `judged`.
        alpha: level of all pairs together.
        level: as for `judged`.
    """
    sure = 1 - alpha * level
    shown = np.asarray(found.p_adjusted) <= alpha
    steady = np.asarray(found.spread) == 0
    alike = np.abs(found.difference) <= rope
    return np.select(
        [
            np.asarray(found.splits) < 2,
            # From differences that are all the same nothing is known of chance.
            steady & alike,
            steady,
            shown & (np.asarray(found.better) >= sure),
            shown & (np.asarray(found.worse) >= sure),
            np.asarray(found.same) >= sure,
        ],
        [UNKNOWN, SAME, UNDECIDED, BETTER, WORSE, SAME],
        UNDECIDED,
    )


def _mean(values: Floats) -> tuple[Floats, NDArray[np.int_]]:
    """Return means over the last axis without what is NaN, and of how many values; NaN of none."""
    known = ~np.isnan(values)
    count = known.sum(axis=-1)
    total = np.where(known, values, 0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan), count


def _residual(table: Floats) -> NDArray[np.int_]:
    """Return how many degrees of freedom scores of splits have beside those of strategies and of splits."""
    known: NDArray[np.bool_] = np.asarray(~np.isnan(table).all(axis=-1))
    return known.sum(axis=(-2, -1)) - known.any(axis=-1).sum(axis=-1) - known.any(axis=-2).sum(axis=-1) + 1
