"""What a network answered for each case that it was not trained on, and what follows from that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from voxgap import table
from voxgap.dataset.gaps import own_values
from voxgap.dataset.names import case_names
from voxgap.decision import named
from voxgap.metrics.metrics import counted, dice_of
from voxgap.ragged import as_items

if TYPE_CHECKING:
    from voxgap.dataset import Dataset

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Predict = Callable[[Any], Any]
"""Volumes with gaps, `(n, depth, height, width, channels)` -> answers as the network gives them."""

NO_TEST = "No score is one on unseen volumes: none were held out for a test, and validation chose the epoch."
"""What is said of a network, wherever its scores are, whose data had no test part."""
BINS = 10
_AT_ONCE = 16  # volumes: of a segmentation all answers together may not fit into memory


@dataclass(frozen=True, eq=False)
class Cases:
    """The cases of the validation and the test part, in the order of the data.

    Args:
        task, classes: as in a `Dataset`.
        names: what each case is called; see `voxgap.dataset.names`.
        index: where each stands in the data, from 0.
        split: `validation` or `test` for each.
        groups: a name for each, or None.
        missing_rate: share of each scan's own values that is missing.
        targets: class indices `(n,)`, numbers `(n, outputs)`; nothing for a segmentation.
        answers: probabilities `(n, classes)`, numbers `(n, outputs)`; nothing for a segmentation.
        voxels: for a segmentation, voxels by true class and by answered class, `(n, classes, classes)`, on the grid
            that the label map was drawn on.
        sureness: `(n, bins, 3)`: how many answers lie in each bin of probability, the sum of those
            probabilities, and how many of them came true. See `reliability`.
        threshold: by which a class is named; see `voxgap.decision.named`.
    """

    task: str
    classes: tuple[str, ...]
    names: tuple[str, ...]
    index: NDArray[np.intp]
    split: NDArray[np.str_]
    groups: NDArray[np.str_] | None
    missing_rate: Floats
    targets: NDArray[Any]
    answers: Floats
    voxels: Counts
    sureness: Floats
    threshold: float | None = None

    def __len__(self) -> int:
        return len(self.names)

    def part(self, split: str) -> Cases:
        """Return the cases of one part of the split."""
        return self.take(np.flatnonzero(self.split == split))

    def take(self, chosen: NDArray[np.intp]) -> Cases:
        """Return the cases at these places, in this order."""
        per_case = ("index", "split", "missing_rate", "targets", "answers", "voxels", "sureness")
        fields: dict[str, Any] = {name: getattr(self, name)[chosen] for name in per_case}
        groups = None if self.groups is None else self.groups[chosen]
        return replace(self, **fields, groups=groups, names=tuple(self.names[i] for i in chosen))

    @property
    def named(self) -> NDArray[np.int64]:
        """Which class each case was given, `(n,)`: by the one rule that decides everywhere."""
        return named(self.answers, self.threshold).astype(np.int64)

    @property
    def confusion(self) -> Counts:
        """Cases, or of a segmentation voxels, by true class (rows) and answered class (columns)."""
        if self.task == "segmentation":
            return np.asarray(self.voxels.sum(axis=0), np.int64)
        return counted(self.targets, self.named, len(self.classes))

    @property
    def dice(self) -> Floats:
        """The Dice score of each class in each case, `(n, classes)`; NaN where neither side has the class."""
        return dice_of(self.voxels)

    @property
    def foreground(self) -> Floats:
        """The mean Dice score of each case over the classes that it has, without the background."""
        each = self.dice[:, 1:]
        known = (~np.isnan(each)).sum(axis=1)
        return np.where(known > 0, np.nansum(each, axis=1) / np.maximum(known, 1), np.nan)

    @property
    def errors(self) -> Floats:
        """How wrong each answer is: the larger, the worse; NaN where that can't be said.

        The probability that the true class did not get; the mean distance from the target, in standard deviations
        of the targets; what the Dice score of the foreground lacks.
        """
        if self.task == "segmentation":
            return 1 - self.foreground
        if self.task == "classification":
            return 1 - self.answers[np.arange(len(self)), self.targets]
        scale = self.targets.std(axis=0)
        distance = np.abs(self.answers - self.targets) / np.where(scale > 0, scale, 1)
        return np.asarray(distance.mean(axis=1), np.float64)

    def worst(self, count: int) -> Cases:
        """Return the cases with the largest errors, the worst first."""
        return self.take(np.argsort(-self.errors, kind="stable")[:count])  # NaN comes last

    def write(self, path: Path) -> None:
        """Write a row for each case as CSV, safe for spreadsheets; the file appears whole."""
        rows = [
            self._about(place) | said | {"missing_rate": f"{self.missing_rate[place]:.4f}"}
            for place, said in enumerate(self._said())
        ]
        table.write(path, list(rows[0]) if rows else ["case"], rows)

    def _about(self, place: int) -> dict[str, Any]:
        group = {} if self.groups is None else {"group": str(self.groups[place])}
        return {
            "case": self.names[place],
            "index": int(self.index[place]),
            **group,
            "split": str(self.split[place]),
        }

    def _said(self) -> Iterator[dict[str, Any]]:
        """Yield what is true and what was answered, case by case."""
        if self.task == "classification":
            names = [f"p_{name}" for name in self.classes]
            for target, found, answer in zip(self.targets, self.named, self.answers, strict=True):
                yield {"label": self.classes[target], "class": self.classes[found], **_cells(names, answer)}
        elif self.task == "regression":
            numbers = [f"_{i}" for i in range(self.answers.shape[1])] if self.answers.shape[1] > 1 else [""]
            names = [f"{what}{number}" for what in ("target", "value") for number in numbers]
            for values in np.hstack([self.targets, self.answers]):
                yield _cells(names, values)
        else:
            names = [*(f"dice_{name}" for name in self.classes), "dice"]
            for values in np.column_stack([self.dice, self.foreground]):
                yield _cells(names, values)


def _cells(names: list[str], values: NDArray[Any]) -> dict[str, Any]:
    return {
        name: None if np.isnan(value) else f"{value:.6g}" for name, value in zip(names, values, strict=True)
    }


def collect(data: Dataset, predict: Predict, threshold: float | None = None) -> Cases:
    """Let a network answer each case that it was not trained on, once.

    Args:
        data: with its gaps.
        predict: see `Predict`.
        threshold: by which a class is named, for voxels too; see `voxgap.decision.named`.
    """
    chosen = np.flatnonzero(data.split != "train")
    part = data.take(chosen)
    found = [
        _answered(part.take(np.arange(i, min(i + _AT_ONCE, len(part)))), predict, threshold)
        for i in range(0, len(part), _AT_ONCE)
    ]
    answers, voxels, sure = (
        np.concatenate([batch[i] for batch in found]) if found else np.zeros((0, 1, 1)) for i in range(3)
    )
    targets = np.zeros((len(part), 0)) if data.task == "segmentation" else part.targets
    if data.task == "regression":
        targets = targets.reshape(len(part), int(np.prod(targets.shape[1:])))
    return Cases(
        data.task,
        data.classes,
        tuple(case_names(part)),
        chosen,
        part.split,
        part.groups,
        np.array([np.isnan(values).mean() for values in own_values(part)]),
        targets,
        answers,
        voxels.astype(np.int64),
        sure,
        threshold,
    )


def _answered(part: Dataset, predict: Predict, threshold: float | None) -> tuple[Floats, Counts, Floats]:
    """Return answers, voxels and sureness of a few cases."""
    given = predict(part.volumes)
    answers = as_items(given) if part.task == "segmentation" else np.asarray(given, np.float64)
    count, bare = len(part), np.zeros((len(part), 0))
    if part.task == "regression":
        return answers.reshape(count, -1), bare.astype(np.int64), bare
    if part.task == "classification":
        return answers, bare.astype(np.int64), sureness(answers, part.targets)
    found = [named(probabilities, threshold) for probabilities in answers]
    sure = [
        _binned(p[truth >= 0].astype(np.float64), truth[truth >= 0])
        for p, truth in zip(answers, part.targets, strict=True)
    ]
    tables = [counted(truth, classes, answers.shape[-1]) for truth, classes in part.on_own_grids(found)]
    return bare, np.stack(tables), np.stack(sure)


def sureness(probabilities: Any, targets: Any) -> Floats:
    """Return what `Cases` keeps of the probabilities of single cases.

    Args:
        probabilities: `(n, classes)`.
        targets: class indices, `(n,)`.
    """
    each = [_binned(p[np.newaxis], y[np.newaxis]) for p, y in zip(probabilities, targets, strict=True)]
    return np.stack(each) if each else np.zeros((0, BINS, 3))


def _binned(probabilities: Floats, targets: NDArray[Any]) -> Floats:
    """Count probabilities by bin: of two classes those of the second, else those of the most probable one."""
    if probabilities.shape[1] == 2:
        sure, true = probabilities[:, 1], targets == 1
    else:
        sure, true = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    place = np.clip((sure * BINS).astype(int), 0, BINS - 1)
    sums = [np.bincount(place, weights, BINS) for weights in (np.ones(len(sure)), sure, true.astype(float))]
    return np.stack(sums, axis=1)


def reliability(sureness: Floats) -> tuple[Floats, Floats, Floats]:
    """Return, for each bin that holds an answer, how many, their mean probability and the share that came true.

    Args:
        sureness: of `Cases`; of two classes the probability is that of the second, else that of the answer.

    Source: DeGroot and Fienberg, The Statistician 32, 1983.
    """
    sums = sureness.sum(axis=0)
    held = sums[sums[:, 0] > 0]
    return held[:, 0], held[:, 1] / held[:, 0], held[:, 2] / held[:, 0]


def precision_and_recall(confusion: Counts) -> tuple[Floats, Floats]:
    """Return both for each class, NaN where nothing was answered so, or nothing is so."""
    right = np.diag(confusion)
    answered, there = (confusion.sum(axis=axis).astype(np.float64) for axis in (0, 1))
    return right / np.where(answered > 0, answered, np.nan), right / np.where(there > 0, there, np.nan)


def roc(positive: NDArray[np.bool_], scores: Floats) -> tuple[Floats, Floats]:
    """Return false and true positive rates from the highest threshold to the lowest, beginning with (0, 0)."""
    false, true = _above(positive, scores)
    return np.append(0, false / false[-1]), np.append(0, true / true[-1])


def precision_recall(positive: NDArray[np.bool_], scores: Floats) -> tuple[Floats, Floats, float]:
    """Return recall, precision and their average precision, from the highest threshold to the lowest.

    Precision is not interpolated: Davis and Goadrich, ICML 2006.
    """
    false, true = _above(positive, scores)
    recall, precision = true / true[-1], true / (true + false)
    return recall, precision, float((np.diff(recall, prepend=0) * precision).sum())


def _above(positive: NDArray[np.bool_], scores: Floats) -> tuple[Floats, Floats]:
    """Count negatives and positives at or above each score that occurs, falling."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)
    true = np.cumsum(positive[order])[last].astype(np.float64)
    return np.flatnonzero(last) + 1.0 - true, true
