"""How well the classes are told apart by what is missing alone, before any network is trained.

A logistic regression on the gaps of each volume, cross-validated with whole groups: what it can tell, a network may
learn in place of what the values show. Its ridge is that of scikit-learn's default.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxgap.metrics.intervals import Interval, intervals
from voxgap.metrics.metrics import auc
from voxgap.missingness.diagnosis import shares_of

Floats = NDArray[np.float64]

FOLDS = 5
FEWEST = 10
"""Groups, or volumes, of a class, below which nothing is said."""
_PARTS = 3  # of each axis, whose missing rates are told apart
_RIDGE = 1.0
_STEPS = 50


@dataclass(frozen=True)
class Alone:
    """What a classifier that sees nothing but the gaps is worth.

    Args:
        auc: area under the ROC curve of its cross-validated answers; of several classes the mean of each against the
            rest.
        interval: 95 %, by a bootstrap over groups; None where the draws don't say.
        volumes: that it is of.
    """

    auc: float
    interval: Interval | None
    volumes: int

    @property
    def conclusion(self) -> str:
        """What it says, in a sentence."""
        lies = f" ({self.interval[0]:.3f} to {self.interval[1]:.3f})" if self.interval else ""
        said = f"What is missing alone tells the classes apart with an AUC of {self.auc:.3f}{lies}, cross-validated"
        # Without an interval all draws agree.
        if (self.interval[0] if self.interval else self.auc) <= 0.5:
            return f"{said}: that is not shown to be better than guessing."
        return f"{said}: a network may learn that; the page of its training says how much of its score comes from it."

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain values."""
        return asdict(self) | {"conclusion": self.conclusion}


def told_by_gaps(volumes: Any, targets: Any, groups: Any = None, seed: int = 0) -> Alone | None:
    """Measure how well gaps alone tell classes apart: by how much is missing, of what, in which pattern and where.

    Args:
        volumes: `(batch, depth, height, width, channels)`, NaN = missing.
        targets: a class index for each.
        groups: a name for each volume; those of one group stay together.
        seed: of the folds, and of the interval.

    Returns:
        None where all volumes miss the same, or a class has too few groups.
    """
    targets = np.unique(np.asarray(targets), return_inverse=True)[1]
    gaps = _features(volumes)
    members = (
        np.arange(len(targets)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    )
    classes = int(targets.max(initial=0)) + 1
    least = min((len(np.unique(members[targets == one])) for one in range(classes)), default=0)
    if not gaps.shape[1] or classes < 2 or least < FEWEST:
        return None
    folds = _dealt(targets, members, np.random.default_rng(seed))
    answers = np.empty((len(targets), classes))
    for fold in range(FOLDS):
        known, asked = folds != fold, folds == fold
        for one in range(classes):
            answers[asked, one] = _answers(gaps[known], targets[known] == one, gaps[asked])
    answers /= answers.sum(axis=1, keepdims=True)
    lies = intervals(lambda some: {"auc": auc(targets[some], answers[some])}, members, seed)
    return Alone(auc(targets, answers), lies.get("auc"), len(targets))


def _features(volumes: Any) -> Floats:
    """Return what there is to see of the gaps of each volume, `(n, features)`; nothing that is the same in all."""
    rates, shares = [], []
    for volume in volumes:
        missing = np.isnan(volume)
        each = missing.mean(axis=(0, 1, 2))
        along = [
            part.mean() for axis in range(3) for part in np.array_split(missing, _PARTS, axis) if part.size
        ]
        rates.append([*each, *(each == 1), *along])
        shares.append(shares_of([volume]))
    patterns = sorted({name for one in shares for name in one})
    found = np.array(
        [[*r, *(one.get(name, 0.0) for name in patterns)] for r, one in zip(rates, shares, strict=True)]
    )
    return np.asarray(found[:, np.ptp(found, axis=0) > 1e-12], np.float64)


def _dealt(
    targets: NDArray[np.intp], members: NDArray[np.intp], rng: np.random.Generator
) -> NDArray[np.intp]:
    """Return the fold of each volume: whole groups, dealt within the class of their first volume."""
    order = rng.permutation(members.max() + 1)
    first = targets[np.unique(members, return_index=True)[1]]
    fold = np.empty(len(order), np.intp)
    fold[order[np.argsort(first[order], kind="stable")]] = np.arange(len(order)) % FOLDS
    return fold[members]


def _answers(gaps: Floats, positive: NDArray[np.bool_], asked: Floats) -> Floats:
    """Return the probabilities of a ridge logistic regression, by Newton's method."""
    mean, spread = gaps.mean(axis=0), gaps.std(axis=0)
    scale = np.where(spread > 0, spread, 1)
    design, new = (np.column_stack([np.ones(len(x)), (x - mean) / scale]) for x in (gaps, asked))
    ridge = np.diag([0.0, *np.full(gaps.shape[1], _RIDGE)])
    weights = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        p = _logistic(design @ weights)
        slope = design.T @ (p - positive) + ridge @ weights
        # So that a class that is told apart by the offset alone has a solution, too.
        bend = design.T * (p * (1 - p)) @ design + ridge + 1e-9 * np.eye(len(weights))
        step = np.linalg.solve(bend, slope)
        weights = weights - step
        if np.abs(step).max() < 1e-8:
            break
    return _logistic(new @ weights)


def _logistic(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -30, 30))), np.float64)
