"""What scores of cross-validation show, given that training sets overlap: intervals, tests, further splits.

Scores come as `(splits,)` or `(splits, seeds)`, NaN where a run failed. A *split* is one division of the data
into training and test samples; in repeated cross-validation each fold of each repetition is a split of its own
(5 folds under 3 shufflings are 15 splits). *Seeds* repeat a split with other weights and batches. They share its
test samples, so they are averaged within it: they make a split's score steadier and never count as further splits.

Over J splits the mean of scores, or of differences between two strategies, has the variance
`(1 / J + n_test / n_train) * spread**2`. The second term stands for the training samples that splits share, and
stays however many splits there are.

Sources: Nadeau and Bengio, Inference for the generalization error, Machine Learning 52, 2003; for repeated
cross-validation Bouckaert and Frank, PAKDD 2004.
"""

from __future__ import annotations

import bisect
import math
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError

Floats = NDArray[np.float64]

# One point of accuracy, as in Benavoli et al.
ROPE = 0.01
ALPHA = 0.05
POWER = 0.8
MOST_FURTHER = 100


class Estimate(NamedTuple):
    """A mean over splits, standard deviation between them, standard error of the mean, and how many there are.

    NaN where there are too few: spread and error take two splits.
    """

    mean: float
    spread: float
    error: float
    splits: int

    def interval(self, confidence: float = 0.95, degrees: float | None = None) -> tuple[float, float]:
        """Return the confidence interval of the mean, by Student's distribution; NaN where the splits agree.

        From values that are all the same nothing is known of how far they spread.

        Args:
            confidence: between 0 and 1.
            degrees: of freedom of the spread; by default one less than there are splits.
        """
        from scipy import stats

        if not 0 < confidence < 1:
            raise VoxgapError(f"confidence {confidence:g} is not between 0 and 1; 0.95 is usual")
        if self.splits < 2 or not self.error:
            return math.nan, math.nan
        free = self.splits - 1 if degrees is None else degrees
        reach = float(stats.t.isf((1 - confidence) / 2, free)) * self.error
        return self.mean - reach, self.mean + reach


class TTest(NamedTuple):
    """A t statistic, its p-value and its degrees of freedom."""

    statistic: float
    p_value: float
    degrees: int


class Chances(NamedTuple):
    """Probabilities that the first of two is worse, practically the same, or better; they sum to 1."""

    worse: float
    same: float
    better: float


def estimate(scores: Any, n_train: Any, n_test: Any) -> Estimate:
    """Estimate the mean of scores or differences, with an error that allows for overlapping training sets.

    Args:
        scores: `(splits,)` or `(splits, seeds)`, NaN where a run failed.
        n_train, n_test: samples in the training and test set of a split, or one number for each split. Samples
            held out for early stopping may count as training samples; leaving them out is more careful.

    Raises:
        VoxgapError: Scores of another shape, or counts that are none.
    """
    values = _split_means(run_table(scores))
    splits = len(values)
    mean = float(values.mean()) if splits else math.nan
    spread = float(values.std(ddof=1)) if splits > 1 else math.nan
    # Equal differences of rounded scores differ in the last bits, which is no spread.
    if splits and spread < 1e-9 * np.abs(values).max():
        spread = 0.0
    error = spread * math.sqrt(1 / max(splits, 1) + size_ratio(n_train, n_test))
    return Estimate(mean, spread, error, splits)


def corrected_t_test(
    differences: Any,
    n_train: Any,
    n_test: Any,
    alternative: Literal["two-sided", "greater", "less"] = "two-sided",
) -> TTest:
    """Test whether the mean of paired differences is 0, by the corrected resampled t-test.

    Args:
        differences: `(splits,)` or `(splits, seeds)`, in the metric's unit, NaN where a run failed.
        n_train, n_test: as for `estimate`.
        alternative: what holds if it is not 0: `two-sided`, `greater` than 0, or `less`.

    Returns:
        NaN where fewer than two splits have a difference.

    Source: Nadeau and Bengio, Machine Learning 52, 2003.
    """
    from scipy import stats

    if alternative not in ("two-sided", "greater", "less"):
        raise VoxgapError(f"alternative {alternative!r} is unknown; use two-sided, greater or less")
    mean, _, error, splits = estimate(differences, n_train, n_test)
    if splits < 2:
        return TTest(math.nan, math.nan, splits - 1)
    statistic = _quotient(mean, error)
    if alternative == "two-sided":
        p_value = 2 * stats.t.sf(abs(statistic), splits - 1)
    else:
        p_value = stats.t.sf(statistic if alternative == "greater" else -statistic, splits - 1)
    return TTest(statistic, float(p_value), splits - 1)


def bayesian_t_test(differences: Any, n_train: Any, n_test: Any, rope: float = ROPE) -> Chances:
    """Return how probable it is that the mean difference lies below, in or above the region of equivalence.

    The Bayesian correlated t-test: under its flat prior the mean follows Student's distribution, with the
    corrected variance.

    Args:
        differences: by how much the first strategy is better; as for `corrected_t_test`.
        n_train, n_test: as for `estimate`.
        rope: half the width of the region of practical equivalence, in the metric's unit.

    Returns:
        NaN where fewer than two splits have a difference.

    Source: Benavoli, Corani, Demšar and Zaffalon, Journal of Machine Learning Research 18, 2017.
    """
    from scipy import stats

    if not 0 <= rope < math.inf:
        raise VoxgapError(f"rope {rope:g} is no width; give 0 or more, in the unit of the metric")
    mean, _, error, splits = estimate(differences, n_train, n_test)
    if splits < 2:
        return Chances(math.nan, math.nan, math.nan)
    worse = float(stats.t.cdf(_quotient(-rope - mean, error), splits - 1))
    better = float(stats.t.sf(_quotient(rope - mean, error), splits - 1))
    return Chances(worse, max(0.0, 1 - worse - better), better)


