"""MAPIE beside voxgap, on the answers of the same splits: split conformal prediction that knows no pattern of gaps.

Runs with the peers' own interpreter, where voxgap is not installed; see coverage.py, which calls it:

    python conformal_peer.py TASK COVERAGE GIVEN.npz MADE.npz
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
from mapie.classification import SplitConformalClassifier
from mapie.regression import SplitConformalRegressor
from mapie.risk_control import MultiLabelClassificationController
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin


class Answered(ClassifierMixin, BaseEstimator):
    """A classifier that was asked already: what it is given are its answers."""

    def fit(self, x: Any, y: Any) -> Answered:
        self.classes_ = np.unique(y)
        self.n_features_in_ = x.shape[1]
        return self

    def predict_proba(self, x: Any) -> Any:
        return x

    def predict(self, x: Any) -> Any:
        return x.argmax(axis=1)


class Valued(RegressorMixin, BaseEstimator):
    """The same of a regression."""

    def fit(self, x: Any, y: Any) -> Valued:
        self.n_features_in_ = x.shape[1]
        return self

    def predict(self, x: Any) -> Any:
        return x[:, 0]


def classified(coverage: float, x: Any, y: Any, new: Any, truth: Any) -> tuple[Any, Any]:
    """Least ambiguous sets, as voxgap's: which hold the true class, and how large they are."""
    given = Answered().fit(x, y)
    made = SplitConformalClassifier(given, coverage, conformity_score="lac", prefit=True)
    sets = made.conformalize(x, y).predict_set(new)[1][:, :, 0]
    return sets[np.arange(len(truth)), truth], sets.sum(axis=1)


def valued(coverage: float, x: Any, y: Any, new: Any, truth: Any) -> tuple[Any, Any]:
    """Intervals about the answer."""
    x, new = x.astype(float), new.astype(float)  # in float32 it finds its own scores inconsistent
    made = SplitConformalRegressor(Valued().fit(x, y), coverage, prefit=True).conformalize(x, y)
    low, high = made.predict_interval(new)[1][:, :, 0].T
    return (low <= truth) & (truth <= high), high - low


def mapped(coverage: float, x: Any, y: Any, new: Any, truth: Any) -> tuple[Any, Any]:
    """Regions by conformal risk control: each voxel is a label; scans without the class have nothing to recall."""
    made = MultiLabelClassificationController(lambda given: given, target_level=coverage)
    has = y.any(axis=1)
    sets = made.calibrate(x[has], y[has].astype(int)).predict(new)[:, :, 0].astype(bool)
    with np.errstate(invalid="ignore"):
        return (sets & truth).sum(axis=1) / truth.sum(axis=1), sets.mean(axis=1)


def main() -> None:
    task, coverage, given, made = sys.argv[1], float(sys.argv[2]), *sys.argv[3:]
    warnings.simplefilter("ignore")
    with np.load(given) as parts:
        arrays = [
            parts[f"{part}_{what}"] for part in ("calibration", "test") for what in ("answers", "targets")
        ]
    if task == "segmentation":
        arrays = [array[..., 1] if array.ndim == 6 else array == 1 for array in arrays]
        arrays = [array.reshape(*array.shape[:2], -1) for array in arrays]
    rule = {"classification": classified, "regression": valued, "segmentation": mapped}[task]
    found = [rule(coverage, *each) for each in zip(*arrays, strict=True)]
    covered, sizes = (np.stack(one).astype(float) for one in zip(*found, strict=True))
    np.savez(made, covered=covered, sizes=sizes)


if __name__ == "__main__":
    main()