def holm(p_values: Any) -> Floats:
    """Adjust p-values so that the chance of any false alarm among them stays at the level; NaN don't count.

    Args:
        p_values: `(..., several)`; those of the last axis are adjusted together.

    Source: Holm, Scandinavian Journal of Statistics 6, 1979.
    """
    values = np.array(p_values, dtype=np.float64)
    order = np.argsort(values, axis=-1, kind="stable")  # NaN come last
    left = (~np.isnan(values)).sum(axis=-1, keepdims=True) - np.arange(values.shape[-1])
    scaled = np.take_along_axis(values, order, axis=-1) * left
    np.put_along_axis(values, order, np.minimum(np.maximum.accumulate(scaled, axis=-1), 1), axis=-1)
    return values


def power_to_show(
    difference: float,
    spread: float,
    splits: int,
    ratio: float,
    *,
    rope: float = 0.0,
    comparisons: int = 1,
    alpha: float = ALPHA,
    borrowed: float = 0.0,
) -> float:
    """Return the chance that so many splits show a true difference, by Student's noncentral distribution.

    Shown is what is significant at the two-sided level alpha / comparisons, and exceeds rope with a probability
    of 1 - alpha; the harder of the two decides.

    Args:
        difference, spread: mean and standard deviation over splits, in the metric's unit.
        splits: at least 2.
        ratio: test samples for each training sample.
        rope: what the difference must exceed, in the metric's unit.
        comparisons: that share the level.
        alpha: the level.
        borrowed: degrees of freedom of the spread beyond those of the splits, see `voxgap.metrics.moderation`.
    """
    from scipy import stats

    degrees, error = splits - 1 + borrowed, spread * math.sqrt(1 / splits + ratio)
    conditions = ((alpha / (2 * comparisons), abs(difference)), (alpha, abs(difference) - rope))
    chances = [
        stats.nct.sf(stats.t.isf(level, degrees), degrees, _quotient(excess, error))
        for level, excess in conditions
    ]
    return float(min(chances))


def further_splits(
    difference: float,
    spread: float,
    splits: int,
    ratio: float,
    *,
    rope: float = 0.0,
    comparisons: int = 1,
    alpha: float = ALPHA,
    borrowed: float = 0.0,
    power: float = POWER,
    most: int = MOST_FURTHER,
) -> int | None:
    """Return how many further splits of the same sizes would show the difference, if it is what it seems.

    What was seen is seldom exactly the truth: the number is a rough guide.

    Args:
        difference, spread, ratio, rope, comparisons, alpha, borrowed: as for `power_to_show`.
        splits: so far.
        power: wanted chance of showing it.
        most: the largest answer.

    Returns:
        At least 1; None where `most` would not do. Often no number would: what training sets share stays.
    """

    def chance(count: int) -> float:
        return power_to_show(
            *(difference, spread, count, ratio),
            rope=rope,
            comparisons=comparisons,
            alpha=alpha,
            borrowed=borrowed,
        )

    counts = range(splits + 1, splits + most + 1)
    place = bisect.bisect_left(counts, power, key=chance)
    return place + 1 if place < len(counts) else None


def least_shown(
    spread: float,
    splits: int,
    ratio: float,
    *,
    rope: float = 0.0,
    comparisons: int = 1,
    alpha: float = ALPHA,
    borrowed: float = 0.0,
) -> float:
    """Return the smallest difference that so many splits show, by the quantiles of Student's distribution.

    Args:
        spread, splits, ratio, rope, comparisons, alpha, borrowed: as for `power_to_show`.
    """
    from scipy import stats

    degrees, error = splits - 1 + borrowed, spread * math.sqrt(1 / splits + ratio)
    levels = ((alpha / (2 * comparisons), 0.0), (alpha, rope))
    return max(beyond + float(stats.t.isf(level, degrees)) * error for level, beyond in levels)


def run_table(scores: Any) -> Floats:
    """Return scores as `(splits, seeds)`, NaN for what is not finite."""
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim not in (1, 2) or not table.size:
        raise VoxgapError(
            f"scores have {table.ndim} axes and {table.size} values; give (splits,) or (splits, seeds)"
        )
    return np.where(np.isfinite(table), table, np.nan).reshape(len(table), -1)


def size_ratio(n_train: Any, n_test: Any) -> float:
    """Return how many test samples there are for each training sample."""
    train, test = float(np.mean(n_train)), float(np.mean(n_test))
    if not (0 < train < math.inf and 0 <= test < math.inf):
        raise VoxgapError(f"n_train {train:g} and n_test {test:g} are no counts of samples")
    return test / train


def _split_means(table: Floats) -> Floats:
    """Return the mean over the seeds of each split that has any."""
    rows = table[~np.isnan(table).all(axis=1)]
    return np.asarray(np.nanmean(rows, axis=1) if len(rows) else np.empty(0))


def _quotient(distance: float, error: float) -> float:
    if error:
        return distance / error
    return math.copysign(math.inf, distance) if distance else 0.0
